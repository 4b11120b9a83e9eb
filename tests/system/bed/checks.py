# SPDX-License-Identifier: LGPL-2.1-or-later
"""Questions that many tests ask of a VM, a host or a pool."""

import os
import signal

from .run import start_time
from .wait import holds_for, wait_until


def clients(cluster, guest, disk=0):
    """Client addresses that have its image open."""
    return set(cluster.images.watchers(guest.disks[disk].image))


def leases(host, guest=None):
    """What its virtleased says of its leases, or of those of one VM."""
    return [lease for lease in host.ctl("list")["leases"] if guest is None or lease["uuid"] == guest.uuid]


def lease_states(host, guest=None):
    return [lease["state"] for lease in leases(host, guest)]


def wait_states(host, states, timeout=10, guest=None):
    wait_until(lambda: lease_states(host, guest) == states, timeout, f"leases of {host.name} are {states}")


def log_of(host):
    return host.virtleased.log.read_text(errors="replace")


def wait_log(host, text, timeout=10):
    wait_until(lambda: text in log_of(host), timeout, f"virtleased of {host.name} logs: {text}")


def wait_awake(host):
    """Until its daemon has renewed its session after a freeze."""
    def awake():
        session = host.ctl("status")["sessions"][0]
        return session["state"] == "live" and session["silent_ms"] < 2000
    wait_until(awake, 15, f"{host.name} is awake")


def only_writer(guest, seconds=1.5):
    """Nobody but this incarnation writes for a while, and it does."""
    guest.wait_writing()
    before = guest.counter()
    holds_for(lambda: guest.record().identity == guest.identity, seconds, f"only {guest.identity} writes")
    assert guest.counter() > before


def starting_child(host, guest):
    """The process that will become its QEMU and is asking for leases now: (pid as seen from here, its start time)."""
    inner = wait_until(lambda: [lease["pid"] for lease in leases(host, guest)], 10, f"{guest.name} asks for leases")[0]
    pid = host.outer_pid(inner)
    return pid, start_time(pid)


def kill_pid(pid, number=signal.SIGKILL):
    os.kill(pid, number)


def is_gone(pid, started):
    return start_time(pid) != started

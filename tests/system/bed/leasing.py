# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts whose virtleased sends files and block devices to sanlock, and what tests of that ask for."""

import time

from .attempt import Attempt
from .checks import log_of
from .host import VIRTLEASECTL
from .sanlock import IO_TIMEOUT_S, LOCKSPACE, USER, resource_name
from .wait import wait_until

DEAD_AFTER_S = 60 + 8 * IO_TIMEOUT_S        # 60 is compiled into sanlock
JOIN_S = 40
PLUGIN_TIMEOUT_S = 250


def settings(directory, number, **changes):
    """For virtleased.conf of the host with that number in the lockspace."""
    conf = {"volumes": ["any / sanlock"], "sanlock_dir": str(directory), "sanlock_host_id": number, "sanlock_io_timeout": IO_TIMEOUT_S,
            "sanlock_user": USER, "sanlock_group": USER, "sanlock_killpath": str(VIRTLEASECTL)}
    return {**conf, **changes}


def backend(host):
    """What `virtleasectl status` says of sanlock."""
    return next(b for b in host.ctl("status")["backends"] if b["name"] == "sanlock")


def wait_state(host, state="joined", timeout=JOIN_S):
    wait_until(lambda: backend(host)["state"] == state, timeout, f"sanlock of {host.name} is {state}")


def wait_acquainted(*hosts):
    """Until each has seen all the others renew, before which it cannot tell who lives."""
    for host in hosts:
        wait_until(lambda h=host: len([s for s in h.sanlock.lockspaces()[LOCKSPACE].hosts.values() if s.state == "LIVE"]) >= len(hosts), 20,
                   f"{host.name} sees all {len(hosts)}")


def refused(guest, host, *words, timeout=60):
    """The start is refused, by the lock manager and with these words; the newest incarnation stays the one that ran before."""
    identity = guest.identity
    text = Attempt(guest, host, timeout=timeout).fails(*words, timeout=timeout)
    guest.identity = identity
    return text


def holders(host):
    """Lease names this host's sanlock holds for VMs of that host."""
    return {h.resource for h in host.sanlock.held() if h.lockspace == LOCKSPACE}


def assert_held(host, guest):
    """Its QEMU, and nobody else, holds the leases of all its file and block disks; as they are spelled in the domain."""
    pid = host.qemu_pid(guest.name, inner=True)
    wanted = {resource_name(d.path) for d in guest.disks if d.path}
    assert wanted <= set(host.sanlock.registered(pid) or []), (wanted, host.sanlock.registered(pid))


def wait_logged(host, text, began=0, timeout=10):
    wait_until(lambda: text in log_of(host)[began:], timeout, f"virtleased of {host.name} logs: {text}")


def seconds_to(fn, timeout, what):
    """How long until fn() is true."""
    began = time.monotonic()
    wait_until(fn, timeout, what)
    return time.monotonic() - began

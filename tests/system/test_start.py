# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start, refused double start, end: the main job without any disaster."""

import time

from bed.vm import VM, Disk
from bed.wait import holds_for, wait_until

REFUSED_WITHIN_S = 2


def test_refused_double_start(hosts, vm, kernel, cluster):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    identity = guest.identity
    image = guest.disks[0].image
    twin = VM(cluster, kernel, "twin", [Disk(image)])
    for other in (guest, twin):
        began = time.monotonic()
        done = other.start(b, check=False)
        assert time.monotonic() - began < REFUSED_WITHIN_S
        assert done.returncode != 0
        for word in (image, guest.name, a.name, "since 20"):
            assert word in done.stderr, done.stderr
        assert "cause is unknown" not in done.stderr
        assert b.domains() == []
    guest.identity = identity
    guest.wait_writing(a)
    assert len(cluster.images.watchers(image)) == 1     # QEMU on B never opened it


def test_destroyed_vm_leaves_nothing_behind(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    for host in (a, b, a):
        guest.start(host)
        guest.wait_writing(host)
        guest.destroy(host)
    wait_until(lambda: not a.ctl("list")["leases"], 5, "no lease left")
    assert cluster.blocklist() == {}


def test_killed_qemu_is_free_at_once(hosts, vm):
    a, b = hosts
    guest = vm()
    for host in (a, b, b, a):
        guest.start(host)
        guest.wait_writing(host)
        guest.kill(host)


def test_pause_parks_and_resume_holds(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)

    def state():
        return [lease["state"] for lease in host_a.ctl("list")["leases"]]
    assert state() == ["held"]
    for _ in range(3):
        host_a.virsh("suspend", guest.name)
        assert state() == ["parked"]
        guest.wait_silent()
        host_a.virsh("resume", guest.name)
        assert state() == ["held"]
        guest.wait_writing(host_a)
    holds_for(lambda: state() == ["held"], 1, "stays held")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pause, resume and migration with volumes that sanlock guards."""

import os
import signal

import pytest

from bed import leasing
from bed.fault import FAULT_ENV, Faults
from bed.moving import SLOW, Migration, status_xml
from bed.vm import Disk
from bed.wait import wait_until

pytestmark = pytest.mark.bed(env=FAULT_ENV)

UNSAFE = "--unsafe"     # libvirt does not know the bed's storage to be coherent


def test_pause_and_resume(sanlock_hosts, vm, shared_file):
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    identity = guest.identity
    a.virsh("suspend", guest.name)
    leasing.assert_held(a, guest)               # unlike libvirt's own plugin
    leasing.refused(vm(guest.disks), b, f"held by host {a.number}")
    a.virsh("resume", guest.name)
    guest.identity = identity
    guest.wait_writing(a)
    a.virsh("save", guest.name, "/var/lib/libvirt/saved")
    wait_until(lambda: leasing.holders(a) == set(), 5, "saved: nothing is held")
    a.virsh("restore", "/var/lib/libvirt/saved")
    guest.wait_writing(a)
    leasing.assert_held(a, guest)


def test_migration_there_and_back(sanlock_hosts, vm, image, shared_file, block_device, lease_directory):
    """Live and peer-to-peer, with an RBD disk beside the files."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file()), Disk(image()), Disk(block=block_device())])
    guest.start(a)
    guest.wait_writing(a)
    for source, target, flags in ((a, b, ()), (b, a, ("--p2p",))):
        guest.migrate(source, target, UNSAFE, *flags)
        assert source.domains() == [] and leasing.holders(source) == set()
        for disk in range(3):
            guest.wait_writing(target, disk=disk)
        leasing.assert_held(target, guest)
        assert lease_directory.owner(guest.disks[0].path) == target.number
        leasing.refused(vm([guest.disks[0]]), source, f"held by host {target.number}")
    assert {x["state"] for x in a.ctl("list")["leases"]} == {"held"} and b.ctl("list")["leases"] == []


def test_failed_migration_goes_back(sanlock_hosts, vm, shared_file):
    """The destination's QEMU dies while memory is copied; the destination is refused at the very end, when the source has let go already."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    moving = Migration(guest, a, b, UNSAFE, *SLOW)
    wait_until(lambda: "migration out" in status_xml(a, guest) and b.qemu_pid(guest.name), 20, "memory is on its way")
    os.kill(b.qemu_pid(guest.name), signal.SIGKILL)
    moving.fails()
    goes_on(guest, a, b, vm)
    moving, faults = let_go(guest, a, b)
    os.kill(b.qemu_pid(guest.name), signal.SIGKILL)
    faults.release("before-hand-over")
    moving.fails()
    goes_on(guest, a, b, vm)
    guest.migrate(a, b, UNSAFE)
    guest.wait_writing(b)


def let_go(guest, a, b):
    """A migration at the point where nobody has the lease; -> (migration, faults)."""
    faults = Faults(b)
    faults.arm("before-hand-over")
    moving = Migration(guest, a, b, UNSAFE)
    faults.await_hit("before-hand-over")
    wait_until(lambda: leasing.holders(a) == set(), 10, "the source has let go")
    return moving, faults


def goes_on(guest, a, b, vm):
    guest.wait_writing(a)
    leasing.assert_held(a, guest)
    leasing.refused(vm(guest.disks), b, f"held by host {a.number}")
    wait_until(lambda: b.ctl("list")["leases"] == [], 10, "nothing is left on the destination")


def test_suspended_migration(sanlock_hosts, vm, shared_file):
    """migrate --suspend: libvirt calls nobody on the destination, so nobody has the lease until it is resumed; whoever takes it meanwhile
    makes that memory stale, and the lease's version says so."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    guest.migrate(a, b, UNSAFE, "--suspend")
    assert b.domain_state(guest.name) == "paused"
    guest.assert_silent()
    b.virsh("resume", guest.name)
    guest.wait_writing(b)
    leasing.assert_held(b, guest)
    leasing.refused(vm(guest.disks), a, f"held by host {b.number}")
    guest.migrate(b, a, UNSAFE, "--suspend")
    thief = vm(guest.disks)
    thief.start(b)
    thief.wait_writing(b)
    thief.destroy(b)
    done = a.virsh("resume", guest.name, check=False)
    assert done.returncode != 0 and "stale" in done.stderr, done.stderr
    guest.assert_silent()


def test_source_is_stale_once_somebody_else_had_it(sanlock_hosts, vm, shared_file):
    """The source let go for a destination that failed; before it takes its leases again, another VM had the volume."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    moving, faults = let_go(guest, a, b)
    thief = vm(guest.disks)
    thief.start(b)
    thief.wait_writing(b)
    thief.destroy(b)
    faults.release("before-hand-over")
    moving.fails()
    done = a.virsh("resume", guest.name, check=False)
    assert done.returncode != 0 and "stale" in done.stderr, done.stderr
    guest.assert_silent()

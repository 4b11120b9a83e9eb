# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pause, resume and migration with volumes that sanlock guards."""

from bed import fault, leasing
from bed.vm import Disk
from bed.wait import wait_until

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
    """The destination's QEMU dies while memory is copied; and at the very end, when the source has let go already."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    for point in ("memory", "end"):
        if point == "end":
            b.virsh("suspend", guest.name, check=False)
        moving = MigrationLater(guest, a, b)
        moving.kill_destination(point)
        assert moving.failed()
        guest.wait_writing(a)
        leasing.assert_held(a, guest)
        leasing.refused(vm(guest.disks), b, f"held by host {a.number}")
        wait_until(lambda: b.ctl("list")["leases"] == [], 10, "nothing is left on the destination")
    guest.migrate(a, b, UNSAFE)
    guest.wait_writing(b)


def test_suspended_migration(sanlock_hosts, vm, shared_file):
    """migrate --suspend: nobody runs it; the destination has it, and the source's copy is refused by the lease's version."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    guest.migrate(a, b, UNSAFE, "--suspend")
    assert b.domain_state(guest.name) == "paused"
    leasing.refused(vm(guest.disks), a, f"held by host {b.number}")
    b.virsh("resume", guest.name)
    guest.wait_writing(b)
    leasing.assert_held(b, guest)

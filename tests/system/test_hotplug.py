# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that come and go under a running VM."""

import pytest

from bed.vm import Disk
from bed.wait import holds_for, wait_until

LEASE = "<lease><lockspace>rbd</lockspace><key>{}</key><target path='/rbd'/></lease>"


def volumes(host):
    return {lease["volume"]: lease["state"] for lease in host.ctl("list")["leases"]}


def key(disk):
    return f"rbd:{disk.image}"


def test_attached_disk_is_leased_and_freed_when_detached(hosts, vm, image):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    disk = Disk(image(), target="sda")
    guest.attach(a, disk)
    wait_until(lambda: volumes(a).get(key(disk)) == "held", 2, "the new disk is leased")
    other = vm([disk])
    done = other.start(b, check=False)
    assert done.returncode != 0 and a.name in done.stderr
    guest.detach(a, disk)
    wait_until(lambda: key(disk) not in volumes(a), 5, "the detached disk is free")
    other.start(b)
    assert volumes(a) == {key(guest.disks[0]): "held"}
    guest.wait_writing(a)


def test_conflict_pauses_the_vm_and_keeps_it_paused(hosts, vm):
    a, b = hosts
    owner, intruder = vm(), vm()
    owner.start(b)
    owner.wait_writing(b)
    intruder.start(a)
    intruder.wait_writing(a)
    stolen = Disk(owner.disks[0].image, target="sda")
    intruder.attach(a, stolen)
    wait_until(lambda: a.domain_state(intruder.name) == "paused", 5, "the intruder is paused")
    done = a.virsh("resume", intruder.name, check=False)
    assert done.returncode != 0 and owner.name in done.stderr, done.stderr
    intruder.detach(a, stolen)
    wait_until(lambda: a.virsh("resume", intruder.name, check=False).returncode == 0, 10, "runs again without the disk")
    intruder.wait_writing(a)
    owner.wait_writing(b)


@pytest.mark.bed(conf={"hotplug_conflict": "detach"})
def test_conflict_detaches_the_disk(hosts, vm):
    a, b = hosts
    owner, intruder = vm(), vm()
    owner.start(b)
    intruder.start(a)
    intruder.wait_writing(a)
    intruder.attach(a, Disk(owner.disks[0].image, target="sda"))
    wait_until(lambda: owner.disks[0].image not in a.virsh("dumpxml", intruder.name).stdout, 10, "the disk is gone again")
    holds_for(lambda: a.domain_state(intruder.name) == "running", 1, "it runs on")
    owner.wait_writing(b)


@pytest.mark.bed(conf={"hotplug_conflict": "log"})
def test_conflict_is_logged_only(hosts, vm):
    a, b = hosts
    owner, intruder = vm(), vm()
    owner.start(b)
    intruder.start(a)
    intruder.wait_writing(a)
    intruder.attach(a, Disk(owner.disks[0].image, target="sda"))
    wait_until(lambda: "NO lease" in a.virtleased.log.read_text(), 5, "said in the log")
    assert a.domain_state(intruder.name) == "running"


def test_lease_device_first_closes_the_gap(hosts, vm, image):
    a, b = hosts
    owner, guest = vm(), vm()
    owner.start(b)
    guest.start(a)
    guest.wait_writing(a)

    def lease(verb, name, check=True):
        a.write("/tmp-lease.xml", LEASE.format(name))
        return a.virsh(f"{verb}-device", guest.name, a.dir / "tmp-lease.xml", "--live", check=check)
    refused = lease("attach", owner.disks[0].image, check=False)
    assert refused.returncode != 0 and owner.name in refused.stderr, refused.stderr
    disk = Disk(image(), target="sda")
    lease("attach", disk.image)
    assert key(disk) in volumes(a)
    assert vm([disk]).start(b, check=False).returncode != 0
    guest.attach(a, disk)
    wait_until(lambda: volumes(a).get(key(disk)) == "held", 3, "held")
    guest.detach(a, disk)
    holds_for(lambda: key(disk) in volumes(a), 2, "the <lease> still names it")
    lease("detach", disk.image)
    wait_until(lambda: key(disk) not in volumes(a), 10, "free")


def test_lease_device_at_start(hosts, vm, image):
    a, b = hosts
    spec = image()
    guest = vm(devices=LEASE.format(spec))
    guest.start(a)
    guest.wait_writing(a)
    assert set(volumes(a)) == {f"rbd:{spec}", key(guest.disks[0])}
    assert vm([Disk(spec)]).start(b, check=False).returncode != 0
    guest.destroy(a)
    wait_until(lambda: volumes(a) == {}, 5, "free")


def test_unknown_lockspace_is_refused(host_a, vm):
    guest = vm(devices=LEASE.format("rbd/x").replace(">rbd</lockspace", ">other</lockspace"))
    done = guest.start(host_a, check=False)
    assert done.returncode != 0 and "other/rbd/x" in done.stderr, done.stderr


def test_shareable_disk_has_many_holders(hosts, vm, image):
    a, b = hosts
    spec = image()
    first, second = vm([Disk(spec, shareable=True)], mode="idle"), vm([Disk(spec, shareable=True)], mode="idle")
    first.start(a)
    second.start(b)
    assert volumes(a) == volumes(b) == {f"rbd:{spec}": "held"}
    alone = vm([Disk(spec)], mode="idle")
    done = alone.start(b, check=False)
    assert done.returncode != 0 and spec in done.stderr
    first.destroy(a)
    second.destroy(b)
    wait_until(lambda: volumes(a) == volumes(b) == {}, 5, "free")
    alone.start(b)
    assert first.start(a, check=False).returncode != 0


def test_readonly_disk_takes_no_lease(hosts, vm, image):
    a, b = hosts
    spec = image()
    readers = [vm([Disk(spec, readonly=True)], mode="idle") for _ in range(2)]
    readers[0].start(a)
    readers[1].start(b)
    assert volumes(a) == volumes(b) == {}
    writer = vm([Disk(spec)])
    writer.start(b)
    writer.wait_writing(b)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The source's host loses power just after the hand-over, before its QEMU has closed the image.

Nobody there fences and breaks what it left, so the destination does (lockd/successor.h), and its guest's first write waits for a verdict
instead of librbd's own patience, which is 28 s, or no end at all with rbd_blocklist_expire_seconds (Ceph tracker 54613).
"""

import time

import pytest

from bed import lease
from bed.fault import FAULT_ENV, Faults
from bed.moving import Line, Migration, assert_lives_on
from bed.wait import holds_for, wait_until

DEAD_AFTER_S = 4
BLOCKLIST_EXPIRE = "rbd_blocklist_expire_seconds = 3600"

pytestmark = pytest.mark.bed(conf={"dead_after": DEAD_AFTER_S}, env=FAULT_ENV)


@pytest.fixture
def line(hosts, cluster):
    made = Line(cluster, hosts[1])
    yield made
    made.cut()


def clients(guest, cluster):
    """Addresses of the VM's clients, of all its disks."""
    return {address for disk in guest.disks for address in cluster.images.watchers(disk.image)}


def handed_over(guest, hosts, point="after-hand-over"):
    """Migrates, and stops the destination's daemon behind the hand-over; -> (migration, faults, the source's clients)."""
    a, b = hosts
    guest.start(a)
    guest.wait_writing(a)
    source = clients(guest, b.cluster)
    faults = Faults(b)
    faults.arm(point)
    migration = Migration(guest, a, b)
    faults.await_hit(point)
    return migration, faults, source


def previous(guest, cluster):
    """Who stands in the records as the one who handed the lease over, disk by disk."""
    return [(lease.stored(cluster, disk.image).get("previous") or {}).get("name") for disk in guest.disks]


def assert_succeeded(guest, hosts, source, cluster):
    """The facts: the source's clients and no others are fenced, noted in the records, own nothing; the guest writes and never failed to."""
    a, b = hosts
    wait_until(lambda: previous(guest, cluster) == [None] * len(guest.disks), 60, "the source is struck")
    for disk in range(len(guest.disks)):
        guest.wait_writing(b, disk=disk)
    assert set(cluster.blocklist()) == source
    for disk in guest.disks:
        record = lease.stored(cluster, disk.image)
        assert {f["addr"] for f in record["fenced"]} <= source and record["fenced"]
        assert cluster.images.lock_owner(disk.image)["address"] in record["holders"][0]["addrs"]
    assert {f["addr"] for disk in guest.disks for f in lease.stored(cluster, disk.image)["fenced"]} == source
    assert guest.record().failures == 0
    assert_lives_on(guest, b, [a], cluster)


def lost(guest, hosts, cluster, point="after-hand-over"):
    """Power loss of the source behind the hand-over; returns the seconds until the guest writes on the destination."""
    a, b = hosts
    _, faults, source = handed_over(guest, hosts, point)
    began = time.monotonic()
    a.power_loss()
    faults.release(point)
    for disk in range(len(guest.disks)):
        guest.wait_writing(b, timeout=60, disk=disk)
    took = time.monotonic() - began
    print(f"power loss to first write, {len(guest.disks)} disk(s): {took:.2f} s")
    assert_succeeded(guest, hosts, source, cluster)
    return took


@pytest.mark.parametrize("point", ["after-hand-over", "after-hold"])
def test_writes_again(hosts, vm, cluster, point):
    lost(vm(), hosts, cluster, point)


@pytest.mark.bed(ceph_conf=[BLOCKLIST_EXPIRE])
def test_writes_again_where_librbd_cannot_break(hosts, vm, cluster):
    lost(vm(), hosts, cluster)


def test_several_disks(hosts, vm, cluster):
    lost(vm(disks=4), hosts, cluster)


@pytest.mark.bed(conf={"dead_after": 10}, ceph_conf=[BLOCKLIST_EXPIRE])
def test_default_dead_after(hosts, vm, cluster):
    lost(vm(), hosts, cluster)


def stays(guest, hosts, line):
    """Migrates so that the source's QEMU stays there, paused, because the end of the migration was never heard of; -> its clients."""
    a, b = hosts
    guest.start(a)
    guest.wait_writing(a)
    source = clients(guest, b.cluster)
    faults = Faults(b)
    faults.arm("after-hold")
    Migration(guest, a, b, line=line)
    faults.await_hit("after-hold")
    line.hold()
    faults.release("after-hold")
    guest.wait_writing(b)
    return source


def left_alone(guest, source_host, cluster):
    return previous(guest, cluster) == [source_host.name] and not cluster.blocklist()


def test_source_lost_later(hosts, vm, line, cluster):
    """For as long as the host of the paused source lives, nobody is fenced."""
    a, b = hosts
    guest = vm()
    source = stays(guest, hosts, line)
    holds_for(lambda: left_alone(guest, a, cluster), DEAD_AFTER_S * 2, "the living source is left alone")
    guest.wait_writing(b)
    a.power_loss()
    assert_succeeded(guest, hosts, source, cluster)


@pytest.mark.parametrize("point", ["source-before-fence", "source-after-break", "source-after-fence"])
def test_destinations_virtleased_restarted(hosts, vm, cluster, point):
    """It dies in the middle: the next one begins anew."""
    a, b = hosts
    guest = vm()
    _, faults, source = handed_over(guest, hosts)
    faults.arm(point, "exit")
    a.power_loss()
    faults.release("after-hand-over")
    faults.await_hit(point, 30)
    assert previous(guest, cluster) == [a.name]
    faults.release(point)
    b.start_virtleased()
    guest.wait_writing(b, timeout=60)
    assert_succeeded(guest, hosts, source, cluster)


def test_source_back_before_the_fence(hosts, vm, line, cluster):
    """Its virtleased was stopped for longer than dead_after; it answers just before its QEMU would be fenced."""
    a, b = hosts
    guest = vm()
    stays(guest, hosts, line)
    faults = Faults(b)
    faults.arm("source-before-fence")
    a.virtleased.freeze()
    faults.await_hit("source-before-fence", 30)
    a.virtleased.thaw()
    a.ctl("list")
    faults.release("source-before-fence")
    holds_for(lambda: left_alone(guest, a, cluster), DEAD_AFTER_S + 2, "the source lives after all")
    guest.wait_writing(b)
    line.cut()
    guest.destroy(a)
    wait_until(lambda: previous(guest, cluster) == [None], 20, "struck by the source's own daemon")
    assert not cluster.blocklist()
    assert_lives_on(guest, b, [a], cluster)

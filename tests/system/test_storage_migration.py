# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migration with a copy of the disks: the destination has volumes of its own."""

import os

import pytest

from bed import lease
from bed.fault import FAULT_ENV, Faults
from bed.images import MIB
from bed.moving import Migration, assert_all_free, assert_lives_on
from bed.vm import VM, Disk
from bed.wait import wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4}, env=FAULT_ENV)
SIZE = 8 * MIB
SLOW_COPY = ("--bandwidth", "2")


def filled(image, cluster):
    """A new image full of noise, but for the guest's first sectors."""
    spec = image(size=SIZE)
    with cluster.images.open(spec, read_only=False) as opened:
        opened.write(os.urandom(SIZE - MIB), MIB)
    return spec


def content(cluster, spec):
    """All of it except the sector that the guest writes."""
    with cluster.images.open(spec) as opened:
        data = opened.read(0, SIZE)
    return data[:512] + data[1024:]


@pytest.fixture
def copying(hosts, vm, image, cluster):
    """A guest that writes as fast as it can, and how to begin its migration: -> (guest, guest as it will be there, begin)."""
    a, b = hosts
    guest = vm([Disk(filled(image, cluster))], mode="flat-out")
    guest.start(a)
    guest.wait_writing(a)
    there = VM(cluster, guest.kernel, guest.name, [Disk(image(size=SIZE))], mode="flat-out")
    there.uuid, there.identity = guest.uuid, guest.identity
    a.write("/tmp-there.xml", there.xml())

    def begin(kind):
        migration = Migration(guest, a, b, kind, "--xml", a.dir / "tmp-there.xml", *SLOW_COPY)
        wait_until(lambda: lease.states(b, guest) == ["parked"], 20, "the destination's volume is leased before anything writes to it")
        return migration
    return guest, there, begin


def test_copy_under_a_writing_guest(hosts, vm, copying, cluster):
    """The source's lease is its own until its QEMU is done, the mirror's last catching-up included; the destination's is taken before
    NBD writes. What both have in the end is the same."""
    a, b = hosts
    guest, there, begin = copying
    migration = begin("--copy-storage-all")
    assert lease.states(a, guest) == ["held"]
    thief = vm([Disk(there.disks[0].image)])
    assert b.name in thief.start(a, check=False).stderr
    assert a.name in vm([Disk(guest.disks[0].image)]).start(b, check=False).stderr
    migration.succeeds()
    there.wait_writing(b)
    assert lease.states(b, there) == ["held"]
    wait_until(lambda: lease.listed(a, guest) == [], 10, "the source's volume is free")
    assert there.record().identity == guest.record().identity
    assert there.record().failures == 0 and there.record().counter >= guest.record().counter
    assert content(cluster, guest.disks[0].image) == content(cluster, there.disks[0].image)
    for host in hosts:
        assert "LOST" not in lease.log_of(host)
    assert cluster.blocklist() == {}
    again = vm([Disk(guest.disks[0].image)])
    again.start(a)
    again.wait_writing(a)


def test_incremental_copy_beside_a_shared_disk(hosts, vm, image, cluster):
    """libvirt copies no RBD image incrementally ("pre-creation of storage targets ... is not supported"), so a local file is copied here,
    and the RBD disk beside it goes by hand-over."""
    a, b = hosts
    path = "/var/lib/libvirt/local.raw"
    a.path(path).write_bytes(os.urandom(SIZE))
    b.path(path).write_bytes(bytes(SIZE))
    guest = vm([Disk(image()), Disk(path=path)], mode="flat-out")
    guest.start(a)
    guest.wait_writing(a)
    migration = Migration(guest, a, b, "--copy-storage-inc", "--migrate-disks", "vdb", *SLOW_COPY)
    wait_until(lambda: sorted(lease.states(b, guest)) == ["incoming", "parked"], 20, "under way, the file leased before NBD writes to it")
    assert lease.states(a, guest) == ["held"] * 2
    migration.succeeds()
    guest.wait_writing(b)
    assert lease.states(b, guest) == ["held"] * 2
    ends = [host.path(path).read_bytes() for host in hosts]
    assert ends[0][1024:] == ends[1][1024:] and ends[0][:512] == ends[1][:512]
    assert cluster.blocklist() == {}


def test_source_keeps_its_lease_until_its_qemu_is_done(hosts, copying):
    """The CPUs have stopped, the destination is held up before its own run: the source's volume is PARKED, not free."""
    a, b = hosts
    guest, there, begin = copying
    faults = Faults(b)
    faults.arm("before-hold")
    migration = begin("--copy-storage-all")
    faults.await_hit("before-hold", timeout=40)
    assert lease.states(a, guest) == ["parked"]
    faults.release("before-hold")
    migration.succeeds()
    there.wait_writing(b)


def test_failed_copy_frees_the_destinations_volume(hosts, copying, cluster):
    a, b = hosts
    guest, there, begin = copying
    migration = begin("--copy-storage-all")
    a.virsh("domjobabort", guest.name)
    migration.fails()
    assert_all_free(there, [b], cluster)
    guest.wait_writing(a)
    assert lease.states(a, guest) == ["held"]


LOCAL = "/var/lib/libvirt/local.raw"


def local_disk(host, data=bytes(SIZE)):
    """A file of that host's own; the path is the same on each."""
    host.path(LOCAL).write_bytes(data)
    return Disk(path=LOCAL)


def moved_to(guest, disk, source):
    """The same VM with another disk, and where its XML is for `virsh migrate --xml`."""
    there = VM(guest.cluster, guest.kernel, guest.name, [disk], mode=guest.mode)
    there.uuid, there.identity = guest.uuid, guest.identity
    source.write("/tmp-there.xml", there.xml())
    return there, source.dir / "tmp-there.xml"


def test_file_to_rbd(hosts, vm, image, cluster):
    """The source has its file's, the destination one from before NBD writes to its image."""
    a, b = hosts
    guest = vm([local_disk(a, os.urandom(SIZE))], mode="flat-out")
    guest.start(a)
    wait_until(lambda: a.path(LOCAL).read_bytes()[512:520] == b"VLWRITER", 30, "it writes")
    there, xml = moved_to(guest, Disk(image(size=SIZE)), a)
    migration = Migration(guest, a, b, "--copy-storage-all", "--xml", xml, *SLOW_COPY)
    wait_until(lambda: lease.states(b, guest) == ["parked"], 20, "the image is leased before anything writes to it")
    assert lease.states(a, guest) == ["held"]
    assert b.name in vm([Disk(there.disks[0].image)]).start(a, check=False).stderr
    migration.succeeds()
    there.wait_writing(b)
    assert lease.states(b, there) == ["held"] and lease.states(a, there) == []
    data = a.path(LOCAL).read_bytes()
    assert content(cluster, there.disks[0].image) == data[:512] + data[1024:]
    assert_lives_on(there, b, [a], cluster)
    assert cluster.blocklist() == {}


def test_rbd_to_file(hosts, vm, image, cluster):
    """The image stays the source's until its QEMU is gone; then it is free, and the destination has its file's."""
    a, b = hosts
    guest = vm([Disk(filled(image, cluster))], mode="flat-out")
    guest.start(a)
    guest.wait_writing(a)
    _, xml = moved_to(guest, local_disk(b), a)
    migration = Migration(guest, a, b, "--copy-storage-all", "--xml", xml, *SLOW_COPY)
    wait_until(lambda: guest.name in b.domains() or not migration.thread.is_alive(), 20, "under way")
    assert lease.states(a, guest) == ["held"]
    assert a.name in vm([Disk(guest.disks[0].image)]).start(b, check=False).stderr
    migration.succeeds()
    wait_until(lambda: b.path(LOCAL).read_bytes()[512:520] == b"VLWRITER", 30, "it writes there")
    assert lease.states(b, guest) == ["held"]
    assert_all_free(guest, [a], cluster)
    data = b.path(LOCAL).read_bytes()
    assert content(cluster, guest.disks[0].image) == data[:512] + data[1024:]
    again = vm([Disk(guest.disks[0].image)])
    again.start(b)
    again.wait_writing(b)


@pytest.mark.parametrize("other_image", [False, True], ids=["same-image", "other-image"])
def test_incremental_copy_of_an_rbd_image_is_refused_by_libvirt(hosts, vm, image, cluster, other_image):
    """Before anything is copied, and nothing of the lease is lost on the way: no heir, no claim, nothing on the destination."""
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    there, xml = moved_to(guest, Disk(image()) if other_image else guest.disks[0], a)
    before = lease.holder(cluster, guest.disks[0].image)
    Migration(guest, a, b, "--copy-storage-inc", "--xml", xml).fails("pre-creation of storage targets")
    assert lease.states(a, guest) == ["held"] and lease.listed(b) == []
    assert lease.holder(cluster, guest.disks[0].image) == before
    if other_image:
        assert lease.stored(cluster, there.disks[0].image) is None
    assert_lives_on(guest, a, [b], cluster)
    a.virsh("suspend", guest.name)
    a.virsh("resume", guest.name)
    guest.wait_writing(a)
    assert cluster.blocklist() == {}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block jobs and snapshots: leases follow the images, and nothing is released that is still in use."""

import pytest

from bed import lease
from bed.vm import Disk
from bed.wait import holds_for, wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4})


@pytest.fixture
def running(hosts, vm):
    guest = vm()
    guest.start(hosts[0])
    guest.wait_writing(hosts[0])
    return guest


def volumes(host):
    return {x["volume"]: x["state"] for x in host.ctl("list")["leases"]}


def key(spec):
    return f"rbd:{spec}"


def blockcopy(host, guest, disk, cluster, *flags):
    host.write("/tmp-copy.xml", disk.xml(cluster))
    return host.virsh("blockcopy", guest.name, "vda", "--xml", host.dir / "tmp-copy.xml", "--transient-job", "--reuse-external",
                      "--wait", *flags)


def test_blockcopy_and_pivot(hosts, running, vm, image, cluster):
    """The mirror is leased while the job runs, the old image is free when QEMU has let go of it."""
    a, b = hosts
    old, new = running.disks[0], Disk(image())
    blockcopy(a, running, new, cluster)
    wait_until(lambda: volumes(a) == {key(old.image): "held", key(new.image): "held"}, 3, "the mirror is leased")
    assert a.name in vm([new]).start(b, check=False).stderr
    a.virsh("blockjob", running.name, "vda", "--pivot")
    running.disks = [new]
    wait_until(lambda: volumes(a) == {key(new.image): "held"}, 5, "the old image is free, the new one is not")
    running.wait_writing(a)
    other = vm([old])
    other.start(b)
    other.wait_writing(b)
    running.wait_writing(a)
    assert cluster.blocklist() == {}
    addrs = lease.holder(cluster, new.image)["addrs"]
    assert set(cluster.images.watchers(new.image)) <= set(addrs), "the new client is recorded"
    running.migrate(a, b)
    running.wait_writing(b)


def test_blockcopy_and_abort(hosts, running, vm, image, cluster):
    a, b = hosts
    new = Disk(image())
    blockcopy(a, running, new, cluster)
    wait_until(lambda: key(new.image) in volumes(a), 3, "leased")
    a.virsh("blockjob", running.name, "vda", "--abort")
    wait_until(lambda: volumes(a) == {key(running.disks[0].image): "held"}, 5, "the mirror is free")
    running.wait_writing(a)
    vm([new]).start(b)


def test_snapshot_and_commit(hosts, running, vm, world):
    """An overlay in a file: the image below is only read from now on, and still the VM's, because a commit will write to it again."""
    a, b = hosts
    base = running.disks[0]
    overlay = world.dir / f"{running.name}.qcow2"
    a.virsh("snapshot-create-as", running.name, "s1", "--disk-only", "--no-metadata", "--diskspec", f"vda,file={overlay}")
    wait_until(lambda: volumes(a) == {key(base.image): "held", f"file:{overlay}": "held"}, 5, "the overlay has a lease as well")
    holds_for(lambda: volumes(a)[key(base.image)] == "held", 2.5, "the base is kept")
    assert a.name in vm([base]).start(b, check=False).stderr
    a.virsh("blockcommit", running.name, "vda", "--active", "--pivot", "--wait")
    running.wait_writing(a)
    wait_until(lambda: volumes(a) == {key(base.image): "held"}, 40, "the overlay is let go")
    holds_for(lambda: volumes(a) == {key(base.image): "held"}, 1.5, "still")
    running.destroy(a)
    wait_until(lambda: volumes(a) == {}, 5, "free")


def test_destroyed_with_an_overlay(hosts, running, vm, world):
    a, b = hosts
    base = running.disks[0]
    a.virsh("snapshot-create-as", running.name, "s1", "--disk-only", "--no-metadata",
            "--diskspec", f"vda,file={world.dir / (running.name + '.qcow2')}")
    running.destroy(a)
    wait_until(lambda: volumes(a) == {}, 5, "free")
    other = vm([base])
    other.start(b)
    other.wait_writing(b)


def test_cdrom_change(hosts, vm, shared_file):
    """Media are read only and need no lease; the calls that libvirt makes for them touch nobody else's."""
    a, _ = hosts
    first, second = shared_file(), shared_file()
    guest = vm(devices=f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{first}'/>"
                       "<target dev='sdz' bus='scsi'/><readonly/></disk>")
    guest.start(a)
    guest.wait_writing(a)
    a.virsh("change-media", guest.name, "sdz", second, "--live", "--update")
    a.virsh("change-media", guest.name, "sdz", "--eject", "--live")
    assert a.virsh("change-media", guest.name, "sdz", "/nowhere.iso", "--insert", "--live", check=False).returncode != 0
    holds_for(lambda: volumes(a) == {key(guest.disks[0].image): "held"}, 1.5, "untouched")
    guest.wait_writing(a)


def test_attach_to_a_paused_vm(hosts, running, vm, image):
    """It is leased as well, PARKED, and runs with the others on resume."""
    a, b = hosts
    disk = Disk(image(), target="sda")
    a.virsh("suspend", running.name)
    running.attach(a, disk)
    wait_until(lambda: key(disk.image) in volumes(a), 3, "leased")
    assert a.name in vm([disk]).start(b, check=False).stderr
    a.virsh("resume", running.name)
    running.wait_writing(a)
    assert volumes(a) == {key(disk.image): "held", key(running.disks[0].image): "held"}

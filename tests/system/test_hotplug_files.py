# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that come and go under a running VM: libvirt names them before QEMU opens them, so the call itself is refused."""

import re

import pytest

from bed.lease import listed, log_of, states
from bed.vm import Disk
from bed.wait import holds_for, wait_until
from test_local import assert_ours, assert_refused, lock_files

RBD_LEASE = "<lease><lockspace>rbd</lockspace><key>{}</key><target path='/rbd'/></lease>"
VOLUME = ("<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='pool' volume='{}'/>"
          "<target dev='vdb' bus='virtio'/></disk>")


def volumes(host):
    return {lease["volume"].removeprefix("file:"): lease["state"] for lease in listed(host)}


def virsh_fails(host, owner, path, *words):
    done = host.virsh(*words, check=False)
    assert done.returncode != 0, words
    assert_ours(host, done.stderr, owner, path)


@pytest.fixture
def pair(host_a, vm, shared_file):
    """Two running VMs, each on a file."""
    guests = [vm([Disk(path=shared_file())]) for _ in range(2)]
    for guest in guests:
        guest.start(host_a)
        guest.wait_writing(host_a)
    return guests


def test_attach_of_a_leased_file_is_refused_in_the_call(host_a, pair):
    guest, other = pair
    path = other.disks[0].path
    virsh_fails(host_a, other, path, "attach-disk", guest.name, path, "sda", "--live", "--targetbus", "scsi")
    assert host_a.domain_state(guest.name) == "running"
    assert str(path) not in host_a.virsh("dumpxml", guest.name).stdout
    guest.wait_writing(host_a)
    other.wait_writing(host_a)
    assert [x["vm"] for x in listed(host_a) if str(path) in x["volume"]] == [other.name]
    assert "NO lease" not in log_of(host_a)


def test_attached_file_is_leased_and_detach_frees_it(host_a, vm, pair, shared_file):
    guest, other = pair
    disk = Disk(path=shared_file(), target="sda")
    guest.attach(host_a, disk)
    assert volumes(host_a)[str(disk.path)] == "held"        # when the call returns, not some time later
    virsh_fails(host_a, guest, disk.path, "attach-disk", other.name, disk.path, "sda", "--live", "--targetbus", "scsi")
    assert_refused(host_a, vm([disk]), guest, disk.path)
    guest.detach(host_a, disk)
    wait_until(lambda: str(disk.path) not in volumes(host_a), 5, "free")
    assert len(lock_files(host_a)) == 2
    other.attach(host_a, disk)
    assert volumes(host_a)[str(disk.path)] == "held"


def test_attach_to_a_paused_vm(host_a, pair, shared_file):
    guest, other = pair
    host_a.virsh("suspend", guest.name)
    disk = Disk(path=shared_file(), target="sda")
    guest.attach(host_a, disk)
    holds_for(lambda: states(host_a, guest) == ["parked"] * 2, 1.5, "parked, both")
    virsh_fails(host_a, other, other.disks[0].path, "attach-disk", guest.name, other.disks[0].path, "sdb", "--live", "--targetbus", "scsi")
    host_a.virsh("resume", guest.name)
    assert states(host_a, guest) == ["held"] * 2
    guest.wait_writing(host_a)


def test_attach_that_qemu_refuses_leaves_no_lease(host_a, pair, shared_file):
    guest, _ = pair
    path = shared_file()
    path.write_bytes(b"no qcow2")
    done = host_a.virsh("attach-disk", guest.name, path, "sda", "--live", "--targetbus", "scsi", "--subdriver", "qcow2", check=False)
    assert done.returncode != 0 and "leased" not in done.stderr, done.stderr
    assert re.search("[Ii]mage is not in qcow2 format", done.stderr), done.stderr
    wait_until(lambda: str(path) not in volumes(host_a), 5, "free again")
    assert states(host_a, guest) == ["held"]


def test_attach_after_a_restart_of_virtleased(host_a, vm, cluster, shared_file):
    """Also to a VM that has had no disk to lease so far."""
    guest = vm([Disk(path=shared_file(), readonly=True)], mode="idle")
    guest.start(host_a)
    host_a.kill_virtleased()
    host_a.start_virtleased()
    disk = Disk(path=shared_file(), target="sda")
    guest.attach(host_a, disk)
    assert volumes(host_a) == {str(disk.path): "held"}


def test_cdrom_and_floppy_media(host_a, vm, pair, shared_file):
    guest, other = pair
    first, second = shared_file(), shared_file()
    reader = vm([Disk(path=shared_file())], mode="idle", devices=f"""
        <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{first}'/><target dev='sda' bus='sata'/><readonly/></disk>
        <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{second}'/><target dev='fda'/></disk>""")
    reader.start(host_a)
    assert str(first) not in volumes(host_a) and volumes(host_a)[str(second)] == "held"
    host_a.virsh("change-media", reader.name, "sda", other.disks[0].path, "--live", check=False)      # a reader may
    host_a.virsh("change-media", reader.name, "sda", first, "--live", "--force", check=False)
    assert states(host_a, reader) == ["held"] * 2
    virsh_fails(host_a, other, other.disks[0].path, "change-media", reader.name, "fda", other.disks[0].path, "--live", "--update", "--force")
    third = shared_file()
    host_a.virsh("change-media", reader.name, "fda", third, "--live", "--update", "--force")
    assert volumes(host_a)[str(third)] == "held"
    wait_until(lambda: str(second) not in volumes(host_a), 5, "the old floppy is free")
    guest.wait_writing(host_a)


def test_snapshot_and_commit(host_a, vm, pair):
    guest, other = pair
    base = guest.disks[0].path
    overlay = base.with_suffix(".overlay")
    host_a.virsh("snapshot-create-as", guest.name, "one", "--disk-only", "--no-metadata", "--diskspec", f"vda,file={overlay}")
    wait_until(lambda: volumes(host_a).get(str(overlay)) == "held", 3, "the overlay is leased")
    for path in (base, overlay):
        assert_refused(host_a, vm([Disk(path=path)]), guest, path)
    host_a.virsh("blockcommit", guest.name, "vda", "--active", "--pivot", "--wait", timeout=120)
    wait_until(lambda: str(overlay) not in volumes(host_a), 5, "the overlay is free")
    assert volumes(host_a)[str(base)] == "held"
    assert_refused(host_a, vm([Disk(path=base)]), guest, base)
    guest.wait_writing(host_a)
    virsh_fails(host_a, other, other.disks[0].path, "snapshot-create-as", guest.name, "two", "--disk-only", "--no-metadata", "--reuse-external",
                "--diskspec", f"vda,file={other.disks[0].path}")
    guest.wait_writing(host_a)


@pytest.mark.parametrize("end", ["--pivot", "--abort"])
def test_block_copy(host_a, vm, pair, shared_file, end):
    guest, other = pair
    source, target = guest.disks[0].path, shared_file()
    virsh_fails(host_a, other, other.disks[0].path, "blockcopy", guest.name, "vda", other.disks[0].path, "--transient-job", "--reuse-external",
                "--format", "raw")
    host_a.virsh("blockcopy", guest.name, "vda", target, "--transient-job", "--reuse-external", "--format", "raw")
    for path in (source, target):
        assert_refused(host_a, vm([Disk(path=path)]), guest, path)
    ready = "has two copies"
    wait_until(lambda: "ready='yes'" in host_a.virsh("dumpxml", guest.name).stdout, 30, f"the job {ready}")
    host_a.virsh("blockjob", guest.name, "vda", end)
    kept, gone = (target, source) if end == "--pivot" else (source, target)
    wait_until(lambda: set(volumes(host_a)) == {str(kept), str(other.disks[0].path)}, 10, "what is not used any more is free")
    assert volumes(host_a)[str(kept)] == "held"
    vm([Disk(path=gone)], mode="idle").start(host_a)


def test_volume_of_a_directory_pool(host_a, vm, shared_file):
    path = shared_file()
    host_a.virsh("pool-create-as", "pool", "dir", "--target", path.parent)
    named = vm([Disk(path=shared_file())], devices=VOLUME.format(path.name), mode="idle")
    plain = vm([Disk(path=path)], mode="idle")
    named.start(host_a)
    assert volumes(host_a)[str(path)] == "held"
    assert "gets no lease" not in log_of(host_a)
    assert_refused(host_a, plain, named, path)
    host_a.virsh("suspend", named.name)
    assert states(host_a, named) == ["parked"] * 2
    host_a.virsh("resume", named.name)
    assert states(host_a, named) == ["held"] * 2
    named.destroy(host_a)
    plain.start(host_a)
    done = named.start(host_a, check=False)
    assert done.returncode != 0
    assert_ours(host_a, done.stderr, plain, path)


def test_vm_with_a_lease_device_is_held_when_its_cpus_run(host_a, vm, image, shared_file):
    """The <lease> is named in the Acquire, too; that must not be taken for an attach to a paused VM."""
    guest = vm([Disk(path=shared_file())], devices=RBD_LEASE.format(image()))
    guest.start(host_a)
    assert states(host_a, guest) == ["held"] * 2
    host_a.virsh("suspend", guest.name)
    assert states(host_a, guest) == ["parked"] * 2
    host_a.virsh("resume", guest.name)
    assert states(host_a, guest) == ["held"] * 2
    guest.wait_writing(host_a)


@pytest.mark.bed(conf={"unmanaged_disks": "refuse"})
def test_volume_of_a_directory_pool_is_managed(host_a, vm, shared_file):
    path = shared_file()
    host_a.virsh("pool-create-as", "pool", "dir", "--target", path.parent)
    guest = vm([Disk(path=shared_file())], devices=VOLUME.format(path.name), mode="idle")
    guest.start(host_a)
    assert set(volumes(host_a)) == {str(path), str(guest.disks[0].path)}


def test_symlink_that_leads_elsewhere_by_now(host_a, vm, pair, shared_file):
    """QEMU has what the link led to when it was opened."""
    _, other = pair
    path = shared_file()
    link = path.with_suffix(".link")
    link.symlink_to(path)
    guest = vm([Disk(path=link)])
    guest.start(host_a)
    link.unlink()
    link.symlink_to(other.disks[0].path)
    guest.attach(host_a, Disk(path=shared_file(), target="sda"))
    holds_for(lambda: states(host_a, guest) == ["held"] * 2 and host_a.domain_state(guest.name) == "running", 2, "nothing happens")
    assert_refused(host_a, vm([Disk(path=path)]), guest, path)
    host_a.virsh("suspend", guest.name)
    host_a.virsh("resume", guest.name)
    assert "NO lease" not in log_of(host_a)


def test_restart_keeps_what_the_status_xml_does_not_name(host_a, vm, pair, shared_file):
    """The base below a snapshot, and the path of a volume: the lock files know."""
    guest, _ = pair
    base, path = guest.disks[0].path, shared_file()
    host_a.virsh("snapshot-create-as", guest.name, "one", "--disk-only", "--no-metadata", "--diskspec", f"vda,file={base.with_suffix('.overlay')}")
    host_a.virsh("pool-create-as", "pool", "dir", "--target", path.parent)
    named = vm([Disk(path=shared_file())], devices=VOLUME.format(path.name), mode="idle")
    named.start(host_a)
    for _ in range(2):
        host_a.kill_virtleased()
        host_a.start_virtleased()
        assert_refused(host_a, vm([Disk(path=base)]), guest, base)
        assert_refused(host_a, vm([Disk(path=path)]), named, path)
    host_a.virsh("suspend", named.name)
    host_a.virsh("resume", named.name)
    assert states(host_a, named) == ["held"] * 2
    host_a.virsh("blockcommit", guest.name, "vda", "--active", "--pivot", "--wait", timeout=120)
    wait_until(lambda: volumes(host_a).get(str(base)) == "held", 3, "leased again")
    named.destroy(host_a)
    vm([Disk(path=path)], mode="idle").start(host_a)

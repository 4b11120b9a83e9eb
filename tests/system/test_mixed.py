# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMs with RBD images and files: all leases or none, and each kind keeps its own rules."""

import os

import pytest

from bed import lease
from bed.host import VIRTLEASECTL, VIRTLEASED
from bed.images import MIB
from bed.moving import SLOW, Migration
from bed.vm import Disk
from bed.wait import holds_for, wait_until
from test_local import OURS, assert_ours, lock_files


def backends(host, guest=None):
    return sorted((x["backend"], x["state"]) for x in lease.listed(host, guest))


def assert_free(cluster, image):
    record = lease.stored(cluster, image)
    assert not record or not record["holders"], record


# All or nothing


def test_busy_file_gives_the_image_back(hosts, vm, image, shared_file, cluster):
    a, b = hosts
    path, spec = shared_file(), image()
    owner = vm([Disk(path=path)])
    owner.start(a)
    mixed = vm([Disk(spec), Disk(path=path)])
    done = mixed.start(a, check=False)
    assert done.returncode != 0
    assert_ours(a, done.stderr, owner, path)
    assert_free(cluster, spec)
    vm([Disk(spec)]).start(b)
    owner.wait_writing(a)


def test_busy_image_gives_the_file_back(hosts, vm, image, shared_file):
    a, b = hosts
    path, spec = shared_file(), image()
    owner = vm([Disk(spec)])
    owner.start(b)
    owner.wait_writing(b)
    mixed = vm([Disk(path=path), Disk(spec)])
    done = mixed.start(a, check=False)
    assert done.returncode != 0 and owner.name in done.stderr and b.name in done.stderr, done.stderr
    wait_until(lambda: lease.listed(a) == [] and lock_files(a) == [], 5, "nothing is kept")
    alone = vm([Disk(path=path)])
    alone.start(a)
    alone.wait_writing(a)
    owner.wait_writing(b)


def test_life_of_a_mixed_vm(host_a, vm, image, shared_file, block_device, cluster):
    guest = vm([Disk(path=shared_file()), Disk(image()), Disk(block=block_device())])
    guest.start(host_a)
    for i in range(3):
        guest.wait_writing(host_a, disk=i)
    assert backends(host_a) == [("local", "held"), ("local", "held"), ("rbd", "held")]
    host_a.virsh("suspend", guest.name)
    assert {state for _, state in backends(host_a)} == {"parked"}
    host_a.kill_virtleased()
    host_a.start_virtleased()
    wait_until(lambda: backends(host_a) == [("local", "parked"), ("local", "parked"), ("rbd", "parked")], 10, "as before")
    host_a.virsh("resume", guest.name)
    assert {state for _, state in backends(host_a)} == {"held"}
    host_a.kill_virtleased()
    host_a.start_virtleased()
    wait_until(lambda: backends(host_a) == [("local", "held"), ("local", "held"), ("rbd", "held")], 10, "as before")
    guest.kill(host_a)
    wait_until(lambda: lease.listed(host_a) == [] and lock_files(host_a) == [], 10, "free")
    guest.start(host_a)
    guest.wait_writing(host_a, disk=1)


def test_file_stays_leased_while_ceph_is_away(host_a, vm, image, shared_file, cluster):
    """virtleased is restarted while the monitors do not answer: it tries the images again and again, and the file is the VM's all the
    time, even if its lock file is lost."""
    path = shared_file()
    guest = vm([Disk(image()), Disk(path=path)], mode="idle")
    guest.start(host_a)
    host_a.kill_virtleased()
    host_a.run("rm", "-r", "/var/lib/virtlease/local")
    cluster.mon.freeze()
    try:
        host_a.start_virtleased(wait=False, op_timeout=3)
        host_a.wait_virtleased()
        thief = vm([Disk(path=path)], mode="idle")
        done = thief.start(host_a, check=False, timeout=90)
        assert done.returncode != 0
        assert_ours(host_a, done.stderr, guest, path)
        wait_until(lambda: "runs, but has NO lease yet" in lease.log_of(host_a), 40, "the image cannot be had")
        for _ in range(20):
            done = thief.start(host_a, check=False, timeout=90)
            assert done.returncode != 0
            assert_ours(host_a, done.stderr, guest, path)
    finally:
        cluster.mon.thaw()
    wait_until(lambda: backends(host_a) == [("local", "held"), ("rbd", "held")], 40, "adopted")


# Migration


def test_migration_of_a_mixed_vm(hosts, vm, image, shared_file):
    """The file lies on storage that both hosts share. Its lease is each host's own: taken there before the CPUs run, free here when QEMU is
    gone."""
    a, b = hosts
    path = shared_file()
    guest = vm([Disk(image()), Disk(path=path)])
    guest.start(a)
    guest.wait_writing(a)
    migration = Migration(guest, a, b, "--unsafe", *SLOW)
    wait_until(lambda: backends(b, guest) == [("local", "parked"), ("rbd", "incoming")], 20, "the destination has what it can have")
    assert backends(a, guest) == [("local", "held"), ("rbd", "held")]
    done = vm([Disk(path=path)]).start(b, check=False)
    assert done.returncode != 0 and OURS.search(done.stderr), done.stderr
    migration.succeeds()
    for disk in range(2):
        guest.wait_writing(b, disk=disk)
    assert backends(b, guest) == [("local", "held"), ("rbd", "held")]
    wait_until(lambda: lease.listed(a) == [] and lock_files(a) == [], 10, "nothing left here")


def test_migration_to_where_the_file_is_busy(hosts, vm, image, cluster):
    """Each host has a file of its own under that name (storage is copied); the destination's is in use by another VM."""
    a, b = hosts
    path = "/var/lib/libvirt/local.raw"
    for host in hosts:
        host.path(path).write_bytes(bytes(MIB))
    other = vm([Disk(path=path)], mode="idle")
    other.start(b)
    spec = image()
    guest = vm([Disk(spec), Disk(path=path)])
    guest.start(a)
    guest.wait_writing(a)
    migration = Migration(guest, a, b, "--copy-storage-all", "--migrate-disks", "vdb")
    text = migration.fails(other.name)
    assert_ours(b, text, other, path)
    wait_until(lambda: not lease.stored(cluster, spec).get("heirs"), 10, "no heir is left")
    assert backends(a, guest) == [("local", "held"), ("rbd", "held")]
    assert [x["vm"] for x in lease.listed(b)] == [other.name]
    guest.wait_writing(a)
    a.virsh("suspend", guest.name)
    a.virsh("resume", guest.name)
    guest.wait_writing(a)


def test_copied_file_is_leased_before_it_is_written(hosts, vm, cluster):
    a, b = hosts
    path = "/var/lib/libvirt/local.raw"
    a.path(path).write_bytes(os.urandom(8 * MIB))
    b.path(path).write_bytes(bytes(8 * MIB))
    guest = vm([Disk(path=path)], mode="flat-out")
    guest.start(a)
    wait_until(lambda: lease.states(a, guest) == ["held"], 5, "held")
    before = vm([Disk(path=path)], mode="idle")
    migration = Migration(guest, a, b, "--copy-storage-all", "--bandwidth", "2")
    wait_until(lambda: lease.states(b, guest) == ["parked"], 20, "leased")
    assert b.path(path).read_bytes()[4 * MIB:] == bytes(4 * MIB)       # long before the copy is there
    done = before.start(b, check=False)
    assert done.returncode != 0 and guest.name in done.stderr, done.stderr
    migration.succeeds()
    assert lease.states(b, guest) == ["held"]
    wait_until(lambda: lease.listed(a) == [], 10, "free")
    assert a.path(path).read_bytes()[MIB:] == b.path(path).read_bytes()[MIB:]


# Rules


def test_rules_by_type_and_prefix(host_a, vm, world, block_device):
    directories = [world.dir / "none", world.dir / "none" / "but", world.dir / "nonesuch"]
    for directory in directories:
        directory.mkdir(exist_ok=True)
        (directory / "disk.raw").write_bytes(bytes(MIB))
    rules = [f"file {directories[0]} none", "block /dev none", f"any {directories[1]}/ local"]
    host_a.kill_virtleased()
    host_a.start_virtleased(volumes=rules)
    paths = [directory / "disk.raw" for directory in directories]
    guest = vm([Disk(path=path) for path in paths] + [Disk(block=block_device())], mode="idle")
    guest.start(host_a)
    assert {x["volume"] for x in lease.listed(host_a)} == {f"file:{path}" for path in paths[1:]}
    for _ in range(2):
        host_a.virsh("suspend", guest.name)
        host_a.virsh("resume", guest.name)
    holds_for(lambda: lease.log_of(host_a).count("the rules in virtleased.conf say none") == 2, 1.5, "said once for each disk")
    done = host_a.ctl("show", paths[0], check=False)
    assert done.returncode != 0 and "gets no lease" in done.stdout, done.stdout
    guest.destroy(host_a)
    for path in paths[1:]:
        vm([Disk(path=path)], mode="idle").start(host_a)


@pytest.mark.parametrize("rule, word", [("file /x", "TYPE PREFIX BACKEND"), ("disk /x local", "file, block or any"), ("file x local", "absolute"),
                                        ("file /x rbd", "local, sanlock or none"), ("", "TYPE PREFIX BACKEND")])
def test_bad_rule_is_refused_with_its_line(host_a, rule, word):
    text = 'dead_after = 10\nvolumes = ["file /ok local",\n  "%s"]\n' % rule
    host_a.write("/etc/virtlease/bad.conf", text)
    done = host_a.run(VIRTLEASED, "--check-config", "--config", "/etc/virtlease/bad.conf", check=False)
    assert done.returncode == 2 and "/etc/virtlease/bad.conf:" in done.stderr and word in done.stderr, done.stderr
    assert done.stderr.split("bad.conf:")[1][0] in "23", done.stderr


# The tool


def test_tool_about_files(host_a, vm, image, shared_file):
    path, free = shared_file(), shared_file()
    guest = vm([Disk(path=path), Disk(image())], mode="idle")
    guest.start(host_a)
    pid = host_a.qemu_pid(guest.name, inner=True)
    listed = next(x for x in lease.listed(host_a) if x["backend"] == "local")
    assert (listed["volume"], listed["state"], listed["vm"], listed["pid"]) == (f"file:{path}", "held", guest.name, pid)
    shown = host_a.ctl("show", path)
    holder = shown["holders"][0]
    assert (shown["backend"], shown["place"], holder["vm"], holder["pid"], holder["mode"]) == ("local", "this host", guest.name, pid, "exclusive")
    assert host_a.ctl("show", free)["holders"] == []

    def text(*words, check=True):
        return host_a.run(VIRTLEASECTL, *words, check=check)
    assert any(f"file:{path}" in line and "held" in line and str(pid) in line for line in text("list").stdout.splitlines())
    shown = text("show", path).stdout
    assert guest.name in shown and f"process {pid}" in shown and "guarded by local" in shown
    assert "free" in text("show", free).stdout
    status = text("status")
    assert "2 leases" in status.stdout
    done = text("release", "--force", path, check=False)
    assert done.returncode != 0 and "stop that VM" in done.stderr and str(path) in done.stderr, done.stderr
    assert len(lease.listed(host_a)) == 2
    done = text("show", "/nowhere", check=False)
    assert done.returncode != 0 and "/nowhere" in done.stderr, done.stderr


NBD = ("<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'>"
       "<host name='127.0.0.1' port='10809'/></source><target dev='vdb' bus='virtio'/></disk>")


def test_unmanaged_kinds_are_as_before(new_host, cluster, vm, shared_file):
    a, b = new_host(cluster), new_host(cluster, conf={"unmanaged_disks": "refuse"})
    for host in (a, b):
        guest = vm([Disk(path=shared_file())], devices=NBD, mode="idle")
        done = guest.start(host, check=False)
        assert done.returncode != 0         # nobody serves NBD there
        assert ("unmanaged_disks" in done.stderr) == (host is b), done.stderr
    assert "gets no lease: virtlease does not manage its kind" in lease.log_of(a)

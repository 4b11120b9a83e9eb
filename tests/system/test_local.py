# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files and block devices that no rule sends elsewhere: lock files of the host. QEMU's own file locks would refuse a second QEMU as well,
so every refusal is checked to be virtlease's, by its words."""

import os
import re
import stat

import pytest

from bed.driver import Driver
from bed.lease import listed, log_of, states
from bed.vm import Disk
from bed.wait import wait_until

LOCAL_DIR = "/var/lib/virtlease/local"
OURS = re.compile(r"is in use: leased( \(shared\))? by VM '(\S+)' on this host, process (\d+), since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\. "
                  "Stop that VM first")


def lock_files(host):
    return sorted(p.name for p in host.path(LOCAL_DIR).iterdir()) if host.path(LOCAL_DIR).exists() else []


def assert_ours(host, text, owner, path):
    """The text is virtlease's: it names the volume as the second VM spells it, the owner, its pid, since when and what to do."""
    match = OURS.search(text)
    assert match, text
    assert match[2] == owner.name and int(match[3]) == host.qemu_pid(owner.name, inner=True)
    assert str(path) in text


def assert_refused(host, thief, owner, path):
    done = thief.start(host, check=False)
    assert done.returncode != 0, f"{path}: started"
    assert thief.name not in host.domains()
    assert_ours(host, done.stderr, owner, path)


@pytest.fixture
def owner(host_a, vm, shared_file):
    """A VM that runs on a file."""
    guest = vm([Disk(path=shared_file())])
    guest.start(host_a)
    guest.wait_writing(host_a)
    return guest


def test_every_spelling_of_a_file(host_a, vm, owner):
    path = owner.disks[0].path
    work = path.parent / f"{path.stem}.names"
    for name in ("real", "bound"):
        (work / name).mkdir(parents=True)
    (work / "symlink").symlink_to(path)
    (work / "chain").symlink_to("symlink")
    (work / "directory").symlink_to(path.parent)
    os.link(path, work / "real" / "hard link")
    host_a.run("mount", "--bind", path.parent, work / "bound")
    for spelling in (path, work / "symlink", work / "chain", work / "directory" / path.name, work / "bound" / path.name,
                     f"{path.parent}//{path.name}", f"{path.parent}/./{path.name}", f"{work}/real/../../{path.name}"):
        assert_refused(host_a, vm([Disk(path=spelling)]), owner, path.name)
    assert_refused(host_a, vm([Disk(path=work / "real" / "hard link")]), owner, "hard link")
    assert len(lock_files(host_a)) == 1
    owner.wait_writing(host_a)
    other = path.with_suffix(".other")
    other.write_bytes(bytes(1 << 20))
    vm([Disk(path=other)], mode="idle").start(host_a)       # another file is another volume
    assert len(lock_files(host_a)) == 2


def test_every_name_of_a_block_device(host_a, vm, block_device, world):
    device, other = block_device(), block_device()
    owner = vm([Disk(block=device)])
    owner.start(host_a)
    owner.wait_writing(host_a)
    work = world.dir / "by-id"
    work.mkdir()
    (work / "alias").symlink_to(device)
    node = work / "node"
    os.mknod(node, stat.S_IFBLK | 0o660, os.stat(device).st_rdev)
    for name in (device, work / "alias", node):
        assert_refused(host_a, vm([Disk(block=name)]), owner, "")
    number = os.stat(device).st_rdev
    assert lock_files(host_a) == [f"block-{os.major(number)}.{os.minor(number)}.lease"]
    vm([Disk(block=other)], mode="idle").start(host_a)
    assert len(lock_files(host_a)) == 2


def test_odd_names(host_a, vm, world):
    long = world.dir / "odd"
    while len(str(long)) < 800:
        long = long / ("x" * 99)
    long.mkdir(parents=True)
    names = [world.dir / "odd" / name for name in ("with  two spaces", "a:b:c", "Größe ☃", "per%cent", "it's \"quoted\"", "a,b=c")]
    names.append(long / ("y" * (999 - len(str(long)))))
    assert len(str(names[-1])) == 1000
    for path in names:
        path.write_bytes(bytes(1 << 20))
        owner = vm([Disk(path=path)], mode="idle")
        owner.start(host_a)
        assert_refused(host_a, vm([Disk(path=path)]), owner, path.name)
        assert listed(host_a, owner)[0]["volume"] == f"file:{path}"
        assert host_a.ctl("show", path)["holders"][0]["vm"] == owner.name
        owner.destroy(host_a)
    wait_until(lambda: lock_files(host_a) == [], 5, "nothing is left")


def test_restart_and_crash_of_virtleased(host_a, vm, owner):
    """A second start is refused before, during and after, and a VM that died meanwhile holds nobody up."""
    path = owner.disks[0].path
    thief, doomed = vm([Disk(path=path)]), vm([Disk(path=path.with_suffix(".doomed"))])
    doomed.disks[0].path.write_bytes(bytes(1 << 20))
    for down in (host_a.kill_virtleased, host_a.stop_virtleased):
        doomed.start(host_a)
        since = host_a.ctl("show", path)["holders"][0]["since"]
        assert_refused(host_a, thief, owner, path)
        down()
        done = thief.start(host_a, check=False)
        assert done.returncode != 0 and "virtleased is not answering" in done.stderr, done.stderr
        doomed.kill(host_a)
        host_a.start_virtleased(wait=False)
        assert_refused(host_a, thief, owner, path)          # as soon as the socket answers
        wait_until(lambda: states(host_a, owner) == ["held"], 5, "the lock is taken again")
        assert_refused(host_a, thief, owner, path)
        assert host_a.ctl("show", path)["holders"][0]["since"] == since
        wait_until(lambda: len(lock_files(host_a)) == 1, 5, "the dead VM's lock file is gone")
    owner.wait_writing(host_a)
    owner.destroy(host_a)
    thief.start(host_a)
    thief.wait_writing(host_a)


def test_lost_lock_files_do_not_open_the_door(host_a, vm, owner):
    """virtleased is killed and its lock files are lost: it finds out from libvirt's status files before anybody is let in."""
    host_a.kill_virtleased()
    host_a.run("rm", "-r", LOCAL_DIR)
    host_a.start_virtleased(wait=False)
    assert_refused(host_a, vm([Disk(path=owner.disks[0].path)]), owner, "")
    owner.wait_writing(host_a)


def test_lock_files_of_an_earlier_boot_are_nobody(host_a, vm, owner):
    kept = host_a.path(LOCAL_DIR)
    name = lock_files(host_a)[0]
    text = (kept / name).read_text()
    owner.destroy(host_a)
    wait_until(lambda: lock_files(host_a) == [], 5, "free")
    (kept / name).write_text(re.sub(r"boot=.*", "boot=00000000-0000-4000-8000-000000000000", text))
    owner.start(host_a)
    owner.wait_writing(host_a)
    assert host_a.ctl("show", owner.disks[0].path)["holders"][0]["pid"] == host_a.qemu_pid(owner.name, inner=True)


@pytest.mark.bed(conf={"audit_interval": 5})
def test_audit_notices_a_removed_lock_directory(host_a, vm, owner):
    thief = vm([Disk(path=owner.disks[0].path)])
    host_a.run("rm", "-r", LOCAL_DIR)
    done = thief.start(host_a, check=False)         # at once: no lock file can be made
    assert done.returncode != 0 and LOCAL_DIR in done.stderr, done.stderr
    wait_until(lambda: "was removed by somebody; made anew" in log_of(host_a), 10, "the audit notices")
    assert len(lock_files(host_a)) == 1
    assert_refused(host_a, thief, owner, "")
    host_a.run("sh", "-c", f"rm {LOCAL_DIR}/*")
    done = thief.start(host_a, check=False)
    assert done.returncode != 0 and owner.name in done.stderr and "Stop that VM first" in done.stderr, done.stderr
    owner.wait_writing(host_a)


def test_killed_qemu_holds_nobody_up(host_a, vm, owner):
    owner.kill(host_a)
    other = vm([Disk(path=owner.disks[0].path)])
    other.start(host_a)
    other.wait_writing(host_a)
    other.destroy(host_a)
    other.start(host_a)         # and again at once
    other.wait_writing(host_a)


def test_through_the_life_of_a_vm(host_a, vm, owner):
    """Pause, reset, save and restore: nobody else gets the file but while it is saved."""
    path = owner.disks[0].path
    thief = vm([Disk(path=path)], mode="idle")
    host_a.virsh("suspend", owner.name)
    assert states(host_a, owner) == ["parked"]
    assert_refused(host_a, thief, owner, path)
    host_a.virsh("resume", owner.name)
    assert states(host_a, owner) == ["held"]
    host_a.virsh("reset", owner.name)
    owner.wait_writing(host_a)
    assert states(host_a, owner) == ["held"]
    saved = host_a.dir / "saved"
    host_a.virsh("save", owner.name, saved)
    wait_until(lambda: listed(host_a) == [], 5, "a saved VM has no lease")
    thief.start(host_a)
    done = host_a.virsh("restore", saved, check=False)
    assert done.returncode != 0, "restored"
    assert_ours(host_a, done.stderr, thief, path)
    thief.destroy(host_a)
    host_a.virsh("restore", saved)
    assert states(host_a, owner) == ["held"]
    owner.wait_writing(host_a)


def test_managedsave_and_paused_start(host_a, vm, shared_file):
    guest = vm([Disk(path=shared_file())])
    guest.define(host_a)
    host_a.virsh("start", guest.name, "--paused")
    assert states(host_a, guest) == ["parked"]
    host_a.virsh("resume", guest.name)
    guest.wait_writing(host_a)
    host_a.virsh("managedsave", guest.name)
    wait_until(lambda: listed(host_a) == [] and lock_files(host_a) == [], 5, "free")
    host_a.virsh("start", guest.name)
    assert states(host_a, guest) == ["held"]
    guest.wait_writing(host_a)


def test_shareable_and_readonly(host_a, vm, shared_file):
    path = shared_file()
    sharers = [vm([Disk(path=path, shareable=True)], mode="idle") for _ in range(2)]
    alone = vm([Disk(path=path)], mode="idle")
    for guest in sharers:
        guest.start(host_a)
    assert [(x["state"], x["mode"]) for x in listed(host_a)] == [("held", "shared")] * 2
    assert len(lock_files(host_a)) == 1 and len(host_a.ctl("show", path)["holders"]) == 2
    for guest in sharers:
        done = alone.start(host_a, check=False)
        assert done.returncode != 0 and "leased (shared) by VM" in done.stderr, done.stderr
        host_a.kill_virtleased()
        host_a.start_virtleased()
        guest.destroy(host_a)
    wait_until(lambda: lock_files(host_a) == [], 5, "free")
    alone.start(host_a)
    assert_refused(host_a, sharers[0], alone, path)
    alone.destroy(host_a)
    for reader in [vm([Disk(path=path, readonly=True)], mode="idle") for _ in range(2)]:
        reader.start(host_a)
    assert listed(host_a) == [] and lock_files(host_a) == []


def test_file_that_is_not_there(host_a, vm, world):
    done = vm([Disk(path=world.dir / "nowhere.raw")]).start(host_a, check=False)
    assert done.returncode != 0 and "nowhere.raw" in done.stderr
    assert listed(host_a) == [] and lock_files(host_a) == []


VMS = 1000


def test_a_thousand_volumes(host_a, vm, world):
    """One virtleased, a thousand VMs (processes that only have "-uuid UUID" on their command line) with a file each."""
    directory = world.dir / "thousand"
    directory.mkdir()
    host_a.run("mkfifo", "/run/never")
    driver = Driver(host_a)
    guests = [vm([Disk(path=directory / f"{i}.raw")], mode="idle") for i in range(VMS)]
    for guest in guests:
        guest.disks[0].path.write_bytes(b"")
        driver.pretend(guest)
        pid = driver.ok("spawn", "sh", "-c", "read word </run/never", "qemu", "-uuid", guest.uuid)["pid"]
        status = host_a.path(f"/run/libvirt/qemu/{guest.name}.xml")
        status.write_text(status.read_text().replace("state='paused' reason='starting up' pid='0'", f"state='running' reason='booted' pid='{pid}'"))
        driver.know(guest, pid)
        driver.ok("call", "acquire", "-", 0, 0)
    assert [x["state"] for x in listed(host_a)] == ["held"] * VMS
    assert len(lock_files(host_a)) == VMS
    host_a.kill_virtleased()
    host_a.start_virtleased()
    wait_until(lambda: [x["state"] for x in listed(host_a)] == ["held"] * VMS, 20, "all are leased again")
    assert len(lock_files(host_a)) == VMS
    driver.pretend(vm([guests[VMS // 2].disks[0]]))
    assert f"'{guests[VMS // 2].name}'" in driver.error("spawn", "true")
    driver.close()
    wait_until(lambda: listed(host_a) == [] and lock_files(host_a) == [], 30, "all are free")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be wrong with a lease file, the lockspace or their file system: refused with its own words, and nothing that held anything is
formatted."""

import threading

import pytest

from bed import leasing
from bed.run import environment, sh
from bed.sanlock import LOCKSPACE, USER, resource_name
from bed.vm import Disk
from bed.wait import holds_for, wait_until

AREA = 1 << 20


def other_lockspace(file, name):
    """A good lease of that name, in a lockspace that is not ours."""
    file.unlink()
    file.touch()
    sh("chown", f"{USER}:{USER}", file)
    sh("sanlock", "direct", "init", "-r", f"elsewhere:{name}:{file}:0", env=environment())
    return file.read_bytes()


def test_damaged_lease_files(sanlock_host, vm, shared_file, lease_directory):
    a = sanlock_host()
    guest = vm([Disk(path=shared_file())])
    path = guest.disks[0].path
    guest.start(a)      # its lease file was missing
    guest.wait_writing(a)
    guest.destroy(a)
    lease_directory.wait_free(path)
    file = lease_directory.file(path)
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[48] ^= 1
    foreign = other_lockspace(file, resource_name(path))
    volume = lease_directory.path / resource_name("/another")
    volume.touch()
    lease_directory.format_resource("/yet another")
    another = lease_directory.file("/yet another").read_bytes()
    volume.unlink()
    cases = {"too short": b"", "short to hold a lease": good[:4096], "never formatted": bytes(AREA), "wrong checksum": bytes(flipped),
             "belongs to another lockspace": foreign, "belongs to another volume": another, "as a sanlock lease": b"precious" * (AREA // 8)}
    said = set()
    for words, content in cases.items():
        file.write_bytes(content)
        said.add(leasing.refused(guest, a, str(path), str(file), words).split(": ", 3)[-1])
        assert file.read_bytes() == content, words
    assert len(said) >= 5, said
    file.write_bytes(good)
    file.chmod(0o600)
    sh("chown", "root:root", file)
    leasing.refused(guest, a, str(file), "may not open it")
    sh("chown", f"{USER}:{USER}", file)
    guest.start(a)
    guest.wait_writing(a)


def refuse_new_file(a, guest, lease_directory, *words):
    text = leasing.refused(guest, a, str(lease_directory.path), *words)
    assert not lease_directory.file(guest.disks[0].path).exists()
    return text


def test_file_systems_that_refuse(sanlock_host, vm, shared_file, lease_directory, world):
    """Full, read-only, root squashed: each below the host's own view of the directory."""
    a = sanlock_host()
    there = lease_directory.path
    disk = world.dir / f"{there.name}.ext4"
    with open(disk, "wb") as f:
        f.truncate(8 << 20)
    sh("mkfs.ext4", "-q", "-O", "^has_journal", disk)
    known, guest = vm([Disk(path=shared_file())]), vm([Disk(path=shared_file())])
    known.start(a)
    known.destroy(a)
    lease_directory.wait_free(known.disks[0].path)
    # Root squashed: what root makes it cannot give away.
    a.run("bindfs", "--chown-deny", "--chmod-deny", there, there)
    refuse_new_file(a, guest, lease_directory, "no_root_squash")
    a.run("umount", "-l", there)
    # Read-only, under a daemon whose lockspace lives on.
    a.run("mount", "--bind", there, there)
    a.run("mount", "-o", "remount,bind,ro", there)
    refuse_new_file(a, guest, lease_directory, "read-only")
    a.run("umount", "-l", there)
    # Full.
    a.run("mount", "-o", "loop", disk, there)
    a.run("chown", f"{USER}:{USER}", there)
    a.run("sh", "-c", f"dd if=/dev/zero of={there}/fill bs=64k; true")
    refuse_new_file(a, guest, lease_directory, "full; a lease needs 1 MiB")
    a.run("umount", "-l", there)
    # Not there, as when it is not mounted.
    away = there.rename(there.with_name(there.name + ".away"))
    leasing.refused(guest, a, "the directory does not exist; is the file system mounted?")
    away.rename(there)
    guest.start(a)
    guest.wait_writing(a)


def test_two_hosts_format_an_empty_directory(sanlock_host, lease_directory):
    """Both find nothing and both begin; then both are in one lockspace."""
    made = [sanlock_host(wait=False, start_daemon=False) for _ in range(2)]
    threads = [threading.Thread(target=host.start_virtleased) for host in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host in made:
        leasing.wait_state(host)
    leasing.wait_acquainted(*made)
    known = lease_directory.hosts()
    assert {i for i, (_, _, stamp) in known.items() if stamp} == {host.number for host in made}
    log = "".join(leasing.log_of(host) for host in made)
    assert log.count("formatted a new lockspace") == 1, log
    assert [p.name for p in lease_directory.path.iterdir() if "tmp" in p.name] == []


@pytest.mark.parametrize("content", [b"not a lockspace", b"\xff" * AREA, b""], ids=["short", "garbage", "empty"])
def test_lockspace_with_other_content_is_left_alone(sanlock_host, vm, shared_file, lease_directory, content):
    lease_directory.lockspace.write_bytes(content)
    sh("chown", f"{USER}:{USER}", lease_directory.lockspace)
    a = sanlock_host(wait=False)
    wait_until(lambda: "left as it is" in leasing.backend(a)["problem"], 20, "says so")
    leasing.refused(vm([Disk(path=shared_file())]), a, "not in the sanlock lockspace", "left as it is")
    holds_for(lambda: lease_directory.lockspace.read_bytes() == content, 1, f"{LOCKSPACE} is as it was")

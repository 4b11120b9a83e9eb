# SPDX-License-Identifier: LGPL-2.1-or-later
"""One VM per file or block volume, over all hosts, however it is spelled and whichever lock manager the other host has."""

import os
import time

from bed import leasing
from bed.sanlock import LOCKSPACE, resource_name
from bed.vm import Disk
from bed.wait import wait_until


def spellings(path):
    """The same file under other names that all hosts can use."""
    link = path.with_name(path.name + ".link")
    link.symlink_to(path)
    directory = path.parent.with_name("linked" + path.name)
    directory.symlink_to(path.parent)
    return [link, directory / path.name, f"{path.parent}//{path.name}", f"{path.parent}/../{path.parent.name}/{path.name}",
            f"{path.parent}/./{path.name}"]


def as_disk(guest, path, **kw):
    guest.disks = [Disk(path=path, **kw)]
    return guest


def test_spellings(sanlock_hosts, vm, shared_file):
    a, b = sanlock_hosts
    path = shared_file()
    others = spellings(path)
    guest, twin = vm([Disk(path=path)]), vm([Disk(path=path)])
    guest.start(a)
    guest.wait_writing(a)
    for spelling in others:
        leasing.refused(as_disk(twin, spelling), b, f"held by host {a.number} ({a.name})")
        leasing.refused(as_disk(twin, spelling), a, "VM", guest.name)
    guest.destroy(a)
    guest = as_disk(guest, others[0])
    guest.start(a)
    guest.wait_writing(a)
    for spelling in [path, *others[1:4]]:
        leasing.refused(as_disk(twin, spelling), b, f"held by host {a.number}")
    # Another path to it on this host: the same file here; QEMU's own locks are per mount in the bed, so they say nothing.
    mount = a.path("/run/elsewhere")
    mount.mkdir()
    a.run("mount", "--bind", path.parent, "/run/elsewhere")
    leasing.refused(as_disk(twin, f"/run/elsewhere/{path.name}"), a, "VM", guest.name)
    hard = path.with_name(path.name + ".hard")
    os.link(path, hard)
    leasing.refused(as_disk(twin, hard), a, "VM", guest.name)
    as_disk(guest, others[0])
    guest.wait_writing(a)


def test_libvirts_own_plugin_on_the_other_host(sanlock_host, new_host, cluster, vm, shared_file, block_device, lease_directory):
    """Each way round, also by a symlink in the XML on either side, for files and block devices."""
    a = sanlock_host()
    b = new_host(cluster, lock_manager="sanlock")
    leasing.wait_acquainted(a, b)
    path, device = shared_file(), block_device()
    link = spellings(path)[0]
    for here, there in ((path, path), (link, link), (path, link), (device, device)):
        ours, theirs = vm([Disk(path=here) if here != device else Disk(block=here)]), vm([Disk(path=there) if there != device else Disk(block=there)])
        ours.start(a)
        ours.wait_writing(a)
        if (here, there) != (path, link):       # a path that the plugin spells otherwise is protected only where we hold both names
            leasing.refused(theirs, b, "Lease is held by another host")
        ours.destroy(a)
        wait_until(lambda h=here: lease_directory.owner(h) is None, 5, "free")
        theirs.start(b)
        theirs.wait_writing(b)
        if (here, there) != (path, link):
            leasing.refused(ours, a, f"held by host {b.number}")
        theirs.destroy(b)
        wait_until(lambda t=there: lease_directory.owner(t) is None, 5, "free")
    # We start by the link and hold the real path's lease, too.
    ours, theirs = vm([Disk(path=link)]), vm([Disk(path=path)])
    ours.start(a)
    ours.wait_writing(a)
    leasing.refused(theirs, b, "Lease is held by another host")


def long_path(directory, length):
    """A path of so many bytes."""
    while len(str(directory)) < length - 210:
        directory = directory / ("d" * 100)
    directory.mkdir(parents=True)
    return directory / ("f" * (length - len(str(directory)) - 1))


def test_odd_paths(sanlock_hosts, vm, shared_directory):
    a, b = sanlock_hosts
    base = shared_directory / f"odd{time.monotonic_ns()}"
    paths = [base / "with spaces and, comma", base / "a:b::c", base / "Büro \N{CJK UNIFIED IDEOGRAPH-65E5}'\"&<x>", long_path(base, 1000)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1 << 20))
    assert len(str(paths[3])) == 1000
    guest = vm([Disk(path=path) for path in paths])
    guest.start(a)
    for i in range(len(paths)):
        guest.wait_writing(a, disk=i)
    leasing.assert_held(a, guest)
    for i, path in enumerate(paths):
        twin = vm([Disk(path=path)])
        leasing.refused(twin, b, f"held by host {a.number}")
    identity = guest.identity
    guest.migrate(a, b, "--unsafe")
    guest.identity = identity
    guest.wait_writing(b, disk=3)
    leasing.assert_held(b, guest)


def test_twenty_disks_and_a_busy_ninth(sanlock_hosts, vm, shared_file, lease_directory):
    a, b = sanlock_hosts
    disks = [Disk(path=shared_file()) for _ in range(20)]
    guest = vm(disks, mode="idle")      # the firmware knows fewer drives than that
    guest.start(a)
    assert len(leasing.holders(a)) == 20
    leasing.assert_held(a, guest)
    free = [Disk(path=shared_file()) for _ in range(8)]
    nine = vm([*free, disks[10]])
    leasing.refused(nine, b, str(disks[10].path), f"held by host {a.number}")
    wait_until(lambda: leasing.holders(b) == set(), 5, "nothing is left")
    assert [lease_directory.owner(d.path) for d in free] == [None] * 8
    eight = vm(free)
    eight.start(a)
    eight.wait_writing(a, disk=7)
    eight.destroy(a)
    guest.kill(a, wait=False)
    seconds = leasing.seconds_to(lambda: all(lease_directory.owner(d.path) is None for d in disks), 5, "all twenty are free")
    print("twenty leases free after", seconds)
    assert nine.start(b).returncode == 0
    nine.disks = disks[10:11]
    nine.wait_writing(b)


def test_mixed_shared_and_by_name(sanlock_hosts, vm, image, shared_file, block_device, lease_directory):
    """RBD, file, block and a <lease> in one VM, all or nothing; shareable disks; hot-plug."""
    a, b = sanlock_hosts
    common = shared_file()
    lease_directory.format_resource("by hand")
    name, file = resource_name("by hand"), lease_directory.file("by hand")
    device = f"<lease><lockspace>{LOCKSPACE}</lockspace><key>{name}</key><target path='{file}'/></lease>"
    disks = [Disk(image()), Disk(path=shared_file()), Disk(block=block_device()), Disk(path=common, shareable=True)]
    guest = vm(disks, devices=device)
    guest.start(a)
    for i in range(3):
        guest.wait_writing(a, disk=i)
    assert leasing.holders(a) == {resource_name(d.path) for d in disks[1:]} | {name}
    assert {x["backend"] for x in a.ctl("list")["leases"]} == {"rbd", "sanlock"} and len(a.ctl("list")["leases"]) == 5
    assert [h["host"] for h in a.ctl("show", str(disks[1].path))["holders"]] == [a.name]
    leasing.refused(vm([Disk(block=disks[2].path)]), b, f"held by host {a.number}")
    leasing.refused(vm([Disk(path=shared_file())], devices=device), b, name, f"held by host {a.number}")
    spare = Disk(image())
    leasing.refused(vm([spare, disks[1]]), b, f"held by host {a.number}")
    assert b.ctl("list")["leases"] == [] and leasing.holders(b) == set()
    sharer = vm([Disk(path=common, shareable=True)], mode="idle")
    sharer.start(b)
    assert leasing.holders(b) == {resource_name(common)}
    leasing.refused(vm([Disk(path=common)]), a, "shared")
    reader = vm([Disk(path=disks[1].path, readonly=True)], mode="idle")
    reader.start(b)
    assert leasing.holders(b) == {resource_name(common)}
    # hot-plug
    extra, busy = Disk(path=shared_file(), target="sdx"), Disk(path=disks[1].path, target="sdy")
    sharer.attach(b, extra)
    wait_until(lambda: resource_name(extra.path) in leasing.holders(b), 10, "the attached disk is leased")
    leasing.refused(vm([Disk(path=extra.path)]), a, f"held by host {b.number}")
    sharer.detach(b, extra)
    wait_until(lambda: resource_name(extra.path) not in leasing.holders(b), 20, "the detached disk is free")
    done = sharer.attach(b, busy, check=False)
    assert done.returncode != 0 and f"held by host {a.number}" in done.stderr, done.stderr
    guest.wait_writing(a, disk=1)


def test_status_names_the_missing_watchdog(sanlock_hosts):
    for host in sanlock_hosts:
        wait_until(lambda h=host: leasing.backend(h)["hosts"] == 2, 10, "knows the other")
        found = leasing.backend(host)
        assert found["watchdog"] == "no" and "without a watchdog" in found["problem"] and "68 s" in found["problem"], found
        text = sanlock_hosts[0].run(leasing.VIRTLEASECTL, "status").stdout
    assert "PROBLEM: sanlock runs without a watchdog" in text, text

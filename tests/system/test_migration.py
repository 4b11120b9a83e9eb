# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live migration: the lease goes with the VM, and is never free or two-sided."""

import pytest

from bed.wait import wait_until


def leases(host):
    return [(lease["vm"], lease["state"]) for lease in host.ctl("list")["leases"]]


def test_lease_moves_with_the_vm(hosts, vm, cluster):
    a, b = hosts
    guest = vm(disks=2)
    guest.start(a)
    guest.wait_writing(a)
    for source, target in ((a, b), (b, a), (a, b)):
        guest.migrate(source, target)
        guest.wait_writing(target)
        assert leases(target) == [(guest.name, "held")] * 2
        wait_until(lambda: leases(source) == [], 10, "nothing left on the source")
    assert cluster.blocklist() == {}
    done = guest.start(a, check=False)
    assert done.returncode != 0 and b.name in done.stderr


@pytest.mark.parametrize("flags", [["--p2p"], ["--p2p", "--tunnelled"], ["--postcopy", "--postcopy-after-precopy"]], ids=str)
def test_kinds_of_migration(hosts, vm, flags):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    if "--tunnelled" in flags:
        a.virsh("migrate", "--live", guest.name, f"qemu+tcp://{b.address}/system", *flags)
    else:
        guest.migrate(a, b, *flags)
    guest.wait_writing(b)
    assert leases(b) == [(guest.name, "held")]


def test_paused_vm_migrates_without_a_gap(hosts, vm):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    a.virsh("suspend", guest.name)
    guest.migrate(a, b)
    wait_until(lambda: leases(a) == [], 10, "the source is done")
    identity = guest.identity
    assert guest.start(a, check=False).returncode != 0
    guest.identity = identity
    b.virsh("resume", guest.name)
    guest.wait_writing(b)


def test_migrate_suspend_then_resume(hosts, vm):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    guest.migrate(a, b, "--suspend")
    wait_until(lambda: leases(a) == [], 10, "the source is done")
    b.virsh("resume", guest.name)
    guest.wait_writing(b)


def test_destination_refused_then_source_runs_on(hosts, vm):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    b.kill_virtleased()
    assert guest.migrate(a, b, check=False).returncode != 0
    guest.wait_writing(a)
    assert leases(a) == [(guest.name, "held")]
    b.start_virtleased()
    guest.migrate(a, b)
    guest.wait_writing(b)


def test_source_without_virtlease_is_refused(new_host, cluster, vm):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    done = guest.migrate(a, b, check=False)
    assert done.returncode != 0 and guest.disks[0].image in done.stderr, done.stderr
    guest.wait_writing(a)


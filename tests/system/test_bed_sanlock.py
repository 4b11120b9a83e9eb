# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bed for file and block volumes, proved with libvirt's own plugins: if one of these fails, no result about sanlock means anything."""

import subprocess
import time

import pytest

from bed.attempt import Attempt
from bed.sanlock import IO_TIMEOUT_S, LOCKSPACE, resource_name
from bed.vm import Disk
from bed.wait import wait_until

pytestmark = pytest.mark.bed(lock_manager="sanlock")

DEAD_AFTER_S = 60 + 8 * IO_TIMEOUT_S        # facts of sanlock: 60 is compiled in


@pytest.fixture(params=["file", "block"])
def disk(request, shared_file, block_device):
    """A disk that every host sees under one name."""
    return Disk(path=shared_file()) if request.param == "file" else Disk(block=block_device())


def refused(guest, host, words):
    """The start must fail, and by the lock manager: QEMU's own locks would refuse as well if the bed let hosts share them."""
    done = guest.start(host, check=False)
    assert done.returncode != 0, f"started on {host.name}"
    assert guest.name not in host.domains()
    assert words in done.stderr, done.stderr


@pytest.mark.bed(lock_manager=None, sanlock=True)
def test_daemons_of_two_hosts_share_a_lockspace(hosts, lease_directory):
    assert lease_directory.takes_direct_io()
    lease_directory.format_lockspace()
    a, b = hosts
    for host in hosts:
        began = time.monotonic()
        host.sanlock.join(lease_directory)
        host.sanlock.wait_joined()
        assert time.monotonic() - began < 20 * IO_TIMEOUT_S
    assert {i: name for i, (name, _, _) in lease_directory.hosts().items()} == {a.sanlock.host_id: a.name, b.sanlock.host_id: b.name}
    for host, other in ((a, b), (b, a)):
        lockspace = host.sanlock.lockspaces()[LOCKSPACE]
        assert lockspace.host_id == host.sanlock.host_id and lockspace.path == str(lease_directory.lockspace)
        wait_until(lambda h=host, o=other: h.sanlock.lockspaces()[LOCKSPACE].hosts[o.sanlock.host_id].state == "LIVE", 15, "sees the other")


@pytest.mark.bed(lock_manager=None, sanlock=True)
def test_daemon_freeze_and_kill(host_a, lease_directory):
    lease_directory.format_lockspace()
    daemon = host_a.sanlock
    daemon.join(lease_directory)
    before = daemon.wait_joined()
    daemon.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.client("status", timeout=1)
    daemon.thaw()
    daemon.client("status")
    daemon.kill()
    with pytest.raises(RuntimeError):
        daemon.client("status")
    daemon.start()
    assert daemon.lockspaces() == {}            # a new daemon knows of nothing
    daemon.join(lease_directory)
    after = daemon.wait_joined()
    assert after.hosts[daemon.host_id].generation == before.hosts[daemon.host_id].generation + 1


@pytest.mark.bed(lock_manager=None)
def test_leases_on_disk_can_be_read_without_a_daemon(lease_directory, shared_file):
    disk, small = shared_file(), shared_file()
    assert lease_directory.leader(disk) is None and lease_directory.owner(disk) is None
    lease_directory.format_lockspace()
    lease_directory.format_resource(disk)
    lease_directory.format_resource(small, num_hosts=64)
    leader = lease_directory.leader(disk)
    assert (leader.owner, leader.lver, leader.num_hosts) == (None, 0, 2000)
    assert (leader.lockspace, leader.resource) == (LOCKSPACE, resource_name(disk))
    assert lease_directory.leader(small).num_hosts == 64
    assert lease_directory.dump() == {resource_name(path): (None, 0, 0) for path in (disk, small)}
    with pytest.raises(AssertionError):
        lease_directory.format_resource(disk)


def test_second_host_is_refused(hosts, vm, disk, lease_directory):
    a, b = hosts
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    first = guest.identity
    leader = lease_directory.leader(disk.path)
    assert leader.owner == a.sanlock.host_id and leader.resource == resource_name(disk.path)
    assert [h.resource for h in a.sanlock.held(a.qemu_pid(guest.name, inner=True))] == [resource_name(disk.path)]
    assert b.sanlock.held() == []
    refused(guest, b, "Lease is held by another host")
    assert guest.record().identity == first and lease_directory.leader(disk.path) == leader


def test_killed_qemu_frees_its_lease_at_once(hosts, vm, disk, lease_directory):
    a, b = hosts
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    pid = a.qemu_pid(guest.name, inner=True)
    assert a.sanlock.registered(pid) == [resource_name(disk.path)]
    before = lease_directory.leader(disk.path)
    guest.kill(a, wait=False)
    lease_directory.wait_free(disk.path, timeout=5)
    wait_until(lambda: a.sanlock.registered(pid) is None, 5, "sanlock forgets the process")
    guest.start(b)
    guest.wait_writing(b)
    after = lease_directory.leader(disk.path)
    assert after.owner == b.sanlock.host_id and after.lver == before.lver + 1


def test_mixed_disks(host_a, vm, image, shared_file, block_device, lease_directory, cluster):
    """A guest writes to all its disks; libvirt's plugin sees files and block devices and never an RBD image."""
    disks = [Disk(path=shared_file()), Disk(image()), Disk(block=block_device())]
    guest = vm(disks)
    guest.start(host_a)
    for i in range(len(disks)):
        guest.wait_writing(host_a, disk=i)
    assert guest.record().failures == 0
    held = {h.resource for h in host_a.sanlock.held()}
    assert held == {resource_name(disks[0].path), resource_name(disks[2].path)} == set(lease_directory.dump())
    assert len(cluster.images.watchers(disks[1].image)) == 1


def test_paused_vm_holds_no_lease(host_a, vm, shared_file, lease_directory):
    """libvirt's plugin; and what sanlock says of a process that is registered and holds nothing."""
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(host_a)
    pid = host_a.qemu_pid(guest.name, inner=True)
    assert len(host_a.sanlock.registered(pid)) == 1
    host_a.virsh("suspend", guest.name)
    assert lease_directory.owner(disk.path) is None
    assert host_a.sanlock.registered(pid) == [] and pid in host_a.sanlock.pids()
    host_a.virsh("resume", guest.name)
    assert lease_directory.owner(disk.path) == host_a.sanlock.host_id


def test_shared_lease_of_two_hosts(hosts, vm, shared_file, lease_directory):
    path = shared_file()
    for host in hosts:
        vm([Disk(path=path, shareable=True)], mode="idle").start(host)
    for host in hosts:
        assert [(h.resource, h.lver) for h in host.sanlock.held()] == [(resource_name(path), None)]
    assert lease_directory.owner(path) is None      # a shared lease has no owner in its leader


def test_eight_file_disks(host_a, vm, shared_file):
    disks = [Disk(path=shared_file()) for _ in range(8)]
    guest = vm(disks)
    guest.start(host_a)
    for i in range(8):
        guest.wait_writing(host_a, disk=i)
    pid = host_a.qemu_pid(guest.name, inner=True)
    assert set(host_a.sanlock.registered(pid)) == {resource_name(d.path) for d in disks}


def test_restarted_sanlock_does_not_know_a_running_vm(host_a, vm, shared_file, lease_directory):
    """The state that virtlease has to notice: the VM writes on, unprotected."""
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(host_a)
    guest.wait_writing(host_a)
    pid = host_a.qemu_pid(guest.name, inner=True)
    host_a.sanlock.kill()
    host_a.sanlock.start()
    assert host_a.sanlock.registered(pid) is None and host_a.sanlock.pids() == []
    guest.wait_writing(host_a)
    assert lease_directory.owner(disk.path) == host_a.sanlock.host_id      # nobody wrote to the disk since


def test_lease_of_a_dead_host_is_free_after_its_watchdog(hosts, vm, shared_file, lease_directory):
    """Power loss: the lease stays; a start on the other host waits in sanlock until the dead host's watchdog would have fired."""
    a, b = hosts
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    b.sanlock.wait_joined()
    began = time.monotonic()
    a.power_loss()
    guest.wait_silent()
    assert lease_directory.owner(disk.path) == a.sanlock.host_id
    wait_until(lambda: time.monotonic() - began > 8 * IO_TIMEOUT_S, 20, "the owner no longer counts as alive")
    attempt = Attempt(guest, b, timeout=2 * DEAD_AFTER_S)
    attempt.succeeds(timeout=2 * DEAD_AFTER_S)
    seconds = time.monotonic() - began
    assert DEAD_AFTER_S - 2 * IO_TIMEOUT_S <= seconds <= DEAD_AFTER_S + 30, seconds
    assert lease_directory.owner(disk.path) == b.sanlock.host_id


def test_rebooted_host_joins_again(host_a, vm, shared_file, lease_directory):
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(host_a)
    guest.wait_writing(host_a)
    host_a.power_loss()
    assert not host_a.sanlock.alive()
    host_a.start()
    assert host_a.sanlock.held() == []
    generation = lease_directory.hosts()[host_a.sanlock.host_id][1]
    assert generation == 2
    guest.start(host_a)         # the lease on disk names an older generation of this host
    guest.wait_writing(host_a)
    assert lease_directory.leader(disk.path).generation == generation


@pytest.mark.bed(lock_manager=None, own_locks=True)
def test_hosts_do_not_share_file_locks(hosts, vm, disk):
    """Without this every test of a lock manager would pass without one: QEMU's own locks reach through the one kernel."""
    a, b = hosts
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    first = guest.identity
    guest.start(b)
    guest.wait_writing(b)
    wait_until(lambda: guest.record().identity == first, 10, "the first guest writes again")
    other = vm([disk])
    refused(other, b, "write")      # within a host they work


@pytest.mark.bed(lock_manager="lockd")
def test_lockd_refuses_the_second_host(hosts, vm, disk):
    a, b = hosts
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    first = guest.identity
    refused(guest, b, "is locked")
    assert guest.record().identity == first
    guest.kill(a)
    guest.start(b)
    guest.wait_writing(b)


def test_virtlease_and_sanlock_side_by_side(new_host, cluster, vm, image, shared_file):
    """One host with each lock manager, each with a sanlock daemon of its own in the same lease directory."""
    a, b = new_host(cluster, lock_manager="virtlease", sanlock=True), new_host(cluster)
    a.sanlock.join(b.lease_directory)
    for host in (a, b):
        host.sanlock.wait_joined()
    on_a, on_b = vm([Disk(image())]), vm([Disk(path=shared_file())])
    for guest, host in ((on_a, a), (on_b, b)):
        guest.start(host)
        guest.wait_writing(host)
    assert len(a.ctl("list")["leases"]) == 1 and a.sanlock.held() == []
    assert [h.pid for h in b.sanlock.held()] == [b.qemu_pid(on_b.name, inner=True)]

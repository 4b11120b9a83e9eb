# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes on shared storage through the sanlock backend: the shortest way through each part of a VM's life."""

import time

import pytest

from bed.host import VIRTLEASECTL
from bed.sanlock import IO_TIMEOUT_S
from bed.vm import Disk
from bed.wait import wait_until

pytestmark = pytest.mark.bed(lock_manager="virtlease", sanlock=True, own_locks=True,
                             plugin_conf={"timeout": 250})


@pytest.fixture
def sanlock_hosts(request, new_host, cluster, lease_directory):
    """Two hosts whose virtleased sends files to sanlock."""
    made = []
    for number in (1, 2):
        made.append(new_host(cluster, conf={
            "volumes": ["any / sanlock"], "sanlock_dir": str(lease_directory.path), "sanlock_host_id": number,
            "sanlock_io_timeout": IO_TIMEOUT_S, "sanlock_user": "sanlock", "sanlock_group": "sanlock",
            "sanlock_killpath": str(VIRTLEASECTL), "takeover_wait": 200 if "power_loss" in request.node.name else 0}))
    for host in made:
        wait_until(lambda h=host: state(h) == "joined", 30, "joins")
    return made


def state(host):
    return next(b["state"] for b in host.ctl("status")["backends"] if b["name"] == "sanlock")


def test_life(sanlock_hosts, vm, shared_file, lease_directory):
    a, b = sanlock_hosts
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    identity = guest.identity
    refused = guest.start(b, check=False)
    assert refused.returncode != 0 and "held by host 1" in refused.stderr, refused.stderr
    guest.identity = identity
    a.virsh("suspend", guest.name)
    a.virsh("resume", guest.name)
    guest.wait_writing(a)
    a.kill_virtleased()
    a.start_virtleased()
    a.virsh("suspend", guest.name)
    a.virsh("resume", guest.name)
    guest.kill(a, wait=False)
    lease_directory.wait_free(disk.path, timeout=5)
    guest.start(b)
    guest.wait_writing(b)


def test_migration(sanlock_hosts, vm, shared_file):
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file()), Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    began = time.monotonic()
    guest.migrate(a, b, "--unsafe")
    print("migrated in", time.monotonic() - began)
    guest.wait_writing(b)
    assert guest.name not in a.domains()
    guest.migrate(b, a, "--unsafe")
    guest.wait_writing(a)


def test_sanlock_daemon_killed(sanlock_hosts, vm, shared_file):
    a = sanlock_hosts[0]
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    began = time.monotonic()
    a.sanlock.kill()
    wait_until(lambda: a.domain_state(guest.name) == "paused", 5, "paused")
    print("paused after", time.monotonic() - began)
    a.sanlock.start()
    wait_until(lambda: state(a) == "joined", 60, "joins again")
    assert a.virsh("resume", guest.name, check=False).returncode != 0


def test_sanlock_restarted_while_virtleased_was_down(sanlock_hosts, vm, shared_file):
    """Its leases look free to others as soon as this host joins anew: it is stopped before that."""
    a = sanlock_hosts[0]
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    a.kill_virtleased()
    a.sanlock.kill()
    a.sanlock.start()
    a.start_virtleased()
    wait_until(lambda: a.domain_state(guest.name) == "paused", 10, "paused")
    wait_until(lambda: state(a) == "joined", 60, "joins again")
    refused = a.virsh("resume", guest.name, check=False)
    assert refused.returncode != 0 and "sanlock" in refused.stderr, refused.stderr


def test_restart_in_mid_life(sanlock_hosts, vm, shared_file, lease_directory):
    """A paused VM is adopted with its lease in the same version."""
    a = sanlock_hosts[0]
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    a.virsh("suspend", guest.name)
    before = lease_directory.leader(disk.path)
    a.kill_virtleased()
    a.start_virtleased()
    a.virsh("resume", guest.name)
    guest.wait_writing(a)
    assert lease_directory.leader(disk.path).lver == before.lver


def test_lockspace_fails_and_comes_back(sanlock_hosts, vm, shared_file, lease_directory):
    """sanlock runs `virtleasectl lost`; the VM is paused, gives its leases back and so survives; then it goes on."""
    a = sanlock_hosts[0]
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    pid = a.qemu_pid(guest.name)
    good = lease_directory.lockspace.read_bytes()
    with open(lease_directory.lockspace, "r+b") as f:
        f.write(bytes(512))     # host 1's record
    began = time.monotonic()
    wait_until(lambda: a.domain_state(guest.name) == "paused", 20, "paused")
    print("paused after", time.monotonic() - began)
    wait_until(lambda: state(a) != "joined", 60, "out of the lockspace")
    with open(lease_directory.lockspace, "r+b") as f:
        f.write(good)
    wait_until(lambda: state(a) == "joined", 120, "joins again")
    assert a.qemu_pid(guest.name) == pid
    a.virsh("resume", guest.name)
    guest.wait_writing(a)


def test_ninth_disk_busy(sanlock_hosts, vm, shared_file, lease_directory):
    a, b = sanlock_hosts
    disks = [Disk(path=shared_file()) for _ in range(12)]
    other = vm([disks[8]])
    other.start(a)
    guest = vm(disks)
    refused = guest.start(b, check=False)
    assert refused.returncode != 0 and str(disks[8].path) in refused.stderr, refused.stderr
    for disk in disks[:8]:
        lease_directory.wait_free(disk.path, timeout=2)
    other.kill(a)
    guest.start(b)
    guest.wait_writing(b)
    assert all(lease_directory.owner(d.path) for d in disks)


def test_power_loss(sanlock_hosts, vm, shared_file):
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    time.sleep(5)
    a.power_loss()
    began = time.monotonic()
    guest.start(b, timeout=240)
    print("taken over after", time.monotonic() - began)
    assert 62 < time.monotonic() - began < 120
    guest.wait_writing(b)


def test_against_libvirts_own_plugin(sanlock_hosts, new_host, cluster, vm, shared_file, lease_directory):
    a = sanlock_hosts[0]
    c = new_host(cluster, lock_manager="sanlock")
    disk = Disk(path=shared_file())
    guest = vm([disk])
    guest.start(a)
    guest.wait_writing(a)
    refused = guest.start(c, check=False)
    assert refused.returncode != 0 and "held by another host" in refused.stderr, refused.stderr
    guest.destroy(a)
    lease_directory.wait_free(disk.path, timeout=5)
    guest.start(c)
    guest.wait_writing(c)
    refused = guest.start(a, check=False)
    assert refused.returncode != 0 and "held by host" in refused.stderr, refused.stderr

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
def sanlock_hosts(new_host, cluster, lease_directory):
    """Two hosts whose virtleased sends files to sanlock."""
    made = []
    for number in (1, 2):
        made.append(new_host(cluster, conf={
            "volumes": ["any / sanlock"], "sanlock_dir": str(lease_directory.path), "sanlock_host_id": number,
            "sanlock_io_timeout": IO_TIMEOUT_S, "sanlock_user": "sanlock", "sanlock_group": "sanlock",
            "sanlock_killpath": str(VIRTLEASECTL)}))
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

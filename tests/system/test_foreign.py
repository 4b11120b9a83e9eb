# SPDX-License-Identifier: LGPL-2.1-or-later
"""Users of an image that no lease explains: hosts without virtlease."""

import threading
import time

import pytest

from bed.lease import holder
from bed.observe import QemuRuns
from bed.wait import wait_until

WATCH_GONE_S = 45       # Ceph drops the watch of a dead client after 30 s
REFUSED_WITHIN_S = 3 + 2


@pytest.mark.parametrize("mode", ["idle", "write"])
def test_living_foreign_vm_refuses_a_start(new_host, cluster, vm, mode):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm(mode=mode)
    guest.start(a)
    identity = guest.identity
    if mode == "write":
        guest.wait_writing(a)
    (address,) = cluster.images.watchers(guest.disks[0].image)
    with QemuRuns(b) as runs:
        began = time.monotonic()
        done = guest.start(b, check=False)
        assert time.monotonic() - began < REFUSED_WITHIN_S
        assert done.returncode != 0 and address in done.stderr and guest.disks[0].image in done.stderr, done.stderr
        assert not runs.any()
    assert cluster.blocklist() == {} and holder(cluster, guest.disks[0].image) is None
    if mode == "write":
        guest.identity = identity
        guest.wait_writing(a)
    guest.destroy(a)
    guest.start(b)


def test_program_with_the_image_open_refuses_a_start(host_b, cluster, vm):
    """Like rbd map, or somebody's import."""
    guest = vm(mode="idle")
    with cluster.images.open(guest.disks[0].image, read_only=False) as image:
        (watcher,) = image.watchers_list()
        done = guest.start(host_b, check=False)
        assert done.returncode != 0 and watcher["addr"] in done.stderr, done.stderr
    guest.start(host_b)


def test_short_use_of_the_image_is_waited_for(host_b, cluster, vm):
    """Somebody's rbd command of a second."""
    guest = vm(mode="idle")
    opened = threading.Event()

    def use():
        with cluster.images.open(guest.disks[0].image, read_only=False):
            opened.set()
            time.sleep(1.5)
    thread = threading.Thread(target=use)
    thread.start()
    opened.wait(10)
    guest.start(host_b)
    thread.join(10)


def test_dead_foreign_owner_is_fenced(new_host, cluster, vm):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    (victim,) = cluster.images.watchers(guest.disks[0].image)
    a.power_loss()
    done = guest.start(b, check=False)
    assert done.returncode != 0 and victim in done.stderr       # its watch says nothing yet
    wait_until(lambda: not cluster.images.watchers(guest.disks[0].image), WATCH_GONE_S, "its watch is gone")
    assert cluster.images.lock_owner(guest.disks[0].image)["address"] == victim
    guest.start(b)
    guest.wait_writing(b)
    assert set(cluster.blocklist()) == {victim}


@pytest.mark.bed(conf={"foreign_users": "ignore"})
def test_foreign_users_ignored(new_host, cluster, vm):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm(mode="idle")
    guest.start(a)
    guest.start(b)
    assert b.domain_state(guest.name) == "running" and a.domain_state(guest.name) == "running"
    assert cluster.blocklist() == {}

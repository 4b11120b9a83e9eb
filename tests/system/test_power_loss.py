# SPDX-License-Identifier: LGPL-2.1-or-later
"""The owner's host dies."""

import time

import pytest

EXPIRE = 30 * 24 * 3600


@pytest.mark.bed(ceph_conf=["rbd_blocklist_expire_seconds = 3600"])
def test_one_start_after_power_loss(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    victims = set(cluster.images.watchers(guest.disks[0].image))
    a.power_loss()
    began = time.monotonic()
    guest.start(b)
    took = time.monotonic() - began
    guest.wait_writing(b)
    listed = cluster.blocklist()
    assert set(listed) == victims
    print(f"crash to running: {took:.1f} s; blocklist {listed}")

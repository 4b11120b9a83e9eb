# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host loses the network for a while."""

import time

from bed.lease import listed, stored
from bed.wait import wait_until

PARTITION_S = 60


def test_partition_with_nobody_wanting_its_disks(hosts, vm, cluster):
    a, _ = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    image = guest.disks[0].image
    before, leases, (session,) = stored(cluster, image), listed(a), a.ctl("status")["sessions"]
    pid = a.qemu_pid(guest.name)
    a.partition()
    time.sleep(PARTITION_S)
    assert a.ctl("status")["sessions"][0]["state"] == "silent"
    assert listed(a) == leases
    assert a.domain_state(guest.name) == "running"
    a.heal()
    guest.wait_writing(a)
    assert guest.record().failures == 0
    wait_until(lambda: a.ctl("status")["sessions"][0]["state"] == "live", 30, "the session goes on")
    assert a.ctl("status")["sessions"][0]["session"] == session["session"]
    assert listed(a) == leases
    assert {**stored(cluster, image), "write": 0} == {**before, "write": 0}
    assert cluster.blocklist() == {}
    assert a.qemu_pid(guest.name) == pid and a.domain_state(guest.name) == "running"
    guest.wait_writing(a)

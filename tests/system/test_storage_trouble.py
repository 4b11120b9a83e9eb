# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage misbehaves while another host asks for a volume that is in use: nobody is dead because of that.

Each time: no lease lost, nobody fenced, the asker refused as soon as storage answers, the owner's guest writes on.
"""

import copy
import time
import uuid
from contextlib import contextmanager

from bed.lease import holder, stored
from bed.observe import StartAgainAndAgain
from bed.vm import Disk
from bed.wait import wait_until

AWAY_S = 25
PAUSE_S = 30
STEP_S = 60
ANSWERED_WITHIN_S = 6


def lease_of(cluster, guest):
    """The part of the record that must not change."""
    one = holder(cluster, guest.disks[0].image)
    return one["session"], one["addrs"], one["since"], one["state"]


@contextmanager
def b_asks_for_it(guest, a, b, cluster):
    """Around the trouble. When the block ends the storage answers again."""
    guest.start(a)
    guest.wait_writing(a)
    before, epoch = lease_of(cluster, guest), stored(cluster, guest.disks[0].image)["epoch"]
    with StartAgainAndAgain(copy.copy(guest), b) as starts:
        wait_until(lambda: starts.attempts, 20, "a first start was refused")
        yield starts
        back = time.monotonic()
        wait_until(lambda: starts.attempts[-1].began > back, 60, "another start was refused")
    starts.assert_all_refused()
    guest.wait_writing(a)
    assert cluster.blocklist() == {}
    assert lease_of(cluster, guest) == before and stored(cluster, guest.disks[0].image)["epoch"] == epoch
    assert b.domains() == []
    across = [x for x in starts.attempts if x.ended > back]
    print(f"refused {across[0].ended - back:.1f} s after the storage was back: {across[0].done.stderr.splitlines()[-1]}")
    assert across[0].ended - back < ANSWERED_WITHIN_S
    assert "that host is alive" in starts.attempts[-1].done.stderr
    (lease,) = a.ctl("list")["leases"]
    assert lease["state"] == "held"


def osd_of(cluster, name):
    return cluster.command("osd map", pool="rbd", object=name)["up_primary"]


def smaller_osd(cluster):
    """The OSD with fewer objects of a pool: it is easier to keep away from."""
    osds = [osd_of(cluster, f"sample{i}") for i in range(64)]
    assert set(osds) == {0, 1}
    return min(set(osds), key=osds.count)


def host_id_on(cluster, osd):
    """A host id whose session object is on that OSD."""
    return next(i for i in (str(uuid.uuid4()) for _ in range(1000)) if osd_of(cluster, f"virtlease.host.{i}") == osd)


def image_off(cluster, osd):
    """A new image that has nothing its user needs on that OSD."""
    for i in range(200):
        if osd_of(cluster, f"rbd_id.off{i}") == osd:
            continue
        spec = cluster.images.create(f"rbd/off{i}")
        with cluster.images.open(spec) as image:
            objects = [f"rbd_header.{image.id()}", f"{image.stat()['block_name_prefix']}.{0:016x}", f"rbd_object_map.{image.id()}"]
        if all(osd_of(cluster, o) != osd for o in objects):
            return spec
    raise AssertionError("no such image")


def test_osd_of_the_session_restarts(new_cluster, new_host, vm):
    """Only the session object is away; the volume and its lease can be read all the time."""
    cluster = new_cluster(osds=2, size=1)
    osd = smaller_osd(cluster)
    a, b = new_host(cluster, start=False), new_host(cluster)
    a.daemon_conf["host_id"] = host_id_on(cluster, osd)
    a.start()
    guest = vm([Disk(image_off(cluster, osd))], cluster=cluster)
    with b_asks_for_it(guest, a, b, cluster):
        cluster.stop_osd(osd)
        time.sleep(AWAY_S)
        guest.wait_writing(a, timeout=5)        # its disk is elsewhere
        cluster.start_osd(osd)
        cluster.wait_clean()


def test_osd_pause(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    with b_asks_for_it(guest, a, b, cluster):
        cluster.pause()
        time.sleep(PAUSE_S)
        cluster.unpause()


def test_osd_clock_steps(hosts, vm, cluster, tmp_path):
    """Watches and lock durations expire at once by that clock."""
    a, b = hosts
    clock = tmp_path / "clock"
    clock.write_text("+0")
    cluster.stop_osd(0)
    cluster.start_osd(0, clock_file=clock)
    guest = vm()
    with b_asks_for_it(guest, a, b, cluster) as starts:
        seen = len(starts.attempts)
        clock.write_text(f"+{STEP_S}")
        wait_until(lambda: len(starts.attempts) > seen + 20, 60, "many more starts were refused")

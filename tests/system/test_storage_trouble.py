# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage misbehaves while another host asks for a volume that is in use: nobody is dead because of that.

Each time: no lease lost, nobody fenced, the asker refused as soon as storage answers, the owner's guest writes on.
"""

import time
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
    before, epoch, identity = lease_of(cluster, guest), stored(cluster, guest.disks[0].image)["epoch"], guest.identity
    with StartAgainAndAgain(guest, b) as starts:
        wait_until(lambda: starts.attempts, 20, "a first start was refused")
        yield starts
        back = time.monotonic()
        wait_until(lambda: starts.attempts[-1].began > back, 60, "another start was refused")
    starts.assert_all_refused()
    guest.identity = identity
    guest.wait_writing(a)
    assert cluster.blocklist() == {}
    assert lease_of(cluster, guest) == before and stored(cluster, guest.disks[0].image)["epoch"] == epoch
    assert b.domains() == []
    across = [x for x in starts.attempts if x.ended > back]
    print(f"refused {across[0].ended - back:.1f} s after the storage was back: {across[0].done.stderr.strip()}")
    assert across[0].ended - back < ANSWERED_WITHIN_S
    assert "that host is alive" in starts.attempts[-1].done.stderr
    (lease,) = a.ctl("list")["leases"]
    assert lease["state"] == "held"


def image_apart(cluster, host):
    """A new image none of whose objects is on the OSD that has the session object of that host; and that OSD."""
    def osd_of(name):
        return cluster.command("osd map", pool="rbd", object=name)["up_primary"]
    away = osd_of(f"virtlease.host.{host.uuid}")
    for i in range(200):
        name = f"apart{i}"
        if osd_of(f"rbd_id.{name}") == away:
            continue
        spec = cluster.images.create(f"rbd/{name}")
        with cluster.images.open(spec) as image:
            objects = [f"rbd_header.{image.id()}", f"{image.stat()['block_name_prefix']}.{0:016x}", f"rbd_object_map.{image.id()}"]
        if all(osd_of(o) != away for o in objects):
            return spec, away
    raise AssertionError("no such image")


def test_osd_of_the_session_restarts(new_cluster, new_host, vm):
    cluster = new_cluster(osds=2, size=1)
    a, b = new_host(cluster), new_host(cluster)
    spec, osd = image_apart(cluster, a)
    guest = vm([Disk(spec)], cluster=cluster)
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

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The owner's host dies while its guest writes; one start elsewhere is enough."""

import subprocess
import time
from datetime import datetime

import pytest

from bed.lease import log_of, stored
from bed.observe import plain_start, start_time_of
from bed.wait import wait_until

DEAD_AFTER_S = 10       # the default
ROOM_S = 3
MONTH_S = 30 * 24 * 3600
SLACK_S = 60
SHORT_S = 25

pytestmark = pytest.mark.bed(ceph_conf=["rbd_blocklist_expire_seconds = 3600"])


def clients(guest, cluster):
    """Addresses of all clients of a running VM."""
    return {address for disk in guest.disks for address in cluster.images.watchers(disk.image)}


def seconds_left(text):
    """Of a blocklist entry, from the time the monitor prints for it."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() - time.time()


def assert_fenced(cluster, addresses, expire):
    """Exactly these are blocklisted, for that long."""
    listed = cluster.blocklist()
    assert set(listed) == addresses
    for text in listed.values():
        assert expire - SLACK_S < seconds_left(text) <= expire


def taken_over(guest, a, b):
    """Power loss of a, one start on b; returns the seconds that it took."""
    guest.wait_writing(a)
    a.power_loss()
    took = start_time_of(guest, b)
    guest.wait_writing(b)
    assert guest.record().failures == 0
    return took


def test_one_start_after_power_loss(hosts, vm, cluster):
    a, b = hosts
    guest, bystander, unrelated = vm(), vm(), vm()
    plain = plain_start(unrelated, b)
    guest.start(a)
    bystander.start(a)          # dies with its host as well, but nobody wants its disk
    unrelated.start(b)
    guest.wait_writing(a)
    victims = clients(guest, cluster)
    took = taken_over(guest, a, b)
    print(f"crash to running: {took:.2f} s; a plain start: {plain:.2f} s")
    assert took < DEAD_AFTER_S + ROOM_S + plain
    assert len(victims) == 1
    assert_fenced(cluster, victims, MONTH_S)
    assert {fenced["addr"] for fenced in stored(cluster, guest.disks[0].image)["fenced"]} == victims
    unrelated.wait_writing(b)


@pytest.mark.bed(conf={"blocklist_expire": 7200})
def test_configured_expiry(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    guest.start(a)
    victims = clients(guest, cluster)
    taken_over(guest, a, b)
    assert_fenced(cluster, victims, 7200)


def test_decimal_comma(hosts, vm, cluster, tmp_path):
    """In a locale whose numbers have a comma the monitors still get a JSON number."""
    a, b = hosts
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], check=True)
    tmp_path.chmod(0o755)
    environment = {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.UTF-8"}
    assert a.run("env", *[f"{k}={v}" for k, v in environment.items()], "printf", "%.1f", "1,5").stdout == "1,5"
    for host in hosts:
        host.stop_virtleased()
        host.start_virtleased(env=environment)
    guest = vm()
    guest.start(a)
    victims = clients(guest, cluster)
    taken_over(guest, a, b)
    assert_fenced(cluster, victims, MONTH_S)


def test_eight_disks(hosts, vm, cluster):
    a, b = hosts
    guest, other = vm(disks=8), vm(disks=8)
    plain = plain_start(other, b, times=2)
    guest.start(a)
    victims = clients(guest, cluster)
    assert len(victims) == 8
    took = taken_over(guest, a, b)
    for disk in range(8):
        guest.wait_writing(b, disk=disk)
    print(f"crash to running, 8 disks: {took:.2f} s; a plain start: {plain:.2f} s")
    assert took < DEAD_AFTER_S + ROOM_S + plain
    assert_fenced(cluster, victims, MONTH_S)


def test_address_already_blocklisted_for_a_shorter_time(hosts, vm, cluster):
    """Adding it again changes nothing and reports success; said in log and lease, and set anew when it lapses."""
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    victims = clients(guest, cluster)
    (victim,) = victims
    a.power_loss()
    cluster.blocklist_add(victim, SHORT_S)
    short = cluster.blocklist()[victim]
    guest.start(b)
    guest.wait_writing(b)
    assert cluster.blocklist() == {victim: short}
    assert victim in log_of(b) and "lapses" in log_of(b)
    (fenced,) = b.ctl("show", guest.disks[0].image)["fenced"]
    assert fenced["addr"] == victim and fenced["until"] < fenced["wanted"] and fenced["until"] - fenced["at"] < SHORT_S
    wait_until(lambda: cluster.blocklist().get(victim, short) != short, SHORT_S + 20, "fenced anew")
    assert_fenced(cluster, victims, MONTH_S)
    wait_until(lambda: all(f["until"] >= f["wanted"] for f in stored(cluster, guest.disks[0].image)["fenced"]), 10, "said in the lease")
    assert "fenced anew" in log_of(b)
    guest.wait_writing(b)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start, refused double start, end: the main job without any disaster."""

import threading
import time

import libvirt

from bed.lease import holder, listed, states
from bed.observe import QemuRuns, plain_start, start_time_of
from bed.vm import VM, Disk
from bed.wait import holds_for, wait_until

REFUSED_WITHIN_S = 2
NO_WAITING_S = 1
RACES = 50
CROSSED_RACES = 10


def test_refused_double_start(hosts, vm, kernel, cluster):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    identity = guest.identity
    image = guest.disks[0].image
    twin = VM(cluster, kernel, "twin", [Disk(image)])
    with QemuRuns(b) as runs:
        for other in (guest, twin):
            began = time.monotonic()
            done = other.start(b, check=False)
            assert time.monotonic() - began < REFUSED_WITHIN_S
            assert done.returncode != 0
            for word in (image, guest.name, a.name, "since 20"):
                assert word in done.stderr, done.stderr
            assert "cause is unknown" not in done.stderr
            assert b.domains() == []
        assert not runs.any()
        innocent = vm(mode="idle")
        innocent.start(b)
        assert runs.any()       # what is looked at above does happen
    guest.identity = identity
    guest.wait_writing(a)
    assert guest.record().failures == 0
    assert len(cluster.images.watchers(image)) == 1     # QEMU on B never opened it


def test_destroyed_vm_leaves_nothing_behind(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    for host in (a, b, a):
        guest.start(host)
        guest.wait_writing(host)
        guest.destroy(host)
    wait_until(lambda: not listed(a), 5, "no lease left")
    assert cluster.blocklist() == {}


def test_next_start_after_an_end_needs_no_waiting(hosts, vm):
    """Destroyed or killed, here or there; librbd alone waits 28 s after a kill -9."""
    guest = vm()
    plain = min(plain_start(guest, host) for host in hosts)

    def destroy(host, _other):
        guest.destroy(host)

    def kill(host, other):
        guest.kill(host, wait=not other)

    for end in (destroy, kill):
        for other in (False, True):
            took = []
            for i in range(3):
                here = hosts[i % 2]
                there = hosts[(i + other) % 2]
                guest.start(here)
                guest.wait_writing(here)
                end(here, other)
                took.append(start_time_of(guest, there))
                guest.wait_writing(there)
                guest.destroy(there)
                wait_until(lambda h=here: guest.name not in h.domains(), 10, "nothing of it runs")
            print(f"{end.__name__}, {'other' if other else 'same'} host: {min(took):.2f} s; a plain start: {plain:.2f} s")
            assert min(took) < plain + NO_WAITING_S, took


def race(contenders):
    """Starts all (host, xml) at once; returns [(host, domain or error)]."""
    gate = threading.Barrier(len(contenders))
    results = [None] * len(contenders)

    def start(i, host, xml):
        connection = host.connect()
        gate.wait(20)
        try:
            results[i] = connection.createXML(xml)
        except libvirt.libvirtError as e:
            results[i] = e
    threads = [threading.Thread(target=start, args=(i, host, xml)) for i, (host, xml) in enumerate(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return [(host, result) for (host, _), result in zip(contenders, results)]


def assert_one_winner(results):
    """Exactly one start worked; returns its (host, domain). Everybody else was told why not."""
    winners = [(host, result) for host, result in results if isinstance(result, libvirt.virDomain)]
    losers = [result for _, result in results if isinstance(result, libvirt.libvirtError)]
    assert len(winners) == 1 and len(losers) == len(results) - 1, results
    for loser in losers:
        assert "virtlease" in str(loser) or "is in use" in str(loser) or "is being taken over" in str(loser), loser
        assert "cause is unknown" not in str(loser)
    return winners[0]


def test_two_hosts_in_the_same_instant(hosts, vm, cluster):
    guest = vm(mode="idle")
    wins = {host.name: 0 for host in hosts}
    for _ in range(RACES):
        guest.new_incarnation()
        winner, domain = assert_one_winner(race([(host, guest.xml()) for host in hosts]))
        assert holder(cluster, guest.disks[0].image)["name"] == winner.name
        assert [host.name for host in hosts if host.connect().listDomainsID()] == [winner.name]
        wins[winner.name] += 1
        domain.destroy()
    print(f"wins: {wins}")
    assert min(wins.values()) > 0


def test_two_disks_in_crossed_order(hosts, vm, cluster, kernel, image):
    """Neither gets one disk each."""
    images = [image(), image()]
    one = VM(cluster, kernel, "forth", [Disk(i) for i in images], mode="idle")
    two = VM(cluster, kernel, "back", [Disk(i) for i in reversed(images)], mode="idle")
    for _ in range(CROSSED_RACES):
        for guest in (one, two):
            guest.new_incarnation()
        winner, domain = assert_one_winner(race([(hosts[0], one.xml()), (hosts[1], two.xml())]))
        assert {holder(cluster, i)["name"] for i in images} == {winner.name}
        domain.destroy()


def test_pause_parks_and_resume_holds(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    assert states(host_a, guest) == ["held"]
    for _ in range(3):
        host_a.virsh("suspend", guest.name)
        assert states(host_a, guest) == ["parked"]
        guest.wait_silent()
        host_a.virsh("resume", guest.name)
        assert states(host_a, guest) == ["held"]
        guest.wait_writing(host_a)
    holds_for(lambda: states(host_a, guest) == ["held"], 1, "stays held")

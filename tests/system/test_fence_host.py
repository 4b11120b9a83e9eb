# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtleasectl fence: an operator or an HA manager knows that a host is dead."""

from bed.lease import listed, log_of, states, stored
from bed.observe import plain_start, start_time_of
from bed.wait import wait_until

KNOWN_DEAD_ROOM_S = 0.3
TIMES = 3
EXIT_HELD = 4
NOTICED_S = 20


def clients(guest, cluster):
    return {address for disk in guest.disks for address in cluster.images.watchers(disk.image)}


def test_known_dead_needs_no_waiting(hosts, vm, cluster):
    a, b = hosts
    guests = [vm() for _ in range(TIMES)]
    plain = plain_start(vm(), b)
    for guest in guests:
        guest.start(a)
    for guest in guests:
        guest.wait_writing(a)
    victims = set().union(*(clients(guest, cluster) for guest in guests))
    a.power_loss()
    answer = b.ctl("fence", a.name)
    assert answer["host"] == a.name and {lease["vm"] for lease in answer["leases"]} == {guest.name for guest in guests}
    assert set(cluster.blocklist()) == victims
    assert all(not stored(cluster, guest.disks[0].image)["holders"] for guest in guests)
    took = []
    for guest in guests:
        took.append(start_time_of(guest, b))
        guest.wait_writing(b)
        guest.destroy(b)
    print(f"known dead to running: {min(took):.2f} s; a plain start: {plain:.2f} s")
    assert min(took) < plain + KNOWN_DEAD_ROOM_S, took


def test_eight_disks_in_one_monitor_round(hosts, vm, cluster):
    a, b = hosts
    guest = vm(disks=8)
    guest.start(a)
    guest.wait_writing(a)
    victims = clients(guest, cluster)
    assert len(victims) == 8
    a.power_loss()
    before = cluster.command("osd dump")["epoch"]
    b.ctl("fence", a.name)
    assert set(cluster.blocklist()) == victims
    assert cluster.command("osd dump")["epoch"] - before <= 2
    guest.start(b)
    guest.wait_writing(b)


def test_living_host_is_refused(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    before = stored(cluster, guest.disks[0].image)
    done = b.ctl("fence", a.name, check=False)
    assert done.returncode == EXIT_HELD
    assert a.name in done.stderr + done.stdout and "alive" in done.stderr + done.stdout
    assert cluster.blocklist() == {}
    assert stored(cluster, guest.disks[0].image) == before
    assert states(a, guest) == ["held"]
    guest.wait_writing(a)


def test_unknown_host_and_this_host_are_refused(hosts, vm):
    a, b = hosts
    guest = vm()
    guest.start(a)
    for name in ("nosuchhost", a.name):
        done = a.ctl("fence", name, check=False)
        assert done.returncode not in (0, EXIT_HELD) and name in done.stderr + done.stdout, done
    assert b.ctl("fence", a.name, check=False).returncode == EXIT_HELD
    guest.wait_writing(a)


def test_force_on_a_living_host(hosts, vm, cluster):
    """All its leases' clients are fenced and their VMs may start elsewhere; its daemon notices and goes on under a new session number."""
    a, b = hosts
    guests = [vm(), vm()]
    for guest in guests:
        guest.start(a)
        guest.wait_writing(a)
    victims = set().union(*(clients(guest, cluster) for guest in guests))
    old = a.ctl("status")["sessions"][0]["session"]
    answer = b.ctl("fence", a.name, "--force")
    assert set(cluster.blocklist()) == victims
    assert {address for lease in answer["leases"] for address in lease["fenced"]} == victims
    identity = guests[0].identity
    guests[0].start(b)
    guests[0].wait_writing(b)
    wait_until(lambda: all(states(a, guest) == ["lost"] for guest in guests), NOTICED_S, "its leases are lost")
    wait_until(lambda: a.ctl("status")["sessions"][0]["state"] == "live", NOTICED_S, "its session goes on")
    assert a.ctl("status")["sessions"][0]["session"] > old
    assert identity != guests[0].record().identity
    assert "LOST" in log_of(a)
    fresh = vm()
    fresh.start(a)              # the host itself is not fenced
    fresh.wait_writing(a)
    assert fresh.start(b, check=False).returncode != 0
    for guest in guests:
        guest.destroy(a)
    wait_until(lambda: [lease["vm"] for lease in listed(a)] == [fresh.name], NOTICED_S, "forgotten")
    guests[1].start(a)
    guests[1].wait_writing(a)
    assert set(cluster.blocklist()) == victims

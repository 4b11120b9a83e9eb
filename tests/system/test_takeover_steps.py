# SPDX-License-Identifier: LGPL-2.1-or-later
"""A takeover, step by step: who dies, wakes up or comes between at which point, and what must be true afterwards.

Each time: at most one QEMU writes, somebody can run the VM afterwards without a person, no living QEMU is fenced in vain.
"""

import pytest

from bed.attempt import Attempt
from bed.checks import clients, lease_states, log_of, only_writer, wait_awake
from bed.fault import FAULT_ENV, Faults
from bed.ghost import read_record
from bed.wait import wait_until

DEAD_AFTER_S = 4
ENOUGH_S = 30       # two windows of silence, one after the other, and two slow starts

pytestmark = pytest.mark.bed(conf={"dead_after": DEAD_AFTER_S}, env=FAULT_ENV)


def starts(guest, host, timeout=ENOUGH_S):
    """Somebody can run without a person: one plain start works within bounded time."""
    return Attempt(guest, host).succeeds(timeout)


@pytest.fixture
def owner(host_a, vm):
    """A VM that runs and writes on host a."""
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    return guest


def freeze(host, what):
    if what == "daemon":
        host.virtleased.freeze()
    else:
        host.freeze()


def thaw(host, what):
    if what == "daemon":
        host.virtleased.thaw()
    else:
        host.thaw()


# The owner wakes up


@pytest.mark.parametrize("frozen, point", [("daemon", "after-verdict"), ("host", "after-verdict"), ("daemon", "after-claim"),
                                           ("host", "after-claim")])
def test_owner_wakes_before_the_fence(hosts, owner, cluster, frozen, point):
    """B's second look at counter and challenge (after its claim) sees A; B withdraws, nobody was fenced."""
    a, b = hosts
    faults = Faults(b)
    faults.arm(point)
    freeze(a, frozen)
    attempt = Attempt(owner, b)
    faults.await_hit(point)
    thaw(a, frozen)
    wait_awake(a)
    faults.release(point)
    attempt.fails()
    assert cluster.blocklist() == {}
    assert b.domains() == []
    only_writer(owner)
    wait_until(lambda: lease_states(a) == ["held"], 5, "the lease is A's")
    assert "claim" not in read_record(cluster, owner.disks[0].image)
    owner.destroy(a)
    only_writer(starts(owner, b))


@pytest.mark.parametrize("frozen", ["daemon", "host"])
def test_owner_wakes_after_the_fence(hosts, owner, cluster, frozen):
    """Too late: its clients are fenced, so B must get the lease, and A must say that it lost it.

    A's look after its silence finds B's claim and leaves it to B. It used to look again only after audit_interval, so that a fenced VM
    went on for half a minute; now it looks every second while a claim stands."""
    a, b = hosts
    victims = clients(cluster, owner)
    faults = Faults(b)
    faults.arm("after-fence")
    freeze(a, frozen)
    attempt = Attempt(owner, b)
    faults.await_hit("after-fence")
    thaw(a, frozen)
    wait_awake(a)
    faults.release("after-fence")
    only_writer(attempt.succeeds())
    assert set(cluster.blocklist()) == victims
    wait_until(lambda: a.domain_state(owner.name) != "running", 10, "A's VM stops")
    assert "LOST" in log_of(a)


def test_owner_replaced_between_the_two_reads(hosts, host_c, owner, cluster):
    """B has looked at record and watchers; C takes the volume over; B's second read differs, so B knows nothing and fences nobody."""
    a, b = hosts
    victims = clients(cluster, owner)
    faults = Faults(b)
    faults.arm("between-reads")
    a.power_loss()
    attempt = Attempt(owner, b)
    faults.await_hit("between-reads")
    winner = starts(owner, host_c)
    faults.release("between-reads")
    attempt.fails(host_c.name)
    only_writer(winner)
    assert set(cluster.blocklist()) == victims


# The claimant dies


def die(host, how, faults, point, guest):
    """Let host begin a takeover and die at that point."""
    faults.arm(point, "exit" if how == "daemon" else "wait")
    attempt = Attempt(guest, host)
    faults.await_hit(point)
    if how == "power":
        host.power_loss()
        faults.release(point)
    else:
        attempt.fails()
        faults.release(point)


@pytest.mark.parametrize("point", ["after-claim", "after-fence"])
def test_claimant_restarts(hosts, owner, cluster, point):
    """virtleased of B dies with its claim in the record and is restarted: the claim is its own leftover, the next start goes on."""
    a, b = hosts
    victims = clients(cluster, owner)
    a.power_loss()
    die(b, "daemon", Faults(b), point, owner)
    b.start_virtleased()
    only_writer(starts(owner, b))
    assert set(cluster.blocklist()) == victims


@pytest.mark.parametrize("how, point", [("daemon", "after-claim"), ("power", "after-claim"), ("power", "after-fence")])
def test_claimant_dies_and_another_host_takes_over(hosts, host_c, owner, cluster, how, point):
    """C waits for both verdicts, on the owner and on the claimant, and takes the claim over with its set. One start is enough,
    because both windows pass at the same time: one after the other they would outlast takeover_wait at the default dead_after."""
    a, b = hosts
    victims = clients(cluster, owner)
    a.power_loss()
    die(b, how, Faults(b), point, owner)
    only_writer(starts(owner, host_c))
    assert set(cluster.blocklist()) == victims


def test_owner_strikes_the_claim_of_a_dead_claimant(hosts, owner, cluster):
    """B dies after its claim, A wakes: A's VM runs on, and A's record is its own again."""
    a, b = hosts
    a.virtleased.freeze()
    die(b, "daemon", Faults(b), "after-claim", owner)
    a.virtleased.thaw()
    wait_until(lambda: "claim" not in read_record(cluster, owner.disks[0].image), 20, "the claim is struck")
    only_writer(owner)
    assert lease_states(a) == ["held"] and cluster.blocklist() == {}


def test_owner_wakes_to_a_dead_claimant_that_had_fenced(hosts, host_c, owner, cluster):
    """B fenced A's QEMU and died before its grant. A wakes: it must notice that its clients are fenced and give the lease up, so that C
    can have it at once."""
    a, b = hosts
    victims = clients(cluster, owner)
    a.virtleased.freeze()
    die(b, "daemon", Faults(b), "after-fence", owner)
    a.virtleased.thaw()
    wait_until(lambda: lease_states(a) == ["lost"], 20, "A notices")
    only_writer(starts(owner, host_c))
    assert set(cluster.blocklist()) == victims


# The claimant pauses


def test_claimant_pauses_after_its_verdict(hosts, host_c, owner, cluster):
    """B, frozen between verdict and claim, wakes up when C has finished: B must look again, not act on what it knew."""
    a, b = hosts
    victims = clients(cluster, owner)
    faults = Faults(b)
    faults.arm("before-claim", "stop")
    a.power_loss()
    attempt = Attempt(owner, b)
    faults.await_hit("before-claim")
    winner = starts(owner, host_c)
    faults.release("before-claim")
    b.virtleased.thaw()
    attempt.fails(host_c.name)
    only_writer(winner)
    assert set(cluster.blocklist()) == victims


@pytest.mark.parametrize("point", ["before-fence", "after-fence"])
def test_claimant_pauses_and_another_finishes(hosts, host_c, owner, cluster, point):
    """B, frozen after its claim, is dead for C, which takes the claim over. B wakes up: its claim is gone, so it fences nobody, breaks no
    lock (that of C's QEMU by now) and is refused."""
    a, b = hosts
    victims = clients(cluster, owner)
    faults = Faults(b)
    faults.arm(point, "stop")
    a.power_loss()
    attempt = Attempt(owner, b)
    faults.await_hit(point)
    winner = starts(owner, host_c)
    faults.release(point)
    b.virtleased.thaw()
    attempt.fails(host_c.name)
    only_writer(winner)
    assert set(cluster.blocklist()) == victims


def test_claimant_pauses_before_its_fence_and_the_owner_wakes(hosts, owner, cluster):
    """B claims, confirms, and is frozen as a whole before its fence. A wakes up, finds B dead and strikes the claim: A's VM is alive and
    has its lease. B wakes up: it must look at its claim once more before it fences, or it fences a living QEMU in vain."""
    a, b = hosts
    faults = Faults(b)
    faults.arm("before-fence", "stop")
    a.virtleased.freeze()
    attempt = Attempt(owner, b)
    faults.await_hit("before-fence")
    a.virtleased.thaw()
    wait_until(lambda: "claim" not in read_record(cluster, owner.disks[0].image), 20, "A strikes the claim")
    faults.release("before-fence")
    b.virtleased.thaw()
    attempt.fails()
    assert cluster.blocklist() == {}
    only_writer(owner)
    assert lease_states(a) == ["held"]


def test_two_claimants_at_once(hosts, host_c, vm, cluster):
    """B and C have the same verdict at the same time, about a VM with three disks: one claims all, the other one is refused and fences
    nobody."""
    a, b = hosts
    owner = vm(disks=3)
    owner.start(a)
    owner.wait_writing(a)
    victims = set().union(*(clients(cluster, owner, i) for i in range(3)))
    both = [(host, Faults(host)) for host in (b, host_c)]
    for _, faults in both:
        faults.arm("before-claim")
    a.power_loss()
    attempts = [Attempt(owner, host) for host, _ in both]
    for _, faults in both:
        faults.await_hit("before-claim")
    for _, faults in both:
        faults.release("before-claim")
    results = [attempt.result() for attempt in attempts]
    won = [attempt for attempt, done in zip(attempts, results) if done.returncode == 0]
    assert len(won) == 1, [done.stderr for done in results]
    only_writer(won[0].succeeds())
    loser = next(attempt for attempt in attempts if attempt not in won)
    loser.fails(won[0].host.name)
    assert set(cluster.blocklist()) == victims

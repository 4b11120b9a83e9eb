# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about calls, threads and messages: R18, R19, R21, R22 of the design."""

import json
import time

import pytest

from bed.attempt import Attempt
from bed.checks import clients, kill_pid, lease_states, log_of, only_writer, starting_child, wait_awake, wait_log, wait_states
from bed.fault import FAULT_ENV, Faults
from bed.ghost import Answerer, Ghost, read_record, write_record
from bed.wait import holds_for, wait_until

DEAD_AFTER_S = 4
MANY = 10

pytestmark = pytest.mark.bed(conf={"dead_after": DEAD_AFTER_S}, env=FAULT_ENV)


@pytest.fixture
def running(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    return guest


# R18: a write whose answer was lost


@pytest.mark.bed(conf={"dead_after": DEAD_AFTER_S, "op_timeout": 2})
def test_r18_a_write_that_timed_out_and_arrived_is_a_success(host_a, vm, cluster):
    """The OSD stops before it answers the compare-and-swap of the grant; by the time it does, virtleased has given that write up. What
    is stored then is its own, and nobody else's."""
    guest = vm()
    faults = Faults(host_a)
    faults.arm("before-cas")
    attempt = Attempt(guest, host_a)
    faults.await_hit("before-cas")
    cluster.freeze_osd(0)
    faults.release("before-cas")
    time.sleep(5)
    cluster.thaw_osd(0)
    only_writer(attempt.succeeds())
    assert "the record names this process already" in log_of(host_a)
    assert len(read_record(cluster, guest.disks[0].image)["holders"]) == 1
    wait_states(host_a, ["held"])


# R19: the call ends when its process ends


def test_r19_asker_killed_while_it_waits_for_the_verdict(hosts, running, cluster):
    """No claim, nobody fenced; the owner wakes up and goes on."""
    a, b = hosts
    a.virtleased.freeze()
    attempt = Attempt(running, b)
    kill_pid(starting_child(b, running)[0])
    attempt.fails()
    holds_for(lambda: "claim" not in read_record(cluster, running.disks[0].image), DEAD_AFTER_S + 2, "no claim")
    wait_states(b, [])
    a.virtleased.thaw()
    wait_awake(a)
    assert cluster.blocklist() == {} and lease_states(a) == ["held"]
    only_writer(running)


def test_r19_asker_killed_after_the_claim(hosts, running, cluster):
    """Then the daemon finishes or withdraws, and nothing stays behind that would need a person."""
    a, b = hosts
    faults = Faults(b)
    faults.arm("after-claim")
    a.power_loss()
    attempt = Attempt(running, b)
    faults.await_hit("after-claim")
    kill_pid(starting_child(b, running)[0])
    faults.release("after-claim")
    attempt.fails()
    wait_until(lambda: "claim" not in read_record(cluster, running.disks[0].image), 5, "no claim is left")
    only_writer(Attempt(running, b).succeeds())


# R21: what a heartbeat says


def test_r21_a_daemon_whose_main_loop_hangs_is_silent(hosts, running, cluster):
    """Its heartbeat has a thread of its own, which must not renew for a daemon that cannot serve."""
    a, b = hosts
    victims = clients(cluster, running)
    faults = Faults(a)
    faults.arm("main-loop")
    faults.await_hit("main-loop")
    Attempt(running, b).fails(a.name, "alive")          # a hiccup is no death
    wait_log(a, "not renewed, the main loop does not answer")
    only_writer(Attempt(running, b).succeeds())
    assert set(cluster.blocklist()) == victims
    faults.release("main-loop")
    wait_states(a, ["lost"], 15)


def test_r21_many_vms_of_one_dead_host_share_one_verdict(hosts, vm, cluster):
    a, b = hosts
    guests = [vm(mode="idle") for _ in range(MANY)]
    for attempt in [Attempt(guest, a) for guest in guests]:
        attempt.succeeds()
    victims = set().union(*(clients(cluster, guest) for guest in guests))
    assert len(victims) == MANY
    a.power_loss()
    attempts = [Attempt(guest, b) for guest in guests]
    for attempt in attempts:
        attempt.succeeds()
    slowest = max(attempt.seconds for attempt in attempts)
    print(f"{MANY} VMs of a dead host: all running after {slowest:.1f} s")
    assert slowest < DEAD_AFTER_S + 10       # of which libvirtd needs half a second for each VM here
    assert log_of(b).count("silent, taken for dead") == 1
    assert set(cluster.blocklist()) == victims


# R22: what counts as an answer


def question_of(text):
    return json.loads(text)


def answer(nonce="", host="", session=1, word="alive"):
    return json.dumps({"nonce": nonce, "host": host, "session": session, "answer": word}).encode()


FOREIGN = {
    "empty": lambda _q: b"",
    "garbage": lambda _q: b"\xff\x00{not json" * 9,
    "a list": lambda _q: b"[1, 2]",
    "huge": lambda _q: b'{"nonce":"' + b"x" * 60000 + b'"}',
    "another nonce": lambda q: answer("0" * 32, q["host"]),
    "another host": lambda q: answer(q["nonce"], "no-such-host"),
    "wrong types": lambda q: json.dumps({"nonce": 1, "host": [], "answer": {}}).encode(),
}


def test_r22_a_foreign_ack_is_no_sign_of_life(host_a, vm, cluster):
    """Somebody acknowledges the challenges to a dead host, each time with other nonsense. No crash, and the host stays dead."""
    ghost = Ghost(cluster)
    for number, reply in enumerate(FOREIGN.values()):
        guest = vm(mode="idle")
        write_record(cluster, guest.disks[0].image, [ghost.holder("old", [f"10.99.99.99:0/{number + 1}"])])
        impostor = Answerer(cluster, ghost.id, lambda text, reply=reply: reply(question_of(text)))
        Attempt(guest, host_a).succeeds()
        impostor.close()
        assert impostor.asked
        guest.destroy(host_a)
    assert len(cluster.blocklist()) == len(FOREIGN)


def test_r22_an_answer_of_the_host_itself_counts_whatever_it_says(host_a, vm, cluster):
    """A daemon of a later version may have words that this one does not know: it lives."""
    ghost = Ghost(cluster)
    guest = vm()
    write_record(cluster, guest.disks[0].image, [ghost.holder("old", ["10.99.99.99:0/1"])])
    daemon = Answerer(cluster, ghost.id, lambda text: answer(question_of(text)["nonce"], ghost.id, word="never heard of"))
    Attempt(guest, host_a).fails("alive")
    daemon.close()
    assert cluster.blocklist() == {}


def test_r22_one_who_never_answers_does_not_silence_the_host(hosts, running, cluster):
    """Partial replies count: somebody else watches A's session object and acknowledges nothing, or nonsense."""
    a, b = hosts
    for reply in (None, b"nonsense"):
        other = Answerer(cluster, a.uuid, lambda text, reply=reply: reply)
        Attempt(running, b).fails(a.name, "alive")
        other.close()
        assert other.asked
    assert cluster.blocklist() == {} and lease_states(a) == ["held"]

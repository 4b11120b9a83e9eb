# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the QEMU process that has, had or wants a lease: R3, R4, R5, R8, R9 of the design."""

import os
import signal
import time

import pytest
import rbd

from bed.attempt import Attempt
from bed.checks import (clients, is_gone, kill_pid, lease_states, log_of, only_writer, starting_child, wait_log, wait_states)
from bed.driver import Driver
from bed.fault import FAULT_ENV, Faults
from bed.ghost import Ghost, fence_entry, read_record, write_record
from bed.images import split_spec
from bed.run import start_time
from bed.wait import holds_for, wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4, "audit_interval": 1}, env=FAULT_ENV)


@pytest.fixture
def driver(host_a):
    d = Driver(host_a)
    yield d
    d.close()


@pytest.fixture
def running(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    return guest


@pytest.fixture
def stranger(cluster):
    """stranger(image): opens it for writing on a handle of its own, from outside all hosts; returns its address."""
    opened = []

    def make(image):
        pool, namespace, name = split_spec(image)
        handle = cluster.rados()
        context = handle.open_ioctx(pool)
        context.set_namespace(namespace)
        before = set(cluster.images.watchers(image))
        opened.append((handle, context, rbd.Image(context, name)))
        return (set(cluster.images.watchers(image)) - before).pop()
    yield make
    cluster.blocklist_clear()       # or closing waits for an unwatch that nobody answers
    for handle, context, image in opened:
        image.close()
        context.close()
        handle.shutdown()


def record_of(cluster, guest):
    return read_record(cluster, guest.disks[0].image)


def holders_of(cluster, guest):
    return record_of(cluster, guest).get("holders", [])


# R3: HELD only with the addresses that would have to be fenced


def test_r3_a_qemu_without_address_is_not_given_held(host_a, driver, vm, cluster):
    guest = vm()
    driver.pretend(guest)
    driver.ok("spawn", "sleep", "1000")
    assert lease_states(host_a) == ["parked"]
    text = driver.error("call", "acquire", "-", "0", "0")
    assert guest.disks[0].image in text and "no client of this QEMU" in text, text
    assert holders_of(cluster, guest)[0]["state"] == "parked"


def test_r3_addresses_are_recorded_before_the_cpus_run(host_a, vm, cluster):
    guest = vm()
    faults = Faults(host_a)
    faults.arm("before-hold")
    attempt = Attempt(guest, host_a)
    faults.await_hit("before-hold")
    holder = holders_of(cluster, guest)[0]
    assert holder["state"] == "parked" and holder["addrs"] == []
    guest.assert_silent(1.0)
    faults.release("before-hold")
    attempt.succeeds()
    holder = holders_of(cluster, guest)[0]
    assert holder["state"] == "held" and set(holder["addrs"]) == clients(cluster, guest)


# R4: a QEMU that never held its lease


def test_r4_record_replaced_before_the_answer(host_a, vm, cluster):
    """The child's lease is read once more before it gets its answer."""
    guest = vm()
    faults = Faults(host_a)
    ghost = Ghost(cluster, alive=True)
    faults.arm("before-verify")
    attempt = Attempt(guest, host_a)
    faults.await_hit("before-verify")
    write_record(cluster, guest.disks[0].image, [ghost.holder()], epoch=7)
    before = record_of(cluster, guest)
    faults.release("before-verify")
    attempt.fails(guest.disks[0].image, "before this VM could start")
    wait_states(host_a, [])
    assert record_of(cluster, guest) == before
    ghost.stop()


def test_r4_claimed_before_the_answer(host_a, vm, cluster):
    """A host that was frozen since its grant may have been claimed as dead meanwhile: its QEMU does not start."""
    guest = vm()
    faults = Faults(host_a)
    ghost = Ghost(cluster, alive=True)
    faults.arm("before-verify")
    attempt = Attempt(guest, host_a)
    faults.await_hit("before-verify")
    write_record(cluster, guest.disks[0].image, holders_of(cluster, guest), claim=ghost.claim())
    faults.release("before-verify")
    attempt.fails(guest.disks[0].image, "before this VM could start")
    ghost.stop()


def test_r4_child_killed_after_its_grant(host_a, vm, cluster):
    """The pidfd is watched before the first compare-and-swap: the lease of a child that dies has somebody to free it."""
    guest = vm()
    faults = Faults(host_a)
    faults.arm("after-take")
    attempt = Attempt(guest, host_a)
    faults.await_hit("after-take")
    assert holders_of(cluster, guest)
    kill_pid(starting_child(host_a, guest)[0])
    faults.release("after-take")
    attempt.fails()
    wait_until(lambda: not holders_of(cluster, guest), 5, "the lease is free")
    only_writer(Attempt(guest, host_a).succeeds())


def test_r4_lease_gone_that_was_never_held(host_a, vm, cluster):
    guest = vm()
    ghost = Ghost(cluster, alive=True)
    guest.start(host_a, paused=True)
    pid = host_a.qemu_pid(guest.name)
    started = start_time(pid)
    write_record(cluster, guest.disks[0].image, [ghost.holder()], epoch=7)
    wait_until(lambda: is_gone(pid, started), 6, "its QEMU is killed")
    wait_log(host_a, "before its CPUs ever ran")
    wait_states(host_a, [])
    assert holders_of(cluster, guest)[0]["host"] == ghost.id
    ghost.stop()


def test_r4_lease_gone_that_was_held(host_a, running, cluster):
    """It did run: then the administrator's choice is done to it, by default a pause."""
    ghost = Ghost(cluster, alive=True)
    write_record(cluster, running.disks[0].image, [ghost.holder()], epoch=7)
    wait_until(lambda: host_a.domain_state(running.name) == "paused", 8, "it is paused")
    assert lease_states(host_a) == ["lost"]
    resumed = host_a.virsh("resume", running.name, check=False)
    assert resumed.returncode != 0 and "stale" in resumed.stderr, resumed.stderr
    ghost.stop()


def test_r4_unexplained_client_is_reported(host_a, running, stranger, cluster):
    addr = stranger(running.disks[0].image)
    wait_log(host_a, f"client {addr}, which no lease explains")
    holds_for(lambda: cluster.blocklist() == {}, 2.5, "nobody is fenced")


def test_r4_unexplained_client_of_a_fenced_holder_is_fenced(host_a, vm, stranger, cluster):
    """A client on the IP of a fenced one is another client of that dead holder, one that it had not recorded yet."""
    guest = vm()
    ip = cluster.address
    write_record(cluster, guest.disks[0].image, fenced=[fence_entry(f"{ip}:0/12345", 3600)])
    guest.start(host_a)
    guest.wait_writing(host_a)
    addr = stranger(guest.disks[0].image)
    assert addr.startswith(f"{ip}:")
    wait_until(lambda: set(cluster.blocklist()) == {addr}, 8, "the late client is fenced")
    wait_until(lambda: addr in [f["addr"] for f in record_of(cluster, guest)["fenced"]], 5, "and remembered")
    only_writer(guest)


# R5: fence before free


def test_r5_killed_while_writing(host_a, vm, cluster):
    guest = vm(mode="flat-out")
    guest.start(host_a)
    guest.wait_writing(host_a)
    victims = clients(cluster, guest)
    faults = Faults(host_a)
    faults.arm("exit-before-fence")
    guest.kill(host_a, wait=False)
    faults.await_hit("exit-before-fence")
    assert set(holders_of(cluster, guest)[0]["addrs"]) == victims and cluster.blocklist() == {}
    faults.release("exit-before-fence")
    wait_until(lambda: not holders_of(cluster, guest), 5, "its lease is free")
    assert set(cluster.blocklist()) == victims
    assert cluster.images.lock_owner(guest.disks[0].image) is None


def end_quietly(host, guest, cluster):
    """Its QEMU closes everything and exits: no watch is left that could tell of it."""
    pid = host.qemu_pid(guest.name)
    started = start_time(pid)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_gone(pid, started) and not clients(cluster, guest), 10, "QEMU has ended")


def test_r5_exit_while_virtleased_was_down(host_a, running, cluster):
    """Nobody saw it leave, so what its socket may still deliver is fenced, although no watch is left."""
    victims = clients(cluster, running)
    host_a.kill_virtleased()
    end_quietly(host_a, running, cluster)
    host_a.start_virtleased()
    wait_until(lambda: not holders_of(cluster, running), 10, "its lease is free")
    assert set(cluster.blocklist()) == victims


def test_r5_exit_while_virtleased_was_stopped(host_a, running, cluster):
    """The same, noticed by a daemon that hung meanwhile. It used to free without a fence when the watch was gone by then."""
    victims = clients(cluster, running)
    host_a.virtleased.freeze()
    end_quietly(host_a, running, cluster)
    time.sleep(6)       # longer than lockd/free.c takes for "at once"
    host_a.virtleased.thaw()
    wait_until(lambda: not holders_of(cluster, running), 10, "its lease is free")
    assert set(cluster.blocklist()) == victims


# R8: one incarnation of a VM at a time


def test_r8_restart_waits_for_the_exit_of_the_old_process(host_a, running, cluster):
    victims = clients(cluster, running)
    faults = Faults(host_a)
    faults.arm("exit-before-fence")
    running.kill(host_a)
    faults.await_hit("exit-before-fence")
    attempt = Attempt(running, host_a)
    holds_for(attempt.running, 1.5, "the second start waits")
    faults.release("exit-before-fence")
    only_writer(attempt.succeeds())
    assert set(cluster.blocklist()) == victims
    assert len(holders_of(cluster, running)) == 1


def test_r8_second_process_while_the_first_lives(host_a, running, driver, cluster):
    before = record_of(cluster, running)
    driver.know(running)
    text = driver.error("spawn", "sleep", "100")
    assert "still runs on this host" in text and running.name in text, text
    assert record_of(cluster, running) == before
    only_writer(running)


def test_r8_exit_changes_only_its_own_record(host_a, running, cluster):
    """Its lease went to somebody else while virtleased did not look; then it exits."""
    ghost = Ghost(cluster, alive=True)
    host_a.virtleased.freeze()
    running.kill(host_a, wait=False)
    write_record(cluster, running.disks[0].image, [ghost.holder(vm_uuid=running.uuid)], epoch=7)
    before = record_of(cluster, running)
    host_a.virtleased.thaw()
    wait_states(host_a, [])
    assert record_of(cluster, running) == before
    ghost.stop()


# R9: hints


def test_r9_release_of_something_never_acquired_frees_nothing(host_a, running, driver, image, cluster):
    driver.know(running, host_a.qemu_pid(running.name, inner=True))
    other = image()
    for name in (running.disks[0].image, other, "/no/such/path"):
        driver.ok("disk", name, "0")
    driver.ok("call", "release-null")
    holds_for(lambda: lease_states(host_a) == ["held"], 4, "the lease stays")
    assert [h["state"] for h in holders_of(cluster, running)] == ["held"]
    assert read_record(cluster, other) == {}
    assert "unknown" not in log_of(host_a)
    only_writer(running)


def test_r9_acquire_of_a_running_vm_is_answered_from_memory(host_a, running, driver, cluster):
    before = record_of(cluster, running)
    driver.know(running, host_a.qemu_pid(running.name, inner=True))
    driver.ok("call", "acquire", "-", "0", "0")
    holds_for(lambda: record_of(cluster, running) == before, 2, "nothing is written")

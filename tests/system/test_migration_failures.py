# SPDX-License-Identifier: LGPL-2.1-or-later
"""A migration is interrupted at every boundary between its phases, by every death there is.

Phases, as libvirt drives them: the destination's child registers (heir), memory is copied, the source's CPUs stop (PARKED), the destination
presents the token (hand-over), gets HELD, runs `cont`, Finish returns, the source's QEMU ends. After each: one writer at most, its lease
with it, nothing left over on either host, nothing blocklisted that lives.
"""

import os
import signal

import pytest

from bed import ghost, lease
from bed.fault import FAULT_ENV, Faults
from bed.moving import SLOW, Line, Migration, assert_all_free, assert_lives_on
from bed.vm import VM, Disk
from bed.wait import holds_for, wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4}, env=FAULT_ENV)

STALE = "its memory here is stale"
# Where the destination's daemon is stopped; at all of them the source's CPUs have stopped and the destination's never ran.
BEFORE_CONT = ["before-hand-over", "after-hand-over", "before-hold", "after-hold"]


@pytest.fixture
def running(hosts, vm):
    """A writing VM on the first host."""
    guest = vm()
    guest.start(hosts[0])
    guest.wait_writing(hosts[0])
    return guest


@pytest.fixture
def line(hosts, cluster):
    made = Line(cluster, hosts[1])
    yield made
    made.cut()


def stopped_at(guest, hosts, point, *flags, action="wait", line=None):
    """A migration that the destination's daemon stops at that point; -> (migration, faults)."""
    faults = Faults(hosts[1])
    faults.arm(point, action)
    migration = Migration(guest, hosts[0], hosts[1], *flags, line=line)
    faults.await_hit(point)
    return migration, faults


def kill(host, guest):
    os.kill(host.qemu_pid(guest.name), signal.SIGKILL)


# ---- refused ----

def test_refused_in_the_destinations_child(hosts, vm, image, cluster):
    """The destination's XML names another volume, as for a storage copy, and another VM has that."""
    a, b = hosts
    other, guest = vm(), vm(disks=2)
    other.start(b)
    guest.start(a)
    guest.wait_writing(a)
    there = VM(cluster, guest.kernel, guest.name, [guest.disks[0], Disk(other.disks[0].image)])
    there.uuid, there.identity = guest.uuid, guest.identity
    a.write("/tmp-there.xml", there.xml())
    Migration(guest, a, b, "--xml", a.dir / "tmp-there.xml").fails(other.name, b.name)
    wait_until(lambda: lease.listed(b, guest) == [], 10, "nothing left")
    wait_until(lambda: not lease.stored(cluster, guest.disks[0].image).get("heirs"), 5, "no heir left")
    guest.wait_writing(a)
    assert lease.states(a, guest) == ["held"] * 2
    other.wait_writing(b)
    guest.migrate(a, b)
    guest.wait_writing(b)


def test_refused_at_cpu_start_because_of_the_token(hosts, running, cluster):
    """Somebody writes another token into the record during the copy: as if the source had been resumed since."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    record = ghost.read_record(cluster, running.disks[0].image)
    record["holders"][0]["token"] = "another"
    context, header = cluster.images.header(running.disks[0].image)
    context.set_xattr(header, "virtlease", ghost.json.dumps(record).encode())
    migration.fails(running.disks[0].image, "memory here is stale", "has run on")
    assert_lives_on(running, a, [b], cluster)


# ---- destination's QEMU ----

def test_destination_qemu_killed_during_copy(hosts, running, cluster):
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    kill(b, running)
    migration.fails()
    assert_lives_on(running, a, [b], cluster)


@pytest.mark.parametrize("point", BEFORE_CONT)
def test_destination_qemu_killed_before_it_ran(hosts, running, cluster, point):
    """R1, give-back: at after-hold the record says HELD for a process that never ran; its exclusive lock is still the source's."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, point)
    kill(b, running)
    faults.release(point)
    migration.fails()
    assert_lives_on(running, a, [b], cluster)


def test_destination_qemu_killed_after_it_ran(hosts, running, line, cluster):
    """It wrote, then died before the source heard of it: the source's memory is older than the disk."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, "after-hold", line=line)
    line.hold()
    faults.release("after-hold")
    running.wait_writing(b)
    kill(b, running)
    wait_until(lambda: lease.listed(b, running) == [], 10, "freed by the destination")
    line.cut()
    migration.fails()
    holds_for(lambda: a.domain_state(running.name) == "paused", 1, "never resumed")
    assert STALE in a.virsh("resume", running.name, check=False).stderr
    running.assert_silent(1)
    running.destroy(a)
    assert_all_free(running, hosts, cluster)
    running.start(a)
    running.wait_writing(a)


# ---- destination's virtleased ----

def test_destination_virtleased_restarted_during_copy(hosts, running, cluster):
    """The new one finds the incoming VM in the status XML and is its heir again."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    b.kill_virtleased()
    b.start_virtleased()
    migration.succeeds()
    assert_lives_on(running, b, [a], cluster)


def test_destination_virtleased_killed_during_copy(hosts, running, cluster):
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    b.kill_virtleased()
    migration.fails("virtleased")
    running.wait_writing(a)
    b.start_virtleased()
    assert_lives_on(running, a, [b], cluster)


@pytest.mark.parametrize("point", ["before-hand-over", "after-hand-over", "after-hold"])
def test_destination_virtleased_killed_before_it_ran(hosts, running, cluster, point):
    """Nobody is left there who could give the lease back: the source waits for the verdict, fences the destination's QEMU and, the
    exclusive lock being still its own, goes on."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, point, action="exit")
    migration.fails()
    running.wait_writing(a)
    faults.release(point)
    b.start_virtleased()
    assert_lives_on(running, a, [b], cluster)


@pytest.mark.parametrize("point", BEFORE_CONT)
def test_destination_virtleased_restarted_before_it_ran(hosts, running, cluster, point):
    """The plugin asks again; the new daemon knows from the record how far the old one had come."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, point, action="stop")
    faults.release(point)
    b.kill_virtleased()
    b.start_virtleased()
    if migration.result().returncode == 0:
        assert_lives_on(running, b, [a], cluster)
    else:
        assert_lives_on(running, a, [b], cluster)


# ---- destination's host ----

def test_destination_host_lost_during_copy(hosts, running, cluster):
    """Nobody tells the source's QEMU; the administrator aborts."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    b.power_loss()
    running.wait_writing(a)
    a.virsh("domjobabort", running.name)
    migration.fails()
    assert_lives_on(running, a, [b], cluster)


@pytest.mark.parametrize("point", ["after-hand-over", "after-hold"])
def test_destination_host_lost_before_it_ran(hosts, running, cluster, point):
    """R1: its addresses are fenced first, and own the exclusive lock of nothing."""
    a, b = hosts
    migration, _ = stopped_at(running, hosts, point)
    b.power_loss()
    migration.fails()
    assert_lives_on(running, a, [b], cluster)


def test_destination_host_lost_after_it_ran(hosts, running, line, cluster):
    a, b = hosts
    migration, faults = stopped_at(running, hosts, "after-hold", line=line)
    line.hold()
    faults.release("after-hold")
    running.wait_writing(b)
    b.power_loss()
    line.cut()
    migration.fails()
    assert a.domain_state(running.name) == "paused"
    assert STALE in a.virsh("resume", running.name, check=False).stderr
    running.assert_silent(1)
    running.destroy(a)
    running.start(a)        # anew, from what is on the disk
    assert_lives_on(running, a, [b], cluster)


# ---- source ----

def test_source_qemu_killed_during_copy(hosts, running, cluster):
    """The memory that has arrived is incomplete: libvirt ends the destination, nobody runs, nothing is left."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    kill(a, running)
    migration.fails()
    wait_until(lambda: running.name not in b.domains(), 10, "the destination is gone")
    assert_all_free(running, hosts, cluster)
    running.start(b)
    assert_lives_on(running, b, [a], cluster)


def test_source_qemu_killed_after_its_cpus_stopped(hosts, running, cluster):
    """All memory has arrived; the heir inherits (R16) and runs."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, "before-hand-over")
    kill(a, running)
    wait_until(lambda: lease.listed(a, running) == [], 10, "the source's exit is handled")
    faults.release("before-hand-over")
    migration.result()
    assert_lives_on(running, b, [a], cluster)


def test_source_qemu_killed_after_the_hand_over(hosts, running, cluster):
    """Its daemon breaks what the dead source still owns, so the destination's first write waits for nothing."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, "after-hand-over")
    kill(a, running)
    wait_until(lambda: lease.listed(a, running) == [], 10, "the source's exit is handled")
    faults.release("after-hand-over")
    migration.result()
    running.wait_writing(b, timeout=5)
    assert_lives_on(running, b, [a], cluster)


def test_source_virtleased_restarted_around_the_stop(hosts, running, cluster):
    """R17: nobody says PARKED at the stop; the restarting daemon finds the VM paused in its status XML and does."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    a.kill_virtleased()
    wait_until(lambda: "state='paused'" in a.path(f"/run/libvirt/qemu/{running.name}.xml").read_text(), 20, "the source has stopped")
    a.start_virtleased()
    migration.succeeds()
    assert_lives_on(running, b, [a], cluster)


def test_source_virtleased_restarted_during_copy(hosts, running, cluster):
    """The token in libvirt's hands must still be good: an adopted VM that was HELD stays as it was."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    a.kill_virtleased()
    a.start_virtleased()
    migration.succeeds()
    assert_lives_on(running, b, [a], cluster)


def test_source_libvirtd_killed_during_copy(hosts, running, cluster):
    """Its libvirtd cancels the migration when it is back."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    a.kill_libvirtd()
    migration.fails()
    a.start_libvirtd()
    assert_lives_on(running, a, [b], cluster)


def test_source_libvirtd_killed_after_its_cpus_stopped(hosts, running, cluster):
    """libvirt gives up: virsh, which drives the phases, has lost the source. The destination was told Finish and runs; the source's
    libvirtd comes back and leaves its copy paused. Whoever resumes it is refused."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, "before-hand-over")
    a.kill_libvirtd()
    faults.release("before-hand-over")
    migration.result()
    running.wait_writing(b)
    a.start_libvirtd()
    running.wait_writing(b)
    wait_until(lambda: a.domain_state(running.name) in (None, "paused", "shut off"), 20, "the source does not run")
    if a.domain_state(running.name) == "paused":
        assert STALE in a.virsh("resume", running.name, check=False).stderr
        running.destroy(a)
    assert_lives_on(running, b, [a], cluster)


def test_source_host_lost_during_copy(hosts, running, cluster):
    """libvirt gives up: nobody runs. The destination's half-filled QEMU has no right to; once it is gone, a start there takes over."""
    a, b = hosts
    Migration(running, a, b, *SLOW).wait_copying()
    a.power_loss()
    running.wait_silent()
    running.destroy(b, check=False)
    wait_until(lambda: running.name not in b.domains(), 10, "gone")
    running.start(b)
    assert_lives_on(running, b, [a], cluster)


def test_source_host_lost_after_its_cpus_stopped(hosts, running, cluster):
    """The destination was told Finish. The record says PARKED and its token is right: it runs, once the dead source's exclusive lock is out
    of the way."""
    a, b = hosts
    _, faults = stopped_at(running, hosts, "before-hand-over")
    a.power_loss()
    faults.release("before-hand-over")
    assert_lives_on(running, b, [a], cluster, timeout=45)


# ---- line and user ----

def test_line_cut_during_copy(hosts, running, line, cluster):
    a, b = hosts
    migration = Migration(running, a, b, *SLOW, line=line).wait_copying()
    line.cut()
    migration.fails()
    assert_lives_on(running, a, [b], cluster)


def test_line_cut_before_finish_returns(hosts, running, line, cluster):
    """Both think it failed, or rather: the source does, and the destination runs. The source is refused."""
    a, b = hosts
    migration, faults = stopped_at(running, hosts, "after-hold", line=line)
    line.hold()
    faults.release("after-hold")
    running.wait_writing(b)
    line.cut()
    migration.fails()
    assert a.domain_state(running.name) == "paused"
    assert STALE in lease.log_of(a)
    running.destroy(a)
    assert_lives_on(running, b, [a], cluster)


def test_cancelled_by_the_user(hosts, running, cluster):
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    a.virsh("domjobabort", running.name)
    migration.fails()
    assert_lives_on(running, a, [b], cluster)
    running.migrate(a, b)
    assert_lives_on(running, b, [a], cluster)


def test_failed_migration_to_one_host_then_to_another(hosts, host_c, running, cluster):
    """The heir of the failed one must not stand in the way of the next: a paused VM's lease goes by inheritance alone."""
    a, b = hosts
    migration = Migration(running, a, b, *SLOW).wait_copying()
    b.power_loss()
    a.virsh("domjobabort", running.name)
    migration.fails()
    a.virsh("suspend", running.name)
    running.migrate(a, host_c)
    wait_until(lambda: lease.listed(a, running) == [], 10, "the source is done")
    host_c.virsh("resume", running.name)
    assert_lives_on(running, host_c, [a, b], cluster)

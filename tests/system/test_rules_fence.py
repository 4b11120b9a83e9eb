# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about who may be fenced, for how long, and by whom: R6, R10, R12 to R15 of the design."""

import time
from datetime import datetime

import pytest
import rados
import rbd

from bed.attempt import Attempt
from bed.checks import clients, lease_states, only_writer, wait_log, wait_states
from bed.fault import FAULT_ENV
from bed.ghost import Ghost, fence_entry, read_record, write_record
from bed.images import split_spec
from bed.wait import holds_for, wait_until

MONTH_S = 30 * 24 * 3600
NOBODY = "10.99.99.99:0/{}"         # addresses of clients that never were

pytestmark = pytest.mark.bed(conf={"dead_after": 4, "audit_interval": 1}, env=FAULT_ENV)


def seconds_left(cluster, address):
    """How long an address stays blocklisted; -1 if it is not."""
    until = cluster.blocklist().get(address)
    return datetime.strptime(until, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() - time.time() if until else -1


def fenced_in(cluster, image):
    return {f["addr"] for f in read_record(cluster, image).get("fenced", [])}


def drop_index_entry(context, name, image_id):
    with rados.ReadOpCtx() as op:
        entries, _ = context.get_omap_vals(op, "", "", 100)
        context.operate_read_op(op, name)
        key = next(k for k, _ in entries if k.endswith(image_id))
    with rados.WriteOpCtx() as op:
        context.remove_omap_keys(op, (key,))
        context.operate_write_op(op, name)


@pytest.fixture
def running(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    return guest


# The ghosts themselves


def test_silent_ghost_is_taken_over_and_a_living_one_is_not(host_a, vm, cluster):
    """What the other tests here stand on."""
    guest = vm()
    image = guest.disks[0].image
    ghost = Ghost(cluster, alive=True)
    addr = NOBODY.format(1)
    write_record(cluster, image, [ghost.holder("old", [addr])])
    attempt = Attempt(guest, host_a)
    attempt.fails(image, "'old'", "ghost", "alive")
    assert attempt.seconds < 3
    ghost.stop()
    only_writer(Attempt(guest, host_a).succeeds())
    assert set(cluster.blocklist()) == {addr} == fenced_in(cluster, image)


# R6: memory of fences


def test_r6_freeing_remembers_the_fence_and_the_next_lessee_keeps_it(hosts, running, cluster):
    a, b = hosts
    image = running.disks[0].image
    victims = clients(cluster, running)
    running.kill(a)
    wait_until(lambda: not read_record(cluster, image)["holders"], 5, "its lease is free")
    assert fenced_in(cluster, image) == victims
    assert abs(read_record(cluster, image)["fenced"][0]["until"] - time.time() - MONTH_S) < 60
    running.start(b)
    assert fenced_in(cluster, image) == victims
    running.destroy(b)
    wait_states(b, [])
    assert fenced_in(cluster, image) == victims and not read_record(cluster, image)["holders"]


def test_r6_a_fence_that_has_run_out_is_forgotten(host_a, vm, cluster):
    guest = vm()
    image = guest.disks[0].image
    write_record(cluster, image, fenced=[fence_entry(NOBODY.format(2), -5)])
    guest.start(host_a)
    guest.destroy(host_a)
    wait_states(host_a, [])
    wait_until(lambda: read_record(cluster, image) == {}, 5, "nothing is left to remember")
    assert cluster.blocklist() == {}


def test_r6_the_next_lessee_renews_a_fence_that_met_a_shorter_entry(host_a, vm, cluster):
    """An earlier lessee fenced for an hour, but the monitors kept an older entry of some seconds. Whoever has the lease when that lapses
    fences anew."""
    guest = vm()
    image = guest.disks[0].image
    addr = NOBODY.format(3)
    cluster.blocklist_add(addr, 4.0)
    write_record(cluster, image, fenced=[fence_entry(addr, 3600, lasts_s=4)])
    guest.start(host_a)
    wait_until(lambda: seconds_left(cluster, addr) > 3000, 20, "fenced anew")
    wait_until(lambda: read_record(cluster, image)["fenced"][0]["until"] > time.time() + 3000, 5, "the record says so")
    only_writer(guest)


def test_r6_a_lapsed_fence_is_renewed_before_anybody_starts(host_a, vm, cluster):
    guest = vm()
    addr = NOBODY.format(4)
    entry = fence_entry(addr, 3600, lasts_s=-10)
    write_record(cluster, guest.disks[0].image, fenced=[entry])
    guest.start(host_a)
    assert seconds_left(cluster, addr) > 3000


# R10: release --force


def test_r10_release_force_fences_and_frees(hosts, running, cluster):
    a, b = hosts
    image = running.disks[0].image
    victims = clients(cluster, running)
    told = b.ctl("release", image, "--force")
    assert set(told["fenced"]) == victims == set(cluster.blocklist()) == fenced_in(cluster, image)
    assert read_record(cluster, image)["holders"] == [] and cluster.images.lock_owner(image) is None
    only_writer(Attempt(running, b).succeeds())
    wait_states(a, ["lost"])


def test_r10_release_without_fence_shows_who_still_watches(hosts, running, cluster):
    a, b = hosts
    image = running.disks[0].image
    victims = clients(cluster, running)
    told = b.ctl("release", image, "--force", "--no-fence")
    assert set(told["watchers"]) == victims, told
    assert cluster.blocklist() == {} and read_record(cluster, image).get("holders", []) == []
    wait_states(a, ["lost"])
    Attempt(running, b).fails(image, victims.pop(), "no lease explains")


def test_r10_release_needs_force_and_a_lease(host_a, running, image):
    done = host_a.ctl("release", running.disks[0].image, check=False)
    assert done.returncode != 0 and "--force" in done.stderr + done.stdout
    done = host_a.ctl("release", image(), "--force", check=False)
    assert done.returncode != 0 and "nobody holds a lease" in done.stderr + done.stdout
    only_writer(running)


# R12, R13: what is somebody else's is not fenced


def test_r12_a_dead_claim_never_fences_what_a_living_holder_recorded(host_a, image, cluster):
    """The claim was frozen when that address still looked like the dead host's; its owner has recorded it since."""
    spec = image()
    dead, living = Ghost(cluster, "dead"), Ghost(cluster, "living", alive=True)
    old, new = NOBODY.format(5), NOBODY.format(6)
    write_record(cluster, spec, [dead.holder(addrs=[old]), living.holder(addrs=[new])], claim=dead.claim([old, new]), shared=True)
    dead.index(spec)
    host_a.ctl("fence", "dead")
    assert set(cluster.blocklist()) == {old}
    assert [h["name"] for h in read_record(cluster, spec)["holders"]] == ["living"]
    living.stop()


def test_r13_of_a_shared_volume_only_the_dead_holders_addresses_are_fenced(host_a, image, cluster):
    """The exclusive lock goes to and fro between all who share the image: its owner is not "the" holder, and keeps it.
    `fence` used to fail here after its fence, because the lock was not owned by a client of the dead host."""
    spec = image()
    dead, living = Ghost(cluster, "dead", ips=[cluster.address]), Ghost(cluster, "living", alive=True)
    handle = cluster.rados()
    context = handle.open_ioctx("rbd")
    with rbd.Image(context, split_spec(spec)[2]) as writer:
        writer.write(b"x", 0)
        owner = cluster.images.lock_owner(spec)
        addrs = [dead_addr, live_addr] = [NOBODY.format(7), cluster.images.watchers(spec)[0]]
        write_record(cluster, spec, [dead.holder(addrs=[dead_addr]), living.holder(addrs=[live_addr])], shared=True)
        dead.index(spec)
        told = host_a.ctl("fence", "dead")
        assert [lease["fenced"] for lease in told["leases"]] == [[dead_addr]], (told, addrs)
        assert set(cluster.blocklist()) == {dead_addr}
        assert [h["name"] for h in read_record(cluster, spec)["holders"]] == ["living"]
        assert cluster.images.lock_owner(spec) == owner
        writer.write(b"y", 0)
    context.close()
    handle.shutdown()
    living.stop()


# R14: clients of the kernel


def test_r14_published_kernel_clients_are_never_fenced(host_a, vm, cluster):
    guest = vm()
    image = guest.disks[0].image
    addr = NOBODY.format(8)
    ghost = Ghost(cluster, "mapper", krbd=[addr])
    write_record(cluster, image, [ghost.holder("old", [addr])])
    Attempt(guest, host_a).fails(image, addr, "never fenced automatically", "virtleasectl release")
    assert cluster.blocklist() == {} and "claim" not in read_record(cluster, image)
    host_a.ctl("release", image, "--force")         # a person said so
    only_writer(Attempt(guest, host_a).succeeds())


# R15: a session number is fenced, not a host


def test_r15_a_living_host_that_was_fenced_takes_a_new_number(hosts, vm, cluster):
    """Of its two VMs one is fenced; the other one's index entry is gone, so nobody found it: its lease must survive, under the new
    number."""
    a, b = hosts
    taken, kept = vm(), vm()
    for guest in (taken, kept):
        guest.start(a)
        guest.wait_writing(a)
    victims = clients(cluster, taken)
    session = a.ctl("status")["sessions"][0]["session"]
    context = cluster.images.context("rbd")
    with cluster.images.open(kept.disks[0].image) as opened:
        name = opened.id()
    drop_index_entry(context, f"virtlease.host.{a.uuid}", name)
    refused = b.ctl("fence", a.name, check=False)
    assert refused.returncode != 0 and "alive" in refused.stderr + refused.stdout
    assert cluster.blocklist() == {}
    b.ctl("fence", a.name, "--force")
    assert set(cluster.blocklist()) == victims
    wait_until(lambda: a.ctl("status")["sessions"][0]["session"] > session, 10, "a new number")
    wait_until(lambda: lease_states(a, taken) == ["lost"], 10, "the VM that was fenced is lost")
    wait_until(lambda: read_record(cluster, kept.disks[0].image)["holders"][0]["session"] > session, 10, "the other one is kept")
    assert lease_states(a, kept) == ["held"]
    only_writer(kept)
    wait_log(a, "beginning a new session")
    another = vm()
    another.start(a)
    only_writer(another)
    holds_for(lambda: set(cluster.blocklist()) == victims, 1, "nobody else is fenced")

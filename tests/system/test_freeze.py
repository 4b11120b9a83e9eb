# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host stops (SIGSTOP) for longer than dead_after, is taken for dead, and goes on."""

from bed.lease import listed, log_of, states
from bed.observe import DiskWatch
from bed.wait import holds_for, wait_until

WATCHED_S = 8


def test_frozen_taken_over_and_thawed(hosts, vm, cluster):
    a, b = hosts
    guest, idle, bystander = vm(), vm(), vm()
    for one in (guest, idle, bystander):
        one.start(a)
        one.wait_writing(a)
    old = guest.identity
    held = [(lease["epoch"], lease["addrs"]) for lease in listed(a, bystander)]
    with DiskWatch(guest) as disk:
        wait_until(lambda: disk.seen, 5, "the disk is watched")
        a.freeze()
        guest.start(b)
        guest.wait_writing(b)
        idle.mode = "idle"      # there it does not write, so whatever appears on its disk is A's
        idle.start(b)
        last = idle.record()
        assert disk.writers() == [old, guest.identity]
        fenced = cluster.blocklist()
        a.thaw()
        wait_until(lambda: states(a, guest) == states(a, idle) == ["lost"], 15, "A's virtleased notices")
        holds_for(lambda: disk.writers() == [old, guest.identity] and idle.record() == last, WATCHED_S, "no write of A's guests")
        assert len(disk.seen) > 50
    log = log_of(a)
    assert "LOST" in log and guest.name in log and guest.disks[0].image in log
    assert f"on host {b.name}" in log       # who has it now
    wait_until(lambda: a.domain_state(guest.name) == "paused", 15, "the default action")

    bystander.wait_writing(a)
    assert bystander.record().failures == 0
    assert [(lease["state"], lease["epoch"], lease["addrs"]) for lease in listed(a, bystander)] == [("held", *one) for one in held]
    assert cluster.blocklist() == fenced
    assert states(b, guest) == ["held"]
    guest.wait_writing(b)

    done = a.virsh("resume", guest.name, check=False)
    assert done.returncode != 0 and guest.disks[0].image in done.stderr and "stale" in done.stderr, done.stderr
    guest.destroy(a)
    wait_until(lambda: not states(a, guest), 15, "forgotten on A")
    assert states(b, guest) == ["held"]
    guest.wait_writing(b)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtleased, the sanlock daemon or the storage of the lockspace goes away under running VMs."""

import time

import pytest

from bed import leasing
from bed.vm import Disk
from bed.wait import holds_for, wait_until


@pytest.fixture
def pair(sanlock_hosts, vm, shared_file):
    """Two hosts and a VM that writes on the first."""
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file()), Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    return a, b, guest


def test_virtleased_restarted_and_killed(pair, vm):
    a, b, guest = pair
    for end in (a.stop_virtleased, a.kill_virtleased):
        end()
        leasing.refused(vm([guest.disks[0]]), b, f"held by host {a.number}")       # sanlock needs no virtleased for that
        a.start_virtleased()
        leasing.wait_state(a)
        wait_until(lambda: [x["state"] for x in a.ctl("list")["leases"]] == ["held", "held"], 10, "adopted")
        leasing.assert_held(a, guest)
        guest.wait_writing(a)
        leasing.refused(vm([guest.disks[1]]), b, f"held by host {a.number}")
        leasing.refused(vm([guest.disks[1]]), a, guest.name)
        a.virsh("suspend", guest.name)
        a.virsh("resume", guest.name)
        guest.wait_writing(a)
    # Killed with it while nobody looks: what remains is freed by sanlock, and by the new virtleased.
    a.kill_virtleased()
    guest.kill(a, wait=False)
    guest.start(b)
    guest.wait_writing(b)
    a.start_virtleased()
    leasing.wait_state(a)
    wait_until(lambda: a.ctl("list")["leases"] == [], 10, "forgotten")


def test_sanlock_killed(pair, lease_directory):
    """Nobody but the process itself could register it again: it is stopped, within a second or so, and its memory is not used again."""
    a, b, guest = pair
    began = time.monotonic()
    a.sanlock.kill()
    wait_until(lambda: "LOST" in leasing.log_of(a), 5, "noticed")
    noticed = time.monotonic() - began
    wait_until(lambda: a.domain_state(guest.name) == "paused", 5, "paused")
    print("noticed after", noticed, "paused after", time.monotonic() - began)
    assert noticed < 1
    guest.wait_silent()
    assert lease_directory.owner(guest.disks[0].path) == a.number       # on disk nobody wrote since
    leasing.refused(guest, b, f"held by host {a.number}")
    a.sanlock.start()
    leasing.wait_state(a, timeout=60)
    done = a.virsh("resume", guest.name, check=False)
    assert done.returncode != 0 and "sanlock" in done.stderr, done.stderr
    guest.assert_silent()
    # Its host has joined anew, so others get the lease; the paused one never writes again.
    wait_until(lambda: guest.start(b, check=False).returncode == 0, 30, "starts elsewhere")
    identity = guest.identity
    guest.wait_writing(b)
    assert a.virsh("resume", guest.name, check=False).returncode != 0
    holds_for(lambda: guest.record().identity == identity, 2, "one writer")


def test_sanlock_restarted_while_virtleased_is_down(pair, vm):
    a, _b, guest = pair
    a.kill_virtleased()
    a.sanlock.kill()
    a.sanlock.start()
    a.start_virtleased()
    wait_until(lambda: a.domain_state(guest.name) == "paused", 10, "the VM that sanlock does not know is stopped")
    leasing.wait_state(a, timeout=60)
    assert a.virsh("resume", guest.name, check=False).returncode != 0


def test_lockspace_storage_hangs(sanlock_host, vm, shared_file, lease_directory):
    """5 s of the 8 that sanlock allows: nobody is stopped. Then for good: paused by virtlease, and not killed by sanlock 40 s later."""
    a, b = sanlock_host(wait=False, own_leases=True), sanlock_host(wait=False)
    for host in (a, b):
        leasing.wait_state(host)
    leasing.wait_acquainted(a, b)
    guest = vm([Disk(path=shared_file())])
    guest.start(a)
    guest.wait_writing(a)
    pid, identity = a.qemu_pid(guest.name), guest.identity
    a.lease_storage.freeze()
    time.sleep(5)       # the stall itself
    a.lease_storage.thaw()
    holds_for(lambda: a.domain_state(guest.name) == "running", 5, "it runs on", poll=1)
    guest.wait_writing(a)
    leasing.assert_held(a, guest)

    logged = len(leasing.log_of(a))
    began = time.monotonic()
    a.lease_storage.freeze()
    wait_until(lambda: a.domain_state(guest.name) == "paused", 15, "paused by virtlease")
    print("paused", time.monotonic() - began, "s after the storage went")
    leasing.wait_logged(a, "lockspace is failing, its storage does not answer", logged)
    leasing.refused(vm([Disk(path=shared_file())]), a, "this host is not in the")
    assert "No space left" not in leasing.log_of(a)[logged:]
    wait_until(lambda: "answer" in leasing.backend(a)["problem"], 20, "status says so")
    guest.assert_silent()
    leasing.refused(vm(guest.disks), b, f"host {a.number}")
    holds_for(lambda: a.outer_pid(a.inner_pid(pid)) == pid, 50 - (time.monotonic() - began), "sanlock does not kill it", poll=1)
    a.lease_storage.thaw()
    leasing.wait_state(a, timeout=60)
    a.virsh("resume", guest.name)       # nobody had it meanwhile
    guest.identity = identity
    guest.wait_writing(a)
    leasing.assert_held(a, guest)
    assert lease_directory.owner(guest.disks[0].path) == a.number
    leasing.refused(vm(guest.disks), b, f"held by host {a.number}")

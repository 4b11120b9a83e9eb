# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtleased dies or restarts under running VMs, or is not there at all; hosts reboot."""

import shutil
import time

import pytest

from bed.lease import holder, listed, log_of, states, stored
from bed.observe import plain_start, start_time_of
from bed.wait import wait_until

ADOPTED_S = 20
SOCKET = "/run/virtlease/virtleased.sock"


def kill(host):
    host.kill_virtleased()


def stop(host):
    host.stop_virtleased()


def kill_and_wipe(host):
    host.kill_virtleased()
    journal = host.path("/var/lib/virtlease")
    assert list(journal.iterdir())
    for entry in journal.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def view(host):
    """What must survive."""
    return sorted((lease["volume"], lease["vm"], lease["pid"], lease["state"], lease["epoch"], lease["since"], lease["addrs"])
                  for lease in listed(host))


def untold(cluster, disk):
    """The holder in the record without the token, which may be a new one."""
    return {**holder(cluster, disk.image), "token": None}


@pytest.mark.parametrize("end", [kill, stop, kill_and_wipe])
def test_restart_under_running_vms(hosts, vm, cluster, end):
    a, b = hosts
    running, paused = vm(disks=2), vm()
    for guest in (running, paused):
        guest.start(a)
        guest.wait_writing(a)
    a.virsh("suspend", paused.name)
    wait_until(lambda: states(a, paused) == ["parked"], 5, "parked")
    wait_until(lambda: holder(cluster, paused.disks[0].image)["state"] == "parked", 5, "written")
    before, pids = view(a), [a.qemu_pid(guest.name) for guest in (running, paused)]
    records = [untold(cluster, disk) for disk in running.disks]
    end(a)
    running.wait_writing(a)
    a.start_virtleased()
    wait_until(lambda: view(a) == before, ADOPTED_S, "leases as before")
    assert [untold(cluster, disk) for disk in running.disks] == records
    assert [a.qemu_pid(guest.name) for guest in (running, paused)] == pids
    assert cluster.blocklist() == {}
    identity = running.identity
    done = running.start(b, check=False)
    assert done.returncode != 0 and "that host is alive" in done.stderr, done.stderr
    running.identity = identity
    running.wait_writing(a)
    a.virsh("resume", paused.name)
    paused.wait_writing(a)
    assert states(a, paused) == ["held"]
    for guest in (running, paused):
        guest.destroy(a)
    wait_until(lambda: not listed(a), 10, "free")
    running.start(b)
    running.wait_writing(b)


def test_vm_that_died_meanwhile_is_fenced_and_freed(hosts, vm, cluster):
    """R5: nobody saw what it left behind."""
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    victims = set(cluster.images.watchers(guest.disks[0].image))
    a.kill_virtleased()
    guest.kill(a)
    a.start_virtleased()
    wait_until(lambda: not listed(a) and not holder(cluster, guest.disks[0].image), ADOPTED_S, "freed")
    assert set(cluster.blocklist()) == victims
    guest.start(b)
    guest.wait_writing(b)


def test_not_running_at_vm_start(host_a, vm, cluster):
    guest = vm()
    host_a.stop_virtleased()
    done = guest.start(host_a, check=False)
    assert done.returncode != 0 and SOCKET in done.stderr, done.stderr
    assert "cause is unknown" not in done.stderr
    assert host_a.domains() == [] and stored(cluster, guest.disks[0].image) is None
    host_a.start_virtleased()
    guest.start(host_a)
    guest.wait_writing(host_a)


def test_rebooted_host_frees_what_it_had(hosts, vm, cluster):
    """Fenced and freed without anyone asking, and without waiting for itself to be dead."""
    a, b = hosts
    guest, spare = vm(disks=2), vm(disks=2)
    plain = plain_start(spare, a)
    guest.start(a)
    guest.wait_writing(a)
    victims = {address for disk in guest.disks for address in cluster.images.watchers(disk.image)}
    a.reboot()
    a.start_virtleased()
    began = time.monotonic()
    wait_until(lambda: not any(holder(cluster, disk.image) for disk in guest.disks), ADOPTED_S, "freed")
    print(f"freed {time.monotonic() - began:.1f} s after virtleased started")
    assert set(cluster.blocklist()) == victims
    assert "earlier boot" in log_of(a) or "is gone" in log_of(a)
    a.start_libvirtd()
    took = start_time_of(guest, a)
    guest.wait_writing(a)
    assert took < plain + 1
    done = guest.start(b, check=False)
    assert done.returncode != 0


def test_rebooted_host_whose_journal_is_lost(hosts, vm, cluster):
    """It cannot know that the boot in the records was its own, so it waits for silence first."""
    a, _ = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    victims = set(cluster.images.watchers(guest.disks[0].image))
    a.power_loss()
    shutil.rmtree(a.path("/var/lib/virtlease"))
    a.path("/var/lib/virtlease").mkdir()
    a.boot()
    a.start_virtleased()
    wait_until(lambda: not holder(cluster, guest.disks[0].image), 40, "freed")
    assert set(cluster.blocklist()) == victims
    a.start_libvirtd()
    guest.start(a)
    guest.wait_writing(a)

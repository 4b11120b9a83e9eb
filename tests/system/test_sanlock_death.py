# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the death of a QEMU or of its host does to leases of sanlock."""

import re
import time

from bed import leasing
from bed.attempt import Attempt
from bed.leasing import DEAD_AFTER_S
from bed.vm import Disk
from bed.wait import holds_for, wait_until

RENEWAL_S = 2       # of io_timeout 1: the last sign of life before a power loss may be that old


def test_killed_qemu(sanlock_hosts, vm, shared_file):
    a, b = sanlock_hosts
    guest = vm([Disk(path=shared_file()) for _ in range(3)])
    guest.start(a)
    guest.wait_writing(a)
    guest.kill(a, wait=False)
    assert guest.start(b).returncode == 0       # at once: no second attempt
    guest.wait_writing(b)
    guest.destroy(b)
    guest.start(a)                              # nor after a destroy
    guest.wait_writing(a)


def test_power_loss(sanlock_host, vm, shared_file, lease_directory):
    """One wait of 68 s for all that must be seen in it."""
    a, b = sanlock_host(wait=False), sanlock_host(conf={"takeover_wait": 200}, start_daemon=False)
    c = sanlock_host(wait=False, conf={"takeover_wait": 0})
    with open(b.path("/etc/libvirt/libvirtd.conf"), "a", encoding="utf-8") as conf:
        conf.write("max_workers = 40\n")        # of 20, each waiting start keeps one
    b.start_virtleased()
    b.start_libvirtd()
    for host in (a, b, c):
        leasing.wait_state(host)
    leasing.wait_acquainted(a, b, c)
    lost = vm([Disk(path=shared_file()), Disk(path=shared_file())])
    many = vm([Disk(path=shared_file()) for _ in range(20)], mode="idle")
    free = vm([Disk(path=shared_file())])
    lost.start(a)
    lost.wait_writing(a)
    many.start(a)
    began = time.monotonic()
    a.power_loss()
    lost.wait_silent()
    logged = len(leasing.log_of(b))
    # 20 acquires against the dying host, each of another VM
    against = [vm([disk], mode="idle") for disk in many.disks]
    attempt, crowd = Attempt(lost, b, timeout=240), [Attempt(guest, b, timeout=240) for guest in against]
    # One that must not wait is told when to come back; the owner still counts as alive for the first seconds.
    wait_until(lambda: time.monotonic() - began > 12, 15, "its renewals are missed")
    text = leasing.refused(vm([lost.disks[0]]), c, f"held by host {a.number} (host-a)", "start it again in")
    left = int(re.search(r"start it again in (\d+) s", text)[1])
    assert DEAD_AFTER_S - 40 < left + (time.monotonic() - began) - 12 <= DEAD_AFTER_S + 6, text
    # A free volume is not delayed by them.
    elsewhere = time.monotonic()
    free.start(b)
    print("free volume beside them:", time.monotonic() - elsewhere)
    assert time.monotonic() - elsewhere < DEAD_AFTER_S / 3, "an acquire of a free volume waits behind those of the dying host"
    free.wait_writing(b)
    # The wait is visible.
    wait_until(lambda: re.search(r"waiting for host \d+ \(host-a\).* (\d+) s left", leasing.log_of(b)[logged:]), 15, "the time left")
    first = int(re.search(r"(\d+) s left", leasing.log_of(b)[logged:])[1])
    assert DEAD_AFTER_S - 40 <= first <= DEAD_AFTER_S + 6, first
    listed = next(x for x in b.ctl("list")["leases"] if x["vm"] == lost.name and x["state"] == "taking")
    assert abs(listed["wait_s"] + time.monotonic() - began - DEAD_AFTER_S) < 20, listed
    assert f"taking, {str(listed['wait_s'])[0]}" in b.run(leasing.VIRTLEASECTL, "list").stdout
    # Not before its time ...
    holds_for(lambda: lease_directory.owner(lost.disks[0].path) == a.number,
              DEAD_AFTER_S - 2 * RENEWAL_S - (time.monotonic() - began), "it stays the dead host's")
    # ... and then at once, by that one start.
    attempt.succeeds(timeout=60)
    seconds = time.monotonic() - began
    print("power loss to running:", seconds)
    for one in crowd:
        one.succeeds(timeout=30)
    assert lease_directory.owner(lost.disks[1].path) == b.number
    # The host comes back and has nothing.
    a.start()
    leasing.wait_state(a, timeout=100)
    leasing.refused(vm([lost.disks[0]]), a, f"held by host {b.number}")

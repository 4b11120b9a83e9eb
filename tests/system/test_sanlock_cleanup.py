# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtleasectl cleanup on two hosts at once, while VMs run, start and stop on both."""

import os
import threading
import time

from bed import leasing
from bed.attempt import Attempt
from bed.sanlock import resource_name
from bed.vm import Disk

LONG_AGO_S = 3600


def make_old(path):
    then = time.time() - LONG_AGO_S
    os.utime(path, (then, then))


def test_cleanup_while_vms_start(sanlock_hosts, vm, shared_file, lease_directory):
    a, b = sanlock_hosts
    gone, odd = [lease_directory.path / resource_name(f"/deleted/{i}") for i in range(30)], lease_directory.path / "README"
    running = {a: vm([Disk(path=shared_file())]), b: vm([Disk(path=shared_file())])}
    paused = vm([Disk(path=shared_file())])
    for host, guest in running.items():
        guest.start(host)
        guest.wait_writing(host)
    paused.start(b, paused=True)
    coming = [vm([Disk(path=shared_file())]) for _ in range(6)]
    for i in range(30):
        lease_directory.format_resource(f"/deleted/{i}")
    for guest in coming:                                # they ran here once
        lease_directory.format_resource(guest.disks[0].path)
    odd.write_text("who put this here?")
    for path in lease_directory.path.iterdir():
        make_old(path)                                  # the lockspace and what is in use, too
    kept = {p.name for p in lease_directory.path.iterdir()} - {p.name for p in gone}

    dry = a.ctl("cleanup", "--dry-run")
    assert {f["file"] for f in dry["removed"]} == {p.name for p in gone} | {resource_name(g.disks[0].path) for g in coming}
    assert [f["file"] for f in dry["unknown"]] == ["README"] and dry["failed"] == []
    assert {p.name for p in lease_directory.path.iterdir()} == kept | {p.name for p in gone}

    answers = {}
    began = time.monotonic()
    cleaners = [threading.Thread(target=lambda h=h: answers.__setitem__(h.name, h.ctl("cleanup"))) for h in (a, b)]
    for cleaner in cleaners:
        cleaner.start()
    attempts = [(Attempt(guest, a), Attempt(guest, b)) for guest in coming[:3]]     # each on both: one may win
    alone = [Attempt(guest, host) for guest, host in zip(coming[3:], (a, b, a))]    # must not fail for a cleanup
    for cleaner in cleaners:
        cleaner.join(60)
    print("cleanup took at most", time.monotonic() - began)
    removed = {f["file"] for answer in answers.values() for f in answer["removed"]}
    assert {p.name for p in gone} <= removed and not any(answer["failed"] for answer in answers.values()), answers
    for guest, attempt in zip(coming[3:], alone):
        assert attempt.result().returncode == 0, attempt.result().stderr
    for guest, pair in zip(coming, attempts):
        codes = sorted(attempt.result().returncode for attempt in pair)
        assert codes[0] == 0 and codes[1] != 0, [attempt.result().stderr for attempt in pair]

    for guest in [*coming, *running.values(), paused]:
        host = next(h for h in (a, b) if guest.name in h.domains())
        other = b if host is a else a
        leasing.assert_held(host, guest)
        assert lease_directory.owner(guest.disks[0].path) == host.sanlock.host_id
        leasing.refused(guest, other, f"held by host {host.number}")
    left = {p.name for p in lease_directory.path.iterdir()}
    assert left == kept | {resource_name(g.disks[0].path) for g in coming}, left ^ kept
    assert b.ctl("cleanup")["removed"] == []

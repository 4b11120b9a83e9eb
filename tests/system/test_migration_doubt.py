# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may run after a migration that nobody is sure about: R1 (stale memory), R2 (old tokens), R16 (no gap) of the design."""

import copy
import re

import pytest

from bed import ghost, lease
from bed.driver import Driver
from bed.fault import FAULT_ENV, Faults
from bed.moving import SLOW, Line, Migration, assert_lives_on
from bed.observe import StartAgainAndAgain
from bed.vm import Disk
from bed.wait import holds_for, wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4}, env=FAULT_ENV)
STALE = "memory here is stale"


@pytest.fixture
def running(hosts, vm):
    guest = vm()
    guest.start(hosts[0])
    guest.wait_writing(hosts[0])
    return guest


def intruding(guest, host):
    """A third host that tries to start the VM all the time; its copy of the definition keeps the running VM's identity what it is."""
    return StartAgainAndAgain(copy.copy(guest), host)


def test_two_hosts_resume_their_copy(hosts, running, cluster):
    """The line breaks before Finish returns, and the destination is suspended at once: both copies are paused, both hosts think it is
    theirs. Whoever is resumed first, only the one with the lease runs."""
    a, b = hosts
    line, faults = Line(cluster, b), Faults(b)
    faults.arm("after-hold")
    migration = Migration(running, a, b, line=line)
    faults.await_hit("after-hold")
    line.hold()
    faults.release("after-hold")
    running.wait_writing(b)
    b.virsh("suspend", running.name)
    line.cut()
    migration.fails()
    assert a.domain_state(running.name) == b.domain_state(running.name) == "paused"
    running.assert_silent(1)
    assert STALE in a.virsh("resume", running.name, check=False).stderr
    b.virsh("resume", running.name)
    running.wait_writing(b)
    assert a.domain_state(running.name) == "paused"
    running.destroy(a)
    assert_lives_on(running, b, [a], cluster)


def test_old_token_of_a_source_that_ran_on(hosts, running, cluster):
    """R2. The destination's QEMU is complete and left paused; the source is suspended and resumed, so it wrote since. Then the
    destination presents what it got at the beginning of the migration. Staged: libvirt ends the source right after such a
    migration, so the copy's lock state is presented by hand (vldriver), for a process that the record knows as heir."""
    a, b = hosts
    token = lease.holder(cluster, running.disks[0].image)["token"]
    a.virsh("suspend", running.name)
    assert lease.holder(cluster, running.disks[0].image)["token"] == token     # it may travel now
    a.virsh("resume", running.name)
    assert lease.holder(cluster, running.disks[0].image)["token"] != token
    driver = Driver(b)
    try:
        b.write(f"/run/libvirt/qemu/{running.name}.xml",
                "<domstatus state='paused' reason='migration' pid='0'>\n<job type='none' async='migration in' phase='prepare'/>\n"
                + running.xml() + "</domstatus>\n")
        driver.know(running)
        pid = driver.ok("spawn", "sleep", "60")["pid"]
        driver.know(running, pid)
        assert "has run on" in driver.error("call", "acquire", f"vl1:{token}", 0, 0)
        assert STALE in driver.error("call", "acquire", f"vl1:{token}", 0, 0)
    finally:
        driver.close()
    running.wait_writing(a)
    assert_lives_on(running, a, [b], cluster)


def test_migration_of_a_vm_whose_disk_was_plugged_in(hosts, running, image, cluster):
    """All disks of a VM have one token, those that came later as well."""
    a, b = hosts
    disk = Disk(image(), target="sda")
    running.attach(a, disk)
    wait_until(lambda: lease.states(a, running) == ["held"] * 2, 3, "leased")
    running.migrate(a, b)
    running.wait_writing(b)
    assert lease.states(b, running) == ["held"] * 2
    running.detach(b, disk)
    wait_until(lambda: lease.states(b, running) == ["held"], 5, "detached")
    assert_lives_on(running, b, [a], cluster)


@pytest.mark.parametrize("how", ["paused", "--suspend"])
def test_no_gap_where_libvirt_calls_nobody(hosts, host_c, running, cluster, how):
    """R16: the source's QEMU ends, and no Acquire comes before the resume. A third host tries to start the VM all the time."""
    a, b = hosts
    if how == "paused":
        a.virsh("suspend", running.name)
    with intruding(running, host_c) as intruder:
        wait_until(lambda: intruder.attempts, 10, "a first try")
        running.migrate(a, b, *(["--suspend"] if how == "--suspend" else []))
        wait_until(lambda: lease.listed(a, running) == [], 10, "the source is done")
        tries = len(intruder.attempts)
        wait_until(lambda: len(intruder.attempts) >= tries + 2, 20, "two more tries")
        assert b.domain_state(running.name) == "paused"
        b.virsh("resume", running.name)
        running.wait_writing(b)
    intruder.assert_all_refused()
    assert_lives_on(running, b, [a, host_c], cluster)


def test_no_gap_in_a_live_migration(hosts, host_c, running, cluster):
    a, b = hosts
    with intruding(running, host_c) as intruder:
        for source, target in ((a, b), (b, a)):
            running.migrate(source, target)
            running.wait_writing(target)
    intruder.assert_all_refused()
    assert_lives_on(running, a, [b, host_c], cluster)


def test_state_string_survives_libvirt(hosts, running):
    """What libvirt writes unescaped into its XML."""
    a, _ = hosts
    a.virsh("suspend", running.name)
    xml = a.path(f"/run/libvirt/qemu/{running.name}.xml").read_text()
    assert re.search(r"<lockstate>vl1:[0-9a-f]+</lockstate>", xml)


def test_client_of_a_migrating_vm_is_never_fenced(hosts, running, cluster):
    """The record remembers fences of both hosts from an earlier crash; while the VM migrates, the other end's client is on an IP that
    was fenced once, and no lease names it yet. It is no stranger."""
    a, b = hosts
    record = ghost.read_record(cluster, running.disks[0].image)
    record["fenced"] = [ghost.fence_entry(f"{h.address}:0/{n}", 3600) for n, h in enumerate(hosts, 7)]
    context, header = cluster.images.header(running.disks[0].image)
    context.set_xattr(header, "virtlease", ghost.json.dumps(record).encode())
    for host in hosts:
        host.stop_virtleased()
        host.start_virtleased(audit_interval=1)
    wait_until(lambda: lease.states(a, running) == ["held"], 10, "adopted")
    migration = Migration(running, a, b, *SLOW).wait_copying()
    holds_for(lambda: True, 2.5, "some audits")
    migration.succeeds()
    running.wait_writing(b)
    assert cluster.blocklist() == {}
    assert_lives_on(running, b, [a], cluster)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Daemons come and go around VMs that live on: what each VM had, it has afterwards."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bed import lease
from bed.fault import FAULT_ENV
from bed.moving import assert_lives_on
from bed.run import environment
from bed.vm import VM, Disk
from bed.wait import wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4}, env=FAULT_ENV)
MANY = 200


@pytest.fixture
def two(hosts, vm):
    """A running VM and a paused one on the first host."""
    running, paused = vm(), vm()
    for guest in (running, paused):
        guest.start(hosts[0])
        guest.wait_writing(hosts[0])
    hosts[0].virsh("suspend", paused.name)
    return running, paused


def assert_as_before(hosts, running, paused, cluster):
    a, b = hosts
    wait_until(lambda: (lease.states(a, running), lease.states(a, paused)) == (["held"], ["parked"]), 10, "both have what they had")
    for guest in (running, paused):
        identity = guest.identity
        assert a.name in guest.start(b, check=False).stderr
        guest.identity = identity
    running.wait_writing(a)
    a.virsh("resume", paused.name)
    paused.wait_writing(a)
    for guest in (running, paused):
        guest.migrate(a, b)
        assert_moved(guest, b, a, cluster)


def assert_moved(guest, host, source, cluster):
    guest.wait_writing(host)
    wait_until(lambda: lease.states(host, guest) == ["held"] and lease.listed(source, guest) == [], 10, "moved")
    assert not set(cluster.images.watchers(guest.disks[0].image)) & set(cluster.blocklist())


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_virtleased_restarts(hosts, two, cluster, end):
    a, _ = hosts
    tokens = [lease.holder(cluster, g.disks[0].image)["token"] for g in two]
    getattr(a, f"{end}_virtleased")()
    a.start_virtleased()
    wait_until(lambda: lease.states(a, two[0]) == ["held"], 10, "adopted")
    assert tokens == [lease.holder(cluster, g.disks[0].image)["token"] for g in two], "a token may be on its way in a migration"
    assert_as_before(hosts, *two, cluster)


def test_journal_lost(hosts, two, cluster):
    """What ran is found in libvirt's status XML and in the records."""
    a, _ = hosts
    a.kill_virtleased()
    shutil.rmtree(a.path("/var/lib/virtlease"))
    a.path("/var/lib/virtlease").mkdir()
    a.start_virtleased()
    assert_as_before(hosts, *two, cluster)


def test_libvirtd_restarts(hosts, two, cluster):
    a, _ = hosts
    a.kill_libvirtd()
    a.start_libvirtd()
    assert_as_before(hosts, *two, cluster)


def test_both_down_together(hosts, two, cluster):
    a, _ = hosts
    a.kill_virtleased()
    a.kill_libvirtd()
    a.start_virtleased()
    a.start_libvirtd()
    assert_as_before(hosts, *two, cluster)


def test_paused_while_virtleased_was_down(hosts, vm, cluster):
    """R17: libvirt's Release finds nobody; the record still says held. The next daemon makes up for it."""
    a, _ = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    a.kill_virtleased()
    a.virsh("suspend", guest.name)
    assert lease.holder(cluster, guest.disks[0].image)["state"] == "held"
    a.start_virtleased()
    wait_until(lambda: lease.holder(cluster, guest.disks[0].image)["state"] == "parked", 10, "parked as well")
    a.virsh("resume", guest.name)
    guest.wait_writing(a)


def test_a_planned_stop_drops_no_lease(hosts, two, cluster):
    """SIGTERM, as systemctl stop: the leases stay, and for restart_grace nobody calls the host dead."""
    a, b = hosts
    a.stop_virtleased()
    for guest in two:
        assert lease.holder(cluster, guest.disks[0].image)["name"] == a.name
    identity = two[0].identity
    done = two[0].start(b, check=False)
    two[0].identity = identity
    assert done.returncode != 0 and a.name in done.stderr, done.stderr
    two[0].wait_writing(a)
    a.start_virtleased()
    assert_as_before(hosts, *two, cluster)


def test_undefined_while_running(hosts, vm, cluster):
    a, b = hosts
    guest = vm()
    guest.define(a)
    a.virsh("start", guest.name)
    guest.wait_writing(a)
    a.virsh("undefine", guest.name)
    a.kill_virtleased()
    a.start_virtleased()
    wait_until(lambda: lease.states(a, guest) == ["held"], 10, "adopted")
    guest.migrate(a, b)
    assert_lives_on(guest, b, [a], cluster)


def test_renamed_between_two_lives(host_a, vm):
    """libvirt renames only what is shut off; leases are by uuid and image, not by name."""
    guest = vm()
    guest.define(host_a)
    host_a.virsh("start", guest.name)
    guest.wait_writing(host_a)
    assert host_a.virsh("domrename", guest.name, "another", check=False).returncode != 0
    guest.destroy(host_a)
    host_a.virsh("domrename", guest.name, "another")
    host_a.virsh("start", "another")
    guest.wait_writing(host_a)
    assert [x["vm"] for x in lease.listed(host_a)] == ["another"]


def session_watchers(cluster, host):
    """Addresses that watch the host's session object."""
    name = f"virtlease.host.{host.ctl('status')['host_id']}"
    done = subprocess.run(["rados", "-c", cluster.conf, "-n", "client.admin", "--key", cluster.keys["client.admin"], "-p", "rbd",
                           "listwatchers", name], capture_output=True, text=True, timeout=30, check=True, env=environment())
    return re.findall(r"watcher=(\S+)", done.stdout)


def test_virtleased_itself_is_blocklisted(hosts, two, cluster):
    """Its own Ceph client, not a VM's: it connects anew, checks each lease, and goes on; nobody takes it for dead meanwhile."""
    a, _ = hosts
    address, = session_watchers(cluster, a)
    cluster.blocklist_add(address)

    def again():
        found = session_watchers(cluster, a)
        return found and address not in found and a.ctl("status")["sessions"][0]["state"] == "live"
    wait_until(again, 20, "a new client")
    two[0].wait_writing(a)
    assert_as_before(hosts, *two, cluster)


def fake_qemu(host, vm, processes):
    """A process that looks like that VM's QEMU, paused, with the status XML that libvirt would have written."""
    processes.append(subprocess.Popen(host.enter("sh", "-c", "kill -STOP $$", "fake", "-uuid", vm.uuid), stdin=subprocess.DEVNULL))

    def pid():      # nsenter forks: the shell is its child
        found = [p for p in host.processes("sh") if vm.uuid in Path(f"/proc/{p}/cmdline").read_text()]
        return found and host.inner_pid(found[0])
    vm.new_incarnation()
    host.write(f"/run/libvirt/qemu/{vm.name}.xml", f"<domstatus state='paused' reason='user' pid='{wait_until(pid, 10, 'the fake process')}'>\n"
               f"{vm.xml()}</domstatus>\n")


def test_many_vms_are_adopted_at_once(host_a, cluster, kernel):
    """200 processes that look like QEMU, with status XML and, the second time, journal and records; a thousand would be too many for this
    bed. The daemon's own start is part of the time."""
    processes, took = [], []
    host_a.stop_virtleased()
    try:
        for i in range(MANY):
            fake_qemu(host_a, VM(cluster, kernel, f"many{i}", [Disk(cluster.images.create(f"rbd/many.{i}", size=1 << 20))]), processes)
        for _ in range(2):
            before = lease.log_of(host_a).count("adopted with 1 lease")
            began = time.monotonic()
            host_a.start_virtleased()
            wait_until(lambda n=before + MANY: lease.log_of(host_a).count("adopted with 1 lease") >= n, 60, "all are adopted", poll=0.02)
            took.append(time.monotonic() - began)
            host_a.kill_virtleased()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    print(f"{MANY} VMs adopted in {took[0]:.2f} s (new), {took[1]:.2f} s (after a restart)")
    assert took[1] < 5

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VM's CPUs stop and go on: its disks stay its own as long as its QEMU lives, and a saved VM's are free."""

import re

import pytest

from bed import lease
from bed.vm import Disk
from bed.wait import holds_for, wait_until

pytestmark = pytest.mark.bed(conf={"dead_after": 4})


@pytest.fixture
def running(hosts, vm):
    guest = vm()
    guest.start(hosts[0])
    guest.wait_writing(hosts[0])
    return guest


def refused_on(host, guest):
    identity = guest.identity
    done = guest.start(host, check=False)
    guest.identity = identity
    assert done.returncode != 0 and "cause is unknown" not in done.stderr, done.stderr
    return done.stderr


def test_suspend_and_resume_twice(hosts, running, cluster):
    """libvirt calls Release twice each time; both answers are the same state, and the lease is parked, not free."""
    a, b = hosts
    for _ in range(2):
        a.virsh("suspend", running.name)
        assert lease.states(a, running) == ["parked"]
        wait_until(lambda: lease.holder(cluster, running.disks[0].image)["state"] == "parked", 2, "stored")
        states = re.findall(r"<lockstate>(.*)</lockstate>", a.path(f"/run/libvirt/qemu/{running.name}.xml").read_text())
        assert states == ["vl1:" + lease.holder(cluster, running.disks[0].image)["token"]]
        assert a.name in refused_on(b, running)
        a.virsh("resume", running.name)
        running.wait_writing(a)
        assert lease.states(a, running) == ["held"]
    assert lease.log_of(a).count("release of VM") == 4


def test_start_paused(hosts, vm):
    a, b = hosts
    guest = vm()
    guest.start(a, paused=True)
    assert lease.states(a, guest) == ["parked"]
    refused_on(b, guest)
    a.virsh("resume", guest.name)
    guest.wait_writing(a)
    assert lease.states(a, guest) == ["held"]


class StoppingDisk(Disk):
    """A disk whose errors pause the VM instead of being the guest's business."""

    def xml(self, cluster, position=None):
        return super().xml(cluster, position).replace("cache='none'", "cache='none' error_policy='stop'", 1)


def test_io_error_pause(hosts, vm, image, cluster):
    """Its writes fail because its client is fenced behind its back. It is still the VM's, as long as its QEMU lives."""
    a, b = hosts
    guest = vm([StoppingDisk(image())])
    guest.start(a)
    guest.wait_writing(a)
    cluster.blocklist_add(lease.holder(cluster, guest.disks[0].image)["addrs"][0])
    wait_until(lambda: a.domain_state(guest.name) == "paused", 20, "paused by the I/O error")
    wait_until(lambda: lease.states(a, guest) == ["parked"], 5, "parked")
    refused_on(b, guest)
    a.virsh("destroy", guest.name)
    wait_until(lambda: lease.listed(a, guest) == [], 10, "free")
    guest.start(b)
    guest.wait_writing(b)


def test_guest_panic(hosts, vm):
    """A pvpanic device told by the guest: on_crash=preserve keeps the dead guest's QEMU, and with it the lease; destroy frees it."""
    a, b = hosts
    guest = vm(devices="<panic model='isa'/>")
    guest.start(a)
    guest.wait_writing(a)
    a.virsh("qemu-monitor-command", guest.name, "--hmp", "o/b 0x505 1")
    wait_until(lambda: lease.listed(a, guest) == [], 20, "destroyed (on_crash) and free")
    guest.start(b)
    guest.wait_writing(b)


def test_watchdog_pause(hosts, vm, cluster):
    """Armed by the ports of an ib700, as a driver in the guest would, and never fed: the CPUs stop, the disk stays the VM's, and a resume
    is one like any other."""
    a, b = hosts
    guest = vm(devices="<watchdog model='ib700' action='pause'/>")
    guest.start(a)
    guest.wait_writing(a)
    before = lease.holder(cluster, guest.disks[0].image)
    a.virsh("qemu-monitor-command", guest.name, "--hmp", "o/b 0x443 0xe")      # 2 s
    wait_until(lambda: a.domain_state(guest.name) == "paused", 20, "paused by the watchdog")
    assert "watchdog" in a.virsh("domstate", guest.name, "--reason").stdout
    wait_until(lambda: lease.states(a, guest) == ["parked"], 5, "parked")
    wait_until(lambda: lease.holder(cluster, guest.disks[0].image)["state"] == "parked", 5, "stored")
    guest.wait_silent()
    assert a.name in refused_on(b, guest)
    a.virsh("resume", guest.name)
    guest.wait_writing(a)
    assert lease.states(a, guest) == ["held"]
    after = lease.holder(cluster, guest.disks[0].image)
    assert after["token"] != before["token"] and after["addrs"] == before["addrs"]
    assert cluster.blocklist() == {}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-host", "other-host"])
def test_saved_vms_disks_are_free(hosts, running, world, elsewhere):
    a, b = hosts
    path = world.dir / "shared"
    path.mkdir(exist_ok=True)
    path = path / f"{running.name}.save"
    a.virsh("save", running.name, path)
    wait_until(lambda: lease.listed(a, running) == [], 5, "free")
    target = b if elsewhere else a
    target.virsh("restore", path)
    running.wait_writing(target)
    assert lease.states(target, running) == ["held"]


def test_managed_save(host_a, vm, host_b):
    """While it is saved another host may start it; then the saved one is refused."""
    guest = vm()
    guest.define(host_a)
    host_a.virsh("start", guest.name)
    guest.wait_writing(host_a)
    host_a.virsh("managedsave", guest.name)
    wait_until(lambda: lease.listed(host_a, guest) == [], 5, "free")
    host_a.virsh("start", guest.name)
    guest.wait_writing(host_a)
    host_a.virsh("managedsave", guest.name)
    identity = guest.identity
    guest.start(host_b)
    guest.wait_writing(host_b)
    done = host_a.virsh("start", guest.name, check=False)
    assert done.returncode != 0 and host_b.name in done.stderr, done.stderr
    guest.destroy(host_b)
    guest.identity = identity


def test_reset_keeps_the_lease(hosts, running):
    a, _ = hosts
    a.virsh("reset", running.name)
    running.wait_writing(a)
    assert lease.states(a, running) == ["held"]


def test_fake_reboot(hosts, running, cluster):
    """The guest powers down because libvirt asked it to reboot: libvirt resets it and calls Acquire for what is held already. This guest
    has no ACPI, so the power-down is QEMU's own."""
    a, _ = hosts
    calls = lease.log_of(a).count("acquire of VM")
    a.virsh("reboot", running.name, "--mode", "acpi")
    a.virsh("qemu-monitor-command", running.name, "--hmp", "o/w 0x604 0x2000")      # q35: PM1a_CNT, S5
    wait_until(lambda: lease.log_of(a).count("acquire of VM") == calls + 1, 10, "libvirt resets it and asks for what it has")
    running.wait_writing(a)
    assert lease.states(a, running) == ["held"]
    assert cluster.blocklist() == {}


def test_internal_snapshot_is_refused_by_libvirt(hosts, running):
    """Raw RBD images cannot hold one; the lease does not care."""
    a, _ = hosts
    done = a.virsh("snapshot-create-as", running.name, "s1", check=False)
    assert done.returncode != 0
    running.wait_writing(a)
    assert lease.states(a, running) == ["held"]


class Qcow2Disk(Disk):
    def xml(self, cluster, position=None):
        return super().xml(cluster, position).replace("type='raw'", "type='qcow2'")


def test_internal_snapshot_and_revert(hosts, vm, image, cluster):
    """An image in qcow2 format on RBD can hold one, memory and all: the CPUs stop for it and go on, and so do those of a revert."""
    a, b = hosts
    spec = image()
    cluster.images.remove(spec)     # qemu-img makes it itself
    a.run("qemu-img", "create", "-q", "-f", "qcow2", f"rbd:{spec}:id=qemu:conf=/etc/ceph/ceph.conf:key={cluster.keys['client.qemu']}", "4M")
    guest = vm([Qcow2Disk(spec)])
    guest.start(a)
    wait_until(lambda: lease.states(a, guest) == ["held"], 5, "it runs")
    a.virsh("snapshot-create-as", guest.name, "s1")
    assert lease.states(a, guest) == ["held"]
    refused_on(b, guest)
    a.virsh("snapshot-revert", guest.name, "s1", "--force")
    wait_until(lambda: lease.states(a, guest) == ["held"], 10, "reverted and running")
    refused_on(b, guest)
    assert cluster.blocklist().keys().isdisjoint(cluster.images.watchers(spec))


def test_monitor_stop_and_cont(hosts, running, cluster):
    """`cont` by hand is a resume that no lock manager is asked about: it runs PARKED, which still keeps everybody else out. The next
    suspend and resume put it right."""
    a, b = hosts
    a.virsh("qemu-monitor-command", running.name, "--hmp", "stop")
    wait_until(lambda: lease.states(a, running) == ["parked"], 5, "parked")
    a.virsh("qemu-monitor-command", running.name, "--hmp", "cont")
    running.wait_writing(a)
    refused_on(b, running)
    a.virsh("suspend", running.name)
    a.virsh("resume", running.name)
    holds_for(lambda: lease.states(a, running) == ["held"], 0.5, "held")
    running.wait_writing(a)


def test_memory_snapshot_to_file(hosts, running, world):
    """virsh dump --live stops and starts the CPUs around it."""
    a, _ = hosts
    a.virsh("dump", running.name, world.dir / "core", "--memory-only")
    running.wait_writing(a)
    assert lease.states(a, running) == ["held"]

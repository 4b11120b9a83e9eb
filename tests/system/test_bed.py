# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bed itself, without virtlease: if one of these fails, no other result means anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rados

from bed.run import STATE_DIR, start_time
from bed.vm import Disk
from bed.wait import holds_for, wait_until

pytestmark = pytest.mark.bed(lock_manager=None)


def test_guest_writes_its_identity_and_counts(host_a, vm):
    guest = vm(disks=2)
    guest.start(host_a)
    first = guest.wait_writing(host_a)
    assert first.failures == 0
    assert guest.wait_writing(host_a, disk=1).counter > first.counter


def test_guest_on_a_file(host_a, vm, shared_file):
    guest = vm([Disk(path=shared_file())])
    guest.start(host_a)
    guest.wait_writing(host_a)


def test_idle_guest_never_writes(host_a, vm):
    guest = vm(mode="idle")
    guest.start(host_a)
    holds_for(lambda: guest.record() is None, 2, "no write")
    assert host_a.domain_state(guest.name) == "running"


def test_eight_disks(host_a, vm):
    guest = vm(disks=8)
    guest.start(host_a)
    for disk in range(8):
        guest.wait_writing(host_a, disk=disk)


def test_without_a_lock_manager_two_hosts_write_the_same_disk(hosts, vm):
    """What virtlease is for: librbd's own lock wanders to and fro and both guests write."""
    guest = vm()
    guest.start(hosts[0])
    guest.wait_writing(hosts[0])
    first = guest.identity
    guest.start(hosts[1])
    guest.wait_writing(hosts[1])
    wait_until(lambda: guest.record().identity == first, 30, "the first guest writes again")


def test_hosts_differ_where_machines_differ(hosts):
    a, b = hosts
    assert a.uuid != b.uuid and a.address != b.address and a.machine_id != b.machine_id and a.boot_id != b.boot_id
    for host in hosts:
        assert host.run("cat", "/etc/machine-id").stdout.strip() == host.machine_id
        assert host.run("cat", "/proc/sys/kernel/random/boot_id").stdout.strip() == host.boot_id
        assert host.uuid in host.virsh("capabilities").stdout
    assert a.virsh("-c", f"qemu+tcp://{b.address}/system", "hostname").stdout.strip() == b.name


def test_migration_moves_the_guest(hosts, vm):
    guest = vm()
    guest.start(hosts[0])
    before = guest.wait_writing(hosts[0])
    guest.migrate(*hosts)
    assert guest.wait_writing(hosts[1]).counter > before.counter
    assert guest.name not in hosts[0].domains()


def test_hot_plug_and_unplug(host_a, vm, image, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    disk = Disk(image(), target="sda")
    guest.attach(host_a, disk)
    assert len(cluster.images.watchers(disk.image)) == 1
    guest.detach(host_a, disk)
    wait_until(lambda: not cluster.images.watchers(disk.image), 10, "QEMU closed the disk")


def test_power_loss_stops_the_writer_and_reboot_keeps_the_disk(host_a, vm, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    boot_id, address = host_a.boot_id, host_a.address
    host_a.power_loss()
    guest.wait_silent()
    assert cluster.images.lock_owner(guest.disks[0].image)      # nobody tidied up: that is the point of a power loss
    host_a.write("/var/lib/virtlease/kept", "yes")
    host_a.reboot()
    assert host_a.boot_id != boot_id and host_a.address == address
    assert host_a.run("cat", "/var/lib/virtlease/kept").stdout == "yes"
    host_a.start_libvirtd()
    assert host_a.domains() == []
    other = vm()
    other.start(host_a)
    other.wait_writing(host_a)


def test_partition_stops_writing_and_healing_resumes_it(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    host_a.partition()
    guest.wait_silent()
    assert host_a.domain_state(guest.name) == "running"
    host_a.heal()
    guest.wait_writing(host_a)


def test_freeze_stops_writing_and_thaw_resumes_it(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    host_a.freeze()
    guest.wait_silent()
    host_a.thaw()
    guest.wait_writing(host_a)
    assert host_a.domain_state(guest.name) == "running"


def test_killed_qemu_is_gone_for_libvirt(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    guest.kill(host_a)
    wait_until(lambda: host_a.domains() == [], 10, "libvirt noticed")


def test_libvirtd_restart_keeps_the_guest(host_a, vm):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    host_a.stop_libvirtd()
    host_a.start_libvirtd()
    assert host_a.domains() == [guest.name]
    host_a.kill_libvirtd()
    host_a.start_libvirtd()
    assert host_a.domains() == [guest.name]
    guest.wait_writing(host_a)


def test_guest_survives_osd_stop_and_start(host_a, vm, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    cluster.stop_osd(0)
    assert host_a.domain_state(guest.name) == "running"
    cluster.start_osd(0)
    guest.wait_writing(host_a)


def test_guest_survives_a_frozen_osd_and_a_pause(host_a, vm, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    cluster.freeze_osd(0)
    cluster.thaw_osd(0)
    guest.wait_writing(host_a)
    cluster.pause()
    with pytest.raises(rados.TimedOut):
        guest.record()
    cluster.unpause()
    guest.wait_writing(host_a)


def test_guest_survives_monitor_restart(host_a, vm, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    cluster.stop_mon()
    guest.wait_writing(host_a)
    cluster.start_mon()
    guest.wait_writing(host_a)
    assert cluster.blocklist() == {}


def test_one_of_two_osds_killed_with_two_copies(new_cluster, new_host, vm):
    cluster = new_cluster(osds=2)
    host = new_host(cluster)
    guest = vm(cluster=cluster)
    guest.start(host)
    guest.wait_writing(host)
    cluster.kill_osd(1)
    cluster.wait_osd(1, up=False)
    guest.wait_writing(host)
    cluster.start_osd(1)
    cluster.wait_clean()
    cluster.kill_osd(0)
    guest.wait_writing(host)


def test_blocklisted_client_writes_no_more(host_a, vm, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    owner = cluster.images.lock_owner(guest.disks[0].image)["address"]
    assert owner in cluster.images.watchers(guest.disks[0].image)
    cluster.blocklist_add(owner)
    assert owner in cluster.blocklist()
    guest.wait_silent()


def test_osd_clock_can_be_stepped(host_a, vm, cluster, tmp_path):
    """A lock with a duration is judged by the OSD's wall clock: after a step it is over at once."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    cluster.stop_osd(0)
    cluster.start_osd(0, clock_file=clock)
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    context = cluster.images.context("rbd")
    context.lock_exclusive("virtlease.step", "lock", "one", duration=60)
    with pytest.raises(rados.ObjectBusy):
        context.lock_exclusive("virtlease.step", "lock", "two", duration=60)
    clock.write_text("+90")
    context.lock_exclusive("virtlease.step", "lock", "two", duration=60)
    guest.wait_writing(host_a)


def test_a_killed_run_is_swept_up_by_the_next(world, tmp_path):
    """kill -9 of a whole test process: the next World() finds its registry, ends its daemons and removes links and files."""
    program = ("import sys, time; sys.path.insert(0, sys.argv[1])\n"
               "from bed.run import World, sh; from bed.namespace import Namespace\n"
               "w = World(); n = Namespace(w, 'host-x', 10); n.boot()\n"
               "(w.dir / 'lun').write_bytes(bytes(1 << 20)); loop = sh('losetup', '--find', '--show', w.dir / 'lun').strip()\n"
               "print(w.registry.number, w.dir, n.parent.pid, n.link, loop[5:], flush=True); time.sleep(600)\n")
    with subprocess.Popen([sys.executable, "-c", program, os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True) as run:
        number, directory, pid, link, loop = run.stdout.readline().split()
        assert int(number) != world.registry.number
        assert os.path.exists(f"/sys/class/net/{link}")
        backing = Path(f"/sys/block/{loop}/loop/backing_file")
        assert backing.read_text().startswith(directory)
        run.kill()
    subprocess.run([sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1])\nfrom bed.run import sweep; sweep()",
                    os.path.dirname(__file__)], check=True, cwd=tmp_path)
    assert not os.path.exists(directory)
    assert start_time(int(pid)) is None
    assert not os.path.exists(f"/sys/class/net/{link}") and not os.path.exists(f"/sys/class/net/vlt{number}")
    assert not backing.exists() or not backing.read_text().startswith(directory)
    assert not (STATE_DIR / f"{number}.json").exists()
    assert os.path.exists(world.dir)

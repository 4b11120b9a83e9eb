# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtlease is installed under VMs that run already."""

from bed.lease import holder, listed, log_of, states
from bed.wait import wait_until

ADOPTED_S = 20


def install(host):
    """lock_manager = "virtlease" in qemu.conf, virtleased and libvirtd (re)started; VMs run on."""
    host.lock_manager = "virtlease"
    host.start_virtleased()
    host.stop_libvirtd()
    host.start_libvirtd()


def test_idle_vm_is_adopted_and_protected(new_host, cluster, vm):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm(disks=2, mode="idle")
    guest.start(a)
    assert holder(cluster, guest.disks[0].image) is None
    pid = a.qemu_pid(guest.name)
    install(a)
    wait_until(lambda: states(a, guest) == ["held", "held"], ADOPTED_S, "adopted")
    for lease in listed(a):
        image = lease["volume"].removeprefix("rbd:")
        assert lease["addrs"] == cluster.images.watchers(image) and len(lease["addrs"]) == 1
    assert a.qemu_pid(guest.name) == pid and a.domain_state(guest.name) == "running"
    done = guest.start(b, check=False)
    assert done.returncode != 0 and a.name in done.stderr and "that host is alive" in done.stderr, done.stderr
    a.virsh("suspend", guest.name)
    assert states(a, guest) == ["parked", "parked"]
    a.virsh("resume", guest.name)
    assert states(a, guest) == ["held", "held"]
    guest.destroy(a)
    guest.start(b)
    assert cluster.blocklist() == {}


def test_adopted_vm_is_taken_over_like_any_other(new_host, cluster, vm):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    a.start_virtleased()
    wait_until(lambda: states(a, guest) == ["held"], ADOPTED_S, "adopted")
    victims = set(cluster.images.watchers(guest.disks[0].image))
    guest.wait_writing(a)
    a.power_loss()
    guest.start(b)
    guest.wait_writing(b)
    assert set(cluster.blocklist()) == victims


def test_paused_vm_is_adopted_parked(new_host, cluster, vm):
    a, b = new_host(cluster, lock_manager=None), new_host(cluster)
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    a.virsh("suspend", guest.name)
    install(a)
    wait_until(lambda: states(a, guest) == ["parked"], ADOPTED_S, "adopted")
    identity = guest.identity
    assert guest.start(b, check=False).returncode != 0
    guest.identity = identity
    a.virsh("resume", guest.name)
    assert states(a, guest) == ["held"]
    guest.wait_writing(a)


def test_vm_whose_disk_is_leased_elsewhere_is_said_loudly(new_host, cluster, vm):
    """Two run already, one of them leased: nothing can be undone, but nobody may miss it."""
    a, b = new_host(cluster, lock_manager=None), new_host(cluster, conf={"foreign_users": "ignore"})
    guest = vm(mode="idle")
    guest.start(a)
    guest.start(b)
    a.start_virtleased()
    wait_until(lambda: "NO lease" in log_of(a), ADOPTED_S, "said")
    assert b.name in log_of(a)
    assert states(b, guest) == ["held"]
    assert cluster.blocklist() == {}

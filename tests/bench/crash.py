# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long after its owner's host lost power a VM runs elsewhere, against librbd with no lock manager. Real libvirtd, QEMU and guest.

"Runs" is the guest's first write on the disk: without a lock manager libvirt calls a VM running that waits for its disk.
"""

import statistics
import time

from bed import lease
from bed.host import VIRTLEASECTL
from bed.vm import VM, Disk
from bed.wait import Timeout, wait_until
from place import note

MANY_DISKS = 8
POLL_S = 0.02
TIMEOUT_S = 90
NEVER_S = 60            # twice what librbd needs when it can


class Case:
    """Two hosts of one kind, and VMs on them."""

    def __init__(self, place, name, lock_manager, ceph_conf=()):
        self.place, self.name = place, name
        self.hosts = [place.host(lock_manager, ceph_conf) for _ in range(2)]
        self.count = 0

    def new_vm(self, disks=1):
        self.count += 1
        images = [self.place.cluster.images.create(f"rbd/{self.name}.{self.count}.{i}") for i in range(disks)]
        return VM(self.place.cluster, self.place.kernel, f"{self.name}{self.count}", [Disk(image) for image in images])

    def close(self):
        for host in self.hosts:
            host.discard()


def start(vm, host, timeout=TIMEOUT_S):
    """Seconds of `virsh create` and seconds until the guest's first write."""
    began = time.monotonic()
    vm.start(host, timeout=timeout)
    created = time.monotonic() - began
    wait_until(vm.counter, timeout, f"first write of {vm.name}", poll=POLL_S)
    return {"create": created, "write": time.monotonic() - began}


def plain_starts(case, repeat, disks=1):
    starts = []
    for _ in range(repeat + 1):
        vm = case.new_vm(disks)
        starts.append(start(vm, case.hosts[1]))
        vm.destroy(case.hosts[1])
    return starts[1:]       # the first one fills caches


def crash(case, vm, fence_first=False):
    """Power loss of hosts[0] while the guest writes, then one start on hosts[1]; seconds since the power loss."""
    owner, other = case.hosts
    start(vm, owner)
    vm.wait_writing(owner)
    began = time.monotonic()
    owner.power_loss()
    times = {"power_loss": time.monotonic() - began}
    if fence_first:
        fencing = time.monotonic()
        other.run(VIRTLEASECTL, "fence", owner.name)
        times["fence"] = time.monotonic() - fencing
    started = start(vm, other)
    times.update(create=started["create"], start=started["write"], since_crash=time.monotonic() - began)
    return times


def crashes(case, repeat, disks=1, fence_first=False):
    measured = []
    for _ in range(repeat):
        vm = case.new_vm(disks)
        measured.append(crash(case, vm, fence_first))
        vm.destroy(case.hosts[1])
        case.hosts[0].discard()
        case.hosts[0] = case.place.host(case.hosts[1].lock_manager)
    return measured


def qemu_crashes(case, repeat):
    """SIGKILL for the QEMU of a guest that writes, and at once a start on the other host; seconds since the kill."""
    owner, other = case.hosts
    measured = []
    for _ in range(repeat):
        vm = case.new_vm()
        start(vm, owner)
        vm.wait_writing(owner)
        began = time.monotonic()
        vm.kill(owner, wait=False)
        started = start(vm, other)
        measured.append({"create": started["create"], "since_crash": time.monotonic() - began, "free": None})
        vm.destroy(other)
        vm = case.new_vm()
        start(vm, owner)
        vm.wait_writing(owner)
        began = time.monotonic()
        vm.kill(owner, wait=False)
        wait_until(lambda v=vm: not lease.listed(owner, v), TIMEOUT_S, "free", poll=POLL_S)
        measured[-1]["free"] = time.monotonic() - began
    return measured


def paused_meanwhile(case, repeat):
    """A VM is paused while its host's virtleased is down; seconds from the exec of the next one until its record says PARKED."""
    host = case.hosts[0]
    vm = case.new_vm()
    start(vm, host)
    measured = []
    for _ in range(repeat):
        vm.wait_writing(host)
        host.kill_virtleased()
        host.virsh("suspend", vm.name)
        began = time.monotonic()
        host.start_virtleased()
        wait_until(lambda: lease.holder(case.place.cluster, vm.disks[0].image)["state"] == "parked", TIMEOUT_S, "stored", poll=POLL_S)
        measured.append({"parked": time.monotonic() - began})
        host.virsh("resume", vm.name)
    vm.destroy(host)
    return measured


def crash_never(case):
    """The same where the takeover is expected to fail: how it looks after NEVER_S."""
    vm = case.new_vm()
    start(vm, case.hosts[0])
    vm.wait_writing(case.hosts[0])
    case.hosts[0].power_loss()
    vm.start(case.hosts[1])
    try:
        wait_until(vm.counter, NEVER_S, "first write", poll=POLL_S)
    except Timeout:
        log = case.hosts[1].path(f"/var/log/libvirt/qemu/{vm.name}.log").read_text(errors="replace")
        said = [line for line in log.splitlines() if "rbd request failed" in line]
        return {"ran": False, "waited": NEVER_S, "QEMU said": said[0] if said else None}
    return {"ran": True}


def medians(measured):
    result = {key: statistics.median(m[key] for m in measured) for key in measured[0]}
    result["n"] = len(measured)
    return result


def run(place, options):
    cases = {}
    note("crash: plain starts without and with virtlease")
    ours, plain = Case(place, "ours", "virtlease"), Case(place, "plain", None)
    cases["no crash, no lock manager"] = medians(plain_starts(plain, options.repeat))
    cases["no crash, virtlease"] = medians(plain_starts(ours, options.repeat))
    cases[f"no crash, no lock manager, {MANY_DISKS} disks"] = medians(plain_starts(plain, options.repeat, MANY_DISKS))
    cases[f"no crash, virtlease, {MANY_DISKS} disks"] = medians(plain_starts(ours, options.repeat, MANY_DISKS))
    note(f"crash: of QEMU, and of virtleased, {options.repeat} times")
    cases["QEMU killed, virtlease"] = medians(qemu_crashes(ours, options.repeat))
    cases["paused while virtleased was down"] = medians(paused_meanwhile(ours, options.repeat))
    note(f"crash: power loss with virtlease, {options.repeat} times")
    cases["power loss, virtlease"] = medians(crashes(ours, options.repeat))
    note(f"crash: the same with virtleasectl fence, 1 disk and {MANY_DISKS}")
    cases["power loss, virtlease, host known dead"] = medians(crashes(ours, options.repeat, fence_first=True))
    cases[f"power loss, virtlease, host known dead, {MANY_DISKS} disks"] = medians(crashes(ours, options.repeat, MANY_DISKS, fence_first=True))
    ours.close()
    note("crash: power loss without a lock manager (half a minute)")
    cases["power loss, no lock manager"] = medians(crashes(plain, 1))
    plain.close()
    note(f"crash: the same with rbd_blocklist_expire_seconds = 3600 ({NEVER_S} s)")
    never = Case(place, "never", None, ["rbd_blocklist_expire_seconds = 3600"])
    cases["power loss, no lock manager, rbd_blocklist_expire_seconds = 3600"] = crash_never(never)
    never.close()
    return {"unit": "seconds", "cases": cases}

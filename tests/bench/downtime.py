# SPDX-License-Identifier: LGPL-2.1-or-later
"""What virtlease adds to the downtime of a live migration: how long the guest writes nothing.

Two pairs of hosts, one with lock_manager = "virtlease" and one without any, a VM on each that writes flat out to one RBD disk. Turn by
turn the VM of one pair migrates while the other is paused, so that noise meets both alike. All on one machine with one clock.

    gap       from the completion of the source's last write to the completion of the destination's first one: the traces of the two QEMUs
              (virtio_blk_req_complete, with microseconds). Its resolution is one write of the guest, some milliseconds: that long before
              the CPUs stopped the last one may have been
    silent    the same to the destination's first request (virtio_blk_handle_write): without the first write itself, which waits until the
              source's librbd gives the exclusive lock up
    downtime  as libvirt reports it afterwards (`virsh domjobinfo --completed`), whole milliseconds
    lease     from PARKED in the log of the source's virtleased to HELD in that of the destination, whole milliseconds; most of it is
              QEMU's and libvirt's own work between the two
    acquire   how long of that the destination's virtleased took for its one call (its log)
"""

import datetime
import re
import statistics

from bed.vm import VM, Disk
from bed.wait import wait_until
from crash import Case
from place import note, summary

TRACE = """  <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <qemu:arg value='-trace'/><qemu:arg value='enable=virtio_blk_req_complete'/>
    <qemu:arg value='-trace'/><qemu:arg value='enable=virtio_blk_handle_write'/>
  </qemu:commandline>"""
EVENT = re.compile(r"^\d+@(\d+\.\d+):(\w+)", re.M)
REQUEST, DONE = "virtio_blk_handle_write", "virtio_blk_req_complete"
STATE = re.compile(r"^(\S+ \S+) \w+: lease \S+ of VM (\S+): \w+ -> (\w+) ", re.M)
ACQUIRED = re.compile(r"acquire of VM (\S+) .*: done in ([\d.]+) ms$", re.M)
WARM_UP = 2             # migrations of each pair that do not count
MS = 1000.0


class Log:
    """What is appended to a file from now on."""

    def __init__(self, path):
        self.path = path
        self.begin = path.stat().st_size if path.exists() else 0

    def text(self):
        with open(self.path, encoding="utf-8", errors="replace") as f:
            f.seek(self.begin)
            return f.read()


def events(log, name):
    return [float(when) for when, what in EVENT.findall(log.text()) if what == name]


def changed(log, vm, state):
    """When the lease of vm came into that state, in seconds."""
    times = [when for when, name, to in STATE.findall(log.text()) if name == vm.name and to == state]
    return datetime.datetime.strptime(times[-1], "%Y-%m-%d %H:%M:%S.%f").timestamp()


class Mover:
    """A pair of hosts and a VM that goes to and fro."""

    def __init__(self, place, name, lock_manager):
        self.case = Case(place, name, lock_manager)
        self.source, self.target = self.case.hosts
        image = place.cluster.images.create(f"rbd/{name}.moves")
        self.vm = VM(place.cluster, place.kernel, f"{name}moves", [Disk(image)], mode="flat-out", extra=TRACE)
        self.vm.start(self.source)
        self.vm.wait_writing(self.source)
        self.pause()

    def pause(self):
        self.source.virsh("suspend", self.vm.name)

    def _log(self, host):
        return Log(host.path(f"/var/log/libvirt/qemu/{self.vm.name}.log"))

    def migrate(self):
        """-> what the module's docstring lists, in milliseconds."""
        self.source.virsh("resume", self.vm.name)
        self.vm.wait_writing(self.source)
        source, target = self._log(self.source), self._log(self.target)
        leases = [Log(host.virtleased.log) for host in (self.source, self.target)] if self.case.hosts[0].lock_manager else None
        self.vm.migrate(self.source, self.target)
        wait_until(lambda: events(target, DONE), 30, f"{self.vm.name} writes on {self.target.name}")
        self.vm.wait_writing(self.target)
        last = max(events(source, DONE))
        stats = self.target.virsh("domjobinfo", self.vm.name, "--completed", check=False).stdout
        found = re.search(r"Total downtime:\s+(\d+)", stats)
        times = {"gap": MS * (min(events(target, DONE)) - last), "silent": MS * (min(events(target, REQUEST)) - last)}
        if found:
            times["downtime"] = float(found[1])
        if leases:
            times["lease"] = MS * (changed(leases[1], self.vm, "held") - changed(leases[0], self.vm, "parked"))
            times["acquire"] = next(float(ms) for name, ms in ACQUIRED.findall(leases[1].text()) if name == self.vm.name)
        self.source, self.target = self.target, self.source
        self.pause()
        return times


def run(place, options):
    note(f"downtime: {options.pairs} pairs of migrations")
    movers = {"without": Mover(place, "bare", None), "with": Mover(place, "leased", "virtlease")}
    pairs = []
    for i in range(WARM_UP + options.pairs):
        order = list(movers) if i % 2 else list(movers)[::-1]
        pairs.append({key: movers[key].migrate() for key in order})
    pairs = pairs[WARM_UP:]
    for mover in movers.values():
        mover.case.close()
    result = {"unit": "milliseconds", "pairs": pairs}
    for what in ("gap", "silent", "downtime", "lease", "acquire"):
        values = {key: [pair[key][what] for pair in pairs if what in pair[key]] for key in movers}
        result[what] = {key: summary(found) for key, found in values.items() if found}
        both = [pair["with"][what] - pair["without"][what] for pair in pairs if all(what in times for times in pair.values())]
        if both:
            quarters = statistics.quantiles(both, n=4)
            result[what]["added"] = {"median": quarters[1], "quarters": [quarters[0], quarters[2]]}
    return result

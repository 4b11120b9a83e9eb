# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lock driver's calls cost for files and block devices: virtlease with local leases beside libvirt's own lockd.so with virtlockd
(locks on the files themselves, its default) and sanlock.so with sanlock, each through its function table, turn by turn.

All daemons run on one host, each plugin has a vldriver of its own. A VM's process is one that sleeps. sanlock's io_timeout is 1 s, which
changes how long a join takes, and no call measured here.
"""

import itertools
import time
import uuid

from bed.host import PLUGIN_DIR
from bed.sanlock import LeaseDirectory
from bed.vm import Disk
from bed.wait import wait_until
from place import note, summary
from plugin import IDLE, OTHERS, STATUS, URI, Driver

LIBVIRT_PLUGINS = "/usr/lib/x86_64-linux-gnu/libvirt/lock-driver"
DISKS = (1, 8)
PAUSE_S = 0.01
SETTLE_S = 0.1          # before every start: what the last VM's end left to do
PAIRS = 5               # of Release and Acquire per start
CALLS = ("register", "acquire", "release", "resume")


class FileVM:
    """A VM with so many files on a host, towards one lock driver."""

    numbers = itertools.count(1)

    def __init__(self, host, driver, paths):
        self.host, self.driver, self.paths = host, driver, paths
        self.name = f"files{next(self.numbers)}"
        self.uuid = str(uuid.uuid4())
        self.pid = 0

    def _describe(self):
        self.driver.ask("vm", self.uuid, self.name, 1, self.pid, URI)
        for path in self.paths:
            self.driver.ask("disk", path, 0)

    def _write_status(self, state):
        disks = "\n".join(Disk(path=path, target=f"vd{i}").xml(self.host.cluster, i) for i, path in enumerate(self.paths))
        self.host.write(f"/run/libvirt/qemu/{self.name}.xml",
                        STATUS.format(state=state, pid=self.pid, name=self.name, uuid=self.uuid, disks=disks, others=OTHERS))

    def cycle(self):
        """One life: started, paused and resumed some times, killed. -> [(call, microseconds)]"""
        self.pid = 0
        self._write_status("shutoff")
        self._describe()
        time.sleep(SETTLE_S)
        us, answer = self.driver.ask("spawn", *IDLE)
        found = [("register", us)]
        self.pid = int(answer["pid"])
        self._write_status("paused")
        self._describe()
        found.append(("acquire", self._call("acquire", "-", 0, 0)))
        self._write_status("running")
        for _ in range(PAIRS):
            found.append(("release", self._call("release")))
            found.append(("resume", self._call("acquire", "@", 0, 0)))
        self.driver.ask("kill", self.pid, 9)
        self.driver.ask("wait", self.pid, 10000)
        self.host.path(f"/run/libvirt/qemu/{self.name}.xml").unlink()
        return found

    def _call(self, *words):
        time.sleep(PAUSE_S)
        return self.driver.ask("call", *words)[0]


def start_daemons(host, directory):
    host.start_virtleased()
    host.start_virtlockd()
    host.write("/etc/libvirt/qemu-lockd.conf", "")
    host.lease_directory = directory
    host.sanlock.start()
    host._prepare_sanlock_plugin()      # pylint: disable=protected-access


def drivers(host):
    """Who is measured. virtlease's own sanlock backend is one more line here (a Driver of virtlease.so, its files below a directory that a
    rule in start_daemons() gives to sanlock) and one more column in report.files_text()."""
    return {"virtlease": Driver(host, PLUGIN_DIR / "virtlease.so"),
            "lockd": Driver(host, f"{LIBVIRT_PLUGINS}/lockd.so", "/etc/libvirt/qemu-lockd.conf"),
            "sanlock": Driver(host, f"{LIBVIRT_PLUGINS}/sanlock.so", "/etc/libvirt/qemu-sanlock.conf")}


def make_files(place, name, count):
    directory = place.world.dir / "files"
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{name}.{count}.{i}.raw" for i in range(count)]
    for path in paths:
        path.write_bytes(bytes(1 << 20))
    return paths


def add_pairs(times, name, disks, measured):
    """What libvirt does together: a start, and a pause with its resume."""
    by_call = {call: [us for c, us in measured if c == call] for call in CALLS}
    for call, values in by_call.items():
        times.setdefault(f"{call} {name} {disks}", []).extend(values)
    times.setdefault(f"start {name} {disks}", []).append(by_call["register"][0] + by_call["acquire"][0])
    times.setdefault(f"pair {name} {disks}", []).extend(r + a for r, a in zip(by_call["release"], by_call["resume"]))


def run(place, options):
    rounds = max(10, options.rounds // PAIRS)
    note(f"files: {rounds} starts with {PAIRS} pauses each, of three lock managers and {DISKS} disks")
    host = place.host(boot_only=True)
    start_daemons(host, LeaseDirectory(place.world.dir / "leases"))
    by_name = drivers(host)
    # Disks outside: two starts in a row make virtlockd answer the second one 0.2 s late, time and again.
    vms = {(name, disks): FileVM(host, driver, make_files(place, name, disks)) for disks in DISKS for name, driver in by_name.items()}
    host.sanlock.wait_joined()
    for vm in vms.values():
        vm.cycle()                      # sanlock.so makes its lease files at the first start
    times = {}
    for _ in range(rounds):
        for (name, disks), vm in vms.items():
            add_pairs(times, name, disks, vm.cycle())
            wait_until(lambda: host.ctl("list")["leases"] == [] if name == "virtlease" else True, 10, "free")   # pylint: disable=cell-var-from-loop
    for driver in by_name.values():
        driver.close()
    host.discard()
    return {"unit": "microseconds", **{what: summary(values) for what, values in times.items()}}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lock driver's calls cost for files guarded by sanlock: virtlease beside libvirt's own sanlock.so, turn by turn, with the same sanlock
daemon, lockspace, I/O timeout and file system.

The two do not do the same at the same time: libvirt's plugin takes its leases when CPUs begin to run and gives them up at each pause, virtlease
takes them when the process registers and keeps them until it ends. So only a whole start, a whole pause and a whole life are comparable.

How much is read for each lease depends on how many hosts it has room for. libvirt's plugin always formats for sanlock's 2000, virtlease for
sanlock_num_hosts; it is measured with its default and with leases of 2000 hosts.
"""

import struct
import time

from bed.host import PLUGIN_DIR, VIRTLEASECTL
from bed.sanlock import IO_TIMEOUT_S, USER, LeaseDirectory
from bed.wait import wait_until
from files import LIBVIRT_PLUGINS, PAIRS, PAUSE_S, SETTLE_S, FileVM
from place import note, summary
from plugin import IDLE, Driver

DISKS = (1, 8)
MANAGERS = ("virtlease", "virtlease 2000", "sanlock.so")
TIMESTAMP_AT = 152      # of a lease's leader record; 0: free
FREE_TIMEOUT_S = 10
ROUNDS_MIN = 10


class SharedVM(FileVM):
    """A VM with so many files whose leases lie in a lease directory."""

    def __init__(self, host, driver, paths, directory):
        super().__init__(host, driver, paths)
        self.leases = [directory.file(path) for path in paths]

    def leased(self):
        """How many of its leases are held, by the leases themselves."""
        held = 0
        for lease in self.leases:
            with open(lease, "rb") as file:
                file.seek(TIMESTAMP_AT)
                held += struct.unpack("<Q", file.read(8))[0] != 0
        return held

    def start(self):
        self.pid = 0
        self._write_status("shutoff")
        self._describe()
        time.sleep(SETTLE_S)
        register, answer = self.driver.ask("spawn", *IDLE)
        self.pid = int(answer["pid"])
        self._write_status("paused")
        self._describe()
        acquire = self._call("acquire", "-", 0, 0)
        self._write_status("running")
        return register, acquire

    def pause(self):
        return self._call("release"), self._call("acquire", "@", 0, 0)

    def end(self):
        """SIGKILL -> microseconds until all leases are free."""
        began = time.monotonic()
        self.driver.ask("kill", self.pid, 9)
        while self.leased():
            assert time.monotonic() < began + FREE_TIMEOUT_S
            time.sleep(0.0005)
        us = int((time.monotonic() - began) * 1e6)
        self.driver.ask("wait", self.pid, 10000)
        self.host.path(f"/run/libvirt/qemu/{self.name}.xml").unlink()
        return us

    def check(self, keeps):
        """One life in which the leases are looked at, lest something else is measured than we say. keeps: also while paused."""
        self.start()
        assert self.leased() == len(self.paths)
        self._call("release")
        assert self.leased() == (len(self.paths) if keeps else 0)
        self._call("acquire", "@", 0, 0)
        assert self.leased() == len(self.paths)
        self.end()


def start_daemons(host, directory):
    host.lease_directory = directory
    host.sanlock.start()
    host._prepare_sanlock_plugin()      # pylint: disable=protected-access
    host.start_virtleased(volumes=[f"any {host.world.dir} sanlock"], sanlock_dir=str(directory.path), sanlock_host_id=host.sanlock.host_id,
                          sanlock_io_timeout=IO_TIMEOUT_S, sanlock_user=USER, sanlock_group=USER, sanlock_killpath=str(VIRTLEASECTL))
    host.sanlock.wait_joined()


def make_vms(place, host, directory):
    drivers = {"sanlock.so": Driver(host, f"{LIBVIRT_PLUGINS}/sanlock.so", "/etc/libvirt/qemu-sanlock.conf"),
               "virtlease": Driver(host, PLUGIN_DIR / "virtlease.so")}
    drivers["virtlease 2000"] = drivers["virtlease"]
    files = place.world.dir / "shared"
    files.mkdir()
    vms = {}
    for disks in DISKS:
        for name in MANAGERS:
            paths = [files / f"{name.replace(' ', '-')}.{disks}.{i}.raw" for i in range(disks)]
            for path in paths:
                path.write_bytes(bytes(1 << 20))
                if name == "virtlease 2000":
                    directory.format_resource(path)
            vms[name, disks] = SharedVM(host, drivers[name], paths, directory)
    return vms, {drivers["sanlock.so"], drivers["virtlease"]}


def measure(times, name, disks, vm):
    def keep(call, us):
        times.setdefault(f"{call} {name} {disks}", []).append(us)
    register, acquire = vm.start()
    keep("register", register)
    keep("acquire", acquire)
    keep("start", register + acquire)
    for _ in range(PAIRS):
        release, resume = vm.pause()
        keep("release", release)
        keep("resume", resume)
        keep("pair", release + resume)
    time.sleep(PAUSE_S)
    end = vm.end()
    keep("end", end)
    keep("life", register + acquire + end)


def run(place, options):
    rounds = max(ROUNDS_MIN, options.rounds // PAIRS)
    note(f"shared files: {rounds} starts with {PAIRS} pauses each, of {len(MANAGERS)} kinds and {DISKS} disks")
    host = place.host(boot_only=True)
    directory = LeaseDirectory(place.world.dir / "leases")
    start_daemons(host, directory)
    vms, drivers = make_vms(place, host, directory)
    for (name, _disks), vm in vms.items():
        vm.start()                      # the first start makes the leases
        vm.end()
        vm.check(keeps=name != "sanlock.so")
    times = {}
    for _ in range(rounds):
        for (name, disks), vm in vms.items():
            measure(times, name, disks, vm)
            wait_until(lambda: host.ctl("list")["leases"] == [], 10, "free")
    hosts = {name: directory.leader(vms[name, 1].paths[0]).num_hosts for name in MANAGERS}
    for driver in drivers:
        driver.close()
    host.discard()
    return {"unit": "microseconds", "io_timeout": IO_TIMEOUT_S, "num_hosts": hosts, **{what: summary(values) for what, values in times.items()}}

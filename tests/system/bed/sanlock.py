# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock: the daemon of one host, the lease directory that all hosts share, and what both say of who holds what.

The daemon is the real one with its own defaults, /run/sanlock and user sanlock among them. Only what a container forbids is off: no
watchdog (-w 0: nothing resets a host whose leases run out), no mlock (-l 0), no real-time priority (-h 0).

The 60 s of the watchdog are compiled into sanlock: the lease of a host that died is free after 60 + 8 * io_timeout seconds, 68 s at
best. What a test can do without that wait, it should.
"""

import functools
import hashlib
import os
import re
import socket
import subprocess
from collections import namedtuple
from pathlib import Path

from .run import environment, sh
from .service import Service, tail
from .wait import wait_until

SOCKET = "/run/sanlock/sanlock.sock"
LOCKSPACE = "__LIBVIRT__DISKS__"        # libvirt's own plugin chose it
IO_TIMEOUT_S = 1                        # joining takes 3 of it. Good only without a watchdog
USER = "sanlock"
START_TIMEOUT_S = 10
JOIN_TIMEOUT_S = 30
CAP_SYS_RESOURCE = 24
SHIM_SOURCE = Path(__file__).with_name("setrlimit_shim.c")

# A resource as the disk has it: owner None when it is free; lver grows with every acquire.
Leader = namedtuple("Leader", "owner generation lver num_hosts timestamp lockspace resource")
# A resource as one daemon holds it, and for which process (pid inside the host; None: nobody, an orphan). lver: None if it is shared.
Held = namedtuple("Held", "lockspace resource path offset lver pid")
# A lockspace as one daemon knows it. hosts: {host id: HostSeen}
HostSeen = namedtuple("HostSeen", "generation timestamp state")
Lockspace = namedtuple("Lockspace", "name host_id path hosts")


def resource_name(path):
    """What libvirt's plugin calls the resource of a disk: MD5 of the path just as the domain XML spells it."""
    return hashlib.md5(str(path).encode()).hexdigest()


def may_raise_limits():
    status = Path("/proc/self/status").read_text()
    return bool(int(re.search(r"^CapEff:\s*(\w+)", status, re.M)[1], 16) >> CAP_SYS_RESOURCE & 1)


@functools.cache
def shim(directory):
    """Path of the preload library, built once per run."""
    library = Path(directory) / "setrlimit_shim.so"
    sh("cc", "-shared", "-fPIC", "-o", library, SHIM_SOURCE, "-ldl")
    return library


def split(text):
    """"LOCKSPACE:RESOURCE:PATH:OFFSET:LVER" -> fields; none of ours has an escaped character."""
    assert "\\" not in text, text
    return text.split(":")


class Sanlock(Service):
    """The daemon of one host. Its id in every lockspace is the host's number, unique in the run."""

    def __init__(self, machine):
        super().__init__(machine, "sanlock")
        self.host_id = machine.number

    # Life; stop() of a daemon with a lockspace never ends in time: it is killed, as at a power loss.

    def start(self, *options, wait=True):                           # pylint: disable=arguments-differ
        env = {} if may_raise_limits() else {"LD_PRELOAD": shim(self.machine.world.dir)}
        super().start("sanlock", "daemon", "-D", "-w", "0", "-l", "0", "-h", "0", "-e", self.machine.name, *options, env=env)
        if wait:
            self.wait()

    def wait(self):
        """Until it takes commands; at once if it died instead."""
        wait_until(lambda: not self.alive() or self._connects(), START_TIMEOUT_S, f"sanlock of {self.machine.name} answers")
        assert self.alive(), f"sanlock of {self.machine.name} died:\n{tail(self.log)}"
        self.client("status")

    def _connects(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.machine.path(SOCKET)))
        return True

    def client(self, *args, check=True, timeout=30):
        """`sanlock client ARGS` on the host. The tool exits with 1 or 255 on errors of the daemon."""
        return self.machine.run("sanlock", "client", *args, check=check, timeout=timeout)

    # What it says

    def held(self, pid=None):
        """Resources held through this daemon, by anybody or by the process with that pid (inside the host)."""
        found = []
        for line in self.client("status").stdout.splitlines():
            match = re.match(r"r (\S+) p (-?\d+)", line)
            if match:
                lockspace, resource, path, offset, lver = split(match[1])
                owner = int(match[2])
                lver = None if lver == "SH" else int(lver)
                found.append(Held(lockspace, resource, path, int(offset), lver, owner if owner > 0 else None))
        return [h for h in found if pid is None or h.pid == pid]

    def registered(self, pid):
        """Resources that the daemon says this process holds; None if the process is not registered."""
        done = self.client("inquire", "-p", pid, check=False)
        if re.search(r"^inquire done -3 ", done.stdout, re.M):
            return None
        assert re.search(r"^inquire done 0 ", done.stdout, re.M), done.stdout + done.stderr
        state = re.search(r'^"(.*)"$', done.stdout, re.M)
        return [split(text)[1] for text in state[1].split()] if state and state[1] != "(null)" else []

    def pids(self):
        """Registered processes (pids inside the host)."""
        return [int(m) for m in re.findall(r"^p (\d+)", self.client("status").stdout, re.M)]

    def lockspaces(self):
        """{name: Lockspace} it is in; one that it is joining or leaving is not there."""
        found = {}
        for line in self.client("gets", "-h", "1", check=False).stdout.splitlines():
            kind, *fields = line.split()
            if kind == "s" and len(fields) == 1:        # "s NAME:ID:PATH:OFFSET ADD" is one in the making
                name, host_id, path, _offset = split(fields[0])
                found[name] = Lockspace(name, int(host_id), path, {})
            elif kind == "h" and found:
                host_id, _gen, generation, _timestamp, timestamp, state = fields
                list(found.values())[-1].hosts[int(host_id)] = HostSeen(int(generation), int(timestamp), state)
        return found

    def joined(self, name=LOCKSPACE):
        return name in self.lockspaces()

    def wait_joined(self, name=LOCKSPACE, timeout=JOIN_TIMEOUT_S):
        """Until it has the lockspace and has renewed once, before which it knows nothing of other hosts."""
        def ready():
            lockspace = self.lockspaces()[name]
            return lockspace if lockspace.hosts else None
        return wait_until(ready, timeout, f"sanlock of {self.machine.name} joins {name}")

    def join(self, directory, io_timeout=IO_TIMEOUT_S):
        """Join the lockspace of a LeaseDirectory by hand, for tests without a lock manager."""
        return self.client("add_lockspace", "-s", f"{LOCKSPACE}:{self.host_id}:{directory.lockspace}:0", "-o", io_timeout)


class LeaseDirectory:
    """Lockspace and resources as files, laid out as libvirt's plugin does; every host sees it under the same path."""

    def __init__(self, path):
        self.path = Path(path)
        self.path.mkdir(parents=True)
        self._give(self.path, 0o770)
        self.lockspace = self.path / LOCKSPACE

    @staticmethod
    def _give(path, mode):
        sh("chown", f"{USER}:{USER}", path)
        path.chmod(mode)

    def takes_direct_io(self):
        """sanlock needs it; on an older kernel tmpfs has none."""
        probe = self.path / ".probe"
        try:
            os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)
        return True

    def _new(self, path):
        assert not path.exists(), f"{path} is in use: never format it again"
        path.touch()
        self._give(path, 0o660)

    def format_lockspace(self, io_timeout=IO_TIMEOUT_S):
        """Where no lock manager does it. io_timeout is what a host id that nobody had yet counts with: the first join of each waits twice
        that, whatever the timeout of the joining host."""
        self._new(self.lockspace)
        sh("sanlock", "direct", "init", "-s", f"{LOCKSPACE}:0:{self.lockspace}:0", "-o", io_timeout, env=environment())

    def file(self, disk):
        """Lease file of a disk given by path (as the domain XML spells it)."""
        return self.path / resource_name(disk)

    def format_resource(self, disk, num_hosts=None):
        """As libvirt's plugin does at the first start of a VM with that disk; num_hosts: for fewer hosts than its 2000."""
        self._new(self.file(disk))
        limit = ["-n", num_hosts] if num_hosts else []
        sh("sanlock", "direct", "init", "-r", f"{LOCKSPACE}:{resource_name(disk)}:{self.file(disk)}:0", *limit, env=environment())

    def leader(self, disk):
        """Leader of the disk's resource, None if there is no lease file yet."""
        if not self.file(disk).exists():
            return None
        args = ["sanlock", "direct", "read_leader", "-r", f"{LOCKSPACE}:{resource_name(disk)}:{self.file(disk)}:0"]
        done = subprocess.run(args, capture_output=True, text=True, timeout=30, check=False, env=environment())
        fields = dict(line.split(None, 1) for line in done.stdout.splitlines() if " " in line)
        assert fields.get("read_leader") == "done 0", done.stdout + done.stderr
        number = {key: int(fields[key]) for key in ("owner_id", "owner_generation", "lver", "num_hosts", "timestamp")}
        return Leader(number["owner_id"] if number["timestamp"] else None, number["owner_generation"], number["lver"],
                      number["num_hosts"], number["timestamp"], fields["space_name"].strip(), fields["resource_name"].strip())

    def owner(self, disk):
        """Host id of who holds the lease of the disk; None if nobody does."""
        leader = self.leader(disk)
        return leader.owner if leader else None

    def dump(self):
        """Every lease on disk: {resource: (owner or None, generation, lver)}. One process per file: for failure reports and small sets."""
        found = {}
        for path in sorted(self.path.iterdir()):
            if path == self.lockspace or path.stat().st_size == 0:
                continue
            for line in sh("sanlock", "direct", "dump", path, check=False, env=environment()).splitlines():
                fields = line.split()
                if len(fields) == 7 and fields[1] == LOCKSPACE:
                    _offset, _lockspace, resource, timestamp, owner, generation, lver = fields
                    found[resource] = (int(owner) if int(timestamp) else None, int(generation), int(lver))
        return found

    def hosts(self):
        """Delta leases on disk: {host id: (host name, generation, timestamp)}; timestamp 0: it left."""
        found = {}
        for line in sh("sanlock", "direct", "dump", self.lockspace, env=environment()).splitlines()[1:]:
            _offset, _lockspace, name, timestamp, owner, generation = line.split()[:6]
            found[int(owner)] = (name, int(generation), int(timestamp))
        return found

    def wait_free(self, disk, timeout=10):
        wait_until(lambda: self.leader(disk) and self.owner(disk) is None, timeout, f"the lease of {disk} is free")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""One test run's own world: directory, subnet, bridge, and a registry of all it started.

Two runs at the same time must never meet, and a run killed with SIGKILL must leave nothing for long. So everything is named after the
run's subnet number, which an flock in STATE_DIR reserves, and everything is written into the registry file behind that lock BEFORE it
is made. A registry whose lock is free belongs to a dead run: the next run of anybody cleans up after it.
"""

import atexit
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from .wait import wait_until

STATE_DIR = Path("/run/virtlease-tests")
TEMP_ROOT = "/var/tmp"          # a real disk: tmpfs lacks O_DIRECT on older kernels, which sanlock needs
SUBNETS = 200                   # 10.213.N.0/24
SUBNET_PREFIX = "10.213"
SERVERS = 9
HOST_NUMBERS = range(SERVERS + 1, 250)
STOP_TIMEOUT_S = 10
PASSED_ON = ("VIRTLEASE_", "ASAN_", "UBSAN_", "LSAN_", "TSAN_", "G_")


def environment(**extra):
    """For everything the bed starts: not what happens to be set in the shell of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C", **kept, **extra}


def sh(*args, check=True, timeout=60, **kw):
    """Run a command, return its output; on failure raise with its stderr in the message."""
    p = subprocess.run([str(a) for a in args], text=True, capture_output=True, timeout=timeout, check=False, **kw)
    if check and p.returncode:
        raise RuntimeError(f"{' '.join(str(a) for a in args)}: exit {p.returncode}: {p.stderr.strip() or p.stdout.strip()}")
    return p.stdout


def start_time(pid):
    """Start time of a process in clock ticks since boot, None if it is gone: pid + this names one process for ever."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def kill_process(pid, started):
    """SIGKILL exactly that process, if it still is that process."""
    if started is not None and start_time(pid) == started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def detach_loops(directory):
    """Loop devices over files in that directory: they belong to the whole machine and outlive every process."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if path.read_text().startswith(f"{directory}/"):
                sh("losetup", "-d", f"/dev/{path.parts[3]}", check=False)
        except OSError:
            pass            # detached meanwhile


class Registry:
    """What a run owns, on disk, so that somebody else can clean up. Holding the flock = the owner lives."""

    def __init__(self, number):
        self.number = number
        self.path = STATE_DIR / f"{number}.json"
        self.bridge = f"vlt{number}"
        self.file = None
        self.data = {"dir": None, "loops": None, "links": [], "processes": []}

    def claim(self):
        """Take the lock without waiting; True if it is ours now. What an earlier owner left is loaded into data."""
        STATE_DIR.mkdir(mode=0o700, exist_ok=True)
        self.file = open(self.path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            return False
        if not os.path.exists(self.path) or os.fstat(self.file.fileno()).st_ino != os.stat(self.path).st_ino:
            self.file.close()       # somebody cleaned up and removed the file between our open and our lock
            return False
        self.file.seek(0)
        text = self.file.read()
        if text:
            self.data = json.loads(text)
        return True

    def save(self):
        text = json.dumps(self.data)
        self.file.seek(0)
        self.file.truncate()
        self.file.write(text)
        self.file.flush()

    def clean(self):
        """Undo everything recorded. Safe to repeat; every step tolerates what is already gone."""
        for pid, started in reversed(self.data["processes"]):
            kill_process(pid, started)
        for pid, started in self.data["processes"]:
            wait_until(lambda p=pid, s=started: start_time(p) != s, STOP_TIMEOUT_S, f"death of process {pid}")
        for link in self.data["links"] + [self.bridge]:
            sh("ip", "link", "del", link, check=False)
        if self.data.get("loops"):
            detach_loops(self.data["loops"])
        if self.data["dir"]:
            shutil.rmtree(self.data["dir"], ignore_errors=True)

    def forget(self):
        self.path.unlink(missing_ok=True)
        self.file.close()


def sweep():
    """Clean up after runs whose owner is dead."""
    if not STATE_DIR.is_dir():
        return
    for path in STATE_DIR.glob("*.json"):
        registry = Registry(int(path.stem))
        if registry.claim():
            registry.clean()
            registry.forget()


class World:
    """The run. Create one per test session; close() undoes it, and is also called at exit."""

    def __init__(self, keep=False):
        self.keep = keep            # keep the directory (logs) for a look afterwards
        self.closers = []           # polite stops, called newest first before the registry's hard ones
        self.closed = False
        self.owner = os.getpid()
        sweep()
        self.registry = self._reserve()
        self.dir = Path(tempfile.mkdtemp(prefix="virtlease-test.", dir=TEMP_ROOT))
        self.dir.chmod(0o755)
        self.registry.data["dir"] = None if keep else str(self.dir)
        self.registry.data["loops"] = str(self.dir)
        self.registry.save()
        atexit.register(self.close)
        self.bridge = self.registry.bridge
        self.free_addresses = list(range(SERVERS, 0, -1))
        # A MAC address of its own: else a bridge takes the lowest of its ports', and when that port goes (a host loses power) the other
        # hosts send to an address that nobody has until ARP finds out, 5 s and more.
        mac = f"02:76:6c:00:00:{self.registry.number:02x}"
        sh("ip", "link", "add", self.bridge, "address", mac, "type", "bridge")
        sh("ip", "link", "set", self.bridge, "up")

    @staticmethod
    def _reserve():
        routes = sh("ip", "-4", "route", "show")
        first = os.getpid() % SUBNETS
        for i in range(SUBNETS):
            registry = Registry((first + i) % SUBNETS)
            if f"{SUBNET_PREFIX}.{registry.number}.0/24" not in routes and registry.claim():
                registry.save()
                return registry
        raise RuntimeError(f"no free test subnet; see {STATE_DIR}")

    def host_address(self, number):
        """Address of machine `number` in this world; the first SERVERS are addresses of the bridge itself, one per Ceph cluster."""
        return f"{SUBNET_PREFIX}.{self.registry.number}.{number}"

    def take_server_address(self):
        """An address on the bridge for daemons outside all namespaces."""
        address = self.host_address(self.free_addresses.pop())
        sh("ip", "addr", "add", f"{address}/24", "dev", self.bridge)
        return address

    def drop_server_address(self, address):
        sh("ip", "addr", "del", f"{address}/24", "dev", self.bridge)
        self.free_addresses.append(int(address.rsplit(".", 1)[1]))

    def link_name(self, what):
        """Reserve and record the name of a network link (at most 15 bytes for the kernel)."""
        name = f"{self.bridge}{what}"
        assert len(name) <= 15, name
        self.registry.data["links"].append(name)
        self.registry.save()
        return name

    def drop_link(self, name):
        """Delete a link and strike it from the registry; it may be gone already, with the namespace of its other end."""
        sh("ip", "link", "del", name, check=False)
        self.registry.data["links"].remove(name)
        self.registry.save()

    def spawn(self, args, log, env=None):
        """Start a process that close() and the sweep will find. It gets its own session: Ctrl-C is for the test, not for Ceph."""
        with open(log, "ab") as out:
            process = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True, env=env or environment())
        self.adopt(process.pid)
        return process

    def adopt(self, pid):
        """Record a process that something else started for us."""
        self.registry.data["processes"].append((pid, start_time(pid)))
        self.registry.data["processes"] = [(p, s) for p, s in self.registry.data["processes"] if start_time(p) == s]
        self.registry.save()

    def close(self):
        """Stop everything. Idempotent; a fork of the owner (multiprocessing) must not tear its parent's world down."""
        if self.closed or os.getpid() != self.owner:
            return
        self.closed = True
        for closer in reversed(self.closers):
            try:
                closer()
            except Exception as e:  # pylint: disable=broad-except
                print(f"teardown: {e}")     # go on: the registry kills what a polite stop could not
        self.registry.clean()
        self.registry.forget()


def raise_on_sigterm():
    """Let SIGTERM unwind like Ctrl-C does, so that fixtures are torn down."""
    def handler(_signum, _frame):
        raise KeyboardInterrupt("SIGTERM")
    signal.signal(signal.SIGTERM, handler)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine's shell: a set of namespaces with a PID 1, directories of its own and a cable to the world's bridge.

Knows nothing of libvirt; class Host builds on it. PID 1 is tini because it must reap: unreaped zombies make libvirt's probing of QEMU
wait 80 s a time. /etc is a copy bound over the real one, /var/{lib,cache,log} are empty directories, /run is a tmpfs and gone after a
reboot. The boot id is a file bound over the kernel's, new at every boot.
"""

import os
import shlex
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

from .run import STOP_TIMEOUT_S, environment, kill_process, sh, start_time
from .wait import wait_until

BOOT_TIMEOUT_S = 20
KEPT = ("etc", "var/lib", "var/cache", "var/log")

# Secrets, and large trees that no virtualisation daemon reads.
NOT_COPIED = ("shadow*", "gshadow*", "ssh", "ssl", "ca-certificates*", "java*", "fonts", "X11", "init.d", "rc?.d", "systemd", "apparmor.d")

INIT = """\
set -e
mount --make-rprivate /
hostname {name}
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
{binds}
mount --bind {dir}/boot_id /proc/sys/kernel/random/boot_id
ip link set lo up
touch {dir}/up
exec tini -s -- sleep infinity
"""


class Namespace:
    """One machine, booted or not. address is its IPv4 address, kept over reboots like everything in dir (default: named after it)."""

    def __init__(self, world, name, number, directory=None):
        self.world = world
        self.name = name
        self.number = number
        self.address = world.host_address(number)
        self.dir = directory or world.dir / name
        self.machine_id = uuid.uuid4().hex
        self.boot_id = None
        self.boots = 0
        self.parent = None          # the unshare process
        self.init = None            # pid of PID 1 as seen from here
        self.link = None            # bridge end of the cable
        self._install()

    def _install(self):
        self.dir.mkdir(parents=True)
        shutil.copytree("/etc", self.dir / "etc", symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        for kept in KEPT[1:]:
            (self.dir / kept).mkdir(parents=True)
        self.write("/etc/machine-id", self.machine_id + "\n")
        self.write("/etc/hostname", self.name + "\n")

    # Files

    def path(self, inside):
        """Where a file of the machine is for the test process, booted or not; paths in /run only while it is up."""
        inside = inside.lstrip("/")
        if inside.startswith("run/"):
            return Path(f"/proc/{self.init}/root/{inside}")
        return self.dir / inside

    def write(self, inside, text, mode=0o644):
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    # Life

    def up(self):
        return self.init is not None

    def boot(self):
        assert not self.up(), f"{self.name} is up"
        self.boots += 1
        self.boot_id = str(uuid.uuid4())
        self.write("/boot_id", self.boot_id + "\n")
        (self.dir / "up").unlink(missing_ok=True)
        binds = "\n".join(f"mount --bind {self.dir}/{kept} /{kept}" for kept in KEPT)
        self.write("/init", INIT.format(name=self.name, dir=self.dir, binds=binds))
        flags = ["--mount", "--net", "--uts", "--pid", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        self.parent = self.world.spawn(["unshare", *flags, "bash", self.dir / "init"], self.dir / "init.log")
        children = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children")
        self.init = int(wait_until(lambda: children.read_text().split(), BOOT_TIMEOUT_S, f"PID 1 of {self.name}")[0])
        wait_until((self.dir / "up").exists, BOOT_TIMEOUT_S, f"{self.name} is up, see {self.dir}/init.log")
        self._plug()

    def _plug(self):
        self.link = self.world.link_name(f"h{self.number}b{self.boots % 100}")
        commands = f"link add {self.link} type veth peer name eth0 netns {self.init}\nlink set {self.link} master {self.world.bridge} up\n"
        sh("ip", "-batch", "-", input=commands)
        sh("nsenter", "-t", self.init, "-n", "ip", "-batch", "-", input=f"addr add {self.address}/24 dev eth0\nlink set eth0 up\n")

    def power_loss(self):
        """The plug is pulled. The cable goes first: a dead machine sends no FIN for the sockets its kernel closes here."""
        self.partition()
        kill_process(self.init, start_time(self.init))
        self.parent.wait(STOP_TIMEOUT_S)        # the kernel lets PID 1 go only after everything else in there is gone
        self.world.drop_link(self.link)
        self.parent = self.init = self.link = None

    def partition(self):
        sh("ip", "link", "set", self.link, "down")

    def heal(self):
        sh("ip", "link", "set", self.link, "up")

    def freeze(self):
        """SIGSTOP everything, PID 1 too. Repeated until nothing runs: a process may fork while we walk the list."""
        self._signal_all(signal.SIGSTOP, "tT")

    def thaw(self):
        self._signal_all(signal.SIGCONT, None)

    def _signal_all(self, number, wanted):
        def all_there():
            for pid in self.processes():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            return wanted is None or all(state(pid) in wanted + "ZX" for pid in self.processes())
        wait_until(all_there, STOP_TIMEOUT_S, f"signal {number} to all of {self.name}")

    # Processes

    def processes(self, comm=None):
        """Pids (as seen from here) of everything in it, or of the programs with that comm."""
        return [pid for pid in pids_below(self.init) if comm is None or read_comm(pid) == comm] if self.init else []

    def inner_pid(self, pid):
        """The pid a process has inside, which is what its own pid files and lease records say; None if it is gone."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))

    def outer_pid(self, inner):
        """The reverse; None if there is no such process."""
        return next((pid for pid in self.processes() if self.inner_pid(pid) == inner), None)

    def enter(self, *args):
        """Command line that runs args inside."""
        return ["nsenter", "-t", str(self.init), "-a", "--", *[str(a) for a in args]]

    def run(self, *args, check=True, timeout=60, text_in=None):
        """Run a program inside; returns the CompletedProcess. check: a failure raises with its stderr."""
        assert self.up(), f"{self.name} is down"
        done = subprocess.run(self.enter(*args), input=text_in, text=True, capture_output=True, timeout=timeout, check=False,
                              env=environment())
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(map(str, args))}: exit {done.returncode}: {done.stderr.strip()}")
        return done


def read_comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def pids_below(init):
    """All processes in the PID namespace of init. By namespace, not by parent: what nsenter brought in has no parent there."""
    try:
        wanted = os.stat(f"/proc/{init}/ns/pid").st_ino
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}/ns/pid").st_ino == wanted:
                    found.append(int(entry))
            except OSError:
                pass        # gone meanwhile, or not ours to look at: then it is not in it
    return found

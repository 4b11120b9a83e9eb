# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon inside a Namespace: started in the background under PID 1, found again by the pid it wrote, logging to a file outside."""

import os
import shlex
import signal

from .run import kill_process, start_time
from .wait import wait_until

STOP_TIMEOUT_S = 20
LOG_TAIL_LINES = 60

# No more descriptors than a service has: libvirt closes every possible one between fork and exec.
LAUNCH = "ulimit -Sn 1024; echo $$ >{pidfile}; exec {command} >>{log} 2>&1 </dev/null"


def tail(path, lines=LOG_TAIL_LINES):
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as e:
        return f"({e})"


def threads(pid):
    """A killed process is a zombie as soon as its first thread is dead; its files and locks stay until the last one is, which may be in
    the middle of disk I/O."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Service:
    """One daemon of one machine. A pid belongs to one boot: after power loss the service is simply not running."""

    def __init__(self, machine, name):
        self.machine = machine
        self.name = name
        self.log = machine.dir / f"{name}.log"
        self.pid = None             # as seen from outside
        self.started = None

    def alive(self):
        return self.pid is not None and start_time(self.pid) == self.started

    def start(self, *command, env=None):
        assert not self.alive(), f"{self.name} runs already on {self.machine.name}"
        pidfile = f"/run/bed-{self.name}.pid"
        self.machine.path(pidfile).unlink(missing_ok=True)
        assignments = [f"{k}={v}" for k, v in (env or {}).items()]
        launch = LAUNCH.format(pidfile=pidfile, command=shlex.join(["env", *assignments, *map(str, command)]), log=shlex.quote(str(self.log)))
        self.machine.run("sh", "-c", f"setsid sh -c {shlex.quote(launch)} &")
        inner = int(wait_until(lambda: self.machine.path(pidfile).read_text(), 10, f"pid of {self.name}"))
        self.pid = self.machine.outer_pid(inner)
        self.started = start_time(self.pid) if self.pid else None

    def stop(self):
        """SIGTERM; must end in time."""
        self._signal(signal.SIGTERM)
        wait_until(lambda: not self.alive(), STOP_TIMEOUT_S, f"{self.name} of {self.machine.name} ends on SIGTERM")

    def kill(self):
        if self.alive():
            kill_process(self.pid, self.started)
            wait_until(lambda: not self.alive() and threads(self.pid) <= 1, STOP_TIMEOUT_S, f"{self.name} of {self.machine.name} dies")

    def freeze(self):
        self._signal(signal.SIGSTOP)

    def thaw(self):
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        assert self.alive(), f"{self.name} of {self.machine.name} does not run:\n{tail(self.log)}"
        os.kill(self.pid, number)

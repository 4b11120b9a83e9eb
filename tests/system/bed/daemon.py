# SPDX-License-Identifier: LGPL-2.1-or-later
"""One long-running process of the bed: start, stop, kill, freeze."""

import os
import signal
import subprocess

from .run import STOP_TIMEOUT_S, kill_process, start_time


class Daemon:
    """A process that stays in the foreground and logs to a file. May be started again after its end."""

    def __init__(self, world, program, log):
        self.world = world
        self.program = program
        self.log = log
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def start(self, *args, env=None):
        assert not self.alive(), f"{self.program} runs already"
        self.process = self.world.spawn([self.program, *args], self.log, env=env)

    def stop(self):
        """SIGTERM and wait for the end, which must come in time."""
        self._signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as e:
            self.kill()
            raise AssertionError(f"{self.program} ignores SIGTERM") from e

    def kill(self):
        if self.alive():
            kill_process(self.pid, start_time(self.pid))
            self.process.wait(STOP_TIMEOUT_S)

    def freeze(self):
        self._signal(signal.SIGSTOP)

    def thaw(self):
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        assert self.alive(), f"{self.program} does not run: see {self.log}"
        os.kill(self.pid, number)

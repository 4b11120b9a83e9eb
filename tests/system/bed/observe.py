# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking on while something happens: who writes a disk, who opens a file, how a repeated start fares, how long a start takes."""

import ctypes
import os
import threading
import time
from collections import namedtuple

from .host import HOST_NAME_FILE

IN_OPEN = 0x20
LIBC = ctypes.CDLL(None, use_errno=True)
Seen = namedtuple("Seen", "at record")
Attempt = namedtuple("Attempt", "began ended done")


class Thread:
    """Calls step() in a thread until the block is left; an exception in it fails the block."""

    def __init__(self):
        self.stopping = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            while not self.stopping.is_set():
                self.step()
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def step(self):
        raise NotImplementedError

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, value, trace):
        self.stopping.set()
        self.thread.join(90)
        if kind is None:
            assert not self.thread.is_alive(), "an observer hangs"
            if self.error:
                raise self.error


class DiskWatch(Thread):
    """Samples what a guest's disk says, as fast as it can be read; seen has every change."""

    def __init__(self, guest, disk=0):
        super().__init__()
        self.guest, self.disk, self.seen = guest, disk, []

    def step(self):
        record = self.guest.record(self.disk)
        if record and (not self.seen or self.seen[-1].record != record):
            self.seen.append(Seen(time.monotonic(), record))
        time.sleep(0.005)

    def writers(self):
        """Identities in the order in which they appeared; A B A means that A wrote after B."""
        order = []
        for seen in self.seen:
            if not order or order[-1] != seen.record.identity:
                order.append(seen.record.identity)
        return order


class StartAgainAndAgain(Thread):
    """`virsh create` on that host, over and over; attempts has each that is over."""

    def __init__(self, guest, host):
        super().__init__()
        self.guest, self.host, self.attempts = guest, host, []

    def step(self):
        began = time.monotonic()
        done = self.guest.start(self.host, check=False, timeout=80)
        self.attempts.append(Attempt(began, time.monotonic(), done))
        time.sleep(0.2)

    def assert_all_refused(self):
        assert self.attempts
        for attempt in self.attempts:
            assert attempt.done.returncode != 0, "it was started"
            assert "cause is unknown" not in attempt.done.stderr


class QemuRuns:
    """Did any QEMU of the bed run on that host while the block lasted? Each opens the file with the host's name when it starts."""

    def __init__(self, host):
        self.path = str(host.path(HOST_NAME_FILE)).encode()
        self.file = None

    def __enter__(self):
        self.file = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.file >= 0 and LIBC.inotify_add_watch(self.file, self.path, IN_OPEN) >= 0
        return self

    def any(self):
        try:
            return bool(os.read(self.file, 4096))
        except BlockingIOError:
            return False

    def __exit__(self, *_):
        os.close(self.file)


def start_time_of(guest, host):
    """Seconds that one successful `virsh create` takes."""
    began = time.monotonic()
    guest.start(host)
    return time.monotonic() - began


def plain_start(guest, host, times=3):
    """Best of some starts of a VM whose disks are free and stay free; it is gone afterwards."""
    took = []
    for _ in range(times):
        took.append(start_time_of(guest, host))
        guest.destroy(host)
    return min(took)

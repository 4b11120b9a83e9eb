# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting a VM in the background, while the test does something to the hosts."""

import copy
import threading
import time


class Attempt:
    """`virsh create` of a VM on a host, begun at once. vm is a copy of the given one with an identity of its own."""

    def __init__(self, vm, host, timeout=60):
        self.vm = copy.copy(vm)
        self.host = host
        self.timeout = timeout
        self.done = None
        self.error = None
        self.began = time.monotonic()
        self.seconds = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.done = self.vm.start(self.host, check=False, timeout=self.timeout)
        except Exception as e:  # pylint: disable=broad-except
            self.error = e          # shown by result()
        self.seconds = time.monotonic() - self.began

    def running(self):
        return self.thread.is_alive()

    def result(self, timeout=40):
        """The CompletedProcess."""
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"start of {self.vm.name} on {self.host.name} still under way after {timeout} s"
        if self.error:
            raise self.error
        return self.done

    def succeeds(self, timeout=40):
        """Wait for it; returns the VM, which must run there and write."""
        done = self.result(timeout)
        assert done.returncode == 0, f"{self.host.name}: {done.stderr}"
        if self.vm.mode != "idle":
            self.vm.wait_writing(self.host)
        return self.vm

    def fails(self, *words, timeout=40):
        """Wait for it; it must be refused with these words, and no QEMU may be left. Returns the text."""
        done = self.result(timeout)
        assert done.returncode != 0, f"started on {self.host.name}"
        assert self.vm.name not in self.host.domains()
        for word in words:
            assert word in done.stderr, done.stderr
        assert "cause is unknown" not in done.stderr, done.stderr
        return done.stderr

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault points of virtleased (lockd/fault.h) from outside: stop, kill or delay the daemon of one host at a named place.

Hosts whose daemon shall have them are made with env=FAULT_ENV. A point is armed until released; "exit" and "stop" act once, because the
daemon is released or restarted by the test.
"""

from .wait import wait_until

FAULT_DIR = "/var/lib/virtlease-faults"         # inside the host; kept over reboots
FAULT_ENV = {"VIRTLEASE_FAULT_DIR": FAULT_DIR}
HIT_TIMEOUT_S = 20


class Faults:
    """The fault points of one host."""

    def __init__(self, host):
        self.host = host
        self.dir = host.path(FAULT_DIR)
        self.dir.mkdir(parents=True, exist_ok=True)

    def arm(self, name, action="wait"):
        """action: "wait" until released, "stop" (SIGSTOP to the whole daemon), "exit" (as kill -9)."""
        assert self.host.daemon_env.get("VIRTLEASE_FAULT_DIR") == FAULT_DIR
        (self.dir / f"{name}.hit").unlink(missing_ok=True)
        temporary = self.dir / f".{name}"
        temporary.write_text(action)
        temporary.rename(self.dir / name)

    def is_hit(self, name):
        return (self.dir / f"{name}.hit").exists()

    def await_hit(self, name, timeout=HIT_TIMEOUT_S):
        wait_until(lambda: self.is_hit(name), timeout, f"virtleased of {self.host.name} reaches {name}")

    def release(self, name):
        """Whoever waits there goes on; nobody stops there any more."""
        (self.dir / name).unlink(missing_ok=True)

    def release_all(self):
        for path in self.dir.glob("*"):
            path.unlink()

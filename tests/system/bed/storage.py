# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host sees of files and block devices that all hosts share.

All hosts of the bed are one kernel, where QEMU's own file locks would refuse a second QEMU whatever the lock manager does, and every test
of a lock manager would pass. Real hosts do not see each other's locks on a SAN, on a cluster file system, on NFS with local locks. So each
host gets the directory through a FUSE mount of its own, which keeps locks to itself, and device nodes of its own (locks belong to the
node's inode). Paths are the same everywhere; processes outside the hosts see the real files.
"""

import os
import stat

from .service import Service
from .wait import wait_until

MOUNT_TIMEOUT_S = 10


class Storage:
    """See the module. directory and devices are set before the host boots; None: the host sees what everybody sees."""

    def __init__(self, machine, name="bindfs"):
        self.machine = machine
        self.service = Service(machine, name)
        self.directory = None
        self.devices = []           # may grow while the host is up: see add()

    def mount(self):
        if not self.directory:
            return
        self.service.start("bindfs", "-f", self.directory, self.directory)
        mounts = f"/proc/{self.machine.init}/mounts"
        wait_until(lambda: f" {self.directory} fuse" in open(mounts, encoding="utf-8").read(), MOUNT_TIMEOUT_S,
                   f"{self.machine.name} mounts {self.directory}, see {self.service.log}")
        for device in self.devices:
            self.add(device)

    def freeze(self):
        """Whatever the host does there from now on hangs."""
        self.service.freeze()

    def thaw(self):
        self.service.thaw()

    def add(self, device):
        """Give the (running) host a node of its own for that device."""
        if not self.directory:
            return
        node = self.machine.path(device)
        node.parent.mkdir(exist_ok=True)
        node.unlink(missing_ok=True)
        os.mknod(node, stat.S_IFBLK | 0o660, os.stat(device).st_rdev)
        self.machine.run("mount", "--bind", node, device)

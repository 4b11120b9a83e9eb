# SPDX-License-Identifier: LGPL-2.1-or-later
"""vldriver on a host: the lock driver's functions called by hand, in orders libvirt would not choose, and for fake QEMU processes."""

import select
import shlex
import subprocess

from .host import BUILD, PLUGIN_DIR
from .run import environment

VLDRIVER = BUILD / "tests" / "service" / "vldriver"
URI = "qemu:///system"
STATUS_DIR = "/run/libvirt/qemu"


class Driver:
    """One vldriver process; everything it spawned dies with it."""

    def __init__(self, host):
        self.host = host
        with open(host.dir / "vldriver.log", "ab") as log:
            self.process = subprocess.Popen(host.enter(VLDRIVER, PLUGIN_DIR / "virtlease.so"), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, env=environment())
        self.ok("init", "-")

    def ask(self, *words, timeout=45):
        """One command; returns its line of answer."""
        self.process.stdin.write(shlex.join(map(str, words)) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        assert ready, f"vldriver does not answer {words}"
        return self.process.stdout.readline().strip()

    def ok(self, *words, timeout=45):
        """A command that must work; returns {key: value} of its answer."""
        line = self.ask(*words, timeout=timeout)
        assert line.startswith("ok "), f"{words}: {line}"
        return dict(word.split("=", 1) for word in line.split()[2:])

    def error(self, *words, timeout=45):
        """A command that must fail; returns its text."""
        line = self.ask(*words, timeout=timeout)
        assert line.startswith("error "), f"{words}: {line}"
        return line.split(" ", 3)[3]

    def know(self, vm, pid=0):
        self.ok("vm", vm.uuid, vm.name, 9, pid, URI)

    def pretend(self, vm):
        """A fake QEMU may be spawned for vm: libvirt's status XML names its disks, as libvirt has written it by then."""
        vm.new_incarnation()
        self.host.write(f"{STATUS_DIR}/{vm.name}.xml", f"<domstatus state='paused' reason='starting up' pid='0'>\n{vm.xml()}</domstatus>\n")
        self.know(vm)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMs that are only as real as virtlease can tell: virtlease.so is called through its function table (tests/service/driver.c) in the order
in which libvirt calls it, libvirt's status XML is written by us, and QEMU is a process that opens the images."""

import itertools
import shlex
import subprocess
import uuid
from pathlib import Path

from bed.host import BUILD, PLUGIN_DIR
from bed.run import environment
from bed.service import Service
from bed.vm import Disk
from bed.wait import wait_until

VLDRIVER = BUILD / "tests" / "service" / "vldriver"
FAKE_QEMU = Path(__file__).with_name("fake_qemu.py")
OPEN_TIMEOUT_S = 60
URI = "qemu:///system"
IDLE = ("sleep", "infinity")
MANY_PORT = 9999
# Keeps a connection, and "-uuid UUID" on its command line.
WAITING = "exec 3<>/dev/tcp/{address}/{port}; exec sh -c 'read -r word <&3' qemu -uuid {uuid}"

STATUS = """\
<domstatus state='{state}' reason='booted' pid='{pid}'>
  <domain type='kvm' id='1'>
    <name>{name}</name><uuid>{uuid}</uuid>
    <devices>
{disks}
{others}
    </devices>
  </domain>
</domstatus>
"""


# As long as a real one, more or less.
OTHERS = "\n".join(f"      <controller type='pci' index='{i}' model='pcie-root-port'><model name='pcie-root-port'/><target chassis='{i}' "
                   f"port='0x{i:x}'/><alias name='pci.{i}'/><address type='pci' domain='0x0000' bus='0x00' slot='0x{i:02x}' function='0x0'/>"
                   "</controller>" for i in range(1, 41))


class CallFailed(RuntimeError):
    """The lock driver refused, or vldriver did not understand."""


class Driver:
    """One vldriver on one host; as many VMs as wanted, one after another or each with its own."""

    def __init__(self, host, plugin=PLUGIN_DIR / "virtlease.so", conf="/etc/libvirt/qemu-virtlease.conf"):
        self.process = subprocess.Popen(host.enter(VLDRIVER, plugin), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1, env=environment(), start_new_session=True)
        self.ask("init", conf)

    def ask(self, *words):
        """-> (microseconds, {key: value})"""
        self.process.stdin.write(shlex.join(map(str, words)) + "\n")
        answer = self.process.stdout.readline().rstrip("\n")
        fields = answer.split(" ")
        if fields[0] != "ok":
            raise CallFailed(f"{' '.join(map(str, words))}: {answer or 'vldriver is gone'}")
        return int(fields[1]), dict(field.split("=", 1) for field in fields[2:] if "=" in field)

    def close(self):
        """Also ends the processes it spawned."""
        self.process.stdin.close()
        self.process.wait(20)


class ManyQemus:
    """One process that stands for the QEMUs of many VMs towards storage (see fake_qemu.py)."""

    READY, IMAGES = "/run/many.ready", "/run/many.images"

    def __init__(self, host):
        self.host = host
        Service(host, "many-qemus").start("/usr/bin/python3", FAKE_QEMU, "--many", MANY_PORT, self.READY, self.IMAGES)
        self._wait("listening")

    def program(self, vm):
        return ("bash", "-c", WAITING.format(address=self.host.address, port=MANY_PORT, uuid=vm.uuid))

    def open(self, images):
        self.host.write(f"{self.IMAGES}.new", "\n".join(images))
        self.host.path(f"{self.IMAGES}.new").rename(self.host.path(self.IMAGES))
        self._wait("open")

    def _wait(self, word):
        wait_until(lambda: self.host.path(self.READY).read_text() == word, OPEN_TIMEOUT_S, f"the fake QEMUs are {word}")


class FakeVM:
    """A VM with these RBD images (specs "POOL/IMAGE") on a host."""

    numbers = itertools.count(1)

    def __init__(self, host, driver, images):
        self.host, self.driver, self.images = host, driver, images
        self.name = f"bench{next(self.numbers)}"
        self.uuid = str(uuid.uuid4())
        self.pid = 0

    def describe(self):
        """Tell vldriver which VM the next calls are about."""
        self.driver.ask("vm", self.uuid, self.name, 1, self.pid, URI)

    def write_status(self, state="running"):
        disks = "\n".join(Disk(image, target=f"vd{i}").xml(self.host.cluster, i) for i, image in enumerate(self.images))
        self.host.write(f"/run/libvirt/qemu/{self.name}.xml",
                        STATUS.format(state=state, pid=self.pid, name=self.name, uuid=self.uuid, disks=disks, others=OTHERS))

    def cold_start(self, program=IDLE):
        """What libvirt's forked child does, up to exec; microseconds of the lock driver's part."""
        self.pid = 0
        self.write_status("shutoff")
        self.describe()
        us, answer = self.driver.ask("spawn", *program)
        self.pid = int(answer["pid"])
        self.write_status("paused")
        return us

    def start(self):
        """A cold start whose process has the images open when this returns."""
        ready = f"/run/{self.name}.ready"
        self.cold_start(("/usr/bin/python3", FAKE_QEMU, ready, *self.images))
        wait_until(self.host.path(ready).exists, OPEN_TIMEOUT_S, f"{self.name} has its images open")

    def hold(self):
        """Acquire before the first `cont`."""
        return self.driver.ask("call", "acquire", "-", 0, 0)[0]

    def resume(self):
        return self.driver.ask("call", "acquire", "@", 0, 0)[0]

    def park(self):
        return self.driver.ask("call", "release")[0]

    def kill(self):
        """SIGKILL, and until its leases are free."""
        self.driver.ask("kill", self.pid, 9)
        self.driver.ask("wait", self.pid, 10000)
        self.host.path(f"/run/libvirt/qemu/{self.name}.xml").unlink()
        wait_until(lambda: all(lease["vm"] != self.name for lease in self.host.ctl("list")["leases"]), 20, f"leases of {self.name} are free")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual machine: its domain XML and what can be seen of it from outside.

A VM object is a definition, not a process: start() may be called on any host, any number of times, also while it runs elsewhere (that
is what is under test). Every start gets an incarnation number that the guest writes to disk together with its counter.
"""

import itertools
import os
import uuid
from xml.sax.saxutils import quoteattr

from . import guest
from .host import HOST_NAME_FILE, SECRET_UUID
from .images import split_spec
from .wait import holds_for, wait_until

MACHINE = "pc-q35-7.2"
MEMORY_MIB = 32
FIRST_WRITE_TIMEOUT_S = 30
NOTICE_TIMEOUT_S = 10
HOTPLUG_PORTS = 4

DOMAIN = """\
<domain type='{accel}'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
  <sysinfo type='fwcfg'><entry name='opt/virtlease/host' file='{host_file}'/></sysinfo>
  <os><type arch='x86_64' machine='{machine}'>hvm</type><kernel>{kernel}</kernel><cmdline>{cmdline}</cmdline></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
{extra}
  <devices>
    <controller type='usb' model='none'/>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='scsi' index='0' model='virtio-scsi'/>
{ports}
{disks}
{devices}
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Disk:
    """A disk of a VM: image names an RBD image (spec), path a file, block a block device. target: "vda" by position unless given; "sdX" is
    virtio-scsi, which the firmware can also unplug (a PCI unplug needs a guest OS)."""

    def __init__(self, image=None, path=None, block=None, target=None, readonly=False, shareable=False, extra=""):
        assert [image, path, block].count(None) == 2
        self.type = "network" if image else "file" if path else "block"
        self.image, self.path, self.target = image, path or block, target
        self.readonly, self.shareable, self.extra = readonly, shareable, extra

    def xml(self, cluster, position=None):
        """The <disk> element. position: its place in the boot order; None when it is hot-plugged."""
        target = self.target or f"vd{chr(ord('a') + (position or 0))}"
        bus = "scsi" if target.startswith("sd") else "virtio"
        flags = ("<readonly/>" if self.readonly else "") + ("<shareable/>" if self.shareable else "")
        # Without a boot order the firmware leaves a disk alone and the guest has no BIOS drive to write to.
        boot = "" if position is None else f"<boot order='{position + 1}'/>"
        return (f"<disk type='{self.type}' device='disk'><driver name='qemu' type='raw' cache='none'/>"
                f"{self._source(cluster)}<target dev='{target}' bus='{bus}'/>{flags}{boot}{self.extra}</disk>")

    def _source(self, cluster):
        if self.path:
            return f"<source {'file' if self.type == 'file' else 'dev'}={quoteattr(str(self.path))}/>"
        name = "/".join(part for part in split_spec(self.image) if part)
        return (f"<auth username='qemu'><secret type='ceph' uuid='{SECRET_UUID}'/></auth>"
                f"<source protocol='rbd' name={quoteattr(name)}><host name='{cluster.address}' port='6789'/>"
                "<config file='/etc/ceph/ceph.conf'/></source>")

    def record(self, cluster):
        """What a guest wrote to it last (guest.Record), or None."""
        if self.image:
            return guest.parse(cluster.images.read_sector(self.image, 1))
        with open(self.path, "rb") as f:
            f.seek(guest.SECTOR)
            return guest.parse(f.read(guest.SECTOR).ljust(guest.SECTOR, b"\0"))


class VM:
    """See the module. mode: "write", "flat-out" or "idle" (guest.MODES). extra: XML below <domain>, devices: XML below <devices>."""

    numbers = itertools.count(1)

    def __init__(self, cluster, kernel, name, disks, mode="write", extra="", devices=""):
        self.cluster, self.kernel, self.name, self.disks = cluster, kernel, name, disks
        self.mode, self.extra, self.devices = mode, extra, devices
        self.uuid = str(uuid.uuid4())
        self.identity = None        # of the newest start

    def new_incarnation(self):
        """Give the next start an identity of its own."""
        self.identity = f"{self.name[:guest.IDENTITY_SIZE - 6]}/{next(self.numbers)}"

    def xml(self):
        ports = "\n".join(["    <controller type='pci' model='pcie-root-port'/>"] * (HOTPLUG_PORTS + len(self.disks)))
        disks = "\n".join("    " + disk.xml(self.cluster, i) for i, disk in enumerate(self.disks))
        return DOMAIN.format(accel=guest.accelerator(self.kernel), name=self.name, uuid=self.uuid, memory=MEMORY_MIB, machine=MACHINE,
                             host_file=HOST_NAME_FILE, kernel=self.kernel, ports=ports, disks=disks, devices=self.devices,
                             extra=self.extra, cmdline=guest.command_line(self.identity, self.mode))

    def _file(self, host):
        self.new_incarnation()
        path = host.dir / f"{self.name}.xml"
        path.write_text(self.xml())
        return path

    # Control

    def start(self, host, paused=False, check=True, timeout=60):
        """`virsh create`: a transient domain. Returns the CompletedProcess; check=False when a refusal is expected."""
        return host.virsh("create", self._file(host), *(["--paused"] if paused else []), check=check, timeout=timeout)

    def define(self, host):
        """Make it persistent there; the identity is that of this definition, whoever starts it."""
        host.virsh("define", self._file(host))

    def destroy(self, host, check=True):
        return host.virsh("destroy", self.name, check=check)

    def kill(self, host, wait=True):
        """SIGKILL its QEMU; wait: until libvirtd has noticed too, before which it refuses to start the same VM again."""
        os.kill(host.qemu_pid(self.name), 9)
        if wait and host.libvirtd.alive():
            wait_until(lambda: self.name not in host.domains(), NOTICE_TIMEOUT_S, f"{host.name} notices the death of {self.name}")

    def migrate(self, source, target, *flags, check=True, timeout=60):
        return source.virsh("migrate", "--live", self.name, f"qemu+tcp://{target.address}/system", "--migrateuri",
                            f"tcp://{target.address}", *flags, check=check, timeout=timeout)

    def attach(self, host, disk, check=True, timeout=60):
        """Hot-plug; the disk needs a target. Its QEMU opens it, the guest does not use it."""
        return self._device("attach-device", host, disk, check, timeout)

    def detach(self, host, disk, check=True, timeout=60):
        return self._device("detach-device", host, disk, check, timeout)

    def _device(self, verb, host, disk, check, timeout):
        path = host.dir / f"{self.name}.{disk.target}.xml"
        path.write_text(disk.xml(self.cluster))
        return host.virsh(verb, self.name, path, "--live", check=check, timeout=timeout)

    # What its disks say

    def record(self, disk=0):
        return self.disks[disk].record(self.cluster)

    def counter(self, disk=0):
        """Counter on disk if the newest incarnation wrote it, else 0."""
        record = self.record(disk)
        return record.counter if record and record.identity == self.identity else 0

    def wait_writing(self, host=None, timeout=FIRST_WRITE_TIMEOUT_S, disk=0):
        """Until the newest incarnation writes (on that host, if given) AFTER this call; returns its record."""
        before = None

        def writes():
            nonlocal before
            record = self.record(disk)          # fails while the storage is away: not yet
            if not record or record.identity != self.identity:
                return None
            if before is None:
                before = record.counter
            if record.counter <= before:
                return None
            return record if host is None or record.host == host.name else None
        return wait_until(writes, timeout, f"{self.identity} writes" + (f" on {host.name}" if host else ""))

    def assert_silent(self, seconds=2.0, disk=0):
        """Nobody at all writes to the disk for a while."""
        before = wait_until(lambda: (self.record(disk),), FIRST_WRITE_TIMEOUT_S, "the disk can be read")[0]
        holds_for(lambda: self.record(disk) == before, seconds, f"no write to {self.disks[disk].image or self.disks[disk].path}")

    def wait_silent(self, seconds=1.0, timeout=30, disk=0):
        """Until nobody has written for that long: writes in flight may still arrive after whatever stopped the writer."""
        def silent():
            try:
                self.assert_silent(seconds, disk)
            except AssertionError:
                return False
            return True
        wait_until(silent, timeout, f"the disk of {self.name} is silent")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest program (guest.S), what it leaves on disk, and which accelerator boots it faster here."""

import functools
import os
import struct
import subprocess
import tempfile
import time
from collections import namedtuple
from pathlib import Path

MAGIC = b"VLWRITER"
SECTOR = 512
SOURCE = Path(__file__).with_name("guest.S")
LAYOUT = struct.Struct("<8sQ32s16sQ")
IDENTITY_SIZE = 32
FILL = "_"         # a blank at the end of a kernel command line does not survive libvirt
MODES = {"write": "w", "flat-out": "f", "idle": "i"}
PROBE_TIMEOUT_S = 30

# identity: given at creation, in guest memory. host: of the QEMU the guest ran in when it wrote this (after a migration at most one
# write may still carry the old name). failures: writes that the guest saw fail so far, over all its disks.
Record = namedtuple("Record", "identity host counter failures")


def parse(sector):
    """What a guest wrote last, or None for a sector that no guest ever wrote."""
    magic, counter, identity, host, failures = LAYOUT.unpack_from(sector)
    if magic != MAGIC:
        return None
    return Record(identity.decode().rstrip(FILL), host.decode().strip("\0 "), counter, failures)


def build(directory):
    """Assemble the guest; returns the path to name in <kernel>."""
    obj, kernel = Path(directory) / "guest.o", Path(directory) / "guest.bin"
    subprocess.run(["as", "--32", "-o", obj, SOURCE], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-e", "0", "-Ttext", "0", "--oformat", "binary", "-o", kernel, obj], check=True)
    return kernel


def command_line(identity, mode):
    assert len(identity) <= IDENTITY_SIZE, identity
    assert " " not in identity and not identity.endswith(FILL), identity
    return identity.ljust(IDENTITY_SIZE, FILL) + MODES[mode]


@functools.cache
def accelerator(kernel):
    """"kvm" or "qemu" (TCG), whichever has the guest writing first: firmware can be several times slower under a nested KVM.

    $VIRTLEASE_TEST_ACCEL chooses without a race.
    """
    if os.environ.get("VIRTLEASE_TEST_ACCEL"):
        return os.environ["VIRTLEASE_TEST_ACCEL"]
    racers = {"tcg": "qemu"}
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        racers["kvm"] = "kvm"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        disks = {accel: Path(directory) / accel for accel in racers}
        runs = []
        try:
            for accel, disk in disks.items():
                disk.write_bytes(bytes(1 << 20))
                runs.append(subprocess.Popen(
                    ["qemu-system-x86_64", "-machine", f"q35,accel={accel}", "-m", "32", "-nodefaults", "-display", "none",
                     "-kernel", kernel, "-append", command_line("probe", "write"), "-drive", f"file={disk},format=raw,if=virtio"],
                    stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            deadline = time.monotonic() + PROBE_TIMEOUT_S
            while time.monotonic() < deadline:
                for accel, disk in disks.items():
                    with disk.open("rb") as f:
                        f.seek(SECTOR)
                        if parse(f.read(SECTOR)):
                            return racers[accel]
                time.sleep(0.01)
        finally:
            for run in runs:
                run.kill()
                run.wait()
    raise RuntimeError("no accelerator boots the guest")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a restarted virtleased takes to find its VMs: from its exec until `virtleasectl list` shows every lease in the state it had.

One RBD image per VM, open in a client of its host; every tenth VM is paused (PARKED), the others run (HELD). A VM's process is a shell that
waits, with "-uuid UUID" on its command line as libvirt's QEMU has it. virtleased is killed (SIGKILL), as in a crash; then again with its
journal removed, so that it has only libvirt's status XMLs and the lease records to go by. Time is that of this process, polled every
POLL_S; a `list` of a thousand leases takes some 50 ms itself.
"""

import shutil
import time

import rbd
from bed.service import tail
from bed.wait import Timeout, wait_until
from heartbeat import create_images
from place import note, summary
from plugin import Driver, FakeVM, ManyQemus

POLL_S = 0.02
TIMEOUT_S = 60
PARKED_EACH = 10
FEATURES = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK


def start_vms(host, driver, images):
    """One VM per image. -> {VM name: state of its lease}"""
    qemus = ManyQemus(host)
    vms = [FakeVM(host, driver, [image]) for image in images]
    for vm in vms:
        vm.cold_start(qemus.program(vm))
    qemus.open(images)
    wanted = {vm.name: "held" if i % PARKED_EACH else "parked" for i, vm in enumerate(vms)}
    for vm in vms:
        if wanted[vm.name] == "held":
            vm.describe()
            vm.hold()
            vm.write_status("running")
    wait_leases(host, wanted)
    return wanted


def leases(host):
    return {lease["vm"]: lease["state"] for lease in host.ctl("list")["leases"]}


def wait_leases(host, wanted):
    try:
        wait_until(lambda: leases(host) == wanted, TIMEOUT_S, "all leases are as wanted", poll=POLL_S)
    except Timeout as e:
        now = leases(host)
        wrong = {vm: now.get(vm) for vm, state in wanted.items() if now.get(vm) != state}
        raise Timeout(f"{e}; {len(wrong)} are not: {dict(list(wrong.items())[:5])}\n{tail(host.virtleased.log)}") from e


def restart(host, wanted, journal):
    """Seconds from exec to the socket's first answer, and to all leases as they were."""
    host.kill_virtleased()
    if not journal:
        shutil.rmtree(host.path("/var/lib/virtlease/vms"))
    began = time.monotonic()
    host.start_virtleased()
    answers = time.monotonic() - began
    wait_leases(host, wanted)
    return {"answers": answers, "adopted": time.monotonic() - began}


def run(place, options):
    note(f"adopt: creating {options.leases} images and as many VMs")
    images = create_images(place, options.leases, "adopt")
    host = place.host(boot_only=True)
    host.start_virtleased()
    driver = Driver(host)
    wanted = start_vms(host, driver, images)
    result = {"unit": "seconds", "vms": len(wanted), "parked": sum(state == "parked" for state in wanted.values())}
    for name, journal in (("crash", True), ("crash, journal lost", False)):
        note(f"adopt: {name}")
        measured = [restart(host, wanted, journal) for _ in range(options.repeat)]
        result[name] = {key: summary([m[key] for m in measured]) for key in measured[0]}
    driver.close()
    host.discard()
    return result

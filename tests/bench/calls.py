# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lock driver's calls cost, as multiples of one plain RADOS write on the same cluster in the same run."""

import subprocess
import time
from pathlib import Path

from bed.run import environment
from place import note, summary
from plugin import Driver, FakeVM

DISKS = (1, 8)
PAUSE_S = 0.03          # before every measured call: VMs pause and resume now and then, not in a loop
COLD_STARTS = 10
RADOS_WRITE = Path(__file__).with_name("rados_write.py")


class Yardstick:
    """Plain RADOS writes from a process of the host."""

    def __init__(self, host):
        self.process = subprocess.Popen(host.enter("/usr/bin/python3", RADOS_WRITE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1, env=environment(), start_new_session=True)

    def write(self, at_once=1):
        self.process.stdin.write(f"{at_once}\n")
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


def measure_park_and_resume(yardstick, vms, rounds):
    """Interleaved, so that whatever slows the machine down slows all of it down."""
    times = {f"write {disks}": [] for disks in vms}
    for disks in vms:
        for what in ("resume", "park", "park again", "park+resume"):
            times[f"{what} {disks}"] = []

    def take(what, fn):
        time.sleep(PAUSE_S)
        times[what].append(fn())
    for _ in range(rounds):
        for disks, vm in vms.items():
            take(f"write {disks}", lambda n=disks: yardstick.write(n))
            take(f"resume {disks}", vm.resume)
            take(f"park {disks}", vm.park)
            times[f"park again {disks}"].append(vm.park())
            time.sleep(PAUSE_S)
            vm.resume()
            # At once after a park, a resume also waits until what the park left to do in the background is stored.
            take(f"park+resume {disks}", lambda v=vm: v.park() + v.resume())
            vm.park()
    return {what: summary(values) for what, values in times.items()}


def measure_cold_starts(vms):
    times = {f"cold start {disks}": [] for disks in vms}
    for _ in range(COLD_STARTS):
        for disks, vm in vms.items():
            time.sleep(PAUSE_S)
            times[f"cold start {disks}"].append(vm.cold_start())
            vm.kill()
    return {what: summary(values) for what, values in times.items()}


def run(place, options):
    note(f"calls: {options.rounds} rounds of park and resume, {COLD_STARTS} cold starts")
    host = place.host(boot_only=True)
    host.start_virtleased()
    images = place.cluster.images
    driver_of, running, idle = {}, {}, {}
    for disks in DISKS:
        driver_of[disks] = Driver(host)
        running[disks] = FakeVM(host, driver_of[disks], [images.create(f"rbd/calls.{disks}.{i}") for i in range(disks)])
        running[disks].start()
        running[disks].resume()
        running[disks].write_status()
        running[disks].park()
    yardstick = Yardstick(host)
    for _ in range(20):
        yardstick.write(8)
    result = measure_park_and_resume(yardstick, running, options.rounds)
    for disks in DISKS:
        running[disks].kill()
        idle[disks] = FakeVM(host, driver_of[disks], [images.create(f"rbd/cold.{disks}.{i}") for i in range(disks)])
    result.update(measure_cold_starts(idle))
    yardstick.close()
    for driver in driver_of.values():
        driver.close()
    host.discard()
    return {"unit": "microseconds", **result}

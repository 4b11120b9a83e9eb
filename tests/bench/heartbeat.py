# SPDX-License-Identifier: LGPL-2.1-or-later
"""What virtlease costs the cluster while nothing happens, with one lease and with many.

Counted by the OSD: every operation of anybody; and by virtleased's own cluster client, which knows what its operations are. The VMs are
paused and their processes have no image open, so that all there is to count is virtleased's: QEMU sends one operation per open image every
5 s, with any lock manager or none.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import rbd
from bed.wait import wait_until
from place import admin_socket, note
from plugin import Driver, FakeVM

WINDOW_S = 30           # audit_interval: every lease is looked at once in this time
SETTLE_S = 5
DISKS_PER_VM = 50
CREATORS = 8
IMAGE_SIZE = 4 << 20
FEATURES = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
CLIENT_SOCKETS = "/run/ceph"


def create_images(place, count, prefix="beat"):
    names = [f"rbd/{prefix}.{i}" for i in range(count)]
    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(lambda name: place.cluster.images.create(name, size=IMAGE_SIZE, features=FEATURES), names))
    return names


class Counters:
    """Of the OSD, and of virtleased's cluster client."""

    def __init__(self, place, host):
        self.osd_socket = place.cluster.dir / "osd.0.asok"
        self.client_sockets = host.path(CLIENT_SOCKETS)

    def read(self):
        osd = admin_socket(self.osd_socket, "perf dump")["osd"]
        counts = {"osd writes": osd["op_w"] + osd["op_rw"], "osd reads": osd["op_r"], "writes": 0, "reads": 0, "watch pings": 0}
        for path in self.client_sockets.glob("*.asok"):
            client = admin_socket(path, "perf dump")["objecter"]
            counts["writes"] += client["op_w"] - client["linger_ping"]      # a ping counts as a write there, and as a read at the OSD
            counts["reads"] += client["op_r"]
            counts["watch pings"] += client["linger_ping"]
        return counts

    def rates(self, seconds):
        """Operations per second over the next seconds."""
        before, began = self.read(), time.monotonic()
        time.sleep(seconds)
        after, took = self.read(), time.monotonic() - began
        return {key: (after[key] - before[key]) / took for key in after}


def lease_all(host, driver, images):
    vms = [FakeVM(host, driver, images[i:i + DISKS_PER_VM]) for i in range(0, len(images), DISKS_PER_VM)]
    for vm in vms:
        vm.cold_start()
    wait_until(lambda: len(host.ctl("list")["leases"]) >= len(images), 60, f"{len(images)} leases")


def run(place, options):
    note(f"heartbeat: creating {options.leases} images")
    images = create_images(place, options.leases)
    host = place.host(boot_only=True, ceph_conf=[f"admin socket = {CLIENT_SOCKETS}/$name.$pid.$cctid.asok"])
    host.path(CLIENT_SOCKETS).mkdir()
    host.start_virtleased()
    driver = Driver(host)
    counters = Counters(place, host)
    result = {"unit": "operations per second", "window": WINDOW_S}
    taken = 0
    for key, wanted in (("few", 1), ("many", options.leases)):
        began = time.monotonic()
        lease_all(host, driver, images[taken:wanted])
        note(f"heartbeat: {wanted} lease(s), taken in {time.monotonic() - began:.1f} s; counting for {WINDOW_S} s")
        taken = wanted
        time.sleep(SETTLE_S)
        result[key] = {"leases": wanted, "rates": counters.rates(WINDOW_S)}
    driver.close()
    host.discard()
    return result

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the benchmarks run: the test bed's cluster and hosts, and small helpers shared by all of them."""

import itertools
import json
import socket
import statistics
import struct
import sys
from contextlib import contextmanager

from bed import guest
from bed.cluster import Cluster
from bed.host import Host
from bed.run import HOST_NUMBERS, World


class Place:
    """One world, one cluster (one monitor, one OSD, in memory), and hosts as they are asked for."""

    def __init__(self):
        self.world = World()
        self.hosts = []
        self.numbers = itertools.cycle(HOST_NUMBERS)
        self.cluster = None
        self.kernel = None

    def start(self):
        self.cluster = Cluster(self.world)
        self.cluster.start()
        self.kernel = guest.build(self.world.dir)
        guest.accelerator(self.kernel)

    def host(self, lock_manager="virtlease", ceph_conf=(), boot_only=False):
        """A new host. boot_only: nothing runs on it yet."""
        number = next(self.numbers)
        host = Host(self.world, self.cluster, f"bench-{number}", number, lock_manager)
        self.hosts.append(host)
        host.set_ceph_conf(*ceph_conf)
        if boot_only:
            host.boot()
        else:
            host.start()
        return host

    def close(self):
        for host in self.hosts:
            host.discard()
        if self.cluster and self.cluster.admin:
            self.cluster.stop()
        self.world.close()


@contextmanager
def make_place():
    place = Place()
    try:
        place.start()
        yield place
    finally:
        place.close()


def note(text):
    """Progress, apart from the results."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def summary(values):
    """What is kept of many measurements of one thing."""
    values = sorted(values)
    return {"n": len(values), "min": values[0], "median": statistics.median(values), "max": values[-1],
            "p90": values[min(len(values) - 1, len(values) * 9 // 10)]}


def admin_socket(path, prefix):
    """Ask a Ceph daemon or client through its admin socket; `ceph daemon` does the same, half a second slower."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        s.sendall(json.dumps({"prefix": prefix}).encode() + b"\0")
        size = struct.unpack(">I", s.recv(4, socket.MSG_WAITALL))[0]
        return json.loads(s.recv(size, socket.MSG_WAITALL))

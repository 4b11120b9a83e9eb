# SPDX-License-Identifier: LGPL-2.1-or-later
"""The yardstick: plain RADOS writes of 4 KiB, from the same host as what is measured against them.

For every line on stdin, which says how many: so many writes at once, each to an object of its own; microseconds until all are acknowledged
on stdout.
"""

import sys
import time

import rados

SIZE = 4096


def main():
    client = rados.Rados(conffile="/etc/ceph/ceph.conf", name="client.virtlease")
    client.connect()
    context = client.open_ioctx("rbd")
    data = bytes(SIZE)
    for line in sys.stdin:
        names = [f"bench.yardstick.{i}" for i in range(int(line))]
        began = time.perf_counter()
        if len(names) == 1:
            context.write_full(names[0], data)
        else:
            for completion in [context.aio_write_full(name, data) for name in names]:
                completion.wait_for_complete()
        print(f"{(time.perf_counter() - began) * 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()

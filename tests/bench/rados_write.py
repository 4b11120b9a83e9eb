# SPDX-License-Identifier: LGPL-2.1-or-later
"""The yardstick: one plain RADOS write of 4 KiB, from the same host as what is measured against it.

For every line on stdin: one write; its microseconds on stdout.
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
    for _ in sys.stdin:
        began = time.perf_counter()
        context.write_full("bench.yardstick", data)
        print(f"{(time.perf_counter() - began) * 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()

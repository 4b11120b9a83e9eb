# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stands for QEMU towards storage: opens RBD images as QEMU does, one cluster client per image, and then does nothing.

fake_qemu.py READY-FILE POOL/IMAGE...
"""

import signal
import sys

import rados
import rbd


def main():
    ready, *specs = sys.argv[1:]
    kept = []
    for spec in specs:
        pool, image = spec.split("/")
        client = rados.Rados(conffile="/etc/ceph/ceph.conf", name="client.qemu")
        client.connect()
        context = client.open_ioctx(pool)
        kept.append((client, context, rbd.Image(context, image)))
    with open(ready, "w", encoding="utf-8") as f:
        f.write("open\n")
    signal.pause()


if __name__ == "__main__":
    main()

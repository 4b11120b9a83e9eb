# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stands for QEMU towards storage: opens RBD images as QEMU does and then does nothing.

fake_qemu.py READY-FILE POOL/IMAGE...           one cluster client per image, as QEMU has it
fake_qemu.py --many PORT READY-FILE FILE        one client for all the images named in FILE, once that exists, for VMs of which a thousand
                                                fit on one machine: their processes only keep a connection to PORT of this one, so that the
                                                image's watcher has an address that one of the process's own sockets has

READY-FILE says "listening" once PORT is open, and "open" when all images are.
"""

import signal
import socket
import sys
import time
from pathlib import Path

import rados
import rbd


def connect(pool):
    client = rados.Rados(conffile="/etc/ceph/ceph.conf", name="client.qemu")
    client.connect()
    return client.open_ioctx(pool)


def say(ready, word):
    Path(f"{ready}.new").write_text(word, encoding="utf-8")
    Path(f"{ready}.new").rename(ready)


def many(port, ready, file):
    listener = socket.create_server(("", int(port)), backlog=4096)
    say(ready, "listening")
    while not Path(file).exists():
        time.sleep(0.1)
    contexts, images = {}, []
    for spec in Path(file).read_text(encoding="utf-8").split():
        pool, image = spec.split("/")
        if pool not in contexts:
            contexts[pool] = connect(pool)
        images.append(rbd.Image(contexts[pool], image))
    say(ready, "open")
    signal.pause()
    listener.close()


def main():
    if sys.argv[1] == "--many":
        many(*sys.argv[2:])
    ready, *specs = sys.argv[1:]
    kept = []
    for spec in specs:
        pool, image = spec.split("/")
        context = connect(pool)
        kept.append((context, rbd.Image(context, image)))
    say(ready, "open")
    signal.pause()


if __name__ == "__main__":
    main()

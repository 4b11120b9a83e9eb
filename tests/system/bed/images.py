# SPDX-License-Identifier: LGPL-2.1-or-later
"""RBD images of a cluster, as the administrator sees them: make, remove, who watches, who owns the lock, what is in it.

An image is named by its spec: "pool/image", "pool/namespace/image", or just "image" for pool rbd. Reads here never disturb what is
under test: images are opened read-only (no watch, no lock), and their content is read from the data object itself.
"""

import contextlib

import rados
import rbd

from .wait import wait_until

MIB = 1 << 20
SECTOR = 512


def split_spec(spec):
    """-> (pool, namespace or "", image)"""
    parts = spec.split("/")
    if len(parts) == 1:
        return "rbd", "", parts[0]
    return parts[0], "/".join(parts[1:-1]), parts[-1]


class Images:
    """See the module."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.contexts = {}
        self.prefixes = {}          # spec -> block name prefix

    def close(self):
        for context in self.contexts.values():
            context.close()
        self.contexts = {}

    def context(self, pool, namespace=""):
        """An I/O context of the administrator, kept for the cluster's life."""
        if (pool, namespace) not in self.contexts:
            context = self.cluster.admin.open_ioctx(pool)
            context.set_namespace(namespace)
            self.contexts[pool, namespace] = context
        return self.contexts[pool, namespace]

    def wait_writable(self, pool):
        """Until the pool's PGs answer; a write per PG is the only test that needs no mgr."""
        def write():
            for i in range(16):
                self.context(pool).write_full(f"probe.{i}", b"")
                self.context(pool).remove_object(f"probe.{i}")
            return True
        wait_until(write, 30, f"pool {pool} takes writes")

    def forget(self, prefix, pool="rbd", namespace=""):
        """Remove all plain objects whose name begins so: the sessions of hosts that no longer exist."""
        context = self.context(pool, namespace)
        for name in [o.key for o in context.list_objects() if o.key.startswith(prefix)]:
            context.remove_object(name)

    def create_namespace(self, pool, namespace):
        rbd.RBD().namespace_create(self.context(pool), namespace)

    def create(self, spec, size=8 * MIB, features=None):
        """features: None = the default set (exclusive-lock and what needs it), or rbd.RBD_FEATURE_* bits."""
        pool, namespace, name = split_spec(spec)
        rbd.RBD().create(self.context(pool, namespace), name, size, old_format=False, features=features)
        return spec

    def remove(self, spec):
        pool, namespace, name = split_spec(spec)
        self.prefixes.pop(spec, None)
        rbd.RBD().remove(self.context(pool, namespace), name)

    def rename(self, spec, name):
        pool, namespace, old = split_spec(spec)
        rbd.RBD().rename(self.context(pool, namespace), old, name)
        return f"{pool}/{namespace}/{name}" if namespace else f"{pool}/{name}"

    @contextlib.contextmanager
    def open(self, spec, read_only=True):
        """The rbd.Image; with read_only=False this process itself becomes a watcher, and a lock owner once it writes."""
        pool, namespace, name = split_spec(spec)
        with rbd.Image(self.context(pool, namespace), name, read_only=read_only) as image:
            yield image

    def watchers(self, spec):
        """Addresses ("IP:port/nonce") of everybody who has the image open for writing."""
        with self.open(spec) as image:
            return sorted(w["addr"] for w in image.watchers_list())

    def lock_owner(self, spec):
        """The owner of librbd's exclusive lock as {client, cookie, address}, or None."""
        with self.open(spec) as image:
            lockers = image.list_lockers()
        if not lockers or not lockers["lockers"]:
            return None
        client, cookie, address = lockers["lockers"][0]
        return {"client": client, "cookie": cookie, "address": address}

    def header(self, spec):
        """(I/O context, name of the header object): where the lease record lives."""
        pool, namespace, _ = split_spec(spec)
        with self.open(spec) as image:
            return self.context(pool, namespace), f"rbd_header.{image.id()}"

    def read_sector(self, spec, number):
        """512 bytes straight from the data object; zeros where nothing was written. Fast enough to poll."""
        pool, namespace, _ = split_spec(spec)
        if spec not in self.prefixes:
            with self.open(spec) as image:
                self.prefixes[spec] = image.stat()["block_name_prefix"]
        try:
            data = self.context(pool, namespace).read(f"{self.prefixes[spec]}.{0:016x}", SECTOR, number * SECTOR)
        except rados.ObjectNotFound:
            data = b""
        except rados.TimedOut:
            self.cluster.refresh_map()
            raise
        return data.ljust(SECTOR, b"\0")

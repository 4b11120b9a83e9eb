# SPDX-License-Identifier: LGPL-2.1-or-later
"""What other hosts leave in a pool, written without any: lease records, and the session objects of hosts that do not exist.

The formats are those of lockd/record.h, lockd/identity.h and lockd/store_rbd_session.c.
"""

import ctypes
import json
import threading
import time
import uuid

import rados

from .images import split_spec

RECORD_XATTR = "virtlease"
SESSION_XATTR = "virtlease.session"
HOSTS_OBJECT = "virtlease.hosts"
COUNTER_WIDTH = 20
BEAT_S = 0.3


def read_record(cluster, spec):
    """The lease record of an image as data, {} if there is none."""
    context, header = cluster.images.header(spec)
    try:
        return json.loads(context.get_xattr(header, RECORD_XATTR))
    except rados.NoData:
        return {}


def write_record(cluster, spec, holders=(), claim=None, fenced=(), epoch=1, shared=False):
    """Replace the record, whatever was there."""
    record = {"version": 1, "epoch": epoch, "write": uuid.uuid4().hex, "mode": "shared" if shared else "exclusive",
              "holders": list(holders), **({"claim": claim} if claim else {}), **({"fenced": list(fenced)} if fenced else {})}
    context, header = cluster.images.header(spec)
    context.set_xattr(header, RECORD_XATTR, json.dumps(record).encode())


def remove_record(cluster, spec):
    context, header = cluster.images.header(spec)
    context.rm_xattr(header, RECORD_XATTR)


def fence_entry(address, wanted_s, lasts_s=None):
    """An entry of "fenced": asked for wanted_s seconds, really in the blocklist for lasts_s."""
    now = int(time.time())
    return {"addr": address, "at": now, "until": now + (wanted_s if lasts_s is None else lasts_s), "wanted": now + wanted_s}


class Ghost:
    """A host that exists only in the pool. alive=True: its counter moves until stop(); else it is silent."""

    def __init__(self, cluster, name="ghost", alive=False, dead_after=4, ips=(), krbd=(), pool="rbd"):
        self.cluster, self.name = cluster, name
        self.id = str(uuid.uuid4())
        self.machine, self.boot = uuid.uuid4().hex, str(uuid.uuid4())
        self.session = int(time.time() * 1000)
        self.context = cluster.images.context(pool)
        self.object = f"virtlease.host.{self.id}"
        self.counter = 1
        self.identity = {"version": 1, "session": self.session, "dead_after": dead_after, "grace": 0, "host": self.id,
                         "machine": self.machine, "name": name, "boot": self.boot, "nonce": uuid.uuid4().hex, "state": "live",
                         "ips": list(ips), "krbd": list(krbd)}
        self._omap(HOSTS_OBJECT, {self.id: ""})
        self._beat()
        self.context.set_xattr(self.object, SESSION_XATTR, json.dumps(self.identity).encode())
        self.stopping = threading.Event()
        self.thread = None
        if alive:
            self.thread = threading.Thread(target=self._live, daemon=True)
            self.thread.start()

    def _omap(self, name, entries):
        with rados.WriteOpCtx() as op:
            self.context.set_omap(op, tuple(entries), tuple(v.encode() for v in entries.values()))
            self.context.operate_write_op(op, name)

    def _beat(self):
        self.context.write_full(self.object, str(self.counter).zfill(COUNTER_WIDTH).encode())
        self.counter += 1

    def _live(self):
        while not self.stopping.wait(BEAT_S):
            self._beat()

    def stop(self):
        """It dies."""
        self.stopping.set()
        if self.thread:
            self.thread.join()

    def mark(self):
        """The state of its session as stored: "live", "closed", "fenced"."""
        return json.loads(self.context.get_xattr(self.object, SESSION_XATTR))["state"]

    def holder(self, vm="ghostly", addrs=(), state="held", vm_uuid=None):
        """An entry for "holders"."""
        return {"host": self.id, "machine": self.machine, "name": self.name, "boot": self.boot, "session": self.session,
                "uuid": vm_uuid or str(uuid.uuid4()), "vm": vm, "pid": 4711, "start": 4711, "state": state, "token": "t",
                "addrs": list(addrs), "since": int(time.time())}

    def claim(self, addrs=(), epoch=2, vm="ghostly"):
        return {"id": uuid.uuid4().hex, "host": self.id, "name": self.name, "session": self.session, "uuid": str(uuid.uuid4()),
                "vm": vm, "epoch": epoch, "addrs": list(addrs), "since": int(time.time())}

    def index(self, *specs):
        """Name images in its index, where `virtleasectl fence` looks."""
        entries = {}
        for spec in specs:
            pool, namespace, name = split_spec(spec)
            with self.cluster.images.open(spec) as image:
                key = f"rbd:{self.cluster.fsid}/{self.context.get_pool_id()}/{namespace}/{image.id()}"
            entries[key] = f"{pool}/{name}\n{uuid.uuid4()}\nghostly"
        self._omap(self.object, entries)


class Answerer:
    """Watches the session object of a host and acknowledges every challenge with reply(question) -> bytes, or None for silence: an
    impostor, or a daemon of another version. python-rados can only acknowledge with nothing, so this one is librados itself."""

    CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p,
                                ctypes.c_size_t)
    BROKEN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int)

    def __init__(self, cluster, host_id, reply, pool="rbd"):
        self.lib = ctypes.CDLL("librados.so.2")
        self.reply = reply
        self.asked = 0
        self.oid = f"virtlease.host.{host_id}".encode()
        self.cluster, self.context, self.cookie = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        self._call("rados_create2", ctypes.byref(self.cluster), b"ceph", b"client.admin", ctypes.c_uint64(0))
        conf = {"key": cluster.keys["client.admin"], "mon_host": cluster.mon_host, "fsid": cluster.fsid, "rados_osd_op_timeout": "15"}
        for key, value in conf.items():
            self._call("rados_conf_set", self.cluster, key.encode(), value.encode())
        self._call("rados_connect", self.cluster)
        self._call("rados_ioctx_create", self.cluster, pool.encode(), ctypes.byref(self.context))
        self.callbacks = self.CALLBACK(self._on_notify), self.BROKEN(lambda *_: None)
        self._call("rados_watch3", self.context, self.oid, ctypes.byref(self.cookie), *self.callbacks, ctypes.c_uint32(30), None)

    def _call(self, function, *args):
        rc = getattr(self.lib, function)(*args)
        assert rc == 0, f"{function}: {rc}"

    def _on_notify(self, _arg, notify_id, cookie, _notifier, data, length):
        self.asked += 1
        answer = self.reply(ctypes.string_at(data, length))
        if answer is None:
            return          # never acknowledged
        self.lib.rados_notify_ack(self.context, self.oid, ctypes.c_uint64(notify_id), ctypes.c_uint64(cookie), answer, len(answer))

    def close(self):
        self.lib.rados_unwatch2(self.context, self.cookie)
        self.lib.rados_watch_flush(self.cluster)
        self.lib.rados_ioctx_destroy(self.context)
        self.lib.rados_shutdown(self.cluster)

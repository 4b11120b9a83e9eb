# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real Ceph cluster on the world's bridge: one monitor, a few memstore OSDs, cephx on, no mgr (RBD, locks and blocklists need none).

Keys are made here and commands go through librados, not through the command-line tools, each of which costs half a second.

The OSDs keep everything in memory. A stop writes it out (osd_fast_shutdown = false), a start reads it back; after a kill an OSD comes
back as it was at its last start, so kill_osd() is for clusters whose pools have another copy. durable=True uses bluestore instead.
"""

import base64
import json
import os
import struct
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import rados

from .daemon import Daemon
from .images import Images
from .run import environment
from .wait import wait_until

FAKETIME_LIB = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
MON_PORTS = (3300, 6789)
START_TIMEOUT_S = 30
HOST_CAPS = {"mon": "profile rbd", "osd": "profile rbd pool=rbd"}

DAEMON_CONF = """\
[global]
fsid = {fsid}
mon host = {mon_host}
public network = {subnet}
cluster network = {subnet}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {dir}/$name/keyring
run dir = {dir}
admin socket = {dir}/$name.asok
log file = {dir}/$name.log
mon cluster log file = {dir}/cluster.log
crash dir = {dir}/crash
osd pool default size = {size}
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
# A full disk of the test machine must not stop the monitor.
mon data avail warn = 2
mon data avail crit = 1
mon data = {dir}/$name
osd data = {dir}/$name
osd objectstore = {store}
memstore device bytes = 4G
bluestore block size = 2G
osd memory target = 1G
osd fast shutdown = false
"""

CLIENT_CONF = """\
[global]
fsid = {fsid}
mon host = {mon_host}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
[client]
{extra}
"""


def new_key():
    """A cephx key: type AES, time of creation, 16 bytes."""
    return base64.b64encode(struct.pack("<hiih", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


def keyring(name, key, caps=None):
    lines = [f"[{name}]", f"\tkey = {key}"]
    lines += [f'\tcaps {service} = "{cap}"' for service, cap in (caps or {}).items()]
    return "\n".join(lines) + "\n"


class CommandError(RuntimeError):
    """A monitor said no."""


class Cluster:
    """See the module. size is the number of copies: 1, or 2 when there are at least two OSDs, unless given."""

    def __init__(self, world, osds=1, size=None, durable=False):
        self.world = world
        self.fsid = str(uuid.uuid4())
        self.dir = world.dir / f"ceph.{self.fsid[:6]}"
        self.address = world.take_server_address()
        self.size = size or min(osds, 2)
        self.store = "bluestore" if durable else "memstore"
        self.keys = {}
        self.admin = None
        self.faked = set()          # OSDs that run on a clock of their own
        self.images = Images(self)
        self.mon = Daemon(world, "ceph-mon", self.dir / "mon.a.out")
        self.osds = [Daemon(world, "ceph-osd", self.dir / f"osd.{i}.out") for i in range(osds)]
        self.mon_host = ",".join(f"v{2 - i}:{self.address}:{port}" for i, port in enumerate(MON_PORTS))
        self.mon_host = f"[{self.mon_host}]"
        self.conf = self.dir / "ceph.conf"          # the daemons' own; hosts get client_conf()

    # Life

    def start(self):
        self.dir.mkdir()
        (self.dir / "crash" / "posted").mkdir(parents=True)
        self.conf.write_text(DAEMON_CONF.format(fsid=self.fsid, mon_host=self.mon_host, dir=self.dir, size=self.size,
                                                subnet=f"{self.address}/32", store=self.store))
        self._make_mon()
        self.start_mon()
        self.admin = self.rados(rados_osd_op_timeout="5")       # see refresh_map()
        for i in range(len(self.osds)):
            self._make_osd(i)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._mkfs_osd, range(len(self.osds))))
        for i in range(len(self.osds)):
            self.start_osd(i, wait=False)
        self.create_pool("rbd")
        for i in range(len(self.osds)):
            self.wait_osd(i, up=True)
        for name in ("virtlease", "qemu"):
            self.add_client(name, **{f"{k}_caps": v for k, v in HOST_CAPS.items()})
        self.images.wait_writable("rbd")
        return self

    def stop(self):
        """For good: nothing is kept, so no daemon gets time to save anything."""
        self.images.close()
        if self.admin:
            self.admin.shutdown()
        for daemon in self.osds + [self.mon]:
            daemon.kill()
        self.world.drop_server_address(self.address)

    def restore(self):
        """Undo what a test did to the daemons: everything runs, on the right clock, and takes I/O. Cheap if nothing was done."""
        if not self.mon.alive():
            self.start_mon()
        for i, osd in enumerate(self.osds):
            if osd.alive():
                osd.thaw()
            if i in self.faked:
                self.stop_osd(i)
            if not osd.alive():
                self.start_osd(i)
        if "pauserd" in self.command("osd dump")["flags"]:
            self.unpause()
        self.images.wait_writable("rbd")

    def _make_mon(self):
        data = self.dir / "mon.a"
        data.mkdir()
        self.keys["mon."] = new_key()
        self.keys["client.admin"] = new_key()
        seed = self.dir / "seed.keyring"
        admin_caps = {"mon": "allow *", "osd": "allow *", "mds": "allow *", "mgr": "allow *"}
        seed.write_text(keyring("mon.", self.keys["mon."], {"mon": "allow *"}) +
                        keyring("client.admin", self.keys["client.admin"], admin_caps))
        monmap = self.dir / "monmap"
        self._tool("monmaptool", "--create", "--addv", "a", self.mon_host, "--fsid", self.fsid, "--set-min-mon-release", "16", monmap)
        self._tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", seed, "-c", self.conf)

    def _make_osd(self, i):
        (self.dir / f"osd.{i}").mkdir()
        osd_uuid, key = str(uuid.uuid4()), new_key()
        self.keys[f"osd.{i}"] = key
        self.command("osd new", uuid=osd_uuid, data=json.dumps({"cephx_secret": key}))
        (self.dir / f"osd.{i}" / "uuid").write_text(osd_uuid)
        (self.dir / f"osd.{i}" / "keyring").write_text(keyring(f"osd.{i}", key))

    def _mkfs_osd(self, i):
        osd_uuid = (self.dir / f"osd.{i}" / "uuid").read_text()
        self._tool("ceph-osd", "--mkfs", "-i", i, "--osd-uuid", osd_uuid, "-c", self.conf)

    @staticmethod
    def _tool(*args):
        done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{args[0]}: {done.stderr}")

    # Monitor and OSDs, one by one

    def start_mon(self):
        self.mon.start("-f", "-i", "a", "-c", self.conf)

    def stop_mon(self):
        self.mon.stop()

    def start_osd(self, i, wait=True, clock_file=None):
        """clock_file: run it under libfaketime. The file's content ("+0", "+90", "-3600": seconds) is the offset of the OSD's wall clock;
        it is read at every look at the clock, so rewriting it steps the clock of the running OSD."""
        env = environment()
        self.faked.discard(i)
        if clock_file:
            self.faked.add(i)
            env = environment(LD_PRELOAD=FAKETIME_LIB, FAKETIME_TIMESTAMP_FILE=str(clock_file), FAKETIME_NO_CACHE="1",
                              FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1")
        self.osds[i].start("-f", "-i", i, "-c", self.conf, env=env)
        if wait:
            self.wait_osd(i, up=True)

    def stop_osd(self, i):
        """Stop cleanly: it tells the monitor, which marks it down at once, and keeps its objects."""
        self.osds[i].stop()
        self.wait_osd(i, up=False)

    def kill_osd(self, i):
        """SIGKILL. Nobody is told; see the module about memory."""
        self.osds[i].kill()

    def freeze_osd(self, i):
        self.osds[i].freeze()

    def thaw_osd(self, i):
        self.osds[i].thaw()

    def wait_osd(self, i, up):
        def seen():
            state = {o["osd"]: o["up"] for o in self.command("osd dump")["osds"]}
            return state.get(i, 0) == (1 if up else 0)
        wait_until(seen, START_TIMEOUT_S, f"osd.{i} {'up' if up else 'down'} in the map")
        self.refresh_map()

    def refresh_map(self):
        """A client whose operations time out in less than objecter_timeout (10 s) never asks for a newer map by itself and goes on
        calling an OSD that is long dead. Ours is such a client."""
        if self.mon.alive():
            self.admin.wait_for_latest_osdmap()

    def wait_clean(self, pool="rbd", timeout=60):
        """Until every PG of the pool has all its copies again. Asked of the PGs themselves: there is no mgr that knows."""
        number = self.admin.pool_lookup(pool)
        pgs = self.command("osd pool get", pool=pool, var="pg_num")["pg_num"]

        def clean():
            for pgid in (f"{number}.{pg:x}" for pg in range(pgs)):
                query = json.dumps({"prefix": "query", "pgid": pgid, "format": "json"})
                rc, out, _ = self.admin.pg_command(pgid, query, b"", timeout=5)
                if rc or json.loads(out)["state"] != "active+clean":
                    return False
            return True
        wait_until(clean, timeout, f"pool {pool} is clean")

    def pause(self):
        """Stop all client I/O in the cluster (`ceph osd pause`), reads of the test's own included."""
        self.command("osd set", key="pause")
        self.refresh_map()

    def unpause(self):
        self.command("osd unset", key="pause")

    # Clients

    def rados(self, user="admin", **options):
        """A new connected handle. It has timeouts: a test must fail, not hang. A caller shuts it down itself."""
        conf = {"key": self.keys[f"client.{user}"], "mon_host": self.mon_host, "fsid": self.fsid, "rados_mon_op_timeout": "15",
                "rados_osd_op_timeout": "15", "client_mount_timeout": str(START_TIMEOUT_S), "rbd_cache": "false", **options}
        handle = rados.Rados(name=f"client.{user}", conf=conf)
        handle.connect(timeout=START_TIMEOUT_S)
        return handle

    def add_client(self, name, mon_caps, osd_caps):
        """Make client.NAME with these caps (or give it these caps); returns the text of its keyring."""
        entity = f"client.{name}"
        if entity in self.keys:
            self.command("auth caps", entity=entity, caps=["mon", mon_caps, "osd", osd_caps])
        else:
            answer = self.command("auth get-or-create", entity=entity, caps=["mon", mon_caps, "osd", osd_caps])
            self.keys[entity] = answer[0]["key"]
        return self.keyring(name)

    def keyring(self, name):
        """Text of the keyring of client.NAME."""
        return keyring(f"client.{name}", self.keys[f"client.{name}"])

    def client_conf(self, *extra):
        """Text of a host's ceph.conf; extra: lines for [client], e.g. "rbd_blocklist_expire_seconds = 3600"."""
        return CLIENT_CONF.format(fsid=self.fsid, mon_host=self.mon_host, extra="\n".join(extra))

    # Commands

    def command(self, prefix, data="", **args):
        """Send a monitor command; returns its JSON answer, or its text if that is no JSON."""
        request = json.dumps({"prefix": prefix, "format": "json", **args})
        rc, out, err = self.admin.mon_command(request, data.encode(), timeout=15)
        if rc:
            raise CommandError(f"{prefix} {args}: {rc} {err}")
        try:
            return json.loads(out)
        except ValueError:
            return out.decode()

    def create_pool(self, name, pgs=8, application="rbd"):
        self.command("osd pool create", pool=name, pg_num=pgs, size=self.size)
        if application:
            self.command("osd pool application enable", pool=name, app=application)

    def blocklist(self):
        """{address: time it ends, as the monitor prints it}."""
        return self.command("osd dump")["blocklist"]

    def blocklist_add(self, address, seconds=3600.0):
        """By librados's own rule the number must be a real one; see "expire" in the Ceph facts of the docs."""
        self.command("osd blocklist", blocklistop="add", addr=address, expire=float(seconds))

    def blocklist_rm(self, address):
        self.command("osd blocklist", blocklistop="rm", addr=address)

    def blocklist_clear(self):
        if self.blocklist():
            self.command("osd blocklist clear")

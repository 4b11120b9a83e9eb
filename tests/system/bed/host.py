# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtualisation host: a Namespace with libvirtd, a lock manager's daemons and what they read and write.

The build under test is $VIRTLEASE_BUILD, or build/ in the source tree; the sanitized one is $VIRTLEASE_ASAN_BUILD, or build-asan/.
"""

import json
import os
import shutil
import socket
import uuid
from pathlib import Path

import libvirt

from .namespace import Namespace
from .sanlock import IO_TIMEOUT_S, USER, Sanlock
from .service import Service, tail
from .storage import Storage
from .wait import wait_until

SOURCE = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("VIRTLEASE_BUILD", SOURCE / "build")).resolve()
PLUGIN_DIR = BUILD / "plugin"
VIRTLEASED = BUILD / "lockd" / "virtleased"
VIRTLEASECTL = BUILD / "lockd" / "virtleasectl"
ASAN_BUILD = Path(os.environ.get("VIRTLEASE_ASAN_BUILD", SOURCE / "build-asan")).resolve()
SANITIZED_DAEMON = ASAN_BUILD / "lockd" / "virtleased"
# What the daemon leaves to exit() is no leak.
SANITIZER_ENV = {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
SANITIZER_WORDS = ("AddressSanitizer", "runtime error:")

DAEMON_CONF = "/etc/virtlease/virtleased.conf"
DAEMON_SOCKET = "/run/virtlease/virtleased.sock"
LIBVIRT_SOCKET = "/run/libvirt/libvirt-sock"
HOST_NAME_FILE = "/etc/bed-host"        # what guests read through fw_cfg: 16 bytes
SECRET_UUID = "5ec2e700-0000-4000-8000-000000000001"
VIRTLOCKD_SOCKET = "/run/libvirt/virtlockd-sock"
LIBVIRTD_TIMEOUT_S = 30
VIRTLEASED_TIMEOUT_S = 30

libvirt.registerErrorHandler(lambda _context, _error: None, None)       # errors are raised; printing them as well is noise

LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
log_level = 3
log_filters = "1:locking 2:qemu.qemu_process 2:qemu.qemu_migration"
log_outputs = "1:file:/var/log/libvirt/libvirtd.log"
"""

QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
dynamic_ownership = 0
"""

SECRET_XML = """\
<secret ephemeral='no' private='no'><uuid>{uuid}</uuid><usage type='ceph'><name>client.qemu</name></usage></secret>
"""


def conf_text(settings):
    """key = value lines in libvirt's style."""
    return "".join(f"{k} = {json.dumps(v) if isinstance(v, (str, list)) else int(v)}\n" for k, v in settings.items())


class Host(Namespace):
    """See the module. lock_manager: None (libvirt's default: nothing) or the name of a plugin: "virtlease", or libvirt's own "sanlock" and
    "lockd"; set it before start_libvirtd(). with_sanlock: start() also starts a sanlock daemon; "sanlock" always has one, and needs a
    lease_directory (sanlock.LeaseDirectory)."""

    def __init__(self, world, cluster, name, number, lock_manager=None, directory=None):
        super().__init__(world, name, number, directory)
        self.cluster = cluster
        self.uuid = str(uuid.uuid4())
        self.lock_manager = lock_manager
        self.daemon_conf = {"ceph_conf": "/etc/ceph/ceph.conf", "ceph_user": "virtlease"}
        self.daemon_env = {}
        self.sanitized = False
        self.libvirtd = Service(self, "libvirtd")
        self.virtleased = Service(self, "virtleased")
        self.sanlock = Sanlock(self)
        self.virtlockd = Service(self, "virtlockd")
        self.with_sanlock = False
        self.storage = Storage(self)
        self.lease_storage = Storage(self, "bindfs-leases")     # of the lease directory alone; unused unless mount_leases()
        self.lease_directory = None
        self.sanlock_conf = {}      # changes to qemu-sanlock.conf
        self.lockd_conf = {}        # and to qemu-lockd.conf
        self.connection = None
        self.shared_cache = world.dir / "capabilities"
        self._configure()

    def _configure(self):
        self.write("/etc/libvirt/libvirtd.conf", LIBVIRTD_CONF.format(uuid=self.uuid))
        shutil.rmtree(self.path("/etc/libvirt/qemu/networks"), ignore_errors=True)     # no default network: nothing to autostart
        for directory in ("etc/libvirt/qemu", "var/lib/libvirt", "var/log/libvirt/qemu", "var/log/ceph", "var/lib/virtlease",
                          "etc/virtlease", "var/cache/libvirt/qemu"):
            (self.dir / directory).mkdir(parents=True, exist_ok=True)
        self.write(HOST_NAME_FILE, self.name.ljust(16)[:16])
        hosts = "".join(f"{self.world.host_address(i)} host-{chr(ord('a') + i - 10)}\n" for i in range(10, 20))
        self.write("/etc/hosts", "127.0.0.1 localhost\n" + hosts)
        if self.cluster:
            self.set_ceph_conf()
            self.write("/etc/libvirt/secrets/%s.xml" % SECRET_UUID, SECRET_XML.format(uuid=SECRET_UUID), 0o600)
            self.write("/etc/libvirt/secrets/%s.base64" % SECRET_UUID, self.cluster.keys["client.qemu"], 0o600)
            for user in ("virtlease", "qemu"):
                self.write(f"/etc/ceph/ceph.client.{user}.keyring", self.cluster.keyring(user), 0o600)

    def set_ceph_conf(self, *extra):
        """(Re)write /etc/ceph/ceph.conf with extra lines for [client]; read by the next QEMU and the next virtleased."""
        self.write("/etc/ceph/ceph.conf", self.cluster.client_conf(*extra))

    # Life

    def start(self):
        """Boot with everything running: what the chosen lock manager needs, then libvirtd. Also after a power loss."""
        self.boot()
        self.storage.mount()
        if self.lease_storage.directory:
            self.lease_storage.mount()
        if self.with_sanlock or self.lock_manager == "sanlock":
            self.sanlock.start()
        if self.lock_manager == "lockd":
            self.start_virtlockd()
        if self.lock_manager == "virtlease":
            self.start_virtleased()
        self.start_libvirtd()
        return self

    def mount_leases(self):
        """Before it boots: the lease directory comes through a FUSE mount that can be frozen."""
        self.lease_storage.directory = self.lease_directory.path

    def power_loss(self):
        self.close_connection()
        super().power_loss()

    def reboot(self):
        """Power loss, then a boot with the same directories, address and host uuid; no service is started (start_... does)."""
        if self.up():
            self.power_loss()
        self.boot()
        self.storage.mount()

    # libvirtd

    def start_libvirtd(self, wait=True):
        lock = {"lock_manager": self.lock_manager} if self.lock_manager else {}
        self.write("/etc/libvirt/qemu.conf", QEMU_CONF + conf_text(lock))
        if self.lock_manager == "sanlock":
            self._prepare_sanlock_plugin()
        elif self.lock_manager == "lockd":
            settings = {"file_lockspace_dir": str(self.lease_directory.path), **self.lockd_conf}
            self.write("/etc/libvirt/qemu-lockd.conf", conf_text({k: v for k, v in settings.items() if v is not None}))
        env = {"LIBVIRT_LOCK_MANAGER_PLUGIN_DIR": PLUGIN_DIR} if self.lock_manager == "virtlease" else {}
        cache = self.path("/var/cache/libvirt/qemu/capabilities")
        if self.shared_cache.is_dir() and not cache.exists():
            shutil.copytree(self.shared_cache, cache)
        self.libvirtd.start("libvirtd", "--listen", env=env)
        if wait:
            wait_until(self.connect, LIBVIRTD_TIMEOUT_S, f"libvirtd of {self.name} answers, see {self.dir}/var/log/libvirt/libvirtd.log")
            if not self.shared_cache.is_dir():
                self.connect().getCapabilities()        # probes what is not probed yet
                shutil.copytree(cache, self.shared_cache)

    def _prepare_sanlock_plugin(self):
        """What its administrator does. The plugin formats the lockspace if there is none, and joins it while libvirtd starts."""
        settings = {"auto_disk_leases": 1, "disk_lease_dir": str(self.lease_directory.path), "host_id": self.sanlock.host_id,
                    "io_timeout": IO_TIMEOUT_S, "user": USER, "group": USER, **self.sanlock_conf}
        self.write("/etc/libvirt/qemu-sanlock.conf", conf_text({k: v for k, v in settings.items() if v is not None}))

    def stop_libvirtd(self):
        self.close_connection()
        self.libvirtd.stop()

    def kill_libvirtd(self):
        self.close_connection()
        self.libvirtd.kill()

    def connect(self):
        """A libvirt connection from the test process, through the socket file in the host's own /run; kept until libvirtd ends."""
        if self.connection is None or not self.connection.isAlive():
            self.connection = libvirt.open(f"qemu+unix:///system?socket=/proc/{self.init}/root{LIBVIRT_SOCKET}")
        return self.connection

    def close_connection(self):
        if self.connection is not None:
            try:
                self.connection.close()
            except libvirt.libvirtError:
                pass
            self.connection = None

    def virsh(self, *args, check=True, timeout=60):
        """Run virsh on the host; returns the CompletedProcess."""
        return self.run("virsh", "-q", *args, check=check, timeout=timeout)

    def domains(self):
        """Names of the running (or paused) domains."""
        return self.virsh("list", "--name").stdout.split()

    def domain_state(self, name):
        """"running", "paused", "shut off", ... or None if libvirt does not know it."""
        done = self.virsh("domstate", name, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def qemu_pid(self, name, inner=False):
        """Pid of a domain's QEMU from outside (for os.kill here), or as the host itself knows it."""
        pid = int(self.path(f"/run/libvirt/qemu/{name}.pid").read_text())
        return pid if inner else self.outer_pid(pid)

    # virtleased

    def start_virtleased(self, wait=True, env=None, **conf):
        """conf: changes to daemon_conf from now on; a value of None drops the key. env: changes to its environment, likewise."""
        self.daemon_conf.update(conf)
        self.daemon_env.update(env or {})
        self.write(DAEMON_CONF, conf_text({k: v for k, v in self.daemon_conf.items() if v is not None}))
        program, env = (SANITIZED_DAEMON, SANITIZER_ENV) if self.sanitized else (VIRTLEASED, {})
        self.virtleased.start(program, "--foreground", "--config", DAEMON_CONF, env={**env, **self.daemon_env})
        if wait:
            self.wait_virtleased()

    def wait_virtleased(self):
        """Until its socket takes connections; at once if it died instead."""
        def answers():
            if not self.virtleased.alive():
                return True
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(self.path(DAEMON_SOCKET)))
            return True
        wait_until(answers, VIRTLEASED_TIMEOUT_S, f"virtleased of {self.name} serves its socket")
        assert self.virtleased.alive(), f"virtleased of {self.name} died:\n{tail(self.virtleased.log)}"

    def stop_virtleased(self):
        self.virtleased.stop()

    def kill_virtleased(self):
        self.virtleased.kill()

    def set_plugin_conf(self, settings=None):
        """Write /etc/libvirt/qemu-virtlease.conf, or remove it; read at the next start of libvirtd."""
        if settings is None:
            self.path("/etc/libvirt/qemu-virtlease.conf").unlink(missing_ok=True)
        else:
            self.write("/etc/libvirt/qemu-virtlease.conf", conf_text(settings))

    def ctl(self, *args, check=True, timeout=60):
        """virtleasectl --json ARGS: its answer as data; with check=False the CompletedProcess."""
        done = self.run(VIRTLEASECTL, "--json", *args, check=check, timeout=timeout)
        return json.loads(done.stdout) if check else done

    # virtlockd

    def start_virtlockd(self):
        self.virtlockd.start("virtlockd")
        wait_until(self.path(VIRTLOCKD_SOCKET).exists, LIBVIRTD_TIMEOUT_S, f"virtlockd of {self.name} serves its socket")

    # End and logs

    def discard(self):
        """The end of this machine; its directory stays for the logs."""
        if self.up():
            self.close_connection()
            super().power_loss()

    def assert_no_sanitizer_report(self):
        text = self.virtleased.log.read_text(errors="replace") if self.virtleased.log.exists() else ""
        assert not any(word in text for word in SANITIZER_WORDS), f"{self.name}: see {self.virtleased.log}:\n{text[-8000:]}"

    def logs(self):
        """[(title, text)] for a failure report."""
        found = [(f"{self.name} {s.name}", tail(s.log)) for s in (self.virtleased, self.sanlock, self.virtlockd, self.libvirtd)
                 if s.log.exists()]
        directory = self.path("/var/log/libvirt")
        return found + [(f"{self.name} {p.name}", tail(p)) for p in sorted(directory.rglob("*.log"), key=lambda p: p.stat().st_mtime)]

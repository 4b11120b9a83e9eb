# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the system tests.

Per session: one world (bridge, directory) and one Ceph cluster. Per test: new hosts (a boot with libvirtd takes a third of a second, and
nothing of an earlier test can linger in a new machine), new images, new VMs. A service that is missing fails the test; nothing skips.

How hosts are set up: @pytest.mark.bed(...), on a test or a module; the nearest mark wins, key by key:
  lock_manager  "virtlease" (default), None, or libvirt's own "sanlock" (with a sanlock daemon) and "lockd" (with a virtlockd)
  conf          settings of virtleased.conf over the bed's own; None as value drops a key
  env           environment of virtleased
  plugin_conf   settings of qemu-virtlease.conf (default: no such file)
  ceph_conf     lines for [client] of the hosts' ceph.conf
  sanlock       True: a sanlock daemon also with another lock manager
  own_locks     True: the host shares files and block devices with the others, but no file locks (see bed/storage.py); default: with
                sanlock or lockd
  sanlock_conf  changes to qemu-sanlock.conf; None as value drops a key
  lockd_conf    changes to qemu-lockd.conf, likewise
  sanitized     True: virtleased of the ASan+UBSan build
"""

import itertools
import os

import pytest

from bed import guest, leasing
from bed.cluster import Cluster
from bed.host import Host
from bed.run import HOST_NUMBERS, World, raise_on_sigterm, sh
from bed.sanlock import LeaseDirectory
from bed.vm import VM, Disk

SETUP = {"lock_manager": "virtlease", "conf": {}, "env": {}, "plugin_conf": None, "ceph_conf": [], "sanitized": False,
         "sanlock": False, "own_locks": None, "sanlock_conf": {}, "lockd_conf": {}}
NAMES = "abcdefghij"
host_numbers = itertools.cycle(HOST_NUMBERS)
serial = itertools.count(1)


def pytest_configure(config):
    del config
    raise_on_sigterm()


@pytest.fixture(scope="session")
def world():
    """This run's own world. VIRTLEASE_TEST_KEEP=1 keeps its directory, with all logs."""
    w = World(keep=bool(os.environ.get("VIRTLEASE_TEST_KEEP")))
    yield w
    w.close()


@pytest.fixture(scope="session")
def kernel(world):
    """The guest program, with the accelerator chosen once."""
    path = guest.build(world.dir)
    guest.accelerator(path)
    return path


@pytest.fixture(scope="session")
def session_cluster(world):
    c = Cluster(world).start()
    yield c
    c.stop()


@pytest.fixture
def cluster(session_cluster):
    """The session's cluster: one OSD, pool "rbd" with one copy. What a test does to its daemons is undone afterwards."""
    yield session_cluster
    session_cluster.restore()
    session_cluster.images.forget("virtlease.")
    session_cluster.blocklist_clear()       # all its clients are dead by now


@pytest.fixture
def new_cluster(world):
    """new_cluster(osds=2, size=1, ...): a cluster for this test alone (4-5 s); hand it to new_host and vm."""
    made = []

    def make(**kw):
        made.append(Cluster(world, **kw))
        return made[-1].start()
    yield make
    for c in made:
        c.stop()


@pytest.fixture
def lease_directory(request, world):
    """This test's own lease directory of sanlock, shared by all its hosts; empty until somebody formats a lockspace there."""
    return LeaseDirectory(world.dir / f"leases{next(serial)}.{request.node.originalname}")


@pytest.fixture
def new_host(request, world, cluster, new_cluster, lease_directory, shared_directory, block_device):
    """new_host(cluster, start=True, **setup): the next host: host-a, host-b, ... setup overrides the bed mark."""
    del cluster, new_cluster, block_device      # only for the order: hosts go before what they use
    setup = dict(SETUP)
    for mark in reversed(list(request.node.iter_markers("bed"))):
        setup.update(mark.kwargs)
    made = request.node.bed_hosts = []

    def make(cluster, start=True, **override):
        chosen = {**setup, **override}
        number = next(host_numbers)
        name = f"host-{NAMES[len(made)]}"
        directory = world.dir / f"{next(serial)}.{request.node.originalname}" / name
        host = Host(world, cluster, name, number, chosen["lock_manager"], directory)
        made.append(host)
        host.set_ceph_conf(*chosen["ceph_conf"])
        host.set_plugin_conf(chosen["plugin_conf"])
        host.daemon_conf.update(chosen["conf"])
        host.daemon_env.update(chosen["env"])
        host.sanitized = chosen["sanitized"]
        host.with_sanlock, host.lease_directory = chosen["sanlock"], lease_directory
        if chosen["own_locks"] or chosen["own_locks"] is None and (chosen["sanlock"] or chosen["lock_manager"] in ("sanlock", "lockd")):
            host.storage.directory, host.storage.devices = shared_directory, request.node.bed_devices
        host.sanlock_conf.update(chosen["sanlock_conf"])
        host.lockd_conf.update(chosen["lockd_conf"])
        return host.start() if start else host
    yield make
    for host in made:
        host.discard()
    for host in made:
        host.assert_no_sanitizer_report()


@pytest.fixture
def host_a(new_host, cluster):
    return new_host(cluster)


@pytest.fixture
def host_b(host_a, new_host, cluster):
    del host_a      # only for the order: the letters
    return new_host(cluster)


@pytest.fixture
def host_c(host_b, new_host, cluster):
    del host_b
    return new_host(cluster)


@pytest.fixture
def hosts(host_a, host_b):
    """Two hosts."""
    return [host_a, host_b]


@pytest.fixture
def sanlock_host(new_host, cluster, lease_directory):
    """sanlock_host(wait=True, conf={}, **setup): a host with virtlease that guards files and block devices by sanlock. start_daemon=False:
    neither virtleased nor libvirtd runs yet. own_leases=True: host.lease_storage.freeze() takes its lease directory away."""
    def make(wait=True, conf=None, start_daemon=True, own_leases=False, **setup):
        setup = {"sanlock": True, "own_locks": True, "plugin_conf": {"timeout": leasing.PLUGIN_TIMEOUT_S}, **setup}
        host = new_host(cluster, start=False, **setup)
        host.daemon_conf.update(leasing.settings(lease_directory.path, host.number, **(conf or {})))
        if own_leases:
            host.mount_leases()
        if not start_daemon:
            host.reboot()
            host.sanlock.start()
            return host
        host.start()
        if wait:
            leasing.wait_state(host)
        return host
    return make


@pytest.fixture
def sanlock_hosts(sanlock_host):
    """Two of them, that know each other. The first one formats the lockspace."""
    made = [sanlock_host(wait=False), sanlock_host(wait=False)]
    for host in made:
        leasing.wait_state(host)
    leasing.wait_acquainted(*made)
    return made


@pytest.fixture
def image(request, cluster):
    """image(size=..., features=..., pool="rbd", cluster=...): the spec of a new RBD image."""
    default = cluster

    def make(cluster=None, pool="rbd", **kw):
        return (cluster or default).images.create(f"{pool}/{request.node.originalname[5:40]}.{next(serial)}", **kw)
    return make


@pytest.fixture(scope="session")
def shared_directory(world):
    """Storage that all hosts share; a host with own_locks mounts it."""
    directory = world.dir / "shared"
    directory.mkdir()
    return directory


@pytest.fixture
def shared_file(shared_directory):
    """shared_file(size): path of a new file that every host sees under the same name, as on shared storage."""
    def make(size=1 << 20):
        path = shared_directory / f"disk{next(serial)}.raw"
        path.write_bytes(bytes(size))
        return path
    return make


@pytest.fixture
def block_device(request, world):
    """block_device(size): path of a new block device (a loop device), the same LUN under the same name on every host."""
    directory = world.dir / "block"
    directory.mkdir(exist_ok=True)
    made = request.node.bed_devices = []

    def make(size=1 << 20):
        path = directory / f"lun{next(serial)}.raw"
        path.write_bytes(bytes(size))
        made.append(sh("losetup", "--find", "--show", "--direct-io=on", path).strip())
        for host in getattr(request.node, "bed_hosts", []):
            if host.up():
                host.storage.add(made[-1])
        return made[-1]
    yield make
    for device in made:
        sh("losetup", "--detach", device)


@pytest.fixture
def vm(request, kernel, cluster, image):
    """vm(disks=1, mode="write", ...): a new VM, not started, with that many new RBD disks, or with the given list of Disk."""
    default = cluster

    def make(disks=1, cluster=None, name=None, **kw):
        chosen = cluster or default
        if isinstance(disks, int):
            disks = [Disk(image(cluster=chosen)) for _ in range(disks)]
        return VM(chosen, kernel, name or f"{request.node.originalname[5:20]}{next(serial)}", disks, **kw)
    return make


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows the end of every log of its hosts."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and report.when in ("setup", "call"):
        for host in getattr(item, "bed_hosts", []):
            report.sections.extend(host.logs())

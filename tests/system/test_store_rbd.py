# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's RBD store (lockd/store_rbd*.c) driven directly, by C programs, on a cluster of their own: they pause it, fill it and ban
its clients. Run where numbers are written with a comma, because one in a blocklist command would make the monitor refuse it."""

import os
import subprocess

import pytest

from bed.cluster import Cluster
from bed.host import BUILD

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def own_cluster(world):
    c = Cluster(world).start()
    yield c
    c.stop()


@pytest.fixture(scope="module")
def german(tmp_path_factory):
    """LOCPATH of a locale with a decimal comma, whatever locales this machine has."""
    path = tmp_path_factory.mktemp("locale")
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", path / "de_DE.UTF-8"], check=True, timeout=60)
    return path


@pytest.mark.parametrize("program", ["test-store-rbd", "test-store-rbd-session", "test-store-rbd-fence"])
def test_store(own_cluster, german, tmp_path, program):
    conf = tmp_path / "ceph.conf"
    ring = tmp_path / "keyring"
    ring.write_text(own_cluster.keyring("admin"))
    conf.write_text(own_cluster.client_conf(f"keyring = {ring}"))
    env = {**os.environ, "VL_TEST_CEPH_CONF": str(conf), "LOCPATH": str(german), "LC_ALL": "de_DE.UTF-8"}
    run = subprocess.run([BUILD / "tests" / "service" / program], env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    if program.endswith("fence"):
        assert "1.5 is written 1,5 here" in run.stdout

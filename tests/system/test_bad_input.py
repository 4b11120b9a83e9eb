# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input of every kind, against the sanitized daemon: a specific error that names the thing, no crash, no lease."""

import json
import os
import socket
import struct

import pytest

from bed.host import SANITIZED_DAEMON
from bed.vm import Disk
from bed.wait import wait_until

pytestmark = pytest.mark.bed(sanitized=True)

XATTR = "virtlease"
SOCKET = "/run/virtlease/virtleased.sock"
MAGIC = 0x31734C56
TYPE_CTL, TAG_VERB, TAG_ERROR_TEXT = 7, 15, 18


def refused(guest, host, *words, timeout=90):
    """The start fails with all these words, nothing runs, and the daemon has survived it."""
    done = guest.start(host, check=False, timeout=timeout)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr, done.stderr
    assert "cause is unknown" not in done.stderr
    assert host.domains() == []
    assert host.virtleased.alive()
    wait_until(lambda: not host.ctl("list")["leases"], 10, "no lease is left")


def frame(type_, body, version=1, length=None, magic=MAGIC):
    return struct.pack("<IHHII", magic, version, type_, len(body) if length is None else length, 0) + body


def field(tag, data):
    return struct.pack("<HHI", tag, 0, len(data)) + data


def exchange(host, data):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(host.path(SOCKET)))
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass        # it had heard enough
        answer = b""
        try:
            while chunk := s.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass        # likewise
        return answer


def test_image_missing(host_a, vm):
    refused(vm([Disk("rbd/nosuchimage")]), host_a, "rbd/nosuchimage", "disk vda")


def test_pool_missing(host_a, vm):
    refused(vm([Disk("nosuchpool/x")]), host_a, "nosuchpool")


def test_wrong_key(host_a, vm):
    path = host_a.path("/etc/ceph/ceph.client.virtlease.keyring")
    path.write_text("[client.virtlease]\n\tkey = AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==\n")
    host_a.kill_virtleased()
    host_a.start_virtleased()
    refused(vm(), host_a, "virtlease")


def test_user_unknown_to_the_cluster(host_a, vm):
    host_a.kill_virtleased()
    host_a.start_virtleased(ceph_user="nobody")
    refused(vm(), host_a, "nobody")


@pytest.mark.bed(conf={"dead_after": 4})
def test_caps_without_blocklist(new_host, cluster, vm):
    cluster.add_client("weak", "allow r", "profile rbd pool=rbd")
    a, b = new_host(cluster), new_host(cluster, start=False)
    b.write("/etc/ceph/ceph.client.weak.keyring", cluster.keyring("weak"), 0o600)
    b.daemon_conf["ceph_user"] = "weak"
    b.start()
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    a.power_loss()
    refused(guest, b, "weak", "profile rbd")
    context, name = cluster.images.header(guest.disks[0].image)
    record = json.loads(context.get_xattr(name, XATTR))
    assert record["holders"][0]["name"] == a.name and "claim" not in record      # nothing lost: a better key can take it over
    b.kill_virtleased()
    b.start_virtleased(ceph_user="virtlease")
    guest.start(b)
    guest.wait_writing(b)


def test_monitor_unreachable(host_a, vm, cluster):
    host_a.partition()
    guest = vm()
    done = guest.start(host_a, check=False, timeout=90)
    host_a.heal()
    assert done.returncode != 0 and "no answer" in done.stderr and cluster.address in done.stderr, done.stderr
    wait_until(lambda: guest.start(host_a, check=False).returncode == 0, 60, "starts when the network is back")


def test_header_removed_under_a_lease(host_a, vm, cluster):
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    context, name = cluster.images.header(guest.disks[0].image)
    host_a.virsh("suspend", guest.name)
    context.remove_object(name)
    done = host_a.virsh("resume", guest.name, check=False)
    assert done.returncode != 0 and guest.disks[0].image in done.stderr, done.stderr
    guest.destroy(host_a)
    wait_until(lambda: not host_a.ctl("list")["leases"], 20, "its lease is forgotten")
    with pytest.raises(Exception):
        context.stat(name)          # no ghost object came back


@pytest.mark.parametrize("record, word", [
    (b"garbage", "not a JSON object"),
    (b"", "not a JSON object"),
    (b"\x00\xff\xfe", "not a JSON object"),
    (b"[]", "not a JSON object"),
    (b'{"version":2,"epoch":1}', "version 2"),
    (b'{"version":1,"epoch":-1,"write":"x","mode":"exclusive","holders":[]}', "epoch"),
    (b'{"version":1,"epoch":1,"write":"x","mode":"exclusive","holders":[{}]}', "string"),
    (b"{" * 5000, "not a JSON object"),
], ids=["garbage", "empty", "binary", "list", "future", "negative-epoch", "empty-holder", "deep"])
def test_record_not_understood(host_a, vm, cluster, record, word):
    guest = vm()
    context, name = cluster.images.header(guest.disks[0].image)
    context.set_xattr(name, XATTR, record)
    refused(guest, host_a, guest.disks[0].image, word)
    assert context.get_xattr(name, XATTR) == record         # nothing lost


@pytest.mark.parametrize("data", [
    b"", b"x", b"GET / HTTP/1.0\r\n\r\n", os.urandom(4096), frame(99, b""), frame(2, b""), frame(7, b""),
    frame(7, field(TAG_VERB, b"a\0b")), frame(7, field(TAG_VERB, b"nosuchverb")), frame(7, field(TAG_VERB, b"x" * 5000)),
    frame(2, field(1, b"short")), frame(3, field(7, os.urandom(64))), frame(7, b"\x0f\x00\x00\x00\xff\xff\xff\xff"),
    frame(7, b"", version=9), frame(7, b"", length=1 << 31), frame(7, b"x" * 300000), frame(7, b"abc", length=200),
    frame(3, field(1, b"0" * 16) + field(2, b"name") + field(3, b"\xff" * 8)),
    frame(4, field(1, b"0" * 16) + field(2, b"name")), frame(5, field(1, b"0" * 16) + field(2, b"n") + field(3, bytes(8))),
    frame(2, field(1, b"0" * 16) + field(2, b"name") + b"".join(field(7, b"") for _ in range(2000))),
], ids=range(21))
def test_garbage_on_the_socket(host_a, data):
    exchange(host_a, data)
    assert host_a.virtleased.alive()
    assert host_a.ctl("status")["leases"] == 0


def test_oversized_message_is_named(host_a):
    assert b"Message too long" in exchange(host_a, frame(7, b"", length=1 << 30))


def test_a_stalled_asker_delays_nobody(host_a, vm):
    stalled = []
    for _ in range(50):
        stalled.append(socket.socket(socket.AF_UNIX))
        stalled[-1].connect(str(host_a.path(SOCKET)))
        stalled[-1].sendall(b"VL")
    guest = vm()
    guest.start(host_a)
    guest.wait_writing(host_a)
    for s in stalled:
        s.close()


def test_only_root_may_ask(host_a):
    host_a.run("chmod", "0666", SOCKET)
    program = ("import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect('%s'); "
               "s.settimeout(10); print(s.recv(65536))" % SOCKET)
    assert "only root may talk to virtleased" in host_a.run("/usr/bin/python3", "-c", program).stdout
    assert host_a.virtleased.alive()


@pytest.mark.parametrize("line, words", [
    ("nosuchkey = 1", ["nosuchkey"]),
    ("dead_after = 2", ["dead_after", "4"]),
    ('dead_after = "ten"', ["dead_after"]),
    ('takeover = "maybe"', ["takeover", "manual"]),
    ('ceph_conf = "unterminated', ["closing"]),
    ("takeover_wait = 300", ["takeover_wait", "timeout"]),
])
def test_bad_configuration(new_host, cluster, line, words):
    host = new_host(cluster, start=False)
    host.boot()
    host.write("/etc/virtlease/virtleased.conf", f"# first line\n{line}\n")
    done = host.run(SANITIZED_DAEMON, "--check-config", check=False)
    assert done.returncode == 2
    for word in words + ([] if "wait" in line else ["/etc/virtlease/virtleased.conf:2"]):
        assert word in done.stderr, done.stderr


def test_no_room_for_the_journal(host_a, vm):
    host_a.kill_virtleased()
    host_a.run("mount", "-t", "tmpfs", "-o", "size=64k", "none", "/var/lib/virtlease")
    host_a.start_virtleased()
    host_a.run("sh", "-c", "dd if=/dev/zero of=/var/lib/virtlease/fill bs=4k 2>/dev/null || true")
    guest = vm()
    refused(guest, host_a, "/var/lib/virtlease", "No space left on device")
    host_a.run("rm", "/var/lib/virtlease/fill")
    guest.start(host_a)
    guest.wait_writing(host_a)


def test_two_hosts_with_one_identity(new_host, cluster, vm):
    a, b = new_host(cluster), new_host(cluster, start=False)
    b.daemon_conf["host_id"] = a.uuid
    b.start()
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    refused(vm(), b, "two hosts share one identity", a.name)
    guest.wait_writing(a)

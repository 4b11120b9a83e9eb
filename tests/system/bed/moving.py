# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live migrations in the background, over a line that the test can cut, and what must be true after each."""

import select
import socket
import threading
import time

from . import lease
from .wait import wait_until

SLOW = ("--bandwidth", "1")     # MiB/s: a few seconds of memory copy, for tests that act in the middle of it
LIBVIRT_PORT = 16509


class Line:
    """A TCP relay between virsh and the libvirtd of a host. hold(): nothing goes through any more in either direction, as with a dead
    network; cut(): both ends see the connection close."""

    def __init__(self, cluster, target):
        self.target = target
        self.listener = socket.create_server((cluster.address, 0))
        self.address = "%s:%d" % self.listener.getsockname()
        self.flowing = threading.Event()
        self.flowing.set()
        self.closing = threading.Event()
        self.pairs = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self.closing.is_set():
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection((self.target.address, LIBVIRT_PORT), 5)
            except OSError:
                return
            self.pairs.append((near, far))
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near, far):
        other = {near: far, far: near}
        try:
            while not self.closing.is_set():
                for readable in select.select([near, far], [], [], 0.2)[0]:
                    data = readable.recv(65536)
                    self.flowing.wait()
                    if not data:
                        return
                    other[readable].sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            near.close()
            far.close()

    def hold(self):
        self.flowing.clear()

    def cut(self):
        self.closing.set()
        for pair in self.pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.listener.close()
        self.flowing.set()


class Migration:
    """`virsh migrate --live` begun at once, in a thread."""

    def __init__(self, guest, source, target, *flags, line=None, timeout=75):
        self.guest, self.source, self.target = guest, source, target
        address = line.address if line else f"{target.address}:{LIBVIRT_PORT}"
        # A dead destination is noticed within 3 s: virsh's own keepalive.
        self.command = ("-k", "1", "-K", "3", "migrate", "--live", guest.name, f"qemu+tcp://{address}/system",
                        "--migrateuri", f"tcp://{target.address}", *flags)
        self.timeout = timeout
        self.done = None
        self.error = None
        self.began = time.monotonic()
        self.seconds = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.done = self.source.virsh(*self.command, check=False, timeout=self.timeout)
        except Exception as e:  # pylint: disable=broad-except
            self.error = e          # shown by result()
        self.seconds = time.monotonic() - self.began

    def wait_copying(self):
        """Until memory is on its way: the destination's QEMU is up and its lease INCOMING."""
        wait_until(lambda: lease.states(self.target, self.guest) == ["incoming"] * len(self.guest.disks) or not self.thread.is_alive(), 20,
                   "the migration is under way")
        assert self.thread.is_alive(), self.done or self.error
        wait_until(lambda: self.target.qemu_pid(self.guest.name), 10, "the destination's QEMU")
        wait_until(lambda: "migration out" in status_xml(self.source, self.guest), 10, "the source is at it")
        return self

    def result(self, timeout=60):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"the migration of {self.guest.name} still hangs after {timeout} s"
        if self.error:
            raise self.error
        return self.done

    def succeeds(self, timeout=60):
        done = self.result(timeout)
        assert done.returncode == 0, done.stderr
        return done

    def fails(self, *words, timeout=60):
        done = self.result(timeout)
        assert done.returncode != 0, "the migration succeeded"
        for word in words:
            assert word in done.stderr, done.stderr
        assert "cause is unknown" not in done.stderr, done.stderr
        return done.stderr


def status_xml(host, guest):
    """libvirt's status XML of the VM on that host, "" if there is none."""
    try:
        return host.path(f"/run/libvirt/qemu/{guest.name}.xml").read_text()
    except OSError:
        return ""


def assert_lives_on(guest, host, others, cluster, timeout=30):
    """The VM runs on that host and writes, with its leases there; no other host knows of any; no record has an heir or a claim left;
    nothing is blocklisted that has the image open."""
    for disk in range(len(guest.disks)):
        guest.wait_writing(host, timeout=timeout, disk=disk)
    names = [(guest.name, "held")] * len(guest.disks)
    wait_until(lambda: [(x["vm"], x["state"]) for x in lease.listed(host)] == names, 10, f"the leases of {guest.name} are on {host.name}")
    for other in others:
        if other.up() and other.virtleased.alive():
            wait_until(lambda o=other: lease.listed(o, guest) == [], 10, f"nothing left on {other.name}")
    for disk in guest.disks:
        def tidy(image=disk.image):
            record = lease.stored(cluster, image)
            assert [h["name"] for h in record["holders"]] == [host.name], record
            assert not record.get("claim") and not record.get("heirs"), record
            assert not set(cluster.images.watchers(image)) & set(cluster.blocklist()), "a living client is blocklisted"
            return True
        wait_until(tidy, 10, "the record is tidy")
    dead = {other.name for other in others if not other.up() or not other.virtleased.alive()}     # their indexes are swept when they boot
    everything = [x for x in host.ctl("list", "--all")["leases"] if x["vm"] == guest.name and x["host"] not in dead]
    assert {x["host"] for x in everything} == {host.name} and len(everything) == len(guest.disks), everything


def assert_all_free(guest, hosts, cluster, timeout=15):
    """Nobody has it, no record of it is left but perhaps fences."""
    for host in hosts:
        if host.up() and host.virtleased.alive():
            wait_until(lambda h=host: lease.listed(h, guest) == [], timeout, f"nothing left on {host.name}")
    for disk in guest.disks:
        def free(image=disk.image):
            record = lease.stored(cluster, image)
            return not record or not (record["holders"] or record.get("heirs") or record.get("claim"))
        wait_until(free, timeout, f"{disk.image} is free")

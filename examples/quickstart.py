# SPDX-License-Identifier: LGPL-2.1-or-later
"""What examples/quickstart shows once everything is built. The machinery (Ceph, hosts, guests) is that of the system tests."""

import signal
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "system"))

# pylint: disable=wrong-import-position
from bed import guest
from bed.cluster import Cluster
from bed.host import VIRTLEASECTL, Host
from bed.run import World, raise_on_sigterm
from bed.vm import VM, Disk

IMAGE = "rbd/web1-root"
PROGRESS_S = 2
DEAD_AFTER_S = 10       # virtleased's default
SLACK_S = 3
REFUSED_WITHIN_S = 2
LOG_LINES = 15


class Failed(Exception):
    """Something did not come out as said."""


def expect(true, what):
    if not true:
        raise Failed(what)


def say(text):
    for line in text.splitlines():
        print(textwrap.fill(line, 110, initial_indent="   ", subsequent_indent="   "), flush=True)


def quote(text):
    """What a program printed, as it is."""
    print(textwrap.indent(text.rstrip(), "   | ", lambda _line: True), flush=True)


class Step:
    """One numbered step."""
    number = 0

    def __init__(self, title):
        Step.number += 1
        print(f"\n== {Step.number}. {title}", flush=True)


def watched(what, fn, *args, **kw):
    """Run fn, with a line every few seconds while it takes. Returns (its result, seconds).

    The lines come from a thread and the work is done here, so that Ctrl-C ends the work and not only our waiting for it.
    """
    began = time.monotonic()
    done = threading.Event()

    def tick():
        while not done.wait(PROGRESS_S):
            say(f"... {time.monotonic() - began:.0f} s: {what}")
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        return fn(*args, **kw), time.monotonic() - began
    finally:
        done.set()
        ticker.join()


@contextmanager
def bed():
    """(world, cluster, make_host); all of it is undone at the end, whatever ends it."""
    made = []
    world = World()
    cluster = None
    try:
        cluster = Cluster(world)
        yield world, cluster, lambda name, number: made.append(Host(world, cluster, name, number, "virtlease")) or made[-1]
    except Exception:
        show_logs(made)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)        # a second Ctrl-C must not leave half of it behind
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("\n== Cleaning up", flush=True)
        for host in made:
            host.discard()
        if cluster and cluster.admin:
            cluster.stop()
        world.close()
        say("hosts, cluster, bridge and files are gone")


def show_logs(hosts):
    for host in hosts:
        if host.virtleased.log.exists():
            print(f"\n-- the end of virtleased's log on {host.name}")
            quote("\n".join(host.virtleased.log.read_text(errors="replace").splitlines()[-LOG_LINES:]))


def virsh(host, *args, check=True, waits_for="the answer"):
    """Run virsh, show command and output."""
    say(f"{host.name}# virsh {' '.join(args)}")
    done, seconds = watched(f"virsh on {host.name} waits for {waits_for}", host.virsh, *args, check=False)
    quote(done.stdout + done.stderr or "(no output)")
    expect(not check or done.returncode == 0, f"virsh {' '.join(args)} on {host.name} failed")
    return done, seconds


def ctl(host, *args):
    """Run virtleasectl, show command and output; seconds."""
    say(f"{host.name}# virtleasectl {' '.join(args)}")
    done, seconds = watched(f"virtleasectl on {host.name} waits for the answer", host.run, VIRTLEASECTL, *args)
    quote(done.stdout)
    return seconds


def writes(vm, host, identity):
    """Wait until the guest with that identity writes to the image on that host; its counter."""
    vm.identity = identity
    return watched("until the guest writes", vm.wait_writing, host)[0].counter


def start(vm, host, **waits):
    """`virsh start`, then the guest's first write. Seconds of virsh."""
    identity = define(vm, host)
    began = time.monotonic()
    _, seconds = virsh(host, "start", vm.name, **waits)
    counter = writes(vm, host, identity)
    say(f"Started in {seconds:.1f} s; the guest has written to {IMAGE} after {time.monotonic() - began:.1f} s (its counter: {counter}).")
    return seconds


def define(vm, host):
    vm.define(host)
    return vm.identity


def show_refusal(vm, a, b):
    Step("The same VM is started on host-b as well")
    running = vm.identity
    define(vm, b)
    done, seconds = virsh(b, "start", vm.name, check=False)
    expect(done.returncode != 0, "the second start was not refused")
    expect(seconds < REFUSED_WITHIN_S, f"the refusal took {seconds:.1f} s")
    expect(IMAGE in done.stderr and a.name in done.stderr, "the refusal does not say what is held by whom")
    expect(not b.domains(), "something runs on host-b")
    counter = writes(vm, a, running)
    say(f"Refused in {seconds:.1f} s, before QEMU ran. On host-a the guest writes on, undisturbed (counter {counter}).")
    return seconds


def show_killed(vm, host):
    Step("kill -9 of its QEMU on host-a, and a new start at once")
    victims, fenced_before = set(vm.cluster.images.watchers(IMAGE)), set(vm.cluster.blocklist())
    vm.kill(host)
    say("Killed. librbd's own lock would now stand in the way for some 28 s. virtleased sees the death, fences what the process may still "
        "have had under way to the storage, removes its lock and frees the lease.")
    seconds = start(vm, host)
    show_fenced(vm, victims, fenced_before)
    return seconds


def pull_the_plug(vm, host):
    vm.wait_writing(host)
    host.power_loss()
    say(f"{host.name} lost its power while the guest wrote. It can release nothing and tell nobody.")


def show_fenced(vm, victims, fenced_before):
    listed = vm.cluster.blocklist()
    new = {address: until for address, until in listed.items() if address not in fenced_before}
    expect(set(new) == victims, f"blocklisted: {sorted(new)}; the dead QEMU's client was: {sorted(victims)}")
    say("New in Ceph's blocklist is exactly the dead QEMU's client; no other VM's, and not the host itself:")
    quote("\n".join(f"{address} until {until}" for address, until in new.items()))


def show_power_loss(vm, a, b):
    Step("Power loss of host-a, then ONE virsh start on host-b")
    victims, fenced_before = set(vm.cluster.images.watchers(IMAGE)), set(vm.cluster.blocklist())
    pull_the_plug(vm, a)
    say(f"A silent host is dead when its heartbeat stood still for {DEAD_AFTER_S} s and it left two questions unanswered. virsh waits "
        "for that inside the call; then the disk is fenced and taken over.")
    seconds = start(vm, b, waits_for="host-a to be known dead")
    expect(seconds < DEAD_AFTER_S + SLACK_S + vm.plain_start, f"the start took {seconds:.1f} s")
    show_fenced(vm, victims, fenced_before)
    ctl(b, "show", IMAGE)
    return seconds


def show_known_dead(vm, a, b):
    Step("host-a comes back; power loss of host-b, and this time the administrator (or the HA manager) knows")
    a.reboot()
    a.start_virtleased()
    a.start_libvirtd()
    say("host-a has booted and is an ordinary host again.")
    victims, fenced_before = set(vm.cluster.images.watchers(IMAGE)), set(vm.cluster.blocklist())
    pull_the_plug(vm, b)
    fence = ctl(a, "fence", b.name)
    seconds = start(vm, a)
    show_fenced(vm, victims, fenced_before)
    say(f"No waiting: fenced in {fence:.1f} s, started in {seconds:.1f} s.")
    return fence + seconds


def show_all():
    times = []
    Step("A Ceph cluster: monitor and OSD, in memory; and the guest, a boot sector that writes a counter to its disk")
    with bed() as (world, cluster, make_host):
        _, seconds = watched("the cluster starts", cluster.start)
        kernel = guest.build(world.dir)
        watched("which accelerator boots faster", guest.accelerator, kernel)
        say(f"Up after {seconds:.1f} s.")

        Step('Two hosts: own network, processes and files; unmodified libvirtd with lock_manager = "virtlease"; virtleased')
        a, b = make_host("host-a", 10), make_host("host-b", 11)
        seconds = sum(watched(f"{host.name} boots", host.start)[1] for host in (a, b))
        say(f"Both up after {seconds:.1f} s.")

        Step(f"VM web1 with disk {IMAGE} starts on host-a")
        vm = VM(cluster, kernel, "web1", [Disk(cluster.images.create(IMAGE))])
        vm.plain_start = start(vm, a)
        times.append(("plain start", vm.plain_start))
        ctl(a, "list")

        times.append(("second start refused", show_refusal(vm, a, b)))
        times.append(("start after kill -9", show_killed(vm, a)))
        times.append(("start after power loss", show_power_loss(vm, a, b)))
        times.append(("fence and start, host known dead", show_known_dead(vm, a, b)))
    print("\n== Every step came out as it says")
    for what, seconds in times:
        say(f"{what:36}{seconds:5.1f} s")


def main():
    raise_on_sigterm()
    began = time.monotonic()
    try:
        show_all()
    except KeyboardInterrupt:
        print("\nINTERRUPTED", file=sys.stderr)
        return 130
    except Exception as e:  # pylint: disable=broad-except
        print(f"\nFAILED in step {Step.number}: {e}", file=sys.stderr)
        return 1
    say(f"{'in all':36}{time.monotonic() - began:5.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

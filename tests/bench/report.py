# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what was measured to tables (Markdown, as in docs/benchmarks.md) and to the aims that were missed."""

CALL_AIM = 2.0          # park and resume of one disk: times one plain write
DISKS_AIM = 1.5         # eight disks: times one disk
LOCAL_AIM = 1.0         # start and pause with local leases: times the same with libvirt's lockd.so
SHARED_AIM = 1.0        # start, pause and life with sanlock's leases: times the same with libvirt's sanlock.so
SHARED_DISKS_AIM = 2.0  # eight disks there: times one disk
ADOPT_AIM_S = 2.0       # a thousand VMs
DOWNTIME_AIM_MS = 10.0  # added to a migration's downtime
BEAT_TOLERANCE = 1.1    # a renewal more or less falls into the window

CALLS = (
    ("write 1", "one plain RADOS write, 4 KiB (the yardstick)"),
    ("write 8", "8 plain RADOS writes at once"),
    ("resume 1", "Acquire at resume, 1 disk"),
    ("resume 8", "Acquire at resume, 8 disks"),
    ("park 1", "Release at pause, 1 disk"),
    ("park 8", "Release at pause, 8 disks"),
    ("park again 1", "its second Release, 1 disk"),
    ("park again 8", "its second Release, 8 disks"),
    ("park+resume 1", "Release and at once Acquire, 1 disk"),
    ("park+resume 8", "Release and at once Acquire, 8 disks"),
    ("cold start 1", "Acquire in the child (cold start), 1 disk"),
    ("cold start 8", "Acquire in the child (cold start), 8 disks"),
)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def calls_text(calls):
    one = calls["write 1"]["median"]
    rows = []
    for key, what in CALLS:
        m = calls[key]
        rows.append([what, f"{m['min']:.0f}", f"{m['median']:.0f}", f"{m['p90']:.0f}", f"{m['median'] / one:.2f}"])
    text = table(["call", "min, µs", "median, µs", "p90, µs", "× one write"], rows)
    text += "\n\nSuspend and resume together (Release twice, as libvirt calls it, and Acquire): " + ", ".join(
        f"{sum(calls[f'{what} {disks}']['median'] for what in ('park', 'park again', 'resume')) / one:.2f} plain writes with {disks} disk(s)"
        for disks in (1, 8)) + "."
    return text + f"\n\n8 disks as a multiple of 1: {ratio(calls, 'resume 8', 'resume 1')} at resume, {ratio(calls, 'park 8', 'park 1')} at " \
        f"pause, {ratio(calls, 'cold start 8', 'cold start 1')} at cold start; plain writes: {ratio(calls, 'write 8', 'write 1')}."


def ratio(calls, many, one):
    return f"{calls[many]['median'] / calls[one]['median']:.2f}"


def seconds(measured, key):
    return f"{measured[key]:.2f}" if key in measured else "–"


FILE_CALLS = (("register", "Acquire in the child (the process registers)"), ("acquire", "Acquire before the CPUs first run"),
              ("start", "both: one start"), ("release", "Release at pause"), ("resume", "Acquire at resume"), ("pair", "both: one pause"))


def files_text(files):
    rows = []
    for disks in (1, 8):
        for key, what in FILE_CALLS:
            ours, lockd, sanlock = (files[f"{key} {name} {disks}"]["median"] for name in ("virtlease", "lockd", "sanlock"))
            rows.append([f"{what}, {disks} disk{'s' if disks > 1 else ''}", f"{ours:.0f}", f"{lockd:.0f}", f"{sanlock:.0f}", f"{ours / lockd:.2f}",
                         f"{ours / sanlock:.3f}"])
    return table(["median, µs", "virtlease, local", "lockd.so", "sanlock.so", "local ÷ lockd.so", "local ÷ sanlock.so"], rows)


SHARED_CALLS = (("register", "Acquire in the child"), ("acquire", "Acquire before the CPUs first run"), ("start", "both: one start"),
                ("release", "Release at pause"), ("resume", "Acquire at resume"), ("pair", "both: one pause"),
                ("end", "SIGKILL until all leases are free"), ("life", "start and end: one life"))


def shared_text(shared):
    rows = []
    for disks in (1, 8):
        for key, what in SHARED_CALLS:
            ours, like, theirs = (shared[f"{key} {name} {disks}"]["median"] for name in ("virtlease", "virtlease 2000", "sanlock.so"))
            rows.append([f"{what}, {disks} disk{'s' if disks > 1 else ''}", f"{ours:.0f}", f"{like:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}",
                         f"{like / theirs:.2f}"])
    room = shared["num_hosts"]
    heads = [f"{name}, room for {room[key]} hosts" for key, name in (("virtlease", "virtlease"), ("virtlease 2000", "virtlease"), ("sanlock.so", "sanlock.so"))]
    eight = "; ".join(f"{key}: " + ", ".join(f"{name} {shared[f'{key} {name} 8']['median'] / shared[f'{key} {name} 1']['median']:.1f}"
                                              for name in room) for key in ("start", "life"))
    return table(["median, µs", *heads, "virtlease ÷ sanlock.so", "÷ with as many hosts"], rows) + \
        f"\n\nio_timeout {shared['io_timeout']}, n = {shared['start virtlease 1']['n']} starts. 8 disks as a multiple of 1: {eight}."


def shared_missed(shared):
    found = []
    for key in [f"{call} {{}} {disks}" for call in ("start", "pair", "life") for disks in (1, 8)]:
        times = shared[key.format("virtlease")]["median"] / shared[key.format("sanlock.so")]["median"]
        if times > SHARED_AIM:
            found.append(f"{key.format('shared')} is {times:.2f} times sanlock.so, aim {SHARED_AIM}")
    times = shared["start virtlease 8"]["median"] / shared["start virtlease 1"]["median"]
    if times > SHARED_DISKS_AIM:
        found.append(f"a start with 8 shared disks is {times:.1f} times 1 disk, aim {SHARED_DISKS_AIM}")
    return found


def crash_text(crash):
    rows, said = [], []
    for what, m in crash["cases"].items():
        if not m.get("ran", True):
            rows.append([what, "1", "–", "–", f"never (waited {m['waited']} s)"])
        elif "parked" in m:
            said.append(f"\n\nA VM {what}: PARKED is stored {m['parked']:.2f} s after the exec of the next one (n = {m['n']}).")
        elif "since_crash" in m:
            rows.append([what, str(m["n"]), seconds(m, "fence"), seconds(m, "create"), seconds(m, "since_crash")])
        else:
            rows.append([what, str(m["n"]), "–", seconds(m, "create"), seconds(m, "write")])
        if m.get("free"):
            said.append(f"\n\n{what}: its lease is free after {m['free']:.2f} s.")
        if m.get("QEMU said"):
            said.append(f"\n\nQEMU's log then: `{m['QEMU said']}`")
    head = ["case", "n", "`virtleasectl fence`, s", "`virsh create`, s", "guest writes, s"]
    return table(head, rows) + "".join(said)


def heartbeat_text(beat):
    names = {"writes": "writes (renewals)", "watch pings": "watch pings", "reads": "reads (audit of each lease)",
             "osd writes": "all writes the OSD saw", "osd reads": "all reads the OSD saw"}
    few, many = beat["few"], beat["many"]
    rows = [[what, f"{few['rates'][key]:.2f}", f"{many['rates'][key]:.2f}"] for key, what in names.items()]
    return table(["operations per second", f"{few['leases']} lease", f"{many['leases']} leases"], rows)


def adopt_text(adopt):
    rows = []
    for what in ("crash", "crash, journal lost"):
        answers, adopted = adopt[what]["answers"], adopt[what]["adopted"]
        rows.append([what, str(adopted["n"]), f"{answers['median']:.2f}", f"{adopted['min']:.2f}", f"{adopted['median']:.2f}", f"{adopted['max']:.2f}"])
    head = [f"{adopt['vms']} VMs, {adopt['parked']} of them paused", "n", "socket answers, s", "all adopted, min, s", "median, s", "max, s"]
    return table(head, rows)


MOVES = (("silent", "last write on the source to first request on the destination"), ("gap", "the same to its completion"),
         ("downtime", "`virsh domjobinfo`: total downtime"), ("lease", "PARKED to HELD"), ("acquire", "Acquire on the destination"))


def spread(measured):
    return f"{measured['median']:.1f} ({measured['min']:.1f}-{measured['p90']:.1f})"


def downtime_text(moves):
    rows = []
    for key, what in MOVES:
        without, ours, added = (moves[key].get(name) for name in ("without", "with", "added"))
        row = [what, spread(without) if without else "–", spread(ours) if ours else "–"]
        if added:
            row += [f"{ours['median'] / without['median']:.2f}", f"{ours['median'] - without['median']:+.1f}",
                    f"{added['median']:+.1f} ({added['quarters'][0]:+.1f} to {added['quarters'][1]:+.1f})"]
        rows.append(row + ["–"] * (6 - len(row)))
    head = [f"{len(moves['pairs'])} pairs, ms: median (min-p90)", "no lock manager", "virtlease", "ratio of medians", "difference of medians",
            "difference within a pair, median (quartiles)"]
    return table(head, rows)


def moves_added(moves):
    return moves["silent"]["with"]["median"] - moves["silent"]["without"]["median"]


SHOWN = (("calls", "Calls", calls_text), ("files", "Files", files_text), ("shared", "Shared files", shared_text), ("crash", "After a crash", crash_text), ("heartbeat", "Idle", heartbeat_text),
         ("adopt", "Restart of virtleased", adopt_text), ("downtime", "Live migration", downtime_text))


def text(result):
    parts = ["Conditions: " + ", ".join(f"{key} {value}" for key, value in result["conditions"].items())]
    for key, title, show in SHOWN:
        if key in result:
            parts.append(f"{title}\n\n{show(result[key])}")
    return "\n\n".join(parts) + "\n"


def missed(result):
    """Words for each aim that was not reached."""
    found = []
    calls, beat = result.get("calls"), result.get("heartbeat")
    if calls:
        for key in ("resume 1", "park 1"):
            times = calls[key]["median"] / calls["write 1"]["median"]
            if times > CALL_AIM:
                found.append(f"{key} is {times:.2f} plain writes, aim {CALL_AIM}")
        for key in ("resume", "park"):
            times = calls[f"{key} 8"]["median"] / calls[f"{key} 1"]["median"]
            if times > DISKS_AIM:
                found.append(f"{key} of 8 disks is {times:.2f} times 1 disk, aim {DISKS_AIM}")
    for key in [f"{call} {{}} {disks}" for call in ("start", "pair") for disks in (1, 8)] if "files" in result else []:
        times = result["files"][key.format("virtlease")]["median"] / result["files"][key.format("lockd")]["median"]
        if times > LOCAL_AIM:
            found.append(f"{key.format('local')} is {times:.2f} times lockd.so, aim {LOCAL_AIM}")
    found += shared_missed(result["shared"]) if "shared" in result else []
    if beat and beat["many"]["rates"]["writes"] > BEAT_TOLERANCE * beat["few"]["rates"]["writes"]:
        found.append("more leases, more renewals")
    if "downtime" in result and moves_added(result["downtime"]) > DOWNTIME_AIM_MS:
        found.append(f"a migration is silent {moves_added(result['downtime']):.1f} ms longer, aim {DOWNTIME_AIM_MS} ms")
    for what in ("crash", "crash, journal lost"):
        if "adopt" in result and result["adopt"][what]["adopted"]["median"] > ADOPT_AIM_S:
            found.append(f"{what}: {result['adopt']['vms']} VMs adopted in {result['adopt'][what]['adopted']['median']:.2f} s, aim {ADOPT_AIM_S}")
    return found

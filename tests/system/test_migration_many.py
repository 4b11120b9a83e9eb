# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back and forth, again and again. VIRTLEASE_TEST_MIGRATIONS: how often (default 20)."""

import os
import statistics
import time

from bed import lease
from bed.moving import assert_lives_on
from bed.observe import DiskWatch

TIMES = int(os.environ.get("VIRTLEASE_TEST_MIGRATIONS", "20"))


def test_back_and_forth(hosts, vm, cluster):
    """None fails; every change of the disk is the one VM's, the counter never goes back, and the host's name changes only when the VM
    has moved: the write log has no gap in ownership and no second writer."""
    a, b = hosts
    guest = vm()
    guest.start(a)
    guest.wait_writing(a)
    took = []
    with DiskWatch(guest) as watch:
        for _ in range(TIMES):
            began = time.monotonic()
            guest.migrate(a, b)
            took.append(time.monotonic() - began)
            guest.wait_writing(b)
            a, b = b, a
    records = [seen.record for seen in watch.seen]
    assert watch.writers() == [guest.identity]
    assert all(later.counter >= earlier.counter for earlier, later in zip(records, records[1:]))
    order = [records[0].host]
    for record in records:
        if record.host != order[-1]:
            order.append(record.host)
    assert order == [(a, b)[(TIMES - i) % 2].name for i in range(TIMES + 1)]
    assert records[-1].failures == 0
    assert cluster.blocklist() == {}
    assert "NO lease" not in lease.log_of(a) + lease.log_of(b) and "LOST" not in lease.log_of(a) + lease.log_of(b)
    gaps = [later.at - earlier.at for earlier, later in zip(watch.seen, watch.seen[1:])]
    print(f"{TIMES} migrations: median {statistics.median(took):.2f} s, longest {max(took):.2f} s; "
          f"longest time without a write {max(gaps):.2f} s")
    assert_lives_on(guest, a, [b], cluster)

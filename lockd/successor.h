/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A migrated VM whose source's host died after the hand-over. The record's `previous` is the QEMU that handed the lease
 * over to ours. As a rule its own daemon strikes it when that QEMU has ended (free.c), and what it may have left of the
 * image's exclusive lock is broken there. When its host has lost power before that, nobody does, and our QEMU's first
 * write would wait for librbd's own patience with the dead owner: 28 s, or for ever (Ceph tracker 54613). So, while we
 * are HELD and `previous` stands, its host is judged by the ordinary verdict, and when it is dead:
 *
 *   confirm: still silent, its session as it was
 *   look: the record names us, HELD, without a claim, and the very same previous
 *   break exactly the lock owner seen, if it is one of those to be fenced
 *   fence exactly the addresses recorded for previous, less what another holder recorded; barrier
 *   look again: the record is unchanged, the lock not theirs again
 *   compare-and-swap: previous struck, the fences noted (R6)
 *
 * The lock is broken before the fence, other than in a takeover, because our QEMU has the image open already:
 *
 * - The fence makes the OSD drop the dead client's watch, for which our QEMU's librbd waits. It would find a lock whose
 *   owner is gone, break it by itself within milliseconds, and where it cannot (tracker 54613) fail the guest's write.
 * - A source that still owns the lock gets the lease back when our QEMU dies without having written (R1). Were this
 *   daemon to end between a fence and the break, it would get it back fenced.
 *
 * It is safe because this source is at rest: it had no write left when the memory was through, the lease has been ours
 * since, and a living one would hand its lock to our QEMU on request, unfenced, in every migration. The fence is for
 * what it may do later.
 *
 * What may happen at the same time:
 *
 * - Our QEMU dies. The steps above and the exit path (free.c) both hold the VM's operation lock, so a give-back (R1)
 *   comes before all of them, and then nothing here is done, or after, and then there is nobody to give it back to.
 * - The source's daemon is back. Up to `confirm` that is seen and nobody is fenced. Later it finds the lease with us,
 *   HELD, and its QEMU refused as stale; being fenced takes nothing from that.
 * - The source's host is up again: its journal makes it fence and strike by itself. One of the two swaps comes second,
 *   finds another record, and is not repeated because no previous stands in it.
 * - The VM migrates on, or back. Then the record names another process than ours, or another previous than was judged.
 * - Somebody claims our lease. While a claim stands an owner changes nothing (R11). One that comes after the look makes
 *   our swap fail; what was broken and fenced by then is the dead source's all the same.
 * - This daemon ends anywhere: the record still names previous, the next life begins anew; a fence added twice is one.
 *   Nothing is given back meanwhile, as the lock is not the source's any more.
 *
 * The source may live although its virtleased does not (setting takeover_watch): here that is not asked. Its QEMU
 * has been stopped since before the hand-over, had nothing left to write when the migration was through, and may not
 * be resumed while we have the lease. So its fence harms nothing that lives; also under post-copy, where it goes on to
 * serve memory but no disk. What is lost is the give-back, should libvirt never let the CPUs run here either.
 */
#ifndef VL_LOCKD_SUCCESSOR_H
#define VL_LOCKD_SUCCESSOR_H

#include "lockd/daemon.h"

/* Has a look at every VM that is HELD here and whose source still stands in a record. Called from the main loop every
 * second, so it goes on after a restart; the work is done in the background. */
void vl_successor_begin(VlDaemon *daemon);

/* One VM's look, on the calling thread. It does not wait for a verdict: a window of silence passes meanwhile, and a
 * later look finds its end. */
void vl_successor_look(VlDaemon *daemon, VlVm *vm);

#endif

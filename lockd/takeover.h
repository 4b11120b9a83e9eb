/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Taking volumes over from dead holders. The order is the whole point (design section 3):
 *
 *   verdict dead                                   (the caller's work)
 *   look: record, lock owner, watchers; look again at the record: the same
 *   claim: compare-and-swap the exact address set into the record
 *   confirm: counter and challenge once more; alive after all: withdraw, refuse
 *   look: the claim still stands (a claimant that was frozen may have lost it to an owner that lives)
 *   fence exactly that set, all at once; read the blocklist back
 *   barrier: this handle has the map with the fence
 *   look again: the claim is still ours; break exactly the lock owner seen
 *   grant: compare-and-swap the lease to us
 *
 * An OSD refuses the old client only once it has the new map, and the caller's QEMU opens the image only
 * after all this. While a claim stands the owner changes nothing, so an owner that wakes up is either
 * seen by `confirm` or fenced with its lease gone: never fenced in vain.
 */
#ifndef VL_LOCKD_TAKEOVER_H
#define VL_LOCKD_TAKEOVER_H

#include "lockd/take.h"

/* All `takes` (VlTake with dead blockers, a dead claim or a dead foreign owner) end PARKED for their VM, or
 * (with `vm` NULL: an operator fences a host) free. CHANGED: look again from the beginning. */
gboolean vl_takeover(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, const VlCall *call, GError **error);

/* Fences `set` in a place, waits for the barrier; records in *ret_fenced (VlFenced) what the monitors
 * really have, and says loudly when an entry lapses earlier than wanted. */
gboolean vl_fence_set(VlDaemon *daemon, VlPlace *place, const GPtrArray *set, GPtrArray *ret_fenced, gint64 deadline,
                      GError **error);

/* Copies what was fenced into a record. */
void vl_fenced_into(VlRecord *record, const GPtrArray *set, const GPtrArray *fenced);

/* Ids of claims that this daemon is working on. */
gboolean vl_claims_have(VlDaemon *daemon, const char *id);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Taking leases that are records in shared storage, for a QEMU process that is about to start.
 */
#ifndef VL_LOCKD_TAKE_H
#define VL_LOCKD_TAKE_H

#include "lockd/daemon.h"
#include "lockd/rules.h"

/* One volume being taken: what was seen of it, and what was decided. */
typedef struct {
    VlLease *lease;
    VlLook look;
    VlRecord *record; /* parsed look.record */
    VlTakeStep step;
    GPtrArray *blockers; /* of VlHolder, borrowed from record */
    GPtrArray *verdicts; /* of VlVerdict, one per blocker, all dead; NULL element: dead for certain */
    VlVerdict *claimant; /* verdict on the claimant, if there is a dead claim of another host */
    GPtrArray *dead_ips, *never;
    gboolean dead_foreign_owner;
    gboolean give_back; /* ours until a migration handed it to a host that died: only if that one never wrote (R1) */
    GPtrArray *set;     /* addresses to fence */
    char *claim_id;
    VlRecord *claimed; /* the record with our claim in it */
    GBytes *claimed_raw;
} VlTake;

VlTake *vl_take_new(VlLease *lease);
void vl_take_free(VlTake *take);
/* Looks at all volumes at once and parses the records. */
gboolean vl_take_look(GPtrArray *takes, guint what, gint64 deadline, GError **error);

/* VlBackendOps.take for volumes with a lease record: fences dead owners first. */
gboolean vl_take_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call,
                         GError **error);

/* VlBackendOps.ask: verdicts on whoever holds them. */
gboolean vl_take_ask_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call,
                             GError **error);

/* Writes `next[i]` over what is known to be stored for `leases[i]`, lowest volume key first and alone, so that of
 * two who want the same volumes exactly one gets through; then the rest at once. On success the leases
 * know their new record. CHANGED when somebody was faster; then nothing is certain but leases
 * whose write worked have been updated. */
gboolean vl_cas_records(VlLease *const *leases, VlRecord *const *next, GBytes *const *expect, gsize n, gint64 deadline,
                        GError **error);

/* The same for records that are ours alone to change (we hold the lease): all at once. */
gboolean vl_cas_ours(VlLease *const *leases, VlRecord *const *next, GBytes *const *expect, gsize n, gint64 deadline,
                     GError **error);

/* Session and index for these leases of the VM, written before the first compare-and-swap (R18). */
gboolean vl_take_announce(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const VlCall *call, GError **error);

/* What the index says of a volume this VM leases. */
char *vl_take_index_text(const VlVm *vm, const VlVolume *volume);

/* Our entry for a record. */
VlHolder *vl_take_holder(VlDaemon *daemon, VlVm *vm, VlPlace *place);

/* "leased by VM 'web1' on host node-a since 2026-11-22 10:00:00" */
char *vl_holder_describe(const VlHolder *holder);

#endif

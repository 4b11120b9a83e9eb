/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The decisions about leases as pure functions of values: no storage, no clock, no threads.
 */
#ifndef VL_LOCKD_RULES_H
#define VL_LOCKD_RULES_H

#include "lockd/record.h"
#include "lockd/store.h"

typedef enum {
    VL_TAKE_FREE,    /* nobody in the way: compare-and-swap */
    VL_TAKE_OURS,    /* the record names this very incarnation already (a lost reply, R18) */
    VL_TAKE_BLOCKED, /* holders or a claim stand in the way: each must be judged */
} VlTakeStep;

/* May `me` start on a volume with this record? With BLOCKED, *ret_blockers gets the holders in the way
 * (borrowed from the record); a claim in the way is record->claim. */
VlTakeStep vl_rules_take(const VlRecord *record, const VlIncarnation *me, gboolean shared, GPtrArray *ret_blockers);

/* The record with `holder` in it and `victims` (may be NULL) and any claim out of it. Epoch + 1. */
VlRecord *vl_rules_granted(const VlRecord *record, const VlHolder *holder, gboolean shared, const GPtrArray *victims);

/* The record without this incarnation, as holder, heir or previous; a holder's first heir becomes the holder,
 * PARKED (R16). NULL when nothing needs to be remembered (remove it). */
VlRecord *vl_rules_freed(const VlRecord *record, const VlIncarnation *who, gint64 now);

/* Hand-over by token: `to` (an heir, PARKED) takes the place of the holder `from`, who is remembered as
 * previous for a give-back. */
VlRecord *vl_rules_handed_over(const VlRecord *record, const VlHolder *from, const VlHolder *to);

/* Give-back: previous takes the place of the holder `who`, PARKED again under its own token. */
VlRecord *vl_rules_given_back(const VlRecord *record, const VlIncarnation *who);

/* What a takeover may fence. */
typedef struct {
    const VlRecord *record;
    const GPtrArray *victims;    /* of VlHolder, dead; may be empty (a foreign owner) */
    const GPtrArray *dead_ips;   /* of char *: published by the victims' sessions, minus shared ones */
    const GPtrArray *never;      /* of char *: addresses of shared kernel clients (R14) */
    GHashTable *own_ips;         /* this host's: never by the IP rule */
    const GPtrArray *watchers;   /* of VlWatcher, frozen */
    const VlLockOwner *owner;    /* frozen, or NULL */
    gboolean dead_foreign_owner; /* the owner has no watch and no lease: fence it as well */
    gint64 now;                  /* unix seconds: earlier fences that lapsed too soon are set again (R6) */
} VlFenceQuestion;

/* The exact addresses to fence: those recorded for the victims and in a dead claim, and header watchers and lock
 * owner on an IP of a victim that no other holder recorded (design section 3; R12, R13, R14). */
GPtrArray *vl_rules_fence_set(const VlFenceQuestion *question);

/* Some fence in the record has run out before the time it was wanted for. */
gboolean vl_rules_fence_lapsed(const VlRecord *record, gint64 now);

/* `who` handed the lease over by token, and gets it back if the one it was handed to never ran (R1). */
gboolean vl_rules_is_previous(const VlRecord *record, const VlIncarnation *who);

/* May `me` do away with what the one who handed it the lease has left on the image: the record says that `me` has it,
 * HELD and without a claim, and that `previous`, as it was judged, stands. */
gboolean vl_rules_may_succeed(const VlRecord *record, const VlIncarnation *me, const VlHolder *previous);

/* Watchers that nothing explains: not recorded by a holder, not fenced. Of VlWatcher, borrowed. */
GPtrArray *vl_rules_unexplained(const VlRecord *record, const GPtrArray *watchers);

/* Some watcher has that address. */
gboolean vl_watchers_have(const GPtrArray *watchers, const char *addr);

#endif

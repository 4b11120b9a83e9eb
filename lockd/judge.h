/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Judging whoever stands in the way of a take: holders, claimants, and clients that no lease explains.
 */
#ifndef VL_LOCKD_JUDGE_H
#define VL_LOCKD_JUDGE_H

#include "lockd/take.h"

typedef struct {
    guint wait_s;         /* how long to wait for a silent owner */
    gint64 began;         /* when the take began */
    gint64 foreign_since; /* when an unexplained client was first seen; 0 = none */
    const VlCall *call;
} VlPatience;

/* Verdicts on all blockers and claimants of all takes, every silent host watched at the same time. TRUE: all
 * are dead. FALSE: HELD and the like with the text for the user; CHANGED: try again shortly (an orphan is
 * being freed). */
gboolean vl_judge_blockers(VlDaemon *daemon, GPtrArray *takes, const VlPatience *patience, GError **error);

/* Is the claim in take->record dead (or none, or a leftover of this daemon)? FALSE: HELD, it is under way; or
 * it cannot be told. */
gboolean vl_judge_claim(VlDaemon *daemon, VlTake *take, const VlPatience *patience, GError **error);

/* Clients on the image that neither the lease nor the coming fence explains. Alive: CHANGED until
 * foreign_wait is over, then FOREIGN; a dead lock owner sets take->dead_foreign_owner. */
gboolean vl_judge_foreign(VlDaemon *daemon, VlTake *take, VlPatience *patience, GError **error);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Is a silent host dead?
 *
 * Dead means: on OUR monotonic clock its counter stood still for the whole window (dead_after, the
 * longer of the owner's and ours, plus an announced grace), it was read all the time in that window and every read
 * was answered quickly, and a challenge was not answered at either end of the window. A read that fails
 * or is slow, or that we were too late for, starts the window again: while the storage itself is away, everybody looks
 * silent. No other clock takes part. One window per host and place is shared by all who ask (R21).
 */
#ifndef VL_LOCKD_VERDICT_H
#define VL_LOCKD_VERDICT_H

#include "lockd/call.h"
#include "lockd/challenge.h"

typedef enum {
    VL_VERDICT_ALIVE,    /* refuse */
    VL_VERDICT_NOT_MINE, /* alive, but its daemon is freeing the lease (its QEMU is gone, or it is an orphan): try again
                          */
    VL_VERDICT_LOST,     /* alive, but that QEMU is fenced and the lease given up: as dead, for this lease */
    VL_VERDICT_DEAD,
} VlVerdictKind;

typedef struct {
    VlVerdictKind kind;
    VlSessionObject seen; /* DEAD: how its session stood, for vl_verdict_confirm() */
    GPtrArray *ips;       /* of char *: addresses its session published; may be empty */
    gboolean ended;       /* DEAD because an operator ended this session (virtleasectl fence) */
} VlVerdict;
void vl_verdict_clear(VlVerdict *verdict);

typedef struct VlVerdicts VlVerdicts;
/* `threaded` FALSE runs windows inline, for unit tests with a fake clock. */
VlVerdicts *vl_verdicts_new(guint dead_after_s, gboolean threaded);
void vl_verdicts_free(VlVerdicts *verdicts);

/* Begins to watch a host about which vl_verdict_get() will be asked soon, so that several windows pass at once. */
void vl_verdict_begin(VlVerdicts *verdicts, VlPlace *place, const VlAsk *ask, guint64 session, const VlCall *call);

/* Judges the host of `ask->holder`, which the lease names with session number `session`. Waits until
 * a verdict or the call's deadline; then UNKNOWN_OWNER, saying how long the host has been silent.
 * Other errors are the storage's. */
gboolean vl_verdict_get(VlVerdicts *verdicts, VlPlace *place, const VlAsk *ask, guint64 session, const VlCall *call,
                        VlVerdict *ret_verdict, GError **error);

/* After the claim: still dead? Its session stands as it did and one more challenge goes unanswered.
 * FALSE with HELD when the host woke up, STORAGE when it cannot be told. */
gboolean vl_verdict_confirm(VlPlace *place, const VlAsk *ask, const VlVerdict *verdict, const VlCall *call,
                            GError **error);

/* One window, run to its end by the calling thread: TRUE = dead, FALSE with HELD = a sign
 * of life (ret_answer says what was answered, if anything), other errors as above. *ret_seen is how the session stood
 * when the window began. */
gboolean vl_window_run(VlPlace *place, const char *host, const VlAsk *ask, guint dead_after_s, const VlCall *call,
                       VlSessionObject *ret_seen, VlAnswer *ret_answer, GError **error);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Calls to the sanlock daemon that end when we say so.
 *
 * libsanlock_client has no timeouts: a call lasts as long as the daemon likes, minutes when storage
 * hangs, for ever when its client table is full. So each runs on a worker thread. A caller whose
 * deadline passes leaves its call behind; the thread goes on waiting, is counted, and when too many
 * hang no new call is begun. A call left behind may still succeed: then its `late` undoes it.
 *
 * The daemon answers -EBUSY to a second command about one process. Commands with the same `target`
 * therefore go one after another here, calls left behind and their undoing included, so that nobody
 * ever takes the late success of an earlier attempt for his own. What -EBUSY remains (others talk to
 * sanlock too) is retried until the deadline.
 */
#ifndef VL_LOCKD_SANLOCK_CALL_H
#define VL_LOCKD_SANLOCK_CALL_H

#include <glib.h>

#define VL_SANLOCK_HUNG_MAX 64 /* calls left behind, after which no new ones are begun */

typedef struct {
    int (*run)(gpointer data);           /* on a worker; blocks; the library's return code */
    void (*late)(gpointer data, int rc); /* may be NULL: on the worker, when nobody waits any more */
    void (*free)(gpointer data);
} VlSanlockOp;

/* `data` belongs to the call until it is over. TRUE: it is over, *ret_rc is the result (VL_SANLOCK_DOWN
 * when the daemon is not there) and `data` is the caller's again. FALSE (TIMEOUT, or STORAGE when too
 * many calls hang): `data` is gone. `target`: the process it is about, 0 for none. */
gboolean vl_sanlock_call(const VlSanlockOp *op, gpointer data, guint64 target, const char *what, gint64 deadline,
                         int *ret_rc, GError **error);

/* Calls left behind that have not come back yet. */
guint vl_sanlock_hung(void);

/* For a call that answers -ENODEV whatever keeps the daemon from opening the file: the errno we get ourselves, or
 * -EACCES if we could open it. */
int vl_sanlock_why_not_open(const char *path);

/* "/run/sanlock/sanlock.sock", or where SANLOCK_RUN_DIR says. */
const char *vl_sanlock_socket(void);
/* A connection that says nothing: it ends when the daemon does. -1: nobody listens. */
int vl_sanlock_connect(void);

#endif

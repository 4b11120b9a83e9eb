/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * "Are you there?", asked over the storage: what a host asks the daemon of another host, and what
 * that daemon may answer. Only the text is here; sending is the store's, answering the daemon's.
 */
#ifndef VL_LOCKD_CHALLENGE_H
#define VL_LOCKD_CHALLENGE_H

#include <glib.h>

#include "lockd/record.h"
#include "lockd/store.h"

#define VL_CHALLENGE_TIMEOUT_S 1 /* rados_notify knows whole seconds only (R22) */

typedef enum {
    VL_ANSWER_NONE,     /* watched, but nobody answered in time */
    VL_ANSWER_NOBODY,   /* nobody watched: says nothing either way */
    VL_ANSWER_ALIVE,    /* the host lives; no word about the lease */
    VL_ANSWER_MINE,     /* lives, and the lease belongs to a VM it watches */
    VL_ANSWER_NOT_MINE, /* lives, and knows nothing of this lease: an orphan it will now free */
    VL_ANSWER_FREEING,  /* lives; that QEMU is gone and its lease is being freed at this moment */
    VL_ANSWER_LOST,     /* lives, but gave this lease up as lost: its QEMU is fenced */
    VL_ANSWER_READER,   /* the client address belongs to a reader (readonly disk) on that host */
} VlAnswer;

/* What is asked about; members may be NULL/0 when not asked about a lease. */
typedef struct {
    const char *volume;          /* canonical key */
    const VlIncarnation *holder; /* whose lease */
    const char *addr;            /* a client address seen on the volume: is it a reader of yours? */
} VlAsk;

/* A parsed question, for the daemon that answers. */
typedef struct {
    char *nonce, *volume, *addr;
    VlIncarnation holder;
} VlQuestion;
gboolean vl_question_parse(GBytes *payload, VlQuestion *ret_question);
void vl_question_clear(VlQuestion *question);
GBytes *vl_answer_format(const VlQuestion *question, const char *host, guint64 session, VlAnswer answer);

/* Asks `host` and waits VL_CHALLENGE_TIMEOUT_S at most. FALSE: the storage did not carry the question. */
gboolean vl_challenge(VlPlace *place, const char *host, const VlAsk *ask, VlAnswer *ret_answer, GError **error);

#endif

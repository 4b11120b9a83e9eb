/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What bounds one call: a deadline, and the two things that may end it early (R19): the asker's
 * connection is gone, the QEMU process is gone. Also the clock, which unit tests replace.
 */
#ifndef VL_LOCKD_CALL_H
#define VL_LOCKD_CALL_H

#include <glib.h>

typedef struct {
    gint64 deadline;  /* vl_clock_now() microseconds */
    const int *asker; /* may be NULL: the asker's connection; its end ends the call */
    gint *gone;       /* atomic, may be NULL: the QEMU process has exited */
} VlCall;

/* VL_ERR_CANCELLED or VL_ERR_TIMEOUT when the call must not begin anything new. */
gboolean vl_call_check(const VlCall *call, const char *what, GError **error);

/* A deadline for one storage step: the call's, but at most `seconds` from now. */
gint64 vl_call_within(const VlCall *call, double seconds);

/* Monotonic microseconds; never a wall clock. */
gint64 vl_clock_now(void);
/* Returns at `when`, or earlier when the call is cancelled. Checks every 50 ms at most. */
void vl_clock_sleep_until(gint64 when, const VlCall *call);

/* Unit tests put their own clock here; NULL functions mean the real one. */
typedef struct {
    gint64 (*now)(gpointer opaque);
    void (*sleep_until)(gint64 when, gpointer opaque);
    gpointer opaque;
} VlClock;
void vl_clock_replace(const VlClock *clock);

/* Microseconds for a deadline `seconds` from now. */
gint64 vl_deadline_in(double seconds);

#endif

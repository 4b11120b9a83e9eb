/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/call.h"

#include <poll.h>

#include "lockd/error.h"

#define SLEEP_STEP_US (50 * 1000)

static VlClock replaced;

void
vl_clock_replace(const VlClock *clock)
{
    replaced = clock ? *clock : (VlClock){0};
}

gint64
vl_clock_now(void)
{
    return replaced.now ? replaced.now(replaced.opaque) : g_get_monotonic_time();
}

gint64
vl_deadline_in(double seconds)
{
    return vl_clock_now() + (gint64)(seconds * G_USEC_PER_SEC);
}

static gboolean
is_set(gint *flag)
{
    return flag && g_atomic_int_get(flag);
}

/* Asked when it matters instead of watched all the time: most calls are over before anybody could hang up. */
static gboolean
is_cancelled(const VlCall *call)
{
    struct pollfd peer = {.fd = call->asker ? *call->asker : -1, .events = POLLRDHUP};
    return is_set(call->gone) || (call->asker && poll(&peer, 1, 0) > 0);
}

void
vl_clock_sleep_until(gint64 when, const VlCall *call)
{
    if (replaced.sleep_until) {
        replaced.sleep_until(when, replaced.opaque);
        return;
    }
    for (;;) {
        gint64 left = when - vl_clock_now();
        if (left <= 0 || (call && is_cancelled(call)))
            return;
        g_usleep((gulong)MIN(left, SLEEP_STEP_US));
    }
}

gboolean
vl_call_check(const VlCall *call, const char *what, GError **error)
{
    if (is_cancelled(call)) {
        vl_set_error(error, VL_ERR_CANCELLED, "%s: the asking process went away", what);
        return FALSE;
    }
    if (vl_clock_now() >= call->deadline) {
        vl_set_error(error, VL_ERR_TIMEOUT, "%s: not finished within the time of this call", what);
        return FALSE;
    }
    return TRUE;
}

gint64
vl_call_within(const VlCall *call, double seconds)
{
    return MIN(call->deadline, vl_deadline_in(seconds));
}

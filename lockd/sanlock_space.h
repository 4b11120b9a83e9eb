/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * This host's membership in the lockspace, kept by a thread of its own.
 *
 *     OFF ──▶ DOWN ◀─────────────────────────────┐ the sanlock daemon went away (from any state)
 *              │ daemon answers                  │
 *              ▼                                 │
 *           FORMATTING ──▶ JOINING ──▶ JOINED ◀──┴──▶ FAILING ──▶ LOST ──▶ FORMATTING
 *                 ▲____________│ refused: again after a growing pause
 *
 * FAILING: our own record has not been renewed for six of sanlock's I/O timeouts; at eight it
 * begins to stop the VMs. LOST: out of the lockspace, or the daemon that knew our VMs is gone. Every
 * lease of this host is unprotected then: as soon as somebody joins with our host id again, other
 * hosts take our leases for those of an earlier life and get them. So `lost` is called, and only when it
 * has returned, with every VM stopped that can be stopped, do we join again.
 */
#ifndef VL_LOCKD_SANLOCK_SPACE_H
#define VL_LOCKD_SANLOCK_SPACE_H

#include "lockd/call.h"
#include "lockd/sanlock_conf.h"

typedef enum {
    VL_SPACE_OFF,
    VL_SPACE_DOWN,
    VL_SPACE_FORMATTING,
    VL_SPACE_JOINING,
    VL_SPACE_JOINED,
    VL_SPACE_FAILING,
    VL_SPACE_LOST,
    VL_SPACE_STATE_COUNT
} VlSpaceState;

typedef struct VlSanlockSpace VlSanlockSpace;

/* On the space's thread; may take its time (see above). */
typedef void (*VlSpaceLostFunc)(const char *reason, gpointer opaque);

/* `conf` is borrowed and must outlive it. Nothing is done before start(). */
VlSanlockSpace *vl_sanlock_space_new(const VlSanlockConf *conf, VlSpaceLostFunc lost, gpointer opaque);
void vl_sanlock_space_start(VlSanlockSpace *space);
/* Ends the thread; stays in the lockspace, for the VMs that run on. */
void vl_sanlock_space_free(VlSanlockSpace *space);

const VlSanlockConf *vl_sanlock_space_conf(VlSanlockSpace *space);
const char *vl_sanlock_space_state_name(VlSpaceState state);

/* TRUE when leases can be taken. While it is being joined, waits for that, at most for `call`. The
 * error says why not. */
gboolean vl_sanlock_space_wait(VlSanlockSpace *space, const VlCall *call, const char *what, GError **error);

typedef struct {
    VlSpaceState state;
    gint64 since;      /* vl_clock_now() of the last change of state */
    char *reason;      /* why it is so; free with g_free */
    gboolean watchdog; /* of the daemon; only meaningful once watchdog_known */
    gboolean watchdog_known;
    gint64 renewed; /* vl_clock_now() when our own renewal was last seen; 0 = never */
    guint hosts;    /* alive in the lockspace, with us */
} VlSpaceStatus;
void vl_sanlock_space_status(VlSanlockSpace *space, VlSpaceStatus *ret);

/* The sanlock daemon does not run. */
gboolean vl_sanlock_space_is_down(VlSanlockSpace *space);

/* What we have seen of a host id since we joined. */
typedef enum { VL_HOST_UNKNOWN, VL_HOST_FREE, VL_HOST_LIVE, VL_HOST_DEAD } VlHostLife;
typedef struct {
    VlHostLife life; /* by sanlock's own limits; LIVE until it is DEAD */
    guint64 generation;
    gint64 changed;    /* vl_clock_now() when its record was last seen to change (or first seen at all) */
    gboolean renewing; /* has changed at least once while we watched */
    guint io_timeout;
    char name[64]; /* "" = unknown */
} VlSpaceHost;
gboolean vl_sanlock_space_host(VlSanlockSpace *space, guint64 host_id, VlSpaceHost *ret);
/* "host 7 (node-b)". */
char *vl_sanlock_space_host_text(VlSanlockSpace *space, guint64 host_id);

#endif

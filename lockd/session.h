/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * This host's liveness towards each place: one session object, one heartbeat thread, one small write
 * every dead_after/4, whatever the number of leases.
 *
 *     NEW ──begin──▶ LIVE ◀──▶ SILENT (renewals fail; nothing is lost until somebody takes over)
 *                      │ └──▶ NEW     our number was ended by `virtleasectl fence`: a new one (R15)
 *                      └────▶ DUPLICATE  another live host has our identity: no leases here
 *
 * A place's thread is the only one that writes its session object. Tables are guarded by one mutex
 * that is never held over a storage call.
 */
#ifndef VL_LOCKD_SESSION_H
#define VL_LOCKD_SESSION_H

#include "lockd/call.h"
#include "lockd/host.h"
#include "lockd/store.h"

typedef enum {
    VL_SESSION_NEW,
    VL_SESSION_UP,
    VL_SESSION_SILENT,
    VL_SESSION_DUPLICATE,
    VL_SESSION_STATE_COUNT
} VlSessionState;

typedef struct VlSessions VlSessions;

typedef struct {
    /* The main loop is answering; else we neither renew nor answer challenges (R21). */
    gboolean (*healthy)(gpointer opaque);
    /* Answers a challenge (on a store thread, at once). */
    VlChallengeFunc challenge;
    /* Our leases in this place must be looked at again: after a gap, a reconnect or a new number. Called
     * on the session's thread; must not block. */
    void (*recheck)(VlPlace *place, gpointer opaque);
    /* The object was ours in an earlier boot (or an unknown, dead one): leases of it that are in the
     * index must be fenced and freed. Called on the session's thread; must not block. */
    void (*earlier_boot)(VlPlace *place, gpointer opaque);
    /* A boot id that stands in this host's own journal. */
    gboolean (*own_boot)(const char *boot, gpointer opaque);
    gpointer opaque;
} VlSessionEvents;

VlSessions *vl_sessions_new(const VlHost *host, guint dead_after_s, const VlSessionEvents *events);

/* The number of our session in a place, beginning one if needed; waits for it until the deadline. FALSE:
 * DUP_HOST, or the storage's error of the last attempt. */
gboolean vl_sessions_ensure(VlSessions *sessions, VlPlace *place, const VlCall *call, guint64 *ret_number,
                            GError **error);
/* Without waiting; 0 if there is none. */
guint64 vl_sessions_number(VlSessions *sessions, VlPlace *place);

typedef struct {
    VlPlace *place;
    VlSessionState state;
    guint64 number, counter;
    gint64 silent_ms; /* since the last renewal that worked */
    char *problem;    /* text of the last failure, or NULL */
} VlSessionInfo;
void vl_session_info_clear(VlSessionInfo *info);
GArray *vl_sessions_list(VlSessions *sessions); /* of VlSessionInfo */
const char *vl_session_state_name(VlSessionState state);

/* Addresses of shared kernel clients of this host, never fenced (R14): published with the next renewal when they differ
 * from what is published. */
void vl_sessions_set_krbd(VlSessions *sessions, const GPtrArray *addrs);

/* Ends all threads. With leases left the object stays and `grace_s` of silence is announced; without any
 * it is closed. Other threads may still ask for numbers afterwards. */
void vl_sessions_stop(VlSessions *sessions, gboolean leases_left, guint grace_s);
/* After stop, when nobody else can ask any more. */
void vl_sessions_free(VlSessions *sessions);

#endif

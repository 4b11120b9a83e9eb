/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The ops table between the lease rules and shared storage that keeps lease records.
 *
 * Rules (record, verdict, takeover, vm) include this header and never a storage header; a store
 * (store_rbd.c, and store_fake.c for tests) implements it and decides nothing. A store only reads,
 * compares-and-swaps, challenges, fences and breaks exactly what it is told to.
 *
 * Every op blocks its calling worker thread, at most until `deadline` (g_get_monotonic_time()
 * microseconds), and may be called from any thread except the main loop's. The ops that take arrays
 * handle all elements at the same time and put one result or GError into each element; their return
 * value is true when every element succeeded. Errors are of domain VL_ERROR (lockd/error.h): STORAGE
 * for "no answer" and anything unknown, DENIED, MISSING, CHANGED, FENCE as named there; the message
 * names the object and the storage's own error text.
 */
#ifndef VL_LOCKD_STORE_H
#define VL_LOCKD_STORE_H

#include <glib.h>

#include "common/volume.h"

typedef struct VlStoreOps VlStoreOps;
typedef struct VlBackendOps VlBackendOps;

/* A connection target and its state; one per kind of store in a daemon. */
typedef struct {
    const VlStoreOps *ops;
} VlStore;

/* A place where lease records live and hosts show their liveness: for RBD one pool and namespace of
 * one cluster. Interned by the store: the same place is the same pointer for the daemon's life. */
typedef struct {
    VlStore *store;
    char *key;     /* "rbd:FSID/POOLID/NS" */
    char *display; /* "pool rbd", "pool rbd, namespace a" */
} VlPlace;

/* One volume, resolved to its canonical identity. Reference-counted (vl_volume_ref/unref). */
typedef struct {
    gint refs;
    VlPlace *place;              /* NULL: there is no lease record of it in any store */
    const VlBackendOps *backend; /* who guards it instead then (backend.h) */
    char *key;                   /* "rbd:FSID/POOLID/NS/IMAGEID": the identity; sorts the same on every host */
    char *display;               /* "rbd:rbd/vm1-root": for people */
    void *priv;                  /* the store's or backend's, freed by their volume_free */
} VlVolume;

VlVolume *vl_volume_ref(VlVolume *volume);
void vl_volume_unref(VlVolume *volume);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlVolume, vl_volume_unref)

/* A client seen on a volume: one entry of the watcher list. */
typedef struct {
    char *addr;     /* "10.1.2.3:0/123456", no type prefix, as the blocklist wants it */
    guint64 client; /* the client's global id */
    guint64 cookie;
} VlWatcher;

/* The holder of the image's own exclusive lock, as stored. */
typedef struct {
    char *entity; /* "client.4123" */
    char *cookie; /* "auto 94012345678" */
    char *addr;   /* as VlWatcher.addr */
    bool managed; /* librbd's/krbd's own lock (tag "internal"); false: an advisory lock of somebody's */
} VlLockOwner;

VlLockOwner *vl_lock_owner_copy(const VlLockOwner *owner);
void vl_lock_owner_free(VlLockOwner *owner);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlLockOwner, vl_lock_owner_free)

/* What one look at a volume shows. Members not asked for stay NULL. The watcher list never contains
 * this daemon's own handles. */
enum { VL_LOOK_RECORD = 1, VL_LOOK_WATCHERS = 2, VL_LOOK_OWNER = 4, VL_LOOK_ALL = 7 };
typedef struct {
    VlVolume *volume;                /* in, borrowed */
    GBytes *record;                  /* NULL: there is no lease record */
    GPtrArray *watchers;             /* of VlWatcher */
    VlLockOwner *owner;              /* NULL: nobody owns the exclusive lock */
    gboolean exclusive_lock_feature; /* with VL_LOOK_OWNER: the image has the exclusive-lock feature */
    GError *error;
} VlLook;
void vl_look_clear(VlLook *look); /* frees everything but `volume`; zeroes the results */

/* One compare-and-swap of a lease record. `expect` NULL: only if there is none; `replace` NULL: remove
 * it. Error CHANGED: the record was something else, nothing was written. Any other error: the
 * write may or may not have been applied (read back to know; R18). What a look shows after the error
 * is final for this process: a write that was not applied by then is not sent any more. */
typedef struct {
    VlVolume *volume; /* in, borrowed */
    GBytes *expect;   /* in, borrowed */
    GBytes *replace;  /* in, borrowed */
    GError *error;
} VlCas;

/* One blocklist entry wanted. `until` is the expiry the monitor really has afterwards, read back from
 * the blocklist in one go (unix seconds; 0 = not in the list, which is also an error). */
typedef struct {
    const char *addr; /* in, borrowed: IP:PORT/NONCE with a nonce that is not 0 */
    gint64 until;
    GError *error;
} VlFenceEntry;

/* A host's session object as stored. Reading it is one operation. */
typedef struct {
    gboolean present;
    GBytes *identity; /* the guarded part: JSON (session.c) */
    guint64 counter;
} VlSessionObject;
void vl_session_object_clear(VlSessionObject *object);

/* What a challenge brought. */
typedef struct {
    gboolean anybody; /* somebody was watching when it was sent; false = "unknown" */
    GPtrArray *acks;  /* of GBytes: each reply payload (partial replies count) */
} VlChallengeResult;
void vl_challenge_result_clear(VlChallengeResult *result);

/* Called on a thread of the store's for every challenge that reaches one of our watches. Must answer
 * within milliseconds and without calling the store. The reply is sent as the ack; NULL: do not ack. */
typedef GBytes *(*VlChallengeFunc)(VlPlace *place, GBytes *payload, gpointer opaque);

struct VlStoreOps {
    const char *name; /* "rbd" */

    /* Spelling to identity. Connects to the cluster when needed. Errors: MISSING (names pool or
     * image), DENIED, STORAGE. */
    VlVolume *(*resolve)(VlStore *store, const struct vl_volume_spec *spec, gint64 deadline, GError **error);
    void (*volume_free)(VlVolume *volume);
    /* Back from an index entry (place and key as in VlVolume.key, plus the display name); no storage
     * access until it is looked at. */
    VlVolume *(*volume_from_key)(VlPlace *place, const char *key, const char *display, GError **error);
    /* Every place of the default cluster in which some host has registered a session; MISSING pools
     * and those our user may not read are left out, and with a log message those that do not answer,
     * so that one broken pool does not hide the others. Elements are borrowed. */
    GPtrArray *(*places)(VlStore *store, gint64 deadline, GError **error);

    bool (*look)(VlLook *looks, size_t n, unsigned int what, gint64 deadline);
    bool (*cas)(VlCas *cas, size_t n, gint64 deadline);

    /* Blocklists all addresses at once, `expire` seconds from now, then reads the list back. Refuses
     * addresses without nonce or with nonce 0, which would be the whole host (VL_ERR_FENCE). True =
     * each is in the list, at least until `until`: an older, shorter entry is no error here. */
    bool (*fence)(VlPlace *place, VlFenceEntry *entries, size_t n, guint64 expire, gint64 deadline);
    /* The blocklist as it is: address (char *) to expiry (gint64 unix seconds, boxed by g_new). */
    GHashTable *(*blocklist)(VlPlace *place, gint64 deadline, GError **error);
    /* This daemon's handle has seen the newest map when it returns true. */
    bool (*barrier)(VlPlace *place, gint64 deadline, GError **error);
    /* Removes exactly this owner (entity and cookie) from the exclusive lock; already gone is success. */
    bool (*break_lock)(VlVolume *volume, const VlLockOwner *owner, gint64 deadline, GError **error);

    /* Sessions. `identity` is compared byte for byte. create: only if the object is absent. swap: only
     * if it still has `expect`. renew: one write op that stores the counter if identity is still
     * `expect`; CHANGED otherwise, MISSING when the object is gone. `list` returns the ids of all
     * hosts that ever registered in the place. create also registers the host id there. */
    bool (*session_read)(VlPlace *place, const char *host, VlSessionObject *ret, gint64 deadline, GError **error);
    bool (*session_create)(VlPlace *place, const char *host, GBytes *identity, gint64 deadline, GError **error);
    bool (*session_swap)(VlPlace *place, const char *host, GBytes *expect, GBytes *identity, gint64 deadline,
                         GError **error);
    bool (*session_renew)(VlPlace *place, const char *host, GBytes *expect, guint64 counter, gint64 deadline,
                          GError **error);
    GPtrArray *(*session_list)(VlPlace *place, gint64 deadline, GError **error); /* of char * */
    /* Watches our own session object for challenges until unwatch; replaces an earlier watch. When
     * the storage reports the watch broken, `watch_ok` returns false until watched again. Once
     * unwatch has returned (or a watch has failed), func does not run any more: `opaque` may go. */
    bool (*session_watch)(VlPlace *place, const char *host, VlChallengeFunc func, gpointer opaque, gint64 deadline,
                          GError **error);
    bool (*session_watch_ok)(VlPlace *place, const char *host);
    void (*session_unwatch)(VlPlace *place, const char *host);
    /* Asks everybody who watches that host's session object; they have `timeout_s` (>= 1) seconds, and
     * the storage 1.5 s more to say so, else STORAGE. */
    bool (*challenge)(VlPlace *place, const char *host, GBytes *payload, guint timeout_s, VlChallengeResult *ret,
                      GError **error);

    /* Index of the leases a host holds in a place: volume key to a small JSON text (display name, VM). */
    bool (*index_set)(VlPlace *place, const char *host, GHashTable *entries, gint64 deadline, GError **error);
    bool (*index_del)(VlPlace *place, const char *host, GPtrArray *keys, gint64 deadline, GError **error);
    GHashTable *(*index_list)(VlPlace *place, const char *host, gint64 deadline, GError **error);

    /* After our own client was blocklisted or a renewal timed out: makes the place usable again (waits
     * for the newest map; reconnects when blocklisted: *ret_reconnected). Watches must be set again
     * after a reconnect. Places of one cluster share a client, but a place that is watched keeps
     * failing until its own recover(), so that every session notices. */
    bool (*recover)(VlPlace *place, gboolean *ret_reconnected, gint64 deadline, GError **error);
    /* The IP of this daemon's own handle in the place, for "never one of our own": VlWatcher.addr
     * without ":PORT/NONCE" (IPv6 in brackets). NULL = unknown. */
    char *(*own_address)(VlPlace *place);
    void (*free)(VlStore *store);
};

#endif

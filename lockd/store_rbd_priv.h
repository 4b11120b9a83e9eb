/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the RBD store share.
 *
 *   SrbdStore ── targets (a spelling: conf file, monitors) ──▶ SrbdCluster (one per fsid) ── conn
 * ──▶ SrbdConn └─────── places (fsid, pool id, namespace) ── io ──▶ SrbdIo ──▶ SrbdConn (one
 * rados_t) └── images (weak) ──▶ SrbdImage ── handle ──▶ SrbdHandle (read-only rbd_image_t)
 *
 * Targets, clusters and places live as long as the store. Conn, io, image and handle are counted,
 * and go on a thread of the store's, because rados_shutdown() and rbd_close() may block.
 *
 * No caller ever waits inside a Ceph call: an op is a SrbdJob, which librados completes (aio) or a
 * pool thread runs (where there is only a blocking call), and the caller waits for it until its
 * deadline. A job owns everything it touches, so a caller may leave it behind. store->lock is only
 * held for table look-ups and pointer swaps, never over a Ceph call.
 *
 * Result codes are librados' negative errno; SRBD_LATE and below is "the deadline passed first".
 */
#ifndef VL_LOCKD_STORE_RBD_PRIV_H
#define VL_LOCKD_STORE_RBD_PRIV_H

#include <rados/librados.h>
#include <rbd/librbd.h>

#include "lockd/error.h"
#include "lockd/store_rbd.h"

#define SRBD_HOSTS_OBJECT  "virtlease.hosts" /* omap: host id -> "" of all that ever registered */
#define SRBD_HOST_PREFIX   "virtlease.host." /* one session object per host */
#define SRBD_RECORD_XATTR  "virtlease"       /* on rbd_header.<image id> */
#define SRBD_SESSION_XATTR "virtlease.session"
/* RBD_LOCK_NAME of src/include/rbd_types.h: librbd's managed, librbd's advisory and krbd's lock. */
#define SRBD_LOCK_NAME "rbd_lock"

/* SRBD_LATE - ms: not answered within ms milliseconds, when the caller's deadline passed. */
#define SRBD_LATE (-1000000)

typedef struct SrbdStore SrbdStore;
typedef struct SrbdTarget SrbdTarget;
typedef struct SrbdCluster SrbdCluster;
typedef struct SrbdConn SrbdConn;
typedef struct SrbdIo SrbdIo;
typedef struct SrbdPlace SrbdPlace;
typedef struct SrbdImage SrbdImage;
typedef struct SrbdHandle SrbdHandle;
typedef struct SrbdWait SrbdWait;
typedef struct SrbdJob SrbdJob;

struct SrbdStore {
    VlStore base;
    char *conf;
    char *user; /* "admin" */
    guint op_timeout_s;
    GMutex lock;
    GCond cond; /* an attempt ended; live went down */
    GHashTable *targets;
    GHashTable *clusters;
    GHashTable *places;
    GThreadPool *threads; /* unbounded: connects, barriers, shutdowns */
    guint live;           /* connections not yet shut down, attempts not yet over */
};

struct SrbdCluster {
    SrbdStore *store;
    char *fsid;
    SrbdConn *conn;     /* under store->lock */
    GPtrArray *targets; /* borrowed; the ways to reach it, under store->lock */
    /* Bounded and per cluster, so that a dead one cannot eat the threads of another. */
    GThreadPool *osd_pool;
    GThreadPool *mon_pool;
    gint handles; /* open images, atomic */
};

struct SrbdConn {
    gint refs;
    SrbdStore *store;
    SrbdCluster *cluster; /* set before anybody else sees the connection */
    rados_t rados;
    char *fsid;
    guint64 client; /* our own global id */
    GMutex barrier_lock;
    GCond barrier_cond;
    guint64 barrier_started, barrier_done, barrier_wanted; /* numbers of map waits */
    int barrier_rc;
    bool barrier_running;
};

struct SrbdIo {
    gint refs;
    SrbdConn *conn;
    rados_ioctx_t ioctx;
};

struct SrbdPlace {
    VlPlace base;
    SrbdCluster *cluster;
    gint64 pool_id;
    char *pool;
    char *ns;
    SrbdIo *io;          /* under store->lock */
    GHashTable *watches; /* host id -> SrbdWatch, under store->lock */
    GHashTable *images;  /* image id -> SrbdImage, weak, under store->lock */
};

/* VlVolume.priv: shared by all volumes of one key, so that they share the open handle. */
struct SrbdImage {
    gint refs; /* under store->lock, for the weak table */
    SrbdPlace *place;
    char *id;
    char *header; /* "rbd_header.<id>" */
    GMutex lock;
    SrbdHandle *handle;
};

struct SrbdHandle {
    gint refs;
    SrbdIo *io;
    rbd_image_t image;
};

/* --- store_rbd_job.c: waiting with a deadline --- */

struct SrbdJob {
    gint refs;
    SrbdWait *wait;
    SrbdConn *conn;
    SrbdIo *io; /* NULL: needs none */
    bool done;  /* done and rc: under the wait's lock */
    int rc;
    int (*run)(SrbdJob *job);    /* blocking jobs: on a pool thread, returns rc */
    void (*clear)(SrbdJob *job); /* frees what the embedding struct owns */
    rados_read_op_t read_op;     /* aio ops: one of these */
    rados_write_op_t write_op;
    rados_completion_t completion;
};

SrbdWait *srbd_wait_new(void);
void srbd_wait_unref(SrbdWait *wait);
/* Until every job of it is done or the deadline passed; then nobody waits any more. */
void srbd_wait_until(SrbdWait *wait, gint64 deadline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SrbdWait, srbd_wait_unref)

/* A job owns what it makes until a caller that saw it done takes it; clear() frees the rest.
 * A job of `size` bytes whose first member is a SrbdJob. `wait` NULL: a wait of its own. */
gpointer srbd_job_new(gsize size, SrbdWait *wait, SrbdConn *conn, SrbdIo *io, void (*clear)(SrbdJob *));
void srbd_job_unref(gpointer job);
/* Starts the read or write op on `oid`, or `run` on a pool thread. */
void srbd_job_operate(SrbdJob *job, const char *oid);
void srbd_job_run(SrbdJob *job, GThreadPool *pool, int (*run)(SrbdJob *job));
/* For jobs that librados completes in other ways (watch, notify). */
rados_completion_t srbd_job_completion(SrbdJob *job);
void srbd_job_not_started(SrbdJob *job, int rc);
/* After srbd_wait_until: the result, or SRBD_LATE - ms. A late job is cancelled as far as it can
 * be; its members must not be read. */
int srbd_job_result(SrbdJob *job);
/* True once nobody waits any more. */
bool srbd_job_abandoned(SrbdJob *job);
/* Waits for one job that has a wait of its own. */
int srbd_job_await(SrbdJob *job, gint64 deadline);
#define SRBD_AUTO_JOB __attribute__((cleanup(srbd_job_cleanup)))
void srbd_job_cleanup(gpointer job_pointer);

/* Sets an error for rc (which is < 0): code by cause, message "WHAT: reason". */
void srbd_error(GError **error, SrbdStore *store, int rc, const char *format, ...) G_GNUC_PRINTF(4, 5);

/* func(data) on a thread of the pool, which must be one of the store's. */
void srbd_spawn(GThreadPool *pool, void (*func)(gpointer data), gpointer data);
GThreadPool *srbd_pool_new(gint max_threads);

/* --- store_rbd_cluster.c: connections --- */

SrbdTarget *srbd_target_get(SrbdStore *store, const char *conf, const char *mon_hosts);
void srbd_target_free(gpointer target);
void srbd_cluster_free(gpointer cluster);
/* Connects when that was never done; concurrent callers share one attempt. */
SrbdCluster *srbd_target_cluster(SrbdTarget *target, gint64 deadline, GError **error);
SrbdConn *srbd_cluster_conn(SrbdCluster *cluster);
/* Replaces `old` by a new client, unless somebody already did; returns the current one. */
SrbdConn *srbd_cluster_reconnect(SrbdCluster *cluster, SrbdConn *old, gint64 deadline, GError **error);
SrbdConn *srbd_conn_ref(SrbdConn *conn);
void srbd_conn_unref(SrbdConn *conn);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SrbdConn, srbd_conn_unref)
/* rados_wait_for_latest_osdmap() that begins after this call; at most one runs per connection. */
int srbd_conn_barrier(SrbdConn *conn, gint64 deadline);

/* --- store_rbd_place.c: pools and namespaces --- */

SrbdIo *srbd_io_ref(SrbdIo *io);
void srbd_io_unref(SrbdIo *io);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SrbdIo, srbd_io_unref)
/* May block. NULL with *ret_rc < 0 on failure. */
SrbdIo *srbd_io_create(SrbdConn *conn, gint64 pool_id, const char *ns, int *ret_rc);
/* By pool name, or by id when name is NULL; -ENOENT: no such pool. */
int srbd_io_open(SrbdConn *conn, const char *pool, const char *ns, gint64 *pool_id, SrbdIo **ret_io, gint64 deadline);
SrbdPlace *srbd_place_intern(SrbdCluster *cluster, gint64 pool_id, const char *pool, const char *ns, SrbdIo *io);
void srbd_place_free(gpointer place);
/* The ioctx to use. A place with a session keeps its client until recover(), so that a blocklisted
 * client is always noticed by the session; other places follow the cluster's current client. */
SrbdIo *srbd_place_io(VlPlace *place, gint64 deadline, GError **error);
static inline SrbdPlace *
srbd_place(VlPlace *place)
{
    return (SrbdPlace *)place;
}
static inline SrbdStore *
srbd_place_store(VlPlace *place)
{
    return (SrbdStore *)place->store;
}
bool srbd_recover(VlPlace *place, gboolean *ret_reconnected, gint64 deadline, GError **error);
char *srbd_own_address(VlPlace *place);

/* --- store_rbd_places.c --- */

GPtrArray *srbd_places(VlStore *store, gint64 deadline, GError **error);

/* --- store_rbd_image.c: handles, compare-and-swap, breaking the lock --- */

SrbdImage *srbd_image_get(SrbdPlace *place, const char *id);
SrbdImage *srbd_image_ref(SrbdImage *image);
void srbd_image_unref(SrbdImage *image);
/* The id of an image from its rbd_id object. */
int srbd_image_read_id(SrbdIo *io, const char *name, char **ret_id, gint64 deadline);
/* The image opened read-only; may block. */
int srbd_image_handle(SrbdImage *image, SrbdIo *io, SrbdHandle **ret_handle);
void srbd_image_set_handle(SrbdImage *image, SrbdHandle *handle);
void srbd_handle_unref(gpointer handle); /* may block */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SrbdHandle, srbd_handle_unref)
bool srbd_cas(VlCas *cas, size_t n, gint64 deadline);
bool srbd_break_lock(VlVolume *volume, const VlLockOwner *owner, gint64 deadline, GError **error);

/* --- store_rbd_look.c: records, watchers, owner --- */

bool srbd_look(VlLook *looks, size_t n, unsigned int what, gint64 deadline);
/* An address as the blocklist names it: without "v1:", "v2:" or "any:". */
char *srbd_address_plain(const char *addr);

/* --- store_rbd_fence.c: monitor commands --- */

/* The canonical spelling of IP:PORT/NONCE; NULL for anything that is not one client's address. */
char *srbd_address_canonical(const char *addr);
bool srbd_fence(VlPlace *place, VlFenceEntry *entries, size_t n, guint64 expire, gint64 deadline);
GHashTable *srbd_blocklist(VlPlace *place, gint64 deadline, GError **error);
bool srbd_barrier(VlPlace *place, gint64 deadline, GError **error);

/* --- store_rbd_session.c: session object, index --- */

char *srbd_session_oid(const char *host);
bool srbd_session_read(VlPlace *place, const char *host, VlSessionObject *ret, gint64 deadline, GError **error);
bool srbd_session_create(VlPlace *place, const char *host, GBytes *identity, gint64 deadline, GError **error);
bool srbd_session_swap(VlPlace *place, const char *host, GBytes *expect, GBytes *identity, gint64 deadline,
                       GError **error);
bool srbd_session_renew(VlPlace *place, const char *host, GBytes *expect, guint64 counter, gint64 deadline,
                        GError **error);
GPtrArray *srbd_session_list(VlPlace *place, gint64 deadline, GError **error);
bool srbd_index_set(VlPlace *place, const char *host, GHashTable *entries, gint64 deadline, GError **error);
bool srbd_index_del(VlPlace *place, const char *host, GPtrArray *keys, gint64 deadline, GError **error);
GHashTable *srbd_index_list(VlPlace *place, const char *host, gint64 deadline, GError **error);

/* --- store_rbd_watch.c: challenges, both ends --- */

typedef struct SrbdWatch SrbdWatch;
bool srbd_session_watch(VlPlace *place, const char *host, VlChallengeFunc func, gpointer opaque, gint64 deadline,
                        GError **error);
bool srbd_session_watch_ok(VlPlace *place, const char *host);
void srbd_session_unwatch(VlPlace *place, const char *host);
bool srbd_challenge(VlPlace *place, const char *host, GBytes *payload, guint timeout_s, VlChallengeResult *ret,
                    GError **error);
/* No callback of it runs or will run when this returns; the storage side is undone in the
 * background. */
void srbd_watch_close(gpointer watch);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Challenges: notifies on a session object. The owner's end is a watch whose callback acks, on a
 * librados thread; the asker's end is a notify that collects the acks.
 *
 * librados gives the callback one pointer, and may call it while the watch is being taken down. So
 * the pointer is a number that is never used again, and looked up in a table: a watch that was
 * closed is not in it any more. watch->lock is held while the challenge function runs, so closing
 * waits for it (milliseconds, see VlChallengeFunc), and guards the handle: librados takes it for a
 * pointer.
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>

/* Not less than 15: an OSD that is marked down late would cost us the watch otherwise (R22). 30 is
 * also osd_client_watch_timeout. */
#define WATCH_TIMEOUT_S 30
/* The OSD counts the notify's timeout, in whole seconds; its verdict then has to get here. */
#define NOTIFY_GRACE_US (1500 * G_TIME_SPAN_MILLISECOND)

struct SrbdWatch {
    gint refs;
    guint64 id;
    VlPlace *place;
    SrbdIo *io;
    char *oid;
    GMutex lock;
    bool closed;
    uint64_t handle; /* 0: not registered */
    gint broken;     /* atomic */
    VlChallengeFunc func;
    gpointer opaque;
};

typedef struct {
    SrbdJob job;
    SrbdWatch *watch;
} WatchJob;

typedef struct {
    SrbdJob job;
    char *reply;
    size_t reply_len;
} NotifyJob;

static GMutex table_lock;
static GHashTable *table; /* id -> SrbdWatch, borrowed: a watch leaves it before it is freed */
static guint64 next_id;

static void
watch_unref(SrbdWatch *watch)
{
    if (!g_atomic_int_dec_and_test(&watch->refs))
        return;
    g_mutex_clear(&watch->lock);
    g_free(watch->oid);
    srbd_io_unref(watch->io);
    g_free(watch);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SrbdWatch, watch_unref)

static SrbdWatch *
watch_new(VlPlace *place, SrbdIo *io, const char *oid, VlChallengeFunc func, gpointer opaque)
{
    SrbdWatch *watch = g_new0(SrbdWatch, 1);
    watch->refs = 1;
    watch->place = place;
    watch->io = srbd_io_ref(io);
    watch->oid = g_strdup(oid);
    watch->func = func;
    watch->opaque = opaque;
    g_mutex_init(&watch->lock);
    g_mutex_lock(&table_lock);
    if (!table)
        table = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, NULL);
    watch->id = ++next_id;
    g_hash_table_insert(table, &watch->id, watch);
    g_mutex_unlock(&table_lock);
    return watch;
}

static SrbdWatch *
watch_find(void *arg)
{
    guint64 id = (guint64)(guintptr)arg;
    g_mutex_lock(&table_lock);
    SrbdWatch *watch = table ? g_hash_table_lookup(table, &id) : NULL;
    if (watch)
        g_atomic_int_inc(&watch->refs);
    g_mutex_unlock(&table_lock);
    return watch;
}

/* librados' rados_watchcb2_t */
static void
on_notify(void *arg, uint64_t notify_id, uint64_t handle, uint64_t notifier, void *data, size_t len)
{
    g_autoptr(SrbdWatch) watch = watch_find(arg);
    if (!watch)
        return;
    g_autoptr(GBytes) payload = g_bytes_new(data, len);
    g_autoptr(GBytes) reply = NULL;
    g_mutex_lock(&watch->lock);
    if (!watch->closed)
        reply = watch->func(watch->place, payload, watch->opaque);
    g_mutex_unlock(&watch->lock);
    if (!reply)
        return;
    gsize size;
    const char *bytes = g_bytes_get_data(reply, &size);
    /* Only queues the message (IoCtxImpl::notify_ack). */
    (void)rados_notify_ack(watch->io->ioctx, watch->oid, notify_id, handle, bytes, (int)size);
}

/* librados' rados_watcherrcb_t: -ENOTCONN (expired, or the object is gone) or -ESHUTDOWN. */
static void
on_broken(void *arg, uint64_t handle, int rc)
{
    g_autoptr(SrbdWatch) watch = watch_find(arg);
    if (watch)
        g_atomic_int_set(&watch->broken, 1);
}

static void
watch_undo(gpointer data)
{
    g_autoptr(SrbdWatch) watch = data;
    if (watch->handle != 0) {
        (void)rados_unwatch2(watch->io->ioctx, watch->handle);
        /* A callback that found the watch before it left the table may still use its ioctx. */
        (void)rados_watch_flush(watch->io->conn->rados);
    }
}

/* No callback of it runs or will run any more. */
static void
watch_silence(SrbdWatch *watch)
{
    g_mutex_lock(&table_lock);
    g_hash_table_remove(table, &watch->id);
    g_mutex_unlock(&table_lock);
    g_mutex_lock(&watch->lock);
    watch->closed = true;
    g_mutex_unlock(&watch->lock);
}

void
srbd_watch_close(gpointer data)
{
    SrbdWatch *watch = data;
    watch_silence(watch);
    srbd_spawn(watch->io->conn->store->threads, watch_undo, watch);
}

/* After librados is done with it, late or not. */
static void
watch_job_clear(SrbdJob *base)
{
    WatchJob *job = (WatchJob *)base;
    if (!job->watch)
        return;
    /* A registration that failed was undone by librados (C_aio_linger_Complete in IoCtxImpl.cc). */
    if (base->rc < 0)
        job->watch->handle = 0;
    srbd_watch_close(job->watch);
}

static void
watch_error(VlPlace *place, const char *host, int rc, GError **error)
{
    if (rc == -ENOENT)
        vl_set_error(error, VL_ERR_MISSING, "%s: the session object of host %s is gone", place->display, host);
    else
        srbd_error(error, srbd_place_store(place), rc, "%s: watching the session of host %s", place->display, host);
}

bool
srbd_session_watch(VlPlace *base, const char *host, VlChallengeFunc func, gpointer opaque, gint64 deadline,
                   GError **error)
{
    SrbdPlace *place = srbd_place(base);
    SrbdStore *store = srbd_place_store(base);
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(base, deadline, error);
    if (!io)
        return false;
    SRBD_AUTO_JOB WatchJob *job = srbd_job_new(sizeof(WatchJob), NULL, io->conn, io, watch_job_clear);
    SrbdWatch *watch = job->watch = watch_new(base, io, oid, func, opaque);
    rados_completion_t completion = srbd_job_completion(&job->job);
    /* The aio form, because registering a watch has no timeout (see store_rbd_job.c). */
    int rc = rados_aio_watch2(io->ioctx, oid, completion, &watch->handle, on_notify, on_broken, WATCH_TIMEOUT_S,
                              (void *)(guintptr)watch->id);
    if (rc < 0)
        srbd_job_not_started(&job->job, rc);
    rc = srbd_job_await(&job->job, deadline);
    if (rc < 0) {
        watch_silence(watch);
        watch_error(base, host, rc, error);
        return false;
    }
    job->watch = NULL;
    gpointer old_key = NULL;
    gpointer old = NULL;
    g_mutex_lock(&store->lock);
    g_hash_table_steal_extended(place->watches, host, &old_key, &old);
    g_hash_table_insert(place->watches, g_strdup(host), watch);
    g_mutex_unlock(&store->lock);
    g_free(old_key);
    if (old)
        srbd_watch_close(old);
    return true;
}

bool
srbd_session_watch_ok(VlPlace *base, const char *host)
{
    SrbdPlace *place = srbd_place(base);
    SrbdStore *store = srbd_place_store(base);
    g_mutex_lock(&store->lock);
    g_autoptr(SrbdWatch) watch = g_hash_table_lookup(place->watches, host);
    if (watch)
        g_atomic_int_inc(&watch->refs);
    bool current = watch && watch->io->conn == place->io->conn;
    g_mutex_unlock(&store->lock);
    if (!current || g_atomic_int_get(&watch->broken))
        return false;
    g_mutex_lock(&watch->lock);
    int age_ms = watch->closed ? -ENOTCONN : rados_watch_check(watch->io->ioctx, watch->handle);
    g_mutex_unlock(&watch->lock);
    return age_ms >= 0 && age_ms < WATCH_TIMEOUT_S * 1000;
}

void
srbd_session_unwatch(VlPlace *base, const char *host)
{
    SrbdPlace *place = srbd_place(base);
    SrbdStore *store = srbd_place_store(base);
    gpointer key = NULL;
    gpointer watch = NULL;
    g_mutex_lock(&store->lock);
    g_hash_table_steal_extended(place->watches, host, &key, &watch);
    g_mutex_unlock(&store->lock);
    g_free(key);
    if (watch)
        srbd_watch_close(watch);
}

/* --- the asker's end --- */

static void
notify_clear(SrbdJob *base)
{
    NotifyJob *job = (NotifyJob *)base;
    rados_buffer_free(job->reply);
}

static void
notify_collect(NotifyJob *job, VlChallengeResult *ret)
{
    struct notify_ack_t *acks = NULL;
    struct notify_timeout_t *timeouts = NULL;
    size_t n_acks = 0;
    size_t n_timeouts = 0;
    if (!job->reply || job->reply_len == 0 ||
        rados_decode_notify_response(job->reply, job->reply_len, &acks, &n_acks, &timeouts, &n_timeouts) < 0)
        return;
    for (size_t i = 0; i < n_acks; i++)
        g_ptr_array_add(ret->acks, g_bytes_new(acks[i].payload, acks[i].payload_len));
    ret->anybody = n_acks + n_timeouts > 0;
    rados_free_notify_response(acks, n_acks, timeouts);
}

bool
srbd_challenge(VlPlace *place, const char *host, GBytes *payload, guint timeout_s, VlChallengeResult *ret,
               GError **error)
{
    gint64 deadline = g_get_monotonic_time() + timeout_s * G_TIME_SPAN_SECOND + NOTIFY_GRACE_US;
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    gsize len;
    const char *data = g_bytes_get_data(payload, &len);
    SRBD_AUTO_JOB NotifyJob *job = srbd_job_new(sizeof(NotifyJob), NULL, io->conn, io, notify_clear);
    rados_completion_t completion = srbd_job_completion(&job->job);
    /* Milliseconds are divided by 1000, and 0 would mean the default of 30 s
     * (IoCtxImpl::aio_notify). */
    int rc = rados_aio_notify(io->ioctx, oid, completion, data, (int)len, (guint64)MAX(timeout_s, 1) * 1000,
                              &job->reply, &job->reply_len);
    if (rc < 0)
        srbd_job_not_started(&job->job, rc);
    rc = srbd_job_await(&job->job, deadline);
    ret->anybody = FALSE;
    ret->acks = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    /* -ETIMEDOUT is the OSD's word that somebody did not ack, with the acks of those who did. But
     * it could be a client-side timeout as well; then there is no reply. */
    if (rc >= 0 || (rc == -ETIMEDOUT && job->reply_len > 0)) {
        notify_collect(job, ret);
        return true;
    }
    if (rc == -ENOENT)
        return true;
    vl_challenge_result_clear(ret);
    srbd_error(error, io->conn->store, rc, "%s: challenging host %s", place->display, host);
    return false;
}

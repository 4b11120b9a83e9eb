/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Jobs: one Ceph operation each, waited for with a deadline.
 *
 * rados_osd_op_timeout bounds ordinary operations, but not all: watch and notify (Objecter's linger
 * ops, Objecter::_send_linger in src/osdc/Objecter.cc) and waiting for an osdmap
 * (MonClient::get_version) have no timeout at all. So nothing here relies on Ceph coming back.
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>

struct SrbdWait {
    gint refs;
    GMutex lock;
    GCond cond;
    guint pending;
    bool over; /* nobody waits any more */
    gint64 since;
    gint64 until;
};

typedef struct {
    void (*func)(gpointer data);
    gpointer data;
} Call;

SrbdWait *
srbd_wait_new(void)
{
    SrbdWait *wait = g_new0(SrbdWait, 1);
    wait->refs = 1;
    wait->since = g_get_monotonic_time();
    g_mutex_init(&wait->lock);
    g_cond_init(&wait->cond);
    return wait;
}

void
srbd_wait_unref(SrbdWait *wait)
{
    if (!wait || !g_atomic_int_dec_and_test(&wait->refs))
        return;
    g_mutex_clear(&wait->lock);
    g_cond_clear(&wait->cond);
    g_free(wait);
}

void
srbd_wait_until(SrbdWait *wait, gint64 deadline)
{
    g_mutex_lock(&wait->lock);
    while (wait->pending > 0 && g_cond_wait_until(&wait->cond, &wait->lock, deadline))
        ;
    wait->over = true;
    wait->until = g_get_monotonic_time();
    g_mutex_unlock(&wait->lock);
}

gpointer
srbd_job_new(gsize size, SrbdWait *wait, SrbdConn *conn, SrbdIo *io, void (*clear)(SrbdJob *))
{
    SrbdJob *job = g_malloc0(size);
    job->refs = 1;
    job->wait = wait ? wait : srbd_wait_new();
    if (wait)
        g_atomic_int_inc(&wait->refs);
    job->conn = srbd_conn_ref(conn);
    job->io = io ? srbd_io_ref(io) : NULL;
    job->clear = clear;
    return job;
}

void
srbd_job_unref(gpointer data)
{
    SrbdJob *job = data;
    if (!job || !g_atomic_int_dec_and_test(&job->refs))
        return;
    if (job->clear)
        job->clear(job);
    if (job->completion)
        rados_aio_release(job->completion);
    if (job->read_op)
        rados_release_read_op(job->read_op);
    if (job->write_op)
        rados_release_write_op(job->write_op);
    srbd_wait_unref(job->wait);
    srbd_io_unref(job->io);
    /* Last: while a connection lives, so does the store that the lines above may need. */
    SrbdConn *conn = job->conn;
    g_free(job);
    srbd_conn_unref(conn);
}

void
srbd_job_cleanup(gpointer job_pointer)
{
    srbd_job_unref(*(gpointer *)job_pointer);
}

static void
job_begin(SrbdJob *job)
{
    g_atomic_int_inc(&job->refs);
    g_mutex_lock(&job->wait->lock);
    job->wait->pending++;
    g_mutex_unlock(&job->wait->lock);
}

static void
job_finish(SrbdJob *job, int rc)
{
    g_mutex_lock(&job->wait->lock);
    job->rc = rc;
    /* Too late stays too late: the caller may be looking at its jobs right now. What the job made
     * is freed by its clear(). */
    job->done = !job->wait->over;
    job->wait->pending--;
    g_cond_broadcast(&job->wait->cond);
    g_mutex_unlock(&job->wait->lock);
    srbd_job_unref(job);
}

static void
job_completed(rados_completion_t completion, void *arg)
{
    job_finish(arg, rados_aio_get_return_value(completion));
}

rados_completion_t
srbd_job_completion(SrbdJob *job)
{
    job_begin(job);
    /* Never fails: it only allocates (src/librados/librados_c.cc). */
    if (rados_aio_create_completion2(job, job_completed, &job->completion) < 0)
        g_error("rados_aio_create_completion2 failed");
    return job->completion;
}

void
srbd_job_not_started(SrbdJob *job, int rc)
{
    job_finish(job, rc);
}

void
srbd_job_operate(SrbdJob *job, const char *oid)
{
    rados_completion_t completion = srbd_job_completion(job);
    int rc = job->read_op ? rados_aio_read_op_operate(job->read_op, job->io->ioctx, completion, oid, 0)
                          : rados_aio_write_op_operate(job->write_op, job->io->ioctx, completion, oid, NULL, 0);
    if (rc < 0)
        srbd_job_not_started(job, rc);
}

static void
job_on_thread(gpointer data)
{
    SrbdJob *job = data;
    /* Left behind while it was queued: what nobody waits for must not be done any more. */
    job_finish(job, srbd_job_abandoned(job) ? -ECANCELED : job->run(job));
}

void
srbd_job_run(SrbdJob *job, GThreadPool *pool, int (*run)(SrbdJob *job))
{
    job->run = run;
    job_begin(job);
    srbd_spawn(pool, job_on_thread, job);
}

bool
srbd_job_abandoned(SrbdJob *job)
{
    g_mutex_lock(&job->wait->lock);
    bool over = job->wait->over;
    g_mutex_unlock(&job->wait->lock);
    return over;
}

int
srbd_job_result(SrbdJob *job)
{
    g_mutex_lock(&job->wait->lock);
    gint64 ms = CLAMP((job->wait->until - job->wait->since) / 1000, 0, 1000000000);
    bool done = job->done;
    int rc = done ? job->rc : SRBD_LATE - (int)ms;
    g_mutex_unlock(&job->wait->lock);
    /* A write that was reported as failed must not be sent, or sent again, afterwards: what a read
     * by this client shows from now on is what is. rados_osd_op_timeout does the same (op_cancel).
     */
    if (!done && (job->read_op || job->write_op))
        (void)rados_aio_cancel(job->io->ioctx, job->completion);
    return rc;
}

int
srbd_job_await(SrbdJob *job, gint64 deadline)
{
    srbd_wait_until(job->wait, deadline);
    return srbd_job_result(job);
}

static void
call_run(gpointer data, gpointer unused)
{
    Call *call = data;
    call->func(call->data);
    g_free(call);
}

GThreadPool *
srbd_pool_new(gint max_threads)
{
    return g_thread_pool_new(call_run, NULL, max_threads, FALSE, NULL);
}

void
srbd_spawn(GThreadPool *pool, void (*func)(gpointer data), gpointer data)
{
    Call *call = g_new(Call, 1);
    call->func = func;
    call->data = data;
    /* An error here means that no further thread could be started; the call stays queued for the
     * threads that exist (g_thread_pool_push), and its caller has a deadline. */
    g_thread_pool_push(pool, call, NULL);
}

static enum vl_error
error_code(int rc)
{
    switch (rc) {
    case -ENOENT:
        return VL_ERR_MISSING;
    case -EPERM:
    case -EACCES:
        return VL_ERR_DENIED;
    case -ECANCELED:
        return VL_ERR_CHANGED;
    default:
        return VL_ERR_STORAGE;
    }
}

void
srbd_error(GError **error, SrbdStore *store, int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);

    enum vl_error code = error_code(rc);
    if (rc <= SRBD_LATE)
        vl_set_error(error, code, "%s: no answer from the cluster within %d.%d s (connection timed out)", what,
                     (SRBD_LATE - rc) / 1000, (SRBD_LATE - rc) / 100 % 10);
    else if (rc == -ETIMEDOUT)
        vl_set_error(error, code, "%s: no answer from the cluster within %u s (connection timed out)", what,
                     store->op_timeout_s);
    else if (rc == -ESHUTDOWN)
        vl_set_error(error, code, "%s: the cluster has blocklisted this host's own client (%s)", what, g_strerror(-rc));
    else if (code == VL_ERR_DENIED)
        vl_set_error(error, code,
                     "%s: Ceph user client.%s may not do this (%s); it needs the capabilities mon "
                     "'profile rbd' and osd 'profile rbd' for this pool",
                     what, store->user, g_strerror(-rc));
    else if (code == VL_ERR_CHANGED)
        vl_set_error(error, code, "%s: somebody else changed it meanwhile", what);
    else
        vl_set_error(error, code, "%s: %s", what, g_strerror(-rc));
}

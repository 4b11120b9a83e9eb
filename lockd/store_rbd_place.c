/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Places: pools and namespaces, the ioctx to each, and how one becomes usable again after our own
 * client was blocklisted. */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    SrbdJob job;
    char *pool; /* NULL: by id */
    char *ns;
    gint64 pool_id;
    SrbdIo *io;
} IoJob;

SrbdIo *
srbd_io_ref(SrbdIo *io)
{
    g_atomic_int_inc(&io->refs);
    return io;
}

void
srbd_io_unref(SrbdIo *io)
{
    if (!io || !g_atomic_int_dec_and_test(&io->refs))
        return;
    rados_ioctx_destroy(io->ioctx);
    srbd_conn_unref(io->conn);
    g_free(io);
}

SrbdIo *
srbd_io_create(SrbdConn *conn, gint64 pool_id, const char *ns, int *ret_rc)
{
    rados_ioctx_t ioctx;
    *ret_rc = rados_ioctx_create2(conn->rados, pool_id, &ioctx);
    if (*ret_rc < 0)
        return NULL;
    rados_ioctx_set_namespace(ioctx, ns);
    /* In a full pool clients do not even send writes (Objecter::_osdmap_pool_full) unless marked
     * so; ours replace what is there, and a full pool must not make a host look dead. */
    rados_set_pool_full_try(ioctx);
    SrbdIo *io = g_new0(SrbdIo, 1);
    io->refs = 1;
    io->conn = srbd_conn_ref(conn);
    io->ioctx = ioctx;
    return io;
}

static int
io_job_run(SrbdJob *base)
{
    IoJob *job = (IoJob *)base;
    int rc;
    /* Both block on the monitors when the pool is not in our map (RadosClient::lookup_pool). */
    if (job->pool) {
        job->pool_id = rados_pool_lookup(base->conn->rados, job->pool);
        if (job->pool_id < 0)
            return (int)job->pool_id;
    }
    job->io = srbd_io_create(base->conn, job->pool_id, job->ns, &rc);
    return rc;
}

static void
io_job_clear(SrbdJob *base)
{
    IoJob *job = (IoJob *)base;
    g_free(job->pool);
    g_free(job->ns);
    srbd_io_unref(job->io);
}

int
srbd_io_open(SrbdConn *conn, const char *pool, const char *ns, gint64 *pool_id, SrbdIo **ret_io, gint64 deadline)
{
    SRBD_AUTO_JOB IoJob *job = srbd_job_new(sizeof(IoJob), NULL, conn, NULL, io_job_clear);
    job->pool = g_strdup(pool);
    job->ns = g_strdup(ns);
    job->pool_id = *pool_id;
    srbd_job_run(&job->job, conn->cluster->osd_pool, io_job_run);
    int rc = srbd_job_await(&job->job, deadline);
    if (rc < 0)
        return rc;
    *pool_id = job->pool_id;
    *ret_io = g_steal_pointer(&job->io);
    return 0;
}

SrbdPlace *
srbd_place_intern(SrbdCluster *cluster, gint64 pool_id, const char *pool, const char *ns, SrbdIo *io)
{
    SrbdStore *store = cluster->store;
    g_autofree char *key = g_strdup_printf("rbd:%s/%" G_GINT64_FORMAT "/%s", cluster->fsid, pool_id, ns);
    g_mutex_lock(&store->lock);
    SrbdPlace *place = g_hash_table_lookup(store->places, key);
    if (!place) {
        place = g_new0(SrbdPlace, 1);
        place->base.store = &store->base;
        place->base.key = g_steal_pointer(&key);
        place->base.display =
            *ns ? g_strdup_printf("pool %s, namespace %s", pool, ns) : g_strdup_printf("pool %s", pool);
        place->cluster = cluster;
        place->pool_id = pool_id;
        place->pool = g_strdup(pool);
        place->ns = g_strdup(ns);
        place->io = srbd_io_ref(io);
        place->watches = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, srbd_watch_close);
        place->images = g_hash_table_new(g_str_hash, g_str_equal);
        g_hash_table_insert(store->places, place->base.key, place);
    }
    g_mutex_unlock(&store->lock);
    return place;
}

void
srbd_place_free(gpointer data)
{
    SrbdPlace *place = data;
    g_hash_table_unref(place->watches);
    g_hash_table_unref(place->images);
    srbd_io_unref(place->io);
    g_free(place->pool);
    g_free(place->ns);
    g_free(place->base.key);
    g_free(place->base.display);
    g_free(place);
}

static void
place_set_io(SrbdPlace *place, SrbdIo *io)
{
    SrbdStore *store = place->cluster->store;
    g_mutex_lock(&store->lock);
    SrbdIo *dropped = place->io;
    place->io = srbd_io_ref(io);
    g_mutex_unlock(&store->lock);
    srbd_io_unref(dropped);
}

static SrbdIo *
place_open_io(SrbdPlace *place, SrbdConn *conn, gint64 deadline, GError **error)
{
    SrbdIo *io = NULL;
    gint64 pool_id = place->pool_id;
    int rc = srbd_io_open(conn, NULL, place->ns, &pool_id, &io, deadline);
    if (rc < 0)
        srbd_error(error, place->cluster->store, rc, "%s (id %" G_GINT64_FORMAT ")", place->base.display,
                   place->pool_id);
    return io;
}

SrbdIo *
srbd_place_io(VlPlace *base, gint64 deadline, GError **error)
{
    SrbdPlace *place = srbd_place(base);
    SrbdStore *store = srbd_place_store(base);
    g_autoptr(SrbdConn) conn = NULL;
    g_autoptr(SrbdIo) io = NULL;
    g_mutex_lock(&store->lock);
    if (place->io->conn == place->cluster->conn || g_hash_table_size(place->watches) > 0)
        io = srbd_io_ref(place->io);
    else
        conn = srbd_conn_ref(place->cluster->conn);
    g_mutex_unlock(&store->lock);
    if (!io) {
        io = place_open_io(place, conn, deadline, error);
        if (io)
            place_set_io(place, io);
    }
    return g_steal_pointer(&io);
}

/* A cheap op that any RBD user may do and that a blocklisted client is refused. */
static int
io_probe(SrbdIo *io, gint64 deadline)
{
    SRBD_AUTO_JOB SrbdJob *job = srbd_job_new(sizeof(SrbdJob), NULL, io->conn, io, NULL);
    job->read_op = rados_create_read_op();
    rados_read_op_assert_exists(job->read_op);
    srbd_job_operate(job, SRBD_HOSTS_OBJECT);
    int rc = srbd_job_await(job, deadline);
    return rc == -ENOENT ? 0 : rc;
}

/* The place's own client if it is still good, else the cluster's, else a new one. */
static SrbdIo *
place_good_io(SrbdPlace *place, SrbdIo *mine, gint64 deadline, GError **error)
{
    SrbdStore *store = place->cluster->store;
    g_autoptr(SrbdConn) conn = srbd_cluster_conn(place->cluster);
    g_autoptr(SrbdIo) io = mine->conn == conn ? srbd_io_ref(mine) : place_open_io(place, conn, deadline, error);
    if (!io)
        return NULL;
    int rc = io_probe(io, deadline);
    if (rc == -ESHUTDOWN) {
        g_autoptr(SrbdConn) fresh = srbd_cluster_reconnect(place->cluster, conn, deadline, error);
        g_clear_pointer(&io, srbd_io_unref);
        io = fresh ? place_open_io(place, fresh, deadline, error) : NULL;
        if (!io)
            return NULL;
        rc = io_probe(io, deadline);
    }
    if (rc < 0) {
        srbd_error(error, store, rc, "%s%s", place->base.display,
                   rc == -ESHUTDOWN ? ", with a new client (is the whole host blocklisted?)" : "");
        return NULL;
    }
    return g_steal_pointer(&io);
}

bool
srbd_recover(VlPlace *base, gboolean *ret_reconnected, gint64 deadline, GError **error)
{
    SrbdPlace *place = srbd_place(base);
    g_mutex_lock(&place->cluster->store->lock);
    g_autoptr(SrbdIo) mine = srbd_io_ref(place->io);
    g_mutex_unlock(&place->cluster->store->lock);
    g_autoptr(SrbdIo) io = place_good_io(place, mine, deadline, error);
    if (!io)
        return false;
    int rc = srbd_conn_barrier(io->conn, deadline);
    if (rc < 0) {
        srbd_error(error, place->cluster->store, rc, "%s: waiting for the newest osdmap", base->display);
        return false;
    }
    if (io->conn != mine->conn)
        place_set_io(place, io);
    *ret_reconnected = io->conn != mine->conn;
    return true;
}

char *
srbd_own_address(VlPlace *base)
{
    SrbdPlace *place = srbd_place(base);
    g_mutex_lock(&place->cluster->store->lock);
    g_autoptr(SrbdIo) io = srbd_io_ref(place->io);
    g_mutex_unlock(&place->cluster->store->lock);
    char *addrs = NULL;
    if (rados_getaddrs(io->conn->rados, &addrs) < 0)
        return NULL;
    g_autofree char *plain = srbd_address_plain(addrs);
    free(addrs); /* strdup() of librados_c.cc */
    g_autofree char *canonical = srbd_address_canonical(plain);
    if (!canonical)
        return NULL;
    *strrchr(canonical, ':') = '\0';
    return g_steal_pointer(&canonical);
}

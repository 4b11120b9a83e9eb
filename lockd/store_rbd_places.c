/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Finding every place of the default cluster that some host has registered in. */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <string.h>

#define NAMES_START 4096
#define NAMES_TRIES 5

/* Lists names packed one after another, each with its NUL, an empty one at the end. */
typedef struct {
    SrbdJob job;
    char *names;
    size_t len;
} ListJob;

/* One pool: which of its namespaces have a directory object, and an ioctx for each. */
typedef struct {
    SrbdJob job;
    char *pool;
    gint64 pool_id;
    GPtrArray *namespaces;
    GPtrArray *ios;
} ScanJob;

static void
list_clear(SrbdJob *base)
{
    ListJob *job = (ListJob *)base;
    g_free(job->names);
}

static int
list_run(SrbdJob *base)
{
    ListJob *job = (ListJob *)base;
    int needed = NAMES_START;
    for (int try = 0; try < NAMES_TRIES && needed >= 0 && (size_t)needed > job->len; try++) {
        job->len = (size_t)needed;
        g_free(job->names);
        job->names = g_malloc0(job->len + 2);
        needed = rados_pool_list(base->conn->rados, job->names, job->len);
    }
    return needed;
}

static void
scan_clear(SrbdJob *base)
{
    ScanJob *job = (ScanJob *)base;
    g_free(job->pool);
    g_ptr_array_unref(job->namespaces);
    g_ptr_array_unref(job->ios);
}

/* What a pool that is gone or not ours to read says; it is left out. */
static bool
leave_out(int rc)
{
    return rc == -ENOENT || rc == -EPERM || rc == -EACCES;
}

static int
scan_namespace(ScanJob *job, const char *ns)
{
    uint64_t size;
    time_t mtime;
    int rc;
    g_autoptr(SrbdIo) io = srbd_io_create(job->job.conn, job->pool_id, ns, &rc);
    if (io)
        rc = rados_stat(io->ioctx, SRBD_HOSTS_OBJECT, &size, &mtime);
    if (rc >= 0) {
        g_ptr_array_add(job->namespaces, g_strdup(ns));
        g_ptr_array_add(job->ios, g_steal_pointer(&io));
    }
    return leave_out(rc) ? 0 : rc;
}

static int
list_namespaces(ScanJob *job, char **ret_names, size_t *ret_len)
{
    int rc;
    g_autoptr(SrbdIo) io = srbd_io_create(job->job.conn, job->pool_id, "", &rc);
    if (!io)
        return leave_out(rc) ? 0 : rc;
    g_autofree char *names = NULL;
    size_t len = NAMES_START;
    rc = -ERANGE;
    for (int try = 0; try < NAMES_TRIES && rc == -ERANGE; try++) {
        g_free(names);
        names = g_malloc0(len + 1);
        rc = rbd_namespace_list(io->ioctx, names, &len);
    }
    *ret_names = g_steal_pointer(&names);
    *ret_len = rc >= 0 ? len : 0;
    /* -EPERM: a user confined to namespaces may not ask. -ENOENT: no RBD images in this pool. */
    return leave_out(rc) ? 0 : rc;
}

static int
scan_run(SrbdJob *base)
{
    ScanJob *job = (ScanJob *)base;
    g_autofree char *names = NULL;
    size_t len = 0;
    job->pool_id = rados_pool_lookup(base->conn->rados, job->pool);
    if (job->pool_id < 0)
        return leave_out((int)job->pool_id) ? 0 : (int)job->pool_id;
    int rc = scan_namespace(job, "");
    if (rc >= 0)
        rc = list_namespaces(job, &names, &len);
    for (size_t at = 0; rc >= 0 && at < len && names[at]; at += strlen(names + at) + 1)
        rc = scan_namespace(job, names + at);
    return rc;
}

static ScanJob *
scan_start(SrbdWait *wait, SrbdConn *conn, const char *pool)
{
    ScanJob *job = srbd_job_new(sizeof(ScanJob), wait, conn, NULL, scan_clear);
    job->pool = g_strdup(pool);
    job->namespaces = g_ptr_array_new_with_free_func(g_free);
    job->ios = g_ptr_array_new_with_free_func((GDestroyNotify)srbd_io_unref);
    srbd_job_run(&job->job, conn->cluster->osd_pool, scan_run);
    return job;
}

/* A pool that does not answer must not hide the others; *first gets its error. */
static void
scan_collect(ScanJob *job, GPtrArray *places, GError **first)
{
    int rc = srbd_job_result(&job->job);
    if (rc < 0) {
        g_autoptr(GError) error = NULL;
        /* job->pool was set before the job started, so it may be read even when the job is late. */
        srbd_error(&error, job->job.conn->store, rc, "pool %s is left out", job->pool);
        g_message("%s", error->message);
        if (!*first)
            *first = g_steal_pointer(&error);
        return;
    }
    for (guint i = 0; i < job->namespaces->len; i++)
        g_ptr_array_add(places, srbd_place_intern(job->job.conn->cluster, job->pool_id, job->pool,
                                                  job->namespaces->pdata[i], job->ios->pdata[i]));
}

GPtrArray *
srbd_places(VlStore *base, gint64 deadline, GError **error)
{
    SrbdStore *store = (SrbdStore *)base;
    SrbdCluster *cluster = srbd_target_cluster(srbd_target_get(store, NULL, NULL), deadline, error);
    if (!cluster)
        return NULL;
    g_autoptr(SrbdConn) conn = srbd_cluster_conn(cluster);
    SRBD_AUTO_JOB ListJob *list = srbd_job_new(sizeof(ListJob), NULL, conn, NULL, list_clear);
    srbd_job_run(&list->job, cluster->osd_pool, list_run);
    int rc = srbd_job_await(&list->job, deadline);
    if (rc < 0) {
        srbd_error(error, store, rc, "listing the pools of Ceph cluster %s", cluster->fsid);
        return NULL;
    }
    g_autoptr(SrbdWait) wait = srbd_wait_new();
    g_autoptr(GPtrArray) scans = g_ptr_array_new_with_free_func(srbd_job_unref);
    for (char *name = list->names; *name; name += strlen(name) + 1)
        g_ptr_array_add(scans, scan_start(wait, conn, name));
    srbd_wait_until(wait, deadline);
    g_autoptr(GPtrArray) places = g_ptr_array_new();
    g_autoptr(GError) first = NULL;
    for (guint i = 0; i < scans->len; i++)
        scan_collect(scans->pdata[i], places, &first);
    if (places->len || !first)
        return g_steal_pointer(&places);
    /* "Nothing there" would be a guess: an HA manager must hear that it could not be told. */
    g_propagate_error(error, g_steal_pointer(&first));
    return NULL;
}

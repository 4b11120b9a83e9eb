/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The session object of a host, virtlease.host.<host id>:
 *   xattr virtlease.session   the identity, compared byte for byte by every write
 *   data                      the counter, decimal text of fixed width: renewing never grows the
 *                             object, so it works in a full pool
 *   omap                      the index of leases: volume key -> small JSON text
 * and the directory virtlease.hosts, whose omap keys are the ids of all hosts that ever registered.
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <string.h>

#define COUNTER_WIDTH 20 /* digits of 2^64 - 1 */
/* At most osd_max_omap_entries_per_request (1024) come back, whatever is asked. */
#define OMAP_BATCH 1000

typedef struct {
    SrbdJob job;
    rados_xattrs_iter_t xattrs;
    char counter[COUNTER_WIDTH + 1];
    size_t counter_len;
    int counter_rc;
} ReadJob;

typedef struct {
    SrbdJob job;
    rados_omap_iter_t iter;
    unsigned char more;
    int rc;
} OmapJob;

char *
srbd_session_oid(const char *host)
{
    return g_strconcat(SRBD_HOST_PREFIX, host, NULL);
}

static void
read_clear(SrbdJob *base)
{
    ReadJob *job = (ReadJob *)base;
    rados_getxattrs_end(job->xattrs);
}

static void
read_collect(ReadJob *job, VlSessionObject *ret)
{
    const char *name;
    const char *value;
    size_t len;
    while (rados_getxattrs_next(job->xattrs, &name, &value, &len) == 0 && name) {
        if (strcmp(name, SRBD_SESSION_XATTR) == 0)
            ret->identity = g_bytes_new(value, len);
    }
    /* The buffer is one byte longer than what was read, and zeroed. */
    ret->counter = g_ascii_strtoull(job->counter, NULL, 10);
    ret->present = TRUE;
}

bool
srbd_session_read(VlPlace *place, const char *host, VlSessionObject *ret, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    SRBD_AUTO_JOB ReadJob *job = srbd_job_new(sizeof(ReadJob), NULL, io->conn, io, read_clear);
    rados_read_op_t op = job->job.read_op = rados_create_read_op();
    rados_read_op_getxattrs(op, &job->xattrs, NULL);
    rados_read_op_read(op, 0, COUNTER_WIDTH, job->counter, &job->counter_len, &job->counter_rc);
    srbd_job_operate(&job->job, oid);
    int rc = srbd_job_await(&job->job, deadline);
    memset(ret, 0, sizeof(*ret));
    if (rc >= 0)
        read_collect(job, ret);
    else if (rc != -ENOENT)
        srbd_error(error, io->conn->store, rc, "%s: reading the session of host %s", place->display, host);
    return rc >= 0 || rc == -ENOENT;
}

/* Does `op` (which it takes) on `oid`. */
static int
write_op(SrbdIo *io, const char *oid, rados_write_op_t op, gint64 deadline)
{
    SRBD_AUTO_JOB SrbdJob *job = srbd_job_new(sizeof(SrbdJob), NULL, io->conn, io, NULL);
    job->write_op = op;
    srbd_job_operate(job, oid);
    return srbd_job_await(job, deadline);
}

static void
add_compare(rados_write_op_t op, GBytes *expect)
{
    gsize len;
    const char *data = g_bytes_get_data(expect, &len);
    rados_write_op_assert_exists(op);
    rados_write_op_cmpxattr(op, SRBD_SESSION_XATTR, LIBRADOS_CMPXATTR_OP_EQ, data ? data : "", len);
}

static void
add_identity(rados_write_op_t op, GBytes *identity)
{
    gsize len;
    const char *data = g_bytes_get_data(identity, &len);
    rados_write_op_setxattr(op, SRBD_SESSION_XATTR, data ? data : "", len);
}

static void
add_counter(rados_write_op_t op, guint64 counter)
{
    char text[COUNTER_WIDTH + 1];
    g_snprintf(text, sizeof(text), "%0*" G_GINT64_MODIFIER "u", COUNTER_WIDTH, counter);
    rados_write_op_write_full(op, text, COUNTER_WIDTH);
}

static bool
session_result(VlPlace *place, const char *host, const char *verb, int rc, GError **error)
{
    if (rc == -ENOENT)
        vl_set_error(error, VL_ERR_MISSING, "%s: the session object of host %s is gone", place->display, host);
    else if (rc < 0)
        srbd_error(error, srbd_place_store(place), rc, "%s: %s the session of host %s", place->display, verb, host);
    return rc >= 0;
}

bool
srbd_session_create(VlPlace *place, const char *host, GBytes *identity, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    /* First the directory: a session must never exist without being listed. */
    const char *value = "";
    size_t key_len = strlen(host);
    size_t value_len = 0;
    rados_write_op_t op = rados_create_write_op();
    rados_write_op_omap_set2(op, &host, &value, &key_len, &value_len, 1);
    int rc = write_op(io, SRBD_HOSTS_OBJECT, op, deadline);
    if (rc < 0) {
        srbd_error(error, io->conn->store, rc, "%s: registering host %s in %s", place->display, host,
                   SRBD_HOSTS_OBJECT);
        return false;
    }
    op = rados_create_write_op();
    rados_write_op_create(op, LIBRADOS_CREATE_EXCLUSIVE, NULL);
    add_identity(op, identity);
    add_counter(op, 0);
    rc = write_op(io, oid, op, deadline);
    return session_result(place, host, "creating", rc == -EEXIST ? -ECANCELED : rc, error);
}

bool
srbd_session_swap(VlPlace *place, const char *host, GBytes *expect, GBytes *identity, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    rados_write_op_t op = rados_create_write_op();
    add_compare(op, expect);
    add_identity(op, identity);
    return session_result(place, host, "changing", write_op(io, oid, op, deadline), error);
}

bool
srbd_session_renew(VlPlace *place, const char *host, GBytes *expect, guint64 counter, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    rados_write_op_t op = rados_create_write_op();
    add_compare(op, expect);
    add_counter(op, counter);
    return session_result(place, host, "renewing", write_op(io, oid, op, deadline), error);
}

/* --- omap --- */

static void
omap_clear(SrbdJob *base)
{
    OmapJob *job = (OmapJob *)base;
    rados_omap_get_end(job->iter);
}

static char *
omap_collect(OmapJob *job, GHashTable *into)
{
    char *key;
    char *value;
    size_t key_len;
    size_t value_len;
    char *last = NULL;
    while (rados_omap_get_next2(job->iter, &key, &value, &key_len, &value_len) == 0 && key) {
        g_free(last);
        last = g_strndup(key, key_len);
        g_hash_table_replace(into, g_strdup(last), g_strndup(value ? value : "", value_len));
    }
    return last;
}

/* All of an object's omap; a missing object has none. NULL with *ret_rc set on failure. */
static GHashTable *
omap_read(SrbdIo *io, const char *oid, gint64 deadline, int *ret_rc)
{
    g_autoptr(GHashTable) all = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autofree char *after = g_strdup("");
    bool more = true;
    while (more) {
        SRBD_AUTO_JOB OmapJob *job = srbd_job_new(sizeof(OmapJob), NULL, io->conn, io, omap_clear);
        job->job.read_op = rados_create_read_op();
        rados_read_op_omap_get_vals2(job->job.read_op, after, "", OMAP_BATCH, &job->iter, &job->more, &job->rc);
        srbd_job_operate(&job->job, oid);
        *ret_rc = srbd_job_await(&job->job, deadline);
        if (*ret_rc == -ENOENT)
            break;
        if (*ret_rc < 0)
            return NULL;
        g_autofree char *last = omap_collect(job, all);
        more = job->more && last;
        if (last) {
            g_free(after);
            after = g_steal_pointer(&last);
        }
    }
    return g_steal_pointer(&all);
}

GPtrArray *
srbd_session_list(VlPlace *place, gint64 deadline, GError **error)
{
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return NULL;
    int rc = 0;
    g_autoptr(GHashTable) omap = omap_read(io, SRBD_HOSTS_OBJECT, deadline, &rc);
    if (!omap) {
        srbd_error(error, io->conn->store, rc, "%s: listing the hosts", place->display);
        return NULL;
    }
    GPtrArray *hosts = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer key;
    g_hash_table_iter_init(&iter, omap);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        g_ptr_array_add(hosts, g_strdup(key));
    return hosts;
}

static bool
index_result(VlPlace *place, const char *host, const char *verb, int rc, GError **error)
{
    if (rc == -ENOENT)
        vl_set_error(error, VL_ERR_MISSING, "%s: the session object of host %s is gone", place->display, host);
    else if (rc < 0)
        srbd_error(error, srbd_place_store(place), rc, "%s: %s the lease index of host %s", place->display, verb, host);
    return rc >= 0;
}

bool
srbd_index_set(VlPlace *place, const char *host, GHashTable *entries, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    guint n = g_hash_table_size(entries);
    g_autofree const char **keys = g_new0(const char *, n + 1);
    g_autofree const char **values = g_new0(const char *, n + 1);
    g_autofree size_t *key_lens = g_new0(size_t, n + 1);
    g_autofree size_t *value_lens = g_new0(size_t, n + 1);
    GHashTableIter iter;
    gpointer key;
    gpointer value;
    g_hash_table_iter_init(&iter, entries);
    for (guint i = 0; g_hash_table_iter_next(&iter, &key, &value); i++) {
        keys[i] = key;
        values[i] = value;
        key_lens[i] = strlen(key);
        value_lens[i] = strlen(value);
    }
    rados_write_op_t op = rados_create_write_op();
    rados_write_op_assert_exists(op);
    rados_write_op_omap_set2(op, keys, values, key_lens, value_lens, n);
    return index_result(place, host, "writing", write_op(io, oid, op, deadline), error);
}

bool
srbd_index_del(VlPlace *place, const char *host, GPtrArray *keys, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    g_autofree size_t *lens = g_new0(size_t, keys->len + 1);
    for (guint i = 0; i < keys->len; i++)
        lens[i] = strlen(keys->pdata[i]);
    rados_write_op_t op = rados_create_write_op();
    rados_write_op_assert_exists(op);
    rados_write_op_omap_rm_keys2(op, (char const *const *)keys->pdata, lens, keys->len);
    return index_result(place, host, "writing", write_op(io, oid, op, deadline), error);
}

GHashTable *
srbd_index_list(VlPlace *place, const char *host, gint64 deadline, GError **error)
{
    g_autofree char *oid = srbd_session_oid(host);
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return NULL;
    int rc = 0;
    GHashTable *omap = omap_read(io, oid, deadline, &rc);
    if (!omap)
        index_result(place, host, "reading", rc, error);
    return omap;
}

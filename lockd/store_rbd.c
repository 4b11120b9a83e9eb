/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The RBD store: constructor, resolving a spelling to a volume, finding places, the ops table.
 * store_rbd_priv.h shows the objects and how they hang together.
 *
 * The daemon is never a user of an image: it opens images read-only and never acquires a lock. It
 * blocklists and breaks exactly what it is told to; nothing here decides.
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <string.h>

#define OP_TIMEOUT_DEFAULT_S 5
/* A pool may be removed and created again under the same name while we look; more often is a loop.
 */
#define RESOLVE_TRIES 3

/* --- resolve --- */

static void
image_missing(SrbdPlace *place, SrbdIo *io, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    /* An image of format 1 has its header in "<name>.rbd" and no id. */
    g_autofree char *old_header = g_strconcat(spec->image, ".rbd", NULL);
    SRBD_AUTO_JOB SrbdJob *job = srbd_job_new(sizeof(SrbdJob), NULL, io->conn, io, NULL);
    job->read_op = rados_create_read_op();
    rados_read_op_assert_exists(job->read_op);
    srbd_job_operate(job, old_header);
    if (srbd_job_await(job, deadline) >= 0)
        vl_set_error(error, VL_ERR_MISSING,
                     "image '%s' in %s is of the old format 1, which cannot be leased; convert it", spec->image,
                     place->base.display);
    else
        vl_set_error(error, VL_ERR_MISSING, "there is no image '%s' in %s", spec->image, place->base.display);
}

static VlVolume *
volume_new(SrbdPlace *place, const char *id, char *display)
{
    VlVolume *volume = g_new0(VlVolume, 1);
    volume->refs = 1;
    volume->place = &place->base;
    volume->key = g_strdup_printf("%s/%s", place->base.key, id);
    volume->display = display;
    volume->priv = srbd_image_get(place, id);
    return volume;
}

/* One try with one client. -EAGAIN: the pool is another one by now. */
static int
resolve_try(SrbdConn *conn, const struct vl_volume_spec *spec, VlVolume **ret_volume, gint64 deadline, GError **error)
{
    SrbdStore *store = conn->store;
    const char *ns = spec->ns ? spec->ns : "";
    g_autoptr(SrbdIo) io = NULL;
    g_autofree char *id = NULL;
    gint64 pool_id = -1;
    int rc = srbd_io_open(conn, spec->pool, ns, &pool_id, &io, deadline);
    if (rc == -ENOENT)
        vl_set_error(error, VL_ERR_MISSING, "there is no pool '%s' in Ceph cluster %s", spec->pool, conn->fsid);
    else if (rc < 0)
        srbd_error(error, store, rc, "looking for pool %s", spec->pool);
    if (rc < 0)
        return rc;
    SrbdPlace *place = srbd_place_intern(conn->cluster, pool_id, spec->pool, ns, io);
    rc = srbd_image_read_id(io, spec->image, &id, deadline);
    if (rc == -ENOENT) {
        /* Our map may have been old; librados fetched the newest when the pool was not there. */
        g_autoptr(SrbdIo) again = NULL;
        gint64 pool_id_now = -1;
        if (srbd_io_open(conn, spec->pool, ns, &pool_id_now, &again, deadline) < 0 || pool_id_now != pool_id)
            return -EAGAIN;
        image_missing(place, io, spec, deadline, error);
    } else if (rc < 0) {
        srbd_error(error, store, rc, "looking for image '%s' in %s", spec->image, place->base.display);
    } else {
        *ret_volume = volume_new(place, id,
                                 *ns ? g_strdup_printf("rbd:%s/%s/%s", spec->pool, ns, spec->image)
                                     : g_strdup_printf("rbd:%s/%s", spec->pool, spec->image));
    }
    return rc;
}

static VlVolume *
rbd_resolve(VlStore *base, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    SrbdStore *store = (SrbdStore *)base;
    VlVolume *volume = NULL;
    int rc = -EAGAIN;
    SrbdTarget *target = srbd_target_get(store, spec->conf, spec->mon_hosts);
    SrbdCluster *cluster = srbd_target_cluster(target, deadline, error);
    if (!cluster)
        return NULL;
    g_autoptr(SrbdConn) conn = srbd_cluster_conn(cluster);
    for (int try = 0; try < RESOLVE_TRIES && (rc == -EAGAIN || rc == -ESHUTDOWN); try++) {
        if (rc == -ESHUTDOWN) {
            /* No session may be there to notice that our client was blocklisted. */
            g_clear_error(error);
            SrbdConn *fresh = srbd_cluster_reconnect(cluster, conn, deadline, error);
            if (!fresh)
                return NULL;
            srbd_conn_unref(conn);
            conn = fresh;
        }
        rc = resolve_try(conn, spec, &volume, deadline, error);
    }
    if (rc == -EAGAIN)
        vl_set_error(error, VL_ERR_STORAGE, "pool %s keeps changing", spec->pool);
    return volume;
}

static void
rbd_volume_free(VlVolume *volume)
{
    srbd_image_unref(volume->priv);
}

static VlVolume *
rbd_volume_from_key(VlPlace *place, const char *key, const char *display, GError **error)
{
    gsize len = strlen(place->key);
    if (strncmp(key, place->key, len) != 0 || key[len] != '/' || key[len + 1] == '\0' || strchr(key + len + 1, '/')) {
        vl_set_error(error, VL_ERR_INTERNAL, "'%s' is not the key of an image in %s", key, place->display);
        return NULL;
    }
    return volume_new(srbd_place(place), key + len + 1, g_strdup(display));
}

/* --- life --- */

static void
rbd_free(VlStore *base)
{
    SrbdStore *store = (SrbdStore *)base;
    gint64 deadline = g_get_monotonic_time() + (store->op_timeout_s + 1) * G_TIME_SPAN_SECOND;
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, store->places);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        g_hash_table_remove_all(((SrbdPlace *)value)->watches);
        g_clear_pointer(&((SrbdPlace *)value)->io, srbd_io_unref);
    }
    g_mutex_lock(&store->lock);
    g_hash_table_iter_init(&iter, store->clusters);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        g_clear_pointer(&((SrbdCluster *)value)->conn, srbd_conn_unref);
    bool in_time = true;
    while (store->live > 0 && in_time)
        in_time = g_cond_wait_until(&store->cond, &store->lock, deadline);
    bool stuck = store->live > 0;
    g_mutex_unlock(&store->lock);
    /* A thread is in a Ceph call that does not return and will need the store when it does. */
    if (stuck)
        return;
    g_hash_table_unref(store->places);
    g_hash_table_unref(store->clusters);
    g_hash_table_unref(store->targets);
    g_thread_pool_free(store->threads, FALSE, TRUE);
    g_mutex_clear(&store->lock);
    g_cond_clear(&store->cond);
    g_free(store->conf);
    g_free(store->user);
    g_free(store);
}

static const VlStoreOps rbd_ops = {
    .name = "rbd",
    .resolve = rbd_resolve,
    .volume_free = rbd_volume_free,
    .volume_from_key = rbd_volume_from_key,
    .places = srbd_places,
    .look = srbd_look,
    .cas = srbd_cas,
    .fence = srbd_fence,
    .blocklist = srbd_blocklist,
    .barrier = srbd_barrier,
    .break_lock = srbd_break_lock,
    .session_read = srbd_session_read,
    .session_create = srbd_session_create,
    .session_swap = srbd_session_swap,
    .session_renew = srbd_session_renew,
    .session_list = srbd_session_list,
    .session_watch = srbd_session_watch,
    .session_watch_ok = srbd_session_watch_ok,
    .session_unwatch = srbd_session_unwatch,
    .challenge = srbd_challenge,
    .index_set = srbd_index_set,
    .index_del = srbd_index_del,
    .index_list = srbd_index_list,
    .recover = srbd_recover,
    .own_address = srbd_own_address,
    .free = rbd_free,
};

VlStore *
vl_store_rbd_new(const VlStoreRbdSettings *settings)
{
    SrbdStore *store = g_new0(SrbdStore, 1);
    store->base.ops = &rbd_ops;
    store->conf = g_strdup(settings->ceph_conf);
    store->user = g_strdup(settings->ceph_user ? settings->ceph_user : "admin");
    store->op_timeout_s = settings->op_timeout_s ? settings->op_timeout_s : OP_TIMEOUT_DEFAULT_S;
    g_mutex_init(&store->lock);
    g_cond_init(&store->cond);
    store->targets = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, srbd_target_free);
    store->clusters = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, srbd_cluster_free);
    store->places = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, srbd_place_free);
    store->threads = srbd_pool_new(-1);
    return &store->base;
}

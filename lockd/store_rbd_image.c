/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The volume itself: its open handle, and changes of its header object.
 *
 * The record is an xattr, changed by one write op: assert_exists, because a plain write would bring
 * a removed header back as a ghost; cmpxattr, where an empty value equals an absent attribute
 * (do_osd_ops, CEPH_OSD_OP_CMPXATTR in src/osd/PrimaryLogPG.cc); then setxattr or rmxattr.
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <string.h>

/* An open image takes some 350 kB and opening it 2-3 ms; beyond this many, handles are not kept. */
#define HANDLES_KEPT 128

/* --- images and their handles --- */

void
srbd_handle_unref(gpointer data)
{
    SrbdHandle *handle = data;
    if (!handle || !g_atomic_int_dec_and_test(&handle->refs))
        return;
    rbd_close(handle->image);
    g_atomic_int_add(&handle->io->conn->cluster->handles, -1);
    srbd_io_unref(handle->io);
    g_free(handle);
}

static SrbdHandle *
handle_ref(SrbdHandle *handle)
{
    g_atomic_int_inc(&handle->refs);
    return handle;
}

SrbdImage *
srbd_image_get(SrbdPlace *place, const char *id)
{
    SrbdStore *store = place->cluster->store;
    g_mutex_lock(&store->lock);
    SrbdImage *image = g_hash_table_lookup(place->images, id);
    if (image) {
        image->refs++;
    } else {
        image = g_new0(SrbdImage, 1);
        image->refs = 1;
        image->place = place;
        image->id = g_strdup(id);
        image->header = g_strconcat("rbd_header.", id, NULL);
        g_mutex_init(&image->lock);
        g_hash_table_insert(place->images, image->id, image);
    }
    g_mutex_unlock(&store->lock);
    return image;
}

SrbdImage *
srbd_image_ref(SrbdImage *image)
{
    SrbdStore *store = image->place->cluster->store;
    g_mutex_lock(&store->lock);
    image->refs++;
    g_mutex_unlock(&store->lock);
    return image;
}

void
srbd_image_unref(SrbdImage *image)
{
    if (!image)
        return;
    SrbdStore *store = image->place->cluster->store;
    g_mutex_lock(&store->lock);
    bool last = --image->refs == 0;
    if (last)
        g_hash_table_remove(image->place->images, image->id);
    g_mutex_unlock(&store->lock);
    if (!last)
        return;
    if (image->handle)
        srbd_spawn(image->place->cluster->osd_pool, srbd_handle_unref, image->handle);
    g_mutex_clear(&image->lock);
    g_free(image->header);
    g_free(image->id);
    g_free(image);
}

void
srbd_image_set_handle(SrbdImage *image, SrbdHandle *handle)
{
    g_mutex_lock(&image->lock);
    SrbdHandle *dropped = image->handle;
    image->handle = handle ? handle_ref(handle) : NULL;
    g_mutex_unlock(&image->lock);
    srbd_handle_unref(dropped);
}

/* A handle belongs to one client; after a reconnect it is opened anew. */
int
srbd_image_handle(SrbdImage *image, SrbdIo *io, SrbdHandle **ret_handle)
{
    g_mutex_lock(&image->lock);
    if (image->handle && image->handle->io->conn == io->conn)
        *ret_handle = handle_ref(image->handle);
    g_mutex_unlock(&image->lock);
    if (*ret_handle)
        return 0;
    rbd_image_t rbd;
    int rc = rbd_open_by_id_read_only(io->ioctx, image->id, &rbd, NULL);
    if (rc < 0)
        return rc;
    SrbdHandle *handle = g_new0(SrbdHandle, 1);
    handle->refs = 1;
    handle->io = srbd_io_ref(io);
    handle->image = rbd;
    if (g_atomic_int_add(&io->conn->cluster->handles, 1) < HANDLES_KEPT)
        srbd_image_set_handle(image, handle);
    *ret_handle = handle;
    return 0;
}

typedef struct {
    SrbdJob job;
    char data[4 + 512]; /* le32 length and id; librbd's ids are some 20 characters */
    size_t len;
    int rc;
} IdJob;

int
srbd_image_read_id(SrbdIo *io, const char *name, char **ret_id, gint64 deadline)
{
    g_autofree char *oid = g_strconcat("rbd_id.", name, NULL);
    SRBD_AUTO_JOB IdJob *job = srbd_job_new(sizeof(IdJob), NULL, io->conn, io, NULL);
    job->job.read_op = rados_create_read_op();
    rados_read_op_read(job->job.read_op, 0, sizeof(job->data), job->data, &job->len, &job->rc);
    srbd_job_operate(&job->job, oid);
    int rc = srbd_job_await(&job->job, deadline);
    if (rc < 0)
        return rc;
    guint32 len;
    if (job->len < sizeof(len))
        return -EBADMSG;
    memcpy(&len, job->data, sizeof(len));
    len = GUINT32_FROM_LE(len);
    if (len == 0 || len > job->len - sizeof(len) || memchr(job->data + sizeof(len), '/', len) ||
        memchr(job->data + sizeof(len), '\0', len))
        return -EBADMSG;
    *ret_id = g_strndup(job->data + sizeof(len), len);
    return 0;
}

/* --- changing --- */

static SrbdJob *
cas_start(SrbdWait *wait, SrbdIo *io, const VlCas *cas)
{
    SrbdImage *image = cas->volume->priv;
    SrbdJob *job = srbd_job_new(sizeof(SrbdJob), wait, io->conn, io, NULL);
    rados_write_op_t op = job->write_op = rados_create_write_op();
    gsize len = 0;
    const char *data = cas->expect ? g_bytes_get_data(cas->expect, &len) : NULL;
    rados_write_op_assert_exists(op);
    rados_write_op_cmpxattr(op, SRBD_RECORD_XATTR, LIBRADOS_CMPXATTR_OP_EQ, data ? data : "", len);
    if (cas->replace) {
        data = g_bytes_get_data(cas->replace, &len);
        rados_write_op_setxattr(op, SRBD_RECORD_XATTR, data ? data : "", len);
    } else if (cas->expect) {
        rados_write_op_rmxattr(op, SRBD_RECORD_XATTR);
    }
    srbd_job_operate(job, image->header);
    return job;
}

static void
cas_error(VlCas *cas, int rc)
{
    if (rc == -ENOENT)
        vl_set_error(&cas->error, VL_ERR_MISSING, "%s: the image does not exist any more", cas->volume->display);
    else
        srbd_error(&cas->error, srbd_place_store(cas->volume->place), rc, "lease record of %s", cas->volume->display);
}

bool
srbd_cas(VlCas *cas, size_t n, gint64 deadline)
{
    g_autoptr(SrbdWait) wait = srbd_wait_new();
    g_autofree SrbdJob **jobs = g_new0(SrbdJob *, n);
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        g_autoptr(SrbdIo) io = srbd_place_io(cas[i].volume->place, deadline, &cas[i].error);
        if (io)
            jobs[i] = cas_start(wait, io, &cas[i]);
    }
    srbd_wait_until(wait, deadline);
    for (size_t i = 0; i < n; i++) {
        int rc = jobs[i] ? srbd_job_result(jobs[i]) : 0;
        if (rc < 0)
            cas_error(&cas[i], rc);
        ok = ok && !cas[i].error;
        srbd_job_unref(jobs[i]);
    }
    return ok;
}

typedef struct {
    SrbdJob job;
    char *header;
    VlLockOwner *owner;
} BreakJob;

static int
break_run(SrbdJob *base)
{
    BreakJob *job = (BreakJob *)base;
    int rc = rados_break_lock(base->io->ioctx, job->header, SRBD_LOCK_NAME, job->owner->entity, job->owner->cookie);
    return rc == -ENOENT ? 0 : rc;
}

static void
break_clear(SrbdJob *base)
{
    BreakJob *job = (BreakJob *)base;
    vl_lock_owner_free(job->owner);
    g_free(job->header);
}

bool
srbd_break_lock(VlVolume *volume, const VlLockOwner *owner, gint64 deadline, GError **error)
{
    SrbdImage *image = volume->priv;
    g_autoptr(SrbdIo) io = srbd_place_io(volume->place, deadline, error);
    if (!io)
        return false;
    SRBD_AUTO_JOB BreakJob *job = srbd_job_new(sizeof(BreakJob), NULL, io->conn, io, break_clear);
    job->header = g_strdup(image->header);
    job->owner = vl_lock_owner_copy(owner);
    srbd_job_run(&job->job, io->conn->cluster->osd_pool, break_run);
    int rc = srbd_job_await(&job->job, deadline);
    if (rc < 0)
        srbd_error(error, srbd_place_store(volume->place), rc, "breaking the exclusive lock of %s, owner %s (%s)",
                   volume->display, owner->entity, owner->addr);
    return rc >= 0;
}

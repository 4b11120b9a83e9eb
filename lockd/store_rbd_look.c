/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What a look at volumes shows: lease record, watchers, owner of the exclusive lock.
 *
 * librados has no C call for the watchers of an object; librbd has one for an open image. Images
 * are opened read-only, which registers no watch and takes no lock (librbd::image::OpenRequest).
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <string.h>

/* ManagedLock's WATCHER_LOCK_TAG and cookie prefix (src/librbd/ManagedLock.cc), the same in krbd.
 */
#define MANAGED_TAG            "internal"
#define MANAGED_COOKIE         "auto "
#define FEATURE_EXCLUSIVE_LOCK (1ULL << 2) /* RBD_FEATURE_EXCLUSIVE_LOCK, src/include/rbd/features.h */
/* Lists start at this many entries or bytes and grow as librados says, up to the bound. */
#define LIST_START    16
#define LOCKERS_START 512
#define LIST_TRIES    5

typedef struct {
    SrbdJob job;
    unsigned int what;
    rados_xattrs_iter_t xattrs;
    char *features;
    size_t features_len;
} HeadJob;

typedef struct {
    SrbdJob job;
    SrbdImage *image;
    unsigned int what;
    GPtrArray *watchers;
    VlLockOwner *owner;
} ClientsJob;

/* --- record and features: one aio read op --- */

static void
head_clear(SrbdJob *base)
{
    HeadJob *job = (HeadJob *)base;
    rados_getxattrs_end(job->xattrs);
    rados_buffer_free(job->features);
}

static HeadJob *
head_start(SrbdWait *wait, SrbdImage *image, SrbdIo *io, unsigned int what)
{
    HeadJob *job = srbd_job_new(sizeof(HeadJob), wait, io->conn, io, head_clear);
    job->what = what;
    rados_read_op_t op = job->job.read_op = rados_create_read_op();
    rados_read_op_getxattrs(op, &job->xattrs, NULL);
    if (what & VL_LOOK_OWNER) {
        /* cls_rbd get_features: le64 snapshot id (CEPH_NOSNAP), u8 read-only. Not
         * rbd_get_features(): an image opened read-only learns of no feature change. */
        static const char input[9] = "\xfe\xff\xff\xff\xff\xff\xff\xff\x01";
        rados_read_op_exec(op, "rbd", "get_features", input, sizeof(input), &job->features, &job->features_len, NULL);
    }
    srbd_job_operate(&job->job, image->header);
    return job;
}

static void
head_collect(HeadJob *job, VlLook *look)
{
    const char *name;
    const char *value;
    size_t len;
    while (rados_getxattrs_next(job->xattrs, &name, &value, &len) == 0 && name) {
        if ((job->what & VL_LOOK_RECORD) && strcmp(name, SRBD_RECORD_XATTR) == 0)
            look->record = g_bytes_new(value, len);
    }
    guint64 features = 0;
    if (job->features_len >= sizeof(features))
        memcpy(&features, job->features, sizeof(features));
    look->exclusive_lock_feature = (GUINT64_FROM_LE(features) & FEATURE_EXCLUSIVE_LOCK) != 0;
}

/* --- watchers and owner: blocking calls --- */

char *
srbd_address_plain(const char *addr)
{
    /* The list form "[v2:A,v1:B]" of rados_getaddrs: a client's addresses differ in the prefix
     * only. */
    if (addr[0] == '[' && g_ascii_isalpha(addr[1]) && strchr(addr, ',')) {
        g_autofree char *first = g_strndup(addr + 1, strcspn(addr + 1, ","));
        return srbd_address_plain(first);
    }
    static const char *const prefixes[] = {"v1:", "v2:", "any:"};
    for (size_t i = 0; i < G_N_ELEMENTS(prefixes); i++) {
        if (g_str_has_prefix(addr, prefixes[i]))
            return g_strdup(addr + strlen(prefixes[i]));
    }
    return g_strdup(addr);
}

static void
watcher_free(gpointer data)
{
    VlWatcher *watcher = data;
    g_free(watcher->addr);
    g_free(watcher);
}

static int
clients_list_watchers(ClientsJob *job)
{
    g_autoptr(SrbdHandle) handle = NULL;
    int rc = srbd_image_handle(job->image, job->job.io, &handle);
    if (rc < 0)
        return rc;
    size_t n = LIST_START;
    g_autofree rbd_image_watcher_t *list = NULL;
    rc = -ERANGE;
    for (int try = 0; try < LIST_TRIES && rc == -ERANGE; try++) {
        list = g_renew(rbd_image_watcher_t, list, n);
        rc = rbd_watchers_list(handle->image, list, &n);
    }
    if (rc == -ENOENT)
        srbd_image_set_handle(job->image, NULL);
    if (rc < 0)
        return rc;
    job->watchers = g_ptr_array_new_with_free_func(watcher_free);
    for (size_t i = 0; i < n; i++) {
        if ((guint64)list[i].id == job->job.conn->client)
            continue;
        VlWatcher *watcher = g_new0(VlWatcher, 1);
        watcher->addr = srbd_address_plain(list[i].addr);
        watcher->client = (guint64)list[i].id;
        watcher->cookie = list[i].cookie;
        g_ptr_array_add(job->watchers, watcher);
    }
    rbd_watchers_list_cleanup(list, n);
    return 0;
}

/* The first of the packed NUL-terminated lists of rados_list_lockers. */
static VlLockOwner *
owner_new(const char *tag, const char *clients, const char *cookies, const char *addrs)
{
    VlLockOwner *owner = g_new0(VlLockOwner, 1);
    owner->entity = g_strdup(clients);
    owner->cookie = g_strdup(cookies);
    owner->addr = srbd_address_plain(addrs);
    owner->managed = strcmp(tag, MANAGED_TAG) == 0 && g_str_has_prefix(cookies, MANAGED_COOKIE);
    return owner;
}

static int
clients_get_owner(ClientsJob *job)
{
    size_t room[4] = {LOCKERS_START, LOCKERS_START, LOCKERS_START, LOCKERS_START};
    g_autofree char *buffer = NULL;
    char *part[4];
    ssize_t n = -ERANGE;
    for (int try = 0; try < LIST_TRIES && n == -ERANGE; try++) {
        int exclusive;
        /* One more byte each, so that every string ends even if a list is not terminated. */
        g_free(buffer);
        buffer = g_malloc0(room[0] + room[1] + room[2] + room[3] + 4);
        part[0] = buffer;
        for (int i = 1; i < 4; i++)
            part[i] = part[i - 1] + room[i - 1] + 1;
        n = rados_list_lockers(job->job.io->ioctx, job->image->header, SRBD_LOCK_NAME, &exclusive, part[0], &room[0],
                               part[1], &room[1], part[2], &room[2], part[3], &room[3]);
    }
    if (n < 0)
        return (int)n;
    if (n > 0)
        job->owner = owner_new(part[0], part[1], part[2], part[3]);
    return 0;
}

static int
clients_run(SrbdJob *base)
{
    ClientsJob *job = (ClientsJob *)base;
    int rc = 0;
    if (job->what & VL_LOOK_OWNER)
        rc = clients_get_owner(job);
    if (rc >= 0 && (job->what & VL_LOOK_WATCHERS))
        rc = clients_list_watchers(job);
    return rc;
}

static void
clients_clear(SrbdJob *base)
{
    ClientsJob *job = (ClientsJob *)base;
    g_clear_pointer(&job->watchers, g_ptr_array_unref);
    vl_lock_owner_free(job->owner);
    srbd_image_unref(job->image);
}

static ClientsJob *
clients_start(SrbdWait *wait, SrbdImage *image, SrbdIo *io, unsigned int what)
{
    ClientsJob *job = srbd_job_new(sizeof(ClientsJob), wait, io->conn, io, clients_clear);
    job->image = srbd_image_ref(image);
    job->what = what;
    srbd_job_run(&job->job, io->conn->cluster->osd_pool, clients_run);
    return job;
}

static void
look_error(VlLook *look, int rc, bool parent)
{
    SrbdStore *store = srbd_place_store(look->volume->place);
    if (rc == -ENOENT)
        vl_set_error(&look->error, VL_ERR_MISSING, "%s: the image does not exist any more", look->volume->display);
    else if (parent && (rc == -EPERM || rc == -EACCES))
        vl_set_error(&look->error, VL_ERR_DENIED,
                     "looking at %s: Ceph user client.%s may not do this (%s); it needs the capability "
                     "osd 'profile rbd' for the pool and, if the image is a clone, at least 'profile "
                     "rbd-read-only' for the pool of its parent",
                     look->volume->display, store->user, g_strerror(-rc));
    else
        srbd_error(&look->error, store, rc, "looking at %s", look->volume->display);
}

static void
look_collect(VlLook *look, HeadJob *head, ClientsJob *clients)
{
    int head_rc = head ? srbd_job_result(&head->job) : 0;
    int clients_rc = clients ? srbd_job_result(&clients->job) : 0;
    if (head_rc < 0 || clients_rc < 0) {
        /* Opening an image opens its parent too. */
        look_error(look, head_rc < 0 ? head_rc : clients_rc, head_rc >= 0);
        return;
    }
    if (head)
        head_collect(head, look);
    if (clients) {
        look->watchers = g_steal_pointer(&clients->watchers);
        look->owner = g_steal_pointer(&clients->owner);
    }
}

bool
srbd_look(VlLook *looks, size_t n, unsigned int what, gint64 deadline)
{
    g_autoptr(SrbdWait) wait = srbd_wait_new();
    g_autofree HeadJob **heads = g_new0(HeadJob *, n);
    g_autofree ClientsJob **clients = g_new0(ClientsJob *, n);
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        SrbdImage *image = looks[i].volume->priv;
        g_autoptr(SrbdIo) io = srbd_place_io(looks[i].volume->place, deadline, &looks[i].error);
        if (!io)
            continue;
        if (what & (VL_LOOK_RECORD | VL_LOOK_OWNER))
            heads[i] = head_start(wait, image, io, what);
        if (what & (VL_LOOK_WATCHERS | VL_LOOK_OWNER))
            clients[i] = clients_start(wait, image, io, what);
    }
    srbd_wait_until(wait, deadline);
    for (size_t i = 0; i < n; i++) {
        if (!looks[i].error)
            look_collect(&looks[i], heads[i], clients[i]);
        ok = ok && !looks[i].error;
        srbd_job_unref(heads[i]);
        srbd_job_unref(clients[i]);
    }
    return ok;
}

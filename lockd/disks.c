/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/disks.h"

#include <string.h>

#include "lockd/backend.h"
#include "lockd/error.h"

#define XML_WAIT_S  5.0
#define XML_POLL_US (20 * 1000)
#define RESOLVE_S   12.0

VlDomain *
vl_disks_domain(VlDaemon *daemon, const char *uri, const char *name, const char *uuid, gint64 pid, const VlCall *call,
                GError **error)
{
    g_autofree char *dir = vl_statusxml_dir(uri, daemon->settings->run_root, error);
    if (!dir)
        return NULL;
    gint64 until = vl_call_within(call, XML_WAIT_S);
    for (;;) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VlDomain) domain = vl_statusxml_find(dir, name, uuid, &local);
        if (domain && (domain->pid == 0 || domain->pid == pid))
            return g_steal_pointer(&domain);
        if (vl_clock_now() >= until || !vl_call_check(call, "reading the status XML", NULL)) {
            vl_set_error(error, VL_ERR_NO_XML,
                         "VM '%s' (%s): no status XML of process %" G_GINT64_FORMAT
                         " in %s (%s); its disks are not known, so it gets "
                         "no lease",
                         name, uuid, pid, dir,
                         local    ? local->message
                         : domain ? "the file there is of another process"
                                  : "no file has that uuid");
            return NULL;
        }
        vl_clock_sleep_until(vl_clock_now() + XML_POLL_US, call);
    }
}

/* ---- resolving ---- */

typedef struct {
    VlDaemon *daemon;
    const VlDisk *disk;
    struct vl_volume_spec spec; /* canonical spelling */
    VlVolume *volume;
    gint64 deadline;
    GError *error;
} Resolve;

static gpointer
resolve_run(gpointer data)
{
    Resolve *resolve = data;
    if (!resolve->error)
        resolve->volume = vl_backend_resolve(resolve->daemon, &resolve->spec, resolve->deadline, &resolve->error);
    return NULL;
}

static void
resolve_free(Resolve *resolve)
{
    vl_volume_spec_clear(&resolve->spec);
    vl_volume_unref(resolve->volume);
    g_clear_error(&resolve->error);
    g_free(resolve);
}

static gboolean
reads_only(const Resolve *resolve)
{
    return resolve->disk->readonly || resolve->spec.snapshot;
}

/* Said once per VM and disk: a rescan meets the same disk again and again, and libvirt names it without its target. */
static void
note_unmanaged(const VlVm *vm, const VlDisk *disk, const char *name)
{
    static GMutex lock;
    static GHashTable *said;
    g_autofree char *key = g_strconcat(vm->who.uuid, " ", name, NULL);
    g_autofree char *line =
        g_strdup_printf("VM %s: disk %s (%s) gets no lease: %s", vm->name, disk->target ? disk->target : "?", name,
                        disk->spec.kind == VL_VOLUME_OTHER ? "virtlease does not manage its kind of storage"
                                                           : "the rules in virtleased.conf say none");
    g_mutex_lock(&lock);
    if (!said)
        said = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gboolean first = g_hash_table_add(said, g_steal_pointer(&key));
    g_mutex_unlock(&lock);
    if (first)
        g_message("%s", line);
}

/* A path that cannot be told from an RBD device is an error: it might be one. A network disk that no backend knows
 * is NULL without error: no lease. */
static Resolve *
resolve_new(VlDaemon *daemon, const VlVm *vm, const VlDisk *disk, gint64 deadline)
{
    Resolve *resolve = g_new0(Resolve, 1);
    resolve->daemon = daemon;
    resolve->disk = disk;
    resolve->deadline = deadline;
    int r = disk->spec.kind == VL_VOLUME_FILE ? vl_volume_from_path(disk->spec.path, "/sys", "/dev", &resolve->spec)
                                              : vl_volume_spec_copy(&disk->spec, &resolve->spec);
    if (r < 0)
        vl_set_error(&resolve->error, VL_ERR_MISSING, "path %s cannot be resolved: %s", disk->spec.path,
                     g_strerror(-r));
    else if (disk->spec.kind == VL_VOLUME_OTHER && daemon->settings->unmanaged_disks == VL_UNMANAGED_REFUSE)
        vl_set_error(&resolve->error, VL_ERR_CONFIG, "no backend can lease it, and unmanaged_disks = \"refuse\"");
    return resolve;
}

/* A mapped device keeps its image when that is renamed, and may be of another cluster: then its name leads to
 * the wrong image. The kernel knows the right ids. */
static void
check_krbd(Resolve *resolve)
{
    const struct vl_volume_spec *spec = &resolve->spec;
    if (!resolve->volume || !spec->krbd || !spec->fsid || !spec->image_id)
        return;
    g_autofree char *key = g_strdup_printf("rbd:%s/%s/%s/%s", spec->fsid, spec->pool_id ? spec->pool_id : "",
                                           spec->ns ? spec->ns : "", spec->image_id);
    if (g_str_equal(key, resolve->volume->key))
        return;
    vl_set_error(
        &resolve->error, VL_ERR_MISSING,
        "device %s is mapped to image %s, but %s is now another image (%s): it was renamed or is of another cluster; "
        "unmap and map it again",
        spec->path, key, resolve->volume->display, resolve->volume->key);
}

/* A thread for each image but one; a file is one stat(), which costs less than its thread. */
static void
resolve_all(GPtrArray *resolves)
{
    g_autoptr(GPtrArray) threads = g_ptr_array_new();
    Resolve *mine = NULL;
    for (guint i = 0; i < resolves->len; i++) {
        Resolve *resolve = resolves->pdata[i];
        if (resolve->spec.kind != VL_VOLUME_RBD)
            continue;
        if (mine)
            g_ptr_array_add(threads, g_thread_new("resolve", resolve_run, resolve));
        else
            mine = resolve;
    }
    if (mine)
        resolve_run(mine);
    for (guint i = 0; i < resolves->len; i++)
        if (((Resolve *)resolves->pdata[i])->spec.kind != VL_VOLUME_RBD)
            resolve_run(resolves->pdata[i]);
    for (guint i = 0; i < threads->len; i++)
        g_thread_join(threads->pdata[i]);
}

/* Of two disks of a VM on one volume the exclusive one wins, as long as nothing has been taken. */
static void
used_by(VlLease *lease, const VlDisk *disk)
{
    lease->seen = TRUE;
    lease->device = lease->device && disk->device;
    if (lease->state == VL_LEASE_NONE && !disk->device && !disk->readonly)
        lease->shared = lease->shared && disk->shareable;
}

/* A path counts as it was written, too: a symlink that leads elsewhere by now, or nowhere, changes nothing for the QEMU
 * that went through it. */
static gboolean
known_already(VlVm *vm, const VlDisk *disk)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (!vl_volume_spec_equal(&lease->spec, &disk->spec))
            continue;
        used_by(lease, disk);
        return TRUE;
    }
    return FALSE;
}

/* The VM's lease on this volume, perhaps under another spelling; a new one when there is none. */
static void
add_lease(VlVm *vm, const Resolve *resolve, GPtrArray *ret_new)
{
    VlLease *lease = vl_vm_find_lease(vm, resolve->volume->key);
    if (!lease) {
        lease = vl_lease_new(vm, resolve->volume, &resolve->spec, resolve->disk->target, resolve->disk->shareable);
        lease->device = resolve->disk->device;
        vl_vm_add_lease(vm, lease);
        g_ptr_array_add(ret_new, lease);
    }
    used_by(lease, resolve->disk);
}

gboolean
vl_disk_is_volume_at(const VlDisk *disk, const char *path)
{
    const char *volume = disk->spec.kind == VL_VOLUME_OTHER && g_str_has_prefix(disk->spec.path, "volume:")
                             ? strchr(disk->spec.path, '/')
                             : NULL;
    return path && volume && volume[1] && g_str_has_suffix(path, volume);
}

static gboolean
is_named(const VlVm *vm, const VlDomain *domain, const VlDisk *disk)
{
    for (guint i = 0; domain->named && i < domain->named->len; i++) {
        const VlDisk *named = domain->named->pdata[i];
        if (named->spec.kind == VL_VOLUME_FILE && vl_disk_is_volume_at(disk, named->spec.path))
            return TRUE;
    }
    for (guint i = 0; i < vm->leases->len; i++)
        if (vl_disk_is_volume_at(disk, ((VlLease *)vm->leases->pdata[i])->spec.written))
            return TRUE;
    return FALSE;
}

gboolean
vl_disks_add(VlDaemon *daemon, VlVm *vm, const VlDomain *domain, const VlCall *call, GPtrArray *ret_new, GError **error)
{
    g_autoptr(GPtrArray) resolves = g_ptr_array_new_with_free_func((GDestroyNotify)resolve_free);
    gint64 deadline = vl_call_within(call, RESOLVE_S);
    for (guint i = 0; i < domain->disks->len; i++) {
        const VlDisk *disk = domain->disks->pdata[i];
        if (!known_already(vm, disk) && !is_named(vm, domain, disk))
            g_ptr_array_add(resolves, resolve_new(daemon, vm, disk, deadline));
    }
    resolve_all(resolves);
    gboolean ok = TRUE;
    for (guint i = 0; i < resolves->len; i++) {
        Resolve *resolve = resolves->pdata[i];
        check_krbd(resolve);
        if (ok && resolve->error && !reads_only(resolve)) {
            g_autofree char *name = vl_volume_display(&resolve->disk->spec);
            g_propagate_prefixed_error(error, g_error_copy(resolve->error),
                                       "disk %s (%s) of VM '%s': ", resolve->disk->target ? resolve->disk->target : "?",
                                       name, vm->name);
            ok = FALSE;
        }
    }
    if (!ok && !vm->adopting) /* one that runs already is protected as far as that is possible */
        return FALSE;
    for (guint i = 0; i < resolves->len; i++) {
        Resolve *resolve = resolves->pdata[i];
        if (!resolve->volume && !resolve->error && !reads_only(resolve)) {
            g_autofree char *name = vl_volume_display(&resolve->disk->spec);
            note_unmanaged(vm, resolve->disk, name);
        }
        if (!resolve->volume || resolve->error)
            continue;
        if (reads_only(resolve) && resolve->volume->place)
            vl_vm_add_reader(vm, resolve->volume);
        else if (reads_only(resolve))
            continue;
        else
            add_lease(vm, resolve, ret_new);
    }
    return ok;
}

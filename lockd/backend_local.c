/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Files and block devices that no rule sends elsewhere: lock files of this host. Protects one host and needs nothing.
 * The identity is what the kernel says the file is (device and inode numbers), so every spelling is one volume.
 */
#include "lockd/backend_local.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "lockd/error.h"
#include "lockd/jsonout.h"
#include "lockd/procinfo.h"

#define POLL_US (20 * 1000)
#define DYING_S 10.0 /* for the lock of a process that is gone */
#define ADOPT_S 40.0 /* for the first attempt on every VM that ran before us (adopt.c) */

/* ---- identity ---- */

gboolean
vl_file_id(const char *path, VlFileId *ret_id, GError **error)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        int why = errno;
        vl_set_error(error, why == ENOENT || why == ENOTDIR ? VL_ERR_MISSING : VL_ERR_STORAGE, "%s: %s", path,
                     g_strerror(why));
        return FALSE;
    }
    *ret_id = S_ISBLK(st.st_mode) ? (VlFileId){st.st_rdev, 0} : (VlFileId){st.st_dev, st.st_ino};
    return TRUE;
}

static char *
file_name(const VlFileId *id)
{
    if (!id->ino)
        return g_strdup_printf("block-%u.%u.lease", major(id->dev), minor(id->dev));
    return g_strdup_printf("file-%u.%u-%" G_GUINT64_FORMAT ".lease", major(id->dev), minor(id->dev), id->ino);
}

static VlVolume *
local_resolve(VlDaemon *daemon, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    VlFileId id;
    if (!vl_file_id(spec->path, &id, error))
        return NULL;
    char *display = vl_volume_display(spec);
    g_autofree char *name = file_name(&id);
    VlVolume *volume = g_new0(VlVolume, 1);
    volume->refs = 1;
    volume->backend = &vl_backend_local;
    volume->key = g_strconcat("local:", name, NULL);
    volume->display = g_strdup(display);
    volume->priv = g_memdup2(&id, sizeof(id));
    free(display);
    return volume;
}

static void
local_volume_free(VlVolume *volume)
{
    g_free(volume->priv);
}

static void
local_lease_clear(VlLease *lease)
{
    vl_lockfile_free(lease->priv);
    lease->priv = NULL;
}

/* ---- start ---- */

static gboolean
make_directory(const char *dir, GError **error)
{
    if (g_mkdir_with_parents(dir, 0700) == 0)
        return TRUE;
    vl_set_error(error, VL_ERR_CONFIG, "%s, the directory of local lock files, cannot be created: %s", dir,
                 g_strerror(errno));
    return FALSE;
}

static gboolean
local_start(VlDaemon *daemon, gpointer *ret_state, GError **error)
{
    g_autofree char *dir = daemon->settings->local_dir ? g_strdup(daemon->settings->local_dir)
                                                       : g_build_filename(daemon->settings->state_dir, "local", NULL);
    if (!make_directory(dir, error))
        return FALSE;
    vl_lockfile_sweep(dir, daemon->host->boot);
    *ret_state = g_steal_pointer(&dir);
    return TRUE;
}

static const char *
directory(const VlDaemon *daemon)
{
    return vl_backend_state(daemon, &vl_backend_local);
}

/* ---- leases ---- */

/* Whoever removes a lock file under a running VM must not let the next one in: what is in the table counts too. */
static gboolean
no_rival(VlDaemon *daemon, const VlVm *vm, const VlLease *lease, GError **error)
{
    g_autoptr(VlVm) rival = vl_vms_find_rival(daemon->vms, vm, lease->volume->key, lease->shared);
    if (!rival)
        return TRUE;
    gboolean dying = g_atomic_int_get(&rival->exited) || (rival->pidfd >= 0 && vl_proc_exited(rival->pidfd));
    vl_set_error(error, dying ? VL_ERR_CHANGED : VL_ERR_HELD,
                 "%s is in use: leased by VM '%s' on this host, process %" G_GINT64_FORMAT
                 ", whose lock file somebody removed. Stop that VM first",
                 lease->volume->display, rival->name, rival->who.pid);
    return FALSE;
}

static VlLockfile *
take_once(VlDaemon *daemon, VlVm *vm, const VlLease *lease, const char *name, const VlCall *call, GError **error)
{
    VlLockfileHolder holder = {&vm->who, vm->name, lease->volume->display, lease->shared};
    VlLockfile *file = vl_lockfile_take(directory(daemon), name, &holder, call, error);
    if (file && !no_rival(daemon, vm, lease, error))
        g_clear_pointer(&file, vl_lockfile_free);
    return file;
}

/* A VM that ran before this daemon has its volumes whether or not a lock file says so. */
static gboolean
wait_for_adoption(VlDaemon *daemon, const VlVm *vm, const VlLease *lease, const VlCall *call, GError **error)
{
    gint64 until = vl_call_within(call, ADOPT_S);
    while (!vm->adopting && g_atomic_int_get(&daemon->adopting) > 0) {
        if (!vl_call_check(call, "waiting until the leases of the VMs that run are known", error))
            return FALSE;
        if (vl_clock_now() >= until) {
            vl_set_error(error, VL_ERR_STORAGE,
                         "%s: virtleased has just started and still looks at what the running VMs use; try again",
                         lease->volume->display);
            return FALSE;
        }
        vl_clock_sleep_until(vl_clock_now() + POLL_US, call);
    }
    return TRUE;
}

VlLockfile *
vl_local_take(VlDaemon *daemon, VlVm *vm, const VlLease *lease, const VlFileId *id, const VlCall *call, GError **error)
{
    g_autofree char *name = file_name(id);
    if (!wait_for_adoption(daemon, vm, lease, call, error))
        return NULL;
    gint64 until = vl_call_within(call, DYING_S);
    for (;;) {
        g_autoptr(GError) local = NULL;
        VlLockfile *file = take_once(daemon, vm, lease, name, call, &local);
        if (file)
            return file;
        if (vl_error_code(local) != VL_ERR_CHANGED || vl_clock_now() >= until ||
            !vl_call_check(call, "taking a local lease", NULL)) {
            /* CHANGED would have the caller come again for ever. */
            vl_set_error(error, vl_error_code(local) == VL_ERR_CHANGED ? VL_ERR_HELD : vl_error_code(local), "%s",
                         local->message);
            return NULL;
        }
        vl_clock_sleep_until(vl_clock_now() + POLL_US, call);
    }
}

static gboolean
local_take(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        lease->priv = vl_local_take(daemon, vm, lease, lease->volume->priv, call, error);
        if (!lease->priv)
            return FALSE;
        vl_lease_set_state(lease, VL_LEASE_PARKED, "locked on this host");
    }
    return TRUE;
}

static gboolean
local_free(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        local_lease_clear(lease);
        vl_lease_set_state(lease, VL_LEASE_FREE, "unlocked");
    }
    return TRUE;
}

static gboolean
local_closed(const VlLease *lease)
{
    const VlFileId *id = lease->volume->priv;
    return !vl_backend_file_open(lease->vm, id->dev, id->ino);
}

/* A lock file that somebody removed protects nothing: the next one would make a new file. Taken again if that is
 * still possible. */
static void
local_audit(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        VlCall call = {.deadline = vl_deadline_in(1)};
        g_autoptr(GError) error = NULL;
        if (lease->priv && vl_lockfile_in_place(lease->priv))
            continue;
        VlLockfile *again = make_directory(directory(daemon), &error)
                                ? vl_local_take(daemon, vm, lease, lease->volume->priv, &call, &error)
                                : NULL;
        g_warning("VM %s: the lock file of %s was removed by somebody%s%s", vm->name, lease->volume->display,
                  again ? "; made anew" : ": ", again ? "" : error->message);
        if (again) {
            local_lease_clear(lease);
            lease->priv = again;
        }
    }
}

static gboolean
local_show(VlDaemon *daemon, VlVolume *volume, const VlCall *call, JsonBuilder *out, GError **error)
{
    g_autofree char *name = file_name(volume->priv);
    g_autoptr(GPtrArray) holders = vl_lockfile_holders(directory(daemon), name, daemon->host->boot, error);
    if (!holders)
        return FALSE;
    vl_json_string(out, "place", "this host");
    vl_json_begin_list(out, "holders");
    for (guint i = 0; i < holders->len; i++) {
        const VlLockfileEntry *entry = holders->pdata[i];
        json_builder_begin_object(out);
        vl_json_string(out, "vm", entry->vm);
        vl_json_string(out, "uuid", entry->who.uuid);
        vl_json_string(out, "host", daemon->host->name);
        vl_json_int(out, "pid", entry->who.pid);
        vl_json_int(out, "since", entry->since);
        vl_json_string(out, "mode", entry->shared ? "shared" : "exclusive");
        json_builder_end_object(out);
    }
    json_builder_end_array(out);
    return TRUE;
}

const VlBackendOps vl_backend_local = {
    .name = "local",
    .start = local_start,
    .resolve = local_resolve,
    .volume_free = local_volume_free,
    .lease_clear = local_lease_clear,
    .take = local_take,
    .free = local_free,
    .exit = local_free, /* the process is gone, and with it all that it could write */
    .closed = local_closed,
    .audit = local_audit,
    .show = local_show,
};

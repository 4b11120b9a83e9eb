/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/backend_sanlock.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "common/protocol.h"
#include "lockd/error.h"
#include "lockd/route.h"
#include "lockd/sanlock_clean.h"

#define STEP_S       10.0 /* one command to sanlock that nobody waits for */
#define PATH_MAX_LEN 1023 /* sanlock's, without the NUL */
#define HOSTS_4K     250  /* in 1 MiB */
#define HUP_WAIT_S   2    /* for sanlock to notice that a process is gone */
#define HUP_POLL_US  (10 * 1000)

VlSanlock *
vl_sanlock_of(const VlDaemon *daemon)
{
    return vl_backend_state(daemon, &vl_backend_sanlock);
}

static const VlSanlockVolume *
volume_of(const VlLease *lease)
{
    return lease->volume->priv;
}

VlSanlockLease *
vl_sanlock_lease_of(VlLease *lease)
{
    if (!lease->priv)
        lease->priv = g_new0(VlSanlockLease, 1);
    return lease->priv;
}

static void
san_lease_clear(VlLease *lease)
{
    vl_vms_lock(lease->vm->vms); /* `list` reads it under that lock alone */
    VlSanlockLease *own = g_steal_pointer(&lease->priv);
    vl_vms_unlock(lease->vm->vms);
    if (own)
        vl_lockfile_free(own->local);
    g_free(own);
}

/* ---- start ---- */

/* sanlock's protocol and tools separate by spaces, and a path has room for 1023 bytes. */
static gboolean
check_settings(const VlSettings *settings, GError **error)
{
    gboolean long_path = strlen(settings->sanlock_dir) + 40 > PATH_MAX_LEN;
    if (long_path || strchr(settings->sanlock_dir, ' '))
        vl_set_error(error, VL_ERR_CONFIG, "sanlock_dir: sanlock cannot use a path %s",
                     long_path ? "as long as this" : "with a space in it");
    else if (!settings->sanlock_host_id)
        vl_set_error(error, VL_ERR_CONFIG, "sanlock_dir needs sanlock_host_id: a number that no other host has");
    else if (settings->sanlock_sector_size && settings->sanlock_sector_size != 512 &&
             settings->sanlock_sector_size != 4096)
        vl_set_error(error, VL_ERR_CONFIG, "sanlock_sector_size must be 0, 512 or 4096");
    else if (settings->sanlock_sector_size == 4096 && settings->sanlock_num_hosts > HOSTS_4K)
        vl_set_error(error, VL_ERR_CONFIG, "sanlock_num_hosts: sectors of 4096 bytes leave room for %d hosts",
                     HOSTS_4K);
    else if (settings->sanlock_host_id > settings->sanlock_num_hosts)
        vl_set_error(error, VL_ERR_CONFIG, "sanlock_host_id %u is larger than sanlock_num_hosts %u",
                     settings->sanlock_host_id, settings->sanlock_num_hosts);
    else
        return TRUE;
    return FALSE;
}

static gboolean
san_start(VlDaemon *daemon, gpointer *ret_state, GError **error)
{
    const VlSettings *settings = daemon->settings;
    if (!settings->sanlock_dir) {
        if (!vl_route_uses((const char *const *)settings->volumes, "sanlock"))
            return TRUE;
        vl_set_error(error, VL_ERR_CONFIG, "volumes: a rule says sanlock, but sanlock_dir is not set");
        return FALSE;
    }
    if (!check_settings(settings, error))
        return FALSE;
    VlSanlock *sanlock = g_new0(VlSanlock, 1);
    sanlock->daemon = daemon;
    sanlock->dir = g_build_filename(settings->state_dir, "sanlock", NULL);
    sanlock->tool = g_strdup(settings->sanlock_killpath ? settings->sanlock_killpath : VL_CTL_PATH);
    sanlock->conf = (VlSanlockConf){.lease_dir = settings->sanlock_dir,
                                    .space = settings->sanlock_lockspace,
                                    .user = settings->sanlock_user,
                                    .group = settings->sanlock_group,
                                    .host_name = daemon->host->name,
                                    .host_id = settings->sanlock_host_id,
                                    .io_timeout = settings->sanlock_io_timeout,
                                    .sector_size = settings->sanlock_sector_size,
                                    .num_hosts = settings->sanlock_num_hosts};
    if (g_mkdir_with_parents(sanlock->dir, 0700) < 0) {
        vl_set_error(error, VL_ERR_CONFIG, "%s cannot be created: %s", sanlock->dir, g_strerror(errno));
        return FALSE;
    }
    sanlock->space = vl_sanlock_space_new(&sanlock->conf, vl_sanlock_lost, sanlock);
    *ret_state = sanlock;
    vl_sanlock_space_start(sanlock->space);
    return TRUE;
}

/* ---- volumes ---- */

static VlVolume *
volume_new(const struct vl_volume_spec *spec, const char *key, VlSanlockVolume *own)
{
    char *display = vl_volume_display(spec);
    VlVolume *volume = g_new0(VlVolume, 1);
    volume->refs = 1;
    volume->backend = &vl_backend_sanlock;
    volume->key = g_strconcat("sanlock:", key, NULL);
    volume->display = g_strdup(display ? display : key);
    volume->priv = own;
    free(display);
    return volume;
}

static VlVolume *
resolve_file(VlSanlock *sanlock, const struct vl_volume_spec *spec, GError **error)
{
    VlFileId id;
    if (!vl_file_id(spec->path, &id, error))
        return NULL;
    VlSanlockVolume *own = g_new0(VlSanlockVolume, 1);
    own->is_file = TRUE;
    own->id = id;
    own->refs = g_ptr_array_new_with_free_func((GDestroyNotify)vl_sanlock_ref_free);
    g_ptr_array_add(own->refs, vl_sanlock_ref_of_path(&sanlock->conf, spec->path));
    if (spec->written && !g_str_equal(spec->written, spec->path))
        g_ptr_array_add(own->refs, vl_sanlock_ref_of_path(&sanlock->conf, spec->written));
    return volume_new(spec, spec->path, own);
}

static VlVolume *
resolve_device(const struct vl_volume_spec *spec, GError **error)
{
    if (!spec->space || !*spec->space || strlen(spec->space) >= 48 || !spec->key || !*spec->key ||
        strlen(spec->key) >= 48 || !spec->path || spec->path[0] != '/' || strlen(spec->path) > PATH_MAX_LEN) {
        vl_set_error(error, VL_ERR_CONFIG,
                     "<lease> %s/%s: lockspace and key must be there, of at most 47 bytes, and <target path=> absolute",
                     spec->space ? spec->space : "", spec->key ? spec->key : "");
        return NULL;
    }
    VlSanlockRef *ref = g_new0(VlSanlockRef, 1);
    *ref = (VlSanlockRef){g_strdup(spec->space), g_strdup(spec->key), g_strdup(spec->path), spec->offset};
    VlSanlockVolume *own = g_new0(VlSanlockVolume, 1);
    own->refs = g_ptr_array_new_with_free_func((GDestroyNotify)vl_sanlock_ref_free);
    g_ptr_array_add(own->refs, ref);
    g_autofree char *key = g_strdup_printf("%s/%s", spec->space, spec->key);
    return volume_new(spec, key, own);
}

static VlVolume *
san_resolve(VlDaemon *daemon, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    if (!sanlock) {
        vl_set_error(error, VL_ERR_CONFIG, "%s: sanlock is not configured here (sanlock_dir)",
                     spec->path ? spec->path : "?");
        return NULL;
    }
    return spec->kind == VL_VOLUME_LEASE ? resolve_device(spec, error) : resolve_file(sanlock, spec, error);
}

static void
san_volume_free(VlVolume *volume)
{
    VlSanlockVolume *own = volume->priv;
    g_ptr_array_unref(own->refs);
    g_free(own);
}

/* ---- enrolling ---- */

/* Every VM, whatever disks it has now: a disk can be attached later, registering cannot be made up for. */
static void
san_enrol(VlDaemon *daemon, VlVm *vm, VlEnrol *ret_enrol)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    if (!sanlock)
        return;
    ret_enrol->connections = 1;
    g_autofree char *args = g_strdup_printf("--socket %s lost %s", daemon->settings->socket, vm->who.uuid);
    if (strlen(args) > VL_SANLOCK_STRING_MAX || strlen(sanlock->tool) > VL_SANLOCK_STRING_MAX) {
        g_warning("VM %s: the paths of socket and virtleasectl are too long for sanlock; it will terminate the VM when "
                  "the lockspace fails",
                  vm->name);
        return;
    }
    ret_enrol->path = g_strdup(sanlock->tool);
    ret_enrol->args = g_steal_pointer(&args);
}

static gboolean
san_closed(const VlLease *lease)
{
    const VlSanlockVolume *volume = volume_of(lease);
    return !volume->is_file || !vl_backend_file_open(lease->vm, volume->id.dev, volume->id.ino);
}

/* ---- freeing ---- */

static gboolean
san_free(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    gboolean ok = TRUE;
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (!vl_sanlock_release_refs(sanlock, vm, lease, vl_deadline_in(STEP_S), ok ? error : NULL)) {
            ok = FALSE;
            continue;
        }
        san_lease_clear(lease);
        vl_lease_set_state(lease, VL_LEASE_FREE, "released");
    }
    return ok;
}

static gboolean
any_held(GPtrArray *leases, GHashTable *held)
{
    for (guint i = 0; i < leases->len; i++)
        if (vl_sanlock_is_held(leases->pdata[i], held, FALSE))
            return TRUE;
    return FALSE;
}

/* Waits until sanlock has noticed, which takes it milliseconds. TRUE: it does not know the process any more. */
static gboolean
wait_forgotten(VlSanlock *sanlock, VlVm *vm, GPtrArray *leases, GError **error)
{
    gint64 until = vl_deadline_in(HUP_WAIT_S);
    for (;;) {
        g_autoptr(GError) local = NULL;
        g_autoptr(GHashTable) held =
            vl_sanlock_lease_inquire((pid_t)vm->who.pid, vm->name, vl_deadline_in(STEP_S), &local);
        if (held ? !any_held(leases, held) : vl_error_code(local) == VL_ERR_NOT_REGISTERED)
            return TRUE;
        /* No daemon: nothing to be waited for, what it had granted this host lasts as long as the host's turn. */
        if (!held && vl_sanlock_space_is_down(sanlock->space))
            return TRUE;
        if (!held) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        if (vl_clock_now() >= until)
            return FALSE;
        vl_clock_sleep_until(vl_clock_now() + HUP_POLL_US, NULL);
    }
}

/* sanlock frees what a process had when its connection ends, which is when the last copy of the descriptor does.
 * If that does not come, somebody else has one. Nothing is released for a pid that is another process by now. */
static gboolean
san_exit(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    g_autoptr(GError) local = NULL;
    if (wait_forgotten(sanlock, vm, leases, &local)) {
        for (guint i = 0; i < leases->len; i++) {
            san_lease_clear(leases->pdata[i]);
            vl_lease_set_state(leases->pdata[i], VL_LEASE_FREE, "released with its process");
        }
        return TRUE;
    }
    g_autofree char *proc = g_strdup_printf("/proc/%" G_GINT64_FORMAT, vm->who.pid);
    if (!local && !g_file_test(proc, G_FILE_TEST_EXISTS)) {
        g_warning("VM %s: its process is gone, but somebody keeps its connection to sanlock open; released for it",
                  vm->name);
        return san_free(daemon, vm, leases, error);
    }
    vl_set_error(error, VL_ERR_STORAGE, "%s",
                 local ? local->message : "sanlock has not noticed that the process is gone");
    return FALSE;
}

static void
san_gone(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    if (g_atomic_int_get(&vm->exited))
        vl_sanlock_forget_versions(vl_sanlock_of(daemon), vm);
    else
        vl_sanlock_drop_versions(vl_sanlock_of(daemon), vm, leases);
}

static gboolean
san_clean(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    if (sanlock)
        return vl_sanlock_clean(sanlock->space, args, call, out, error);
    vl_set_error(error, VL_ERR_CONFIG, "sanlock is not configured here (sanlock_dir): there are no lease files");
    return FALSE;
}

const VlBackendOps vl_backend_sanlock = {
    .name = "sanlock",
    .start = san_start,
    .resolve = san_resolve,
    .volume_free = san_volume_free,
    .lease_clear = san_lease_clear,
    .enrol = san_enrol,
    .slow = TRUE,
    .take = vl_sanlock_take,
    .hold = vl_sanlock_hold,
    .depart = vl_sanlock_depart,
    .free = san_free,
    .exit = san_exit,
    .gone = san_gone,
    .begin_incoming = vl_sanlock_begin_incoming,
    .finish_incoming = vl_sanlock_finish_incoming,
    .state = vl_sanlock_state,
    .closed = san_closed,
    .audit = vl_sanlock_audit,
    .show = vl_sanlock_show,
    .status = vl_sanlock_status,
    .list = vl_sanlock_list,
    .clean = san_clean,
};

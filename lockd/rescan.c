/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/rescan.h"

#include <gio/gio.h>
#include <string.h>

#include "lockd/action.h"
#include "lockd/audit.h"
#include "lockd/disks.h"
#include "lockd/error.h"
#include "lockd/leases.h"

#define ROUNDS   4 /* after a hint from libvirt, which may come before the XML is written */
#define ROUND_US (250 * 1000)
#define TAKE_S   30.0
#define ATTACH_S 60 /* a <lease> that the XML does not name yet may still be on its way into it */

/* ---- detached ---- */

static gboolean
same_volume(const struct vl_volume_spec *a, const struct vl_volume_spec *b)
{
    if (a->kind != VL_VOLUME_RBD || b->kind != VL_VOLUME_RBD)
        return vl_volume_spec_equal(a, b);
    return g_strcmp0(a->pool, b->pool) == 0 && g_strcmp0(a->ns, b->ns) == 0 && g_strcmp0(a->image, b->image) == 0;
}

static gboolean
named_in(const GPtrArray *disks, const VlLease *lease)
{
    for (guint i = 0; i < disks->len; i++) {
        const VlDisk *disk = disks->pdata[i];
        struct vl_volume_spec spec = {0};
        gboolean same = same_volume(&disk->spec, &lease->spec) || vl_disk_is_volume_at(disk, lease->spec.written);
        if (!same && disk->spec.kind == VL_VOLUME_FILE &&
            vl_volume_from_path(disk->spec.path, "/sys", "/dev", &spec) == 0)
            same = same_volume(&spec, &lease->spec);
        vl_volume_spec_clear(&spec);
        if (same)
            return TRUE;
    }
    return FALSE;
}

static gboolean
named(const VlDomain *domain, const VlLease *lease)
{
    return named_in(domain->disks, lease) || named_in(domain->backing, lease);
}

static gboolean
may_be_arriving(const VlLease *lease)
{
    return !lease->seen && g_get_real_time() / G_USEC_PER_SEC - lease->since < ATTACH_S;
}

/* Frees leases of images that the XML no longer names and that no client of ours watches. TRUE: one is left to look
 * at again, because QEMU still has it open. */
static gboolean
free_detached(VlDaemon *daemon, VlVm *vm, const VlDomain *domain)
{
    gboolean left = FALSE;
    for (guint i = vm->leases->len; i > 0; i--) {
        VlLease *lease = vm->leases->pdata[i - 1];
        if (named(domain, lease) || !vl_lease_is_ours(lease))
            continue;
        if (may_be_arriving(lease) || !vl_backend_of(lease->volume)->closed(lease)) {
            left = TRUE;
            continue;
        }
        g_autoptr(GPtrArray) one = g_ptr_array_new();
        g_ptr_array_add(one, lease);
        vl_free_leases(daemon, vm, one, "detached");
        if (lease->state == VL_LEASE_FREE)
            vl_vm_drop_lease(vm, lease);
    }
    return left;
}

void
vl_rescan_released(VlVm *vm, const GPtrArray *disks)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (named_in(disks, lease))
            lease->seen = TRUE;
    }
}

/* ---- attached ---- */

static void
drop_untaken(VlVm *vm, GPtrArray *fresh)
{
    for (guint i = 0; i < fresh->len; i++) {
        VlLease *lease = fresh->pdata[i];
        if (lease->state == VL_LEASE_FREE || lease->state == VL_LEASE_NONE)
            vl_vm_drop_lease(vm, lease);
    }
}

/* Leases every disk that the XML names and that has none. QEMU has it open already. */
static gboolean
take_attached(VlDaemon *daemon, VlVm *vm, const VlDomain *domain, const VlCall *call, char **ret_target, GError **error)
{
    g_autoptr(GPtrArray) fresh = g_ptr_array_new();
    gboolean ok = vl_disks_add(daemon, vm, domain, call, fresh, error);
    for (guint i = 0; i < fresh->len; i++)
        ((VlLease *)fresh->pdata[i])->open_already = TRUE;
    ok = ok && vl_take_all(daemon, vm, fresh, daemon->settings->dead_after, call, error);
    if (ok && fresh->len && vm->running)
        ok = vl_hold_all(daemon, vm, call, error);
    if (!ok && fresh->len && ret_target)
        *ret_target = g_strdup(((VlLease *)fresh->pdata[0])->target);
    if (!ok)
        drop_untaken(vm, fresh);
    return ok;
}

/* The VM has a disk without a lease: said loudly, acted on once, and no resume until that is over. */
static void
set_unleased(VlDaemon *daemon, VlVm *vm, const char *target, const char *why)
{
    gboolean first = !vm->unleased;
    g_free(vm->unleased);
    vm->unleased = g_strdup(why);
    if (!first)
        return;
    g_warning("VM %s: a disk was attached for which it has NO lease: %s. Detach it at once", vm->name, why);
    vl_action_conflict(daemon, vm, target);
}

static void
has_all(VlVm *vm)
{
    g_clear_pointer(&vm->unleased, g_free);
    vm->unadopted = FALSE;
}

gboolean
vl_rescan_unleased(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error)
{
    if (!vm->unadopted && (!vm->unleased || daemon->settings->hotplug_conflict == VL_CONFLICT_LOG))
        return TRUE;
    g_autoptr(VlDomain) domain = vl_disks_domain(daemon, vm->uri, vm->name, vm->who.uuid, vm->who.pid, call, error);
    if (!domain || !take_attached(daemon, vm, domain, call, NULL, error)) {
        g_prefix_error(error, "VM '%s' has a disk that it has no lease for: ", vm->name);
        return FALSE;
    }
    has_all(vm);
    return TRUE;
}

/* libvirt writes a disk into the XML after it was attached; at a resume all of them are there, and QEMU has them open
 * (a lease that an adoption did not get is taken as one that the VM had, R1). When that cannot be told, CPUs may be
 * about to run. (A <disk type='volume'> is there without its path.) */
static gboolean
in_xml(VlDaemon *daemon, VlVm *vm, GPtrArray *fresh, const VlCall *call)
{
    g_autoptr(VlDomain) domain = vl_disks_domain(daemon, vm->uri, vm->name, vm->who.uuid, vm->who.pid, call, NULL);
    gboolean found = !domain;
    for (guint i = 0; domain && i < domain->disks->len; i++) {
        const struct vl_volume_spec *spec = &((VlDisk *)domain->disks->pdata[i])->spec;
        found = found || (spec->kind == VL_VOLUME_OTHER && g_str_has_prefix(spec->path, "volume:"));
    }
    for (guint i = 0; domain && i < fresh->len; i++) {
        VlLease *lease = fresh->pdata[i];
        lease->open_already = named(domain, lease);
        found = found || lease->open_already;
    }
    return found;
}

gboolean
vl_rescan_named(VlDaemon *daemon, VlVm *vm, GPtrArray *disks, const VlCall *call, gboolean *ret_attach, GError **error)
{
    g_autoptr(GPtrArray) fresh = g_ptr_array_new();
    VlDomain named = {.disks = disks};
    gboolean ok = vl_disks_add(daemon, vm, &named, call, fresh, error);
    *ret_attach = fresh->len > 0 && !in_xml(daemon, vm, fresh, call);
    /* Until a rescan has seen it in the XML; even when this is taken for a resume it may be an attach. */
    for (guint i = 0; i < fresh->len; i++)
        ((VlLease *)fresh->pdata[i])->seen = FALSE;
    if (ok && vl_take_all(daemon, vm, fresh, daemon->settings->takeover_wait, call, error))
        return TRUE;
    drop_untaken(vm, fresh);
    return FALSE;
}

/* ---- rescans ---- */

static void
note_migration(VlDaemon *daemon, VlVm *vm, const VlDomain *domain)
{
    if (domain->async_job && g_str_equal(domain->async_job, "migration out")) {
        vm->migrating = TRUE;
        /* After a restart of ours `running` may be wrong until the next call about the VM. */
        if (!vm->running && domain->paused)
            vl_depart_all(daemon, vm);
    } else if (vm->migrating && vm->running && g_strcmp0(domain->state, "running") == 0) {
        vm->migrating = FALSE;
        vl_stay_all(daemon, vm);
    }
}

/* TRUE: a detached image is still open; the next audit looks again. */
static gboolean
rescan_once(VlDaemon *daemon, VlVm *vm)
{
    VlCall call = {.deadline = vl_deadline_in(TAKE_S), .gone = &vm->exited};
    g_autoptr(GError) error = NULL;
    g_autofree char *target = NULL;
    if (vm->gone || g_atomic_int_get(&vm->exited) || vm->adopting)
        return FALSE;
    VlCall read_call = {.deadline = vl_deadline_in(0.5), .gone = &vm->exited};
    g_autoptr(VlDomain) domain =
        vl_disks_domain(daemon, vm->uri, vm->name, vm->who.uuid, vm->who.pid, &read_call, NULL);
    if (!domain || domain->pid != vm->who.pid ||
        (domain->async_job &&
         (g_str_equal(domain->async_job, "start") || g_str_equal(domain->async_job, "migration in"))))
        return FALSE;
    note_migration(daemon, vm, domain);
    gboolean had_devices = FALSE;
    for (guint i = 0; i < vm->leases->len; i++)
        had_devices = had_devices || ((VlLease *)vm->leases->pdata[i])->device;
    if (take_attached(daemon, vm, domain, &call, &target, &error))
        has_all(vm);
    else if (vl_error_code(error) != VL_ERR_CANCELLED)
        set_unleased(daemon, vm, target, error->message);
    if (had_devices)
        vl_audit_vm(daemon, vm); /* a disk of a <lease> has its client now */
    return free_detached(daemon, vm, domain);
}

static void
rescan_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    do {
        g_atomic_int_set(&vm->rescan, 1);
        for (guint round = 0; round < ROUNDS && !g_atomic_int_get(&vm->exited) && !g_atomic_int_get(&daemon->stopping);
             round++) {
            VlCall call = {.deadline = vl_deadline_in(1), .gone = &vm->exited};
            vl_clock_sleep_until(vl_clock_now() + ROUND_US, &call);
            g_mutex_lock(&vm->op);
            vm->leftover = rescan_once(daemon, vm);
            g_mutex_unlock(&vm->op);
        }
    } while (!g_atomic_int_compare_and_exchange(&vm->rescan, 1, 0));
}

void
vl_rescan_later(VlDaemon *daemon, VlVm *vm)
{
    if (g_atomic_int_compare_and_exchange(&vm->rescan, 0, 1))
        vl_daemon_run(daemon, rescan_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
    else
        g_atomic_int_set(&vm->rescan, 2);
}

/* ---- the status directory ---- */

static void
on_change(GFileMonitor *monitor, GFile *file, GFile *other, GFileMonitorEvent event, gpointer data)
{
    VlDaemon *daemon = data;
    /* libvirt writes NAME.xml.new and renames it (virFileRewrite) */
    g_autofree char *name = g_file_get_basename(other ? other : file);
    if (!g_str_has_suffix(name, ".xml"))
        return;
    name[strlen(name) - strlen(".xml")] = '\0';
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    for (guint i = 0; i < vms->len; i++) {
        VlVm *vm = vms->pdata[i];
        if (g_str_equal(vm->name, name) && !g_atomic_int_get(&vm->exited))
            vl_rescan_later(daemon, vm);
    }
}

void
vl_rescan_watch(VlDaemon *daemon)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = vl_statusxml_dir("qemu:///system", daemon->settings->run_root, &error);
    g_autoptr(GFile) dir = path ? g_file_new_for_path(path) : NULL;
    GFileMonitor *monitor = dir ? g_file_monitor_directory(dir, G_FILE_MONITOR_WATCH_MOVES, NULL, &error) : NULL;
    if (!monitor) {
        g_warning("%s cannot be watched: %s; hot-plugged disks are noticed by libvirt's hints only",
                  path ? path : "the status directory", error->message);
        return;
    }
    g_file_monitor_set_rate_limit(monitor, 0);
    g_signal_connect(monitor, "changed", G_CALLBACK(on_change), daemon); /* lives as long as the daemon */
}

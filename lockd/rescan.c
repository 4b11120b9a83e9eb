/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/rescan.h"

#include "lockd/disks.h"
#include "lockd/error.h"
#include "lockd/free.h"
#include "lockd/hold.h"
#include "lockd/take.h"

#define ROUNDS 10
#define ROUND_US (300 * 1000)
#define TAKE_S 30.0

static gboolean
named(const VlDomain *domain, const VlLease *lease)
{
    for (guint i = 0; i < domain->disks->len; i++) {
        const VlDisk *disk = domain->disks->pdata[i];
        struct vl_volume_spec spec = {0};
        gboolean same = vl_volume_spec_equal(&disk->spec, &lease->spec);
        if (!same && disk->spec.kind == VL_VOLUME_FILE &&
            vl_volume_from_path(disk->spec.path, "/sys", "/dev", &spec) == 0)
            same = vl_volume_spec_equal(&spec, &lease->spec);
        vl_volume_spec_clear(&spec);
        if (same)
            return TRUE;
    }
    return FALSE;
}

/* Frees leases of images that the XML no longer names and that no client of ours watches. */
static void
free_detached(VlDaemon *daemon, VlVm *vm, const VlDomain *domain)
{
    for (guint i = vm->leases->len; i > 0; i--) {
        VlLease *lease = vm->leases->pdata[i - 1];
        VlLook look = {.volume = lease->volume};
        if (named(domain, lease) || !vl_lease_is_ours(lease))
            continue;
        gboolean looked = lease->volume->place->store->ops->look(&look, 1, VL_LOOK_WATCHERS, vl_deadline_in(6));
        gboolean open = FALSE;
        const VlHolder *holder = vl_lease_holder(lease);
        for (guint k = 0; holder && k < holder->addrs->len && !open; k++)
            open = vl_watchers_have(look.watchers, holder->addrs->pdata[k]);
        vl_look_clear(&look);
        if (!looked || open)
            continue;
        g_autoptr(GPtrArray) one = g_ptr_array_new();
        g_ptr_array_add(one, lease);
        vl_free_leases(daemon, vm, one, "detached");
        if (lease->state == VL_LEASE_FREE)
            vl_vm_drop_lease(vm, lease);
    }
}

/* Hot-plugged disks: leased as soon as the XML names them. */
static void
take_attached(VlDaemon *daemon, VlVm *vm, const VlDomain *domain)
{
    VlCall call = {.deadline = vl_deadline_in(TAKE_S), .gone = &vm->exited};
    g_autoptr(GPtrArray) fresh = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    gboolean ok = vl_disks_add(daemon, vm, domain, &call, fresh, &error);
    for (guint i = 0; i < fresh->len; i++)
        ((VlLease *)fresh->pdata[i])->open_already = TRUE;
    ok = ok && vl_take_all(daemon, vm, fresh, daemon->settings->dead_after, &call, &error);
    if (ok && fresh->len && vm->running)
        ok = vl_hold_all(daemon, vm, &call, &error);
    if (ok)
        return;
    g_warning("VM %s: a disk was attached for which it has NO lease: %s. Detach it at once", vm->name, error->message);
    for (guint i = 0; i < fresh->len; i++)
        if (((VlLease *)fresh->pdata[i])->state == VL_LEASE_FREE)
            vl_vm_drop_lease(vm, fresh->pdata[i]);
}

static void
rescan_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    for (guint round = 0; round < ROUNDS && !vm->gone && !g_atomic_int_get(&vm->exited); round++) {
        VlCall call = {.deadline = vl_deadline_in(1), .gone = &vm->exited};
        vl_clock_sleep_until(vl_clock_now() + ROUND_US, &call);
        g_mutex_lock(&vm->op);
        g_autoptr(VlDomain) domain = NULL;
        if (!vm->gone && !g_atomic_int_get(&vm->exited))
            domain = vl_disks_domain(daemon, vm->uri, vm->name, vm->who.uuid, vm->who.pid, &call, NULL);
        if (domain && domain->pid == vm->who.pid) {
            take_attached(daemon, vm, domain);
            free_detached(daemon, vm, domain);
        }
        g_mutex_unlock(&vm->op);
    }
}

void
vl_rescan_later(VlDaemon *daemon, VlVm *vm)
{
    vl_daemon_run(daemon, rescan_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * When sanlock cannot guard any more.
 *
 * The daemon is gone, or this host is out of the lockspace: nobody but the QEMU process itself could register it
 * again (sanlock goes by the credentials of connect()), and as soon as this host joins anew, others may take its leases
 * for those of an earlier life. So every VM that has leases is treated as one whose lease is lost, before
 * we join; what libvirt did not stop within 30 s is killed (not what <on_lockfailure> or on_lease_lost leave alone:
 * that runs on unguarded).
 *
 * The lockspace is failing: sanlock runs `virtleasectl lost UUID` for each VM and kills what still has leases 40 s
 * later. A VM that could be paused, with all its writes done, gives its leases back and lives; resumed, it takes
 * them again if nobody had them.
 */
#include <signal.h>

#include "lockd/action.h"
#include "lockd/audit.h"
#include "lockd/backend_sanlock.h"
#include "lockd/error.h"
#include "lockd/procinfo.h"

#define STEP_S  5.0
#define STOP_S  30.0 /* how long joining anew waits for VMs to stop */
#define KILL_S  5.0  /* and then for those that were killed */
#define POLL_US (20 * 1000)

static gboolean
has_leases(VlVm *vm)
{
    gboolean any = FALSE;
    vl_vms_lock(vm->vms);
    for (guint i = 0; i < vm->leases->len && !any; i++) {
        const VlLease *lease = vm->leases->pdata[i];
        any = vl_backend_of(lease->volume) == &vl_backend_sanlock && vl_lease_is_ours(lease);
    }
    vl_vms_unlock(vm->vms);
    return any;
}

/* Not one whose leases were all let go on purpose: that is safe, by their versions. Of a disk that the status XML does
 * not name (type 'volume') there is no lease in the table after a restart of ours, only its version is left. */
static gboolean
has_unprotected(VlVm *vm)
{
    gboolean any = FALSE, unprotected = FALSE;
    vl_vms_lock(vm->vms);
    for (guint i = 0; i < vm->leases->len; i++) {
        const VlLease *lease = vm->leases->pdata[i];
        if (vl_backend_of(lease->volume) != &vl_backend_sanlock || !vl_lease_is_ours(lease))
            continue;
        const VlSanlockLease *own = lease->priv; /* goes under this lock */
        any = TRUE;
        unprotected = unprotected || !own || !own->let_go;
    }
    vl_vms_unlock(vm->vms);
    return unprotected || !any;
}

enum { STOPPING = 1, STOPPED = 2 };

static void
stop_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    (void)vl_action_stop(daemon, vm);
    g_atomic_int_set(&vm->sanlock_lost, STOPPED);
}

void
vl_sanlock_unprotected(VlDaemon *daemon, VlVm *vm, const char *reason)
{
    if (!g_atomic_int_compare_and_exchange(&vm->sanlock_lost, 0, STOPPING))
        return;
    g_warning("VM %s: its leases are LOST: %s", vm->name, reason);
    vl_daemon_run(daemon, stop_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
}

typedef struct {
    VlVm *vm;
    char *reason;
    gboolean lost;    /* sanlock does not know the VM any more; both set before done */
    gboolean stopped; /* libvirt has paused it, or it is being killed: what we believe of its CPUs is no proof */
    gint done;        /* atomic */
} Loss;

static void
loss_clear(gpointer data)
{
    Loss *loss = data;
    vl_vm_unref(loss->vm);
    g_free(loss->reason);
}

static void
loss_unref(gpointer data)
{
    g_atomic_rc_box_release_full(data, loss_clear);
}

/* Not what has been let go on purpose: that is safe, by its version. */
static void
lose_all(VlDaemon *daemon, VlVm *vm, const char *reason)
{
    gboolean acted = FALSE;
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (vl_backend_of(lease->volume) != &vl_backend_sanlock || !vl_lease_is_ours(lease) ||
            vl_sanlock_lease_of(lease)->let_go)
            continue;
        if (acted)
            vl_lease_set_state(lease, VL_LEASE_LOST, reason);
        else
            vl_lose(daemon, vm, lease, reason);
        acted = TRUE;
    }
}

/* The action first and without a lock of ours: a call about the VM may hold its operation lock for long, and libvirt
 * calls us back while it pauses it. A resume in between asks sanlock and is refused. */
static void
loss_job(VlDaemon *daemon, gpointer data)
{
    Loss *loss = data;
    VlVm *vm = loss->vm;
    g_autoptr(GHashTable) held = vl_sanlock_lease_inquire((pid_t)vm->who.pid, vm->name, vl_deadline_in(STEP_S), NULL);
    /* Known to the daemon as ever: it was only our own connection that broke. */
    loss->lost = (!held || g_hash_table_size(held) == 0) && (vm->adopting || has_unprotected(vm));
    if (loss->lost) {
        g_warning("VM %s: its sanlock leases are LOST: %s", vm->name, loss->reason);
        loss->stopped = vl_action_stop(daemon, vm);
    }
    g_atomic_int_set(&loss->done, 1);
    if (!loss->lost || vm->adopting) /* being adopted, its leases have no state yet */
        return;
    g_mutex_lock(&vm->op);
    lose_all(daemon, vm, loss->reason);
    g_mutex_unlock(&vm->op);
}

/* Or it may, because its administrator wants it so. */
static gboolean
is_stopped(const VlDaemon *daemon, Loss *loss)
{
    if (g_atomic_int_get(&loss->vm->exited))
        return TRUE;
    return g_atomic_int_get(&loss->done) && (!loss->lost || loss->stopped || vl_action_ignores(daemon, loss->vm));
}

static gboolean
wait_all(VlDaemon *daemon, GPtrArray *losses, double seconds)
{
    gint64 until = g_get_monotonic_time() + (gint64)(seconds * G_USEC_PER_SEC);
    for (;;) {
        gboolean all = TRUE;
        for (guint i = 0; i < losses->len && all; i++)
            all = is_stopped(daemon, losses->pdata[i]);
        if (all || g_get_monotonic_time() >= until || g_atomic_int_get(&daemon->stopping))
            return all;
        g_usleep(POLL_US);
    }
}

/* libvirt did not pause them, or hangs. Once this host has joined, another host may run these VMs: they must not. */
static void
kill_running(VlDaemon *daemon, GPtrArray *losses)
{
    for (guint i = 0; i < losses->len; i++) {
        Loss *loss = losses->pdata[i];
        if (is_stopped(daemon, loss) || g_atomic_int_get(&daemon->stopping) || vl_action_ignores(daemon, loss->vm))
            continue;
        g_warning("VM %s: lost its leases and could not be paused within %.0f s; killing process %" G_GINT64_FORMAT
                  ", because other hosts may take its disks from now on",
                  loss->vm->name, STOP_S, loss->vm->who.pid);
        vl_proc_kill(loss->vm->pidfd, SIGKILL);
    }
}

void
vl_sanlock_lost(const char *reason, gpointer opaque)
{
    VlSanlock *sanlock = opaque;
    VlDaemon *daemon = sanlock->daemon;
    while (!g_atomic_int_get(&daemon->ready) && !g_atomic_int_get(&daemon->stopping))
        g_usleep(POLL_US);
    g_autoptr(GPtrArray) all = vl_vms_all(daemon->vms);
    g_autoptr(GPtrArray) losses = g_ptr_array_new_with_free_func(loss_unref);
    for (guint i = 0; i < all->len; i++) {
        if (!has_leases(all->pdata[i]) && !vl_sanlock_had_leases(sanlock, all->pdata[i]))
            continue;
        Loss *loss = g_atomic_rc_box_new0(Loss);
        loss->vm = vl_vm_ref(all->pdata[i]);
        loss->reason = g_strdup(reason);
        g_ptr_array_add(losses, g_atomic_rc_box_acquire(loss));
        vl_daemon_run(daemon, loss_job, loss, loss_unref);
    }
    if (!wait_all(daemon, losses, STOP_S)) {
        kill_running(daemon, losses);
        (void)wait_all(daemon, losses, KILL_S);
    }
}

/* ---- killpath ---- */

/* The process keeps its registration, so it can take them again. */
static void
give_back(VlSanlock *sanlock, VlVm *vm)
{
    g_autoptr(GPtrArray) leases = vl_backend_share(&vl_backend_sanlock, vm->leases, VL_LEASE_PARKED);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        g_autoptr(GError) error = NULL;
        if (vl_sanlock_save_versions(sanlock, vm, &error) &&
            vl_sanlock_release_refs(sanlock, vm, lease, vl_deadline_in(STEP_S), &error))
            vl_sanlock_lease_of(lease)->let_go = TRUE;
        else
            g_warning("VM %s: sanlock will kill it: %s", vm->name, error->message);
    }
}

static void
failing_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    g_warning("VM %s: the sanlock lockspace is failing, its storage does not answer", vm->name);
    if (!vl_action_stop(daemon, vm)) {
        g_warning("VM %s: not paused; sanlock kills it if the storage stays away", vm->name);
        return;
    }
    g_mutex_lock(&vm->op);
    if (!vm->running)
        give_back(vl_sanlock_of(daemon), vm);
    g_mutex_unlock(&vm->op);
}

gboolean
vl_sanlock_failing(VlDaemon *daemon, const char *uuid, GError **error)
{
    g_autoptr(VlVm) vm = uuid ? vl_vms_find_uuid(daemon->vms, uuid) : NULL;
    if (!vm || !vl_sanlock_of(daemon)) {
        vl_set_error(error, VL_ERR_NOT_REGISTERED, "no VM %s with sanlock leases here", uuid ? uuid : "");
        return FALSE;
    }
    vl_daemon_run(daemon, failing_job, g_steal_pointer(&vm), (GDestroyNotify)vl_vm_unref);
    return TRUE;
}

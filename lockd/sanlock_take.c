/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/backend_sanlock.h"

#include "lockd/audit.h"
#include "lockd/error.h"

#define STEP_S 10.0 /* one command to sanlock that nobody waits for */

static const VlSanlockVolume *
volume_of(const VlLease *lease)
{
    return lease->volume->priv;
}

/* ---- taking ---- */

gboolean
vl_sanlock_take_local(VlSanlock *sanlock, VlVm *vm, VlLease *lease, const VlCall *call, GError **error)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = volume_of(lease);
    if (volume->is_file && !own->local)
        own->local = vl_local_take(sanlock->daemon, vm, lease, &volume->id, call, error);
    return !volume->is_file || own->local;
}

gboolean
vl_sanlock_release_refs(VlSanlock *sanlock, VlVm *vm, VlLease *lease, gint64 deadline, GError **error)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = volume_of(lease);
    while (own->taken > 0) {
        if (!vl_sanlock_lease_release(sanlock->space, (pid_t)vm->who.pid, volume->refs->pdata[own->taken - 1],
                                      lease->volume->display, deadline, error))
            return FALSE;
        own->taken--;
    }
    return TRUE;
}

static gboolean
refuse_unreadable(const VlLease *lease, GError **error)
{
    vl_set_error(error, VL_ERR_STALE,
                 "%s: in which version this VM had it cannot be read any more, so its memory may be stale",
                 lease->volume->display);
    return FALSE;
}

gboolean
vl_sanlock_take_refs(VlSanlock *sanlock, VlVm *vm, VlLease *lease, guint wait_s, gboolean handover, const VlCall *call,
                     GError **error)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = volume_of(lease);
    for (guint i = 0; i < volume->refs->len; i++) {
        if (own->lver[i] == VL_SANLOCK_LVER_UNREADABLE)
            return refuse_unreadable(lease, error);
    }
    while (own->taken < volume->refs->len) {
        VlSanlockWant want = {.pid = (pid_t)vm->who.pid,
                              .ref = volume->refs->pdata[own->taken],
                              .what = lease->volume->display,
                              .shared = lease->shared,
                              .lver = own->lver[own->taken],
                              .wait_until = wait_s ? vl_deadline_in(wait_s) : 0,
                              .wait_left = &own->wait_left,
                              .handover = handover};
        gboolean ok = vl_sanlock_lease_acquire(sanlock->space, &want, call, error);
        g_atomic_int_set(&own->wait_left, 0);
        if (!ok) {
            /* What the process had before stays: a running one must not lose it for a failed question. */
            if (!lease->open_already)
                (void)vl_sanlock_release_refs(sanlock, vm, lease, vl_deadline_in(STEP_S), NULL);
            return FALSE;
        }
        own->taken++;
    }
    own->let_go = FALSE;
    return TRUE;
}

/* The lease's refs are all in what sanlock says the process has; and in the version we know. */
gboolean
vl_sanlock_is_held(VlLease *lease, GHashTable *held, gboolean note)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = volume_of(lease);
    for (guint i = 0; i < volume->refs->len; i++) {
        gint64 lver = vl_sanlock_lease_lver(held, volume->refs->pdata[i]);
        if (lver < 0)
            return FALSE;
        if (note)
            own->lver[i] = lease->shared ? 0 : lver;
    }
    if (note) {
        own->taken = volume->refs->len;
        own->let_go = FALSE; /* whatever was planned before a crash */
    }
    return TRUE;
}

gboolean
vl_sanlock_verify(VlSanlock *sanlock, VlVm *vm, GPtrArray *leases, gint64 deadline, GError **error)
{
    g_autoptr(GHashTable) held = vl_sanlock_lease_inquire((pid_t)vm->who.pid, vm->name, deadline, error);
    if (!held)
        return FALSE;
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (!vl_sanlock_is_held(lease, held, TRUE) && !vl_sanlock_lease_of(lease)->let_go) {
            vl_set_error(error, VL_ERR_LOST, "%s: sanlock no longer lists it among this VM's leases",
                         lease->volume->display);
            return FALSE;
        }
    }
    return TRUE;
}

/* QEMU has it open already: what it has is kept; what it had, according to what an earlier life of ours wrote, is
 * taken again in no other version. */
static gboolean
take_up(VlSanlock *sanlock, VlVm *vm, GPtrArray *leases, const VlCall *call, GError **error)
{
    gboolean any = FALSE, had = FALSE;
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        any = any || lease->open_already;
        had = (lease->open_already && vl_sanlock_load_versions(sanlock, vm, lease)) || had;
    }
    if (!any)
        return TRUE;
    g_autoptr(GError) local = NULL;
    g_autoptr(GHashTable) held =
        vl_sanlock_lease_inquire((pid_t)vm->who.pid, vm->name, vl_call_within(call, STEP_S), &local);
    for (guint i = 0; held && i < leases->len; i++)
        (void)vl_sanlock_is_held(leases->pdata[i], held, TRUE);
    if (!held && had && vl_error_code(local) == VL_ERR_NOT_REGISTERED)
        vl_sanlock_unprotected(sanlock->daemon, vm, local->message);
    if (!held)
        g_propagate_error(error, g_steal_pointer(&local));
    return held != NULL;
}

static gboolean
check_registered(const VlVm *vm, const VlLease *lease, GError **error)
{
    if (!vm->sanlock_error)
        return TRUE;
    vl_set_error(error, VL_ERR_NOT_REGISTERED, "%s: this QEMU process could not register with sanlock: %s",
                 lease->volume->display, vm->sanlock_error);
    return FALSE;
}

/* What had been let go when we crashed stays so until its CPUs are to run. */
static gboolean
take_one(VlSanlock *sanlock, VlVm *vm, VlLease *lease, guint wait_s, const VlCall *call, GError **error)
{
    const VlSanlockLease *own = vl_sanlock_lease_of(lease);
    g_autoptr(GError) local = NULL;
    if (own->let_go || vl_sanlock_take_refs(sanlock, vm, lease, wait_s, FALSE, call, &local))
        return TRUE;
    enum vl_error code = vl_error_code(local);
    /* It runs, it had this lease, and now somebody else has or had it. */
    if (lease->open_already && own->lver[0] > 0 &&
        (code == VL_ERR_STALE || code == VL_ERR_HELD || code == VL_ERR_UNKNOWN_OWNER))
        vl_sanlock_unprotected(sanlock->daemon, vm, local->message);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

gboolean
vl_sanlock_take(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    if (!take_up(sanlock, vm, leases, call, error))
        return FALSE;
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (!check_registered(vm, lease, error) || !vl_sanlock_take_local(sanlock, vm, lease, call, error) ||
            !take_one(sanlock, vm, lease, wait_s, call, error))
            return FALSE;
    }
    if (!vl_sanlock_verify(sanlock, vm, leases, vl_call_within(call, STEP_S), error) ||
        !vl_sanlock_save_versions(sanlock, vm, error))
        return FALSE;
    for (guint i = 0; i < leases->len; i++)
        vl_lease_set_state(leases->pdata[i], VL_LEASE_PARKED, "sanlock granted it");
    return TRUE;
}

/* ---- running ---- */

/* Again what was let go; only if nobody has had it since, and that can only be told by its version. */
static gboolean
take_again(VlSanlock *sanlock, VlVm *vm, VlLease *lease, const VlCall *call, GError **error)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = volume_of(lease);
    own->taken = 0;
    for (guint i = 0; i < volume->refs->len && !lease->shared; i++) {
        if (own->lver[i] > 0)
            continue;
        vl_set_error(error, VL_ERR_STALE, "%s: who had it since this VM ran is not known: its memory may be stale",
                     lease->volume->display);
        return FALSE;
    }
    return vl_sanlock_take_refs(sanlock, vm, lease, 0, FALSE, call, error);
}

gboolean
vl_sanlock_hold(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *token, const VlCall *call, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    g_autoptr(GHashTable) held =
        vl_sanlock_lease_inquire((pid_t)vm->who.pid, vm->name, vl_call_within(call, STEP_S), error);
    gboolean again = FALSE;
    for (guint i = 0; held && i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (vl_sanlock_is_held(lease, held, TRUE))
            continue;
        again = TRUE;
        if (!take_again(sanlock, vm, lease, call, error))
            return FALSE;
    }
    vl_sanlock_note_locks(leases);
    return held && (!again || (vl_sanlock_verify(sanlock, vm, leases, vl_call_within(call, STEP_S), error) &&
                               vl_sanlock_save_versions(sanlock, vm, error)));
}

/* Somebody else has or had it. Anything else may pass. */
static gboolean
is_final(const GError *error)
{
    enum vl_error code = vl_error_code(error);
    return code == VL_ERR_STALE || code == VL_ERR_HELD || code == VL_ERR_UNKNOWN_OWNER ||
           code == VL_ERR_NOT_REGISTERED || code == VL_ERR_LOST;
}

/* Not ours any more means: the daemon that knew was restarted, or the lease was released under the VM. */
void
vl_sanlock_audit(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    VlCall call = {.deadline = vl_deadline_in(STEP_S), .gone = &vm->exited};
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) held = vl_sanlock_lease_inquire((pid_t)vm->who.pid, vm->name, call.deadline, &error);
    if (!held && vl_error_code(error) != VL_ERR_NOT_REGISTERED) {
        g_warning("VM %s: its sanlock leases cannot be checked: %s", vm->name, error->message);
        return;
    }
    for (guint i = 0; i < leases->len && !g_atomic_int_get(&vm->exited); i++) {
        VlLease *lease = leases->pdata[i];
        g_autoptr(GError) why = NULL;
        if (vl_sanlock_lease_of(lease)->let_go || (held && vl_sanlock_is_held(lease, held, FALSE)))
            continue;
        if (held && take_again(sanlock, vm, lease, &call, &why) &&
            vl_sanlock_verify(sanlock, vm, leases, call.deadline, &why))
            g_warning("VM %s: sanlock had dropped %s; taken again, nobody had it meanwhile", vm->name,
                      lease->volume->display);
        else if (!g_atomic_int_get(&vm->exited) && is_final(why ? why : error))
            vl_lose(daemon, vm, lease, why ? why->message : error->message);
        else if (why)
            g_warning("VM %s: sanlock has dropped %s, which cannot be taken again yet: %s", vm->name,
                      lease->volume->display, why->message);
    }
}

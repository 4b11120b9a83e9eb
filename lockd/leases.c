/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/leases.h"

#include <string.h>

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/procinfo.h"

#define RETRY_S 2.0

/* ---- taking ---- */

/* What may be given back after a refusal: leases of volumes that no QEMU uses yet. For a running one half of its leases
 * is better than none, and what the record may say of it is never taken out while it runs. What was never tried has
 * nothing to give back. */
static GPtrArray *
to_give_back(GPtrArray *leases)
{
    GPtrArray *rest = g_ptr_array_new();
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (lease->state == VL_LEASE_NONE && !lease->open_already)
            vl_lease_set_state(lease, VL_LEASE_FREE, "not granted");
        else if (!lease->open_already)
            g_ptr_array_add(rest, lease);
        else if (lease->state == VL_LEASE_TAKING)
            vl_lease_set_state(lease, VL_LEASE_NONE, "not granted");
    }
    return rest;
}

/* Verdicts on all volumes first, then slow harmless backends, then claims and fences (design section 3): who refuses
 * for sure must not have the user wait for another backend's dead owner first. */
static gboolean
ask_each(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    gboolean slow = FALSE;
    for (guint i = 0; i < leases->len; i++)
        slow = slow || vl_backend_of(((VlLease *)leases->pdata[i])->volume)->slow;
    for (guint b = 0; vl_backends[b] && slow; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], leases, VL_LEASE_STATE_COUNT);
        if (share->len && vl_backends[b]->ask && !vl_backends[b]->ask(daemon, vm, share, wait_s, call, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
take_each(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], leases, VL_LEASE_STATE_COUNT);
        for (guint i = 0; i < share->len; i++)
            vl_lease_set_state(share->pdata[i], VL_LEASE_TAKING, "VM starts");
        if (share->len && !vl_backends[b]->take(daemon, vm, share, wait_s, call, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vl_take_all(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    if (!leases->len)
        return TRUE;
    VL_FAULT("before-take");
    if (vl_journal_write(daemon->journal, vm, error) && ask_each(daemon, vm, leases, wait_s, call, error) &&
        take_each(daemon, vm, leases, wait_s, call, error)) {
        VL_FAULT("after-take");
        return TRUE;
    }
    g_autoptr(GPtrArray) rest = to_give_back(leases);
    vl_free_leases(daemon, vm, rest, "not granted");
    return FALSE;
}

/* ---- writing down that leases are parked ---- */

static gboolean
park_round(VlDaemon *daemon, VlVm *vm, GError **error)
{
    gboolean ok = TRUE;
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], vm->leases, VL_LEASE_PARKED);
        for (guint i = share->len; i > 0; i--) {
            VlLease *lease = share->pdata[i - 1];
            lease->unwritten = lease->unwritten && vl_backends[b]->park;
            if (!lease->unwritten)
                g_ptr_array_remove_index(share, i - 1);
        }
        if (share->len && !vl_backends[b]->park(daemon, vm, share, ok ? error : NULL))
            ok = FALSE;
    }
    return ok;
}

/* Storage that is away is waited for: what stays behind would keep a migration's destination out for good. */
static void
park_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    for (guint attempt = 0; !g_atomic_int_get(&daemon->stopping); attempt++) {
        VlCall call = {.deadline = vl_deadline_in(2 * RETRY_S), .gone = &vm->exited};
        g_autoptr(GError) error = NULL;
        g_mutex_lock(&vm->op);
        gboolean ok = park_round(daemon, vm, &error);
        if (vm->migrating && !vm->running)
            vl_depart_all(daemon, vm); /* the status XML may not change before the destination asks */
        g_mutex_unlock(&vm->op);
        if (ok || g_atomic_int_get(&vm->exited))
            break;
        if (!attempt)
            g_warning("VM %s: the stored lease still says held although it is paused: %s", vm->name, error->message);
        vl_clock_sleep_until(vl_deadline_in(RETRY_S), &call);
    }
}

static void
park_later(VlDaemon *daemon, VlVm *vm)
{
    gboolean any = FALSE;
    for (guint i = 0; i < vm->leases->len; i++)
        any = any || ((VlLease *)vm->leases->pdata[i])->unwritten;
    if (any)
        vl_daemon_run(daemon, park_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
}

/* ---- holding ---- */

static gboolean
may_hold(VlVm *vm, GError **error)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (vl_lease_is_ours(lease))
            continue;
        vl_set_error(error, lease->state == VL_LEASE_LOST ? VL_ERR_STALE : VL_ERR_LOST,
                     "%s: this VM's lease is %s%s. It may not run", lease->volume->display,
                     vl_lease_state_name(lease->state),
                     lease->state == VL_LEASE_LOST
                         ? " (taken over or fenced meanwhile): its memory here is stale; destroy it here"
                         : " (the log of virtleased says why)");
        return FALSE;
    }
    return TRUE;
}

static gboolean
hold_each(VlDaemon *daemon, VlVm *vm, GPtrArray *parked, const char *token, const VlCall *call, GError **error)
{
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], parked, VL_LEASE_STATE_COUNT);
        if (share->len && vl_backends[b]->hold && !vl_backends[b]->hold(daemon, vm, share, token, call, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vl_hold_all(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error)
{
    if (!may_hold(vm, error))
        return FALSE;
    g_autoptr(GPtrArray) parked = g_ptr_array_new();
    for (guint i = 0; i < vm->leases->len; i++)
        if (((VlLease *)vm->leases->pdata[i])->state == VL_LEASE_PARKED)
            g_ptr_array_add(parked, vm->leases->pdata[i]);
    /* A disk that came by hot-plug joins the others: one token for all, or a migration could present only one of them.
     */
    gboolean all = parked->len && parked->len == vm->leases->len;
    if (all && !vm->next_token)
        vm->next_token = vl_random_id();
    const char *token = all ? vm->next_token : vm->token;
    if (!hold_each(daemon, vm, parked, token, call, error)) {
        /* Some may be stored as HELD by now, under a token that libvirt was never told; a migration of this paused VM
         * would present the old one, which the others still have. All go back to that. */
        park_later(daemon, vm);
        return FALSE;
    }
    for (guint i = 0; i < parked->len; i++) {
        VlLease *lease = parked->pdata[i];
        lease->unwritten = FALSE;
        vl_lease_set_state(lease, VL_LEASE_HELD, "CPUs may run");
    }
    if (all) {
        g_free(vm->token);
        vm->token = g_steal_pointer(&vm->next_token);
    }
    vm->ever_held = TRUE;
    VL_FAULT("after-hold");
    vl_vm_set_running(vm, TRUE);
    return TRUE;
}

/* ---- parking ---- */

void
vl_park_all(VlDaemon *daemon, VlVm *vm)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (lease->state != VL_LEASE_HELD)
            continue;
        vl_lease_set_state(lease, VL_LEASE_PARKED, "CPUs stopped");
        lease->unwritten = TRUE;
    }
    vl_vm_set_running(vm, FALSE);
    park_later(daemon, vm);
}

char *
vl_hold_state(const VlVm *vm)
{
    GString *state = g_string_new(VL_STATE_PREFIX);
    g_string_append(state, vm->token);
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], vm->leases, VL_LEASE_STATE_COUNT);
        if (share->len && vl_backends[b]->state)
            vl_backends[b]->state(vm, share, state);
    }
    return g_string_free(state, FALSE);
}

char *
vl_state_token(const char *state)
{
    if (!state || !g_str_has_prefix(state, VL_STATE_PREFIX))
        return NULL;
    state += strlen(VL_STATE_PREFIX);
    return g_strndup(state, strcspn(state, ","));
}

/* ---- migration ---- */

void
vl_depart_all(VlDaemon *daemon, VlVm *vm)
{
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], vm->leases, VL_LEASE_PARKED);
        if (share->len && vl_backends[b]->depart)
            vl_backends[b]->depart(daemon, vm, share);
    }
}

void
vl_stay_all(VlDaemon *daemon, VlVm *vm)
{
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], vm->leases, VL_LEASE_HELD);
        if (share->len && vl_backends[b]->stay)
            vl_backends[b]->stay(daemon, vm, share);
    }
}

gboolean
vl_incoming_begin(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free, const VlCall *call,
                  GError **error)
{
    g_ptr_array_set_size(ret_free, 0);
    if (leases->len && !vl_journal_write(daemon->journal, vm, error))
        return FALSE;
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], leases, VL_LEASE_STATE_COUNT);
        g_autoptr(GPtrArray) rest = g_ptr_array_new();
        if (!share->len)
            continue;
        if (!vl_backends[b]->begin_incoming)
            g_ptr_array_extend(rest, share, NULL, NULL);
        else if (!vl_backends[b]->begin_incoming(daemon, vm, share, rest, call, error))
            return FALSE;
        g_ptr_array_extend(ret_free, rest, NULL, NULL);
    }
    return TRUE;
}

gboolean
vl_incoming_finish(VlDaemon *daemon, VlVm *vm, const char *state, const VlCall *call, GError **error)
{
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], vm->leases, VL_LEASE_INCOMING);
        if (share->len && !vl_backends[b]->finish_incoming(daemon, vm, share, state, call, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- looking after them ---- */

void
vl_audit_leases(VlDaemon *daemon, VlVm *vm, VlPlace *place)
{
    g_autoptr(GPtrArray) ours = g_ptr_array_new();
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (vl_lease_is_ours(lease) && (!place || lease->volume->place == place))
            g_ptr_array_add(ours, lease);
    }
    for (guint b = 0; vl_backends[b] && !g_atomic_int_get(&vm->exited); b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], ours, VL_LEASE_STATE_COUNT);
        if (share->len && vl_backends[b]->audit)
            vl_backends[b]->audit(daemon, vm, share);
    }
}

/* ---- freeing ---- */

static void
set_freeing(GPtrArray *leases, const char *reason)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (lease->state != VL_LEASE_FREE)
            vl_lease_set_state(lease, VL_LEASE_FREEING, reason);
    }
}

static void
forget(VlDaemon *daemon, VlVm *vm, const VlBackendOps *backend, const GPtrArray *leases)
{
    g_autoptr(GPtrArray) done = vl_backend_share(backend, leases, VL_LEASE_FREE);
    if (done->len && backend->gone)
        backend->gone(daemon, vm, done);
}

void
vl_free_leases(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *reason)
{
    set_freeing(leases, reason);
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], leases, VL_LEASE_FREEING);
        g_autoptr(GError) error = NULL;
        if (share->len && !vl_backends[b]->free(daemon, vm, share, &error))
            g_warning("VM %s: not every lease could be freed: %s; tried again when its process is gone", vm->name,
                      error->message);
        forget(daemon, vm, vl_backends[b], share);
    }
}

/* ---- exit ---- */

static gboolean
all_free(const GPtrArray *leases)
{
    for (guint i = 0; i < leases->len; i++)
        if (((VlLease *)leases->pdata[i])->state != VL_LEASE_FREE)
            return FALSE;
    return TRUE;
}

/* One attempt on all that is left. An error with CHANGED: at once again. */
static gboolean
exit_round(VlDaemon *daemon, VlVm *vm, GError **error)
{
    gboolean ok = TRUE;
    for (guint b = 0; vl_backends[b]; b++) {
        g_autoptr(GPtrArray) share = vl_backend_share(vl_backends[b], vm->leases, VL_LEASE_FREEING);
        if (share->len && !vl_backends[b]->exit(daemon, vm, share, error && *error ? NULL : error))
            ok = FALSE;
    }
    return ok;
}

static void
exit_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    g_mutex_lock(&vm->op);
    if (vm->gone) {
        g_mutex_unlock(&vm->op);
        return;
    }
    g_message("VM %s: process %" G_GINT64_FORMAT " is gone; freeing %u lease(s)", vm->name, vm->who.pid,
              vm->leases->len);
    set_freeing(vm->leases, "its process is gone");
    for (guint attempt = 0; !all_free(vm->leases) && !g_atomic_int_get(&daemon->stopping); attempt++) {
        g_autoptr(GError) error = NULL;
        if (exit_round(daemon, vm, &error))
            continue;
        if (error)
            g_warning("VM %s: leases of its dead process not free yet: %s", vm->name, error->message);
        if (vl_error_code(error) != VL_ERR_CHANGED) {
            g_mutex_unlock(&vm->op);
            vl_clock_sleep_until(vl_deadline_in(attempt ? RETRY_S : 0.2), NULL);
            g_mutex_lock(&vm->op);
        }
    }
    if (all_free(vm->leases)) {
        for (guint b = 0; vl_backends[b]; b++)
            forget(daemon, vm, vl_backends[b], vm->leases);
        vl_journal_remove(daemon->journal, &vm->who);
        vl_vms_remove(daemon->vms, vm);
    }
    g_mutex_unlock(&vm->op);
}

/* A main loop that hung, or a daemon that was stopped, hears of an exit late: it may have been at any time since its
 * last tick. */
static gint64
exit_time(VlDaemon *daemon)
{
    gint64 tick = (gint64)g_atomic_int_get(&daemon->main_tick) * G_USEC_PER_SEC;
    gint64 now = vl_clock_now();
    return tick ? MIN(tick, now) : now;
}

void
vl_exit_begin(VlDaemon *daemon, VlVm *vm)
{
    if (!vm->exited_at)
        vm->exited_at = exit_time(daemon);
    g_atomic_int_set(&vm->exited, 1);
    vl_daemon_run(daemon, exit_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
}

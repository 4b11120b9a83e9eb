/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/incoming.h"

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/leases.h"
#include "lockd/take.h"

#define STEP_S   6
#define POLL_US  (4 * 1000) /* the source's PARKED is written within milliseconds of its stop */
#define SOON_US  (500 * 1000)
#define RETRY_US (50 * 1000)

/* The holder that is this VM on another host. */
static VlHolder *
source_of(const VlRecord *record, const VlVm *vm)
{
    for (guint i = 0; i < record->holders->len; i++) {
        VlHolder *holder = record->holders->pdata[i];
        if (g_str_equal(holder->who.uuid, vm->who.uuid) && !g_str_equal(holder->who.host, vm->who.host))
            return holder;
    }
    return NULL;
}

static GPtrArray *
takes_of(GPtrArray *leases)
{
    GPtrArray *takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < leases->len; i++)
        g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    return takes;
}

/* ---- the child's call ---- */

static gboolean
write_heirs(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, GError **error)
{
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        g_autoptr(VlRecord) next = vl_record_copy(take->record);
        VlRecord *write = next;
        /* libvirt lets a VM migrate to one place at a time: an older heir is of a migration that failed. */
        g_ptr_array_set_size(next->heirs, 0);
        g_ptr_array_add(next->heirs, vl_take_holder(daemon, vm, take->lease->volume->place));
        if (!vl_cas_records(&take->lease, &write, &take->look.record, 1, vl_deadline_in(STEP_S), error))
            return FALSE;
    }
    return TRUE;
}

static void
remember_watchers(VlTake *take)
{
    g_clear_pointer(&take->lease->baseline, g_ptr_array_unref);
    if (take->lease->open_already)
        return; /* adopted: its own client is among them */
    take->lease->baseline = vl_addrs_new();
    for (guint i = 0; i < take->look.watchers->len; i++)
        vl_addrs_add(take->lease->baseline, ((VlWatcher *)take->look.watchers->pdata[i])->addr);
}

static gboolean
begin_attempt(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) takes = takes_of(leases);
    g_autoptr(GPtrArray) heirs = g_ptr_array_new();
    g_ptr_array_set_size(ret_free, 0);
    if (!vl_take_look(takes, VL_LOOK_RECORD | VL_LOOK_WATCHERS, vl_call_within(call, STEP_S), error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (source_of(take->record, vm) && !take->lease->shared) {
            remember_watchers(take);
            g_ptr_array_add(heirs, take);
        } else {
            g_ptr_array_add(ret_free, take->lease);
        }
    }
    if (!write_heirs(daemon, vm, heirs, error))
        return FALSE;
    for (guint i = 0; i < heirs->len; i++) {
        VlLease *lease = ((VlTake *)heirs->pdata[i])->lease;
        vl_lease_set_state(lease, VL_LEASE_TAKING, "migration comes in");
        vl_lease_set_state(lease, VL_LEASE_INCOMING, "the lease is its source's until that has stopped");
    }
    return TRUE;
}

gboolean
vl_incoming_begin_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free, const VlCall *call,
                          GError **error)
{
    if (!vl_take_announce(daemon, vm, leases, call, error))
        return FALSE;
    for (;;) {
        g_autoptr(GError) local = NULL;
        if (begin_attempt(daemon, vm, leases, ret_free, call, &local))
            return TRUE;
        if (vl_error_code(local) != VL_ERR_CHANGED || !vl_call_check(call, "preparing an incoming migration", NULL)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vl_clock_sleep_until(vl_clock_now() + RETRY_US, call);
    }
}

/* ---- Acquire at the end of the migration ---- */

static void
refuse_stale(VlTake *take, const char *why, GError **error)
{
    const VlHolder *other = take->record->holders->len ? take->record->holders->pdata[0] : NULL;
    g_autofree char *who = other ? vl_holder_describe(other) : g_strdup("leased by nobody now");
    vl_set_error(error, VL_ERR_STALE, "%s: %s (it is %s). This migrated VM may not run here",
                 take->lease->volume->display, why, who);
}

/* TRUE: inherited, or it can be handed over now. FALSE with CHANGED: not yet, look again. */
static gboolean
may_finish(VlVm *vm, VlTake *take, const char *token, GError **error)
{
    if (vl_record_find(take->record, &vm->who))
        return TRUE;
    const VlHolder *source = source_of(take->record, vm);
    if (!source || !vl_record_find_heir(take->record, &vm->who)) {
        refuse_stale(take, "its lease went elsewhere while the migration came in, so the memory here is stale", error);
        return FALSE;
    }
    if (!token) {
        refuse_stale(take, "the source sent no lease token: it runs without virtlease, or libvirt lost its lock state",
                     error);
        return FALSE;
    }
    if (!g_str_equal(source->token, token)) {
        refuse_stale(take, "the source has run on since it sent its lease token, so the memory here is stale", error);
        return FALSE;
    }
    if (source->held || take->record->claim) {
        vl_set_error(error, VL_ERR_CHANGED, "%s: host %s has not yet said that it stopped the VM",
                     take->lease->volume->display, source->host_name);
        return FALSE;
    }
    return TRUE;
}

static gboolean
finish_one(VlDaemon *daemon, VlVm *vm, VlTake *take, GError **error)
{
    VlLease *lease = take->lease;
    if (vl_record_find(take->record, &vm->who)) {
        vl_lease_set_record(lease, g_bytes_ref(take->look.record), vl_record_copy(take->record));
        vl_lease_set_state(lease, VL_LEASE_PARKED, "inherited from the source");
        return TRUE;
    }
    VL_FAULT("before-hand-over");
    g_autoptr(VlHolder) me = vl_take_holder(daemon, vm, lease->volume->place);
    g_autoptr(VlRecord) next = vl_rules_handed_over(take->record, source_of(take->record, vm), me);
    VlRecord *write = next;
    if (!vl_cas_records(&lease, &write, &take->look.record, 1, vl_deadline_in(STEP_S), error))
        return FALSE;
    vl_lease_set_state(lease, VL_LEASE_PARKED, "handed over by the source");
    VL_FAULT("after-hand-over");
    return TRUE;
}

static GPtrArray *
still_incoming(GPtrArray *all)
{
    g_autoptr(GPtrArray) leases = g_ptr_array_new();
    for (guint i = 0; i < all->len; i++)
        if (((VlLease *)all->pdata[i])->state == VL_LEASE_INCOMING)
            g_ptr_array_add(leases, all->pdata[i]);
    return takes_of(leases);
}

/* The source lives, so it writes within milliseconds or, if its virtleased is down (R17), within seconds. */
static gint64
pause_us(gint64 since)
{
    return vl_clock_now() - since < SOON_US ? POLL_US : RETRY_US;
}

gboolean
vl_incoming_finish_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *state, const VlCall *call,
                           GError **error)
{
    g_autofree char *token = vl_state_token(state);
    gint64 began = vl_clock_now();
    for (;;) {
        g_autoptr(GPtrArray) takes = still_incoming(leases);
        g_autoptr(GError) local = NULL;
        gboolean ok = takes->len == 0 || vl_take_look(takes, VL_LOOK_RECORD, vl_call_within(call, STEP_S), &local);
        for (guint i = 0; i < takes->len && ok; i++)
            ok = may_finish(vm, takes->pdata[i], token, &local);
        /* None before all of them can be: a source that resumes would have to wait until the others come back. */
        for (guint i = 0; i < takes->len && ok; i++)
            ok = finish_one(daemon, vm, takes->pdata[i], &local);
        if (ok)
            return TRUE;
        enum vl_error code = vl_error_code(local);
        if ((code != VL_ERR_CHANGED && code != VL_ERR_STORAGE) ||
            !vl_call_check(call, "taking over from the source", NULL)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vl_clock_sleep_until(vl_clock_now() + pause_us(began), call);
    }
}

/* ---- on the source, after a migration that failed ---- */

void
vl_incoming_forget_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        g_autoptr(GPtrArray) one = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
        VlTake *take = vl_take_new(lease);
        g_ptr_array_add(one, take);
        if (lease->state != VL_LEASE_HELD || !vl_take_look(one, VL_LOOK_RECORD, vl_deadline_in(STEP_S), NULL) ||
            !take->record->heirs->len || !vl_record_find(take->record, &vm->who) || take->record->claim)
            continue;
        g_autoptr(VlRecord) next = vl_record_copy(take->record);
        g_autoptr(GError) error = NULL;
        VlRecord *write = next;
        g_ptr_array_set_size(next->heirs, 0);
        if (!vl_cas_records(&lease, &write, &take->look.record, 1, vl_deadline_in(STEP_S), &error))
            g_warning("VM %s: the heir of its failed migration still stands in the record: %s", vm->name,
                      error->message);
    }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/audit.h"

#include <signal.h>

#include "lockd/action.h"
#include "lockd/error.h"
#include "lockd/hold.h"
#include "lockd/judge.h"
#include "lockd/leases.h"
#include "lockd/procinfo.h"
#include "lockd/rescan.h"
#include "lockd/take.h"
#include "lockd/takeover.h"

#define STEP_S  6
#define FENCE_S 15

/* ---- lost leases ---- */

/* A QEMU that never held its lease has no business running at all (R4); one that did gets what the administrator
 * chose. Its writes are refused by the storage either way: whoever took the lease fenced it first. */
void
vl_lose(VlDaemon *daemon, VlVm *vm, VlLease *lease, const char *why)
{
    vl_lease_set_state(lease, VL_LEASE_LOST, why);
    if (!vm->ever_held) {
        g_warning("VM %s: lost %s before its CPUs ever ran; killing process %" G_GINT64_FORMAT, vm->name,
                  lease->volume->display, vm->who.pid);
        vl_proc_kill(vm->pidfd, SIGKILL);
        return;
    }
    vl_action_lost(daemon, vm, lease->volume->display);
}

/* Have our own QEMU's clients been fenced? Asked only when something points to it: it costs a monitor command. */
static gboolean
is_fenced(VlTake *take, GError **error)
{
    VlPlace *place = take->lease->volume->place;
    const VlHolder *holder = vl_lease_holder(take->lease);
    g_autoptr(GHashTable) list = place->store->ops->blocklist(place, vl_deadline_in(STEP_S), error);
    for (guint i = 0; list && holder && i < holder->addrs->len; i++)
        if (g_hash_table_contains(list, holder->addrs->pdata[i]))
            return TRUE;
    return FALSE;
}

static gboolean
still_watched(const VlTake *take, const VlHolder *holder)
{
    for (guint i = 0; i < holder->addrs->len; i++)
        if (vl_watchers_have(take->look.watchers, holder->addrs->pdata[i]))
            return TRUE;
    return holder->addrs->len == 0 || take->lease->spec.krbd;
}

/* ---- one lease ---- */

/* Writes the record as it should be: our session number, all our clients, no dead claim. */
static void
put_right(VlDaemon *daemon, VlVm *vm, VlTake *take)
{
    VlLease *lease = take->lease;
    g_autoptr(VlRecord) next = vl_record_copy(take->record);
    VlHolder *holder = vl_record_find(next, &vm->who);
    guint64 session = vl_sessions_number(daemon->sessions, lease->volume->place);
    gboolean changed = next->claim != NULL || (session && holder->session != session);
    g_clear_pointer(&next->claim, vl_claim_free);
    if (session)
        holder->session = session;
    if (!lease->spec.krbd && (vm->ever_held || lease->state == VL_LEASE_HELD)) {
        g_autoptr(GPtrArray) found = vl_hold_find_addrs(vm, lease, &take->look, NULL);
        for (guint i = 0; i < found->len; i++)
            if (vl_addrs_add(holder->addrs, found->pdata[i])) {
                g_message("VM %s: new client %s on %s", vm->name, (char *)found->pdata[i], lease->volume->display);
                changed = TRUE;
            }
    }
    g_autoptr(GError) error = NULL;
    VlRecord *write = next;
    if (changed && !vl_cas_records(&lease, &write, &take->look.record, 1, vl_deadline_in(STEP_S), &error))
        g_warning("%s: its record could not be brought up to date: %s", lease->volume->display, error->message);
}

/* Watchers that nothing explains; those on the IP of a fenced client are a fenced holder's other clients. */
static void
check_strangers(VlDaemon *daemon, VlVm *vm, VlTake *take)
{
    g_autoptr(GPtrArray) strangers = vl_rules_unexplained(take->lease->record, take->look.watchers);
    g_autoptr(GPtrArray) fence = vl_addrs_new();
    g_autoptr(GPtrArray) fenced = g_ptr_array_new_with_free_func((GDestroyNotify)vl_fenced_free);
    for (guint i = 0; i < strangers->len; i++) {
        const char *addr = ((VlWatcher *)strangers->pdata[i])->addr;
        g_autofree char *ip = vl_addr_ip(addr);
        if (!ip || g_hash_table_contains(daemon->host->ips, ip))
            continue; /* on this very host: a reader, or the administrator's rbd tool */
        if (take->record->heirs->len || (take->record->previous && vl_addrs_has(take->record->previous->addrs, addr)))
            continue; /* a migration is under way: the other end has it open as well, perhaps on a host that was fenced
                         before */
        g_warning("%s, leased by VM %s here, is also watched by client %s, which no lease explains",
                  take->lease->volume->display, vm->name, addr);
        for (guint k = 0; k < take->record->fenced->len; k++) {
            g_autofree char *fenced_ip = vl_addr_ip(((VlFenced *)take->record->fenced->pdata[k])->addr);
            if (g_strcmp0(ip, fenced_ip) == 0)
                vl_addrs_add(fence, addr);
        }
    }
    g_autoptr(GError) error = NULL;
    if (!vl_fence_set(daemon, take->lease->volume->place, fence, fenced, vl_deadline_in(FENCE_S), &error))
        g_warning("%s: %s", take->lease->volume->display, error->message);
    if (fenced->len) {
        g_autoptr(VlRecord) next = vl_record_copy(take->lease->record);
        VlRecord *write = next;
        vl_fenced_into(next, fence, fenced);
        (void)vl_cas_records(&take->lease, &write, &take->lease->raw, 1, vl_deadline_in(STEP_S), NULL);
    }
}

static void
audit_lease(VlDaemon *daemon, VlVm *vm, VlTake *take)
{
    VlLease *lease = take->lease;
    g_autoptr(GError) error = NULL;
    const VlHolder *holder = vl_record_find(take->record, &vm->who);
    if (!holder && take->record->previous && vl_incarnation_equal(&take->record->previous->who, &vm->who))
        return; /* handed over by our token: not lost (R2) */
    if (!holder) {
        const VlHolder *other = take->record->holders->len ? take->record->holders->pdata[0] : NULL;
        g_autofree char *who = other ? vl_holder_describe(other) : g_strdup("its record is free");
        vl_lose(daemon, vm, lease, who);
        return;
    }
    if (take->record->claim) {
        VlCall call = {.deadline = vl_deadline_in(daemon->settings->dead_after * 3)};
        VlPatience patience = {.wait_s = daemon->settings->dead_after * 2, .began = vl_clock_now(), .call = &call};
        if (!vl_judge_claim(daemon, take, &patience, &error)) {
            g_warning("VM %s: %s", vm->name, error->message);
            g_atomic_int_set(&vm->audit_soon, 1);
            return;
        }
    }
    vl_lease_set_record(lease, g_bytes_ref(take->look.record), vl_record_copy(take->record));
    if ((take->record->claim || !still_watched(take, holder)) && is_fenced(take, &error)) {
        vl_lose(daemon, vm, lease, "the clients of its QEMU are fenced");
        return;
    }
    if (error && take->record->claim) { /* a claim whose fence may stand is not struck on a guess */
        g_warning("VM %s: whether %s was taken over cannot be told: %s", vm->name, lease->volume->display,
                  error->message);
        g_atomic_int_set(&vm->audit_soon, 1);
        return;
    }
    put_right(daemon, vm, take);
    check_strangers(daemon, vm, take);
}

void
vl_audit_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < leases->len; i++)
        g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    if (!vl_take_look(takes, VL_LOOK_RECORD | VL_LOOK_WATCHERS, vl_deadline_in(STEP_S), &error)) {
        g_warning("VM %s: its leases cannot be checked: %s", vm->name, error->message);
        return;
    }
    for (guint i = 0; i < takes->len; i++)
        audit_lease(daemon, vm, takes->pdata[i]);
}

void
vl_audit_vm(VlDaemon *daemon, VlVm *vm)
{
    vl_audit_leases(daemon, vm, NULL);
}

/* ---- jobs ---- */

typedef struct {
    VlVm *vm;
    VlPlace *place; /* NULL: everywhere, and only if the VM is idle */
} Audit;

static void
audit_free(gpointer data)
{
    vl_vm_unref(((Audit *)data)->vm);
    g_free(data);
}

static void
audit_job(VlDaemon *daemon, gpointer data)
{
    Audit *audit = data;
    if (audit->place)
        g_mutex_lock(&audit->vm->op);
    else if (!g_mutex_trylock(&audit->vm->op)) {
        g_atomic_int_set(&audit->vm->audit_soon, 1); /* a call is at it */
        return;
    }
    vl_audit_leases(daemon, audit->vm, audit->place);
    gboolean leftover = audit->vm->leftover;
    g_mutex_unlock(&audit->vm->op);
    if (leftover)
        vl_rescan_later(daemon, audit->vm);
}

static void
audit_begin(VlDaemon *daemon, VlVm *vm, VlPlace *place)
{
    Audit *audit = g_new0(Audit, 1);
    audit->vm = vl_vm_ref(vm);
    audit->place = place;
    vl_daemon_run(daemon, audit_job, audit, audit_free);
}

void
vl_audit_tick(VlDaemon *daemon, guint second)
{
    guint interval = daemon->settings->audit_interval;
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    for (guint i = 0; i < vms->len; i++) {
        VlVm *vm = vms->pdata[i];
        gboolean soon = g_atomic_int_compare_and_exchange(&vm->audit_soon, 1, 0);
        if (soon || g_str_hash(vm->who.uuid) % interval == second % interval)
            audit_begin(daemon, vm, NULL);
    }
}

void
vl_audit_place(VlDaemon *daemon, VlPlace *place)
{
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    for (guint i = 0; i < vms->len; i++) {
        VlVm *vm = vms->pdata[i];
        g_atomic_int_set(&vm->audit_soon, 0);
        audit_begin(daemon, vm, place);
    }
}

/* ---- fences that met a shorter entry ---- */

/* The monitors drop an entry some seconds after its time; until then adding it again changes nothing. So:
 * every second, until the list shows the new time. */
static void
refence_lease(VlDaemon *daemon, VlLease *lease)
{
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    g_autoptr(GPtrArray) set = vl_addrs_new();
    g_autoptr(GPtrArray) fenced = g_ptr_array_new_with_free_func((GDestroyNotify)vl_fenced_free);
    g_autoptr(VlRecord) next = vl_record_copy(lease->record);
    g_autoptr(GError) error = NULL;
    gboolean changed = FALSE;
    for (guint i = 0; i < next->fenced->len; i++) {
        const VlFenced *entry = next->fenced->pdata[i];
        if (entry->until < entry->wanted && entry->until <= now && entry->wanted > now)
            vl_addrs_add(set, entry->addr);
    }
    if (!vl_fence_set(daemon, lease->volume->place, set, fenced, vl_deadline_in(FENCE_S), &error)) {
        g_warning("%s: fence not renewed yet: %s", lease->volume->display, error->message);
        return;
    }
    for (guint i = 0; i < fenced->len; i++) {
        const VlFenced *entry = fenced->pdata[i];
        if (entry->until > now + 1) {
            g_message("%s: client %s fenced anew, the older entry has lapsed", lease->volume->display, entry->addr);
            changed = TRUE;
        }
    }
    vl_fenced_into(next, set, fenced);
    VlRecord *write = next;
    if (changed && !vl_cas_records(&lease, &write, &lease->raw, 1, vl_deadline_in(STEP_S), &error))
        g_warning("%s: %s", lease->volume->display, error->message);
}

static void
refence_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    if (!g_mutex_trylock(&vm->op))
        return;
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (vl_lease_is_ours(lease) && vl_rules_fence_lapsed(lease->record, g_get_real_time() / G_USEC_PER_SEC))
            refence_lease(daemon, lease);
    }
    g_mutex_unlock(&vm->op);
}

void
vl_refence_begin(VlDaemon *daemon)
{
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    for (guint i = 0; i < vms->len; i++) {
        VlVm *vm = vms->pdata[i];
        gboolean due = FALSE;
        vl_vms_lock(daemon->vms);
        for (guint k = 0; k < vm->leases->len && !due; k++)
            due = vl_rules_fence_lapsed(((VlLease *)vm->leases->pdata[k])->record, now);
        vl_vms_unlock(daemon->vms);
        if (due)
            vl_daemon_run(daemon, refence_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
    }
}

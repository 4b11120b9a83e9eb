/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/free.h"

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/judge.h"
#include "lockd/krbd.h"
#include "lockd/procinfo.h"
#include "lockd/take.h"
#include "lockd/takeover.h"

#define STEP_S    6
#define FENCE_S   15
#define AT_ONCE_S 5 /* a dead client's watch stays longer than this: if gone by now, it was given back */

static gint64
unix_now(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

static GPtrArray *
takes_to_free(GPtrArray *leases)
{
    GPtrArray *takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < leases->len; i++)
        if (((VlLease *)leases->pdata[i])->state == VL_LEASE_FREEING)
            g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    return takes;
}

/* Give-back (R1): this QEMU came by migration and never wrote, so the source's memory is as good as ever. Proof is
 * either that the image's exclusive lock still belongs to the source (had we written, librbd would have taken it over),
 * or, on an image nobody ever locked, that the CPUs were never let run here. */
static gboolean
never_wrote(const VlVm *vm, const VlTake *take)
{
    const VlHolder *previous = take->record->previous;
    const VlLockOwner *owner = take->look.owner;
    if (!vl_record_find(take->record, &vm->who) || !previous || g_strcmp0(previous->who.uuid, vm->who.uuid) != 0)
        return FALSE;
    return owner ? owner->managed && vl_addrs_has(previous->addrs, owner->addr) : !vm->ever_held;
}

/* The record still has to do with this process: as holder, as heir, or as the one it would be given back to. */
static gboolean
concerns(const VlRecord *record, const VlIncarnation *who)
{
    return vl_record_find(record, who) || vl_record_find_heir(record, who) || vl_rules_is_previous(record, who);
}

/* Writes the record without us for each take; those that are not ours any more are done at once. */
static gboolean
write_freed(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, const GPtrArray *fenced, GError **error)
{
    gboolean ok = TRUE;
    g_autofree VlLease **leases = g_new0(VlLease *, takes->len + 1);
    g_autofree VlRecord **next = g_new0(VlRecord *, takes->len + 1);
    g_autofree GBytes **expect = g_new0(GBytes *, takes->len + 1);
    guint n = 0;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (!concerns(take->record, &vm->who)) {
            vl_lease_set_state(take->lease, VL_LEASE_FREE, "the record does not name this process");
            continue;
        }
        next[n] = never_wrote(vm, take) ? vl_rules_given_back(take->record, &vm->who)
                                        : vl_rules_freed(take->record, &vm->who, unix_now());
        if (!next[n] && fenced && take->set && take->set->len)
            next[n] = vl_record_new();
        if (next[n] && fenced) {
            next[n]->epoch = take->record->epoch + 1;
            g_clear_pointer(&next[n]->claim, vl_claim_free); /* judged dead by the caller */
            vl_fenced_into(next[n], take->set, fenced);
        }
        leases[n] = take->lease;
        expect[n++] = take->look.record;
    }
    if (n)
        ok = vl_cas_records(leases, next, expect, n, vl_deadline_in(STEP_S), error);
    for (guint i = 0; i < n; i++) {
        if (leases[i]->record && !concerns(leases[i]->record, &vm->who))
            vl_lease_set_state(leases[i], VL_LEASE_FREE,
                               leases[i]->record->holders->len ? "given back or passed on" : "freed");
        vl_record_free(next[i]);
    }
    return ok;
}

gboolean
vl_free_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error)
{
    g_autoptr(GPtrArray) takes = takes_to_free(leases);
    return vl_take_look(takes, VL_LOOK_RECORD, vl_deadline_in(STEP_S), error) &&
           write_freed(daemon, vm, takes, NULL, error);
}

void
vl_forget_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        g_autoptr(GPtrArray) keys = g_ptr_array_new();
        VlPlace *place = lease->volume->place;
        g_ptr_array_add(keys, lease->volume->key);
        (void)place->store->ops->index_del(place, daemon->host->id, keys, vl_deadline_in(STEP_S), NULL);
    }
}

/* ---- exit ---- */

static gboolean
seen(const VlTake *take, const char *addr)
{
    return vl_watchers_have(take->look.watchers, addr) ||
           (take->look.owner && g_str_equal(take->look.owner->addr, addr));
}

/* Clients that came after this QEMU was forked, from this host, recorded by nobody: it died between open and
 * its first Acquire. */
static void
add_unrecorded(VlDaemon *daemon, VlTake *take, const GPtrArray *kernel)
{
    if (!take->lease->baseline || take->record->shared)
        return;
    g_autoptr(GPtrArray) strangers = vl_rules_unexplained(take->record, take->look.watchers);
    for (guint i = 0; i < strangers->len; i++) {
        const char *addr = ((VlWatcher *)strangers->pdata[i])->addr;
        g_autofree char *ip = vl_addr_ip(addr);
        if (ip && g_hash_table_contains(daemon->host->ips, ip) && !vl_addrs_has(take->lease->baseline, addr) &&
            !vl_addrs_has(kernel, addr) && !vl_vms_has_reader(daemon->vms, take->lease->volume->key))
            vl_addrs_add(take->set, addr);
    }
}

/* Two VMs of this host on one shared volume may have recorded each other's clients; what another holder has
 * recorded lives. */
static gboolean
recorded_by_another(const VlRecord *record, const VlHolder *holder, const char *addr)
{
    for (guint i = 0; i < record->holders->len; i++) {
        const VlHolder *other = record->holders->pdata[i];
        if (other != holder && vl_addrs_has(other->addrs, addr))
            return TRUE;
    }
    return FALSE;
}

static void
find_remains(VlDaemon *daemon, VlVm *vm, VlTake *take)
{
    const VlHolder *holder = vl_record_find(take->record, &vm->who);
    /* The kernel's direct writes are done before the process is gone, and while the device stays mapped its watch keeps
     * other hosts out. */
    g_autoptr(GPtrArray) kernel = vl_krbd_clients("/sys", FALSE);
    take->set = vl_addrs_new();
    /* The source of a migration that died before its QEMU had closed the image: the destination's first write waits for
     * its lock. */
    if (!holder && vl_rules_is_previous(take->record, &vm->who))
        holder = take->record->previous;
    if (!holder)
        return;
    for (guint i = 0; i < holder->addrs->len; i++)
        if ((vm->late_exit || seen(take, holder->addrs->pdata[i])) &&
            !recorded_by_another(take->record, holder, holder->addrs->pdata[i]) &&
            !vl_addrs_has(kernel, holder->addrs->pdata[i]))
            vl_addrs_add(take->set, holder->addrs->pdata[i]);
    if (!take->lease->spec.krbd)
        add_unrecorded(daemon, take, kernel);
}

static gboolean
fence_remains(VlDaemon *daemon, GPtrArray *takes, GPtrArray *ret_fenced, GError **error)
{
    g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < takes->len; i++) {
        VlPlace *place = ((VlTake *)takes->pdata[i])->lease->volume->place;
        g_autoptr(GPtrArray) all = vl_addrs_new();
        if (!g_hash_table_add(done, place))
            continue;
        for (guint k = i; k < takes->len; k++) {
            VlTake *take = takes->pdata[k];
            for (guint a = 0; take->lease->volume->place == place && a < take->set->len; a++)
                vl_addrs_add(all, take->set->pdata[a]);
        }
        if (!vl_fence_set(daemon, place, all, ret_fenced, vl_deadline_in(FENCE_S), error))
            return FALSE;
    }
    return TRUE;
}

/* Another host runs the VM by now; this was the source of its migration. */
static gboolean
was_source(const VlVm *vm, const VlTake *take)
{
    return !vl_record_find(take->record, &vm->who) && vl_rules_is_previous(take->record, &vm->who);
}

static gboolean
break_remains(const VlVm *vm, GPtrArray *takes, gboolean sources, GError **error)
{
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        const VlLockOwner *owner = take->look.owner;
        if (was_source(vm, take) == sources && owner && owner->managed && vl_addrs_has(take->set, owner->addr) &&
            !take->lease->volume->place->store->ops->break_lock(take->lease->volume, owner, vl_deadline_in(STEP_S),
                                                                error))
            return FALSE;
    }
    return TRUE;
}

/* A claim of somebody else's on our dead VM: theirs to finish, unless they are dead as well. */
static gboolean
claims_settled(VlDaemon *daemon, GPtrArray *takes, GError **error)
{
    VlCall call = {.deadline = vl_deadline_in(daemon->settings->dead_after * 2 + 10)};
    VlPatience patience = {.wait_s = daemon->settings->dead_after * 2, .began = vl_clock_now(), .call = &call};
    for (guint i = 0; i < takes->len; i++)
        if (!vl_judge_claim(daemon, takes->pdata[i], &patience, error))
            return FALSE;
    return TRUE;
}

/* A volume that is gone, or whose record nobody understands, has no lease of ours to free. */
static void
drop_hopeless(GPtrArray *takes)
{
    for (guint i = takes->len; i > 0; i--) {
        VlTake *take = takes->pdata[i - 1];
        g_autoptr(GPtrArray) one = g_ptr_array_new();
        g_autoptr(GError) error = NULL;
        g_ptr_array_add(one, take);
        if (take->look.error || take->record)
            continue;
        if (!vl_take_look(one, VL_LOOK_RECORD, vl_deadline_in(STEP_S), &error) &&
            (vl_error_code(error) == VL_ERR_MISSING || vl_error_code(error) == VL_ERR_RECORD)) {
            vl_lease_set_state(take->lease, VL_LEASE_FREE, error->message);
            g_ptr_array_remove_index(takes, i - 1);
        }
    }
}

gboolean
vl_exit_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error)
{
    g_autoptr(GPtrArray) takes = takes_to_free(leases);
    g_autoptr(GPtrArray) fenced = g_ptr_array_new_with_free_func((GDestroyNotify)vl_fenced_free);
    if (!vl_take_look(takes, VL_LOOK_ALL, vl_deadline_in(STEP_S), error)) {
        drop_hopeless(takes);
        return FALSE;
    }
    if (!vm->late_exit && vl_clock_now() - vm->exited_at > (gint64)AT_ONCE_S * G_USEC_PER_SEC) {
        g_message("VM %s: its clients were first looked at long after it exited; fencing all of them", vm->name);
        vm->late_exit = TRUE;
    }
    if (!claims_settled(daemon, takes, error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++)
        find_remains(daemon, vm, takes->pdata[i]);
    VL_FAULT("exit-before-fence");
    /* A source has nothing left to write, and the destination has the image open: a fence first would make the OSD drop
     * the watch that the destination's librbd waits for, and its own break then fails its first write (Ceph tracker
     * 54613; see successor.c). */
    gboolean ok = break_remains(vm, takes, TRUE, error) && fence_remains(daemon, takes, fenced, error);
    vm->late_exit = vm->late_exit || fenced->len; /* a fenced client loses its watch: no sign that it went by itself */
    if (!ok || !break_remains(vm, takes, FALSE, error))
        return FALSE;
    VL_FAULT("exit-after-fence");
    return write_freed(daemon, vm, takes, fenced, error);
}

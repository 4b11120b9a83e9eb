/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/take.h"

#include <string.h>

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/judge.h"
#include "lockd/takeover.h"

#define STEP_S   6
#define RETRY_US (100 * 1000)

VlTake *
vl_take_new(VlLease *lease)
{
    VlTake *take = g_new0(VlTake, 1);
    take->lease = lease;
    take->look.volume = lease->volume;
    take->blockers = g_ptr_array_new();
    take->verdicts = g_ptr_array_new();
    take->dead_ips = vl_addrs_new();
    take->never = vl_addrs_new();
    return take;
}

void
vl_take_free(VlTake *take)
{
    for (guint i = 0; i < take->verdicts->len; i++) {
        VlVerdict *verdict = take->verdicts->pdata[i];
        if (verdict)
            vl_verdict_clear(verdict);
        g_free(verdict);
    }
    g_ptr_array_unref(take->verdicts);
    vl_look_clear(&take->look);
    g_ptr_array_unref(take->blockers);
    vl_record_free(take->record);
    g_ptr_array_unref(take->dead_ips);
    g_ptr_array_unref(take->never);
    g_clear_pointer(&take->set, g_ptr_array_unref);
    g_free(take->claim_id);
    vl_record_free(take->claimed);
    g_clear_pointer(&take->claimed_raw, g_bytes_unref);
    g_free(take);
}

VlHolder *
vl_take_holder(VlDaemon *daemon, VlVm *vm, VlPlace *place)
{
    VlHolder *holder = vl_holder_new();
    vl_incarnation_copy(&holder->who, &vm->who);
    holder->machine = g_strdup(daemon->host->machine);
    holder->host_name = g_strdup(daemon->host->name);
    holder->session = vl_sessions_number(daemon->sessions, place);
    holder->vm = g_strdup(vm->name);
    holder->token = g_strdup(vm->token);
    holder->since = g_get_real_time() / G_USEC_PER_SEC;
    return holder;
}

gboolean
vl_take_look(GPtrArray *takes, guint what, gint64 deadline, GError **error)
{
    g_autofree VlLook *looks = g_new0(VlLook, takes->len);
    for (guint i = 0; i < takes->len; i++)
        looks[i].volume = ((VlTake *)takes->pdata[i])->lease->volume;
    if (!takes->len)
        return TRUE;
    gboolean ok = looks[0].volume->place->store->ops->look(looks, takes->len, what, deadline);
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        vl_look_clear(&take->look);
        take->look = looks[i];
        if (take->look.error && error && !*error)
            g_propagate_error(error, g_steal_pointer(&take->look.error));
    }
    for (guint i = 0; i < takes->len && ok; i++) {
        VlTake *take = takes->pdata[i];
        vl_record_free(take->record);
        take->record = vl_record_parse(take->lease->volume->display, take->look.record, error);
        ok = take->record != NULL;
    }
    return ok;
}

/* ---- compare-and-swap of many records ---- */

/* After a write whose fate is unknown, or one that found something else: is what is stored ours after
 * all? The record carries the id of the write (R18). */
static gboolean
read_back(VlLease *lease, GBytes *wrote, gint64 deadline)
{
    VlLook look = {.volume = lease->volume};
    gboolean ours = FALSE;
    if (lease->volume->place->store->ops->look(&look, 1, VL_LOOK_RECORD, deadline))
        ours = wrote && look.record ? g_bytes_equal(wrote, look.record) : wrote == look.record;
    vl_look_clear(&look);
    return ours;
}

static gboolean
cas_batch(VlLease *const *leases, VlRecord *const *next, GBytes *const *expect, gsize n, gint64 deadline,
          GError **error)
{
    if (!n)
        return TRUE;
    g_autofree VlCas *cas = g_new0(VlCas, n);
    for (gsize i = 0; i < n; i++)
        cas[i] = (VlCas){leases[i]->volume, expect[i], next[i] ? vl_record_format(next[i]) : NULL, NULL};
    VL_FAULT("before-cas");
    leases[0]->volume->place->store->ops->cas(cas, n, deadline);
    gboolean ok = TRUE;
    for (gsize i = 0; i < n; i++) {
        if (cas[i].error && read_back(leases[i], cas[i].replace, vl_deadline_in(STEP_S)))
            g_clear_error(&cas[i].error);
        if (!cas[i].error) {
            VlRecord *stored = next[i] ? vl_record_copy(next[i]) : vl_record_new();
            vl_lease_set_record(leases[i], g_steal_pointer(&cas[i].replace), stored);
        } else if (error && !*error) {
            vl_set_error(error, vl_error_code(cas[i].error), "%s: %s", leases[i]->volume->display,
                         cas[i].error->message);
        }
        ok = ok && !cas[i].error;
        g_clear_error(&cas[i].error);
        g_clear_pointer(&cas[i].replace, g_bytes_unref);
    }
    return ok;
}

gboolean
vl_cas_ours(VlLease *const *leases, VlRecord *const *next, GBytes *const *expect, gsize n, gint64 deadline,
            GError **error)
{
    return cas_batch(leases, next, expect, n, deadline, error);
}

gboolean
vl_cas_records(VlLease *const *leases, VlRecord *const *next, GBytes *const *expect, gsize n, gint64 deadline,
               GError **error)
{
    gsize first = 0;
    for (gsize i = 1; i < n; i++)
        if (strcmp(leases[i]->volume->key, leases[first]->volume->key) < 0)
            first = i;
    if (n && !cas_batch(leases + first, next + first, expect + first, 1, deadline, error))
        return FALSE;
    return cas_batch(leases, next, expect, first, deadline, error) &
           (n ? cas_batch(leases + first + 1, next + first + 1, expect + first + 1, n - first - 1, deadline, error)
              : TRUE);
}

/* ---- one round ---- */

static GPtrArray *
takes_for(GPtrArray *leases)
{
    GPtrArray *takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < leases->len; i++)
        if (((VlLease *)leases->pdata[i])->state == VL_LEASE_TAKING)
            g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    return takes;
}

static void
remember_baseline(VlTake *take)
{
    g_clear_pointer(&take->lease->baseline, g_ptr_array_unref);
    if (take->lease->open_already)
        return;
    take->lease->baseline = vl_addrs_new();
    for (guint i = 0; take->look.watchers && i < take->look.watchers->len; i++)
        vl_addrs_add(take->lease->baseline, ((VlWatcher *)take->look.watchers->pdata[i])->addr);
}

static gboolean
grant_free(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, gint64 deadline, GError **error)
{
    guint n = takes->len;
    g_autofree VlLease **leases = g_new0(VlLease *, n + 1);
    g_autofree VlRecord **next = g_new0(VlRecord *, n + 1);
    g_autofree GBytes **expect = g_new0(GBytes *, n + 1);
    for (guint i = 0; i < n; i++) {
        VlTake *take = takes->pdata[i];
        g_autoptr(VlHolder) holder = vl_take_holder(daemon, vm, take->lease->volume->place);
        leases[i] = take->lease;
        expect[i] = take->look.record;
        next[i] = vl_rules_granted(take->record, holder, take->lease->shared, NULL);
    }
    gboolean ok = vl_cas_records(leases, next, expect, n, deadline, error);
    for (guint i = 0; i < n; i++) {
        if (leases[i]->record && vl_record_find(leases[i]->record, &vm->who))
            vl_lease_set_state(leases[i], VL_LEASE_PARKED, "free");
        vl_record_free(next[i]);
    }
    return ok;
}

static void
sort_out(VlVm *vm, GPtrArray *takes, GPtrArray *free_ones, GPtrArray *dead_ones)
{
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (take->step == VL_TAKE_OURS) {
            vl_lease_set_record(take->lease, take->look.record ? g_bytes_ref(take->look.record) : NULL,
                                vl_record_copy(take->record));
            vl_lease_set_state(take->lease, VL_LEASE_PARKED, "the record names this process already");
        } else if (take->step == VL_TAKE_FREE && !take->dead_foreign_owner &&
                   !vl_rules_fence_lapsed(take->record, g_get_real_time() / G_USEC_PER_SEC)) {
            g_ptr_array_add(free_ones, take);
        } else {
            g_ptr_array_add(dead_ones, take);
        }
        remember_baseline(take);
    }
}

/* takeover_watch = wait: give a QEMU that may merely have lost its virtleased the time to be seen. */
static gboolean
watches_gone(VlDaemon *daemon, GPtrArray *takes, const VlPatience *patience, GError **error)
{
    gboolean time_left = vl_clock_now() < patience->began + (gint64)patience->wait_s * G_USEC_PER_SEC;
    for (guint i = 0; i < takes->len && daemon->settings->takeover_watch == VL_WATCH_WAIT; i++) {
        VlTake *take = takes->pdata[i];
        for (guint k = 0; k < take->blockers->len; k++) {
            const VlHolder *holder = take->blockers->pdata[k];
            for (guint a = 0; a < holder->addrs->len; a++)
                if (vl_watchers_have(take->look.watchers, holder->addrs->pdata[a])) {
                    g_autofree char *who = vl_holder_describe(holder);
                    vl_set_error(
                        error, time_left ? VL_ERR_CHANGED : VL_ERR_UNKNOWN_OWNER,
                        "%s is in use: %s. That host's virtleased is dead, but the VM's client %s still watches the "
                        "image (takeover_watch = \"wait\")",
                        take->lease->volume->display, who, (char *)holder->addrs->pdata[a]);
                    return FALSE;
                }
        }
    }
    return TRUE;
}

/* Adoption: a record that names this running QEMU needs no judge; strangers on the image are the audit's business (a
 * migration may be under way). */
static void
drop_kept(GPtrArray *takes)
{
    for (guint i = takes->len; i > 0; i--) {
        VlTake *take = takes->pdata[i - 1];
        if (take->step != VL_TAKE_OURS || !take->lease->open_already)
            continue;
        vl_lease_set_record(take->lease, take->look.record ? g_bytes_ref(take->look.record) : NULL,
                            vl_record_copy(take->record));
        vl_lease_set_state(take->lease, VL_LEASE_PARKED, "the record names this process already");
        take->lease->kept = TRUE;
        g_ptr_array_remove_index(takes, i - 1);
    }
}

static gboolean
take_round(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, VlPatience *patience, GError **error)
{
    if (!vl_take_look(takes, VL_LOOK_ALL, vl_call_within(patience->call, STEP_S), error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        take->step = vl_rules_take(take->record, &vm->who, take->lease->shared, take->blockers);
    }
    drop_kept(takes);
    if (!vl_judge_blockers(daemon, takes, patience, error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++)
        if (!vl_judge_foreign(daemon, takes->pdata[i], patience, error))
            return FALSE;

    if (!watches_gone(daemon, takes, patience, error))
        return FALSE;

    g_autoptr(GPtrArray) free_ones = g_ptr_array_new();
    g_autoptr(GPtrArray) dead_ones = g_ptr_array_new();
    sort_out(vm, takes, free_ones, dead_ones);
    if (!grant_free(daemon, vm, free_ones, vl_call_within(patience->call, STEP_S), error))
        return FALSE;
    if (!vl_takeover(daemon, vm, dead_ones, patience->call, error))
        return FALSE;
    for (guint i = 0; i < dead_ones->len; i++)
        vl_lease_set_state(((VlTake *)dead_ones->pdata[i])->lease, VL_LEASE_PARKED, "taken over");
    return TRUE;
}

/* The lease is read once more immediately before the child gets its answer (R4). */
static gboolean
verify(GPtrArray *leases, const VlIncarnation *who, gint64 deadline, GError **error)
{
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < leases->len; i++)
        g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    if (!vl_take_look(takes, VL_LOOK_RECORD, deadline, error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (!vl_record_find(take->record, who) || take->record->claim) {
            const VlHolder *other = take->record->holders->len ? take->record->holders->pdata[0] : NULL;
            g_autofree char *now = other ? vl_holder_describe(other) : g_strdup("free now");
            vl_set_error(error, VL_ERR_LOST,
                         "%s: its lease was lost again before this VM could start (%s). Start it once more if it is "
                         "to run here",
                         take->lease->volume->display, now);
            return FALSE;
        }
        vl_lease_set_record(take->lease, g_bytes_ref(take->look.record), g_steal_pointer(&take->record));
    }
    return TRUE;
}

static gboolean
worth_another_round(const GError *error)
{
    enum vl_error code = vl_error_code(error);
    return code == VL_ERR_CHANGED || code == VL_ERR_STORAGE;
}

static gboolean
take_rounds(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    VlPatience patience = {.wait_s = wait_s, .began = vl_clock_now(), .call = call};
    g_autoptr(GError) last = NULL;
    for (;;) {
        g_autoptr(GPtrArray) takes = takes_for(leases);
        g_autoptr(GError) over = NULL;
        if (!vl_call_check(call, "taking the leases", &over)) {
            g_propagate_error(error, last ? g_steal_pointer(&last) : g_steal_pointer(&over));
            return FALSE;
        }
        g_clear_error(&last);
        if (take_round(daemon, vm, takes, &patience, &last)) {
            VL_FAULT("before-verify");
            return verify(leases, &vm->who, vl_call_within(call, STEP_S), error);
        }
        if (!worth_another_round(last)) {
            g_propagate_error(error, g_steal_pointer(&last));
            return FALSE;
        }
        g_info("VM %s: once more: %s", vm->name, last->message);
        vl_clock_sleep_until(vl_clock_now() + RETRY_US, call);
    }
}

gboolean
vl_take_ask_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    VlPatience patience = {.wait_s = wait_s, .began = vl_clock_now(), .call = call};
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    g_autoptr(GError) local = NULL;
    for (guint i = 0; i < leases->len; i++) /* not takes_for(): none of them is being taken yet */
        g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    if (!vl_take_announce(daemon, vm, leases, call, error))
        return FALSE;
    if (!vl_take_look(takes, VL_LOOK_RECORD, vl_call_within(call, STEP_S), &local))
        return TRUE; /* take() will say what is wrong if it still is */
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        take->step = vl_rules_take(take->record, &vm->who, take->lease->shared, take->blockers);
    }
    if (vl_judge_blockers(daemon, takes, &patience, &local) || worth_another_round(local))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

char *
vl_take_index_text(const VlVm *vm, const VlVolume *volume)
{
    return g_strdup_printf("%s\n%s\n%s", volume->display, vm->who.uuid, vm->name);
}

gboolean
vl_take_announce(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const VlCall *call, GError **error)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        VlPlace *place = lease->volume->place;
        guint64 number;
        gboolean first = TRUE;
        for (guint k = 0; k < i && first; k++)
            first = ((VlLease *)leases->pdata[k])->volume->place != place;
        if (!first)
            continue;
        if (!vl_sessions_ensure(daemon->sessions, place, call, &number, error))
            return FALSE;
        g_autoptr(GHashTable) entries = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
        for (guint k = i; k < leases->len; k++) {
            VlVolume *volume = ((VlLease *)leases->pdata[k])->volume;
            if (volume->place == place)
                g_hash_table_insert(entries, volume->key, vl_take_index_text(vm, volume));
        }
        if (!place->store->ops->index_set(place, daemon->host->id, entries, vl_call_within(call, STEP_S), error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vl_take_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error)
{
    return vl_take_announce(daemon, vm, leases, call, error) && take_rounds(daemon, vm, leases, wait_s, call, error);
}

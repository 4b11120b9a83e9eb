/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/keep.h"

#include "lockd/error.h"
#include "lockd/rules.h"
#include "lockd/take.h"

#define STEP_S 6

static gboolean
ensure_sessions(VlDaemon *daemon, GPtrArray *leases, const VlCall *call, GError **error)
{
    for (guint i = 0; i < leases->len; i++) {
        VlPlace *place = ((VlLease *)leases->pdata[i])->volume->place;
        guint64 number;
        if (place && !vl_sessions_ensure(daemon->sessions, place, call, &number, error))
            return FALSE;
    }
    return TRUE;
}

static void
keep(VlVm *vm, VlTake *take)
{
    VlLease *lease = take->lease;
    vl_lease_set_record(lease, g_bytes_ref(take->look.record), g_steal_pointer(&take->record));
    vl_lease_set_state(lease, VL_LEASE_TAKING, "VM runs already");
    vl_lease_set_state(lease, VL_LEASE_PARKED, "the record names this process already");
    lease->kept = TRUE;
    vl_vms_lock(vm->vms);
    lease->unindexed = TRUE;
    vl_vms_unlock(vm->vms);
}

gboolean
vl_keep_leases(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_rest, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    g_autoptr(GPtrArray) blockers = g_ptr_array_new();
    for (guint i = 0; i < leases->len; i++)
        if (((VlLease *)leases->pdata[i])->volume->place)
            g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
        else
            g_ptr_array_add(ret_rest, leases->pdata[i]); /* without a record */
    /* The session first: from the moment a lease is called ours, challenges about it must be answered. */
    if (!ensure_sessions(daemon, leases, call, error) || !vl_journal_ensure(daemon->journal, vm, error) ||
        !vl_take_look(takes, VL_LOOK_RECORD, vl_call_within(call, STEP_S), error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (vl_rules_take(take->record, &vm->who, take->lease->shared, blockers) == VL_TAKE_OURS)
            keep(vm, take);
        else
            g_ptr_array_add(ret_rest, take->lease);
    }
    return TRUE;
}

/* ---- index ---- */

static void
collect(VlVm *vm, GHashTable *places)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (!lease->unindexed)
            continue;
        lease->unindexed = FALSE;
        GHashTable *entries = g_hash_table_lookup(places, lease->volume->place);
        if (!entries) {
            entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
            g_hash_table_insert(places, lease->volume->place, entries);
        }
        g_hash_table_insert(entries, g_strdup(lease->volume->key), vl_take_index_text(vm, lease->volume));
    }
}

void
vl_keep_index(VlDaemon *daemon)
{
    g_autoptr(GHashTable) places = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_hash_table_unref);
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    vl_vms_lock(daemon->vms);
    for (guint i = 0; i < vms->len; i++)
        collect(vms->pdata[i], places);
    vl_vms_unlock(daemon->vms);
    GHashTableIter iter;
    gpointer key, entries;
    g_hash_table_iter_init(&iter, places);
    while (g_hash_table_iter_next(&iter, &key, &entries)) {
        VlPlace *place = key;
        g_autoptr(GError) error = NULL;
        if (!place->store->ops->index_set(place, daemon->host->id, entries, vl_deadline_in(STEP_S), &error))
            g_warning("%s; list --all may leave out leases of VMs that ran before this virtleased", error->message);
    }
}

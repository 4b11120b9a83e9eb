/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/vm.h"

#include <unistd.h>

#include "lockd/procinfo.h"

struct VlVms {
    GRecMutex lock;
    GHashTable *by_uuid; /* uuid -> VlVm */
};

VlVms *
vl_vms_new(void)
{
    VlVms *vms = g_new0(VlVms, 1);
    g_rec_mutex_init(&vms->lock);
    vms->by_uuid = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)vl_vm_unref);
    return vms;
}

void
vl_vms_free(VlVms *vms)
{
    if (!vms)
        return;
    g_hash_table_unref(vms->by_uuid);
    g_rec_mutex_clear(&vms->lock);
    g_free(vms);
}

void
vl_vms_lock(VlVms *vms)
{
    g_rec_mutex_lock(&vms->lock);
}

void
vl_vms_unlock(VlVms *vms)
{
    g_rec_mutex_unlock(&vms->lock);
}

VlVm *
vl_vm_new(VlVms *vms, const VlIncarnation *who, const char *name, const char *uri, int action, int pidfd)
{
    VlVm *vm = g_new0(VlVm, 1);
    vm->refs = 1;
    vm->vms = vms;
    vl_incarnation_copy(&vm->who, who);
    vm->name = g_strdup(name);
    vm->uri = g_strdup(uri);
    vm->action = action;
    vm->pidfd = pidfd;
    vm->leases = g_ptr_array_new_with_free_func((GDestroyNotify)vl_lease_free);
    vm->readers = g_ptr_array_new_with_free_func((GDestroyNotify)vl_volume_unref);
    g_mutex_init(&vm->op);
    vm->token = vl_random_id();
    return vm;
}

VlVm *
vl_vm_ref(VlVm *vm)
{
    g_atomic_int_inc(&vm->refs);
    return vm;
}

void
vl_vm_unref(VlVm *vm)
{
    if (!vm || !g_atomic_int_dec_and_test(&vm->refs))
        return;
    vl_incarnation_clear(&vm->who);
    g_free(vm->name);
    g_free(vm->uri);
    if (vm->pidfd >= 0)
        close(vm->pidfd);
    g_ptr_array_unref(vm->leases);
    g_ptr_array_unref(vm->readers);
    g_mutex_clear(&vm->op);
    g_free(vm->unleased);
    g_free(vm->token);
    g_free(vm->next_token);
    g_clear_pointer(&vm->sanlock, g_array_unref);
    g_free(vm->sanlock_error);
    g_free(vm);
}

gboolean
vl_vms_add(VlVms *vms, VlVm *vm, VlVm **ret_other)
{
    vl_vms_lock(vms);
    VlVm *other = g_hash_table_lookup(vms->by_uuid, vm->who.uuid);
    if (other)
        *ret_other = vl_vm_ref(other);
    else
        g_hash_table_insert(vms->by_uuid, vm->who.uuid, vl_vm_ref(vm));
    vl_vms_unlock(vms);
    return !other;
}

void
vl_vms_remove(VlVms *vms, VlVm *vm)
{
    vl_vms_lock(vms);
    vm->gone = TRUE;
    if (g_hash_table_lookup(vms->by_uuid, vm->who.uuid) == vm)
        g_hash_table_remove(vms->by_uuid, vm->who.uuid);
    vl_vms_unlock(vms);
}

VlVm *
vl_vms_find_uuid(VlVms *vms, const char *uuid)
{
    vl_vms_lock(vms);
    VlVm *vm = g_hash_table_lookup(vms->by_uuid, uuid);
    if (vm)
        vl_vm_ref(vm);
    vl_vms_unlock(vms);
    return vm;
}

VlVm *
vl_vms_find_incarnation(VlVms *vms, const VlIncarnation *who)
{
    VlVm *vm = vl_vms_find_uuid(vms, who->uuid);
    if (vm && vl_incarnation_equal(&vm->who, who))
        return vm;
    vl_vm_unref(vm);
    return NULL;
}

GPtrArray *
vl_vms_all(VlVms *vms)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)vl_vm_unref);
    GHashTableIter iter;
    gpointer vm;
    vl_vms_lock(vms);
    g_hash_table_iter_init(&iter, vms->by_uuid);
    while (g_hash_table_iter_next(&iter, NULL, &vm))
        g_ptr_array_add(all, vl_vm_ref(vm));
    vl_vms_unlock(vms);
    return all;
}

guint
vl_vms_count_leases(VlVms *vms)
{
    guint count = 0;
    g_autoptr(GPtrArray) all = vl_vms_all(vms);
    vl_vms_lock(vms);
    for (guint i = 0; i < all->len; i++)
        count += ((VlVm *)all->pdata[i])->leases->len;
    vl_vms_unlock(vms);
    return count;
}

void
vl_vm_add_lease(VlVm *vm, VlLease *lease)
{
    vl_vms_lock(vm->vms);
    g_ptr_array_add(vm->leases, lease);
    vl_vms_unlock(vm->vms);
}

void
vl_vm_drop_lease(VlVm *vm, VlLease *lease)
{
    vl_vms_lock(vm->vms);
    g_ptr_array_remove(vm->leases, lease);
    vl_vms_unlock(vm->vms);
}

static VlLease *
find_lease(VlVm *vm, const char *volume_key)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (g_str_equal(lease->volume->key, volume_key))
            return lease;
    }
    return NULL;
}

VlVm *
vl_vms_find_rival(VlVms *vms, const VlVm *vm, const char *volume_key, gboolean shared)
{
    GHashTableIter iter;
    gpointer other;
    VlVm *rival = NULL;
    vl_vms_lock(vms);
    g_hash_table_iter_init(&iter, vms->by_uuid);
    while (!rival && g_hash_table_iter_next(&iter, NULL, &other)) {
        const VlLease *lease = other == vm ? NULL : find_lease(other, volume_key);
        if (lease && (vl_lease_is_ours(lease) || lease->state == VL_LEASE_LOST) && !(shared && lease->shared))
            rival = vl_vm_ref(other);
    }
    vl_vms_unlock(vms);
    return rival;
}

VlLease *
vl_vm_find_lease(VlVm *vm, const char *volume_key)
{
    vl_vms_lock(vm->vms);
    VlLease *lease = find_lease(vm, volume_key);
    vl_vms_unlock(vm->vms);
    return lease;
}

void
vl_vm_set_running(VlVm *vm, gboolean running)
{
    vl_vms_lock(vm->vms);
    vm->running = running;
    vl_vms_unlock(vm->vms);
}

void
vl_vm_add_reader(VlVm *vm, VlVolume *volume)
{
    gboolean known = FALSE;
    vl_vms_lock(vm->vms);
    for (guint i = 0; i < vm->readers->len && !known; i++)
        known = g_str_equal(((VlVolume *)vm->readers->pdata[i])->key, volume->key);
    if (!known)
        g_ptr_array_add(vm->readers, vl_volume_ref(volume));
    vl_vms_unlock(vm->vms);
}

gboolean
vl_vms_has_reader(VlVms *vms, const char *volume_key)
{
    gboolean found = FALSE;
    g_autoptr(GPtrArray) all = vl_vms_all(vms);
    vl_vms_lock(vms);
    for (guint i = 0; i < all->len && !found; i++) {
        VlVm *vm = all->pdata[i];
        for (guint k = 0; k < vm->readers->len && !found && !g_atomic_int_get(&vm->exited); k++)
            found = g_str_equal(((VlVolume *)vm->readers->pdata[k])->key, volume_key);
    }
    vl_vms_unlock(vms);
    return found;
}

VlAnswer
vl_vms_answer(VlVms *vms, const char *volume_key, const VlIncarnation *holder)
{
    VlAnswer answer = VL_ANSWER_NOT_MINE;
    vl_vms_lock(vms);
    VlVm *vm = g_hash_table_lookup(vms->by_uuid, holder->uuid);
    if (vm && vl_incarnation_equal(&vm->who, holder)) {
        VlLease *lease = find_lease(vm, volume_key);
        if (vm->adopting)
            answer = VL_ANSWER_ALIVE;
        else if (lease && lease->state == VL_LEASE_LOST)
            answer = VL_ANSWER_LOST;
        else if (lease)
            answer = lease->state == VL_LEASE_FREEING || g_atomic_int_get(&vm->exited) || vl_proc_exited(vm->pidfd)
                         ? VL_ANSWER_FREEING
                         : VL_ANSWER_MINE;
    }
    vl_vms_unlock(vms);
    return answer;
}

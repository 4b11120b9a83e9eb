/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Ownership helpers of the types in store.h; no storage is touched here. */
#include "lockd/store.h"

#include <string.h>

#include "lockd/backend.h"

VlVolume *
vl_volume_ref(VlVolume *volume)
{
    g_atomic_int_inc(&volume->refs);
    return volume;
}

void
vl_volume_unref(VlVolume *volume)
{
    if (!volume || !g_atomic_int_dec_and_test(&volume->refs))
        return;
    if (volume->place)
        volume->place->store->ops->volume_free(volume);
    else if (volume->backend->volume_free)
        volume->backend->volume_free(volume);
    g_free(volume->key);
    g_free(volume->display);
    g_free(volume);
}

VlLockOwner *
vl_lock_owner_copy(const VlLockOwner *owner)
{
    if (!owner)
        return NULL;
    VlLockOwner *copy = g_new0(VlLockOwner, 1);
    copy->entity = g_strdup(owner->entity);
    copy->cookie = g_strdup(owner->cookie);
    copy->addr = g_strdup(owner->addr);
    copy->managed = owner->managed;
    return copy;
}

void
vl_lock_owner_free(VlLockOwner *owner)
{
    if (!owner)
        return;
    g_free(owner->entity);
    g_free(owner->cookie);
    g_free(owner->addr);
    g_free(owner);
}

void
vl_look_clear(VlLook *look)
{
    g_clear_pointer(&look->record, g_bytes_unref);
    g_clear_pointer(&look->watchers, g_ptr_array_unref);
    g_clear_pointer(&look->owner, vl_lock_owner_free);
    look->exclusive_lock_feature = FALSE;
    g_clear_error(&look->error);
}

void
vl_session_object_clear(VlSessionObject *object)
{
    g_clear_pointer(&object->identity, g_bytes_unref);
    memset(object, 0, sizeof(*object));
}

void
vl_challenge_result_clear(VlChallengeResult *result)
{
    g_clear_pointer(&result->acks, g_ptr_array_unref);
    result->anybody = FALSE;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/lease.h"

#include "lockd/backend.h"
#include "lockd/vm.h"

static const char *const names[VL_LEASE_STATE_COUNT] = {"none", "taking", "incoming", "parked",
                                                        "held", "lost",   "freeing",  "free"};

#define TO(state) (1u << (state))
static const guint legal[VL_LEASE_STATE_COUNT] = {
    [VL_LEASE_NONE] = TO(VL_LEASE_TAKING) | TO(VL_LEASE_FREEING) | TO(VL_LEASE_FREE),
    [VL_LEASE_TAKING] = TO(VL_LEASE_PARKED) | TO(VL_LEASE_HELD) | TO(VL_LEASE_LOST) | TO(VL_LEASE_FREEING) |
                        TO(VL_LEASE_NONE) | TO(VL_LEASE_INCOMING),
    [VL_LEASE_INCOMING] = TO(VL_LEASE_PARKED) | TO(VL_LEASE_LOST) | TO(VL_LEASE_FREEING),
    [VL_LEASE_PARKED] = TO(VL_LEASE_HELD) | TO(VL_LEASE_LOST) | TO(VL_LEASE_FREEING),
    [VL_LEASE_HELD] = TO(VL_LEASE_PARKED) | TO(VL_LEASE_LOST) | TO(VL_LEASE_FREEING),
    [VL_LEASE_LOST] = TO(VL_LEASE_FREEING) | TO(VL_LEASE_FREE),
    [VL_LEASE_FREEING] = TO(VL_LEASE_FREE) | TO(VL_LEASE_FREEING),
    [VL_LEASE_FREE] = 0,
};

const char *
vl_lease_state_name(VlLeaseState state)
{
    return state < VL_LEASE_STATE_COUNT ? names[state] : "?";
}

VlLease *
vl_lease_new(VlVm *vm, VlVolume *volume, const struct vl_volume_spec *spec, const char *target, gboolean shared)
{
    VlLease *lease = g_new0(VlLease, 1);
    lease->vm = vm;
    lease->volume = vl_volume_ref(volume);
    if (vl_volume_spec_copy(spec, &lease->spec) < 0)
        g_error("out of memory");
    lease->target = g_strdup(target);
    lease->shared = shared;
    return lease;
}

void
vl_lease_free(VlLease *lease)
{
    if (!lease)
        return;
    if (vl_backend_of(lease->volume)->lease_clear)
        vl_backend_of(lease->volume)->lease_clear(lease);
    vl_volume_unref(lease->volume);
    vl_volume_spec_clear(&lease->spec);
    g_free(lease->target);
    vl_record_free(lease->record);
    g_clear_pointer(&lease->raw, g_bytes_unref);
    g_clear_pointer(&lease->baseline, g_ptr_array_unref);
    g_free(lease);
}

void
vl_lease_set_state(VlLease *lease, VlLeaseState state, const char *reason)
{
    if (lease->state == state)
        return;
    g_assert(legal[lease->state] & TO(state));
    if (state == VL_LEASE_LOST)
        g_warning("lease %s of VM %s: %s -> %s (%s)", lease->volume->display, lease->vm->name, names[lease->state],
                  names[state], reason);
    else
        g_message("lease %s of VM %s: %s -> %s (%s)", lease->volume->display, lease->vm->name, names[lease->state],
                  names[state], reason);
    vl_vms_lock(lease->vm->vms);
    lease->state = state;
    lease->since = g_get_real_time() / G_USEC_PER_SEC;
    vl_vms_unlock(lease->vm->vms);
}

void
vl_lease_set_record(VlLease *lease, GBytes *raw, VlRecord *record)
{
    vl_vms_lock(lease->vm->vms);
    vl_record_free(lease->record);
    lease->record = record;
    vl_vms_unlock(lease->vm->vms);
    g_clear_pointer(&lease->raw, g_bytes_unref);
    lease->raw = raw;
}

VlHolder *
vl_lease_holder(const VlLease *lease)
{
    return lease->record ? vl_record_find(lease->record, &lease->vm->who) : NULL;
}

gboolean
vl_lease_is_ours(const VlLease *lease)
{
    return lease->state == VL_LEASE_PARKED || lease->state == VL_LEASE_HELD;
}

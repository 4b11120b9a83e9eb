/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * RBD images: lease records on the image itself, kept by the rules in take.c, hold.c, free.c, incoming.c and audit.c
 * over a VlStore.
 */
#include "lockd/backend.h"
#include "lockd/audit.h"
#include "lockd/error.h"
#include "lockd/free.h"
#include "lockd/hold.h"
#include "lockd/incoming.h"
#include "lockd/jsonout.h"
#include "lockd/take.h"

#define STEP_S 6

static VlVolume *
rbd_resolve(VlDaemon *daemon, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    return daemon->store->ops->resolve(daemon->store, spec, deadline, error);
}

/* Closed: none of the clients we recorded watches the image any more. */
static gboolean
rbd_closed(const VlLease *lease)
{
    VlLook look = {.volume = lease->volume};
    gboolean looked = lease->volume->place->store->ops->look(&look, 1, VL_LOOK_WATCHERS, vl_deadline_in(STEP_S));
    gboolean open = FALSE;
    const VlHolder *holder = vl_lease_holder(lease);
    for (guint k = 0; holder && k < holder->addrs->len && !open; k++)
        open = vl_watchers_have(look.watchers, holder->addrs->pdata[k]);
    vl_look_clear(&look);
    return looked && !open;
}

static gboolean
rbd_show(VlDaemon *daemon, VlVolume *volume, const VlCall *call, JsonBuilder *out, GError **error)
{
    VlLook look = {.volume = volume};
    if (!volume->place->store->ops->look(&look, 1, VL_LOOK_ALL, vl_call_within(call, STEP_S))) {
        g_propagate_error(error, g_steal_pointer(&look.error));
        vl_look_clear(&look);
        return FALSE;
    }
    g_autoptr(VlRecord) record = vl_record_parse(volume->display, look.record, error);
    if (record) {
        vl_json_string(out, "place", volume->place->display);
        vl_json_record(out, record);
        vl_json_look(out, &look);
    }
    vl_look_clear(&look);
    return record != NULL;
}

static void
rbd_list(const VlLease *lease, JsonBuilder *out)
{
    const VlHolder *holder = vl_lease_holder(lease);
    vl_json_int(out, "epoch", lease->record ? (gint64)lease->record->epoch : 0);
    vl_json_addrs(out, "addrs", holder ? holder->addrs : NULL);
    if (lease->record)
        vl_json_fenced(out, lease->record);
}

const VlBackendOps vl_backend_rbd = {
    .name = "rbd",
    .resolve = rbd_resolve,
    .ask = vl_take_ask_records,
    .take = vl_take_records,
    .hold = vl_hold_records,
    .park = vl_park_records,
    .stay = vl_incoming_forget_records,
    .free = vl_free_records,
    .exit = vl_exit_records,
    .gone = vl_forget_records,
    .begin_incoming = vl_incoming_begin_records,
    .finish_incoming = vl_incoming_finish_records,
    .closed = rbd_closed,
    .audit = vl_audit_records,
    .show = rbd_show,
    .list = rbd_list,
};

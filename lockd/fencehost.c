/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/fencehost.h"

#include <string.h>

#include "lockd/challenge.h"
#include "lockd/error.h"
#include "lockd/identity.h"
#include "lockd/jsonout.h"
#include "lockd/judge.h"
#include "lockd/takeover.h"

#define STEP_S   6.0
#define ATTEMPTS 5

/* One session of the host to be fenced. */
typedef struct {
    VlPlace *place;
    VlIdentity *identity;
    GBytes *raw;
    guint64 counter;
} Target;

static void
target_free(gpointer data)
{
    Target *target = data;
    vl_identity_free(target->identity);
    g_clear_pointer(&target->raw, g_bytes_unref);
    g_free(target);
}

static gboolean
find_in_place(VlPlace *place, const char *host, const VlCall *call, GPtrArray *targets, GError **error)
{
    g_autoptr(GPtrArray) ids = place->store->ops->session_list(place, vl_call_within(call, STEP_S), error);
    if (!ids)
        return FALSE;
    for (guint i = 0; i < ids->len; i++) {
        VlSessionObject object = {0};
        if (!place->store->ops->session_read(place, ids->pdata[i], &object, vl_call_within(call, STEP_S), error))
            return FALSE;
        g_autoptr(VlIdentity) identity = object.present ? vl_identity_parse(object.identity, NULL) : NULL;
        if (identity && (g_str_equal(identity->name, host) || g_str_equal(identity->host, host))) {
            Target *target = g_new0(Target, 1);
            target->place = place;
            target->identity = g_steal_pointer(&identity);
            target->raw = g_bytes_ref(object.identity);
            target->counter = object.counter;
            g_ptr_array_add(targets, target);
        }
        vl_session_object_clear(&object);
    }
    return TRUE;
}

static GPtrArray *
find_targets(VlDaemon *daemon, const char *host, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) targets = g_ptr_array_new_with_free_func(target_free);
    g_autoptr(GPtrArray) places = daemon->store->ops->places(daemon->store, vl_call_within(call, STEP_S * 3), error);
    for (guint i = 0; places && i < places->len; i++)
        if (!find_in_place(places->pdata[i], host, call, targets, error))
            return NULL;
    if (!places)
        return NULL;
    const char *id = targets->len ? ((Target *)targets->pdata[0])->identity->host : NULL;
    for (guint i = 1; i < targets->len; i++)
        if (!g_str_equal(((Target *)targets->pdata[i])->identity->host, id)) {
            vl_set_error(error, VL_ERR_CONFIG,
                         "several hosts are called '%s': name the one you mean by its host id (%s, %s, ...)", host, id,
                         ((Target *)targets->pdata[i])->identity->host);
            return NULL;
        }
    if (!targets->len)
        vl_set_error(error, VL_ERR_MISSING, "no host called '%s' has ever had a lease in the pools this host can read",
                     host);
    else if (g_str_equal(id, daemon->host->id))
        vl_set_error(error, VL_ERR_NOT_PERMITTED, "'%s' is this very host", host);
    else
        return g_steal_pointer(&targets);
    return NULL;
}

/* An answer or a moving counter is a sign of life; silence here proves nothing, the operator's word does. */
static gboolean
looks_dead(const Target *target, const VlCall *call, GError **error)
{
    VlIncarnation holder = {.host = target->identity->host};
    VlAsk ask = {NULL, &holder, NULL};
    VlAnswer answer;
    VlSessionObject now = {0};
    if (target->identity->mark != VL_SESSION_LIVE)
        return TRUE;
    if (!vl_challenge(target->place, target->identity->host, &ask, &answer, error) ||
        !target->place->store->ops->session_read(target->place, target->identity->host, &now,
                                                 vl_call_within(call, STEP_S), error))
        return FALSE;
    gboolean alive = answer > VL_ANSWER_NOBODY || now.counter != target->counter;
    vl_session_object_clear(&now);
    if (alive)
        vl_set_error(error, VL_ERR_HELD,
                     "host %s is alive: it answers in %s. Fencing it would cut its running VMs off their disks; say "
                     "--force if that "
                     "is meant",
                     target->identity->name, target->place->display);
    return !alive;
}

/* The number is marked, not the host: a daemon that lives after all takes a new one and checks its leases (R15). */
static gboolean
end_session(Target *target, GError **error)
{
    if (target->identity->mark == VL_SESSION_FENCED)
        return TRUE;
    target->identity->mark = VL_SESSION_FENCED;
    g_autoptr(GBytes) ended = vl_identity_format(target->identity);
    return target->place->store->ops->session_swap(target->place, target->identity->host, target->raw, ended,
                                                   vl_deadline_in(STEP_S), error);
}

/* ---- its leases ---- */

static VlVm *
nobody(VlDaemon *daemon)
{
    VlIncarnation who = {daemon->host->id, daemon->host->boot, (char *)"", 0, 0};
    return vl_vm_new(daemon->vms, &who, "(operator)", "", 0, -1);
}

static VlTake *
take_for(VlVm *vm, VlVolume *volume)
{
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD};
    VlLease *lease = vl_lease_new(vm, volume, &spec, "", FALSE);
    vl_vm_add_lease(vm, lease);
    return vl_take_new(lease);
}

static GPtrArray *
takes_of_index(VlVm *vm, const Target *target, const VlCall *call, GError **error)
{
    g_autoptr(GHashTable) index = target->place->store->ops->index_list(target->place, target->identity->host,
                                                                        vl_call_within(call, STEP_S), error);
    if (!index)
        return NULL;
    GPtrArray *takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    GHashTableIter iter;
    gpointer key, text;
    g_hash_table_iter_init(&iter, index);
    while (g_hash_table_iter_next(&iter, &key, &text)) {
        g_auto(GStrv) lines = g_strsplit(text, "\n", 3);
        g_autoptr(VlVolume) volume =
            target->place->store->ops->volume_from_key(target->place, key, lines[0] ? lines[0] : key, NULL);
        if (volume)
            g_ptr_array_add(takes, take_for(vm, volume));
    }
    return takes;
}

/* Keeps what the ended session holds; an index entry may be a leftover, the record decides. */
static void
keep_held(GPtrArray *takes, const VlIdentity *ended)
{
    for (guint i = takes->len; i > 0; i--) {
        VlTake *take = takes->pdata[i - 1];
        take->step = VL_TAKE_BLOCKED;
        for (guint k = 0; take->record && k < take->record->holders->len; k++) {
            VlHolder *holder = take->record->holders->pdata[k];
            if (g_str_equal(holder->who.host, ended->host) && holder->session <= ended->session) {
                VlVerdict *verdict = g_new0(VlVerdict, 1);
                verdict->kind = VL_VERDICT_DEAD;
                verdict->ended = TRUE;
                g_ptr_array_add(take->blockers, holder);
                g_ptr_array_add(take->verdicts, verdict);
            }
        }
        for (guint k = 0; k < ended->ips->len; k++)
            vl_addrs_add(take->dead_ips, ended->ips->pdata[k]);
        for (guint k = 0; k < ended->krbd->len; k++)
            vl_addrs_add(take->never, ended->krbd->pdata[k]);
        if (!take->blockers->len)
            g_ptr_array_remove_index(takes, i - 1);
    }
}

/* What cannot be read cannot be fenced by this way; it is said, and the rest goes on. */
static void
drop_unreadable(GPtrArray *takes)
{
    for (guint i = takes->len; i > 0; i--) {
        const VlTake *take = takes->pdata[i - 1];
        if (take->record)
            continue;
        g_warning("%s: its lease cannot be read and was left alone%s%s", take->lease->volume->display,
                  take->look.error ? ": " : "", take->look.error ? take->look.error->message : "");
        g_ptr_array_remove_index(takes, i - 1);
    }
}

static void
report(JsonBuilder *out, const Target *target, const GPtrArray *takes)
{
    for (guint i = 0; i < takes->len; i++) {
        const VlTake *take = takes->pdata[i];
        json_builder_begin_object(out);
        vl_json_string(out, "volume", take->lease->volume->display);
        vl_json_string(out, "place", target->place->display);
        vl_json_string(out, "vm", ((VlHolder *)take->blockers->pdata[0])->vm);
        vl_json_addrs(out, "fenced", take->set);
        json_builder_end_object(out);
    }
}

static gboolean
fence_leases(VlDaemon *daemon, const Target *target, const VlCall *call, JsonBuilder *out, GError **error)
{
    for (guint attempt = 0; attempt < ATTEMPTS; attempt++) {
        g_autoptr(VlVm) vm = nobody(daemon);
        g_autoptr(GPtrArray) takes = takes_of_index(vm, target, call, error);
        g_autoptr(GError) local = NULL;
        if (!takes)
            return FALSE;
        (void)vl_take_look(takes, VL_LOOK_ALL, vl_call_within(call, STEP_S), &local);
        drop_unreadable(takes);
        keep_held(takes, target->identity);
        g_clear_error(&local);
        if (vl_takeover(daemon, NULL, takes, call, &local)) {
            report(out, target, takes);
            return TRUE;
        }
        if (vl_error_code(local) != VL_ERR_CHANGED || attempt + 1 == ATTEMPTS) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    return FALSE;
}

gboolean
vl_fence_host(VlDaemon *daemon, const char *host, gboolean force, const VlCall *call, JsonBuilder *out, GError **error)
{
    g_autoptr(GPtrArray) targets = find_targets(daemon, host, call, error);
    if (!targets)
        return FALSE;
    for (guint i = 0; i < targets->len && !force; i++)
        if (!looks_dead(targets->pdata[i], call, error))
            return FALSE;
    for (guint i = 0; i < targets->len; i++) {
        guint64 number;
        if (!end_session(targets->pdata[i], error) ||
            !vl_sessions_ensure(daemon->sessions, ((Target *)targets->pdata[i])->place, call, &number, error))
            return FALSE;
    }
    const Target *first = targets->pdata[0];
    g_warning("host %s: its session was ended by an operator%s", first->identity->name, force ? " (forced)" : "");
    vl_json_string(out, "host", first->identity->name);
    vl_json_string(out, "host_id", first->identity->host);
    vl_json_begin_list(out, "leases");
    gboolean ok = TRUE;
    for (guint i = 0; i < targets->len && ok; i++)
        ok = fence_leases(daemon, targets->pdata[i], call, out, error);
    json_builder_end_array(out);
    return ok;
}

/* ---- one volume ---- */

static gboolean
release_without_fence(VlTake *take, JsonBuilder *out, GError **error)
{
    g_autoptr(VlRecord) next = vl_record_copy(take->record);
    g_ptr_array_set_size(next->holders, 0);
    g_clear_pointer(&next->claim, vl_claim_free);
    next->epoch++;
    VlRecord *write = next->fenced->len ? next : NULL;
    vl_json_look(out, &take->look);
    return vl_cas_records(&take->lease, &write, &take->look.record, 1, vl_deadline_in(STEP_S), error);
}

gboolean
vl_force_release(VlDaemon *daemon, VlVolume *volume, gboolean no_fence, const VlCall *call, JsonBuilder *out,
                 GError **error)
{
    guint64 number;
    g_autoptr(VlVm) vm = nobody(daemon);
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    VlTake *take = take_for(vm, volume);
    g_ptr_array_add(takes, take);
    if (!vl_sessions_ensure(daemon->sessions, volume->place, call, &number, error) ||
        !vl_take_look(takes, VL_LOOK_ALL, vl_call_within(call, STEP_S), error))
        return FALSE;
    vl_json_string(out, "volume", volume->display);
    if (!take->record->holders->len && !take->record->claim) {
        vl_set_error(error, VL_ERR_MISSING, "%s: nobody holds a lease on it", volume->display);
        return FALSE;
    }
    g_warning("%s: released by an operator%s", volume->display, no_fence ? " WITHOUT fencing" : "");
    if (no_fence)
        return release_without_fence(take, out, error);
    take->step = VL_TAKE_BLOCKED;
    for (guint i = 0; i < take->record->holders->len; i++) {
        g_ptr_array_add(take->blockers, take->record->holders->pdata[i]);
        g_ptr_array_add(take->verdicts, NULL);
    }
    if (!vl_takeover(daemon, NULL, takes, call, error))
        return FALSE;
    vl_json_addrs(out, "fenced", take->set);
    return TRUE;
}

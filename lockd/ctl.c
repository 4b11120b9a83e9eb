/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/ctl.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "lockd/audit.h"
#include "lockd/backend.h"
#ifdef HAVE_SANLOCK
#include "lockd/backend_sanlock.h"
#endif
#include "lockd/error.h"
#include "lockd/fencehost.h"
#include "lockd/identity.h"
#include "lockd/jsonout.h"
#include "lockd/take.h"

#define STEP_S 6.0

static gboolean
has_arg(GPtrArray *args, const char *word)
{
    for (guint i = 0; i < args->len; i++)
        if (g_str_equal(args->pdata[i], word))
            return TRUE;
    return FALSE;
}

static const char *
operand(GPtrArray *args)
{
    for (guint i = 0; i < args->len; i++)
        if (!g_str_has_prefix(args->pdata[i], "--"))
            return args->pdata[i];
    return NULL;
}

/* ---- status ---- */

static gboolean
ctl_status(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    g_autoptr(GArray) sessions = vl_sessions_list(daemon->sessions);
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    vl_json_string(out, "version", VL_VERSION);
    vl_json_string(out, "host_id", daemon->host->id);
    vl_json_string(out, "host_name", daemon->host->name);
    vl_json_string(out, "machine_id", daemon->host->machine);
    vl_json_string(out, "boot_id", daemon->host->boot);
    vl_json_string(out, "socket", daemon->settings->socket);
    vl_json_int(out, "dead_after", daemon->settings->dead_after);
    vl_json_int(out, "takeover_wait", daemon->settings->takeover_wait);
    vl_json_int(out, "vms", vms->len);
    vl_json_int(out, "leases", vl_vms_count_leases(daemon->vms));
    vl_json_begin_list(out, "sessions");
    for (guint i = 0; i < sessions->len; i++) {
        const VlSessionInfo *info = &g_array_index(sessions, VlSessionInfo, i);
        json_builder_begin_object(out);
        vl_json_string(out, "place", info->place->display);
        vl_json_string(out, "key", info->place->key);
        vl_json_string(out, "state", vl_session_state_name(info->state));
        vl_json_int(out, "session", (gint64)info->number);
        vl_json_int(out, "counter", (gint64)info->counter);
        vl_json_int(out, "silent_ms", info->silent_ms);
        vl_json_string(out, "problem", info->problem);
        json_builder_end_object(out);
    }
    json_builder_end_array(out);
    vl_json_begin_list(out, "backends");
    for (guint b = 0; vl_backends[b]; b++) {
        if (!vl_backends[b]->status)
            continue;
        json_builder_begin_object(out);
        vl_json_string(out, "name", vl_backends[b]->name);
        vl_backends[b]->status(daemon, out);
        json_builder_end_object(out);
    }
    json_builder_end_array(out);
    return TRUE;
}

/* ---- list ---- */

static void
lease_out(JsonBuilder *out, const VlDaemon *daemon, const VlVm *vm, const VlLease *lease)
{
    const VlHolder *holder = vl_lease_holder(lease);
    json_builder_begin_object(out);
    vl_json_string(out, "volume", lease->volume->display);
    vl_json_string(out, "key", lease->volume->key);
    vl_json_string(out, "state", vl_lease_state_name(lease->state));
    vl_json_string(out, "mode", lease->shared ? "shared" : "exclusive");
    vl_json_string(out, "vm", vm->name);
    vl_json_string(out, "uuid", vm->who.uuid);
    vl_json_int(out, "pid", vm->who.pid);
    vl_json_string(out, "host", daemon->host->name);
    vl_json_int(out, "since", holder ? holder->since : lease->since);
    vl_json_string(out, "backend", vl_backend_of(lease->volume)->name);
    if (vl_backend_of(lease->volume)->list)
        vl_backend_of(lease->volume)->list(lease, out);
    json_builder_end_object(out);
}

static void
list_own(VlDaemon *daemon, JsonBuilder *out)
{
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    vl_vms_lock(daemon->vms);
    for (guint i = 0; i < vms->len; i++) {
        const VlVm *vm = vms->pdata[i];
        for (guint k = 0; k < vm->leases->len; k++)
            lease_out(out, daemon, vm, vm->leases->pdata[k]);
    }
    vl_vms_unlock(daemon->vms);
}

static void
index_out(JsonBuilder *out, GHashTable *index, const VlIdentity *identity)
{
    GHashTableIter iter;
    gpointer key, text;
    g_hash_table_iter_init(&iter, index);
    while (g_hash_table_iter_next(&iter, &key, &text)) {
        g_auto(GStrv) lines = g_strsplit(text, "\n", 3);
        json_builder_begin_object(out);
        vl_json_string(out, "volume", lines[0] ? lines[0] : key);
        vl_json_string(out, "key", key);
        vl_json_string(out, "state", "indexed");
        vl_json_string(out, "uuid", lines[0] && lines[1] ? lines[1] : "");
        vl_json_string(out, "vm", lines[0] && lines[1] && lines[2] ? lines[2] : "");
        vl_json_string(out, "host", identity->name);
        json_builder_end_object(out);
    }
}

static gboolean
list_others(VlDaemon *daemon, JsonBuilder *out, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) places = daemon->store->ops->places(daemon->store, vl_call_within(call, STEP_S * 3), error);
    for (guint i = 0; places && i < places->len; i++) {
        VlPlace *place = places->pdata[i];
        g_autoptr(GPtrArray) hosts = place->store->ops->session_list(place, vl_call_within(call, STEP_S), error);
        if (!hosts)
            return FALSE;
        for (guint k = 0; k < hosts->len; k++) {
            VlSessionObject object = {0};
            g_autoptr(GError) unreadable = NULL;
            if (g_str_equal(hosts->pdata[k], daemon->host->id))
                continue;
            if (!place->store->ops->session_read(place, hosts->pdata[k], &object, vl_call_within(call, STEP_S), error))
                return FALSE;
            g_autoptr(VlIdentity) identity = object.present ? vl_identity_parse(object.identity, NULL) : NULL;
            vl_session_object_clear(&object);
            g_autoptr(GHashTable) index =
                identity
                    ? place->store->ops->index_list(place, hosts->pdata[k], vl_call_within(call, STEP_S), &unreadable)
                    : NULL;
            if (index)
                index_out(out, index, identity);
            if (unreadable) {
                g_propagate_error(error, g_steal_pointer(&unreadable));
                return FALSE;
            }
        }
    }
    return places != NULL;
}

static gboolean
ctl_list(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    gboolean ok = TRUE;
    vl_json_begin_list(out, "leases");
    list_own(daemon, out);
    if (has_arg(args, "--all"))
        ok = list_others(daemon, out, call, error);
    json_builder_end_array(out);
    return ok;
}

/* ---- show ---- */

/* A volume as people write it: "rbd:POOL/IMAGE", "POOL/IMAGE", "POOL/NS/IMAGE", or a path. */
static VlVolume *
find_volume(VlDaemon *daemon, const char *name, const VlCall *call, GError **error)
{
    struct vl_volume_spec spec = {0};
    if (!name) {
        vl_set_error(error, VL_ERR_PROTOCOL, "no volume named; say for example: rbd/vm1");
        return NULL;
    }
    const char *plain = g_str_has_prefix(name, "rbd:") ? name + 4 : g_str_has_prefix(name, "file:/") ? name + 5 : name;
    int r = *plain == '/' ? vl_volume_from_path(plain, "/sys", "/dev", &spec) : vl_volume_parse_rbd(plain, &spec);
    VlVolume *volume = NULL;
    g_autoptr(GError) local = NULL;
    if (r < 0)
        vl_set_error(error, VL_ERR_PROTOCOL,
                     "\"%s\" does not name a volume; say POOL/IMAGE, POOL/NAMESPACE/IMAGE or an absolute path", name);
    else
        volume = vl_backend_resolve(daemon, &spec, vl_call_within(call, STEP_S * 2), &local);
    if (local)
        g_propagate_error(error, g_steal_pointer(&local));
    else if (r >= 0 && !volume)
        vl_set_error(error, VL_ERR_MISSING, "%s: by the rules in virtleased.conf it gets no lease", name);
    vl_volume_spec_clear(&spec);
    return volume;
}

static gboolean
ctl_show(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    g_autoptr(VlVolume) volume = find_volume(daemon, operand(args), call, error);
    if (!volume)
        return FALSE;
    vl_json_string(out, "volume", volume->display);
    vl_json_string(out, "key", volume->key);
    vl_json_string(out, "backend", vl_backend_of(volume)->name);
    return vl_backend_of(volume)->show(daemon, volume, call, out, error);
}

/* ---- fence, release ---- */

static gboolean
ctl_fence(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    if (!operand(args)) {
        vl_set_error(error, VL_ERR_PROTOCOL, "no host named");
        return FALSE;
    }
    return vl_fence_host(daemon, operand(args), has_arg(args, "--force"), call, out, error);
}

static gboolean
ctl_release(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    if (!has_arg(args, "--force")) {
        vl_set_error(error, VL_ERR_NOT_PERMITTED,
                     "release takes a lease away from its holder, fencing it first: say --force if that is meant");
        return FALSE;
    }
    g_autoptr(VlVolume) volume = find_volume(daemon, operand(args), call, error);
    if (volume && !volume->place) {
        vl_set_error(
            error, VL_ERR_NOT_PERMITTED,
            "%s is guarded by %s: its lease ends with the process that has it, stop that VM (virtleasectl show "
            "tells which)",
            volume->display, vl_backend_of(volume)->name);
        return FALSE;
    }
    gboolean ok = volume && vl_force_release(daemon, volume, has_arg(args, "--no-fence"), call, out, error);
    if (ok)
        vl_audit_place(daemon, volume->place); /* if it was ours, say so at once */
    return ok;
}

/* ---- cleanup ---- */

static gboolean
ctl_cleanup(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    for (guint b = 0; vl_backends[b]; b++)
        if (vl_backends[b]->clean)
            return vl_backends[b]->clean(daemon, args, call, out, error);
    vl_set_error(error, VL_ERR_MISSING, "this virtleased was built without sanlock: it has no lease files to clean up");
    return FALSE;
}

/* ---- lost: said by sanlock ---- */

#ifdef HAVE_SANLOCK
static gboolean
ctl_lost(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    return vl_sanlock_failing(daemon, operand(args), error);
}
#endif

gboolean
vl_ctl_run(VlDaemon *daemon, const char *verb, GPtrArray *args, const VlCall *call, char **ret_json, GError **error)
{
    static const struct {
        const char *verb;
        gboolean (*run)(VlDaemon *, GPtrArray *, const VlCall *, JsonBuilder *, GError **);
    } verbs[] = {
        {"status", ctl_status}, {"list", ctl_list},       {"show", ctl_show},
        {"fence", ctl_fence},   {"release", ctl_release}, {"cleanup", ctl_cleanup},
#ifdef HAVE_SANLOCK
        {"lost", ctl_lost},
#endif
    };
    for (guint i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (!g_str_equal(verb, verbs[i].verb))
            continue;
        g_autoptr(JsonBuilder) out = json_builder_new();
        json_builder_begin_object(out);
        gboolean ok = verbs[i].run(daemon, args, call, out, error);
        json_builder_end_object(out);
        if (ok) {
            g_autoptr(JsonNode) root = json_builder_get_root(out);
            *ret_json = json_to_string(root, FALSE);
        }
        return ok;
    }
    vl_set_error(error, VL_ERR_PROTOCOL, "virtleased does not know '%s'; tool and daemon are of different versions",
                 verb);
    return FALSE;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/backend_sanlock.h"

#include "lockd/error.h"
#include "lockd/jsonout.h"

#define STEP_S 10.0 /* one command to sanlock that nobody waits for */

static const char *
life_name(VlHostLife life)
{
    return life == VL_HOST_LIVE ? "alive" : life == VL_HOST_DEAD ? "dead" : life == VL_HOST_FREE ? "gone" : "unknown";
}

gboolean
vl_sanlock_show(VlDaemon *daemon, VlVolume *volume, const VlCall *call, JsonBuilder *out, GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    const VlSanlockVolume *own = volume->priv;
    vl_json_begin_list(out, "holders");
    for (guint i = 0; i < own->refs->len; i++) {
        const VlSanlockRef *ref = own->refs->pdata[i];
        guint64 host = 0, lver = 0;
        g_autoptr(GError) local = NULL;
        VlSpaceHost seen = {0};
        g_autofree char *text =
            vl_sanlock_lease_owner(sanlock->space, ref, vl_call_within(call, STEP_S), &host, &lver, &local);
        if (local && local->code != VL_ERR_MISSING) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        if (!host)
            continue;
        (void)vl_sanlock_space_host(sanlock->space, host, &seen);
        json_builder_begin_object(out);
        vl_json_string(out, "host", seen.name[0] ? seen.name : text);
        vl_json_int(out, "sanlock_host_id", (gint64)host);
        vl_json_string(out, "host_state", life_name(seen.life));
        vl_json_int(out, "version", (gint64)lver);
        vl_json_string(out, "file", ref->file);
        json_builder_end_object(out);
    }
    json_builder_end_array(out);
    return TRUE;
}

void
vl_sanlock_status(VlDaemon *daemon, JsonBuilder *out)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    VlSpaceStatus status;
    if (!sanlock) {
        vl_json_string(out, "state", "off");
        vl_json_string(out, "detail", "sanlock_dir is not set");
        return;
    }
    vl_sanlock_space_status(sanlock->space, &status);
    gboolean joined = status.state == VL_SPACE_JOINED;
    g_autofree char *detail =
        g_strdup_printf("host %u of %u living in %s", sanlock->conf.host_id, status.hosts, sanlock->conf.lease_dir);
    g_autofree char *unwatched = g_strdup_printf(
        "sanlock runs without a watchdog: a host that hangs may still write when others take its disks over after %d s",
        VL_SANLOCK_DEAD_S(sanlock->conf.io_timeout));
    vl_json_string(out, "state", vl_sanlock_space_state_name(status.state));
    vl_json_string(out, "detail", detail);
    vl_json_string(out, "problem",
                   !joined                                     ? status.reason
                   : status.watchdog_known && !status.watchdog ? unwatched
                                                               : NULL);
    vl_json_int(out, "host_id", sanlock->conf.host_id);
    vl_json_int(out, "io_timeout", sanlock->conf.io_timeout);
    vl_json_int(out, "hosts", status.hosts);
    vl_json_int(out, "renewed_ms", status.renewed ? (vl_clock_now() - status.renewed) / 1000 : -1);
    vl_json_string(out, "watchdog", !status.watchdog_known ? "unknown" : status.watchdog ? "yes" : "no");
    g_free(status.reason);
}

void
vl_sanlock_list(const VlLease *lease, JsonBuilder *out)
{
    const VlSanlockLease *own = lease->priv;
    const VlSanlockVolume *volume = lease->volume->priv;
    vl_json_string(out, "file", ((const VlSanlockRef *)volume->refs->pdata[0])->file);
    vl_json_int(out, "version", own ? own->lver[0] : 0);
    if (own && own->let_go)
        vl_json_bool(out, "let_go", TRUE);
    if (own && g_atomic_int_get(&own->wait_left))
        vl_json_int(out, "wait_s", g_atomic_int_get(&own->wait_left));
}

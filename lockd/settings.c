/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/settings.h"

#include <limits.h>

#include "common/config.h"
#include "common/protocol.h"
#include "lockd/error.h"
#include "lockd/route.h"

#define TAKEOVER_WAIT_MARGIN_S   10
#define PLUGIN_TIMEOUT_DEFAULT_S 40
#define WATCH_TIMEOUT_S          30 /* osd_client_watch_timeout's default */
#define MONTH_S                  (30 * 24 * 3600)

static const char *const takeover_words[] = {"auto", "manual", NULL};
static const char *const watch_words[] = {"ignore", "wait", NULL};
static const char *const foreign_words[] = {"refuse", "ignore", NULL};
static const char *const unmanaged_words[] = {"allow", "refuse", NULL};
static const char *const conflict_words[] = {"pause", "detach", "log", NULL};
static const char *const lost_words[] = {"pause", "kill", "log", NULL};

static VlSettings *
settings_default(void)
{
    VlSettings *settings = g_new0(VlSettings, 1);
    settings->socket = g_strdup(VL_DEFAULT_SOCKET);
    settings->state_dir = g_strdup("/var/lib/virtlease");
    settings->run_root = g_strdup("/run");
    settings->plugin_conf = g_strdup("/etc/libvirt/qemu-virtlease.conf");
    settings->ceph_user = g_strdup("admin");
    settings->op_timeout = 5;
    settings->dead_after = 10;
    settings->takeover_wait = UINT_MAX;
    settings->foreign_wait = 3;
    settings->blocklist_expire = MONTH_S;
    settings->restart_grace = 120;
    settings->audit_interval = 30;
    settings->sanlock_io_timeout = 10;
    settings->sanlock_num_hosts = 250;
    return settings;
}

void
vl_settings_free(VlSettings *settings)
{
    if (!settings)
        return;
    g_free(settings->socket);
    g_free(settings->state_dir);
    g_free(settings->run_root);
    g_free(settings->plugin_conf);
    g_free(settings->host_id);
    g_free(settings->host_name);
    g_free(settings->ceph_conf);
    g_free(settings->ceph_user);
    vl_config_list_free(settings->volumes);
    g_free(settings->local_dir);
    g_free(settings->sanlock_dir);
    g_free(settings->sanlock_lockspace);
    g_free(settings->sanlock_user);
    g_free(settings->sanlock_group);
    g_free(settings->sanlock_killpath);
    g_free(settings);
}

static const char *
absolute(const char *path)
{
    return path[0] == '/' ? NULL : "must be an absolute path";
}

static int
settings_read(VlSettings *s, const char *path, gboolean must_exist, char **reason)
{
    const struct vl_conf_key keys[] = {
        {"socket", VL_CONF_STRING, &s->socket, 0, 0, NULL, NULL},
        {"state_dir", VL_CONF_STRING, &s->state_dir, 0, 0, NULL, NULL},
        {"run_root", VL_CONF_STRING, &s->run_root, 0, 0, NULL, NULL},
        {"plugin_conf", VL_CONF_STRING, &s->plugin_conf, 0, 0, NULL, NULL},
        {"host_id", VL_CONF_STRING, &s->host_id, 0, 0, NULL, NULL},
        {"host_name", VL_CONF_STRING, &s->host_name, 0, 0, NULL, NULL},
        {"ceph_conf", VL_CONF_STRING, &s->ceph_conf, 0, 0, NULL, NULL},
        {"ceph_user", VL_CONF_STRING, &s->ceph_user, 0, 0, NULL, NULL},
        {"op_timeout", VL_CONF_UINT, &s->op_timeout, 1, 60, NULL, "seconds"},
        {"dead_after", VL_CONF_UINT, &s->dead_after, 4, 600, NULL, "seconds"},
        {"takeover", VL_CONF_ENUM, &s->takeover, 0, 0, takeover_words, NULL},
        {"takeover_wait", VL_CONF_UINT, &s->takeover_wait, 0, 3600, NULL, "seconds"},
        {"takeover_watch", VL_CONF_ENUM, &s->takeover_watch, 0, 0, watch_words, NULL},
        {"foreign_users", VL_CONF_ENUM, &s->foreign_users, 0, 0, foreign_words, NULL},
        {"foreign_wait", VL_CONF_UINT, &s->foreign_wait, 0, 60, NULL, "seconds"},
        {"blocklist_expire", VL_CONF_UINT, &s->blocklist_expire, 60, 10 * 365 * 24 * 3600, NULL, "seconds"},
        {"restart_grace", VL_CONF_UINT, &s->restart_grace, 0, 3600, NULL, "seconds"},
        {"audit_interval", VL_CONF_UINT, &s->audit_interval, 1, 3600, NULL, "seconds"},
        {"unmanaged_disks", VL_CONF_ENUM, &s->unmanaged_disks, 0, 0, unmanaged_words, NULL},
        {"hotplug_conflict", VL_CONF_ENUM, &s->hotplug_conflict, 0, 0, conflict_words, NULL},
        {"on_lease_lost", VL_CONF_ENUM, &s->on_lease_lost, 0, 0, lost_words, NULL},
        {"volumes", VL_CONF_LIST, &s->volumes, 0, 0, NULL, NULL, vl_route_check},
        {"local_dir", VL_CONF_STRING, &s->local_dir, 0, 0, NULL, NULL, absolute},
        {"sanlock_dir", VL_CONF_STRING, &s->sanlock_dir, 0, 0, NULL, NULL, absolute},
        {"sanlock_lockspace", VL_CONF_STRING, &s->sanlock_lockspace, 0, 0, NULL, NULL, absolute},
        {"sanlock_user", VL_CONF_STRING, &s->sanlock_user, 0, 0, NULL, NULL},
        {"sanlock_group", VL_CONF_STRING, &s->sanlock_group, 0, 0, NULL, NULL},
        {"sanlock_killpath", VL_CONF_STRING, &s->sanlock_killpath, 0, 0, NULL, NULL, absolute},
        {"sanlock_host_id", VL_CONF_UINT, &s->sanlock_host_id, 1, 2000, NULL, NULL},
        {"sanlock_io_timeout", VL_CONF_UINT, &s->sanlock_io_timeout, 1, 300, NULL, "seconds"},
        {"sanlock_sector_size", VL_CONF_UINT, &s->sanlock_sector_size, 0, 4096, NULL, "bytes"},
        {"sanlock_num_hosts", VL_CONF_UINT, &s->sanlock_num_hosts, 1, 2000, NULL, "hosts"},
        {"debug", VL_CONF_BOOL, &s->debug, 0, 0, NULL, NULL},
        {NULL, VL_CONF_STRING, NULL, 0, 0, NULL, NULL},
    };
    return vl_config_load(path, must_exist, keys, reason);
}

/* libvirtd must not give up before virtleased does: then a lease could be granted to nobody. Other
 * keys of the plugin's file are the plugin's business and only have to be known here. */
static gboolean
settings_check_plugin(const VlSettings *settings, GError **error)
{
    unsigned int timeout = PLUGIN_TIMEOUT_DEFAULT_S, connect_wait = 0;
    g_autofree char *socket = NULL;
    g_autofree char *reason = NULL;
    const struct vl_conf_key keys[] = {
        {"timeout", VL_CONF_UINT, &timeout, 0, UINT_MAX, NULL, "seconds"},
        {"connect_wait", VL_CONF_UINT, &connect_wait, 0, UINT_MAX, NULL, "seconds"},
        {"socket", VL_CONF_STRING, &socket, 0, 0, NULL, NULL},
        {NULL, VL_CONF_STRING, NULL, 0, 0, NULL, NULL},
    };
    if (vl_config_load(settings->plugin_conf, false, keys, &reason) < 0) {
        vl_set_error(error, VL_ERR_CONFIG, "%s", reason);
        return FALSE;
    }
    if (socket && !g_str_equal(socket, settings->socket)) {
        vl_set_error(error, VL_ERR_CONFIG,
                     "socket is \"%s\" here, but \"%s\" in %s: the plugin would never find this daemon",
                     settings->socket, socket, settings->plugin_conf);
        return FALSE;
    }
    if (timeout <= settings->takeover_wait + 5) {
        vl_set_error(error, VL_ERR_CONFIG,
                     "takeover_wait is %u s but the plugin gives up after %u s: set timeout in %s to at "
                     "least %u, or takeover_wait to at most %u",
                     settings->takeover_wait, timeout, settings->plugin_conf, settings->takeover_wait + 6,
                     timeout > 6 ? timeout - 6 : 0);
        return FALSE;
    }
    return TRUE;
}

VlSettings *
vl_settings_load(const char *path, gboolean must_exist, GError **error)
{
    g_autoptr(VlSettings) settings = settings_default();
    g_autofree char *reason = NULL;
    if (settings_read(settings, path, must_exist, &reason) < 0) {
        vl_set_error(error, VL_ERR_CONFIG, "%s", reason);
        return NULL;
    }
    if (settings->takeover_wait == UINT_MAX)
        settings->takeover_wait = settings->dead_after + TAKEOVER_WAIT_MARGIN_S;
    if (settings->takeover_watch == VL_WATCH_WAIT && settings->takeover_wait < WATCH_TIMEOUT_S + settings->dead_after) {
        vl_set_error(error, VL_ERR_CONFIG,
                     "%s: takeover_watch = \"wait\" needs a takeover_wait of at least %u: Ceph sees a dead client's "
                     "watch for %d s",
                     path, WATCH_TIMEOUT_S + settings->dead_after, WATCH_TIMEOUT_S);
        return NULL;
    }
    if (!settings_check_plugin(settings, error))
        return NULL;
    return g_steal_pointer(&settings);
}

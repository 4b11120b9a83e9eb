/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/host.h"

#include "lockd/error.h"
#include "lockd/procinfo.h"

VlHost *
vl_host_new(const VlSettings *settings, GError **error)
{
    g_autoptr(VlHost) host = g_new0(VlHost, 1);
    host->boot = vl_host_boot_id(error);
    if (!host->boot)
        return NULL;
    host->machine = vl_host_machine_id(error);
    if (!host->machine)
        return NULL;
    host->id = settings->host_id ? g_strdup(settings->host_id) : vl_host_uuid();
    if (!host->id)
        host->id = g_strdup(host->machine);
    if (!*host->id || strpbrk(host->id, "/ \t\n\"")) {
        vl_set_error(error, VL_ERR_CONFIG, "host_id \"%s\" is empty or has spaces, quotes or slashes", host->id);
        return NULL;
    }
    host->name = g_strdup(settings->host_name ? settings->host_name : g_get_host_name());
    host->ips = vl_host_ips();
    return g_steal_pointer(&host);
}

void
vl_host_free(VlHost *host)
{
    if (!host)
        return;
    g_free(host->id);
    g_free(host->machine);
    g_free(host->name);
    g_free(host->boot);
    g_clear_pointer(&host->ips, g_hash_table_unref);
    g_free(host);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_hosts.h"

typedef struct {
    VlSpaceHost host;
    guint64 timestamp; /* as its record last said */
} Entry;

struct VlSanlockHosts {
    GMutex lock;
    GHashTable *entries; /* guint64 host id -> Entry, boxed */
};

VlSanlockHosts *
vl_sanlock_hosts_new(void)
{
    VlSanlockHosts *hosts = g_new0(VlSanlockHosts, 1);
    g_mutex_init(&hosts->lock);
    hosts->entries = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    return hosts;
}

void
vl_sanlock_hosts_free(VlSanlockHosts *hosts)
{
    g_hash_table_unref(hosts->entries);
    g_mutex_clear(&hosts->lock);
    g_free(hosts);
}

static Entry *
entry_of(VlSanlockHosts *hosts, guint64 id, gboolean *ret_new)
{
    Entry *entry = g_hash_table_lookup(hosts->entries, &id);
    *ret_new = !entry;
    if (!entry) {
        guint64 *key = g_new(guint64, 1);
        *key = id;
        entry = g_new0(Entry, 1);
        g_hash_table_insert(hosts->entries, key, entry);
    }
    return entry;
}

static void
note_one(VlSanlockHosts *hosts, const VlSpaceSeen *seen, gint64 now)
{
    gboolean is_new;
    Entry *entry = entry_of(hosts, seen->id, &is_new);
    VlSpaceHost *host = &entry->host;
    if (is_new || host->generation != seen->generation || entry->timestamp != seen->timestamp) {
        host->renewing = !is_new && host->generation == seen->generation;
        host->changed = now;
        entry->timestamp = seen->timestamp;
    }
    host->generation = seen->generation;
    host->io_timeout = seen->io_timeout;
    host->life = seen->life;
    if (seen->name[0])
        g_strlcpy(host->name, seen->name, sizeof(host->name));
}

void
vl_sanlock_hosts_note(VlSanlockHosts *hosts, const VlSpaceSeen *seen, guint n)
{
    gint64 now = vl_clock_now();
    g_mutex_lock(&hosts->lock);
    for (guint i = 0; i < n; i++)
        note_one(hosts, &seen[i], now);
    g_mutex_unlock(&hosts->lock);
}

void
vl_sanlock_hosts_forget(VlSanlockHosts *hosts)
{
    g_mutex_lock(&hosts->lock);
    g_hash_table_remove_all(hosts->entries);
    g_mutex_unlock(&hosts->lock);
}

gboolean
vl_sanlock_hosts_get(VlSanlockHosts *hosts, guint64 host_id, VlSpaceHost *ret)
{
    g_mutex_lock(&hosts->lock);
    const Entry *entry = g_hash_table_lookup(hosts->entries, &host_id);
    if (entry)
        *ret = entry->host;
    g_mutex_unlock(&hosts->lock);
    return entry != NULL;
}

guint
vl_sanlock_hosts_alive(VlSanlockHosts *hosts)
{
    GHashTableIter iter;
    gpointer entry;
    guint n = 0;
    g_mutex_lock(&hosts->lock);
    g_hash_table_iter_init(&iter, hosts->entries);
    while (g_hash_table_iter_next(&iter, NULL, &entry))
        n += ((Entry *)entry)->host.life == VL_HOST_LIVE;
    g_mutex_unlock(&hosts->lock);
    return n;
}

char *
vl_sanlock_space_host_text(VlSanlockSpace *space, guint64 host_id)
{
    VlSpaceHost host = {0};
    (void)vl_sanlock_space_host(space, host_id, &host);
    return host.name[0] ? g_strdup_printf("host %" G_GUINT64_FORMAT " (%s)", host_id, host.name)
                        : g_strdup_printf("host %" G_GUINT64_FORMAT, host_id);
}

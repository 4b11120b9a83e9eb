/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The test side of the store in memory: what is in it, what goes wrong, what was done. */
#include "tests/unit/store_fake_priv.h"

#include <string.h>

/* ---- life ---- */

static void
place_free(gpointer data)
{
    VlPlace *place = data;
    g_free(place->key);
    g_free(place->display);
    g_free(place);
}

static void
volume_free(gpointer data)
{
    FakeVolume *volume = data;
    g_free(volume->name);
    g_clear_pointer(&volume->record, g_bytes_unref);
    g_ptr_array_unref(volume->watchers);
    vl_lock_owner_free(volume->owner);
    g_free(volume);
}

static void
host_free(gpointer data)
{
    FakeHost *host = data;
    g_clear_pointer(&host->identity, g_bytes_unref);
    g_hash_table_unref(host->index);
    g_free(host);
}

static void
fault_free(gpointer data)
{
    g_free(((Fault *)data)->name);
    g_free(data);
}

FakeStore *
fake_store_new(void)
{
    FakeStore *store = g_new0(FakeStore, 1);
    store->base.ops = &fake_ops;
    g_mutex_init(&store->lock);
    store->places = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, place_free);
    store->volumes = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, volume_free);
    store->hosts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, host_free);
    store->blocklist = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    store->faults = g_ptr_array_new_with_free_func(fault_free);
    store->log = g_ptr_array_new_with_free_func(g_free);
    store->own_address = g_strdup("10.0.0.1");
    return store;
}

void
fake_store_free(FakeStore *store)
{
    g_assert_cmpint(g_atomic_int_get(&store->volumes_out), ==, 0);
    g_hash_table_unref(store->volumes);
    g_hash_table_unref(store->hosts);
    g_hash_table_unref(store->blocklist);
    g_ptr_array_unref(store->faults);
    g_ptr_array_unref(store->log);
    g_hash_table_unref(store->places);
    g_free(store->own_address);
    g_mutex_clear(&store->lock);
    g_free(store);
}

VlStore *
fake_store_base(FakeStore *store)
{
    return &store->base;
}

static VlPlace *
place_locked(FakeStore *store, const char *name)
{
    VlPlace *place = g_hash_table_lookup(store->places, name);
    if (place)
        return place;
    place = g_new0(VlPlace, 1);
    place->store = &store->base;
    place->key = g_strconcat("fake:", name, NULL);
    place->display = g_strdup(name);
    g_hash_table_insert(store->places, place->display, place);
    return place;
}

VlPlace *
fake_place(FakeStore *store, const char *name)
{
    g_mutex_lock(&store->lock);
    VlPlace *place = place_locked(store, name);
    g_mutex_unlock(&store->lock);
    return place;
}

void
fake_set_own_address(FakeStore *store, const char *ip)
{
    g_mutex_lock(&store->lock);
    g_free(store->own_address);
    store->own_address = g_strdup(ip);
    g_mutex_unlock(&store->lock);
}

/* ---- volumes ---- */

FakeVolume *
fake_data_find(FakeStore *store, const char *name)
{
    return g_hash_table_lookup(store->volumes, name);
}

VlVolume *
fake_volume_locked(FakeStore *store, const char *place, const char *name, gboolean make)
{
    FakeVolume *data = fake_data_find(store, name);
    if (!data && !make)
        return NULL;
    if (!data) {
        data = g_new0(FakeVolume, 1);
        data->name = g_strdup(name);
        data->place = place_locked(store, place);
        data->watchers = vl_addrs_new();
        g_hash_table_insert(store->volumes, data->name, data);
    }
    VlVolume *volume = g_new0(VlVolume, 1);
    volume->refs = 1;
    volume->place = data->place;
    volume->key = g_strdup_printf("%s/%s", data->place->key, name);
    volume->display = g_strdup(name);
    g_atomic_int_inc(&store->volumes_out);
    return volume;
}

VlVolume *
fake_volume(FakeStore *store, VlPlace *place, const char *name)
{
    g_mutex_lock(&store->lock);
    VlVolume *volume = fake_volume_locked(store, place->display, name, TRUE);
    g_mutex_unlock(&store->lock);
    return volume;
}

/* For what a test does to one volume. */
static FakeVolume *
volume_begin(FakeStore *store, const char *name)
{
    g_mutex_lock(&store->lock);
    FakeVolume *data = fake_data_find(store, name);
    if (!data)
        g_error("no volume %s", name);
    return data;
}

static void
volume_end(FakeStore *store)
{
    g_mutex_unlock(&store->lock);
}

void
fake_volume_delete(FakeStore *store, const char *name)
{
    volume_begin(store, name)->deleted = TRUE;
    volume_end(store);
}

static void
put_bytes(FakeStore *store, const char *name, GBytes *bytes)
{
    FakeVolume *data = volume_begin(store, name);
    g_clear_pointer(&data->record, g_bytes_unref);
    data->record = bytes;
    volume_end(store);
}

void
fake_put(FakeStore *store, const char *name, VlRecord *record)
{
    put_bytes(store, name, record ? vl_record_format(record) : NULL);
    vl_record_free(record);
}

void
fake_put_text(FakeStore *store, const char *name, const char *text)
{
    put_bytes(store, name, g_bytes_new(text, strlen(text)));
}

VlRecord *
fake_get(FakeStore *store, const char *name)
{
    FakeVolume *data = volume_begin(store, name);
    VlRecord *record = data->record ? vl_record_parse(name, data->record, NULL) : NULL;
    volume_end(store);
    return record;
}

char *
fake_state_of(GBytes *bytes)
{
    g_autoptr(VlRecord) record = bytes ? vl_record_parse("x", bytes, NULL) : NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    if (!bytes)
        return g_strdup("-");
    if (!record)
        return g_strdup("?");
    for (guint i = 0; i < record->holders->len; i++) {
        const VlHolder *holder = record->holders->pdata[i];
        g_string_append_printf(text, "%s%s:%s", i ? "," : "", holder->vm, holder->held ? "held" : "parked");
    }
    if (!record->holders->len)
        g_string_append(text, "free");
    if (record->claim)
        g_string_append_printf(text, "+claim:%s", record->claim->host_name);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

char *
fake_state(FakeStore *store, const char *name)
{
    char *state = fake_state_of(volume_begin(store, name)->record);
    volume_end(store);
    return state;
}

void
fake_watch(FakeStore *store, const char *name, const char *addr)
{
    vl_addrs_add(volume_begin(store, name)->watchers, addr);
    volume_end(store);
}

void
fake_unwatch(FakeStore *store, const char *name, const char *addr)
{
    GPtrArray *watchers = volume_begin(store, name)->watchers;
    for (guint i = watchers->len; i > 0; i--)
        if (g_str_equal(watchers->pdata[i - 1], addr))
            g_ptr_array_remove_index(watchers, i - 1);
    volume_end(store);
}

static void
set_owner(FakeStore *store, const char *name, const char *addr, gboolean managed)
{
    FakeVolume *data = volume_begin(store, name);
    g_clear_pointer(&data->owner, vl_lock_owner_free);
    if (addr) {
        data->owner = g_new0(VlLockOwner, 1);
        data->owner->entity = g_strdup_printf("client.%u", 4000 + ++store->cookies);
        data->owner->cookie = g_strdup_printf("auto %u", 9000 + store->cookies);
        data->owner->addr = g_strdup(addr);
        data->owner->managed = managed;
    }
    volume_end(store);
}

void
fake_own(FakeStore *store, const char *name, const char *addr)
{
    set_owner(store, name, addr, TRUE);
}

void
fake_own_advisory(FakeStore *store, const char *name, const char *addr)
{
    set_owner(store, name, addr, FALSE);
}

char *
fake_owner(FakeStore *store, const char *name)
{
    FakeVolume *data = volume_begin(store, name);
    char *addr = data->owner ? g_strdup(data->owner->addr) : NULL;
    volume_end(store);
    return addr;
}

/* ---- blocklist ---- */

gint64
fake_blocklist_locked(FakeStore *store, const char *addr)
{
    gint64 *until = g_hash_table_lookup(store->blocklist, addr);
    return until ? *until : 0;
}

void
fake_blocklist_set_locked(FakeStore *store, const char *addr, gint64 until)
{
    if (until)
        g_hash_table_insert(store->blocklist, g_strdup(addr), g_memdup2(&until, sizeof(until)));
    else
        g_hash_table_remove(store->blocklist, addr);
}

void
fake_blocklist_put(FakeStore *store, const char *addr, gint64 until)
{
    g_mutex_lock(&store->lock);
    fake_blocklist_set_locked(store, addr, until);
    g_mutex_unlock(&store->lock);
}

gint64
fake_blocklist_get(FakeStore *store, const char *addr)
{
    g_mutex_lock(&store->lock);
    gint64 until = fake_blocklist_locked(store, addr);
    g_mutex_unlock(&store->lock);
    return until;
}

guint
fake_blocklist_size(FakeStore *store)
{
    g_mutex_lock(&store->lock);
    guint size = g_hash_table_size(store->blocklist);
    g_mutex_unlock(&store->lock);
    return size;
}

/* ---- hosts ---- */

FakeHost *
fake_host_find(FakeStore *store, VlPlace *place, const char *host)
{
    g_autofree char *key = g_strdup_printf("%s %s", place->display, host);
    return g_hash_table_lookup(store->hosts, key);
}

FakeHost *
fake_host_get_or_new(FakeStore *store, VlPlace *place, const char *name)
{
    FakeHost *host = fake_host_find(store, place, name);
    if (host)
        return host;
    host = g_new0(FakeHost, 1);
    host->index = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(store->hosts, g_strdup_printf("%s %s", place->display, name), host);
    return host;
}

GPtrArray *
fake_hosts_locked(FakeStore *store, VlPlace *place)
{
    GPtrArray *list = vl_addrs_new();
    g_autofree char *prefix = g_strconcat(place->display, " ", NULL);
    GHashTableIter iter;
    gpointer key, host;
    g_hash_table_iter_init(&iter, store->hosts);
    while (g_hash_table_iter_next(&iter, &key, &host))
        if (g_str_has_prefix(key, prefix) && ((FakeHost *)host)->identity)
            vl_addrs_add(list, (char *)key + strlen(prefix));
    return list;
}

/* For what a test does to one host. */
static FakeHost *
host_begin(FakeStore *store, VlPlace *place, const char *host)
{
    g_mutex_lock(&store->lock);
    return fake_host_get_or_new(store, place, host);
}

static void
host_end(FakeStore *store)
{
    g_mutex_unlock(&store->lock);
}

static void
host_put_bytes(FakeStore *store, VlPlace *place, const char *name, GBytes *bytes)
{
    FakeHost *host = host_begin(store, place, name);
    g_clear_pointer(&host->identity, g_bytes_unref);
    host->identity = bytes;
    host_end(store);
}

void
fake_host_put(FakeStore *store, VlPlace *place, const VlIdentity *identity)
{
    host_put_bytes(store, place, identity->host, vl_identity_format(identity));
}

void
fake_host_put_text(FakeStore *store, VlPlace *place, const char *host, const char *text)
{
    host_put_bytes(store, place, host, g_bytes_new(text, strlen(text)));
}

void
fake_host_delete(FakeStore *store, VlPlace *place, const char *host)
{
    host_put_bytes(store, place, host, NULL);
}

VlIdentity *
fake_host_get(FakeStore *store, VlPlace *place, const char *name)
{
    FakeHost *host = host_begin(store, place, name);
    VlIdentity *identity = host->identity ? vl_identity_parse(host->identity, NULL) : NULL;
    host_end(store);
    return identity;
}

guint64
fake_host_counter(FakeStore *store, VlPlace *place, const char *host)
{
    guint64 counter = host_begin(store, place, host)->counter;
    host_end(store);
    return counter;
}

void
fake_host_beat(FakeStore *store, VlPlace *place, const char *host)
{
    host_begin(store, place, host)->counter++;
    host_end(store);
}

void
fake_host_answer(FakeStore *store, VlPlace *place, const char *name, FakeAnswerFunc func, gpointer opaque)
{
    FakeHost *host = host_begin(store, place, name);
    host->answer[0] = func;
    host->answer_opaque[0] = opaque;
    host_end(store);
}

void
fake_host_answer_too(FakeStore *store, VlPlace *place, const char *name, FakeAnswerFunc func, gpointer opaque)
{
    FakeHost *host = host_begin(store, place, name);
    host->answer[1] = func;
    host->answer_opaque[1] = opaque;
    host_end(store);
}

gboolean
fake_host_watched(FakeStore *store, VlPlace *place, const char *name)
{
    FakeHost *host = host_begin(store, place, name);
    gboolean watched = host->func && !host->watch_broken;
    host_end(store);
    return watched;
}

void
fake_host_break_watch(FakeStore *store, VlPlace *place, const char *host)
{
    host_begin(store, place, host)->watch_broken = TRUE;
    host_end(store);
}

static int
compare_keys(gconstpointer a, gconstpointer b)
{
    return strcmp(a, b);
}

char *
fake_index(FakeStore *store, VlPlace *place, const char *name)
{
    FakeHost *host = host_begin(store, place, name);
    g_autoptr(GString) text = g_string_new(NULL);
    GList *keys = g_list_sort(g_hash_table_get_keys(host->index), compare_keys);
    for (GList *key = keys; key; key = key->next)
        g_string_append_printf(text, "%s%s", text->len ? "," : "", (char *)key->data);
    g_list_free(keys);
    host_end(store);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* ---- faults, hooks, counts, log ---- */

void
fake_fault(FakeStore *store, FakeOp op, const char *name, guint nth, guint times, FakeFault kind, enum vl_error code)
{
    Fault *fault = g_new0(Fault, 1);
    *fault = (Fault){op, g_strdup(name), nth, times, 0, kind, code};
    g_mutex_lock(&store->lock);
    g_ptr_array_add(store->faults, fault);
    g_mutex_unlock(&store->lock);
}

void
fake_faults_clear(FakeStore *store)
{
    g_mutex_lock(&store->lock);
    g_ptr_array_set_size(store->faults, 0);
    g_mutex_unlock(&store->lock);
}

void
fake_set_reconnect(FakeStore *store)
{
    g_mutex_lock(&store->lock);
    store->reconnect = TRUE;
    g_mutex_unlock(&store->lock);
}

void
fake_hook(FakeStore *store, FakeHook hook, gpointer opaque)
{
    g_mutex_lock(&store->lock);
    store->hook = hook;
    store->hook_opaque = opaque;
    g_mutex_unlock(&store->lock);
}

void
fake_set_sleep(FakeStore *store, void (*pass)(gint64 us, gpointer opaque), gpointer opaque)
{
    store->sleep = pass;
    store->sleep_opaque = opaque;
}

guint
fake_count(FakeStore *store, FakeOp op)
{
    g_mutex_lock(&store->lock);
    guint count = store->counts[op];
    g_mutex_unlock(&store->lock);
    return count;
}

guint
fake_round_trips(FakeStore *store)
{
    static const FakeOp ops[] = {FAKE_RESOLVE,   FAKE_LOOK,    FAKE_CAS,  FAKE_FENCE,
                                 FAKE_BLOCKLIST, FAKE_BARRIER, FAKE_BREAK};
    guint sum = 0;
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++)
        sum += fake_count(store, ops[i]);
    return sum;
}

void
fake_counts_reset(FakeStore *store)
{
    g_mutex_lock(&store->lock);
    memset(store->counts, 0, sizeof(store->counts));
    g_ptr_array_set_size(store->log, 0);
    g_mutex_unlock(&store->lock);
}

char *
fake_log(FakeStore *store)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_mutex_lock(&store->lock);
    for (guint i = 0; i < store->log->len; i++)
        g_string_append_printf(text, "%s\n", (char *)store->log->pdata[i]);
    g_mutex_unlock(&store->lock);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

void
fake_assert_order(FakeStore *store, ...)
{
    g_autofree char *text = fake_log(store);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    char **line = lines;
    va_list args;
    va_start(args, store);
    for (const char *want = va_arg(args, const char *); want; want = va_arg(args, const char *)) {
        while (*line && !g_str_has_prefix(*line, want))
            line++;
        if (!*line)
            g_error("'%s' is not in the log where it should be:\n%s", want, text);
        line++;
    }
    va_end(args);
}

void
fake_assert_never(FakeStore *store, const char *prefix)
{
    g_autofree char *text = fake_log(store);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++)
        if (g_str_has_prefix(*line, prefix))
            g_error("'%s' must not be in the log:\n%s", prefix, text);
}

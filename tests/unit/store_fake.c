/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The ops of the store in memory; its test side is store_fake_data.c. */
#include "tests/unit/store_fake_priv.h"

#include <string.h>

#include "lockd/error.h"

#define NO_NONCE "/0"

/* ---- faults, hooks, log ---- */

static void
begin(FakeStore *store, FakeOp op, const char *name)
{
    g_mutex_lock(&store->lock);
    store->counts[op]++;
    FakeHook hook = store->hook;
    gpointer opaque = store->hook_opaque;
    g_mutex_unlock(&store->lock);
    if (hook)
        hook(store, op, name, opaque);
    g_mutex_lock(&store->lock);
}

static void
end(FakeStore *store)
{
    g_mutex_unlock(&store->lock);
}

static void G_GNUC_PRINTF(3, 4) note(FakeStore *store, const GError *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *line = g_strdup_vprintf(format, args);
    va_end(args);
    if (error) {
        char *longer = g_strconcat(line, " !", vl_error_name(vl_error_code(error)), NULL);
        g_free(line);
        line = longer;
    }
    g_ptr_array_add(store->log, line);
}

/* Is it this element's turn to go wrong? */
static const Fault *
fault_for(FakeStore *store, FakeOp op, const char *name)
{
    for (guint i = 0; i < store->faults->len; i++) {
        Fault *fault = store->faults->pdata[i];
        if (fault->op != op || (fault->name && g_strcmp0(fault->name, name) != 0))
            continue;
        if (++fault->seen >= fault->nth && fault->seen < fault->nth + fault->times)
            return fault;
    }
    return NULL;
}

static gboolean
fails_before(const Fault *fault, const char *name, GError **error)
{
    if (!fault || fault->kind != FAKE_ERROR)
        return FALSE;
    vl_set_error(error, fault->code, "%s: made to fail", name ? name : "op");
    return TRUE;
}

static void
fails_after(const Fault *fault, const char *name, GError **error)
{
    if (fault && fault->kind == FAKE_LOST_ACK && !*error)
        vl_set_error(error, fault->code, "%s: no answer", name ? name : "op");
}

/* Ends an op with one result. */
static gboolean
finish(FakeStore *store, GError *local, GError **error)
{
    end(store);
    if (!local)
        return TRUE;
    g_propagate_error(error, local);
    return FALSE;
}

static FakeStore *
store_of(VlPlace *place)
{
    return (FakeStore *)place->store;
}

static FakeVolume *
data_of(VlVolume *volume)
{
    return fake_data_find(store_of(volume->place), volume->display);
}

/* ---- volumes ---- */

static VlVolume *
op_resolve(VlStore *base, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    FakeStore *store = (FakeStore *)base;
    VlVolume *volume = NULL;
    GError *local = NULL;
    begin(store, FAKE_RESOLVE, spec->image);
    if (!fails_before(fault_for(store, FAKE_RESOLVE, spec->image), spec->image, &local)) {
        volume = fake_volume_locked(store, spec->pool, spec->image, FALSE);
        if (!volume)
            vl_set_error(&local, VL_ERR_MISSING, "%s: no such image", spec->image);
    }
    note(store, local, "resolve %s", spec->image);
    (void)finish(store, local, error);
    return volume;
}

static void
op_volume_free(VlVolume *volume)
{
    g_atomic_int_add(&store_of(volume->place)->volumes_out, -1);
}

static VlVolume *
op_volume_from_key(VlPlace *place, const char *key, const char *display, GError **error)
{
    const char *name = strrchr(key, '/');
    FakeStore *store = store_of(place);
    g_mutex_lock(&store->lock);
    VlVolume *volume = name ? fake_volume_locked(store, place->display, name + 1, TRUE) : NULL;
    g_mutex_unlock(&store->lock);
    if (!volume)
        vl_set_error(error, VL_ERR_MISSING, "%s: no such volume", key);
    return volume;
}

static GPtrArray *
op_places(VlStore *base, gint64 deadline, GError **error)
{
    FakeStore *store = (FakeStore *)base;
    GError *local = NULL;
    GPtrArray *list = g_ptr_array_new();
    GHashTableIter iter;
    gpointer place;
    begin(store, FAKE_PLACES, NULL);
    g_hash_table_iter_init(&iter, store->places);
    while (g_hash_table_iter_next(&iter, NULL, &place))
        g_ptr_array_add(list, place);
    (void)fails_before(fault_for(store, FAKE_PLACES, NULL), NULL, &local);
    if (local)
        g_clear_pointer(&list, g_ptr_array_unref);
    (void)finish(store, local, error);
    return list;
}

static VlWatcher *
watcher_new(const char *addr, guint64 n)
{
    VlWatcher *watcher = g_new0(VlWatcher, 1);
    *watcher = (VlWatcher){g_strdup(addr), 4000 + n, 900 + n};
    return watcher;
}

static void
watcher_free(gpointer data)
{
    g_free(((VlWatcher *)data)->addr);
    g_free(data);
}

static void
look_one(FakeStore *store, VlLook *look, unsigned int what)
{
    const char *name = look->volume->display;
    FakeVolume *data = data_of(look->volume);
    if (!fails_before(fault_for(store, FAKE_LOOK, name), name, &look->error)) {
        if (!data || data->deleted)
            vl_set_error(&look->error, VL_ERR_MISSING, "%s: no such image", name);
        else if ((what & VL_LOOK_RECORD) && data->record)
            look->record = g_bytes_ref(data->record);
        if (!look->error && (what & VL_LOOK_WATCHERS)) {
            look->watchers = g_ptr_array_new_with_free_func(watcher_free);
            for (guint i = 0; i < data->watchers->len; i++)
                g_ptr_array_add(look->watchers, watcher_new(data->watchers->pdata[i], i));
        }
        if (!look->error && (what & VL_LOOK_OWNER)) {
            look->owner = vl_lock_owner_copy(data->owner);
            look->exclusive_lock_feature = TRUE;
        }
    }
    note(store, look->error, "look %s%s%s%s", name, what & VL_LOOK_RECORD ? " r" : "",
         what & VL_LOOK_WATCHERS ? " w" : "", what & VL_LOOK_OWNER ? " o" : "");
}

static bool
op_look(VlLook *looks, size_t n, unsigned int what, gint64 deadline)
{
    FakeStore *store = store_of(looks[0].volume->place);
    bool ok = true;
    begin(store, FAKE_LOOK, looks[0].volume->display);
    for (size_t i = 0; i < n; i++) {
        look_one(store, &looks[i], what);
        ok = ok && !looks[i].error;
    }
    end(store);
    return ok;
}

static gboolean
same_bytes(GBytes *a, GBytes *b)
{
    return a && b ? g_bytes_equal(a, b) : a == b;
}

static void
cas_one(FakeStore *store, VlCas *cas)
{
    const char *name = cas->volume->display;
    FakeVolume *data = data_of(cas->volume);
    const Fault *fault = fault_for(store, FAKE_CAS, name);
    if (!fails_before(fault, name, &cas->error)) {
        if (!data || data->deleted)
            vl_set_error(&cas->error, VL_ERR_MISSING, "%s: no such image", name);
        else if (!same_bytes(cas->expect, data->record))
            vl_set_error(&cas->error, VL_ERR_CHANGED, "%s: its lease record is another one", name);
        if (!cas->error) {
            g_clear_pointer(&data->record, g_bytes_unref);
            data->record = cas->replace ? g_bytes_ref(cas->replace) : NULL;
        }
        fails_after(fault, name, &cas->error);
    }
    g_autofree char *state = fake_state_of(cas->replace);
    note(store, cas->error, "cas %s %s", name, state);
}

static bool
op_cas(VlCas *cas, size_t n, gint64 deadline)
{
    FakeStore *store = store_of(cas[0].volume->place);
    bool ok = true;
    begin(store, FAKE_CAS, cas[0].volume->display);
    for (size_t i = 0; i < n; i++) {
        cas_one(store, &cas[i]);
        ok = ok && !cas[i].error;
    }
    end(store);
    return ok;
}

/* ---- fencing ---- */

/* As the monitors do it: an address that is listed keeps its time, and that is called success. */
static void
fence_one(FakeStore *store, VlFenceEntry *entry, guint64 expire)
{
    const Fault *fault = fault_for(store, FAKE_FENCE, entry->addr);
    if (!fails_before(fault, entry->addr, &entry->error)) {
        const char *slash = strrchr(entry->addr, '/');
        if (!slash || g_str_equal(slash, NO_NONCE)) {
            vl_set_error(&entry->error, VL_ERR_FENCE, "%s has no nonce: it would be the whole host", entry->addr);
        } else {
            if (!fake_blocklist_locked(store, entry->addr))
                fake_blocklist_set_locked(store, entry->addr, g_get_real_time() / G_USEC_PER_SEC + (gint64)expire);
            entry->until = fake_blocklist_locked(store, entry->addr);
        }
        fails_after(fault, entry->addr, &entry->error);
    }
    note(store, entry->error, "fence %s", entry->addr);
}

static bool
op_fence(VlPlace *place, VlFenceEntry *entries, size_t n, guint64 expire, gint64 deadline)
{
    FakeStore *store = store_of(place);
    bool ok = true;
    begin(store, FAKE_FENCE, entries[0].addr);
    for (size_t i = 0; i < n; i++) {
        fence_one(store, &entries[i], expire);
        ok = ok && !entries[i].error;
    }
    end(store);
    return ok;
}

static GHashTable *
op_blocklist(VlPlace *place, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_BLOCKLIST, NULL);
    GHashTable *list = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTableIter iter;
    gpointer addr, until;
    g_hash_table_iter_init(&iter, store->blocklist);
    while (g_hash_table_iter_next(&iter, &addr, &until))
        g_hash_table_insert(list, g_strdup(addr), g_memdup2(until, sizeof(gint64)));
    if (fails_before(fault_for(store, FAKE_BLOCKLIST, NULL), NULL, &local))
        g_clear_pointer(&list, g_hash_table_unref);
    note(store, local, "blocklist");
    (void)finish(store, local, error);
    return list;
}

static bool
op_barrier(VlPlace *place, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_BARRIER, place->display);
    (void)fails_before(fault_for(store, FAKE_BARRIER, place->display), place->display, &local);
    note(store, local, "barrier %s", place->display);
    return finish(store, local, error);
}

static bool
op_break_lock(VlVolume *volume, const VlLockOwner *owner, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(volume->place);
    GError *local = NULL;
    begin(store, FAKE_BREAK, volume->display);
    FakeVolume *data = data_of(volume);
    const Fault *fault = fault_for(store, FAKE_BREAK, volume->display);
    if (!fails_before(fault, volume->display, &local)) {
        if (data->owner && g_str_equal(data->owner->addr, owner->addr) &&
            g_str_equal(data->owner->cookie, owner->cookie))
            g_clear_pointer(&data->owner, vl_lock_owner_free);
        fails_after(fault, volume->display, &local);
    }
    note(store, local, "break %s %s", volume->display, owner->addr);
    return finish(store, local, error);
}

/* ---- sessions ---- */

static gboolean
is_own(FakeHost *host)
{
    return host && host->func != NULL;
}

static void
note_host(FakeStore *store, FakeHost *host, const GError *error, const char *verb, const char *name)
{
    if (!is_own(host))
        note(store, error, "%s %s", verb, name);
}

static bool
op_session_read(VlPlace *place, const char *name, VlSessionObject *ret, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_READ, name);
    FakeHost *host = fake_host_find(store, place, name);
    memset(ret, 0, sizeof(*ret));
    if (!fails_before(fault_for(store, FAKE_READ, name), name, &local) && host && host->identity) {
        ret->present = TRUE;
        ret->identity = g_bytes_ref(host->identity);
        ret->counter = host->counter;
    }
    note_host(store, host, local, "read", name);
    return finish(store, local, error);
}

/* What create, swap and renew share: `expect` against what is there. */
static bool
session_write(VlPlace *place, FakeOp op, const char *name, GBytes *expect, GBytes *identity, const guint64 *counter,
              GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, op, name);
    FakeHost *host = fake_host_get_or_new(store, place, name);
    const Fault *fault = fault_for(store, op, name);
    if (!fails_before(fault, name, &local)) {
        if (op == FAKE_RENEW && !host->identity)
            vl_set_error(&local, VL_ERR_MISSING, "session object of %s is gone", name);
        else if (!same_bytes(expect, host->identity))
            vl_set_error(&local, VL_ERR_CHANGED, "session object of %s is another one", name);
        if (!local && identity) {
            g_clear_pointer(&host->identity, g_bytes_unref);
            host->identity = g_bytes_ref(identity);
            host->counter = op == FAKE_CREATE ? 0 : host->counter;
        }
        if (!local && counter)
            host->counter = *counter;
        fails_after(fault, name, &local);
    }
    static const char *const verbs[FAKE_OP_COUNT] = {
        [FAKE_CREATE] = "create", [FAKE_SWAP] = "swap", [FAKE_RENEW] = "renew"};
    if (op != FAKE_RENEW)
        note_host(store, host, local, verbs[op], name);
    return finish(store, local, error);
}

static bool
op_session_create(VlPlace *place, const char *host, GBytes *identity, gint64 deadline, GError **error)
{
    return session_write(place, FAKE_CREATE, host, NULL, identity, NULL, error);
}

static bool
op_session_swap(VlPlace *place, const char *host, GBytes *expect, GBytes *identity, gint64 deadline, GError **error)
{
    return session_write(place, FAKE_SWAP, host, expect, identity, NULL, error);
}

static bool
op_session_renew(VlPlace *place, const char *host, GBytes *expect, guint64 counter, gint64 deadline, GError **error)
{
    return session_write(place, FAKE_RENEW, host, expect, NULL, &counter, error);
}

static GPtrArray *
op_session_list(VlPlace *place, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_LIST, place->display);
    GPtrArray *list = fake_hosts_locked(store, place);
    if (fails_before(fault_for(store, FAKE_LIST, place->display), place->display, &local))
        g_clear_pointer(&list, g_ptr_array_unref);
    note(store, local, "list %s", place->display);
    (void)finish(store, local, error);
    return list;
}

static bool
op_session_watch(VlPlace *place, const char *name, VlChallengeFunc func, gpointer opaque, gint64 deadline,
                 GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_WATCH, name);
    FakeHost *host = fake_host_get_or_new(store, place, name);
    if (!fails_before(fault_for(store, FAKE_WATCH, name), name, &local)) {
        host->func = func;
        host->func_opaque = opaque;
        host->watch_broken = FALSE;
    }
    return finish(store, local, error);
}

static bool
op_session_watch_ok(VlPlace *place, const char *name)
{
    FakeStore *store = store_of(place);
    g_mutex_lock(&store->lock);
    FakeHost *host = fake_host_find(store, place, name);
    bool ok = is_own(host) && !host->watch_broken;
    g_mutex_unlock(&store->lock);
    return ok;
}

static void
op_session_unwatch(VlPlace *place, const char *name)
{
    FakeStore *store = store_of(place);
    g_mutex_lock(&store->lock);
    FakeHost *host = fake_host_find(store, place, name);
    if (host)
        host->func = NULL;
    g_mutex_unlock(&store->lock);
}

/* Asks without the lock, as a real notify does. */
static bool
op_challenge(VlPlace *place, const char *name, GBytes *payload, guint timeout_s, VlChallengeResult *ret, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_CHALLENGE, name);
    FakeHost *host = fake_host_find(store, place, name);
    gboolean failed = fails_before(fault_for(store, FAKE_CHALLENGE, name), name, &local);
    note_host(store, host, local, "challenge", name);
    FakeHost asked = host ? *host : (FakeHost){0};
    void (*pass)(gint64, gpointer) = store->sleep;
    end(store);
    ret->acks = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    for (guint i = 0; i < G_N_ELEMENTS(asked.answer) && !failed; i++) {
        GBytes *ack = asked.answer[i] ? asked.answer[i](place, name, payload, asked.answer_opaque[i]) : NULL;
        ret->anybody = ret->anybody || asked.answer[i];
        if (ack)
            g_ptr_array_add(ret->acks, ack);
    }
    if (!failed && asked.func && !asked.watch_broken) {
        GBytes *ack = asked.func(place, payload, asked.func_opaque);
        ret->anybody = TRUE;
        if (ack)
            g_ptr_array_add(ret->acks, ack);
    }
    if (ret->anybody && !ret->acks->len && pass)
        pass((gint64)timeout_s * G_USEC_PER_SEC, store->sleep_opaque);
    if (local)
        g_propagate_error(error, local);
    return !local;
}

/* ---- index ---- */

static bool
op_index_set(VlPlace *place, const char *name, GHashTable *entries, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    GHashTableIter iter;
    gpointer key, text;
    begin(store, FAKE_INDEX_SET, name);
    FakeHost *host = fake_host_get_or_new(store, place, name);
    gboolean failed = fails_before(fault_for(store, FAKE_INDEX_SET, name), name, &local);
    g_hash_table_iter_init(&iter, entries);
    while (g_hash_table_iter_next(&iter, &key, &text)) {
        if (!failed)
            g_hash_table_insert(host->index, g_strdup(key), g_strdup(text));
        note(store, local, "index+ %s", (char *)key);
    }
    return finish(store, local, error);
}

static bool
op_index_del(VlPlace *place, const char *name, GPtrArray *keys, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_INDEX_DEL, name);
    FakeHost *host = fake_host_get_or_new(store, place, name);
    gboolean failed = fails_before(fault_for(store, FAKE_INDEX_DEL, name), name, &local);
    for (guint i = 0; i < keys->len; i++) {
        if (!failed)
            g_hash_table_remove(host->index, keys->pdata[i]);
        note(store, local, "index- %s", (char *)keys->pdata[i]);
    }
    return finish(store, local, error);
}

static GHashTable *
op_index_list(VlPlace *place, const char *name, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    GHashTableIter iter;
    gpointer key, text;
    begin(store, FAKE_INDEX_LIST, name);
    FakeHost *host = fake_host_get_or_new(store, place, name);
    GHashTable *list = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_iter_init(&iter, host->index);
    while (g_hash_table_iter_next(&iter, &key, &text))
        g_hash_table_insert(list, g_strdup(key), g_strdup(text));
    if (fails_before(fault_for(store, FAKE_INDEX_LIST, name), name, &local))
        g_clear_pointer(&list, g_hash_table_unref);
    (void)finish(store, local, error);
    return list;
}

static bool
op_recover(VlPlace *place, gboolean *ret_reconnected, gint64 deadline, GError **error)
{
    FakeStore *store = store_of(place);
    GError *local = NULL;
    begin(store, FAKE_RECOVER, place->display);
    (void)fails_before(fault_for(store, FAKE_RECOVER, place->display), place->display, &local);
    *ret_reconnected = !local && store->reconnect;
    store->reconnect = FALSE;
    return finish(store, local, error);
}

static char *
op_own_address(VlPlace *place)
{
    FakeStore *store = store_of(place);
    g_mutex_lock(&store->lock);
    char *address = g_strdup(store->own_address);
    g_mutex_unlock(&store->lock);
    return address;
}

static void
op_free(VlStore *store)
{
    fake_store_free((FakeStore *)store);
}

const VlStoreOps fake_ops = {
    .name = "fake",
    .resolve = op_resolve,
    .volume_free = op_volume_free,
    .volume_from_key = op_volume_from_key,
    .places = op_places,
    .look = op_look,
    .cas = op_cas,
    .fence = op_fence,
    .blocklist = op_blocklist,
    .barrier = op_barrier,
    .break_lock = op_break_lock,
    .session_read = op_session_read,
    .session_create = op_session_create,
    .session_swap = op_session_swap,
    .session_renew = op_session_renew,
    .session_list = op_session_list,
    .session_watch = op_session_watch,
    .session_watch_ok = op_session_watch_ok,
    .session_unwatch = op_session_unwatch,
    .challenge = op_challenge,
    .index_set = op_index_set,
    .index_del = op_index_del,
    .index_list = op_index_list,
    .recover = op_recover,
    .own_address = op_own_address,
    .free = op_free,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The RBD store on a live cluster: sessions, challenges, and our own client blocklisted. */
#include "ceph-rig.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* Only to find the address of the store's own client. */
#include "lockd/store_rbd_priv.h"

static Rig *rig;
#define OPS (rig->store->ops)

static GBytes *
text(const char *s)
{
    return g_bytes_new(s, strlen(s));
}

static VlVolume *
try_resolve(VlStore *store, const char *pool, const char *ns, const char *image, GError **error)
{
    struct vl_volume_spec spec = {
        .kind = VL_VOLUME_RBD, .pool = (char *)pool, .ns = (char *)ns, .image = (char *)image};
    return store->ops->resolve(store, &spec, rig_in(5000), error);
}

static VlPlace *
place(void)
{
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    return volume->place;
}

static void
test_session(void)
{
    GError *error = NULL;
    VlPlace *p = place();
    VlSessionObject object = {0};
    g_autoptr(GBytes) a = text("{\"host\":\"a\"}");
    g_autoptr(GBytes) b = text("{\"host\":\"b\"}");
    g_assert_true(OPS->session_read(p, "h1", &object, rig_in(5000), &error));
    g_assert_false(object.present);
    g_assert_false(OPS->session_renew(p, "h1", a, 1, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_MISSING, "h1");
    g_assert_false(OPS->session_swap(p, "h1", a, b, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_MISSING, "h1");
    g_assert_false(OPS->session_watch(p, "h1", NULL, NULL, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_MISSING, "h1");

    g_assert_true(OPS->session_create(p, "h1", a, rig_in(5000), &error));
    g_assert_false(OPS->session_create(p, "h1", b, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_CHANGED, "h1");
    g_assert_true(OPS->session_renew(p, "h1", a, G_MAXUINT64, rig_in(5000), &error));
    g_assert_true(OPS->session_read(p, "h1", &object, rig_in(5000), &error));
    g_assert_true(object.present && g_bytes_equal(object.identity, a));
    g_assert_cmpuint(object.counter, ==, G_MAXUINT64);
    vl_session_object_clear(&object);

    /* Stolen: the old identity may do nothing any more. */
    g_assert_true(OPS->session_swap(p, "h1", a, b, rig_in(5000), &error));
    g_assert_false(OPS->session_renew(p, "h1", a, 7, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_CHANGED, "h1");
    g_assert_false(OPS->session_swap(p, "h1", a, a, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_CHANGED, "h1");
    g_assert_true(OPS->session_renew(p, "h1", b, 8, rig_in(5000), &error));
    g_assert_true(OPS->session_read(p, "h1", &object, rig_in(5000), &error));
    g_assert_cmpuint(object.counter, ==, 8);
    vl_session_object_clear(&object);

    g_assert_true(OPS->session_create(p, "h2", a, rig_in(5000), &error));
    g_autoptr(GPtrArray) hosts = OPS->session_list(p, rig_in(5000), &error);
    g_assert_no_error(error);
    g_assert_cmpint(hosts->len, ==, 2);
    g_assert_true(g_ptr_array_find_with_equal_func(hosts, "h1", g_str_equal, NULL));
    g_autoptr(GPtrArray) places = OPS->places(rig->store, rig_in(5000), &error);
    g_assert_no_error(error);
    g_assert_true(g_ptr_array_find(places, p, NULL));
}

static void
test_index(void)
{
    GError *error = NULL;
    VlPlace *p = place();
    g_autoptr(GBytes) a = text("a");
    g_autoptr(GHashTable) entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GPtrArray) gone = g_ptr_array_new();
    g_hash_table_insert(entries, g_strdup("k"), g_strdup("v"));
    g_assert_false(OPS->index_set(p, "hi", entries, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_MISSING, "hi");
    g_assert_true(OPS->session_create(p, "hi", a, rig_in(5000), &error));
    /* More than an OSD returns at once. */
    for (int i = 0; i < 2500; i++)
        g_hash_table_insert(entries, g_strdup_printf("key-%d", i), g_strdup_printf("{\"vm\":%d}", i));
    g_assert_true(OPS->index_set(p, "hi", entries, rig_in(5000), &error));
    GHashTable *list = OPS->index_list(p, "hi", rig_in(5000), &error);
    g_assert_no_error(error);
    g_assert_cmpint(g_hash_table_size(list), ==, 2501);
    g_assert_cmpstr(g_hash_table_lookup(list, "key-17"), ==, "{\"vm\":17}");
    g_hash_table_unref(list);
    g_ptr_array_add(gone, (char *)"key-17");
    g_ptr_array_add(gone, (char *)"never-there");
    g_assert_true(OPS->index_del(p, "hi", gone, rig_in(5000), &error));
    list = OPS->index_list(p, "hi", rig_in(5000), &error);
    g_assert_cmpint(g_hash_table_size(list), ==, 2500);
    g_hash_table_unref(list);
    list = OPS->index_list(p, "nobody", rig_in(5000), &error);
    g_assert_cmpint(g_hash_table_size(list), ==, 0);
    g_hash_table_unref(list);
}

static GBytes *
answer(VlPlace *p, GBytes *payload, gpointer opaque)
{
    if (!opaque)
        return NULL;
    g_autofree char *reply = g_strdup_printf("%s:%.*s", (char *)opaque, (int)g_bytes_get_size(payload),
                                             (const char *)g_bytes_get_data(payload, NULL));
    return text(reply);
}

static void
challenge(VlPlace *p, gboolean anybody, guint acks)
{
    GError *error = NULL;
    VlChallengeResult result = {0};
    g_autoptr(GBytes) payload = text("there?");
    gint64 start = g_get_monotonic_time();
    g_assert_true(OPS->challenge(p, "hw", payload, 1, &result, &error));
    g_test_message("challenge with %u acks: %d us", acks, (int)(g_get_monotonic_time() - start));
    g_assert_no_error(error);
    g_assert_cmpint(result.anybody, ==, anybody);
    g_assert_cmpint(result.acks->len, ==, acks);
    for (guint i = 0; i < acks; i++)
        g_assert_nonnull(g_strstr_len(g_bytes_get_data(result.acks->pdata[i], NULL),
                                      (gssize)g_bytes_get_size(result.acks->pdata[i]), ":there?"));
    vl_challenge_result_clear(&result);
}

static void
test_challenge(void)
{
    GError *error = NULL;
    VlPlace *p = place();
    g_autoptr(GBytes) a = text("a");
    challenge(p, FALSE, 0); /* no object */
    g_assert_true(OPS->session_create(p, "hw", a, rig_in(5000), &error));
    challenge(p, FALSE, 0); /* no watcher */
    g_assert_false(OPS->session_watch_ok(p, "hw"));
    g_assert_true(OPS->session_watch(p, "hw", answer, (gpointer) "one", rig_in(5000), &error));
    g_assert_true(OPS->session_watch_ok(p, "hw"));
    challenge(p, TRUE, 1);

    VlStore *second = rig_store(rig, RIG_USER, 5);
    VlVolume *volume = try_resolve(second, rig->pool, "", "img", &error);
    g_assert_no_error(error);
    g_assert_true(second->ops->session_watch(volume->place, "hw", answer, (gpointer) "two", rig_in(5000), &error));
    challenge(p, TRUE, 2);
    /* One answers, one does not: the answer must not be lost with the timeout. */
    g_assert_true(second->ops->session_watch(volume->place, "hw", answer, NULL, rig_in(5000), &error));
    challenge(p, TRUE, 1);
    OPS->session_unwatch(p, "hw");
    g_assert_false(OPS->session_watch_ok(p, "hw"));
    challenge(p, TRUE, 0);
    vl_volume_unref(volume);
    second->ops->free(second);
}

static gint challenges_running = 1;

static gpointer
challenge_on(gpointer data)
{
    g_autoptr(GBytes) payload = text("x");
    while (g_atomic_int_get(&challenges_running)) {
        VlChallengeResult result = {0};
        g_autoptr(GError) error = NULL;
        OPS->challenge(data, "hr", payload, 1, &result, &error);
        vl_challenge_result_clear(&result);
    }
    return NULL;
}

static GBytes *
answer_checked(VlPlace *p, GBytes *payload, gpointer opaque)
{
    /* What opaque points to is freed right after the unwatch. */
    g_assert_cmpint(*(int *)opaque, ==, 4711);
    return g_bytes_ref(payload);
}

static void
test_unwatch_race(void)
{
    GError *error = NULL;
    VlPlace *p = place();
    g_autoptr(GBytes) a = text("a");
    g_assert_true(OPS->session_create(p, "hr", a, rig_in(5000), &error));
    GThread *thread = g_thread_new("challenger", challenge_on, p);
    for (int i = 0; i < 100; i++) {
        int *opaque = g_new(int, 1);
        *opaque = 4711;
        g_assert_true(OPS->session_watch(p, "hr", answer_checked, opaque, rig_in(5000), &error));
        g_usleep(1000);
        OPS->session_unwatch(p, "hr");
        *opaque = 0;
        g_free(opaque);
    }
    g_atomic_int_set(&challenges_running, 0);
    g_thread_join(thread);
}

static void
unfence(const char *addr)
{
    g_free(rig_mon(rig, "{\"prefix\": \"osd blocklist\", \"blocklistop\": \"rm\", \"addr\": \"%s\"}", addr));
}

/* --- our own client --- */

static char *
own_client(VlPlace *p)
{
    char *addrs;
    g_assert_cmpint(rados_getaddrs(srbd_place(p)->io->conn->rados, &addrs), ==, 0);
    char *plain = srbd_address_plain(addrs);
    free(addrs);
    return plain;
}

static void
ban_own_client(VlPlace *p)
{
    g_autofree char *addr = own_client(p);
    VlFenceEntry entry = {.addr = addr};
    g_assert_true(OPS->fence(p, &entry, 1, 600, rig_in(5000)));
    g_autofree char *ip = OPS->own_address(p);
    g_assert_true(g_str_has_prefix(addr, ip) && addr[strlen(ip)] == ':');
}

static void
start_session(VlPlace *p, const char *host)
{
    GError *error = NULL;
    g_autoptr(GBytes) id = text("id");
    g_assert_true(OPS->session_create(p, host, id, rig_in(5000), &error));
    g_assert_true(OPS->session_watch(p, host, answer, (gpointer) "me", rig_in(5000), &error));
    g_assert_true(OPS->session_watch_ok(p, host));
}

static void
recover(VlPlace *p, gboolean reconnected)
{
    GError *error = NULL;
    gboolean got = !reconnected;
    gint64 start = g_get_monotonic_time();
    OPS->recover(p, &got, rig_in(5000), &error);
    g_assert_no_error(error);
    g_assert_cmpint(got, ==, reconnected);
    g_test_message("recover, %s: %d us", reconnected ? "new client" : "same client",
                   (int)(g_get_monotonic_time() - start));
}

static void
test_recover(void)
{
    GError *error = NULL;
    g_autoptr(GBytes) id = text("id");
    g_assert_cmpint(rbd_namespace_create(rig->io, "second"), ==, 0);
    rig_create_image(rig, "second", "img");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    g_autoptr(VlVolume) in_second = rig_resolve(rig, "second", "img");
    VlPlace *a = volume->place;
    VlPlace *b = in_second->place;
    start_session(a, "ra");
    start_session(b, "rb");
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    vl_look_clear(&look);
    recover(a, FALSE);

    ban_own_client(a);
    g_assert_false(OPS->session_renew(a, "ra", id, 1, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_STORAGE, "blocklisted");
    g_assert_false(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    rig_expect(&look.error, VL_ERR_STORAGE, "blocklisted");
    recover(a, TRUE);
    recover(a, FALSE);
    g_assert_true(OPS->session_renew(a, "ra", id, 2, rig_in(5000), &error));
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    g_assert_cmpint(look.watchers->len, ==, 0);
    vl_look_clear(&look);
    g_assert_false(OPS->session_watch_ok(a, "ra"));
    g_assert_true(OPS->session_watch(a, "ra", answer, (gpointer) "me", rig_in(5000), &error));
    g_assert_true(OPS->session_watch_ok(a, "ra"));

    /* The other place's session has to notice for itself. */
    g_assert_false(OPS->session_renew(b, "rb", id, 1, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_STORAGE, "blocklisted");
    recover(b, TRUE);
    g_assert_true(srbd_place(a)->io->conn == srbd_place(b)->io->conn);
    g_assert_true(OPS->session_watch(b, "rb", answer, (gpointer) "me", rig_in(5000), &error));
    g_assert_true(OPS->session_renew(b, "rb", id, 2, rig_in(5000), &error));
    OPS->session_unwatch(a, "ra");
    OPS->session_unwatch(b, "rb");
}

/* Without any session to notice it, the next resolve does. */
static void
test_resolve_recovers(void)
{
    VlPlace *p = place();
    ban_own_client(p);
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    g_assert_true(volume->place == p);
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    vl_look_clear(&look);
}

static void
test_whole_host_banned(void)
{
    GError *error = NULL;
    gboolean reconnected = FALSE;
    VlPlace *p = place();
    g_autofree char *ip = OPS->own_address(p);
    g_autofree char *addr = g_strconcat(ip, ":0/0", NULL);
    g_free(rig_mon(rig,
                   "{\"prefix\": \"osd blocklist\", \"blocklistop\": \"add\", \"addr\": \"%s\", "
                   "\"expire\": 600.0}",
                   addr));
    bool ok = OPS->recover(p, &reconnected, rig_in(5000), &error);
    unfence(addr);
    g_assert_false(ok);
    rig_expect(&error, VL_ERR_STORAGE, "whole host");
    OPS->recover(p, &reconnected, rig_in(5000), &error);
    g_assert_no_error(error);
    rados_wait_for_latest_osdmap(rig->admin);
}

int
main(int argc, char **argv)
{
    /* A decimal comma and translated errors must change nothing that is sent. */
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    rig = rig_new();
    rig_create_image(rig, "", "img");
    g_test_add_func("/rbd/session", test_session);
    g_test_add_func("/rbd/index", test_index);
    g_test_add_func("/rbd/challenge", test_challenge);
    g_test_add_func("/rbd/unwatch-race", test_unwatch_race);
    g_test_add_func("/rbd/recover", test_recover);
    g_test_add_func("/rbd/resolve-recovers", test_resolve_recovers);
    g_test_add_func("/rbd/whole-host-banned", test_whole_host_banned);
    int rc = g_test_run();
    rig_free(rig);
    return rc;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The RBD store on a live cluster: resolving, looking, compare-and-swap. */
#include "ceph-rig.h"

#include <arpa/inet.h>
#include <glib/gstdio.h>
#include <locale.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

/* --- resolve --- */

static void
test_resolve(void)
{
    rig_create_image(rig, "", "res");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "res");
    g_autoptr(VlVolume) again = rig_resolve(rig, "", "res");
    g_assert_cmpstr(volume->key, ==, again->key);
    g_assert_true(volume->place == again->place);
    g_assert_true(g_str_has_prefix(volume->key, volume->place->key));
    g_autofree char *display = g_strdup_printf("rbd:%s/res", rig->pool);
    g_assert_cmpstr(volume->display, ==, display);

    /* A rename keeps the identity; the same name created anew is another volume. */
    g_assert_cmpint(rbd_rename(rig->io, "res", "res2"), ==, 0);
    g_autoptr(VlVolume) renamed = rig_resolve(rig, "", "res2");
    g_assert_cmpstr(renamed->key, ==, volume->key);
    rig_create_image(rig, "", "res");
    g_autoptr(VlVolume) other = rig_resolve(rig, "", "res");
    g_assert_cmpstr(other->key, !=, volume->key);

    GError *error = NULL;
    g_autoptr(VlVolume) back = OPS->volume_from_key(volume->place, volume->key, "name", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(back->key, ==, volume->key);
    g_assert_null(OPS->volume_from_key(volume->place, "rbd:x/1//2", "name", &error));
    rig_expect(&error, VL_ERR_INTERNAL, "rbd:x/1//2");
}

static void
test_resolve_namespace(void)
{
    g_assert_cmpint(rbd_namespace_create(rig->io, "team-a"), ==, 0);
    rig_create_image(rig, "team-a", "nsimg");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "team-a", "nsimg");
    g_assert_nonnull(strstr(volume->place->key, "/team-a"));
    g_assert_nonnull(strstr(volume->place->display, "namespace team-a"));
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    vl_look_clear(&look);
}

static void
test_resolve_missing(void)
{
    GError *error = NULL;
    g_assert_null(try_resolve(rig->store, "no-such-pool", "", "x", &error));
    rig_expect(&error, VL_ERR_MISSING, "no-such-pool");
    g_assert_null(try_resolve(rig->store, rig->pool, "", "no-such-image", &error));
    rig_expect(&error, VL_ERR_MISSING, "no-such-image");
    g_assert_null(try_resolve(rig->store, rig->pool, "no-such-ns", "img", &error));
    rig_expect(&error, VL_ERR_MISSING, "no-such-ns");
    g_assert_cmpint(rados_write_full(rig->io, "old.rbd", "x", 1), ==, 0);
    g_assert_null(try_resolve(rig->store, rig->pool, "", "old", &error));
    rig_expect(&error, VL_ERR_MISSING, "format 1");
}

/* A pool created again under its name has another id, and our client's map may be old. */
static void
test_resolve_pool_created_again(void)
{
    g_autofree char *pool = g_strconcat(rig->pool, "-again", NULL);
    VlStore *store = rig_store(rig, "admin", 5);
    VlVolume *volumes[2];
    g_free(rig_mon(rig, "{\"prefix\": \"config set\", \"who\": \"mon\", \"name\": \"mon_allow_pool_delete\", "
                        "\"value\": \"true\"}"));
    for (int i = 0; i < 2; i++) {
        GError *error = NULL;
        rados_ioctx_t io;
        int order = 0;
        rig_create_pool(rig, pool);
        g_assert_cmpint(rados_ioctx_create(rig->admin, pool, &io), ==, 0);
        g_assert_cmpint(rbd_create2(io, "img", 1 << 20, 1 | 4, &order), ==, 0);
        rados_ioctx_destroy(io);
        volumes[i] = try_resolve(store, pool, "", "img", &error);
        g_assert_no_error(error);
        g_free(rig_mon(rig,
                       "{\"prefix\": \"osd pool delete\", \"pool\": \"%s\", \"pool2\": \"%s\", "
                       "\"yes_i_really_really_mean_it\": true}",
                       pool, pool));
    }
    g_assert_true(volumes[0]->place != volumes[1]->place);
    for (int i = 0; i < 2; i++) {
        VlLook look = {.volume = volumes[i]};
        g_assert_false(store->ops->look(&look, 1, VL_LOOK_ALL, rig_in(6000)));
        rig_expect(&look.error, VL_ERR_MISSING, "img");
        vl_volume_unref(volumes[i]);
    }
    store->ops->free(store);
}

static void
test_resolve_denied(void)
{
    GError *error = NULL;
    VlStore *poor = rig_store(rig, RIG_USER_POOR, 5);
    g_assert_null(try_resolve(poor, rig->pool, "", "img", &error));
    rig_expect(&error, VL_ERR_DENIED, "client." RIG_USER_POOR);
    poor->ops->free(poor);

    VlStore *keyless = rig_store(rig, "vltest-nobody", 5);
    g_assert_null(try_resolve(keyless, rig->pool, "", "img", &error));
    rig_expect(&error, VL_ERR_DENIED, "client.vltest-nobody");
    keyless->ops->free(keyless);

    g_autofree char *path = g_build_filename(rig->dir, "wrong", NULL);
    g_autofree char *conf = g_build_filename(rig->dir, "wrong.conf", NULL);
    g_autofree char *old = NULL;
    g_assert_true(
        g_file_set_contents(path, "[client.vltest]\nkey = AQBkJ0FmAAAAABAAqUNrMuDWHJJHKkNSyqvQ3A==\n", -1, NULL));
    g_assert_true(g_file_get_contents(rig->conf, &old, NULL, NULL));
    g_autofree char *with = g_strdup_printf("%s\n[client.vltest]\nkeyring = %s\n", old, path);
    g_assert_true(g_file_set_contents(conf, with, -1, NULL));
    struct vl_volume_spec spec = {
        .kind = VL_VOLUME_RBD, .pool = rig->pool, .ns = (char *)"", .image = (char *)"img", .conf = conf};
    VlStore *wrong = rig_store(rig, RIG_USER, 5);
    g_assert_null(wrong->ops->resolve(wrong, &spec, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_DENIED, "wrong.conf");
    wrong->ops->free(wrong);
}

static void
test_resolve_spellings(void)
{
    GError *error = NULL;
    rig_create_image(rig, "", "spell");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "spell");
    g_autofree char *conf = g_build_filename(rig->dir, "other.conf", NULL);
    g_autofree char *old = NULL;
    g_assert_true(g_file_get_contents(rig->conf, &old, NULL, NULL));
    g_assert_true(g_file_set_contents(conf, old, -1, NULL));
    struct vl_volume_spec spec = {
        .kind = VL_VOLUME_RBD, .pool = rig->pool, .ns = (char *)"", .image = (char *)"spell", .conf = conf};
    g_autoptr(VlVolume) by_conf = OPS->resolve(rig->store, &spec, rig_in(5000), &error);
    g_assert_no_error(error);
    g_assert_true(by_conf->place == volume->place);
    g_assert_cmpstr(by_conf->key, ==, volume->key);

    char mon_host[512];
    g_assert_cmpint(rados_conf_get(rig->admin, "mon_host", mon_host, sizeof(mon_host)), ==, 0);
    spec.conf = NULL;
    spec.mon_hosts = mon_host;
    g_autoptr(VlVolume) by_mon = OPS->resolve(rig->store, &spec, rig_in(5000), &error);
    g_assert_no_error(error);
    g_assert_true(by_mon->place == volume->place);

    spec.mon_hosts = NULL;
    spec.conf = (char *)"/nonexistent/virtlease.conf";
    g_assert_null(OPS->resolve(rig->store, &spec, rig_in(5000), &error));
    rig_expect(&error, VL_ERR_MISSING, "/nonexistent/virtlease.conf");
}

static gpointer
resolve_dead(gpointer data)
{
    GError *error = NULL;
    gint64 start = g_get_monotonic_time();
    g_assert_null(OPS->resolve(rig->store, data, rig_in(1000), &error));
    g_assert_cmpint(g_get_monotonic_time() - start, <, 1500 * 1000);
    rig_expect(&error, VL_ERR_STORAGE, "connection timed out");
    return NULL;
}

/* A monitor that takes connections and says nothing holds up nobody else. */
static void
test_resolve_dead_cluster(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 16), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    g_autofree char *mon = g_strdup_printf("127.0.0.1:%d", ntohs(addr.sin_port));
    struct vl_volume_spec spec = {
        .kind = VL_VOLUME_RBD, .pool = rig->pool, .ns = (char *)"", .image = (char *)"img", .mon_hosts = mon};
    GThread *threads[4];
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("dead", resolve_dead, &spec);
    gint64 start = g_get_monotonic_time();
    VlVolume *volume = rig_resolve(rig, "", "img");
    g_assert_cmpint(g_get_monotonic_time() - start, <, 500 * 1000);
    vl_volume_unref(volume);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    close(fd); /* refused from now on, so the attempt ends */
}

/* --- look and compare-and-swap --- */

static void
test_look_guest(void)
{
    rig_create_image(rig, "", "look");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "look");
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    g_assert_null(look.record);
    g_assert_null(look.owner);
    g_assert_cmpint(look.watchers->len, ==, 0);
    g_assert_true(look.exclusive_lock_feature);
    vl_look_clear(&look);

    Guest *guest = guest_new(rig, "look");
    g_assert_true(OPS->look(&look, 1, VL_LOOK_WATCHERS, rig_in(5000)));
    g_assert_cmpint(look.watchers->len, ==, 1);
    VlWatcher *watcher = look.watchers->pdata[0];
    g_assert_cmpstr(watcher->addr, ==, guest->addr);
    g_assert_cmpuint(watcher->client, ==, guest->client);
    vl_look_clear(&look);

    g_assert_cmpint(guest_write(guest), ==, 0);
    g_assert_true(OPS->look(&look, 1, VL_LOOK_OWNER, rig_in(5000)));
    g_assert_null(look.watchers);
    g_autofree char *entity = g_strdup_printf("client.%" G_GUINT64_FORMAT, guest->client);
    g_assert_cmpstr(look.owner->entity, ==, entity);
    g_assert_cmpstr(look.owner->addr, ==, guest->addr);
    g_assert_true(look.owner->managed);
    vl_look_clear(&look);
    guest_free(guest);

    /* Somebody's advisory lock is on the same name, but not librbd's own. */
    rbd_image_t image;
    g_assert_cmpint(rbd_open(rig->io, "look", &image, NULL), ==, 0);
    g_assert_cmpint(rbd_lock_exclusive(image, "mine"), ==, 0);
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    g_assert_cmpstr(look.owner->cookie, ==, "mine");
    g_assert_false(look.owner->managed);
    vl_look_clear(&look);
    g_assert_cmpint(rbd_unlock(image, "mine"), ==, 0);

    /* A handle that was opened before learns of a feature that went. */
    g_assert_cmpint(rbd_update_features(image, 4, 0), ==, 0);
    rbd_close(image);
    g_assert_true(OPS->look(&look, 1, VL_LOOK_OWNER, rig_in(5000)));
    g_assert_false(look.exclusive_lock_feature);
    vl_look_clear(&look);
}

static bool
cas1(VlVolume *volume, const char *expect, const char *replace, GError **error)
{
    g_autoptr(GBytes) from = expect ? text(expect) : NULL;
    g_autoptr(GBytes) to = replace ? text(replace) : NULL;
    VlCas cas = {.volume = volume, .expect = from, .replace = to};
    bool ok = OPS->cas(&cas, 1, rig_in(5000));
    if (cas.error)
        g_propagate_error(error, cas.error);
    return ok;
}

static void
expect_record(VlVolume *volume, const char *want)
{
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_RECORD, rig_in(5000)));
    g_autoptr(GBytes) bytes = want ? text(want) : NULL;
    g_assert_true(want ? g_bytes_equal(bytes, look.record) : look.record == NULL);
    vl_look_clear(&look);
}

static void
test_cas(void)
{
    GError *error = NULL;
    rig_create_image(rig, "", "cas");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "cas");
    g_assert_true(cas1(volume, NULL, "one", &error));
    expect_record(volume, "one");
    /* "Absent" must not match what is there, nor the other way round. */
    g_assert_false(cas1(volume, NULL, "two", &error));
    rig_expect(&error, VL_ERR_CHANGED, "cas");
    g_assert_false(cas1(volume, "other", "two", &error));
    rig_expect(&error, VL_ERR_CHANGED, "cas");
    g_assert_false(cas1(volume, "on", "two", &error));
    rig_expect(&error, VL_ERR_CHANGED, "cas");
    expect_record(volume, "one");
    g_assert_true(cas1(volume, "one", "two", &error));
    g_assert_false(cas1(volume, "one", NULL, &error));
    rig_expect(&error, VL_ERR_CHANGED, "cas");
    g_assert_true(cas1(volume, "two", NULL, &error));
    expect_record(volume, NULL);
    g_assert_false(cas1(volume, "two", NULL, &error));
    rig_expect(&error, VL_ERR_CHANGED, "cas");
}

/* librbd opens the parent with the clone. */
static void
test_look_clone_of_unreadable_parent(void)
{
    g_autofree char *pool = g_strconcat(rig->pool, "-parents", NULL);
    rados_ioctx_t io;
    rbd_image_t image;
    int order = 0;
    rig_create_pool(rig, pool);
    g_assert_cmpint(rados_ioctx_create(rig->admin, pool, &io), ==, 0);
    g_assert_cmpint(rbd_create2(io, "parent", 1 << 20, 1 | 4, &order), ==, 0);
    g_assert_cmpint(rbd_open(io, "parent", &image, NULL), ==, 0);
    g_assert_cmpint(rbd_snap_create(image, "s"), ==, 0);
    g_assert_cmpint(rbd_snap_protect(image, "s"), ==, 0);
    rbd_close(image);
    g_assert_cmpint(rbd_clone(io, "parent", "s", rig->io, "clone", 1 | 4, &order), ==, 0);
    rados_ioctx_destroy(io);
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "clone");
    VlLook look = {.volume = volume};
    g_assert_false(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    rig_expect(&look.error, VL_ERR_DENIED, "parent");
    /* The record needs no open image. */
    g_assert_true(OPS->look(&look, 1, VL_LOOK_RECORD, rig_in(5000)));
    vl_look_clear(&look);
}

typedef struct {
    VlVolume *volume;
    int wins;
} Racer;

static gpointer
race(gpointer data)
{
    Racer *racer = data;
    g_autofree char *mine = g_strdup_printf("racer %p", (void *)racer);
    for (int i = 0; i < 50; i++) {
        g_autoptr(GError) error = NULL;
        if (cas1(racer->volume, NULL, mine, &error)) {
            racer->wins++;
            expect_record(racer->volume, mine);
            g_assert_true(cas1(racer->volume, mine, NULL, &error));
        } else {
            g_assert_error(error, VL_ERROR, VL_ERR_CHANGED);
        }
    }
    return NULL;
}

static void
test_cas_race(void)
{
    rig_create_image(rig, "", "race");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "race");
    Racer racers[4];
    GThread *threads[4];
    int wins = 0;
    for (int i = 0; i < 4; i++) {
        racers[i] = (Racer){volume, 0};
        threads[i] = g_thread_new("racer", race, &racers[i]);
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
        wins += racers[i].wins;
    }
    g_assert_cmpint(wins, >, 0);
}

static void
test_header_removed(void)
{
    GError *error = NULL;
    rig_create_image(rig, "", "gone");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "gone");
    g_assert_true(cas1(volume, NULL, "lease", &error));
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000))); /* leaves a handle open */
    vl_look_clear(&look);
    rig_remove_image(rig, "gone");
    static const unsigned int what[] = {VL_LOOK_RECORD, VL_LOOK_WATCHERS, VL_LOOK_OWNER, VL_LOOK_ALL};
    for (size_t i = 0; i < G_N_ELEMENTS(what); i++) {
        g_assert_false(OPS->look(&look, 1, what[i], rig_in(5000)));
        rig_expect(&look.error, VL_ERR_MISSING, "gone");
        vl_look_clear(&look);
    }
    g_assert_false(cas1(volume, "lease", NULL, &error));
    rig_expect(&error, VL_ERR_MISSING, "gone");
    /* And no ghost came back. */
    g_assert_false(cas1(volume, NULL, "x", &error));
    rig_expect(&error, VL_ERR_MISSING, "gone");
}

static void
test_many_volumes(void)
{
    VlLook looks[20] = {0};
    VlCas cas[20] = {0};
    g_autoptr(GBytes) record = text("{\"version\":1}");
    for (int i = 0; i < 20; i++) {
        g_autofree char *name = g_strdup_printf("many-%d", i);
        rig_create_image(rig, "", name);
        looks[i].volume = cas[i].volume = rig_resolve(rig, "", name);
        cas[i].replace = record;
    }
    gint64 start = g_get_monotonic_time();
    g_assert_true(OPS->look(looks, 20, VL_LOOK_ALL, rig_in(5000)));
    g_test_message("look at 20 volumes, cold: %d us", (int)(g_get_monotonic_time() - start));
    for (int i = 0; i < 20; i++)
        vl_look_clear(&looks[i]);
    start = g_get_monotonic_time();
    g_assert_true(OPS->look(looks, 20, VL_LOOK_ALL, rig_in(5000)));
    g_test_message("look at 20 volumes, warm: %d us", (int)(g_get_monotonic_time() - start));
    start = g_get_monotonic_time();
    g_assert_true(OPS->cas(cas, 20, rig_in(5000)));
    g_test_message("cas of 20 volumes: %d us", (int)(g_get_monotonic_time() - start));
    /* One bad element spoils no other. */
    rig_remove_image(rig, "many-7");
    for (int i = 0; i < 20; i++)
        vl_look_clear(&looks[i]);
    g_assert_false(OPS->look(looks, 20, VL_LOOK_ALL, rig_in(5000)));
    for (int i = 0; i < 20; i++) {
        g_assert_true(i == 7 ? looks[i].error != NULL : g_bytes_equal(looks[i].record, record));
        vl_look_clear(&looks[i]);
        vl_volume_unref(looks[i].volume);
    }
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
    g_test_add_func("/rbd/resolve", test_resolve);
    g_test_add_func("/rbd/resolve-namespace", test_resolve_namespace);
    g_test_add_func("/rbd/resolve-missing", test_resolve_missing);
    g_test_add_func("/rbd/resolve-pool-created-again", test_resolve_pool_created_again);
    g_test_add_func("/rbd/resolve-denied", test_resolve_denied);
    g_test_add_func("/rbd/resolve-spellings", test_resolve_spellings);
    g_test_add_func("/rbd/resolve-dead-cluster", test_resolve_dead_cluster);
    g_test_add_func("/rbd/look-guest", test_look_guest);
    g_test_add_func("/rbd/look-clone-of-unreadable-parent", test_look_clone_of_unreadable_parent);
    g_test_add_func("/rbd/cas", test_cas);
    g_test_add_func("/rbd/cas-race", test_cas_race);
    g_test_add_func("/rbd/header-removed", test_header_removed);
    g_test_add_func("/rbd/many-volumes", test_many_volumes);
    int rc = g_test_run();
    rig_free(rig);
    return rc;
}

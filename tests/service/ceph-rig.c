/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ceph-rig.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMAGE_BYTES (8 * 1024 * 1024)

gint64
rig_in(guint ms)
{
    return g_get_monotonic_time() + ms * G_TIME_SPAN_MILLISECOND;
}

void
rig_expect(GError **error, enum vl_error code, const char *text)
{
    g_assert_error(*error, VL_ERROR, (int)code);
    if (!strstr((*error)->message, text))
        g_error("'%s' does not contain '%s'", (*error)->message, text);
    g_test_message("%s", (*error)->message);
    g_clear_error(error);
}

static rados_t
connect_as(const char *conf, const char *user)
{
    rados_t rados;
    g_autofree char *name = g_strconcat("client.", user, NULL);
    g_assert_cmpint(rados_create2(&rados, "ceph", name, 0), ==, 0);
    g_assert_cmpint(rados_conf_read_file(rados, conf), ==, 0);
    g_assert_cmpint(rados_conf_set(rados, "client_mount_timeout", "5"), ==, 0);
    if (rados_connect(rados) < 0)
        g_error("no Ceph cluster at %s", conf);
    return rados;
}

char *
rig_mon(Rig *rig, const char *format, ...)
{
    char *out = NULL;
    char *status = NULL;
    size_t out_len, status_len;
    va_list args;
    va_start(args, format);
    g_autofree char *command = g_strdup_vprintf(format, args);
    va_end(args);
    const char *commands[] = {command};
    int rc = rados_mon_command(rig->admin, commands, 1, NULL, 0, &out, &out_len, &status, &status_len);
    if (rc < 0)
        g_error("%s: %s (%.*s)", command, g_strerror(-rc), (int)status_len, status);
    char *text = g_strndup(out, out_len);
    rados_buffer_free(out);
    rados_buffer_free(status);
    return text;
}

void
rig_create_pool(Rig *rig, const char *pool)
{
    g_free(rig_mon(rig, "{\"prefix\": \"osd pool create\", \"pool\": \"%s\", \"pg_num\": 8}", pool));
    g_free(rig_mon(rig, "{\"prefix\": \"osd pool application enable\", \"pool\": \"%s\", \"app\": \"rbd\"}", pool));
    g_assert_cmpint(rados_wait_for_latest_osdmap(rig->admin), ==, 0);
}

static void
add_user(Rig *rig, const char *user, const char *mon, const char *osd)
{
    g_autofree char *caps =
        osd ? g_strdup_printf("\"mon\", \"%s\", \"osd\", \"%s\"", mon, osd) : g_strdup_printf("\"mon\", \"%s\"", mon);
    g_free(rig_mon(rig, "{\"prefix\": \"auth rm\", \"entity\": \"client.%s\"}", user));
    g_autofree char *key =
        rig_mon(rig, "{\"prefix\": \"auth get-or-create\", \"entity\": \"client.%s\", \"caps\": [%s]}", user, caps);
    g_autofree char *path = g_build_filename(rig->dir, user, NULL);
    g_assert_true(g_file_set_contents(path, key, -1, NULL));
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(rig->conf, &text, NULL, NULL));
    g_autofree char *more = g_strdup_printf("%s\n[client.%s]\nkeyring = %s\n", text, user, path);
    g_assert_true(g_file_set_contents(rig->conf, more, -1, NULL));
}

VlStore *
rig_store(Rig *rig, const char *user, guint op_timeout_s)
{
    VlStoreRbdSettings settings = {rig->conf, (char *)user, op_timeout_s};
    return vl_store_rbd_new(&settings);
}

Rig *
rig_new(void)
{
    const char *conf = g_getenv("VL_TEST_CEPH_CONF");
    const char *user = g_getenv("VL_TEST_CEPH_USER");
    if (!conf)
        g_error("VL_TEST_CEPH_CONF must name the ceph.conf of a throw-away cluster");
    Rig *rig = g_new0(Rig, 1);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(conf, &text, NULL, NULL));
    rig->admin = connect_as(conf, user ? user : "admin");
    rig->dir = g_dir_make_tmp("virtlease-XXXXXX", NULL);
    rig->conf = g_build_filename(rig->dir, "ceph.conf", NULL);
    /* What broke librbd's own fencing (tracker 54613) must not break ours. */
    g_autofree char *more = g_strconcat(text, "\n[client]\nrbd_blocklist_expire_seconds = 3600\n", NULL);
    g_assert_true(g_file_set_contents(rig->conf, more, -1, NULL));
    rig->pool = g_strdup_printf("vltest-%d-%x", getpid(), g_random_int());
    rig_create_pool(rig, rig->pool);
    g_autofree char *osd_caps = g_strdup_printf("profile rbd pool=%s", rig->pool);
    add_user(rig, RIG_USER, "profile rbd", osd_caps);
    add_user(rig, RIG_USER_POOR, "allow r", NULL);
    g_assert_cmpint(rados_ioctx_create(rig->admin, rig->pool, &rig->io), ==, 0);
    g_assert_cmpint(rbd_pool_init(rig->io, true), ==, 0);
    rig->store = rig_store(rig, RIG_USER, 5);
    return rig;
}

void
rig_free(Rig *rig)
{
    rig->store->ops->free(rig->store);
    rados_ioctx_destroy(rig->io);
    rados_shutdown(rig->admin);
    g_autoptr(GDir) dir = g_dir_open(rig->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir));) {
        g_autofree char *path = g_build_filename(rig->dir, name, NULL);
        g_unlink(path);
    }
    g_rmdir(rig->dir);
    g_free(rig->dir);
    g_free(rig->conf);
    g_free(rig->pool);
    g_free(rig);
}

void
rig_create_image(Rig *rig, const char *ns, const char *image)
{
    int order = 0;
    rados_ioctx_set_namespace(rig->io, ns);
    g_assert_cmpint(rbd_create2(rig->io, image, IMAGE_BYTES, 1 | 4, &order), ==, 0);
    rados_ioctx_set_namespace(rig->io, "");
}

void
rig_remove_image(Rig *rig, const char *image)
{
    g_assert_cmpint(rbd_remove(rig->io, image), ==, 0);
}

VlVolume *
rig_resolve(Rig *rig, const char *ns, const char *image)
{
    GError *error = NULL;
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD, .pool = rig->pool, .ns = (char *)ns, .image = (char *)image};
    VlVolume *volume = rig->store->ops->resolve(rig->store, &spec, rig_in(5000), &error);
    g_assert_no_error(error);
    return volume;
}

Guest *
guest_new(Rig *rig, const char *image)
{
    Guest *guest = g_new0(Guest, 1);
    char *addrs;
    guest->rados = connect_as(rig->conf, RIG_USER);
    g_assert_cmpint(rados_ioctx_create(guest->rados, rig->pool, &guest->io), ==, 0);
    g_assert_cmpint(rbd_open(guest->io, image, &guest->image, NULL), ==, 0);
    g_assert_cmpint(rados_getaddrs(guest->rados, &addrs), ==, 0);
    guest->addr = g_strdup(strchr(addrs, ':') && g_str_has_prefix(addrs, "v") ? strchr(addrs, ':') + 1 : addrs);
    free(addrs);
    guest->client = rados_get_instance_id(guest->rados);
    return guest;
}

int
guest_write(Guest *guest)
{
    static const char sector[512] = "guest";
    ssize_t n = rbd_write(guest->image, 512, sizeof(sector), sector);
    return n < 0 ? (int)n : 0;
}

void
guest_free(Guest *guest)
{
    rbd_close(guest->image);
    rados_ioctx_destroy(guest->io);
    rados_shutdown(guest->rados);
    g_free(guest->addr);
    g_free(guest);
}

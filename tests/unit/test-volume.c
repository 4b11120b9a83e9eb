/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Paths are tested in a temporary directory with a fake /sys and /dev: regular files stand for
 * device nodes, whose names and links are what counts. */
#include <errno.h>
#include <ftw.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/volume.h"

static void
assert_display(const struct vl_volume_spec *spec, const char *expected)
{
    char *text = vl_volume_display(spec);
    g_assert_cmpstr(text, ==, expected);
    free(text);
}

static void
test_rbd_names(void)
{
    static const struct {
        const char *name, *pool, *ns, *image;
        bool snapshot;
    } good[] = {
        {"rbd/vm1", "rbd", "", "vm1", false},
        {"rbd/ns/vm1", "rbd", "ns", "vm1", false},
        {"rbd/vm1@snap", "rbd", "", "vm1", true},
        {"rbd/ns/vm1@snap", "rbd", "ns", "vm1", true},
        {"my pool/Image.With-odd_chars:;,+", "my pool", "", "Image.With-odd_chars:;,+", false},
        {"p@ol/vm1", "p@ol", "", "vm1", false}, /* librbd allows it in a pool's name */
        {"bécasse/日本/画像", "bécasse", "日本", "画像", false},
        {"a/b", "a", "", "b", false},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        struct vl_volume_spec spec;
        g_assert_cmpint(vl_volume_parse_rbd(good[i].name, &spec), ==, 0);
        g_assert_cmpint(spec.kind, ==, VL_VOLUME_RBD);
        g_assert_cmpstr(spec.pool, ==, good[i].pool);
        g_assert_cmpstr(spec.ns, ==, good[i].ns);
        g_assert_cmpstr(spec.image, ==, good[i].image);
        g_assert_true(spec.snapshot == good[i].snapshot);
        g_assert_false(spec.krbd);
        g_assert_null(spec.conf);
        g_assert_null(spec.mon_hosts);
        g_assert_null(spec.path);
        vl_volume_spec_clear(&spec);
        g_assert_null(spec.pool);
        vl_volume_spec_clear(&spec); /* twice is harmless */
    }
}

static void
test_bad_rbd_names(void)
{
    static const char *const bad[] = {
        "",           "/",         "//",       "///",      "rbd",        "rbd/",      "/vm1",      "rbd//vm1",
        "rbd/ns/",    "rbd//",     "a/b/c/d",  "/a/b",     "rbd/@s",     "rbd/vm1@",  "rbd/v@a@b", "rbd/vm1@a/b",
        "rbd/n@s/vm", "rbd/ns/@s", "rbd/v\nm", "r\tbd/vm", "rbd/v\x7fm", "rbd/v\x01", "@",         "rbd@s",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct vl_volume_spec spec = {.path = (char *)"untouched"};
        if (vl_volume_parse_rbd(bad[i], &spec) != -EINVAL)
            g_error("'%s' was taken", bad[i]);
        g_assert_cmpstr(spec.path, ==, "untouched");
    }
    g_autofree char *long_image = g_strnfill(1500, 'i');
    g_autofree char *long_name = g_strconcat("p/n/", long_image, NULL);
    struct vl_volume_spec spec;
    g_assert_cmpint(vl_volume_parse_rbd(long_name, &spec), ==, 0);
    g_assert_cmpstr(spec.image, ==, long_image);
    vl_volume_spec_clear(&spec);
}

static char *
hosts(const char *const list[][2], gsize n, gsize first)
{
    struct vl_volume_spec spec = {0};
    for (gsize i = 0; i < n; i++) {
        const char *const *host = list[(i + first) % n];
        g_assert_cmpint(vl_volume_add_host(&spec, host[0], host[1]), ==, 0);
    }
    char *joined = g_strdup(spec.mon_hosts);
    vl_volume_spec_clear(&spec);
    return joined;
}

static void
test_hosts(void)
{
    static const char *const list[][2] = {
        {"10.0.0.2", "6789"},
        {"10.0.0.10", "6789"},
        {"10.0.0.1", "6789"},
        {"mon", "3300"},
        {"fe80::1", "6789"},
        {"mon", NULL},
        {"mon", ""},
        {"[FE80:0:0::1]", "6789"},
        {"MON", "3300"},
        {"mon", "0"},
        {"fe80:0:0:0:0:0:0:1", "06789"},
        {"mon-b", "3300"},
        {"10.0.0.1", "3300"},
        {"10.0.0.1", "6789"},
        {"fe80::1%eth0", "6789"},
    };
    for (gsize first = 0; first < G_N_ELEMENTS(list); first++) {
        g_autofree char *joined = hosts(list, G_N_ELEMENTS(list), first);
        g_assert_cmpstr(joined, ==,
                        "10.0.0.10:6789,10.0.0.1:3300,10.0.0.1:6789,10.0.0.2:6789,"
                        "[fe80::1%eth0]:6789,[fe80::1]:6789,mon,mon-b:3300,mon:3300");
    }
    static const char *const prefixes[][2] = {{"ab", NULL}, {"abc", NULL}, {"a", NULL}};
    for (gsize first = 0; first < 3; first++) {
        g_autofree char *joined = hosts(prefixes, 3, first);
        g_assert_cmpstr(joined, ==, "a,ab,abc");
    }
}

static void
test_bad_hosts(void)
{
    static const char *const bad[][2] = {
        {"", "1"},
        {"a b", "1"},
        {"a,b", "1"},
        {"a\n", "1"},
        {"mon", "65536"},
        {"mon", "-1"},
        {"mon", "x"},
        {"mon", "12x"},
        {"mon", " 1"},
        {"[::1", "1"},
        {"::1]", "1"},
        {"1:2", "1"},
        {"[]", "1"},
        {"a/b", "1"},
        {"mon:6789", NULL},
        {"[]]", "1"},
        {"mon", "99999999999999999999"},
    };
    struct vl_volume_spec spec = {0};
    g_assert_cmpint(vl_volume_add_host(&spec, "mon", "1"), ==, 0);
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        if (vl_volume_add_host(&spec, bad[i][0], bad[i][1]) != -EINVAL)
            g_error("'%s' '%s' was taken", bad[i][0], bad[i][1]);
    g_assert_cmpstr(spec.mon_hosts, ==, "mon:1");
    vl_volume_spec_clear(&spec);
}

static void
test_spec(void)
{
    struct vl_volume_spec a, b;
    g_assert_cmpint(vl_volume_parse_rbd("rbd/ns/vm1", &a), ==, 0);
    g_assert_cmpint(vl_volume_add_host(&a, "::1", "6789"), ==, 0);
    a.conf = strdup("/etc/ceph/x.conf");
    a.fsid = strdup("f");
    g_assert_cmpint(vl_volume_spec_copy(&a, &b), ==, 0);
    g_assert_true(vl_volume_spec_equal(&a, &b));
    g_assert_true(a.pool != b.pool);
    g_assert_cmpstr(b.fsid, ==, "f");
    assert_display(&b, "rbd:rbd/ns/vm1");
    b.krbd = !b.krbd;
    free(b.fsid);
    b.fsid = NULL;
    g_assert_true(vl_volume_spec_equal(&a, &b));
    char **names[] = {&b.pool, &b.ns, &b.image, &b.conf, &b.mon_hosts};
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        char *saved = *names[i];
        *names[i] = strdup("other");
        g_assert_false(vl_volume_spec_equal(&a, &b));
        g_assert_false(vl_volume_spec_equal(&b, &a));
        free(*names[i]);
        *names[i] = saved;
    }
    b.path = strdup("/dev/rbd/rbd/ns/vm1"); /* how a krbd device was called is no part of it */
    g_assert_true(vl_volume_spec_equal(&a, &b));
    a.kind = VL_VOLUME_FILE;
    g_assert_false(vl_volume_spec_equal(&a, &b));
    b.kind = VL_VOLUME_FILE;
    g_assert_false(vl_volume_spec_equal(&a, &b));
    a.path = strdup(b.path);
    g_assert_true(vl_volume_spec_equal(&a, &b));
    vl_volume_spec_clear(&a);
    vl_volume_spec_clear(&b);

    struct vl_volume_spec file = {.kind = VL_VOLUME_FILE, .path = strdup("/a\nb\x1b[1mé\x7f")};
    assert_display(&file, "file:/a\\x0ab\\x1b[1mé\\x7f");
    file.kind = VL_VOLUME_OTHER;
    free(file.path);
    file.path = strdup("iscsi:iqn/1");
    assert_display(&file, "iscsi:iqn/1");
    vl_volume_spec_clear(&file);
    g_assert_cmpint(vl_volume_parse_rbd("rbd/v", &file), ==, 0);
    assert_display(&file, "rbd:rbd/v");
    vl_volume_spec_clear(&file);
    assert_display(&file, "rbd:/"); /* an empty one does not crash */
}

typedef struct {
    char *top, *sys, *dev;
} Fixture;

static char *
at(const Fixture *fixture, const char *path)
{
    return g_strconcat(fixture->top, "/", path, NULL);
}

/* A file (with its directories) below the fixture's directory. */
static void
put(const Fixture *fixture, const char *path, const char *text)
{
    g_autofree char *full = at(fixture, path);
    g_autofree char *parent = g_path_get_dirname(full);
    g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
    g_assert_true(g_file_set_contents(full, text, -1, NULL));
}

static void
put_link(const Fixture *fixture, const char *path, const char *target)
{
    g_autofree char *full = at(fixture, path);
    g_autofree char *parent = g_path_get_dirname(full);
    g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
    g_assert_cmpint(symlink(target, full), ==, 0);
}

static void
put_attribute(const Fixture *fixture, int number, const char *name, const char *value)
{
    g_autofree char *path = g_strdup_printf("sys/devices/rbd/%d/%s", number, name);
    g_autofree char *line = g_strconcat(value, "\n", NULL);
    put(fixture, path, line);
}

/* A device as the kernel shows it; `ns` NULL for a kernel without namespaces. */
static void
put_krbd(const Fixture *fixture, int number, const char *pool, const char *ns, const char *image, const char *snap,
         const char *addr)
{
    put_attribute(fixture, number, "pool", pool);
    put_attribute(fixture, number, "name", image);
    put_attribute(fixture, number, "current_snap", snap);
    put_attribute(fixture, number, "client_addr", addr);
    put_attribute(fixture, number, "client_id", "client4123");
    if (ns)
        put_attribute(fixture, number, "pool_ns", ns);
    g_autofree char *link = g_strdup_printf("sys/bus/rbd/devices/%d", number);
    g_autofree char *target = g_strdup_printf("../../../devices/rbd/%d", number);
    put_link(fixture, link, target);
}

static void
set_up(Fixture *fixture, gconstpointer unused)
{
    g_autofree char *made = g_dir_make_tmp("vl-volume-XXXXXX", NULL);
    g_assert_nonnull(made);
    fixture->top = realpath(made, NULL);
    fixture->sys = at(fixture, "sys");
    fixture->dev = at(fixture, "dev");
    put_krbd(fixture, 0, "rbd", "", "vm1", "-", "10.0.0.1:0/111");
    put_krbd(fixture, 1, "rbd", "tenant", "vm1", "-", "[fd00::1]:0/222");
    put_krbd(fixture, 2, "ssd", NULL, "old-kernel", "-", "10.0.0.1:0/333");
    put_krbd(fixture, 10, "rbd", "", "golden", "v1", "10.0.0.1:0/444");
    put_krbd(fixture, 11, "rbd", "", "vm1-part1", "-", "10.0.0.1:0/555");
    put_attribute(fixture, 0, "cluster_fsid", "6e7a6f1c-2b1f-4dfb-9e53-7d0b4d5c0a11");
    put_attribute(fixture, 0, "pool_id", "2");
    put_attribute(fixture, 0, "image_id", "10ab6b8b4567");
    static const char *const nodes[] = {"dev/rbd0", "dev/rbd0p1", "dev/rbd0p12", "dev/rbd1",
                                        "dev/rbd2", "dev/rbd10",  "dev/rbd11"};
    for (gsize i = 0; i < G_N_ELEMENTS(nodes); i++)
        put(fixture, nodes[i], "");
    put_link(fixture, "dev/rbd/rbd/vm1", "../../rbd0");
    put_link(fixture, "dev/rbd/rbd/tenant/vm1", "../../../rbd1");
    put_link(fixture, "dev/rbd/rbd/golden@v1", "../../rbd10");
    put_link(fixture, "dev/block/252:0", "../rbd0");
    put_link(fixture, "dev/block/252:1", "../rbd0p1");
}

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void
tear_down(Fixture *fixture, gconstpointer unused)
{
    g_assert_cmpint(nftw(fixture->top, remove_one, 16, FTW_DEPTH | FTW_PHYS), ==, 0);
    free(fixture->top);
    g_free(fixture->sys);
    g_free(fixture->dev);
}

/* Checks what a path below the fixture's directory becomes; expected FILE paths are relative to it.
 */
static void
check(const Fixture *fixture, const char *path, const char *expected)
{
    g_autofree char *full = at(fixture, path);
    g_autofree char *prefix = g_strconcat("file:", fixture->top, "/", NULL);
    struct vl_volume_spec spec;
    int r = vl_volume_from_path(full, fixture->sys, fixture->dev, &spec);
    if (r < 0)
        g_error("%s: %s", path, g_strerror(-r));
    char *display = vl_volume_display(&spec);
    bool file = g_str_has_prefix(display, prefix);
    g_assert_cmpint(spec.kind, ==, file ? VL_VOLUME_FILE : VL_VOLUME_RBD);
    g_assert_true(spec.krbd == !file);
    g_assert_cmpstr(file ? display + strlen(prefix) : display, ==, expected);
    free(display);
    vl_volume_spec_clear(&spec);
}

static void
check_error(const Fixture *fixture, const char *path, int expected)
{
    g_autofree char *full = at(fixture, path);
    struct vl_volume_spec spec = {.path = (char *)"untouched"};
    g_assert_cmpint(vl_volume_from_path(full, fixture->sys, fixture->dev, &spec), ==, expected);
    g_assert_cmpstr(spec.path, ==, "untouched");
}

static void
test_krbd(Fixture *fixture, gconstpointer unused)
{
    check(fixture, "dev/rbd0", "rbd:rbd/vm1");
    check(fixture, "dev/rbd0p1", "rbd:rbd/vm1");
    check(fixture, "dev/rbd0p12", "rbd:rbd/vm1");
    check(fixture, "dev/rbd1", "rbd:rbd/tenant/vm1");
    check(fixture, "dev/rbd2", "rbd:ssd/old-kernel");
    check(fixture, "dev/rbd11", "rbd:rbd/vm1-part1");
    check(fixture, "dev/rbd/rbd/vm1", "rbd:rbd/vm1");
    check(fixture, "dev/rbd/rbd/tenant/vm1", "rbd:rbd/tenant/vm1");
    check(fixture, "dev/rbd/rbd/../rbd/./vm1", "rbd:rbd/vm1");
    check(fixture, "dev/block/252:0", "rbd:rbd/vm1");
    check(fixture, "dev/block/252:1", "rbd:rbd/vm1");
    put_link(fixture, "images/vm1.img", "../dev/rbd/rbd/vm1");
    check(fixture, "images/vm1.img", "rbd:rbd/vm1");

    g_autofree char *path = at(fixture, "dev/rbd0p1");
    struct vl_volume_spec spec;
    g_assert_cmpint(vl_volume_from_path(path, fixture->sys, fixture->dev, &spec), ==, 0);
    g_assert_cmpstr(spec.fsid, ==, "6e7a6f1c-2b1f-4dfb-9e53-7d0b4d5c0a11");
    g_assert_cmpstr(spec.pool_id, ==, "2");
    g_assert_cmpstr(spec.image_id, ==, "10ab6b8b4567");
    g_assert_cmpstr(spec.ns, ==, "");
    g_assert_false(spec.snapshot);
    g_assert_cmpstr(spec.path, ==, path);
    struct vl_volume_spec librbd;
    g_assert_cmpint(vl_volume_parse_rbd("rbd/vm1", &librbd), ==, 0);
    g_assert_true(vl_volume_spec_equal(&spec, &librbd));
    vl_volume_spec_clear(&spec);
    vl_volume_spec_clear(&librbd);

    g_autofree char *snap = at(fixture, "dev/rbd/rbd/golden@v1");
    g_assert_cmpint(vl_volume_from_path(snap, fixture->sys, fixture->dev, &spec), ==, 0);
    g_assert_true(spec.snapshot);
    g_assert_null(spec.fsid);
    assert_display(&spec, "rbd:rbd/golden");
    vl_volume_spec_clear(&spec);
}

/* A namespace without udev's links, or without the node. */
static void
test_krbd_invisible(Fixture *fixture, gconstpointer unused)
{
    g_autofree char *image = at(fixture, "dev/rbd/rbd/vm1");
    g_autofree char *node = at(fixture, "dev/rbd0");
    g_assert_cmpint(g_remove(image), ==, 0);
    put_attribute(fixture, 10, "image_id", "abc");
    check(fixture, "dev/rbd/rbd/vm1", "rbd:rbd/vm1");
    check(fixture, "dev/rbd/rbd/vm1-part1", "rbd:rbd/vm1-part1"); /* the image of that name wins */
    check(fixture, "dev/rbd/rbd/vm1-part2", "rbd:rbd/vm1");
    check(fixture, "dev/rbd/rbd/vm1-partx", "rbd:rbd/vm1-partx");
    check(fixture, "dev/rbd/ssd/old-kernel", "rbd:ssd/old-kernel");
    check(fixture, "dev/rbd/rbd/golden@v1-part3", "rbd:rbd/golden");
    g_assert_cmpint(g_remove(node), ==, 0);
    check(fixture, "dev/rbd0", "rbd:rbd/vm1");
    check(fixture, "dev/rbd0p3", "rbd:rbd/vm1");
    check(fixture, "dev/block/252:0", "rbd:rbd/vm1"); /* dangling, yet it says which one */

    /* Not mapped: taken at its word. */
    struct vl_volume_spec spec;
    g_autofree char *unmapped = at(fixture, "dev/rbd/other/ns/image@s");
    g_assert_cmpint(vl_volume_from_path(unmapped, fixture->sys, fixture->dev, &spec), ==, 0);
    assert_display(&spec, "rbd:other/ns/image");
    g_assert_true(spec.krbd && spec.snapshot);
    g_assert_null(spec.image_id);
    g_assert_cmpstr(spec.path, ==, unmapped);
    vl_volume_spec_clear(&spec);
    check(fixture, "dev/rbd/lonely", "dev/rbd/lonely");
    /* No /dev/rbd, no krbd in this kernel at all */
    g_assert_cmpint(vl_volume_from_path("/nowhere/dev/rbd/a/b", "/nowhere/sys", "/nowhere/dev", &spec), ==, 0);
    assert_display(&spec, "rbd:a/b");
    vl_volume_spec_clear(&spec);
}

static void
test_krbd_bad(Fixture *fixture, gconstpointer unused)
{
    put(fixture, "dev/rbd7", "");
    check_error(fixture, "dev/rbd7", -ENODEV); /* being unmapped */
    check_error(fixture, "dev/rbd8", -ENODEV);
    check_error(fixture, "dev/rbd8p1", -ENODEV);
    static const char *const not_krbd[] = {"dev/rbd",      "dev/rbdx",  "dev/rbd0p",
                                           "dev/rbd0px",   "dev/rbd0x", "dev/xrbd0",
                                           "dev/sub/rbd0", "rbd0",      "dev/rbd99999999999999999"};
    for (gsize i = 0; i < G_N_ELEMENTS(not_krbd); i++)
        check(fixture, not_krbd[i], not_krbd[i]);
    put_link(fixture, "devices/rbd0", "../devices2/rbd0"); /* below() is by component */
    check(fixture, "devices/rbd0", "devices2/rbd0");
}

static void
test_krbd_node(Fixture *fixture, gconstpointer unused)
{
    /* A node somebody made outside /dev; major 259 is dynamic, no driver is needed to make one. */
    g_autofree char *node = at(fixture, "container-rbd");
    if (mknod(node, S_IFBLK | 0600, makedev(259, 4000)) < 0) {
        g_test_skip("making a block node needs privileges");
        return;
    }
    check(fixture, "container-rbd", "container-rbd");
    put_link(fixture, "sys/dev/block/259:4000", "../../devices/rbd/1/block/rbd1/rbd1p1");
    check(fixture, "container-rbd", "rbd:rbd/tenant/vm1");
}

static void
check_client(const Fixture *fixture, const char *path, int expected, const char *addr)
{
    g_autofree char *full = at(fixture, path);
    char *got = NULL;
    g_assert_cmpint(vl_volume_krbd_client(full, fixture->sys, fixture->dev, &got), ==, expected);
    g_assert_cmpstr(got, ==, addr);
    free(got);
}

static void
test_krbd_client(Fixture *fixture, gconstpointer unused)
{
    check_client(fixture, "dev/rbd0", 0, "10.0.0.1:0/111");
    check_client(fixture, "dev/rbd0p1", 0, "10.0.0.1:0/111");
    check_client(fixture, "dev/rbd/rbd/tenant/vm1", 0, "[fd00::1]:0/222");
    check_client(fixture, "dev/rbd/ssd/old-kernel", 0, "10.0.0.1:0/333");
    check_client(fixture, "dev/block/252:1", 0, "10.0.0.1:0/111");
    check_client(fixture, "dev/rbd7", -ENODEV, NULL);
    check_client(fixture, "dev/rbd/rbd/unmapped", -ENXIO, NULL);
    check_client(fixture, "some/file", -ENXIO, NULL);
    char *got = NULL;
    g_assert_cmpint(vl_volume_krbd_client(NULL, fixture->sys, fixture->dev, &got), ==, -EINVAL);
    g_assert_cmpint(vl_volume_krbd_client("dev/rbd0", fixture->sys, fixture->dev, &got), ==, -EINVAL);
    /* One image mapped twice: the link says which, a bare name does not. */
    put_krbd(fixture, 3, "rbd", "", "vm1", "-", "10.0.0.1:0/666");
    check_client(fixture, "dev/rbd/rbd/vm1", 0, "10.0.0.1:0/111");
    g_autofree char *image = at(fixture, "dev/rbd/rbd/vm1");
    g_assert_cmpint(g_remove(image), ==, 0);
    check_client(fixture, "dev/rbd/rbd/vm1", -ENOTUNIQ, NULL);
    check(fixture, "dev/rbd/rbd/vm1", "rbd:rbd/vm1");
    put_attribute(fixture, 3, "client_addr", "");
    check_client(fixture, "dev/rbd3", -ENODEV, NULL);
}

static void
test_files(Fixture *fixture, gconstpointer unused)
{
    put(fixture, "srv/images/a.img", "");
    put(fixture, "srv/images/with space: colon, é.img", "");
    put_link(fixture, "pool", "srv/images");
    put_link(fixture, "srv/images/link.img", "a.img");
    put_link(fixture, "srv/images/link2.img", "../../pool/link.img");
    check(fixture, "srv/images/a.img", "srv/images/a.img");
    check(fixture, "pool/a.img", "srv/images/a.img");
    check(fixture, "pool/link.img", "srv/images/a.img");
    check(fixture, "pool/link2.img", "srv/images/a.img");
    check(fixture, "srv//images/.///a.img", "srv/images/a.img");
    check(fixture, "srv/../pool/../images/a.img", "srv/images/a.img"); /* .. of the link's target */
    check(fixture, "pool/with space: colon, é.img", "srv/images/with space: colon, é.img");
    check(fixture, "pool", "srv/images");
    check(fixture, "pool/", "srv/images");
}

static void
test_missing_files(Fixture *fixture, gconstpointer unused)
{
    put(fixture, "srv/images/a.img", "");
    put_link(fixture, "pool", "srv/images");
    check(fixture, "pool/new.img", "srv/images/new.img");
    check(fixture, "pool/new.img/", "srv/images/new.img");
    check(fixture, "pool/./new dir//deep/./x", "srv/images/new dir/deep/x");
}

static void
test_missing_parents(Fixture *fixture, gconstpointer unused)
{
    put_link(fixture, "pool", "srv/images"); /* not mounted: dangling */
    check(fixture, "pool/a.img", "srv/images/a.img");
    check(fixture, "pool", "srv/images");
    check(fixture, "nothing/here/a.img", "nothing/here/a.img");
    check(fixture, "nothing//./a.img", "nothing/a.img");
    check_error(fixture, "nothing/..", -ENOENT);
    check_error(fixture, "nothing/../a.img", -ENOENT);
    g_autofree char *absolute = at(fixture, "srv/other");
    put_link(fixture, "images/absolute", absolute);
    put_link(fixture, "images/relative", "../srv/relative");
    check(fixture, "images/absolute/x", "srv/other/x");
    check(fixture, "images/relative", "srv/relative");
    put_link(fixture, "images/loop", "loop2");
    put_link(fixture, "images/loop2", "loop");
    check_error(fixture, "images/loop", -ELOOP);
    check_error(fixture, "images/loop/x", -ELOOP);
    put(fixture, "file", "");
    check_error(fixture, "file/x", -ENOTDIR);
}

static void
test_odd_paths(Fixture *fixture, gconstpointer unused)
{
    struct vl_volume_spec spec = {.path = (char *)"untouched"};
    static const char *const relative[] = {"", "a", "./a", "../a", "~/a", "file:///a"};
    for (gsize i = 0; i < G_N_ELEMENTS(relative); i++)
        g_assert_cmpint(vl_volume_from_path(relative[i], fixture->sys, fixture->dev, &spec), ==, -EINVAL);
    g_assert_cmpstr(spec.path, ==, "untouched");
    g_assert_cmpint(vl_volume_from_path("//", fixture->sys, fixture->dev, &spec), ==, 0);
    assert_display(&spec, "file:/");
    vl_volume_spec_clear(&spec);
    g_assert_cmpint(vl_volume_from_path("/vl-no-such-dir", fixture->sys, fixture->dev, &spec), ==, 0);
    assert_display(&spec, "file:/vl-no-such-dir");
    vl_volume_spec_clear(&spec);

    /* More than 1000 characters; then more than the kernel takes in a name and in a path */
    g_autoptr(GString) deep = g_string_new("deep");
    for (int i = 0; i < 12; i++)
        g_string_append_printf(deep, "/%0100d", i);
    g_string_append(deep, "/é: x.img");
    put(fixture, deep->str, "");
    check(fixture, deep->str, deep->str);
    g_string_append(deep, ".missing");
    check(fixture, deep->str, deep->str);
    g_autofree char *name = g_strnfill(300, 'n');
    check_error(fixture, name, -ENAMETOOLONG);
    while (deep->len < 5000)
        g_string_append(deep, "/d");
    check_error(fixture, deep->str, -ENAMETOOLONG);
    check(fixture, "line\nbreak", "line\\x0abreak");
}

/* /dev/sdX and /dev/dm-N are other disks on other hosts: they must not become identities. */
static void
test_block_names(Fixture *fixture, gconstpointer unused)
{
    static const char *const nodes[] = {"dev/sda", "dev/sda1", "dev/sdb", "dev/dm-3", "dev/zd0"};
    for (gsize i = 0; i < G_N_ELEMENTS(nodes); i++)
        put(fixture, nodes[i], "");
    put(fixture, "sys/block/dm-3/dm/name", "vg0-vm1\n");
    put_link(fixture, "dev/vg0/vm1", "../dm-3");
    put_link(fixture, "dev/mapper/vg0-vm1", "../dm-3");
    put_link(fixture, "dev/disk/by-id/dm-name-vg0-vm1", "../../dm-3");
    check(fixture, "dev/vg0/vm1", "dev/mapper/vg0-vm1");
    check(fixture, "dev/mapper/vg0-vm1", "dev/mapper/vg0-vm1");
    check(fixture, "dev/dm-3", "dev/mapper/vg0-vm1");

    put_link(fixture, "dev/disk/by-id/scsi-36001405abc", "../../sda");
    put_link(fixture, "dev/disk/by-id/wwn-0x6001405abc", "../../sda");
    put_link(fixture, "dev/disk/by-id/wwn-0x6001405abd", "../../sda");
    put_link(fixture, "dev/disk/by-id/wwn-0x6001405abc-part1", "../../sda1");
    put_link(fixture, "dev/disk/by-id/lvm-pv-uuid-xyz", "../../sdb");
    put_link(fixture, "dev/disk/by-path/pci-0-lun-0", "../../sda");
    put_link(fixture, "dev/disk/by-path/pci-0-lun-1", "../../sdb");
    check(fixture, "dev/sda", "dev/disk/by-id/wwn-0x6001405abc");
    check(fixture, "dev/disk/by-path/pci-0-lun-0", "dev/disk/by-id/wwn-0x6001405abc");
    check(fixture, "dev/disk/by-id/scsi-36001405abc", "dev/disk/by-id/wwn-0x6001405abc");
    check(fixture, "dev/sda1", "dev/disk/by-id/wwn-0x6001405abc-part1");

    /* Nothing stable is known: as written, its directory resolved. */
    put_link(fixture, "dev/zvol/tank/vm1", "../../zd0");
    put_link(fixture, "tank", "dev/zvol/tank");
    check(fixture, "tank/vm1", "dev/zvol/tank/vm1");
    check(fixture, "dev/zvol//tank/./vm1", "dev/zvol/tank/vm1");
    check(fixture, "dev/disk/by-path/pci-0-lun-1", "dev/disk/by-path/pci-0-lun-1");
    check(fixture, "dev/sdb", "dev/sdb");
}

/* The fake /dev may itself be reached through a symlink. */
static void
test_linked_dev(Fixture *fixture, gconstpointer unused)
{
    put_link(fixture, "dev-link", "dev");
    g_autofree char *dev = at(fixture, "dev-link");
    g_autofree char *path = at(fixture, "dev-link/rbd/rbd/vm1");
    struct vl_volume_spec spec;
    g_assert_cmpint(vl_volume_from_path(path, fixture->sys, dev, &spec), ==, 0);
    assert_display(&spec, "rbd:rbd/vm1");
    vl_volume_spec_clear(&spec);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/volume/rbd-names", test_rbd_names);
    g_test_add_func("/volume/bad-rbd-names", test_bad_rbd_names);
    g_test_add_func("/volume/hosts", test_hosts);
    g_test_add_func("/volume/bad-hosts", test_bad_hosts);
    g_test_add_func("/volume/spec", test_spec);
    static const struct {
        const char *name;
        void (*func)(Fixture *fixture, gconstpointer unused);
    } paths[] = {{"/volume/krbd", test_krbd},
                 {"/volume/krbd-invisible", test_krbd_invisible},
                 {"/volume/krbd-bad", test_krbd_bad},
                 {"/volume/krbd-node", test_krbd_node},
                 {"/volume/krbd-client", test_krbd_client},
                 {"/volume/files", test_files},
                 {"/volume/missing-files", test_missing_files},
                 {"/volume/missing-parents", test_missing_parents},
                 {"/volume/odd-paths", test_odd_paths},
                 {"/volume/block-names", test_block_names},
                 {"/volume/linked-dev", test_linked_dev}};
    for (gsize i = 0; i < G_N_ELEMENTS(paths); i++)
        g_test_add(paths[i].name, Fixture, NULL, set_up, paths[i].func, tear_down);
    return g_test_run();
}

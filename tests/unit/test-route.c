/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <glib.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "lockd/route.h"

static const char *const rules[] = {"file /srv/nfs sanlock",        "any /srv none",       "block /dev/mapper sanlock",
                                    "file /srv/nfs/my images none", "any /srv/nfs/b none", NULL};

static void
test_longest_prefix(void)
{
    g_assert_cmpstr(vl_route(rules, "/srv/nfs/a.img", FALSE), ==, "sanlock");
    g_assert_cmpstr(vl_route(rules, "/srv/nfs", FALSE), ==, "sanlock");
    g_assert_cmpstr(vl_route(rules, "/srv/nfs2/a.img", FALSE), ==, "none");
    g_assert_cmpstr(vl_route(rules, "/srv/nfs/my images/x", FALSE), ==, "none");
    g_assert_cmpstr(vl_route(rules, "/srv/nfs/my", FALSE), ==, "sanlock");
    g_assert_cmpstr(vl_route(rules, "/srv/nfs/b/x", FALSE), ==, "none");
    g_assert_cmpstr(vl_route(rules, "/var/lib/x", FALSE), ==, "local");
    g_assert_cmpstr(vl_route(NULL, "/var/lib/x", FALSE), ==, "local");
}

static void
test_type(void)
{
    static const char *const both[] = {"any /x none", "file /x sanlock", NULL};
    g_assert_cmpstr(vl_route(rules, "/dev/mapper/vg-lv", TRUE), ==, "sanlock");
    g_assert_cmpstr(vl_route(rules, "/dev/mapper/vg-lv", FALSE), ==, "local");
    g_assert_cmpstr(vl_route(rules, "/srv/nfs/dev", TRUE), ==, "none");
    g_assert_cmpstr(vl_route(both, "/x/y", FALSE), ==, "sanlock");
    g_assert_cmpstr(vl_route(both, "/x/y", TRUE), ==, "none");
    g_assert_true(vl_route_uses(rules, "sanlock"));
    g_assert_false(vl_route_uses(rules, "local"));
}

static void
test_symlinked_prefix(void)
{
    g_autofree char *dir = g_dir_make_tmp("vl-route-XXXXXX", NULL);
    g_autofree char *real = g_build_filename(dir, "real", NULL);
    g_autofree char *link = g_build_filename(dir, "link", NULL);
    g_autofree char *file = g_build_filename(real, "a.img", NULL);
    g_autofree char *rule = g_strdup_printf("file %s/ sanlock", link);
    const char *const one[] = {rule, NULL};
    g_assert_cmpint(g_mkdir(real, 0700), ==, 0);
    g_assert_cmpint(symlink(real, link), ==, 0);
    g_assert_cmpstr(vl_route(one, file, FALSE), ==, "sanlock");
    g_assert_cmpint(g_unlink(link), ==, 0);
    g_assert_cmpint(g_rmdir(real), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void
test_check(void)
{
    static const char *const bad[] = {
        "", "file", "file /x", "disk /x local", "file x sanlock", "file /x ceph", "file /x sanlock "};
    for (gsize i = 0; rules[i]; i++)
        g_assert_null(vl_route_check(rules[i]));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_nonnull(vl_route_check(bad[i]));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/route/longest-prefix", test_longest_prefix);
    g_test_add_func("/route/type", test_type);
    g_test_add_func("/route/symlinked-prefix", test_symlinked_prefix);
    g_test_add_func("/route/check", test_check);
    return g_test_run();
}

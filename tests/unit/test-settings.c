/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * virtleased.conf: the shipped example, its keys, and what is refused. Example, manual page and
 * daemon must name the same keys with the same defaults.
 */
#include "lockd/settings.h"

#include <glib/gstdio.h>
#include <string.h>

#include "lockd/error.h"

#define ABSENT "/nonexistent/virtlease"

static char *
source_text(const char *path)
{
    const char *root = g_getenv("VL_SRCDIR");
    g_autofree char *full = g_build_filename(root ? root : ".", path, NULL);
    g_autoptr(GError) error = NULL;
    char *text;

    g_assert_true(g_file_get_contents(full, &text, NULL, &error));
    return text;
}

/* The first group of every match, in order. */
static char **
all_matches(const char *text, const char *pattern)
{
    g_autoptr(GRegex) regex = g_regex_new(pattern, G_REGEX_MULTILINE, 0, NULL);
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    g_autoptr(GMatchInfo) match = NULL;

    g_regex_match(regex, text, 0, &match);
    for (; g_match_info_matches(match); g_match_info_next(match, NULL))
        g_ptr_array_add(found, g_match_info_fetch(match, 1));
    g_ptr_array_add(found, NULL);
    return (char **)g_ptr_array_steal(found, NULL);
}

/* "#key = value" becomes "key = value"; prose has a space behind its '#'. */
static char *
uncommented(const char *text)
{
    g_autoptr(GRegex) regex = g_regex_new("^#(?=[a-z])", G_REGEX_MULTILINE, 0, NULL);

    return g_regex_replace(regex, text, -1, 0, "", 0, NULL);
}

static VlSettings *
load_text(const char *text, GError **error)
{
    g_autofree char *dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "virtleased.conf", NULL);
    VlSettings *settings;

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    settings = vl_settings_load(path, TRUE, error);
    g_unlink(path);
    g_rmdir(dir);
    return settings;
}

static void
assert_same(const VlSettings *a, const VlSettings *b)
{
    g_assert_cmpstr(a->socket, ==, b->socket);
    g_assert_cmpstr(a->state_dir, ==, b->state_dir);
    g_assert_cmpstr(a->run_root, ==, b->run_root);
    g_assert_cmpstr(a->plugin_conf, ==, b->plugin_conf);
    g_assert_cmpstr(a->ceph_user, ==, b->ceph_user);
    g_assert_cmpuint(a->op_timeout, ==, b->op_timeout);
    g_assert_cmpuint(a->dead_after, ==, b->dead_after);
    g_assert_cmpint(a->takeover, ==, b->takeover);
    g_assert_cmpuint(a->takeover_wait, ==, b->takeover_wait);
    g_assert_cmpint(a->takeover_watch, ==, b->takeover_watch);
    g_assert_cmpint(a->foreign_users, ==, b->foreign_users);
    g_assert_cmpuint(a->foreign_wait, ==, b->foreign_wait);
    g_assert_cmpuint(a->blocklist_expire, ==, b->blocklist_expire);
    g_assert_cmpuint(a->restart_grace, ==, b->restart_grace);
    g_assert_cmpuint(a->audit_interval, ==, b->audit_interval);
    g_assert_cmpint(a->on_lease_lost, ==, b->on_lease_lost);
    g_assert_cmpuint(a->sanlock_io_timeout, ==, b->sanlock_io_timeout);
    g_assert_cmpuint(a->sanlock_num_hosts, ==, b->sanlock_num_hosts);
    g_assert_cmpuint(a->sanlock_sector_size, ==, b->sanlock_sector_size);
    g_assert_cmpint(a->debug, ==, b->debug);
}

/* ---- the shipped file ---- */

static void
test_example(void)
{
    g_autofree char *text = source_text("examples/virtleased.conf");
    g_autoptr(GError) error = NULL;
    g_autoptr(VlSettings) settings = load_text(text, &error);
    g_autoptr(VlSettings) defaults = vl_settings_load(ABSENT, FALSE, NULL);

    g_assert_no_error(error);
    g_assert_nonnull(defaults);
    assert_same(settings, defaults);
    g_assert_null(settings->host_id);
    g_assert_null(settings->host_name);
    g_assert_null(settings->ceph_conf);
}

/* What it shows as values are the defaults, except where the default is "found out". */
static void
test_example_uncommented(void)
{
    g_autofree char *text = source_text("examples/virtleased.conf");
    g_autofree char *bare = uncommented(text);
    g_autoptr(GError) error = NULL;
    g_autoptr(VlSettings) settings = load_text(bare, &error);
    g_autoptr(VlSettings) defaults = vl_settings_load(ABSENT, FALSE, NULL);

    g_assert_no_error(error);
    assert_same(settings, defaults);
    g_assert_nonnull(settings->host_id);
    g_assert_nonnull(settings->host_name);
    g_assert_nonnull(settings->ceph_conf);
    g_assert_cmpuint(g_strv_length(settings->volumes), ==, 3);
    g_assert_nonnull(settings->local_dir);
    g_assert_nonnull(settings->sanlock_dir);
    g_assert_nonnull(settings->sanlock_user);
    g_assert_nonnull(settings->sanlock_group);
    g_assert_nonnull(settings->sanlock_lockspace);
    g_assert_nonnull(settings->sanlock_killpath);
    g_assert_cmpuint(settings->sanlock_host_id, ==, 1);
}

static void
assert_same_keys(char **a, char **b, const char *what)
{
    for (guint i = 0; a[i]; i++)
        if (!g_strv_contains((const char *const *)b, a[i]))
            g_error("key '%s' is missing in %s", a[i], what);
}

/* The daemon's own table is where a key is born. */
static void
test_documented(void)
{
    g_autofree char *source = source_text("lockd/settings.c");
    g_autofree char *example = source_text("examples/virtleased.conf");
    g_autofree char *manual = source_text("man/virtleased.conf.5");
    char *plugin_part = strstr(source, "\nsettings_check_plugin(");

    g_assert_nonnull(plugin_part);
    *plugin_part = '\0';
    g_auto(GStrv) known = all_matches(source, "\\{\"([a-z_]+)\",\\s*VL_CONF_");
    g_auto(GStrv) shown = all_matches(example, "^#([a-z_]+) = ");
    g_auto(GStrv) described = all_matches(manual, "^\\.B ([a-z_]+) = ");
    g_assert_cmpuint(g_strv_length(known), >=, 20);
    assert_same_keys(known, shown, "examples/virtleased.conf");
    assert_same_keys(known, described, "man/virtleased.conf.5");
    assert_same_keys(shown, known, "lockd/settings.c");
    assert_same_keys(described, known, "lockd/settings.c");
}

/* The plugin's file is read by the daemon as well. */
static void
test_plugin_example(void)
{
    g_autofree char *text = source_text("examples/qemu-virtlease.conf");
    g_autofree char *manual = source_text("man/qemu-virtlease.conf.5");
    g_autofree char *bare = uncommented(text);
    g_autofree char *dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "qemu-virtlease.conf", NULL);
    g_autofree char *conf = g_strdup_printf("plugin_conf = \"%s\"\n", path);
    g_autoptr(GError) error = NULL;

    g_assert_true(g_file_set_contents(path, bare, -1, NULL));
    g_autoptr(VlSettings) settings = load_text(conf, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(settings->plugin_conf, ==, path);
    g_unlink(path);
    g_rmdir(dir);

    g_auto(GStrv) shown = all_matches(text, "^#([a-z_]+) = ");
    g_auto(GStrv) described = all_matches(manual, "^\\.B ([a-z_]+) = ");
    g_assert_cmpuint(g_strv_length(shown), >=, 3);
    assert_same_keys(shown, described, "man/qemu-virtlease.conf.5");
    assert_same_keys(described, shown, "examples/qemu-virtlease.conf");
}

/* ---- values ---- */

static void
test_values(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VlSettings) settings = load_text("takeover = \"manual\"\n"
                                               "takeover_watch = \"wait\"\n"
                                               "takeover_wait = 34\n"
                                               "foreign_users = \"ignore\"\n"
                                               "on_lease_lost = \"kill\"\n"
                                               "dead_after = 4\n"
                                               "debug = 1\n"
                                               "plugin_conf = \"" ABSENT "\"\n",
                                               &error);

    g_assert_no_error(error);
    g_assert_cmpint(settings->takeover, ==, VL_TAKEOVER_MANUAL);
    g_assert_cmpint(settings->takeover_watch, ==, VL_WATCH_WAIT);
    g_assert_cmpint(settings->foreign_users, ==, VL_FOREIGN_IGNORE);
    g_assert_cmpint(settings->on_lease_lost, ==, VL_LOST_KILL);
    g_assert_true(settings->debug);
    g_assert_cmpuint(settings->takeover_wait, ==, 34);

    g_autoptr(VlSettings) follows = load_text("dead_after = 4\nplugin_conf = \"" ABSENT "\"\n", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(follows->takeover_wait, ==, 14);

    /* shorter than Ceph needs to drop a dead client's watch: such a start could never succeed */
    g_autoptr(VlSettings) never = load_text("takeover_watch = \"wait\"\nplugin_conf = \"" ABSENT "\"\n", &error);
    g_assert_null(never);
    g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
    g_assert_true(strstr(error->message, "takeover_wait of at least 40") != NULL);
}

static void
test_refused(void)
{
    static const char *const cases[][2] = {
        {"dead_after = 3\n", "*virtleased.conf:1: *'dead_after' must be from 4 to 600 (seconds)*"},
        {"\n\ndead_after = \"10\"\n", "*virtleased.conf:3: *'dead_after' needs a number*"},
        {"takeover_wait = 3601\n", "*virtleased.conf:1: *from 0 to 3600*"},
        {"takeover_wait = -1\n", "*virtleased.conf:1: *from 0 to 3600*"},
        {"op_timeout = 0\n", "*virtleased.conf:1: *from 1 to 60*"},
        {"blocklist_expire = 59\n", "*virtleased.conf:1: *from 60 to 315360000*"},
        {"blocklist_expire = 99999999999\n", "*virtleased.conf:1: *from 60 to*"},
        {"foreign_wait = 61\n", "*virtleased.conf:1: *from 0 to 60*"},
        {"restart_grace = 3601\n", "*virtleased.conf:1: *from 0 to 3600*"},
        {"audit_interval = 0\n", "*virtleased.conf:1: *from 1 to 3600*"},
        {"takeover = \"maybe\"\n", "*virtleased.conf:1: *\"auto\", \"manual\", not \"maybe\"*"},
        {"takeover_watch = 1\n", "*virtleased.conf:1: *'takeover_watch' needs a string*"},
        {"foreign_users = \"fence\"\n", "*virtleased.conf:1: *\"refuse\", \"ignore\"*"},
        {"on_lease_lost = \"reboot\"\n", "*virtleased.conf:1: *\"pause\", \"kill\", \"log\"*"},
        {"debug = yes\n", "*virtleased.conf:1: *'debug' must be 0 or 1*"},
        {"socket = /run/s\n", "*virtleased.conf:1: *'socket' needs a string, not a bare word*"},
        {"debug = 0\ndead_afer = 10\n", "*virtleased.conf:2: *unknown key 'dead_afer'*"},
        {"debug = 0\n\ndebug = 1\n", "*virtleased.conf:3: *already set in line 1*"},
        {"host_name = \"a\" b\n", "*virtleased.conf:1: *unexpected text*"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(load_text(cases[i][0], &error));
        g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
        if (!g_pattern_match_simple(cases[i][1], error->message))
            g_error("%s is refused with: %s", cases[i][0], error->message);
    }
}

/* A start that libvirtd gives up before virtleased does would be a lease granted to nobody. */
static void
test_plugin_timeout(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(load_text("takeover_wait = 35\nplugin_conf = \"" ABSENT "\"\n", &error));
    g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
    g_assert_nonnull(strstr(error->message, "takeover_wait is 35 s"));
    g_clear_error(&error);
    g_autoptr(VlSettings) settings = load_text("takeover_wait = 34\nplugin_conf = \"" ABSENT "\"\n", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(settings->takeover_wait, ==, 34);
}

static void
test_missing(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VlSettings) settings = vl_settings_load(ABSENT, FALSE, &error);

    g_assert_no_error(error);
    g_assert_nonnull(settings);
    g_assert_null(vl_settings_load(ABSENT, TRUE, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
    g_assert_nonnull(strstr(error->message, ABSENT ": "));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/settings/example", test_example);
    g_test_add_func("/settings/example-uncommented", test_example_uncommented);
    g_test_add_func("/settings/documented", test_documented);
    g_test_add_func("/settings/plugin-example", test_plugin_example);
    g_test_add_func("/settings/values", test_values);
    g_test_add_func("/settings/refused", test_refused);
    g_test_add_func("/settings/plugin-timeout", test_plugin_timeout);
    g_test_add_func("/settings/missing", test_missing);
    return g_test_run();
}

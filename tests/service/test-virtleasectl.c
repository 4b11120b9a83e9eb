/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The real virtleasectl against a virtleased of this test's own making: what it asks, what it
 * prints where, and how it ends.
 */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/service/fake-daemon.h"

enum { NOBODY = 65534 };

typedef struct {
    char *out, *err;
    int status; /* exit status */
    gint64 ms;
} Result;

static Result result;

static void
setup(struct daemon *daemon, gconstpointer data)
{
    daemon->dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    daemon->socket = g_build_filename(daemon->dir, "socket", NULL);
    daemon->json = "{\"leases\":[]}";
    daemon->fd = -1;
}

static void
teardown(struct daemon *daemon, gconstpointer data)
{
    daemon_stop(daemon);
    g_unlink(daemon->socket);
    g_assert_cmpint(g_rmdir(daemon->dir), ==, 0);
    g_free(daemon->socket);
    g_free(daemon->dir);
    g_clear_pointer(&result.out, g_free);
    g_clear_pointer(&result.err, g_free);
}

/* Runs "virtleasectl --socket SOCKET WORDS" ("" as a word: an empty one). */
static void
run_with(struct daemon *daemon, const char *words, GSpawnChildSetupFunc child, gpointer data)
{
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    g_auto(GStrv) split = g_strsplit(words, " ", -1);
    g_autoptr(GError) error = NULL;
    gint64 began = g_get_monotonic_time();
    int status;

    g_strv_builder_add_many(builder, g_getenv("VL_CTL"), "--socket", daemon->socket, NULL);
    for (guint i = 0; *words && split[i]; i++)
        g_strv_builder_add(builder, split[i]);
    g_auto(GStrv) argv = g_strv_builder_end(builder);
    g_clear_pointer(&result.out, g_free);
    g_clear_pointer(&result.err, g_free);
    g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, child, data, &result.out, &result.err, &status, &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(status));
    result.status = WEXITSTATUS(status);
    result.ms = (g_get_monotonic_time() - began) / 1000;
}

static void
run(struct daemon *daemon, const char *words)
{
    run_with(daemon, words, NULL, NULL);
}

static void
assert_ends(int status, const char *out, const char *err)
{
    if (result.status != status || !g_pattern_match_simple(out, result.out) || !g_pattern_match_simple(err, result.err))
        g_error("exit %d\n---- stdout\n%s---- stderr\n%s", result.status, result.out, result.err);
}

/* ---- what is asked ---- */

static char *
request_text(const struct daemon *daemon)
{
    GString *out = g_string_new(NULL);
    struct vl_reader reader;
    struct vl_field field;
    uint64_t timeout = 0;

    g_assert_cmpint(daemon->frame.type, ==, VL_MSG_CTL);
    vl_reader_init(&reader, daemon->body, daemon->frame.length);
    while (vl_reader_next(&reader, &field) > 0) {
        if (field.tag == VL_TAG_TIMEOUT_MS)
            g_assert_cmpint(vl_field_u64(&field, &timeout), ==, 0);
        else
            g_string_append_printf(out, "%s%.*s", out->len ? " " : "", (int)field.len, (const char *)field.bytes);
    }
    g_assert_cmpuint(timeout, <=, 60000);
    g_assert_cmpuint(timeout, >, 50000);
    return g_string_free(out, FALSE);
}

static void
test_requests(struct daemon *daemon, gconstpointer data)
{
    static const char *const cases[][2] = {
        {"status", "status"},
        {"list", "list"},
        {"list --all", "list --all"},
        {"--all list --json", "list --all"},
        {"show rbd/web1", "show rbd/web1"},
        {"show -- rbd/web1", "show rbd/web1"},
        {"fence node-b", "fence node-b"},
        {"fence --force node-b", "fence node-b --force"},
        {"release rbd/web1 --force", "release rbd/web1 --force"},
        {"--no-fence release --force rbd/web1", "release rbd/web1 --force --no-fence"},
    };

    daemon_start(daemon);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        run(daemon, cases[i][0]);
        assert_ends(0, "*\n", "");
        g_autofree char *request = request_text(daemon);
        g_assert_cmpstr(request, ==, cases[i][1]);
    }
}

static void
test_usage(struct daemon *daemon, gconstpointer data)
{
    static const char *const cases[][2] = {
        {"", "virtleasectl: no verb given\n*"},
        {"frob", "virtleasectl: unknown verb 'frob'\n*"},
        {"list --frob", "virtleasectl: Unknown option --frob\n*"},
        {"list more", "virtleasectl: 'more' is one word too many\n*"},
        {"show", "virtleasectl: 'show' needs a VOLUME\n*"},
        {"show a b", "virtleasectl: 'b' is one word too many\n*"},
        {"fence -- --force", "virtleasectl: 'fence' needs a HOST\n*"},
        {"status --all", "virtleasectl: --all does not go with 'status'\n*"},
        {"show rbd/a --force", "virtleasectl: --force does not go with 'show'\n*"},
        {"fence b --no-fence", "virtleasectl: --no-fence does not go with 'fence'\n*"},
        {"list --dry-run", "virtleasectl: --dry-run does not go with 'list'\n*"},
        {"cleanup all", "virtleasectl: 'all' is one word too many\n*"},
        {"release rbd/a", "virtleasectl: 'release' takes the lease away*say --force*\n*"},
        {"list --timeout 0", "virtleasectl: --timeout must be from 1 to 600 seconds\n*"},
        {"list --timeout 601", "virtleasectl: --timeout must be from 1 to 600 seconds\n*"},
        {"list --timeout x", "virtleasectl: Cannot parse integer*\n*"},
    };

    daemon_start(daemon);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        run(daemon, cases[i][0]);
        assert_ends(2, "", cases[i][1]);
    }
    run(daemon, "--json frob");
    assert_ends(2, "{\"error\":{\"code\":\"usage\",\"message\":\"unknown verb 'frob'\"}}\n", "");
    run(daemon, "list --frob --json");
    assert_ends(2, "{\"error\":{\"code\":\"usage\",*}}\n", "");
    g_assert_cmpuint(daemon->connections, ==, 0);
}

/* ---- answers ---- */

static void
test_answers(struct daemon *daemon, gconstpointer data)
{
    daemon->json = "{\"leases\":[{\"volume\":\"rbd:rbd/web1\",\"state\":\"held\",\"vm\":\"w\\u001b1\","
                   "\"host\":\"a\",\"pid\":7,\"since\":0}]}";
    daemon_start(daemon);
    run(daemon, "list");
    assert_ends(0, "VOLUME *\nrbd:rbd/web1  held   w\\x1b1  a     7    -\n", "");
    run(daemon, "list --json");
    g_assert_cmpstr(result.out, ==,
                    "{\"leases\":[{\"volume\":\"rbd:rbd/web1\",\"state\":\"held\",\"vm\":\"w\\u001b1\","
                    "\"host\":\"a\",\"pid\":7,\"since\":0}]}\n");
}

static void
test_refusals(struct daemon *daemon, gconstpointer data)
{
    static const struct {
        enum vl_error code;
        int status;
        const char *name;
    } cases[] = {
        {VL_ERR_HELD, 4, "held"},
        {VL_ERR_MISSING, 1, "missing"},
        {VL_ERR_NOT_PERMITTED, 1, "not-permitted"},
        {VL_ERR_UNKNOWN_OWNER, 1, "unknown-owner"},
        {(enum vl_error)4711, 1, "unknown"},
    };

    daemon->text = "host \"b\" lives\n\033[2J";
    daemon_start(daemon);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        daemon->code = cases[i].code;
        run(daemon, "fence b");
        assert_ends(cases[i].status, "", "virtleasectl: host \"b\" lives\\x0a\\x1b[2J\n");
        run(daemon, "fence b --json");
        g_autofree char *expected = g_strdup_printf("{\"error\":{\"code\":\"%s\",\"message\":\"host \\\"b\\\" lives\\n"
                                                    "\\u001b[2J\"}}\n",
                                                    cases[i].name);
        g_assert_cmpstr(result.out, ==, expected);
        assert_ends(cases[i].status, "*", "");
    }
}

static void
test_no_reason(struct daemon *daemon, gconstpointer data)
{
    daemon->code = VL_ERR_STORAGE;
    daemon_start(daemon);
    run(daemon, "list");
    assert_ends(1, "", "virtleasectl: virtleased refused and gave no reason\n");
}

/* It has answered before it read the question: to somebody who is not root, or when it is busy. */
static void
test_early_refusal(struct daemon *daemon, gconstpointer data)
{
    for (guint i = 0; i < G_N_ELEMENTS(daemon->script); i++)
        daemon->script[i] = REFUSE;
    daemon->code = VL_ERR_TIMEOUT;
    daemon->text = "busy";
    daemon_start(daemon);
    for (guint i = 0; i < 20; i++) { /* sometimes it has closed before we write, sometimes not */
        run(daemon, "list");
        assert_ends(1, "", "virtleasectl: busy\n");
    }
}

static void
test_nonsense(struct daemon *daemon, gconstpointer data)
{
    static const char *const answers[] = {"", "no JSON", "[]", "{\"leases\":", "7"};

    daemon->script[0] = GARBAGE;
    daemon->script[1] = NOT_REPLY;
    daemon->script[2] = NO_CODE;
    daemon->script[3] = ANSWER;
    daemon_start(daemon);
    for (guint i = 0; i < 3; i++) {
        run(daemon, "list");
        assert_ends(1, "", "virtleasectl: what listens at * does not answer like a virtleased\n");
    }
    for (guint i = 0; i < G_N_ELEMENTS(answers); i++) {
        daemon->json = answers[i];
        run(daemon, "--json list");
        assert_ends(1, "{\"error\":{\"code\":\"protocol\",*is not JSON*}}\n", "");
    }
    daemon->json = NULL;
    run(daemon, "list");
    assert_ends(1, "", "virtleasectl: what listens at * does not answer like a virtleased\n");
}

/* ---- cleanup: many requests ---- */

#define CANDIDATES                                                                                                     \
    "{\"directory\":\"/"                                                                                               \
    "l\",\"left\":[{\"file\":\"odd\",\"result\":\"unknown\",\"why\":\"w\"}],\"candidates\":[\"1\",\"2\","              \
    "\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\"]"

static void
test_cleanup(struct daemon *daemon, gconstpointer data)
{
    daemon->json = CANDIDATES ",\"files\":[{\"file\":\"x\",\"result\":\"removed\"},{\"file\":\"y\",\"result\":"
                              "\"used\",\"why\":\"u\"},{\"file\":\"z\",\"result\":\"gone\"}]}";
    daemon_start(daemon);
    run(daemon, "cleanup");
    assert_ends(0, "/l: 2 lease files removed, 2 files in use left alone\n\nNOT UNDERSTOOD*\nodd * w\n", "");
    g_assert_cmpuint(daemon->connections, ==, 3); /* candidates, twelve of them, two of them */
    g_autofree char *last = request_text(daemon);
    g_assert_cmpstr(last, ==, "cleanup 13 14");
    run(daemon, "cleanup --dry-run --json");
    assert_ends(0, "{\"directory\":\"/l\",\"dry_run\":true,\"looked_at\":14,\"removed\":*", "");
    g_autofree char *dry = request_text(daemon);
    g_assert_cmpstr(dry, ==, "cleanup --dry-run 13 14");
}

static void
test_cleanup_progress(struct daemon *daemon, gconstpointer data)
{
    daemon->json = CANDIDATES ",\"files\":[{\"file\":\"x\",\"result\":\"removed\"}]}";
    daemon->delay_ms = 1100;
    daemon_start(daemon);
    run(daemon, "cleanup");
    assert_ends(0, "/l: 2 lease files removed*", "virtleasectl: 12 of 14 lease files looked at, 1 removed\n");
}

static void
test_cleanup_refused(struct daemon *daemon, gconstpointer data)
{
    daemon->json = CANDIDATES "}";
    daemon_start(daemon);
    run(daemon, "cleanup");
    assert_ends(1, "", "virtleasectl: after 0 of 14 lease files, 0 of them removed: *different versions\n");
    daemon->json = "{\"candidates\":[1]}";
    run(daemon, "cleanup");
    assert_ends(1, "", "virtleasectl: *a file that is none\n");
    daemon->code = VL_ERR_STORAGE;
    daemon->text = "cleanup: this host is not in the sanlock lockspace";
    run(daemon, "cleanup");
    assert_ends(1, "", "virtleasectl: cleanup: this host is not in the sanlock lockspace\n");
}

/* ---- a daemon that is not there, or is slow ---- */

static void
test_absent(struct daemon *daemon, gconstpointer data)
{
    g_autofree char *expected = g_strdup_printf("virtleasectl: virtleased cannot be reached at %s: No such file or "
                                                "directory. Start it with 'systemctl start virtleased'*\n",
                                                daemon->socket);

    run(daemon, "list");
    assert_ends(3, "", expected);
    g_assert_cmpint(result.ms, <, 5000);
    run(daemon, "list --json");
    assert_ends(3, "{\"error\":{\"code\":\"daemon\",\"message\":*}}\n", "");
}

static void
test_dies(struct daemon *daemon, gconstpointer data)
{
    daemon->script[0] = HANG_UP;
    daemon_start(daemon);
    run(daemon, "list");
    assert_ends(3, "", "virtleasectl: virtleased went away before it answered*\n");
}

static void
test_slow(struct daemon *daemon, gconstpointer data)
{
    daemon->delay_ms = 2500;
    daemon_start(daemon);
    run(daemon, "show rbd/web1 --json");
    assert_ends(0, "{\"leases\":*}\n",
                "virtleasectl: waiting for virtleased (2 s of at most 60 s): reading the lease of "
                "rbd/web1\n");
}

static void
test_silent(struct daemon *daemon, gconstpointer data)
{
    daemon->script[0] = SAY_NOTHING;
    daemon_start(daemon);
    run(daemon, "fence b --timeout=3");
    assert_ends(1, "",
                "virtleasectl: waiting for virtleased (2 s of at most 3 s): *\n"
                "virtleasectl: virtleased did not answer within 3 s: *host b*\n");
    g_assert_cmpint(result.ms, >=, 3000);
    g_assert_cmpint(result.ms, <, 8000);
}

/* ---- surroundings ---- */

/* As another user; the build may be where only root can look, so the program is opened before. */
typedef struct {
    int program;
    char *argv[5];
} Nobody;

static void
become_nobody(gpointer data)
{
    Nobody *nobody = data;

    if (geteuid() == 0 && (setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
        _exit(99);
    (void)fexecve(nobody->program, nobody->argv, environ);
    _exit(98);
}

static void
test_not_root(struct daemon *daemon, gconstpointer data)
{
    Nobody nobody = {open(g_getenv("VL_CTL"), O_PATH),
                     {(char *)"virtleasectl", (char *)"--socket", daemon->socket, (char *)"list"}};

    daemon_start(daemon);
    g_assert_cmpint(g_chmod(daemon->socket, 0), ==, 0);
    run_with(daemon, "", become_nobody, &nobody);
    assert_ends(1, "",
                "virtleasectl: only root may talk to virtleased (socket *: Permission "
                "denied)\n");
    close(nobody.program);
}

static void
full_stdout(gpointer data)
{
    (void)dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO);
}

static void
test_full_disk(struct daemon *daemon, gconstpointer data)
{
    daemon_start(daemon);
    run_with(daemon, "list", full_stdout, NULL);
    assert_ends(1, "", "virtleasectl: the answer could not be printed: No space left on device\n");
}

static void
test_help(struct daemon *daemon, gconstpointer data)
{
    g_autofree char *path = g_build_filename(g_getenv("VL_SRCDIR"), "man/virtleasectl.8", NULL);
    g_autofree char *manual = NULL;
    g_autoptr(GRegex) option = g_regex_new("--[a-z-]+", 0, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;

    g_assert_true(g_file_get_contents(path, &manual, NULL, NULL));
    run(daemon, "--version");
    assert_ends(0, "virtleasectl *\n", "");
    run(daemon, "--help");
    assert_ends(0, "*release VOLUME --force*Exit status: 0 *", "");
    for (g_regex_match(option, result.out, 0, &match); g_match_info_matches(match); g_match_info_next(match, NULL)) {
        g_autofree char *name = g_match_info_fetch(match, 0);
        g_auto(GStrv) parts = g_strsplit(name, "-", -1);
        g_autofree char *escaped = g_strjoinv("\\-", parts);
        if (!strstr(manual, escaped))
            g_error("%s is not in the manual page", name);
    }
    run(daemon, "help");
    assert_ends(0, "*Exit status: 0 *", "");
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(struct daemon *daemon, gconstpointer data);
    } tests[] = {
        {"/ctl/requests", test_requests},
        {"/ctl/usage", test_usage},
        {"/ctl/answers", test_answers},
        {"/ctl/refusals", test_refusals},
        {"/ctl/no-reason", test_no_reason},
        {"/ctl/early-refusal", test_early_refusal},
        {"/ctl/nonsense", test_nonsense},
        {"/ctl/cleanup", test_cleanup},
        {"/ctl/cleanup-progress", test_cleanup_progress},
        {"/ctl/cleanup-refused", test_cleanup_refused},
        {"/ctl/absent", test_absent},
        {"/ctl/dies", test_dies},
        {"/ctl/slow", test_slow},
        {"/ctl/silent", test_silent},
        {"/ctl/not-root", test_not_root},
        {"/ctl/full-disk", test_full_disk},
        {"/ctl/help", test_help},
    };

    g_test_init(&argc, &argv, NULL);
    g_assert_nonnull(g_getenv("VL_CTL"));
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].name, struct daemon, NULL, setup, tests[i].run, teardown);
    return g_test_run();
}

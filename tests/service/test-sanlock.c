/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The sanlock parts of virtleased against real sanlock daemons, one per host, on one lease directory. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/service/sanlock-rig.h"

#define AREA (1024 * 1024)

static char *
read_head(const char *path, gsize *ret_size)
{
    char *bytes = NULL;
    g_assert_true(g_file_get_contents(path, &bytes, ret_size, NULL));
    return bytes;
}

static void
write_file(const char *path, const char *bytes, gsize size)
{
    g_assert_true(g_file_set_contents(path, bytes, (gssize)size, NULL));
}

static double
since(gint64 began)
{
    return (double)(g_get_monotonic_time() - began) / G_USEC_PER_SEC;
}

/* Nothing but what has a name is left in the lease directory. */
static void
assert_no_temporary_file(Rig *rig)
{
    g_autoptr(GDir) dir = g_dir_open(rig->leases, 0, NULL);
    for (const char *name = g_dir_read_name(dir); name; name = g_dir_read_name(dir))
        g_assert_false(g_str_has_prefix(name, ".virtlease-tmp"));
}

/* ---- lockspace ---- */

static void
test_empty_directory(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    /* both at once */
    g_free(host_answer(a, host_send(a, "start")));
    g_free(host_answer(b, host_send(b, "start")));
    host_until(a, 20, "ok joined;*", "status");
    host_until(b, 20, "ok joined;*", "status");
    host_until(a, 20, "ok joined;*hosts 2;*", "status");
    assert_like(host_do(a, "status"), "*watchdog no");
    assert_no_temporary_file(rig);
    host_free(a);
    host_free(b);
}

/* Twenty makers of one name: one file, and nobody formats it after the first. */
static void
test_made_once(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    guint ids[20], made = 0;
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++)
        ids[i] = host_send(i % 2 ? a : b, "make __LIBVIRT__DISKS__");
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *answer = host_answer(i % 2 ? a : b, ids[i]);
        g_assert_true(g_str_has_prefix(answer, "ok"));
        made += g_str_equal(answer, "ok made");
    }
    g_assert_cmpuint(made, ==, 1);
    assert_no_temporary_file(rig);
    host_free(a);
    host_free(b);
}

static void
check_left_alone(Rig *rig, const char *bytes, gsize size, const char *pattern)
{
    g_autofree char *path = g_build_filename(rig->leases, "__LIBVIRT__DISKS__", NULL);
    gsize size_after;
    write_file(path, bytes, size);
    Host *a = host_new(rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 20, pattern, "status");
    g_autofree char *after = read_head(path, &size_after);
    g_assert_cmpmem(bytes, size, after, size_after);
    host_free(a);
}

static void
test_space_with_other_content(Rig *rig, gconstpointer unused)
{
    g_autofree char *zeros = g_malloc0(AREA);
    check_left_alone(rig, "", 0, "ok formatting; *too short*left as it is*");
    check_left_alone(rig, "precious", 8, "ok formatting; *too short*left as it is*");
    remove(rig->leases);
    check_left_alone(rig, zeros, AREA, "ok formatting; *never formatted*left as it is*");
}

/* libvirt's own plugin makes the file first and formats it then: that is waited for. */
static void
test_space_being_formatted(Rig *rig, gconstpointer unused)
{
    g_autofree char *path = g_build_filename(rig->leases, "__LIBVIRT__DISKS__", NULL);
    g_autofree char *arg = g_strdup_printf("__LIBVIRT__DISKS__:0:%s:0", path);
    write_file(path, "", 0);
    Host *a = host_new(rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 10, "ok formatting; *Waiting for whoever*", "status");
    g_assert_cmpint(truncate(path, AREA), ==, 0);
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE);
    g_subprocess_launcher_setenv(launcher, "SANLOCK_RUN_DIR", a->run_dir, TRUE);
    g_autoptr(GSubprocess) init =
        g_subprocess_launcher_spawn(launcher, NULL, g_getenv("VL_SANLOCK"), "client", "init", "-s", arg, NULL);
    g_assert_true(g_subprocess_wait_check(init, NULL, NULL));
    /* formatted for the default I/O timeout of 10 s, so joining takes 20 */
    host_until(a, 60, "ok joined;*", "status");
    host_free(a);
}

static void
test_directory_missing(Rig *rig, gconstpointer unused)
{
    g_assert_cmpint(g_rmdir(rig->leases), ==, 0);
    Host *a = host_new(rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 10, "ok formatting; *__LIBVIRT__DISKS__*the directory does not exist*", "status");
    g_assert_cmpint(g_mkdir(rig->leases, 0755), ==, 0);
    host_until(a, 30, "ok joined;*", "status");
    host_free(a);
}

/* ---- leases ---- */

static void
test_two_hosts(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    host_join(a);
    host_join(b);
    host_do(a, "vm v");
    host_do(a, "vm w");
    host_do(b, "vm v");
    host_do(b, "vm w");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*"); /* has it already */
    assert_like(host_do(a, "held v /disk"), "ok 1");
    host_until(b, 10, "ok joined;*hosts 2;*", "status");
    host_until(b, 5, "error held * file:/disk: held by host 1 (node-1)*, which is alive*", "take v /disk 10 0");
    assert_like(host_do(a, "take w /disk 10 0"), "error held * file:/disk: held by another VM of this host*");
    assert_like(host_do(b, "owner /disk"), "ok 1 host 1 (node-1)*");
    /* the process dies: free at once */
    gint64 began = g_get_monotonic_time();
    host_do(a, "kill v");
    host_until(b, 5, "ok*", "take v /disk 10 0");
    g_test_message("free %.3f s after kill -9", since(began));
    g_assert_cmpfloat(since(began), <, 2);
    assert_like(host_do(b, "drop v /disk"), "ok");
    assert_like(host_do(b, "drop v /disk"), "ok"); /* not held any more */
    assert_like(host_do(b, "held v /disk"), "ok none");
    assert_like(host_do(a, "take w /disk 10 0"), "ok*");
    assert_no_temporary_file(rig);
    host_free(a);
    host_free(b);
}

/* Of all simultaneous starts of one volume exactly one wins, the lease file being made on the way. */
static void
test_race(Rig *rig, gconstpointer unused)
{
    Host *hosts[2] = {host_new(rig, 1), host_new(rig, 2)};
    guint ids[2][4];
    for (guint h = 0; h < 2; h++)
        host_join(hosts[h]);
    for (guint h = 0; h < 2; h++)
        for (guint i = 0; i < 4; i++)
            host_do(hosts[h], "vm v%u", i);
    for (guint round = 0; round < 5; round++) {
        guint won = 0;
        for (guint i = 0; i < 8; i++)
            ids[i % 2][i / 2] = host_send(hosts[i % 2], "take v%u /disk%u 20 0", i / 2, round);
        for (guint i = 0; i < 8; i++) {
            g_autofree char *answer = host_answer(hosts[i % 2], ids[i % 2][i / 2]);
            won += g_str_has_prefix(answer, "ok");
            if (!g_str_has_prefix(answer, "ok"))
                assert_like(answer, "error held *");
        }
        g_assert_cmpuint(won, ==, 1);
    }
    host_free(hosts[0]);
    host_free(hosts[1]);
}

static void
test_shared(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    host_join(a);
    host_join(b);
    host_do(a, "vm v");
    host_do(a, "vm w");
    host_do(b, "vm v");
    assert_like(host_do(a, "take v /disk 10 0 shared"), "ok*");
    assert_like(host_do(a, "take w /disk 10 0 shared"), "ok*");
    assert_like(host_do(b, "take v /disk 10 0 shared"), "ok*");
    host_do(b, "vm x");
    assert_like(host_do(b, "drop v /disk"), "ok");
    assert_like(host_do(b, "take x /disk 10 0"), "error held *file:/disk: *");
    assert_like(host_do(a, "drop v /disk"), "ok");
    assert_like(host_do(a, "drop w /disk"), "ok");
    assert_like(host_do(b, "take x /disk 10 0"), "ok*");
    assert_like(host_do(a, "take v /disk 10 0 shared"), "error held *");
    host_free(a);
    host_free(b);
}

/* With a version: only if nobody had it meanwhile. */
static void
test_version(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    host_join(a);
    host_join(b);
    host_do(a, "vm v");
    host_do(b, "vm v");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    assert_like(host_do(a, "held v /disk"), "ok 1");
    assert_like(host_do(a, "drop v /disk"), "ok");
    assert_like(host_do(b, "take v /disk 10 0 1"), "ok*");
    assert_like(host_do(b, "held v /disk"), "ok 2");
    assert_like(host_do(b, "drop v /disk"), "ok");
    assert_like(host_do(a, "take v /disk 10 0 1"), "error stale-memory *file:/disk:*memory here is stale*");
    assert_like(host_do(a, "held v /disk"), "ok none");
    assert_like(host_do(a, "take v /disk 10 0 2"), "ok*");
    host_free(a);
    host_free(b);
}

static void
test_not_registered(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1);
    host_join(a);
    host_do(a, "vm v");
    host_do(a, "kill v");
    assert_like(host_do(a, "take v /disk 10 0"), "error not-registered *file:/disk:*not registered with*");
    assert_like(host_do(a, "held v /disk"), "error not-registered *");
    host_free(a);
}

/* What a damaged lease file is called, and that nobody touches it. */
static void
test_damaged_files(Rig *rig, gconstpointer unused)
{
    g_autofree char *zeros = g_malloc0(AREA);
    g_autofree char *file = rig_lease_file(rig, "/disk"), *other = rig_lease_file(rig, "/other");
    gsize size;
    Host *a = host_new(rig, 1);
    host_join(a);
    host_do(a, "vm v");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    assert_like(host_do(a, "drop v /disk"), "ok");
    assert_like(host_do(a, "take v /other 10 0"), "ok*");
    assert_like(host_do(a, "drop v /other"), "ok");
    g_autofree char *good = read_head(file, &size), *bad = g_memdup2(good, size);
    g_autofree char *foreign = read_head(other, NULL);
    bad[48] ^= 1; /* the version */
    g_autofree char *space_file = g_build_filename(rig->leases, "__LIBVIRT__DISKS__", NULL);
    g_autofree char *lockspace = read_head(space_file, NULL);
    const struct {
        const char *bytes;
        gsize size;
        const char *pattern;
    } cases[] = {
        {"", 0, "error record *file:/disk: lease file */leases/*: the file is empty or too short*"},
        {good, 4096, "error record *file:/disk: lease file *: the file is empty or too short*"},
        {zeros, AREA, "error record *never formatted*"},
        {foreign, AREA, "error record *belongs to another volume*"},
        {bad, AREA, "error record *wrong checksum*"},
        {lockspace, AREA, "error record *never formatted*"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        gsize size_after;
        write_file(file, cases[i].bytes, cases[i].size);
        assert_like(host_do(a, "take v /disk 20 0"), cases[i].pattern);
        g_autofree char *after = read_head(file, &size_after);
        g_assert_cmpmem(cases[i].bytes, cases[i].size, after, size_after);
    }
    write_file(file, good, size);
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    host_free(a);
}

static void
test_many_disks(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1);
    gint64 one = 0, eight = 0;
    host_join(a);
    host_do(a, "vm v");
    for (guint i = 0; i < 20; i++)
        assert_like(host_do(a, "take v /disk%u 10 0", i), "ok*");
    for (guint i = 0; i < 20; i++)
        assert_like(host_do(a, "held v /disk%u", i), "ok 1");
    for (guint i = 0; i < 20; i++)
        assert_like(host_do(a, "drop v /disk%u", i), "ok");
    for (guint i = 0; i < 20; i++)
        assert_like(host_do(a, "held v /disk%u", i), "ok none");
    for (guint round = 0; round < 10; round++) {
        gint64 began = g_get_monotonic_time();
        for (guint i = 0; i < 8; i++) {
            host_do(a, "take v /disk%u 10 0", i);
            one += i == 0 ? g_get_monotonic_time() - began : 0;
        }
        eight += g_get_monotonic_time() - began;
        for (guint i = 0; i < 8; i++)
            host_do(a, "drop v /disk%u", i);
    }
    g_test_message("one disk %.1f ms, eight disks %.1f ms", (double)one / 10000, (double)eight / 10000);
    host_free(a);
}

/* ---- the daemon goes away, hangs ---- */

static void
test_daemon_killed(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1);
    host_join(a);
    host_do(a, "vm v");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    assert_like(host_do(a, "status"), "*losses 1;*"); /* the first look after a start */
    gint64 began = g_get_monotonic_time();
    host_daemon_kill(a, SIGKILL);
    host_until(a, 5, "*losses 2;*", "status");
    g_test_message("noticed after %.3f s", since(began));
    g_assert_cmpfloat(since(began), <, 1);
    host_until(a, 5, "ok sanlock down;*", "status");
    assert_like(host_do(a, "take v /disk 10 0"), "error storage *file:/disk:*not in the sanlock lockspace*");
    host_daemon_start(a);
    host_until(a, 30, "ok joined;*", "status");
    /* Nobody but the process itself could register it again. */
    assert_like(host_do(a, "take v /disk 10 0"), "error not-registered *");
    assert_like(host_do(a, "alive v"), "ok yes");
    host_free(a);
}

/* A restart of the daemon that asks (the program here): nothing is lost, all is found again. */
static void
test_asker_restarted(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1);
    host_join(a);
    host_stop(a);
    host_start(a);
    gint64 began = g_get_monotonic_time();
    host_join(a);
    g_assert_cmpfloat(since(began), <, 2);
    assert_like(host_do(a, "status"), "*losses 0;*");
    host_free(a);
}

static void
test_daemon_hangs(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1);
    host_join(a);
    host_do(a, "vm v");
    host_do(a, "vm w");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*"); /* or its file would have to be made first */
    assert_like(host_do(a, "drop v /disk"), "ok");
    host_daemon_kill(a, SIGSTOP);
    gint64 began = g_get_monotonic_time();
    assert_like(host_do(a, "take v /disk 1 0"), "error timeout *file:/disk:*");
    g_assert_cmpfloat(since(began), <, 2);
    assert_like(host_do(a, "take v /disk 1 0"), "error timeout *earlier call*");
    host_daemon_kill(a, SIGCONT);
    /* what came too late has been given back */
    host_until(a, 10, "*hung 0;*", "status");
    assert_like(host_do(a, "held v /disk"), "ok none");
    assert_like(host_do(a, "take w /disk 10 0"), "ok*");
    host_free(a);
}

/* ---- dead owners ---- */

static void
test_power_loss(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    guint ids[20];
    host_join(a);
    host_join(b);
    host_do(a, "vm v");
    host_do(b, "vm free");
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
        host_do(b, "vm v%u", i);
        assert_like(host_do(a, "take v /disk%u 10 0", i), "ok*");
    }
    host_until(b, 10, "ok joined;*hosts 2;*", "status");
    g_usleep(5 * G_USEC_PER_SEC); /* b has seen a's record change */
    gint64 began = g_get_monotonic_time();
    host_daemon_kill(a, SIGKILL);
    host_stop(a);
    /* no waiting wanted: refused at once, soon with the time left */
    assert_like(host_do(b, "take v0 /disk0 10 0"), "error held *host 1 (node-1)*");
    host_until(b, 10, "error unknown-owner * file:/disk0: held by host 1 (node-1)*8 x io_timeout + 60*in 6? s*",
               "take v0 /disk0 10 0");
    g_assert_cmpfloat(since(began), <, 10);
    /* twenty that wait are in nobody's way */
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++)
        ids[i] = host_send(b, "take v%u /disk%u 120 120", i, i);
    g_usleep(500 * 1000);
    for (guint i = 0; i < 20; i++) {
        gint64 before = g_get_monotonic_time();
        assert_like(host_do(b, "take free /free%u 10 0", i), "ok*");
        g_test_message("free volume taken in %.3f s", since(before));
        g_assert_cmpfloat(since(before), <, 1);
        g_usleep(100 * 1000);
    }
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *answer = host_answer(b, ids[i]);
        assert_like(answer, "ok *");
        if (i == 0)
            g_test_message("taken over %.1f s after the power loss", since(began));
        g_assert_cmpfloat(since(began), >, 66);
        g_assert_cmpfloat(since(began), <, 80);
    }
    host_free(a);
    host_free(b);
}

/* Told to wait for long, but the owner lives: refused as soon as it shows. */
static void
test_living_owner_is_not_waited_for(Rig *rig, gconstpointer unused)
{
    Host *a = host_new(rig, 1), *b = host_new(rig, 2);
    host_join(a);
    host_join(b);
    host_do(a, "vm v");
    host_do(b, "vm v");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    host_until(b, 10, "ok joined;*hosts 2;*", "status");
    gint64 began = g_get_monotonic_time();
    assert_like(host_do(b, "take v /disk 200 200"), "error held *host 1 (node-1)*, which is alive*");
    g_assert_cmpfloat(since(began), <, 8);
    host_free(a);
    host_free(b);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/sanlock/" name, Rig, NULL, rig_setup, func, rig_teardown)
    ADD("space/empty-directory", test_empty_directory);
    ADD("space/made-once", test_made_once);
    ADD("space/other-content", test_space_with_other_content);
    ADD("space/being-formatted", test_space_being_formatted);
    ADD("space/directory-missing", test_directory_missing);
    ADD("lease/two-hosts", test_two_hosts);
    ADD("lease/race", test_race);
    ADD("lease/shared", test_shared);
    ADD("lease/version", test_version);
    ADD("lease/not-registered", test_not_registered);
    ADD("lease/damaged-files", test_damaged_files);
    ADD("lease/many-disks", test_many_disks);
    ADD("daemon/killed", test_daemon_killed);
    ADD("daemon/asker-restarted", test_asker_restarted);
    ADD("daemon/hangs", test_daemon_hangs);
    ADD("owner/living", test_living_owner_is_not_waited_for);
    ADD("owner/power-loss", test_power_loss);
    return g_test_run();
}

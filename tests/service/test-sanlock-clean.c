/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Lease files that nobody uses are removed, whatever others do at the very moment: real sanlock daemons, one per host,
 * on one lease directory. The moments are fault points (HACKING.md). */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

#include "lockd/sanlock_clean.h"
#include "tests/service/sanlock-rig.h"

#define DISK "/disk"

typedef struct {
    Rig rig;
    Host *a, *b;
    char *file; /* of DISK */
    char *faults;
} Two;

static void
two_setup(Two *two, gconstpointer unused)
{
    rig_setup(&two->rig, NULL);
    two->faults = g_build_filename(two->rig.dir, "faults", NULL);
    g_assert_cmpint(g_mkdir(two->faults, 0755), ==, 0);
    g_setenv("VIRTLEASE_FAULT_DIR", two->faults, TRUE);
    two->a = host_new(&two->rig, 1);
    two->b = host_new(&two->rig, 2);
    host_join(two->a);
    host_join(two->b);
    host_until(two->a, 10, "ok joined;*hosts 2;*", "status");
    host_until(two->b, 10, "ok joined;*hosts 2;*", "status");
    for (guint i = 0; i < 2; i++)
        host_do(i ? two->b : two->a, "vm v");
    two->file = rig_lease_file(&two->rig, DISK);
}

static void
two_teardown(Two *two, gconstpointer unused)
{
    host_free(two->a);
    host_free(two->b);
    g_free(two->file);
    g_free(two->faults);
    rig_teardown(&two->rig, NULL);
}

static void
make_old(const char *path, time_t seconds)
{
    struct utimbuf times = {.actime = time(NULL) - seconds, .modtime = time(NULL) - seconds};
    g_assert_cmpint(utime(path, &times), ==, 0);
}

/* The lease file of a volume that had a VM once. */
static char *
stale(Two *two, Host *host, const char *volume)
{
    char *file = rig_lease_file(&two->rig, volume);
    assert_like(host_do(host, "take v %s 10 0", volume), "ok*");
    assert_like(host_do(host, "drop v %s", volume), "ok");
    make_old(file, 2 * VL_SANLOCK_QUIET_S);
    return file;
}

static const char *
base(const char *file)
{
    return strrchr(file, '/') + 1;
}

static char *
fault_path(const Two *two, const char *name)
{
    return g_build_filename(two->faults, name, NULL);
}

static void
fault_set(const Two *two, const char *name)
{
    g_autofree char *path = fault_path(two, name);
    g_assert_true(g_file_set_contents(path, "wait", -1, NULL));
}

static void
fault_wait(const Two *two, const char *name)
{
    g_autofree char *path = fault_path(two, name);
    g_autofree char *hit = g_strconcat(path, ".hit", NULL);
    gint64 until = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
    while (!g_file_test(hit, G_FILE_TEST_EXISTS)) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(5 * 1000);
    }
}

static void
fault_end(const Two *two, const char *name)
{
    g_autofree char *path = fault_path(two, name);
    g_assert_cmpint(g_unlink(path), ==, 0);
}

static void
assert_no_second_name(const Two *two)
{
    g_autoptr(GDir) dir = g_dir_open(two->rig.leases, 0, NULL);
    for (const char *name = g_dir_read_name(dir); name; name = g_dir_read_name(dir))
        g_assert_false(g_str_has_prefix(name, ".virtlease-tmp"));
}

/* ---- */

static void
test_names(void)
{
    g_assert_cmpint(vl_sanlock_name_kind("0123456789abcdef0123456789abcdef"), ==, VL_SANLOCK_NAME_LEASE);
    g_assert_cmpint(vl_sanlock_name_kind("0123456789ABCDEF0123456789abcdef"), ==, VL_SANLOCK_NAME_ALIEN);
    g_assert_cmpint(vl_sanlock_name_kind("0123456789abcdef0123456789abcde"), ==, VL_SANLOCK_NAME_ALIEN);
    g_assert_cmpint(vl_sanlock_name_kind("0123456789abcdef0123456789abcdef0"), ==, VL_SANLOCK_NAME_ALIEN);
    g_assert_cmpint(vl_sanlock_name_kind("__LIBVIRT__DISKS__"), ==, VL_SANLOCK_NAME_OWN);
    g_assert_cmpint(vl_sanlock_name_kind(".virtlease-host-7"), ==, VL_SANLOCK_NAME_OWN);
    g_assert_cmpint(vl_sanlock_name_kind(".virtlease-tmp-aB3xyz"), ==, VL_SANLOCK_NAME_TEMP);
    g_assert_cmpint(vl_sanlock_name_kind("lost+found"), ==, VL_SANLOCK_NAME_ALIEN);
}

static void
test_which(Two *two, gconstpointer unused)
{
    g_autofree char *gone = stale(two, two->b, "/gone"), *held = stale(two, two->a, "/held-by-other");
    g_autofree char *own = stale(two, two->a, "/held-here"), *recent = stale(two, two->a, "/recent");
    g_autofree char *odd = rig_lease_file(&two->rig, "/odd"), *link = rig_lease_file(&two->rig, "/link");
    g_autofree char *temp = g_build_filename(two->rig.leases, ".virtlease-tmp-abcdef", NULL);
    g_autofree char *space = g_build_filename(two->rig.leases, "__LIBVIRT__DISKS__", NULL);
    assert_like(host_do(two->b, "take v /held-by-other 10 0"), "ok*");
    assert_like(host_do(two->a, "take v /held-here 10 0"), "ok*");
    make_old(held, 5000);
    make_old(own, 5000);
    make_old(space, 50000);
    make_old(recent, VL_SANLOCK_QUIET_S / 2);
    g_assert_true(g_file_set_contents(odd, "precious", -1, NULL));
    make_old(odd, 5000);
    g_assert_true(g_file_set_contents(temp, "", -1, NULL));
    make_old(temp, 50000); /* but its ctime is now */
    g_assert_cmpint(symlink(gone, link), ==, 0);

    const char *list = host_do(two->a, "clean");
    g_autofree char *listed = g_strdup(list);
    g_autofree char *candidates = g_strdup(strstr(listed, "\"candidates\""));
    g_assert_nonnull(strstr(candidates, base(gone)));
    g_assert_nonnull(strstr(candidates, base(held)));
    g_assert_null(strstr(candidates, base(recent)));
    g_assert_null(strstr(candidates, base(link)));
    g_assert_null(strstr(candidates, base(temp)));
    g_assert_null(strstr(listed, "__LIBVIRT__"));

    g_autofree char *pattern =
        g_strdup_printf("ok *%s*,\"result\":\"used\",\"why\":\"held by host 2 (node-2)\"*%s*\"used\",\"why\":\"held by "
                        "host 1*%s*\"used\",*10 minutes*%s*\"unknown\",*too short*%s*\"unknown\",*not a "
                        "regular*%s*\"used\",*less than an hour*\"%s\",\"result\":\"unused\"*",
                        base(held), base(own), base(recent), base(odd), base(link), base(temp), base(gone));
    assert_like(host_do(two->a, "clean --dry-run %s %s %s %s %s %s %s", base(held), base(own), base(recent), base(odd),
                        base(link), base(temp), base(gone)),
                pattern);
    g_assert_true(g_file_test(gone, G_FILE_TEST_EXISTS));
    assert_like(host_do(two->a, "clean ../etc/passwd"), "error protocol *");
    assert_like(host_do(two->a, "clean %s %s %s %s %s %s %s __LIBVIRT__DISKS__", base(held), base(own), base(recent),
                        base(odd), base(link), base(temp), base(gone)),
                "ok *DISKS__\",\"result\":\"unknown\"*\"used\",\"why\":\"*another VM of this host*\"removed\"*");
    g_assert_false(g_file_test(gone, G_FILE_TEST_EXISTS));
    const char *const stay[] = {held, own, recent, odd, temp, space};
    for (guint i = 0; i < G_N_ELEMENTS(stay); i++)
        g_assert_true(g_file_test(stay[i], G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(link, G_FILE_TEST_IS_SYMLINK));
    assert_like(host_do(two->b, "held v /held-by-other"), "ok 2");
    assert_like(host_do(two->a, "clean %s", base(gone)), "ok *\"gone\"*");
}

/* What a host had when it was rebooted is nobody's: its generation tells. */
static void
test_of_an_earlier_life(Two *two, gconstpointer unused)
{
    assert_like(host_do(two->b, "take v " DISK " 10 0"), "ok*");
    host_stop(two->b);
    host_daemon_kill(two->b, SIGKILL);
    host_daemon_start(two->b);
    host_start(two->b);
    make_old(two->file, 5000);
    assert_like(host_do(two->b, "start"), "ok");
    host_until(two->b, 90, "ok joined;*", "status"); /* it waits for its own death */
    g_autofree char *command = g_strdup_printf("clean %s", base(two->file));
    host_until(two->a, 20, "ok *removed*", command);
}

/* Somebody wants it while a cleanup holds it: gets it all the same, in a file of its own. */
static void
test_start_meets_cleanup(Two *two, gconstpointer unused)
{
    g_free(stale(two, two->a, DISK));
    host_do(two->a, "vm w");
    fault_set(two, "clean-held");
    guint cleaning = host_send(two->a, "clean %s", base(two->file));
    fault_wait(two, "clean-held");
    guint there = host_send(two->b, "take v " DISK " 10 0"), here = host_send(two->a, "take w " DISK " 10 0");
    g_usleep(200 * 1000); /* they are refused at least once */
    fault_end(two, "clean-held");
    g_autofree char *cleaned = host_answer(two->a, cleaning), *on_b = host_answer(two->b, there);
    g_autofree char *on_a = host_answer(two->a, here);
    assert_like(cleaned, "ok *removed*");
    gboolean b_won = g_str_has_prefix(on_b, "ok");
    assert_like(b_won ? on_a : on_b, "error held *");
    assert_like(b_won ? on_b : on_a, "ok *");
    assert_like(host_do(two->a, "owner " DISK), b_won ? "ok 2 *" : "ok 1 *");
    assert_no_second_name(two);
}

/* Made anew and taken between unlink and release: what sanlock does for the removed file must not reach the new one. */
static void
test_new_file_before_release(Two *two, gconstpointer unused)
{
    for (guint i = 0; i < 8; i++) /* old ballots of higher numbers than the new file will have */
        g_free(stale(two, two->a, DISK));
    fault_set(two, "clean-unlinked");
    guint cleaning = host_send(two->a, "clean %s", base(two->file));
    fault_wait(two, "clean-unlinked");
    assert_like(host_do(two->b, "take v " DISK " 10 0"), "ok *");
    assert_like(host_do(two->b, "held v " DISK), "ok 1");
    fault_end(two, "clean-unlinked");
    g_autofree char *cleaned = host_answer(two->a, cleaning);
    assert_like(cleaned, "ok *removed*");
    assert_like(host_do(two->a, "take v " DISK " 10 0"), "error held *host 2*");
    assert_like(host_do(two->b, "drop v " DISK), "ok");
    for (guint i = 0; i < 3; i++) { /* nothing of them stands in the way */
        assert_like(host_do(two->b, "take v " DISK " 10 0"), "ok *");
        assert_like(host_do(two->b, "drop v " DISK), "ok");
        assert_like(host_do(two->a, "take v " DISK " 10 0"), "ok *");
        assert_like(host_do(two->a, "drop v " DISK), "ok");
    }
}

/* Who opened the file before its name went never gets the lease of what is left. */
static void
test_nameless_file_is_nobodys(Two *two, gconstpointer unused)
{
    guint32 magic = 0;
    g_free(stale(two, two->a, DISK));
    int fd = open(two->file, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    assert_like(host_do(two->a, "clean %s", base(two->file)), "ok *removed*");
    g_assert_cmpint(pread(fd, &magic, sizeof(magic), 0), ==, sizeof(magic));
    g_assert_cmpuint(GUINT32_FROM_LE(magic), ==, 0x11282016);
    g_assert_cmpint(close(fd), ==, 0);
}

/* virtleased is killed while the lease is held: the file goes nevertheless, and the lease with it. */
static void
test_killed_asker(Two *two, gconstpointer unused)
{
    g_free(stale(two, two->a, DISK));
    fault_set(two, "clean-held");
    (void)host_send(two->a, "clean %s", base(two->file));
    fault_wait(two, "clean-held");
    host_stop(two->a);
    fault_end(two, "clean-held");
    host_until(two->b, 5, "ok *", "take v " DISK " 10 0");
    assert_like(host_do(two->b, "held v " DISK), "ok 1"); /* a new file */
    assert_no_second_name(two);
}

static pid_t
remover_of(const Host *host)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/task", g_subprocess_get_identifier(host->host));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    for (const char *task = g_dir_read_name(dir); task; task = g_dir_read_name(dir)) {
        g_autofree char *children = g_build_filename(path, task, "children", NULL);
        g_autofree char *text = NULL;
        g_assert_true(g_file_get_contents(children, &text, NULL, NULL));
        g_auto(GStrv) pids = g_strsplit(g_strstrip(text), " ", -1);
        for (guint i = 0; pids[i] && *pids[i]; i++) {
            g_autofree char *cmdline_path = g_strdup_printf("/proc/%s/cmdline", pids[i]);
            g_autofree char *cmdline = NULL;
            gsize size;
            g_assert_true(g_file_get_contents(cmdline_path, &cmdline, &size, NULL));
            if (!memmem(cmdline, size, "--vm", 4)) /* those are executed anew */
                return (pid_t)atoi(pids[i]);
        }
    }
    g_assert_not_reached();
}

static void
kill_remover_at(Two *two, const char *fault, gboolean stays_owned)
{
    g_free(stale(two, two->a, DISK));
    fault_set(two, fault);
    guint cleaning = host_send(two->a, "clean %s", base(two->file));
    fault_wait(two, fault);
    g_assert_cmpint(kill(remover_of(two->a), SIGKILL), ==, 0);
    g_autofree char *cleaned = host_answer(two->a, cleaning);
    assert_like(cleaned, "ok *failed*killed*");
    g_autofree char *path = fault_path(two, fault);
    g_unlink(path);
    if (stays_owned) { /* refused, and the next cleanup of that host repairs it */
        assert_like(host_do(two->b, "take v " DISK " 10 0"), "error held *host 1*");
        make_old(two->file, 5000);
        assert_like(host_do(two->a, "clean %s", base(two->file)), "ok *removed*");
    }
    host_until(two->b, 5, "ok *", "take v " DISK " 10 0");
}

static void
test_remover_killed_holding(Two *two, gconstpointer unused)
{
    kill_remover_at(two, "clean-held", FALSE);
}

static void
test_remover_killed_between(Two *two, gconstpointer unused)
{
    kill_remover_at(two, "clean-between", TRUE);
}

/* Two hosts clean, two others start and stop: nobody is refused for it, and the lease is never two hosts'. */
static void
test_storm(Two *two, gconstpointer unused)
{
    for (guint round = 0; round < 12; round++) {
        g_free(stale(two, round % 2 ? two->a : two->b, DISK));
        guint clean_a = host_send(two->a, "clean %s", base(two->file));
        guint clean_b = host_send(two->b, "clean %s", base(two->file));
        guint take_a = host_send(two->a, "take v " DISK " 10 0"), take_b = host_send(two->b, "take v " DISK " 10 0");
        g_autofree char *a = host_answer(two->a, take_a), *b = host_answer(two->b, take_b);
        g_free(host_answer(two->a, clean_a));
        g_free(host_answer(two->b, clean_b));
        gboolean a_has = g_str_has_prefix(a, "ok"), b_has = g_str_has_prefix(b, "ok");
        if (a_has == b_has)
            g_error("round %u: a: %s, b: %s", round, a, b);
        assert_like(a_has ? b : a, "error held *");
        assert_like(host_do(two->a, "owner " DISK), a_has ? "ok 1 *" : "ok 2 *");
        assert_like(host_do(a_has ? two->a : two->b, "drop v " DISK), "ok");
    }
    assert_no_second_name(two);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sanlock-clean/names", test_names);
#define ADD(name, func) g_test_add("/sanlock-clean/" name, Two, NULL, two_setup, func, two_teardown)
    ADD("which", test_which);
    ADD("nameless", test_nameless_file_is_nobodys);
    ADD("storm", test_storm);
    ADD("earlier-life", test_of_an_earlier_life);
#ifdef VL_FAULTS
    ADD("start", test_start_meets_cleanup);
    ADD("new-file", test_new_file_before_release);
    ADD("killed-asker", test_killed_asker);
    ADD("killed-holding", test_remover_killed_holding);
    ADD("killed-between", test_remover_killed_between);
#else
    (void)test_start_meets_cleanup, (void)test_new_file_before_release, (void)test_killed_asker,
        (void)test_remover_killed_holding, (void)test_remover_killed_between;
#endif
    return g_test_run();
}

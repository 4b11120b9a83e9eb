/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The forked child that registers itself with sanlock when virtleased asks for it: with a real sanlock
 * daemon, and with made-up ones for what a real one does only when it is in trouble.
 */
#include "tests/service/vm-child.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/service/driver.h"
#include "tests/service/fake-daemon.h"
#include "tests/service/fake-sanlock.h"

struct fixture {
    struct daemon daemon;
    char *run_dir;
    struct fake_sanlock fake;
    pid_t sanlock; /* the real one */
};

/* ---- fixture ---- */

static void
configure(struct fixture *f, unsigned int timeout_s)
{
    g_autofree char *text =
        g_strdup_printf("socket = \"%s\"\ntimeout = %u\nconnect_wait = 1\n", f->daemon.socket, timeout_s);

    g_assert_true(g_file_set_contents(f->daemon.config, text, -1, NULL));
    g_assert_cmpint(driver->drvInit(VIR_LOCK_MANAGER_VERSION, f->daemon.config, 0), ==, 0);
}

static void
setup(struct fixture *f, gconstpointer data)
{
    f->daemon.dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    f->daemon.socket = g_build_filename(f->daemon.dir, "socket", NULL);
    f->daemon.config = g_build_filename(f->daemon.dir, "conf", NULL);
    f->daemon.killpath = "/usr/libexec/kill-it";
    f->daemon.killargs = "uuid 4711";
    f->run_dir = g_build_filename(f->daemon.dir, "run", NULL);
    g_assert_cmpint(g_mkdir(f->run_dir, 0755), ==, 0);
    setenv("SANLOCK_RUN_DIR", f->run_dir, 1); /* every child is the first to look */
    configure(f, 5);
    memcpy(vm.uuid, "0123456789abcdef", VIR_UUID_BUFLEN);
    vm.name = (char *)"guest";
    vm.uri = (char *)"qemu:///system";
    vm.id = 3;
    vm.resources = g_ptr_array_new();
    daemon_start(&f->daemon);
}

static void
empty_dir(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        g_unlink(file);
    }
}

static void
teardown(struct fixture *f, gconstpointer data)
{
    g_assert_cmpint(driver->drvDeinit(), ==, 0);
    if (f->sanlock > 0)
        end_vm(f->sanlock);
    fake_sanlock_stop(&f->fake);
    daemon_stop(&f->daemon);
    g_ptr_array_unref(vm.resources);
    empty_dir(f->run_dir);
    g_assert_cmpint(g_rmdir(f->run_dir), ==, 0);
    empty_dir(f->daemon.dir);
    g_assert_cmpint(g_rmdir(f->daemon.dir), ==, 0);
    g_free(f->run_dir);
    g_free(f->daemon.socket);
    g_free(f->daemon.config);
    g_free(f->daemon.dir);
}

/* ---- what the second REGISTER says ---- */

/* The tags in their order of arrival; numbers of descriptors go to fds, the error to *error. */
static char *
describe_request(const struct daemon *daemon, int *fds, char **error)
{
    GString *tags = g_string_new("");
    struct vl_reader reader;
    struct vl_field field;
    uint64_t number;

    g_assert_cmpuint(daemon->frame.type, ==, VL_MSG_REGISTER);
    vl_reader_init(&reader, daemon->body, daemon->frame.length);
    while (vl_reader_next(&reader, &field) > 0) {
        g_string_append_printf(tags, " %u", field.tag);
        if (field.tag == VL_TAG_SANLOCK_FD) {
            g_assert_cmpint(vl_field_u64(&field, &number), ==, 0);
            *fds++ = (int)number;
        } else if (field.tag == VL_TAG_SANLOCK_ERROR) {
            *error = g_strndup((const char *)field.bytes, field.len);
        }
    }
    return g_string_free(tags, FALSE);
}

#define TAGS " 1 2 4 3 20 5"

/* `want` descriptors were told, are sockets that QEMU has now and that block for ever, and nothing
 * else is new in it. */
static void
assert_registered(struct fixture *f, const struct report *report, pid_t pid, unsigned int want, int *fds)
{
    g_autoptr(GString) expected_tags = g_string_new(TAGS);
    g_autofree char *expected_fds = g_strdup(report->before.fds);
    g_autofree char *error = NULL, *tags = describe_request(&f->daemon, fds, &error);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    g_assert_cmpstr(error, ==, NULL);
    for (unsigned int i = 0; i < want; i++) {
        int fd = (int)syscall(SYS_pidfd_getfd, pidfd, fds[i], 0);
        struct timeval limit = {.tv_sec = 1};
        socklen_t len = sizeof(limit);

        g_string_append(expected_tags, " 24");
        g_assert_cmpint(expected_fds[fds[i]], ==, '.');
        expected_fds[fds[i]] = 'k';
        g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &len), ==, 0);
        g_assert_cmpint(limit.tv_sec + limit.tv_usec, ==, 0);
        g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, &len), ==, 0);
        g_assert_cmpint(limit.tv_sec + limit.tv_usec, ==, 0);
        close(fd);
    }
    close(pidfd);
    g_string_append(expected_tags, " 8");
    g_assert_cmpstr(tags, ==, expected_tags->str);
    g_assert_cmpstr(report->after.fds, ==, expected_fds);
    g_assert_cmpuint(f->daemon.connections, ==, 2);
}

/* The daemon heard why not, its own words reached libvirt, and nothing stays open. */
static void
assert_not_registered(struct fixture *f, const struct report *report, const char *pattern)
{
    g_autofree char *error = NULL, *tags = NULL;
    int fds[CHILD_FDS_MAX];

    tags = describe_request(&f->daemon, fds, &error);
    g_assert_cmpstr(tags, ==, TAGS " 25 8");
    if (!g_pattern_match_simple(pattern, error))
        g_error("error is: %s", error);
    g_assert_cmpint(report->r, ==, -1);
    g_assert_cmpstr(report->text, ==, "no lease without sanlock");
    g_assert_cmpstr(report->after.fds, ==, report->before.fds);
}

static void
expect_refusal(struct fixture *f)
{
    f->daemon.want[0] = 2;
    f->daemon.later_code = VL_ERR_STORAGE;
    f->daemon.text = "no lease without sanlock";
}

/* ---- a real sanlock ---- */

static void
start_sanlock(struct fixture *f)
{
    g_autofree char *socket_path = g_build_filename(f->run_dir, "sanlock.sock", NULL);
    g_autofree char *log = g_build_filename(f->daemon.dir, "log", NULL);
    const char *user = g_get_user_name(), *group = getgrgid(getegid())->gr_name;
    int probe = -1;

    f->sanlock = fork();
    if (f->sanlock == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        setenv("SANLOCK_PRIVILEGED", "0", 1);
        setenv("LD_PRELOAD", g_getenv("VL_SETRLIMIT_SHIM"), 1);
        execlp("sanlock", "sanlock", "daemon", "-D", "-w", "0", "-l", "0", "-h", "0", "-U", user, "-G", group, NULL);
        _exit(127);
    }
    g_assert_cmpint(vl_connect(socket_path, vl_now_ms() + 10000, &probe), ==, 0);
    close(probe);
}

/* How many connections sanlock counts for this pid that are restricted. */
static unsigned int
count_registered(pid_t pid)
{
    g_autofree char *client = g_strdup_printf("p %d %d\n", (int)pid, (int)pid), *out = NULL;
    unsigned int count = 0;

    g_assert_true(g_spawn_command_line_sync("sanlock client status -D", &out, NULL, NULL, NULL));
    for (const char *at = strstr(out, client); at; at = strstr(at + 1, client)) {
        const char *restricted = strstr(at, "restricted=");

        g_assert_nonnull(restricted);
        g_assert_true(g_str_has_prefix(restricted, "restricted=1\n"));
        count++;
    }
    return count;
}

static void
test_real(struct fixture *f, gconstpointer data)
{
    unsigned int want = GPOINTER_TO_UINT(data);
    struct report report;
    int fds[CHILD_FDS_MAX];
    pid_t pid;

    start_sanlock(f);
    f->daemon.want[0] = want;
    pid = start_vm(&report, FALSE);
    g_assert_cmpstr(report.text, ==, "");
    assert_registered(f, &report, pid, want, fds);
    g_assert_cmpuint(count_registered(pid), ==, want);
    end_vm(pid);
    for (int i = 0; count_registered(pid) > 0; i++) {
        g_assert_cmpint(i, <, 200);
        g_usleep(20000);
    }
}

/* Registered, and then refused after all. */
static void
test_real_refused(struct fixture *f, gconstpointer data)
{
    struct report report;

    start_sanlock(f);
    expect_refusal(f);
    g_assert_cmpint(start_vm(&report, FALSE), ==, 0);
    g_assert_cmpstr(report.text, ==, "no lease without sanlock");
    g_assert_cmpstr(report.after.fds, ==, report.before.fds);
}

static void
test_real_stopped(struct fixture *f, gconstpointer data)
{
    struct report report;

    start_sanlock(f);
    expect_refusal(f);
    kill(f->sanlock, SIGSTOP);
    g_assert_cmpint(start_vm(&report, FALSE), ==, 0);
    assert_not_registered(f, &report, "sanlock does not answer: *");
    g_assert_cmpint(report.ms, >=, 2400);
    g_assert_cmpint(report.ms, <, 4000);
}

/* ---- sanlocks in trouble ---- */

/* As long as they may be, in every connection, and the signals as odd as they can be. */
static void
test_killpath(struct fixture *f, gconstpointer data)
{
    g_autofree char *name = g_strnfill(VL_SANLOCK_STRING_MAX - 1, 'p'), *path = g_strconcat("/", name, NULL);
    g_autofree char *args = g_strnfill(VL_SANLOCK_STRING_MAX, 'a');
    g_autofree char *expected = g_strconcat(path, "..", args, "..", NULL);
    unsigned int count = 0;
    struct report report;
    int fds[CHILD_FDS_MAX];
    pid_t pid;

    fake_sanlock_start(&f->fake, f->run_dir, FRIENDLY);
    f->daemon.want[0] = VL_SANLOCK_WANT_MAX;
    f->daemon.killpath = path;
    f->daemon.killargs = args;
    pid = start_vm(&report, TRUE);
    g_assert_cmpstr(report.text, ==, "");
    assert_registered(f, &report, pid, VL_SANLOCK_WANT_MAX, fds);
    end_vm(pid);
    for (const char *at = strstr(f->fake.heard->str, expected); at; at = strstr(at + 1, expected))
        count++;
    g_assert_cmpuint(count, ==, VL_SANLOCK_WANT_MAX);
}

static void
test_no_sanlock(struct fixture *f, gconstpointer data)
{
    g_autofree char *expected =
        g_strdup_printf("sanlock is not running on this host (%s/sanlock.sock: No such file or directory)", f->run_dir);
    struct report report;

    expect_refusal(f);
    g_assert_cmpint(start_vm(&report, FALSE), ==, 0);
    assert_not_registered(f, &report, expected);
    g_assert_cmpint(report.code, ==, VIR_ERR_OPERATION_FAILED);
}

struct trouble {
    enum mood mood;
    gboolean odd_signals;
    unsigned int timeout_s;
    int min_ms, max_ms;
    const char *error;
};

static void
test_trouble(struct fixture *f, gconstpointer data)
{
    const struct trouble *trouble = data;
    struct report report;

    g_assert_cmpint(driver->drvDeinit(), ==, 0);
    configure(f, trouble->timeout_s);
    fake_sanlock_start(&f->fake, f->run_dir, trouble->mood);
    expect_refusal(f);
    g_assert_cmpint(start_vm(&report, trouble->odd_signals), ==, 0);
    assert_not_registered(f, &report, trouble->error);
    g_assert_cmpint(report.ms, >=, trouble->min_ms);
    g_assert_cmpint(report.ms, <, trouble->max_ms);
}

/* ---- a virtleased in trouble ---- */

static void
test_asks_twice(struct fixture *f, gconstpointer data)
{
    struct report report;

    fake_sanlock_start(&f->fake, f->run_dir, FRIENDLY);
    f->daemon.want[0] = 1;
    f->daemon.want[1] = 1;
    g_assert_cmpint(start_vm(&report, FALSE), ==, 0);
    g_assert_nonnull(strstr(report.text, "register with sanlock a second time"));
    g_assert_cmpint(report.code, ==, VIR_ERR_INTERNAL_ERROR);
    g_assert_cmpstr(report.after.fds, ==, report.before.fds);
    g_assert_cmpuint(f->daemon.connections, ==, 2);
}

static void
test_bad_wishes(struct fixture *f, gconstpointer data)
{
    g_autofree char *longest = g_strnfill(VL_SANLOCK_STRING_MAX + 1, '/');
    const struct {
        unsigned int want;
        const char *path, *args, *error;
    } cases[] = {
        {VL_SANLOCK_WANT_MAX + 1, "/p", "a", "more connections than 8"},
        {1, "p", "a", "without an absolute path"},
        {1, longest, "a", "path has more than 126 bytes"},
        {1, "/p", longest, "arguments of more than 126 bytes"},
        {1, NULL, "a", "arguments without a program"},
    };

    fake_sanlock_start(&f->fake, f->run_dir, FRIENDLY);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct report report;

        f->daemon.want[0] = cases[i].want;
        f->daemon.killpath = cases[i].path;
        f->daemon.killargs = cases[i].args;
        f->daemon.connections = 0;
        g_assert_cmpint(start_vm(&report, FALSE), ==, 0);
        g_assert_nonnull(strstr(report.text, cases[i].error));
        g_assert_cmpint(report.code, ==, VIR_ERR_INTERNAL_ERROR);
        g_assert_cmpuint(f->daemon.connections, ==, 1);
    }
    g_assert_cmpuint(f->fake.connections, ==, 0);
}

int
main(int argc, char **argv)
{
    static const struct trouble silent = {SILENT, FALSE, 20, 4900, 7000, "sanlock does not answer: *"},
                                stuck = {STUCK, FALSE, 5, 2400, 4000, "sanlock does not answer: *"},
                                stuck_odd = {STUCK, TRUE, 5, 2400, 4000, "sanlock does not answer: *"},
                                leaving = {LEAVING, FALSE, 5, 0, 1000, "sanlock ended the connection: *"},
                                leaving_odd = {LEAVING, TRUE, 5, 0, 1000, "sanlock ended the connection: *"},
                                refusing = {REFUSING, FALSE, 5, 0, 1000, "*cannot register*: Cannot allocate memory)"};
    void *module = dlopen(g_getenv("VL_PLUGIN"), RTLD_NOW | RTLD_LOCAL);

    g_test_init(&argc, &argv, NULL);
    driver = module ? dlsym(module, "virLockDriverImpl") : NULL;
    if (!driver)
        g_error("%s", dlerror());
#define TEST(name, data, function)                                                                                     \
    g_test_add("/plugin-sanlock/" name, struct fixture, (gconstpointer)(data), setup, function, teardown)
    TEST("real/one", 1, test_real);
    TEST("real/three", 3, test_real);
    TEST("real/refused", NULL, test_real_refused);
    TEST("real/stopped", NULL, test_real_stopped);
    TEST("killpath", NULL, test_killpath);
    TEST("no-sanlock", NULL, test_no_sanlock);
    TEST("silent", &silent, test_trouble);
    TEST("stuck", &stuck, test_trouble);
    TEST("stuck-odd-signals", &stuck_odd, test_trouble);
    TEST("leaving", &leaving, test_trouble);
    TEST("leaving-odd-signals", &leaving_odd, test_trouble);
    TEST("refusing", &refusing, test_trouble);
    TEST("asks-twice", NULL, test_asks_twice);
    TEST("bad-wishes", NULL, test_bad_wishes);
    return g_test_run();
}

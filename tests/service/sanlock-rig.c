/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/sanlock-rig.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static char *last_answer;

void
rig_setup(Rig *rig, gconstpointer unused)
{
    /* Not the temporary directory: that may be on a tmpfs that has no direct I/O. */
    rig->dir = g_strdup("/var/tmp/vl-sanlock-XXXXXX");
    g_assert_nonnull(g_mkdtemp(rig->dir));
    rig->leases = g_build_filename(rig->dir, "leases", NULL);
    g_assert_cmpint(g_mkdir(rig->leases, 0755), ==, 0);
}

static void
remove_all(const char *path)
{
    const char *argv[] = {"rm", "-rf", path, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
}

void
rig_teardown(Rig *rig, gconstpointer unused)
{
    remove_all(rig->dir);
    g_free(rig->leases);
    g_free(rig->dir);
    g_clear_pointer(&last_answer, g_free);
}

char *
rig_lease_file(const Rig *rig, const char *path)
{
    g_autofree char *name = g_compute_checksum_for_string(G_CHECKSUM_MD5, path, -1);
    return g_build_filename(rig->leases, name, NULL);
}

static gboolean
may_raise_limits(void)
{
    struct rlimit now;
    getrlimit(RLIMIT_MEMLOCK, &now);
    struct rlimit higher = {RLIM_INFINITY, RLIM_INFINITY};
    gboolean may = setrlimit(RLIMIT_MEMLOCK, &higher) == 0;
    if (may)
        setrlimit(RLIMIT_MEMLOCK, &now);
    return may;
}

/* A test that fails ends here and now; nothing of it may stay. */
static void
die_with_us(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static GSubprocessLauncher *
launcher_new(Host *host, GSubprocessFlags flags)
{
    GSubprocessLauncher *launcher = g_subprocess_launcher_new(flags);
    g_subprocess_launcher_setenv(launcher, "SANLOCK_RUN_DIR", host->run_dir, TRUE);
    g_subprocess_launcher_setenv(launcher, "SANLOCK_PRIVILEGED", "0", TRUE);
    g_subprocess_launcher_unsetenv(launcher, "LD_PRELOAD");
    g_subprocess_launcher_set_child_setup(launcher, die_with_us, NULL, NULL);
    return launcher;
}

/* argv, without capabilities where the variable says so. */
static GSubprocess *
spawn(GSubprocessLauncher *launcher, const char *dropped, const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    const char *caps = g_getenv(dropped);
    if (caps) {
        g_ptr_array_add(all, (char *)"setpriv");
        g_ptr_array_add(all, (char *)"--bounding-set");
        g_ptr_array_add(all, (char *)caps);
    }
    for (; *argv; argv++)
        g_ptr_array_add(all, (char *)*argv);
    g_ptr_array_add(all, NULL);
    GSubprocess *process = g_subprocess_launcher_spawnv(launcher, (const char *const *)all->pdata, &error);
    g_assert_no_error(error);
    return process;
}

static gboolean
daemon_listens(Host *host)
{
    g_autofree char *path = g_build_filename(host->run_dir, "sanlock.sock", NULL);
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GSocketConnection) connection =
        g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, NULL);
    return connection != NULL;
}

void
host_daemon_start(Host *host)
{
    g_autoptr(GSubprocessLauncher) launcher = launcher_new(host, G_SUBPROCESS_FLAGS_STDOUT_SILENCE);
    g_autofree char *log = g_strdup_printf("%s/sanlock-%u.log", host->rig->dir, host->number);
    g_autofree char *name = g_strdup_printf("sanlock-%u", host->number);
    const char *user = getpwuid(getuid())->pw_name, *group = getgrgid(getgid())->gr_name;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    g_subprocess_launcher_take_stderr_fd(launcher, fd);
    if (!may_raise_limits())
        g_subprocess_launcher_setenv(launcher, "LD_PRELOAD", g_getenv("VL_SANLOCK_SHIM"), TRUE);
    const char *argv[] = {g_getenv("VL_SANLOCK"),
                          "daemon",
                          "-D",
                          "-w",
                          "0",
                          "-l",
                          "0",
                          "-h",
                          "0",
                          "-U",
                          user,
                          "-G",
                          group,
                          "-e",
                          name,
                          NULL};
    host->daemon = spawn(launcher, "SANLOCK_TEST_DROP_DAEMON", argv);
    for (guint i = 0; i < 1000 && !daemon_listens(host); i++)
        g_usleep(10 * 1000);
    g_assert_true(daemon_listens(host));
}

void
host_daemon_kill(Host *host, int signal)
{
    g_subprocess_send_signal(host->daemon, signal);
    if (signal != SIGKILL)
        return;
    g_subprocess_wait(host->daemon, NULL, NULL);
    g_clear_object(&host->daemon);
}

void
host_start(Host *host)
{
    g_autoptr(GSubprocessLauncher) launcher =
        launcher_new(host, G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_autofree char *id = g_strdup_printf("%u", host->id);
    g_autofree char *name = g_strdup_printf("node-%u", host->number);
    const char *argv[] = {g_getenv("VL_SANLOCK_HOST"), host->rig->leases, id, "1", "64", name, NULL};
    host->host = spawn(launcher, "SANLOCK_TEST_DROP_HOST", argv);
    host->out = g_data_input_stream_new(g_subprocess_get_stdout_pipe(host->host));
}

Host *
host_new(Rig *rig, guint number)
{
    return host_new_as(rig, number, number);
}

Host *
host_new_as(Rig *rig, guint number, guint id)
{
    Host *host = g_new0(Host, 1);
    host->rig = rig;
    host->number = number;
    host->id = id;
    host->run_dir = g_strdup_printf("%s/run-%u", rig->dir, number);
    host->answers = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_assert_cmpint(g_mkdir_with_parents(host->run_dir, 0755), ==, 0);
    host_daemon_start(host);
    host_start(host);
    return host;
}

void
host_stop(Host *host)
{
    g_subprocess_send_signal(host->host, SIGKILL);
    g_subprocess_wait(host->host, NULL, NULL);
    g_clear_object(&host->out);
    g_clear_object(&host->host);
}

void
host_free(Host *host)
{
    if (host->host)
        host_stop(host);
    if (host->daemon)
        host_daemon_kill(host, SIGKILL);
    g_hash_table_unref(host->answers);
    g_free(host->run_dir);
    g_free(host);
}

static guint
send_line(Host *host, const char *text)
{
    guint id = ++host->last;
    g_autofree char *line = g_strdup_printf("%u %s\n", id, text);
    g_assert_true(
        g_output_stream_write_all(g_subprocess_get_stdin_pipe(host->host), line, strlen(line), NULL, NULL, NULL));
    return id;
}

guint
host_send(Host *host, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    return send_line(host, text);
}

char *
host_answer(Host *host, guint id)
{
    gpointer answer;
    while (!g_hash_table_steal_extended(host->answers, GUINT_TO_POINTER(id), NULL, &answer)) {
        g_autofree char *line = g_data_input_stream_read_line(host->out, NULL, NULL, NULL);
        g_assert_nonnull(line);
        char *rest = NULL;
        guint64 of = g_ascii_strtoull(line, &rest, 10);
        g_hash_table_insert(host->answers, GUINT_TO_POINTER((guint)of), g_strdup(g_strstrip(rest)));
    }
    return answer;
}

const char *
host_do(Host *host, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_free(last_answer);
    last_answer = host_answer(host, send_line(host, text));
    g_test_message("host %u: %s -> %s", host->number, text, last_answer);
    return last_answer;
}

void
host_join(Host *host)
{
    assert_like(host_do(host, "start"), "ok");
    host_until(host, 20, "ok joined;*", "status");
}

void
host_until(Host *host, double seconds, const char *pattern, const char *line)
{
    gint64 until = g_get_monotonic_time() + (gint64)(seconds * G_USEC_PER_SEC);
    while (!g_pattern_match_simple(pattern, host_do(host, "%s", line))) {
        if (g_get_monotonic_time() > until)
            g_error("host %u: still '%s', not like '%s' after %.0f s", host->number, last_answer, pattern, seconds);
        g_usleep(20 * 1000);
    }
}

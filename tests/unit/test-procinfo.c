/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Real processes, made by forking; each says over a pipe when it is ready, so nothing waits by the
 * clock. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <ifaddrs.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/procinfo.h"

/* Waits until the child has written a byte to the pipe. */
static void
wait_ready(int ready[2])
{
    char byte;
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
}

/* A child that ran `prepare` and then waits for the end. */
static pid_t
child_start(void (*prepare)(void))
{
    int ready[2];
    g_assert_cmpint(pipe2(ready, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (prepare)
            prepare();
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    wait_ready(ready);
    return pid;
}

static void
child_end(pid_t pid)
{
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

/* Waits for the exit without reaping. */
static void
wait_exit(int pidfd)
{
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    g_assert_cmpint(poll(&poll_fd, 1, 5000), ==, 1);
}

static guint64
start_of(pid_t pid)
{
    g_autoptr(GError) error = NULL;
    guint64 start = 0;
    g_assert_true(vl_proc_start_time(pid, &start, &error));
    g_assert_no_error(error);
    return start;
}

static void
assert_not_open(pid_t pid, guint64 start)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(vl_proc_open(pid, start, &error), ==, -1);
    g_assert_error(error, VL_ERROR, VL_ERR_MISSING);
}

static void
name_plain(void)
{
    prctl(PR_SET_NAME, "plain");
}

static void
name_odd(void)
{
    prctl(PR_SET_NAME, "a) b (c) S 1 2");
}

static void
name_newline(void)
{
    prctl(PR_SET_NAME, ")\n) 9 (");
}

static void
test_start_time(void)
{
    guint64 own = start_of(getpid());
    g_assert_cmpuint(own, >, 0);
    g_assert_cmpuint(own, ==, start_of(getpid()));
    void (*const names[])(void) = {name_plain, name_odd, name_newline};
    double uptime = 0;
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        pid_t child = child_start(names[i]);
        guint64 start = start_of(child);
        struct timespec now;
        clock_gettime(CLOCK_BOOTTIME, &now);
        uptime = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
        g_assert_cmpuint(start, >=, own);
        g_assert_cmpfloat((double)start / (double)sysconf(_SC_CLK_TCK), <=, uptime + 0.02);
        child_end(child);
        g_autoptr(GError) error = NULL;
        guint64 untouched = 42;
        g_assert_false(vl_proc_start_time(child, &untouched, &error));
        g_assert_error(error, VL_ERROR, VL_ERR_MISSING);
        g_assert_cmpuint(untouched, ==, 42);
    }
    static const pid_t bad[] = {0, -1, G_MAXINT};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(vl_proc_start_time(bad[i], &own, &error));
        g_assert_error(error, VL_ERROR, VL_ERR_MISSING);
        assert_not_open(bad[i], 0);
    }
}

static void
test_open(void)
{
    pid_t child = child_start(name_odd);
    guint64 start = start_of(child);
    g_autoptr(GError) error = NULL;
    int fd = vl_proc_open(child, start, &error);
    g_assert_no_error(error);
    g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    g_assert_false(vl_proc_exited(fd));
    g_assert_true(vl_proc_kill(fd, 0));

    g_assert_true(vl_proc_kill(fd, SIGKILL));
    wait_exit(fd);
    g_assert_true(vl_proc_exited(fd));
    assert_not_open(child, start); /* a zombie is not a running VM */
    g_assert_cmpuint(start_of(child), ==, start);
    child_end(child);
    g_assert_true(vl_proc_exited(fd));
    g_assert_false(vl_proc_kill(fd, SIGKILL));
    assert_not_open(child, start);
    close(fd);
}

/* The number alone is not the process: a start time that is not its own means another one. */
static void
test_reuse(void)
{
    pid_t child = child_start(NULL);
    guint64 start = start_of(child);
    assert_not_open(child, start - 1);
    assert_not_open(child, start + 1);
    assert_not_open(child, 0);
    g_autoptr(GError) error = NULL;
    int fd = vl_proc_open(child, start, &error);
    g_assert_no_error(error);
    close(fd);
    child_end(child);
}

/* The same with a number that is really used again, where the kernel lets us choose it. */
static void
test_reuse_real(void)
{
    pid_t first = child_start(NULL);
    guint64 start = start_of(first);
    g_autoptr(GError) error = NULL;
    int old = vl_proc_open(first, start, &error);
    g_assert_no_error(error);
    child_end(first);
    /* Start times have ticks of 10 ms; the next process must not begin in the same one. */
    struct timespec tick = {.tv_nsec = 25 * 1000 * 1000};
    nanosleep(&tick, NULL);
    g_autofree char *text = g_strdup_printf("%d", (int)first - 1);
    int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    gboolean set = file >= 0 && write(file, text, strlen(text)) > 0;
    if (file >= 0)
        close(file);
    pid_t second = child_start(NULL);
    if (set && second == first) {
        assert_not_open(second, start);
        g_assert_true(vl_proc_exited(old));
        g_assert_false(vl_proc_kill(old, SIGKILL)); /* not the newcomer */
    } else {
        g_test_message("the pid was not reused here; test_reuse covers the check");
    }
    child_end(second);
    close(old);
}

#define UUID "3c0a4e1e-9b1b-4d52-8f1e-6a0f0c7d1e01"

/* Execs a shell whose further arguments make the command line under test. */
static pid_t
exec_start(const char *const args[])
{
    int ready[2];
    g_assert_cmpint(pipe2(ready, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        const char *argv[16] = {"sh", "-c", "echo; read x", "qemu-system-x86_64"};
        int never[2];
        for (int i = 0; args[i]; i++)
            argv[4 + i] = args[i];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (pipe(never) < 0 || dup2(never[0], 0) < 0 || dup2(ready[1], 1) < 0)
            _exit(126);
        execv("/bin/sh", (char **)argv);
        _exit(127);
    }
    wait_ready(ready);
    return pid;
}

static void
test_is_qemu(void)
{
    g_autofree char *huge = g_strnfill(100 * 1000, 'x');
    const struct {
        const char *args[6];
        gboolean is;
    } cases[] = {
        {{"-name", "vm1", "-uuid", UUID, "-S"}, TRUE},
        {{"-uuid", "3C0A4E1E-9B1B-4D52-8F1E-6A0F0C7D1E01"}, TRUE},
        {{huge, "", "-uuid", UUID}, TRUE},
        {{"-uuid", "-uuid", UUID}, TRUE},
        {{"-uuid", "3c0a4e1e-9b1b-4d52-8f1e-6a0f0c7d1e02"}, FALSE},
        {{"-uuid", UUID "x"}, FALSE},
        {{"-uuid", "", UUID}, FALSE},
        {{"-name", UUID, "-uuid"}, FALSE},
        {{"-uuid=" UUID}, FALSE},
        {{"--uuid", UUID}, FALSE},
        {{NULL}, FALSE},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        pid_t child = exec_start(cases[i].args);
        g_assert_cmpint(vl_proc_is_qemu_of(child, UUID), ==, cases[i].is);
        child_end(child);
        g_assert_false(vl_proc_is_qemu_of(child, UUID));
    }
    g_assert_false(vl_proc_is_qemu_of(getpid(), UUID));
    g_assert_false(vl_proc_is_qemu_of(0, UUID));
    g_assert_false(vl_proc_is_qemu_of(1, UUID));
}

static void
must(gboolean ok)
{
    if (!ok)
        _exit(2);
}

/* A listener on an address and a connection to it from another; all stay open in this process. */
static void
tcp_pair(int family, const char *listen_ip, const char *from_ip, const char *to_ip)
{
    struct sockaddr_storage addr[3] = {{0}};
    const char *const ips[] = {listen_ip, from_ip, to_ip};
    socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    for (int i = 0; i < 3; i++) {
        addr[i].ss_family = (sa_family_t)family;
        must(inet_pton(family, ips[i],
                       family == AF_INET ? (void *)&((struct sockaddr_in *)&addr[i])->sin_addr
                                         : &((struct sockaddr_in6 *)&addr[i])->sin6_addr) == 1);
    }
    int listener = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0);
    must(bind(listener, (struct sockaddr *)&addr[0], len) == 0 && listen(listener, 1) == 0);
    struct sockaddr_storage bound;
    socklen_t bound_len = sizeof bound;
    must(getsockname(listener, (struct sockaddr *)&bound, &bound_len) == 0);
    /* sin_port and sin6_port are at the same place */
    ((struct sockaddr_in *)&addr[2])->sin_port = ((struct sockaddr_in *)&bound)->sin_port;
    must(bind(client, (struct sockaddr *)&addr[1], len) == 0);
    must(connect(client, (struct sockaddr *)&addr[2], len) == 0);
}

static void
sockets_v4(void)
{
    tcp_pair(AF_INET, "127.0.0.9", "127.0.0.3", "127.0.0.9");
    close(socket(AF_UNIX, SOCK_STREAM, 0));
}

static void
sockets_v6(void)
{
    tcp_pair(AF_INET6, "::1", "::1", "::1");
    tcp_pair(AF_INET6, "::", "::ffff:127.0.0.4", "::ffff:127.0.0.1");
}

static void
sockets_other(void)
{
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    struct sockaddr_in addr = {.sin_family = AF_INET};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int udp = socket(AF_INET, SOCK_DGRAM, 0), listener = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(udp, (struct sockaddr *)&addr, sizeof addr) == 0);
    must(bind(listener, (struct sockaddr *)&addr, sizeof addr) == 0 && listen(listener, 1) == 0);
}

typedef GHashTable *(*LocalIps)(pid_t pid, GError **error);

static char *
local_ips(LocalIps func, pid_t pid)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) ips = func(pid, &error);
    g_assert_no_error(error);
    g_autoptr(GList) keys = g_list_sort(g_hash_table_get_keys(ips), (GCompareFunc)strcmp);
    GString *joined = g_string_new("");
    for (GList *i = keys; i; i = i->next)
        g_string_append_printf(joined, "%s ", (char *)i->data);
    return g_string_free(joined, FALSE);
}

static gboolean
have_ipv6(void)
{
    struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    gboolean have = fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0;
    if (fd >= 0)
        close(fd);
    return have;
}

static void
test_local_ips(gconstpointer data)
{
    LocalIps func = *(const LocalIps *)data;
    pid_t v4 = child_start(sockets_v4), other = child_start(sockets_other);
    g_autofree char *v4_ips = local_ips(func, v4);
    g_assert_cmpstr(v4_ips, ==, "127.0.0.3 ");
    g_autofree char *other_ips = local_ips(func, other); /* listening and UDP do not count */
    g_assert_cmpstr(other_ips, ==, "");
    g_autofree char *own = local_ips(func, getpid()); /* nor does what other processes have */
    g_assert_cmpstr(own, ==, "");
    if (have_ipv6()) {
        pid_t v6 = child_start(sockets_v6);
        g_autofree char *v6_ips = local_ips(func, v6);
        g_assert_cmpstr(v6_ips, ==, "127.0.0.4 ::1 ");
        child_end(v6);
    } else {
        g_test_message("no IPv6 here");
    }
    child_end(v4);
    child_end(other);
    g_autoptr(GError) error = NULL;
    g_assert_null(func(v4, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_MISSING);
    g_clear_error(&error);
    g_assert_null(func(0, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_MISSING);
}

static void
test_local_ips_zombie(void)
{
    pid_t child = child_start(sockets_v4);
    g_autoptr(GError) error = NULL;
    int fd = vl_proc_open(child, start_of(child), &error);
    g_assert_no_error(error);
    kill(child, SIGKILL);
    wait_exit(fd);
    g_autoptr(GHashTable) ips = vl_proc_local_ips(child, &error);
    if (ips) /* as root; others may not look and get an error */
        g_assert_cmpuint(g_hash_table_size(ips), ==, 0);
    else
        g_assert_nonnull(error);
    child_end(child);
    close(fd);
}

static void
test_host_ips(void)
{
    g_autoptr(GHashTable) ips = vl_host_ips();
    gboolean loopback = g_hash_table_contains(ips, "127.0.0.1"), others = FALSE;
    struct ifaddrs *list = NULL;
    g_assert_cmpint(getifaddrs(&list), ==, 0);
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        char text[INET6_ADDRSTRLEN];
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET)
            continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, text, sizeof text);
        if (g_str_has_prefix(text, "127."))
            continue;
        others = TRUE;
        g_assert_true(g_hash_table_contains(ips, text));
    }
    freeifaddrs(list);
    g_assert_false(others && loopback);
}

typedef struct {
    char *root;
} Fixture;

static void
set_up(Fixture *fixture, gconstpointer unused)
{
    fixture->root = g_dir_make_tmp("vl-procinfo-XXXXXX", NULL);
    g_assert_nonnull(fixture->root);
}

static void
remove_tree(const char *path)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK)) {
        GDir *dir = g_dir_open(path, 0, NULL);
        const char *name;
        while ((name = g_dir_read_name(dir))) {
            g_autofree char *child = g_build_filename(path, name, NULL);
            remove_tree(child);
        }
        g_dir_close(dir);
    }
    g_assert_cmpint(g_remove(path), ==, 0);
}

static void
tear_down(Fixture *fixture, gconstpointer unused)
{
    remove_tree(fixture->root);
    g_free(fixture->root);
}

static void
put(Fixture *fixture, const char *path, const char *text)
{
    g_autofree char *full = g_build_filename(fixture->root, path, NULL);
    g_autofree char *parent = g_path_get_dirname(full);
    g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
    g_assert_true(g_file_set_contents(full, text, -1, NULL));
}

static void
test_ids(Fixture *fixture, gconstpointer unused)
{
    static const char *const bad[] = {"", " \n", "\n", "uninitialized\n"};
    g_autoptr(GError) error = NULL;
    g_assert_null(vl_host_machine_id_at(fixture->root, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
    g_assert_nonnull(strstr(error->message, "/etc/machine-id"));
    g_clear_error(&error);
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        put(fixture, "etc/machine-id", bad[i]);
        g_assert_null(vl_host_machine_id_at(fixture->root, &error));
        g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
        g_clear_error(&error);
    }
    put(fixture, "etc/machine-id", " 0123456789abcdef0123456789abcdef \n");
    g_autofree char *machine = vl_host_machine_id_at(fixture->root, &error);
    g_assert_cmpstr(machine, ==, "0123456789abcdef0123456789abcdef");

    g_assert_null(vl_host_boot_id_at(fixture->root, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
    g_clear_error(&error);
    put(fixture, "proc/sys/kernel/random/boot_id", "b0\n");
    g_autofree char *boot = vl_host_boot_id_at(fixture->root, &error);
    g_assert_cmpstr(boot, ==, "b0");
    g_autofree char *real = vl_host_boot_id(&error);
    g_assert_no_error(error);
    g_assert_true(g_uuid_string_is_valid(real));
}

static void
check_uuid(Fixture *fixture, const char *expected)
{
    g_autofree char *uuid = vl_host_uuid_at(fixture->root);
    g_assert_cmpstr(uuid, ==, expected);
}

#define DMI_UUID "4c4c4544-0042-3510-8054-b7c04f4e3332"

static void
test_host_uuid(Fixture *fixture, gconstpointer unused)
{
    static const char *const class = "sys/class/dmi/id/product_uuid";
    check_uuid(fixture, NULL);
    static const char *const bad[] = {"00000000-0000-0000-0000-000000000000",
                                      "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
                                      "03030303-0303-0303-0303-030303030303",
                                      "Not Settable",
                                      "",
                                      "4c4c4544-0042-3510-8054-b7c04f4e333",
                                      "4c4c4544-0042-3510-8054-b7c04f4e33322"};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        put(fixture, class, bad[i]);
        check_uuid(fixture, NULL);
    }
    put(fixture, class, "4C4C4544-0042-3510-8054-B7C04F4E3332\n");
    check_uuid(fixture, DMI_UUID);
    put(fixture, "sys/devices/virtual/dmi/id/product_uuid", "11111111-2222-4333-8444-555555555555\n");
    check_uuid(fixture, "11111111-2222-4333-8444-555555555555");
}

static void
test_host_uuid_conf(Fixture *fixture, gconstpointer unused)
{
    put(fixture, "sys/class/dmi/id/product_uuid", DMI_UUID "\n");
    put(fixture, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    put(fixture, "etc/libvirt/libvirtd.conf",
        "# host_uuid = \"00000000-0000-0000-0000-000000000001\"\n"
        "#host_uuid_source = \"machine-id\"\n"
        "host_uuidx = \"00000000-0000-0000-0000-000000000002\"\n"
        "listen_tls = 0\n");
    check_uuid(fixture, DMI_UUID);
    put(fixture, "etc/libvirt/virtqemud.conf", "host_uuid_source = \"machine-id\"\n");
    check_uuid(fixture, "01234567-89ab-cdef-0123-456789abcdef");
    put(fixture, "etc/libvirt/virtqemud.conf", "host_uuid_source = 'smbios' # default\n");
    check_uuid(fixture, DMI_UUID);
    put(fixture, "etc/libvirt/virtqemud.conf", "host_uuid='00000000-0000-0000-0000-0000000000AB' # mine\n");
    check_uuid(fixture, "00000000-0000-0000-0000-0000000000ab");
    put(fixture, "etc/libvirt/libvirtd.conf",
        "host_uuid = \"00000000-0000-0000-0000-000000000003\"\r\n"
        "\t host_uuid =\"00000000000000000000000000000004\"");
    check_uuid(fixture, "00000000-0000-0000-0000-000000000004");
    /* libvirt warns of an invalid one and goes on as if it were not there */
    put(fixture, "etc/libvirt/libvirtd.conf", "host_uuid = \"nonsense\"\nhost_uuid = unquoted\n");
    put(fixture, "etc/libvirt/virtqemud.conf", "host_uuid = \"unfinished\n");
    check_uuid(fixture, DMI_UUID);
}

static void
test_addr_ip(void)
{
    static const struct {
        const char *addr, *ip;
    } cases[] = {
        {"10.0.0.1:0/123", "10.0.0.1"},
        {"10.0.0.1:6789", "10.0.0.1"},
        {"v1:10.0.0.1:0/123", "10.0.0.1"},
        {"v2:[fd00:0::1]:3300/0", "fd00::1"},
        {"any:10.0.0.1:0/5", "10.0.0.1"},
        {"[::1]:0/1", "::1"},
        {"[2001:DB8::00A]:0/1", "2001:db8::a"},
        {"[::ffff:10.0.0.1]:0/1", "10.0.0.1"},
        {NULL, NULL},
        {"", NULL},
        {"-", NULL},
        {":/0", NULL},
        {"10.0.0.1", NULL},
        {"10.0.0.256:0/1", NULL},
        {"10.0.0:0/1", NULL},
        {"0.0.0.0:0/1", NULL},
        {"[::]:0/1", NULL},
        {"::1:0/1", NULL},
        {"[::1]", NULL},
        {"[::1:0/1", NULL},
        {"[10.0.0.1]:0/1", NULL},
        {"host.example:0/1", NULL},
        {" 10.0.0.1:0/1", NULL},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *ip = vl_addr_ip(cases[i].addr);
        g_assert_cmpstr(ip, ==, cases[i].ip);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/procinfo/start-time", test_start_time);
    g_test_add_func("/procinfo/open", test_open);
    g_test_add_func("/procinfo/reuse", test_reuse);
    g_test_add_func("/procinfo/reuse-real", test_reuse_real);
    g_test_add_func("/procinfo/is-qemu", test_is_qemu);
    static const LocalIps from_sockets = vl_proc_local_ips, from_tables = vl_proc_local_ips_from_tables;
    g_test_add_data_func("/procinfo/local-ips", &from_sockets, test_local_ips);
    g_test_add_data_func("/procinfo/local-ips-from-tables", &from_tables, test_local_ips);
    g_test_add_func("/procinfo/local-ips-zombie", test_local_ips_zombie);
    g_test_add_func("/procinfo/host-ips", test_host_ips);
    g_test_add_func("/procinfo/addr-ip", test_addr_ip);
    g_test_add("/procinfo/ids", Fixture, NULL, set_up, test_ids, tear_down);
    g_test_add("/procinfo/host-uuid", Fixture, NULL, set_up, test_host_uuid, tear_down);
    g_test_add("/procinfo/host-uuid-conf", Fixture, NULL, set_up, test_host_uuid_conf, tear_down);
    return g_test_run();
}

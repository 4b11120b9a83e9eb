/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/procinfo.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lockd/error.h"

/* A command line is bounded by the kernel at a quarter of the stack limit, at most 6 MiB
 * (fs/exec.c, bprm_stack_limits). */
#define CMDLINE_MAX (8 * 1024 * 1024)

/* Files of /proc have size 0, so g_file_get_contents() is right, but it aborts on no limit. */
static char *
proc_read(const char *path, gsize max, gsize *ret_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    GByteArray *bytes = g_byte_array_new();
    ssize_t n = 1;
    while (bytes->len <= max) {
        guint8 buffer[4096];
        n = read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        g_byte_array_append(bytes, buffer, (guint)n);
    }
    int saved = n < 0 ? errno : EFBIG;
    close(fd);
    if (n != 0) {
        g_byte_array_unref(bytes);
        errno = saved;
        return NULL;
    }
    gsize len = bytes->len;
    g_byte_array_append(bytes, (const guint8 *)"", 1);
    if (ret_len)
        *ret_len = len;
    return (char *)g_byte_array_free(bytes, FALSE);
}

static void
set_missing(GError **error, pid_t pid)
{
    vl_set_error(error, VL_ERR_MISSING, "process %d does not exist", (int)pid);
}

gboolean
vl_proc_start_time(pid_t pid, guint64 *ret_start, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = pid > 0 ? proc_read(path, 64 * 1024, NULL) : NULL;
    if (!text) {
        if (pid <= 0 || errno == ENOENT || errno == ESRCH)
            set_missing(error, pid);
        else
            vl_set_error(error, VL_ERR_INTERNAL, "cannot read %s: %s", path, g_strerror(errno));
        return FALSE;
    }
    /* The name (field 2) may hold anything, so count from the last parenthesis: what follows it is
     * field 3 (fs/proc/array.c, do_task_stat). */
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    char *end = NULL;
    guint64 start = at ? g_ascii_strtoull(at + 1, &end, 10) : 0;
    if (!at || end == at + 1) {
        vl_set_error(error, VL_ERR_INTERNAL, "%s has an unknown form", path);
        return FALSE;
    }
    *ret_start = start;
    return TRUE;
}

int
vl_proc_open(pid_t pid, guint64 start, GError **error)
{
    if (pid <= 0) {
        set_missing(error, pid);
        return -1;
    }
    int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* always close-on-exec */
    if (fd < 0) {
        /* EINVAL: a thread, not a process. */
        if (errno == ESRCH || errno == EINVAL)
            set_missing(error, pid);
        else
            vl_set_error(error, VL_ERR_INTERNAL, "cannot open process %d: %s", (int)pid, g_strerror(errno));
        return -1;
    }
    guint64 now = 0;
    if (!vl_proc_start_time(pid, &now, error)) {
        close(fd);
        return -1;
    }
    /* The descriptor pins one process; if the number has the right start time afterwards, either it
     * is that process or the descriptor's one is gone, which the poll tells. */
    if (now != start || vl_proc_exited(fd)) {
        vl_set_error(error, VL_ERR_MISSING,
                     now != start ? "process %d is another one, started later" : "process %d has exited", (int)pid);
        close(fd);
        return -1;
    }
    return fd;
}

gboolean
vl_proc_exited(int pidfd)
{
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    int n;
    do {
        n = poll(&poll_fd, 1, 0);
    } while (n < 0 && errno == EINTR);
    return n > 0 && (poll_fd.revents & POLLIN);
}

gboolean
vl_proc_kill(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0;
}

gboolean
vl_proc_is_qemu_of(pid_t pid, const char *uuid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)pid);
    gsize len = 0;
    g_autofree char *args = pid > 0 ? proc_read(path, CMDLINE_MAX, &len) : NULL;
    gboolean here = FALSE;
    for (gsize at = 0; args && at < len; at += strlen(args + at) + 1) {
        if (here && g_ascii_strcasecmp(args + at, uuid) == 0)
            return TRUE;
        here = strcmp(args + at, "-uuid") == 0;
    }
    return FALSE;
}

char *
vl_ip_text(int family, const void *address)
{
    char text[INET6_ADDRSTRLEN];
    if (family == AF_INET6) {
        const struct in6_addr *in6 = address;
        if (IN6_IS_ADDR_V4MAPPED(in6))
            return vl_ip_text(AF_INET, &in6->s6_addr[12]);
        if (IN6_IS_ADDR_UNSPECIFIED(in6))
            return NULL;
    } else if (memcmp(address, &(struct in_addr){0}, sizeof(struct in_addr)) == 0) {
        return NULL;
    }
    return g_strdup(inet_ntop(family, address, text, sizeof text));
}

GHashTable *
vl_host_ips(void)
{
    GHashTable *ips = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) < 0) {
        g_warning("cannot list this host's addresses: %s", g_strerror(errno));
        return ips;
    }
    /* By address, not by interface: hosts that route to themselves have their address on "lo". */
    for (int loopback = 0; loopback < 2 && g_hash_table_size(ips) == 0; loopback++) {
        for (struct ifaddrs *i = list; i; i = i->ifa_next) {
            char *ip = NULL;
            if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET)
                ip = vl_ip_text(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr);
            else if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET6)
                ip = vl_ip_text(AF_INET6, &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr);
            if (ip && (g_str_has_prefix(ip, "127.") || strcmp(ip, "::1") == 0) == loopback)
                g_hash_table_add(ips, g_steal_pointer(&ip));
            g_free(ip);
        }
    }
    freeifaddrs(list);
    return ips;
}

static char *
read_word(const char *root, const char *file, GError **error)
{
    g_autofree char *path = g_strconcat(root, file, NULL);
    g_autofree char *text = proc_read(path, 4096, NULL);
    if (!text)
        vl_set_error(error, VL_ERR_CONFIG, "cannot read %s: %s", path, g_strerror(errno));
    else if (!*g_strstrip(text))
        vl_set_error(error, VL_ERR_CONFIG, "%s is empty", path);
    else if (strcmp(text, "uninitialized") == 0) /* machine-id(5), first boot */
        vl_set_error(error, VL_ERR_CONFIG, "%s is not initialized yet", path);
    else
        return g_steal_pointer(&text);
    return NULL;
}

char *
vl_host_boot_id_at(const char *root, GError **error)
{
    return read_word(root, "/proc/sys/kernel/random/boot_id", error);
}

char *
vl_host_machine_id_at(const char *root, GError **error)
{
    return read_word(root, "/etc/machine-id", error);
}

char *
vl_host_boot_id(GError **error)
{
    return vl_host_boot_id_at("", error);
}

char *
vl_host_machine_id(GError **error)
{
    return vl_host_machine_id_at("", error);
}

/* Canonical lower-case form; NULL unless it is a UUID libvirt would take: hex digits with dashes or
 * spaces anywhere between them, not all bytes the same (virUUIDParse, virUUIDIsValid in
 * src/util/viruuid.c; boards without a real one report ffffffff-... or 00000000-...). */
static char *
uuid_canonical(const char *text)
{
    char hex[33];
    size_t n = 0;
    for (const char *c = text; c && *c; c++) {
        if (g_ascii_isxdigit(*c) && n < 32)
            hex[n++] = g_ascii_tolower(*c);
        else if (*c != '-' && !g_ascii_isspace(*c))
            return NULL;
    }
    hex[n] = '\0';
    gboolean same = TRUE;
    for (size_t i = 2; i < n; i++)
        same = same && hex[i] == hex[i % 2];
    if (n != 32 || same)
        return NULL;
    return g_strdup_printf("%.8s-%.4s-%.4s-%.4s-%s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

/* A string value of a configuration file of libvirt's (virconf.c: key = "value", # comments); the
 * last one counts there. Not vl_config_load(): that one refuses keys it does not know. */
static char *
libvirt_conf_value(const char *root, const char *file, const char *key)
{
    g_autofree char *path = g_strconcat(root, file, NULL);
    g_autofree char *text = proc_read(path, 1024 * 1024, NULL);
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
    char *value = NULL;
    for (char **line = lines; *line; line++) {
        char *at = g_strchug(*line);
        if (!g_str_has_prefix(at, key))
            continue;
        at = g_strchug(at + strlen(key));
        if (*at != '=')
            continue;
        at = g_strchug(at + 1);
        char *end = *at == '"' || *at == '\'' ? strchr(at + 1, *at) : NULL;
        if (!end)
            continue;
        g_free(value);
        value = g_strndup(at + 1, (gsize)(end - at - 1));
    }
    return value;
}

/* daemonSetupHostUUID (src/remote/remote_daemon.c), then virGetHostUUID (src/util/viruuid.c). */
char *
vl_host_uuid_at(const char *root)
{
    static const char *const confs[] = {"/etc/libvirt/libvirtd.conf", "/etc/libvirt/virtqemud.conf"};
    static const char *const dmi[] = {"/sys/devices/virtual/dmi/id/product_uuid", "/sys/class/dmi/id/product_uuid"};
    for (gsize i = 0; i < G_N_ELEMENTS(confs); i++) {
        g_autofree char *set = libvirt_conf_value(root, confs[i], "host_uuid");
        g_autofree char *source = libvirt_conf_value(root, confs[i], "host_uuid_source");
        if (!set && source && strcmp(source, "machine-id") == 0)
            set = vl_host_machine_id_at(root, NULL);
        char *uuid = uuid_canonical(set);
        if (uuid)
            return uuid;
    }
    for (gsize i = 0; i < G_N_ELEMENTS(dmi); i++) {
        g_autofree char *text = read_word(root, dmi[i], NULL);
        char *uuid = uuid_canonical(text);
        if (uuid)
            return uuid;
    }
    return NULL;
}

char *
vl_host_uuid(void)
{
    return vl_host_uuid_at("");
}

char *
vl_addr_ip(const char *addr)
{
    /* "v1:", "v2:" and "any:" are how newer Ceph prints the type (msg_types.h, entity_addr_t). */
    static const char *const types[] = {"v1:", "v2:", "any:"};
    for (gsize i = 0; addr && i < G_N_ELEMENTS(types); i++)
        if (g_str_has_prefix(addr, types[i]))
            addr += strlen(types[i]);
    unsigned char bytes[sizeof(struct in6_addr)];
    if (!addr)
        return NULL;
    g_autofree char *ip = NULL;
    int family = AF_INET;
    if (*addr == '[') {
        const char *end = strchr(addr, ']');
        if (!end || end[1] != ':')
            return NULL;
        ip = g_strndup(addr + 1, (gsize)(end - addr - 1));
        family = AF_INET6;
    } else {
        const char *end = strchr(addr, ':');
        if (!end)
            return NULL;
        ip = g_strndup(addr, (gsize)(end - addr));
    }
    if (inet_pton(family, ip, bytes) != 1)
        return NULL;
    return vl_ip_text(family, bytes);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Which addresses the TCP connections of another process come from.
 *
 * This stands in the way of a VM's first CPU cycle (R3), also at the end of a live migration. /proc/PID/net/tcp walks
 * the kernel's whole table of connections: some 4 ms, and as much again for tcp6, however few sockets there are. A copy
 * of each of the process's own sockets answers in microseconds.
 */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/procinfo.h"

#define TCP_LISTEN_STATE 0x0A /* include/net/tcp_states.h */

static DIR *
open_descriptors(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    DIR *dir = pid > 0 ? opendir(path) : NULL;
    if (dir)
        return dir;
    if (pid <= 0 || errno == ENOENT || errno == ESRCH)
        vl_set_error(error, VL_ERR_MISSING, "there is no process %d", (int)pid);
    else
        vl_set_error(error, VL_ERR_INTERNAL, "cannot read %s: %s", path, g_strerror(errno));
    return NULL;
}

/* The next descriptor that is a socket, its inode in *ret_inode; -1: no more. */
static int
next_socket(DIR *dir, guint64 *ret_inode)
{
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        char link[64];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof link - 1);
        if (n < 0)
            continue; /* "." and "..", or closed meanwhile */
        link[n] = '\0';
        if (sscanf(link, "socket:[%" G_GUINT64_FORMAT "]", ret_inode) == 1)
            return atoi(entry->d_name);
    }
    return -1;
}

/* ---- by asking the sockets ---- */

static char *
connection_local_ip(int fd)
{
    struct sockaddr_storage peer, local;
    socklen_t peer_len = sizeof peer, local_len = sizeof local, type_len = sizeof(int);
    int type = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 || type != SOCK_STREAM ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0 ||
        getsockname(fd, (struct sockaddr *)&local, &local_len) < 0)
        return NULL;
    if (local.ss_family == AF_INET)
        return vl_ip_text(AF_INET, &((struct sockaddr_in *)(void *)&local)->sin_addr);
    if (local.ss_family == AF_INET6)
        return vl_ip_text(AF_INET6, &((struct sockaddr_in6 *)(void *)&local)->sin6_addr);
    return NULL;
}

/* NULL: the kernel does not give us that process's descriptors. The copies are closed at once: a connection that is
 * closed over there meanwhile ends microseconds later. */
static GHashTable *
ips_of_sockets(pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    DIR *dir = pidfd >= 0 ? open_descriptors(pid, NULL) : NULL;
    GHashTable *ips = dir ? g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL) : NULL;
    guint64 inode;
    for (int fd = 0; ips && (fd = next_socket(dir, &inode)) >= 0;) {
        int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
        if (copy < 0 && errno != EBADF)
            g_clear_pointer(&ips, g_hash_table_unref);
        if (copy < 0)
            continue;
        char *ip = connection_local_ip(copy);
        if (ip)
            g_hash_table_add(ips, ip);
        close(copy);
    }
    if (dir)
        closedir(dir);
    if (pidfd >= 0)
        close(pidfd);
    return ips;
}

GHashTable *
vl_proc_local_ips(pid_t pid, GError **error)
{
    GHashTable *ips = pid > 0 ? ips_of_sockets(pid) : NULL;
    return ips ? ips : vl_proc_local_ips_from_tables(pid, error);
}

/* ---- from the tables ---- */

/* A set of guint64. */
static GHashTable *
socket_inodes(pid_t pid, GError **error)
{
    DIR *dir = open_descriptors(pid, error);
    if (!dir)
        return NULL;
    GHashTable *inodes = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    guint64 inode;
    while (next_socket(dir, &inode) >= 0)
        g_hash_table_add(inodes, g_memdup2(&inode, sizeof inode));
    closedir(dir);
    return inodes;
}

/* One line of net/tcp or net/tcp6. The kernel prints an address as big-endian words, each as a
 * native 32-bit number (net/ipv4/tcp_ipv4.c, get_tcp4_sock; net/ipv6/tcp_ipv6.c, get_tcp6_sock). */
static char *
tcp_line_local_ip(const char *line, GHashTable *inodes)
{
    char hex[33];
    unsigned int state;
    guint64 inode;
    if (sscanf(line,
               " %*u: %32[0-9A-F]:%*x %*[0-9A-F]:%*x %x %*x:%*x %*x:%*x %*x %*u %*u"
               " %" G_GUINT64_FORMAT,
               hex, &state, &inode) != 3 ||
        state == TCP_LISTEN_STATE || !g_hash_table_contains(inodes, &inode))
        return NULL;
    size_t words = strlen(hex) / 8;
    guint32 address[4] = {0};
    for (size_t i = 0; i < words; i++)
        if (sscanf(hex + 8 * i, "%8x", &address[i]) != 1)
            return NULL;
    return vl_ip_text(words == 4 ? AF_INET6 : AF_INET, address);
}

GHashTable *
vl_proc_local_ips_from_tables(pid_t pid, GError **error)
{
    g_autoptr(GHashTable) inodes = socket_inodes(pid, error);
    if (!inodes)
        return NULL;
    g_autoptr(GHashTable) ips = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    static const char *const tables[] = {"tcp", "tcp6"};
    for (gsize i = 0; i < G_N_ELEMENTS(tables) && g_hash_table_size(inodes) > 0; i++) {
        g_autofree char *path = g_strdup_printf("/proc/%d/net/%s", (int)pid, tables[i]);
        FILE *file = fopen(path, "re");
        if (!file && errno == ENOENT && i == 1)
            continue; /* a kernel without IPv6 */
        if (!file) {
            vl_set_error(error, errno == EACCES ? VL_ERR_INTERNAL : VL_ERR_MISSING, "cannot read %s: %s", path,
                         g_strerror(errno));
            return NULL;
        }
        char *line = NULL;
        size_t size = 0;
        while (getline(&line, &size, file) >= 0) {
            char *ip = tcp_line_local_ip(line, inodes);
            if (ip)
                g_hash_table_add(ips, ip);
        }
        free(line);
        fclose(file);
    }
    return g_steal_pointer(&ips);
}

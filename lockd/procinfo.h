/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Facts about processes and this host, from /proc, /etc and /sys. The ..._at() forms take the
 * directory that stands for "/", for tests. */
#ifndef VL_LOCKD_PROCINFO_H
#define VL_LOCKD_PROCINFO_H

#include <glib.h>
#include <sys/types.h>

/* Field 22 of /proc/PID/stat, in clock ticks since boot: with the pid and boot id it names a
 * process for ever. Correct for process names with spaces and parentheses. MISSING if there is no
 * such process. */
gboolean vl_proc_start_time(pid_t pid, guint64 *ret_start, GError **error);

/* A close-on-exec pidfd of exactly the process (pid, start): opened, then the start time is checked
 * again. -1 with MISSING when it is gone, another one, or has exited and waits for its parent. */
int vl_proc_open(pid_t pid, guint64 start, GError **error);
gboolean vl_proc_exited(int pidfd);
gboolean vl_proc_kill(int pidfd, int signal); /* pidfd_send_signal */

/* The command line holds "-uuid UUID" (libvirt always passes it), i.e. this is that VM's QEMU. */
gboolean vl_proc_is_qemu_of(pid_t pid, const char *uuid);

/* Local IP addresses (text; IPv4-mapped IPv6 as IPv4) of the TCP connections this very process has
 * open. A set (char * -> itself); MISSING if there is no such process. Fast where the kernel gives us its
 * descriptors (pidfd_getfd); else from the tables in /proc/PID/net, which takes some 10 ms. */
GHashTable *vl_proc_local_ips(pid_t pid, GError **error);
GHashTable *vl_proc_local_ips_from_tables(pid_t pid, GError **error);

/* Text of an address (struct in_addr or in6_addr); IPv4-mapped IPv6 as IPv4, because Ceph prints it that
 * way where the socket is dual-stack. NULL for the unspecified address. */
char *vl_ip_text(int family, const void *address);

/* IP addresses of this host's interfaces except 127.0.0.0/8 and ::1, unless there are no others.
 * Many of them (bridges, link-local ones) say nothing about which host this is. */
GHashTable *vl_host_ips(void);

/* /proc/sys/kernel/random/boot_id, /etc/machine-id: trimmed text; NULL + CONFIG when unreadable or
 * empty. */
char *vl_host_boot_id(GError **error);
char *vl_host_machine_id(GError **error);
char *vl_host_boot_id_at(const char *root, GError **error);
char *vl_host_machine_id_at(const char *root, GError **error);
/* libvirt's host UUID: host_uuid in /etc/libvirt/libvirtd.conf or virtqemud.conf, else SMBIOS
 * (/sys/class/dmi/id/product_uuid) or the machine id as libvirt does (host_uuid_source), rejecting
 * all-zero/all-same values; NULL without error when there is none (the machine id is used then).
 * Lower case. */
char *vl_host_uuid(void);
char *vl_host_uuid_at(const char *root);

/* "10.0.0.1" of "10.0.0.1:0/123", "::1" of "[::1]:0/1", in the form vl_proc_local_ips() and
 * vl_host_ips() use; a type prefix ("v1:") is skipped. NULL if it is not an address. */
char *vl_addr_ip(const char *addr);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * /etc/virtlease/virtleased.conf. Every key is described in examples/virtleased.conf. */
#ifndef VL_LOCKD_SETTINGS_H
#define VL_LOCKD_SETTINGS_H

#include <glib.h>
#include <stdbool.h>

#define VL_DEFAULT_CONFIG "/etc/virtlease/virtleased.conf"

enum { VL_TAKEOVER_AUTO, VL_TAKEOVER_MANUAL };
enum { VL_WATCH_IGNORE, VL_WATCH_WAIT };
enum { VL_FOREIGN_REFUSE, VL_FOREIGN_IGNORE };
enum { VL_UNMANAGED_ALLOW, VL_UNMANAGED_REFUSE };
enum { VL_CONFLICT_PAUSE, VL_CONFLICT_DETACH, VL_CONFLICT_LOG };
enum { VL_LOST_PAUSE, VL_LOST_KILL, VL_LOST_LOG };

typedef struct {
    char *socket;
    char *state_dir;           /* journal, survives reboots */
    char *run_root;            /* "/run": where libvirt keeps its status XML */
    char *plugin_conf;         /* checked at start: its timeout must exceed takeover_wait */
    char *host_id, *host_name; /* NULL: found out */
    char *ceph_conf, *ceph_user;
    unsigned int op_timeout;       /* s: one storage operation */
    unsigned int dead_after;       /* s of silence before a host may be called dead */
    int takeover;                  /* VL_TAKEOVER_* */
    unsigned int takeover_wait;    /* s a start may wait for a verdict; UINT_MAX in the struct = dead_after + 10 */
    int takeover_watch;            /* VL_WATCH_* */
    int foreign_users;             /* VL_FOREIGN_* */
    unsigned int foreign_wait;     /* s a start waits for a foreign client to go */
    unsigned int blocklist_expire; /* s */
    unsigned int restart_grace;    /* s */
    unsigned int audit_interval;   /* s */
    int unmanaged_disks;           /* VL_UNMANAGED_* */
    int hotplug_conflict;          /* VL_CONFLICT_* */
    int on_lease_lost;             /* VL_LOST_* */
    char **volumes;                /* rules of route.h, NULL: none */
    char *local_dir;               /* lock files; NULL: STATE_DIR/local */
    char *sanlock_dir;             /* lease files, shared by all hosts; NULL: no sanlock */
    char *sanlock_lockspace;       /* a block device; NULL: a file in sanlock_dir */
    char *sanlock_user, *sanlock_group;
    char *sanlock_killpath; /* NULL: the virtleasectl that was installed with this daemon */
    unsigned int sanlock_host_id, sanlock_io_timeout, sanlock_sector_size, sanlock_num_hosts;
    bool debug;
} VlSettings;

/* NULL + VL_ERR_CONFIG "file:line: reason". A missing file means defaults unless must_exist. */
VlSettings *vl_settings_load(const char *path, gboolean must_exist, GError **error);
void vl_settings_free(VlSettings *settings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlSettings, vl_settings_free)

#endif

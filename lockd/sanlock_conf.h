/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What the sanlock parts need to know of virtleased.conf. */
#ifndef VL_LOCKD_SANLOCK_CONF_H
#define VL_LOCKD_SANLOCK_CONF_H

#include <glib.h>

/* libvirt's own plugin calls it so; hosts with either plugin exclude each other by it. */
#define VL_SANLOCK_SPACE      "__LIBVIRT__DISKS__"
#define VL_SANLOCK_AREA_BYTES (1024 * 1024) /* of the lockspace, and of each lease */

typedef struct {
    const char *lease_dir; /* shared by all hosts; holds the leases, one file each */
    const char *space;     /* NULL: lease_dir/__LIBVIRT__DISKS__; or a block device, formatted by hand */
    const char *user;      /* who the sanlock daemon runs as; NULL: files stay as created */
    const char *group;
    const char *host_name; /* left in lease_dir, so that others can say who host 7 is */
    guint host_id;         /* 1..2000, of this host alone */
    guint io_timeout;      /* s */
    guint sector_size;     /* 512 or 4096; 0: sanlock's default */
    guint num_hosts;       /* room in each lease that we format; fewer is faster to take */
} VlSanlockConf;

/* sanlock's own limits (8 * io_timeout + 60 s, timeouts.h of sanlock 3.8). */
#define VL_SANLOCK_RENEW_S(io_timeout) (2 * (io_timeout))
#define VL_SANLOCK_FAIL_S(io_timeout)  (8 * (io_timeout))
#define VL_SANLOCK_DEAD_S(io_timeout)  (8 * (io_timeout) + 60)

#endif

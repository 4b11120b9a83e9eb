/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The questions the space's thread asks of the sanlock daemon, each with a deadline. FALSE: no answer
 * (see vl_sanlock_call); TRUE: *ret_rc is sanlock's. */
#ifndef VL_LOCKD_SANLOCK_SPACE_CALL_H
#define VL_LOCKD_SANLOCK_SPACE_CALL_H

#include "lockd/sanlock_space.h"

typedef struct {
    guint64 id, generation, timestamp;
    guint io_timeout;
    VlHostLife life;
    char name[64];
} VlSpaceSeen;

/* The lockspace's file or device. */
char *vl_space_call_path(const VlSanlockConf *conf);

gboolean vl_space_call_read(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, GError **error);
gboolean vl_space_call_inquire(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, GError **error);
gboolean vl_space_call_add(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, GError **error);
/* rc -EAGAIN: joined, but nothing seen yet. Free *ret_seen with g_free. */
gboolean vl_space_call_hosts(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, VlSpaceSeen **ret_seen,
                             guint *ret_n, GError **error);
/* Fills in the hosts' names, if the lease directory answers: apart from what the daemon is asked, because the names
 * matter least when storage hangs. */
void vl_space_call_names(const VlSanlockConf *conf, VlSpaceSeen *seen, guint n, gint64 deadline);

/* The daemon's use_watchdog, which the library does not tell: asks the sanlock program. Blocks for
 * 5 s at most. */
void vl_space_call_watchdog(gboolean *ret_watchdog, gboolean *ret_known);
/* Leaves our host's name beside the leases; in the background, for people's eyes only. */
void vl_space_call_publish_name(const VlSanlockConf *conf);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Single leases: one file in lease_dir per volume, named by the md5 of its path as libvirt's own plugin
 * does it, taken and released for a QEMU process that has registered itself with sanlock.
 *
 * One lease per call to the daemon: it works them off one by one anyway, and so every refusal has a
 * name. Whoever has been given up on (deadline) and gets the lease after all gives it back
 * (sanlock_call.h).
 */
#ifndef VL_LOCKD_SANLOCK_LEASE_H
#define VL_LOCKD_SANLOCK_LEASE_H

#include <sys/types.h>

#include "lockd/sanlock_space.h"

/* md5 of the path, 32 hex digits: name of the lease and of its file. */
char *vl_sanlock_lease_name(const char *path);

typedef struct {
    pid_t pid;        /* registered with sanlock */
    const char *name; /* vl_sanlock_lease_name() */
    const char *what; /* of which volume, for messages */
    gboolean shared;
    gint64 lver;       /* > 0: only if nobody has had it since it was so (STALE otherwise) */
    gint64 wait_until; /* vl_clock_now() until which a dying owner may be waited for; 0: not at all */
} VlSanlockWant;

/* HELD, UNKNOWN_OWNER (owner silent, too long to wait), STALE, RECORD, MISSING, STORAGE,
 * NOT_REGISTERED, TIMEOUT...; nothing is held then. TRUE also when this process has it already. */
gboolean vl_sanlock_lease_acquire(VlSanlockSpace *space, const VlSanlockWant *want, const VlCall *call, GError **error);

/* Not held (any more) is success. */
gboolean vl_sanlock_lease_release(VlSanlockSpace *space, pid_t pid, const char *name, const char *what, gint64 deadline,
                                  GError **error);

/* What the process has: name -> lver (gint64, boxed; 0 for shared ones), of our lockspace only. NULL +
 * NOT_REGISTERED: sanlock does not know the process, whatever it had is gone. */
GHashTable *vl_sanlock_lease_inquire(pid_t pid, const char *what, gint64 deadline, GError **error);

/* Who has it on storage: NULL without error when nobody; "host 7 (node-b), which is alive". */
char *vl_sanlock_lease_owner(VlSanlockSpace *space, const char *name, gint64 deadline, guint64 *ret_host,
                             guint64 *ret_generation, GError **error);

#endif

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

/* One lease, wherever it lies. */
typedef struct {
    char *space;    /* lockspace */
    char *name;     /* of the lease in it */
    char *file;     /* file or device it lies in */
    guint64 offset; /* bytes */
} VlSanlockRef;
/* The lease of a path in lease_dir. */
VlSanlockRef *vl_sanlock_ref_of_path(const VlSanlockConf *conf, const char *path);
void vl_sanlock_ref_free(VlSanlockRef *ref);
/* 32 hex digits that tell leases apart, whatever their lockspace and whatever characters are in their names; of ours it
 * is the name. g_free. */
char *vl_sanlock_ref_id(const VlSanlockRef *ref);

typedef struct {
    pid_t pid; /* registered with sanlock */
    const VlSanlockRef *ref;
    const char *what; /* of which volume, for messages */
    gboolean shared;
    gint64 lver;       /* > 0: only if nobody has had it since it was so (STALE otherwise) */
    gint64 wait_until; /* vl_clock_now() until which a dying owner may be waited for; 0: not at all */
    gboolean handover; /* its present owner, a live one, is about to let go of it for us */
    gint *wait_left;   /* atomic, may be NULL: while a dying owner is waited for, the seconds left; else 0 */
} VlSanlockWant;

/* Leases of our own lockspace get their file made if there is none; HELD, UNKNOWN_OWNER (owner silent, too long to
 * wait), STALE, RECORD, MISSING, STORAGE, NOT_REGISTERED, TIMEOUT...; nothing is held then. TRUE also when this process
 * has it already. */
gboolean vl_sanlock_lease_acquire(VlSanlockSpace *space, const VlSanlockWant *want, const VlCall *call, GError **error);

/* Not held (any more) is success. */
gboolean vl_sanlock_lease_release(VlSanlockSpace *space, pid_t pid, const VlSanlockRef *ref, const char *what,
                                  gint64 deadline, GError **error);

/* What the process has: "LOCKSPACE:NAME" -> lver (gint64, boxed; 0 for shared ones). NULL +
 * NOT_REGISTERED: sanlock does not know the process, whatever it had is gone. */
GHashTable *vl_sanlock_lease_inquire(pid_t pid, const char *what, gint64 deadline, GError **error);

/* Who has it on storage: NULL without error when nobody; "host 7 (node-b), which is alive". */
char *vl_sanlock_lease_owner(VlSanlockSpace *space, const VlSanlockRef *ref, gint64 deadline, guint64 *ret_host,
                             guint64 *ret_lver, GError **error);

/* lver of a lease in what inquire returned; -1: not among them. */
gint64 vl_sanlock_lease_lver(GHashTable *held, const VlSanlockRef *ref);

#endif

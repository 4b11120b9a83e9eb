/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The lock files of this host (design section 7), also used by backends that guard files between hosts: two names of
 * one file on this host (hard link, bind mount) are one lock file. */
#ifndef VL_LOCKD_BACKEND_LOCAL_H
#define VL_LOCKD_BACKEND_LOCAL_H

#include "lockd/backend.h"
#include "lockd/lockfile.h"

extern const VlBackendOps vl_backend_local;

/* Which file or device a path is, on this host and in this boot. */
typedef struct {
    guint64 dev, ino; /* a block device: (st_rdev, 0) */
} VlFileId;
gboolean vl_file_id(const char *path, VlFileId *ret_id, GError **error);

/* Waits while the holder's process is gone and only its lock is not yet. NULL: refused. */
VlLockfile *vl_local_take(VlDaemon *daemon, VlVm *vm, const VlLease *lease, const VlFileId *id, const VlCall *call,
                          GError **error);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Lock files of this host: one small file per volume, locked by virtleased through an open-file-description lock
 * (fcntl F_OFD_SETLK) as long as the lease lasts, with the holders written into it.
 *
 * The lock keeps a second process of this host out. What is written keeps the volume of a VM that outlived its
 * virtleased: after a crash the lock is gone, but a holder whose process lives (boot id, pid and start time) still
 * counts, until its own virtleased has taken the lock again. Byte 0 is the lease, byte 1 guards the text while it is
 * changed.
 */
#ifndef VL_LOCKD_LOCKFILE_H
#define VL_LOCKD_LOCKFILE_H

#include "lockd/call.h"
#include "lockd/record.h"

typedef struct VlLockfile VlLockfile;

typedef struct {
    const VlIncarnation *who;
    const char *vm;
    const char *volume; /* for messages */
    gboolean shared;
} VlLockfileHolder;

/* Takes the lease in DIR/NAME or refuses: HELD names the holder; CHANGED: its process is gone and its lock will follow
 * at once; STORAGE: the file cannot be used. Bounded by the call's deadline. */
VlLockfile *vl_lockfile_take(const char *dir, const char *name, const VlLockfileHolder *holder, const VlCall *call,
                             GError **error);

/* Still the file of that name, i.e. nobody removed it behind our back. */
gboolean vl_lockfile_in_place(const VlLockfile *file);

/* Strikes the holder and lets go; the last one removes the file. NULL is fine. */
void vl_lockfile_free(VlLockfile *file);

/* At the start, before anything is taken: removes what VMs left in DIR that ended while no virtleased ran. */
void vl_lockfile_sweep(const char *dir, const char *boot);

/* The living holders written in DIR/NAME, of VlLockfileEntry; empty when there is no such file. */
typedef struct {
    VlIncarnation who;
    char *vm;
    gboolean shared;
    gint64 since;
} VlLockfileEntry;
GPtrArray *vl_lockfile_holders(const char *dir, const char *name, const char *boot, GError **error);

#endif

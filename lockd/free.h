/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Giving leases up: after a start that was not granted, after a detach, and after a QEMU process has
 * gone. A dead process's socket can still deliver writes, so a process that was seen to leave nothing
 * behind is freed at once, and any other is fenced before its lease is free (R5).
 */
#ifndef VL_LOCKD_FREE_H
#define VL_LOCKD_FREE_H

#include "lockd/daemon.h"

/* Frees leases whose QEMU certainly does not use the volume (never started, or closed it). What cannot be
 * freed now stays FREEING for the exit path. VM's operation lock held. */
void vl_free_leases(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *reason);

/* The exit path: fences what must be fenced, frees every lease, forgets the VM. Repeats in the background until
 * storage lets it. Takes the operation lock itself. */
void vl_exit_begin(VlDaemon *daemon, VlVm *vm);

#endif

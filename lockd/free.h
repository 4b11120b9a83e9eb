/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Giving lease records up: after a start that was not granted, after a detach, and after a QEMU process has
 * gone. A dead process's socket can still deliver writes, so a process that was seen to leave nothing
 * behind is freed at once, and any other is fenced before its lease is free (R5).
 */
#ifndef VL_LOCKD_FREE_H
#define VL_LOCKD_FREE_H

#include "lockd/daemon.h"

/* VlBackendOps.free, exit and gone for lease records. free: QEMU certainly does not use the volume (never started, or
 * closed it). */
gboolean vl_free_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error);
gboolean vl_exit_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error);
void vl_forget_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);

#endif

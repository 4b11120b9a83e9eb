/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Looking after leases we have: are they still ours, are our QEMU's clients all recorded (R3), who else watches the
 * image (R4), do fences last as long as they should (R6).
 */
#ifndef VL_LOCKD_AUDIT_H
#define VL_LOCKD_AUDIT_H

#include "lockd/daemon.h"

/* The VMs whose turn it is in this second, so that each has one per audit_interval and the storage sees no burst; and
 * those in whose records a claim stood at the last look. Called from the main loop; the work is done in the background.
 */
void vl_audit_tick(VlDaemon *daemon, guint second);
/* All leases in one place, now: after silence, a reconnect, a new session number. */
void vl_audit_place(VlDaemon *daemon, VlPlace *place);
/* One VM's leases, now. Its operation lock held. */
void vl_audit_vm(VlDaemon *daemon, VlVm *vm);
/* VlBackendOps.audit for lease records. */
void vl_audit_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);
/* The lease is somebody else's, or what it stood for is gone: logs, and does to the VM what the administrator chose. */
void vl_lose(VlDaemon *daemon, VlVm *vm, VlLease *lease, const char *why);
/* Fences that lapsed too early are set again. Called from the main loop every second. */
void vl_refence_begin(VlDaemon *daemon);

#endif

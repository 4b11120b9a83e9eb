/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Live migration of VMs with lease records. Nothing tells the plugin's child that its VM comes from elsewhere; the
 * status XML does. While the memory is copied the lease stays the source's and the destination is only its heir. When
 * the source's CPUs have stopped (PARKED), the destination's Acquire presents the token that travelled in libvirt's
 * state string and takes the lease over by compare-and-swap:
 *
 *     source HELD ──stop──▶ PARKED ──token──▶ destination PARKED ──▶ HELD      (previous = source)
 *                                   └─ source QEMU exits first: its heir inherits, PARKED (R16)
 *     destination dies without ever having written: given back to previous (free.c)
 *
 * At no instant is the lease free, and only one QEMU has it.
 */
#ifndef VL_LOCKD_INCOMING_H
#define VL_LOCKD_INCOMING_H

#include "lockd/daemon.h"

/* VlBackendOps.begin_incoming for lease records: those that the same VM holds on another host become INCOMING (heir
 * written into the record); all others (storage copy targets) go to ret_free. */
gboolean vl_incoming_begin_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free,
                                   const VlCall *call, GError **error);

/* VlBackendOps.finish_incoming: by token, or because we inherited it. */
gboolean vl_incoming_finish_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *state,
                                    const VlCall *call, GError **error);

/* VlBackendOps.stay: nobody is the heir any more. A dead host would else inherit when the VM ends. */
void vl_incoming_forget_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);

#endif

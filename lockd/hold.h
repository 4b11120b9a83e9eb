/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * PARKED <-> HELD of lease records: what is written when a VM's CPUs are about to run and when they have stopped.
 */
#ifndef VL_LOCKD_HOLD_H
#define VL_LOCKD_HOLD_H

#include "lockd/daemon.h"

/* VlBackendOps.hold for lease records: a new token, the QEMU client addresses recorded first (R1-R3). */
gboolean vl_hold_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *token, const VlCall *call,
                         GError **error);

/* VlBackendOps.park for lease records. */
gboolean vl_park_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error);

/* Client addresses on the volume that belong to this very QEMU: newer than the process, on an address that one of its
 * own sockets uses. */
GPtrArray *vl_hold_find_addrs(VlVm *vm, const VlLease *lease, const VlLook *look, GError **error);

#endif

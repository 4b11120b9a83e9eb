/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * PARKED <-> HELD: what happens when a VM's CPUs are about to run and when they have stopped.
 */
#ifndef VL_LOCKD_HOLD_H
#define VL_LOCKD_HOLD_H

#include "lockd/daemon.h"

/* All leases of the VM to HELD with a new token, the QEMU client addresses recorded first (R1-R3); all or
 * nothing. What is HELD already is answered from memory. Operation lock held. */
gboolean vl_hold_all(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error);

/* All HELD leases to PARKED, at once in memory; the stored records follow in the background. Operation lock held. */
void vl_park_all(VlDaemon *daemon, VlVm *vm);

/* libvirt's lock state for this VM, VL_STATE_PREFIX and the token: malloc'ed. */
#define VL_STATE_PREFIX "vl1:"
char *vl_hold_state(const VlVm *vm);

/* Client addresses on the volume that belong to this very QEMU: newer than the process, on an address that one of its
 * own sockets uses. */
GPtrArray *vl_hold_find_addrs(VlVm *vm, const VlLease *lease, const VlLook *look, GError **error);

#endif

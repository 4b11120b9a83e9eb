/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The leases of one VM over all its backends (backend.h): what happens to them at each event of its life, all or
 * nothing. The VM's operation lock is held in all calls but vl_exit_begin().
 */
#ifndef VL_LOCKD_LEASES_H
#define VL_LOCKD_LEASES_H

#include "lockd/backend.h"

/* Takes every lease of `leases` (VlLease in state NONE, same VM, already in vm->leases) as PARKED, fencing dead
 * owners first. On failure none of them is left taken; they end in state FREE (those that QEMU has open already stay
 * as far as they got). `wait_s`: how long to wait for a verdict on a silent owner. */
gboolean vl_take_all(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error);

/* Every lease PARKED -> HELD, or refuse: a QEMU that has memory only goes on with what nobody else had since (R1). */
gboolean vl_hold_all(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error);

/* CPUs stopped: HELD -> PARKED, written in the background. */
void vl_park_all(VlDaemon *daemon, VlVm *vm);

#define VL_STATE_PREFIX "vl1:"
/* libvirt's lock state of this VM: the prefix, the token, and what backends add (",sanlock=..."); g_free. */
char *vl_hold_state(const VlVm *vm);

/* The token in a state string: g_free; NULL when it is not one of ours. */
char *vl_state_token(const char *state);

/* The status XML says that libvirt migrates this VM away: see VlBackendOps.depart. */
void vl_depart_all(VlDaemon *daemon, VlVm *vm);

/* Its CPUs run on here, so that migration has failed: nobody elsewhere inherits. */
void vl_stay_all(VlDaemon *daemon, VlVm *vm);

/* All leases that are ours, looked at now. `place`: only those recorded there; NULL: all of them. */
void vl_audit_leases(VlDaemon *daemon, VlVm *vm, VlPlace *place);

/* The leases of an incoming VM: those that the source has become INCOMING, the others go to ret_free. */
gboolean vl_incoming_begin(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free, const VlCall *call,
                           GError **error);
/* CPUs are about to run: every INCOMING lease becomes PARKED, by the source's state string or because we inherited it.
 */
gboolean vl_incoming_finish(VlDaemon *daemon, VlVm *vm, const char *state, const VlCall *call, GError **error);

/* Gives back what was taken or is detached; what cannot be freed now is freed when the process is gone. */
void vl_free_leases(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *reason);

/* The process is gone: fences what it left behind, frees its leases, forgets the VM. Any thread. */
void vl_exit_begin(VlDaemon *daemon, VlVm *vm);

#endif

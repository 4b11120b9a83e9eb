/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Disks that come and go while a VM runs: the status XML is the truth, libvirt's calls are hints (R9). */
#ifndef VL_LOCKD_RESCAN_H
#define VL_LOCKD_RESCAN_H

#include "lockd/daemon.h"

/* Looks at the VM's status XML a few times over the next seconds, in the background: leases what is new, frees
 * what is neither named there nor open any more. */
void vl_rescan_later(VlDaemon *daemon, VlVm *vm);

/* libvirt lets go of these: what it attached and could not use is not on its way into the XML any more. VM's operation
 * lock held. */
void vl_rescan_released(VlVm *vm, const GPtrArray *disks);

/* Before a resume: is there now a lease for every disk that had none when it was attached? VM's operation lock held. */
gboolean vl_rescan_unleased(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error);

/* What libvirt names in an Acquire (VlDisk: <lease>s, files and block devices): what has no lease yet is taken before
 * libvirt goes on, PARKED. *ret_attach: there was such a thing, and it is being attached (else CPUs are about to run).
 * VM's operation lock held. */
gboolean vl_rescan_named(VlDaemon *daemon, VlVm *vm, GPtrArray *disks, const VlCall *call, gboolean *ret_attach,
                         GError **error);

/* Watches libvirt's status directory: a file that changes makes its VM be looked at again. Main loop. */
void vl_rescan_watch(VlDaemon *daemon);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Disks that come and go while a VM runs: the status XML is the truth, libvirt's calls are hints (R9). */
#ifndef VL_LOCKD_RESCAN_H
#define VL_LOCKD_RESCAN_H

#include "lockd/daemon.h"

/* Looks at the VM's status XML a few times over the next seconds, in the background: leases what is new, frees
 * what is neither named there nor open any more. */
void vl_rescan_later(VlDaemon *daemon, VlVm *vm);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Adoption of leases that are ours already: after a restart of virtleased nearly every record names the very QEMU that
 * runs here. Nothing is to be decided then and nothing to be written, so a thousand of them cost a thousand reads.
 */
#ifndef VL_LOCKD_KEEP_H
#define VL_LOCKD_KEEP_H

#include "lockd/daemon.h"

/* Of `leases` (state NONE, of a running QEMU whose pidfd is open), those whose record, read now, names this very
 * process and has no claim become PARKED as they are; all others go to ret_rest, to be taken like any. Journal and
 * session are in place for what was kept; the index is written by vl_keep_index(). VM's operation lock held. FALSE:
 * nothing was kept. */
gboolean vl_keep_leases(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_rest, const VlCall *call,
                        GError **error);

/* The index entries of all leases kept since the last time, in one write per place: they are there already unless the
 * session object was lost with them. */
void vl_keep_index(VlDaemon *daemon);

#endif

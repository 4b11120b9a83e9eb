/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * VMs that run already: known from the journal (this daemon was restarted), from status XMLs (virtlease was
 * installed under them, or the journal is lost), or only from lease records (an orphan, an earlier boot).
 */
#ifndef VL_LOCKD_ADOPT_H
#define VL_LOCKD_ADOPT_H

#include "lockd/daemon.h"

/* Before the socket answers: puts every running VM into the table by reading files only, then begins to look at
 * their leases in the background. Calls about such a VM wait for that. */
void vl_adopt_all(VlDaemon *daemon);

/* A running QEMU that libvirt asks about and nobody registered: adopts it now under cold-start rules. A reference. */
VlVm *vl_adopt_running(VlDaemon *daemon, const char *uri, const char *name, const char *uuid, gint64 pid,
                       const VlCall *call, GError **error);

/* Frees (fencing first) what the index says we held in a place and no process of ours explains: leases of an earlier
 * boot. */
void vl_adopt_earlier_boot(VlDaemon *daemon, VlPlace *place);

/* A lease record names an incarnation on this host that we do not know: fences and frees it if its process is gone. */
void vl_adopt_orphan(VlDaemon *daemon, VlPlace *place, const char *volume_key);

#endif

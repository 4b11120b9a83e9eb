/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What is done to a VM whose lease is lost. */
#ifndef VL_LOCKD_ACTION_H
#define VL_LOCKD_ACTION_H

#include "lockd/daemon.h"

/* In the background and without any lock of ours held: libvirt calls us back while it pauses a VM. */
void vl_action_lost(VlDaemon *daemon, VlVm *vm, const char *volume);

/* Does at once to the VM what is done for a lost lease. TRUE: it is paused and all it had to write is written, or it is
 * being killed. */
gboolean vl_action_stop(VlDaemon *daemon, VlVm *vm);

/* What is done to this VM for a lost lease is nothing, because the administrator wants it so. */
gboolean vl_action_ignores(const VlDaemon *daemon, const VlVm *vm);

/* A disk was attached that somebody else has leased: hotplug_conflict. `target` ("vdb") may be NULL. */
void vl_action_conflict(VlDaemon *daemon, VlVm *vm, const char *target);

#endif

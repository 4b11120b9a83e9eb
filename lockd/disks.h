/* SPDX-License-Identifier: LGPL-2.1-or-later
 * From a VM's status XML to the volumes it must lease. */
#ifndef VL_LOCKD_DISKS_H
#define VL_LOCKD_DISKS_H

#include "lockd/daemon.h"
#include "lockd/statusxml.h"

/* Adds to `vm` a lease (state NONE) for every read-write disk of `domain` that some backend guards and that it has none
 * for yet, and a reader entry for each readonly RBD one; appends the new leases (borrowed) to ret_new. All volumes are
 * resolved at the same time. FALSE when one cannot be: nothing is added then, and of a VM under adoption what can be.
 * VM's operation lock held. */
gboolean vl_disks_add(VlDaemon *daemon, VlVm *vm, const VlDomain *domain, const VlCall *call, GPtrArray *ret_new,
                      GError **error);

/* The status XML of a VM whose process is `pid`: waits (bounded by the call) while the file is missing or is a
 * leftover with another pid. pid='0' counts as right for a child that has not exec'd yet. */
VlDomain *vl_disks_domain(VlDaemon *daemon, const char *uri, const char *name, const char *uuid, gint64 pid,
                          const VlCall *call, GError **error);

/* The status XML knows a <disk type='volume'> by pool and name only ("volume:POOL/NAME"); libvirt's calls have its
 * path, which for pools of files and of LVM ends in that name. */
gboolean vl_disk_is_volume_at(const VlDisk *disk, const char *path);

#endif

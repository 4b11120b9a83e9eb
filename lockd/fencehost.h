/* SPDX-License-Identifier: LGPL-2.1-or-later
 * An operator's (or HA manager's) word that a host is dead, or that a lease must go. */
#ifndef VL_LOCKD_FENCEHOST_H
#define VL_LOCKD_FENCEHOST_H

#include <json-glib/json-glib.h>

#include "lockd/daemon.h"

/* Ends the host's session in every place (R15: the number, not the host), fences the clients of all its leases in one
 * round per place and frees the leases. Without `force` a host that answers is refused (HELD). */
gboolean vl_fence_host(VlDaemon *daemon, const char *host, gboolean force, const VlCall *call, JsonBuilder *out,
                       GError **error);

/* Fences all holders of one volume, waits for the barrier, then frees it (R10). With no_fence it only frees, and
 * reports who still watches. */
gboolean vl_force_release(VlDaemon *daemon, VlVolume *volume, gboolean no_fence, const VlCall *call, JsonBuilder *out,
                          GError **error);

#endif

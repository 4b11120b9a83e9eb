/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What we have seen of the hosts of a lockspace. sanlock tells what it read when it last renewed; when a record last
 * changed, which is what tells a living host from one that crashed, is for us to note.
 */
#ifndef VL_LOCKD_SANLOCK_HOSTS_H
#define VL_LOCKD_SANLOCK_HOSTS_H

#include "lockd/sanlock_space_call.h"

typedef struct VlSanlockHosts VlSanlockHosts;

VlSanlockHosts *vl_sanlock_hosts_new(void);
void vl_sanlock_hosts_free(VlSanlockHosts *hosts);
void vl_sanlock_hosts_note(VlSanlockHosts *hosts, const VlSpaceSeen *seen, guint n);
void vl_sanlock_hosts_forget(VlSanlockHosts *hosts);
/* FALSE: never seen. */
gboolean vl_sanlock_hosts_get(VlSanlockHosts *hosts, guint64 host_id, VlSpaceHost *ret);
guint vl_sanlock_hosts_alive(VlSanlockHosts *hosts);

#endif

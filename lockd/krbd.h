/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The kernel's RBD clients on this host. A kernel client outlives the QEMU that used its device, and unless mapped with
 * `noshare` one client serves all images of the host; so it is never fenced because a QEMU here has gone, and shared
 * ones are published so that no other host fences them either (R14).
 */
#ifndef VL_LOCKD_KRBD_H
#define VL_LOCKD_KRBD_H

#include <glib.h>

/* Client addresses of all mapped devices (sysfs/bus/rbd/devices/N/client_addr), each once; empty when there are none.
 * With `shared_only` those that more than one device uses. `sysfs` is "/sys" outside tests. */
GPtrArray *vl_krbd_clients(const char *sysfs, gboolean shared_only);

#endif

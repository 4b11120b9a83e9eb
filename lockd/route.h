/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Which backend guards a file or block device: the `volumes` list of virtleased.conf, each item
 *
 *     TYPE PREFIX BACKEND         "file /srv/nfs sanlock", "block /dev/mapper sanlock", "any /scratch none"
 *
 * TYPE is file, block or any; PREFIX an absolute path, whole components; BACKEND local, sanlock or none (no lease).
 * The longest prefix wins, a rule of the volume's own type before one of any. Without a rule: local. RBD images
 * always go to rbd.
 */
#ifndef VL_LOCKD_ROUTE_H
#define VL_LOCKD_ROUTE_H

#include <glib.h>

#define VL_ROUTE_NONE    "none"
#define VL_ROUTE_DEFAULT "local"

/* For vl_conf_key.check: what is wrong with one item, NULL if nothing. */
const char *vl_route_check(const char *rule);

/* The name of the backend for a canonical path (borrowed from the rules or static). `rules` may be NULL. */
const char *vl_route(const char *const *rules, const char *path, gboolean block);

/* Some rule leads to that backend. */
gboolean vl_route_uses(const char *const *rules, const char *backend);

#endif

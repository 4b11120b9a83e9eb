/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What virtleasectl asks. Each verb answers with one JSON object:
 *   status                    this daemon, its host and sessions
 *   list [--all]              leases of this host, or of every host (from the indexes)
 *   show VOLUME               record, lock owner and watchers of one volume
 *   fence HOST [--force]      ends a dead host's session, fences and frees its leases
 *   release VOLUME --force [--no-fence]
 *   cleanup                   which lease files could be removed, and which not
 *   cleanup [--dry-run] FILE...   removes those that nobody uses; a dozen at most
 */
#ifndef VL_LOCKD_CTL_H
#define VL_LOCKD_CTL_H

#include "lockd/daemon.h"

gboolean vl_ctl_run(VlDaemon *daemon, const char *verb, GPtrArray *args, const VlCall *call, char **ret_json,
                    GError **error);

#endif

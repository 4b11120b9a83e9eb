/* SPDX-License-Identifier: LGPL-2.1-or-later
 * virtleasectl cleanup: many requests to virtleased, which answers one at a time. */
#ifndef VL_LOCKD_TOOL_CLEANUP_H
#define VL_LOCKD_TOOL_CLEANUP_H

#include "lockd/tool_call.h"

/* Asks for the candidates, then has them removed a dozen at a time (request->args: "--dry-run" or nothing), and says on
 * stderr how far it is once it takes longer than two seconds. request->timeout_s is for each of the requests. The
 * answer is one object: "directory", "dry_run", "looked_at", and lists of "file" and "why": "removed" (dry run:
 * that would be), "used", "unknown", "failed". On an error it is NULL; what was removed until then stays so. */
char *tool_cleanup(const ToolRequest *request, GError **error);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * virtleasectl's one request to virtleased. */
#ifndef VL_LOCKD_TOOL_CALL_H
#define VL_LOCKD_TOOL_CALL_H

#include <glib.h>

typedef struct {
    const char *socket;
    guint timeout_s; /* for everything, connecting included */
    const char *verb;
    GPtrArray *args;     /* of char * */
    const char *waiting; /* what takes so long, for stderr: "host b is being fenced" */
} ToolRequest;

/* virtleased's answer, as it came. NULL with an error of its own, or VL_ERR_DAEMON (not there, or
 * gone before it answered), VL_ERR_TIMEOUT, VL_ERR_NOT_PERMITTED (not root), VL_ERR_PROTOCOL. The
 * code may be one that this version has no name for. */
char *tool_call(const ToolRequest *request, GError **error);

#endif

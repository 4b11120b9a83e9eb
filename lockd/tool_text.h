/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * virtleased's answers (lockd/ctl.h) as text for people. Members that are missing or of another
 * type are shown as "-": the daemon may be of another version than the tool.
 */
#ifndef VL_LOCKD_TOOL_TEXT_H
#define VL_LOCKD_TOOL_TEXT_H

#include <json-glib/json-glib.h>

/* Each appends to `out`; `now` in unix seconds. */
typedef void (*ToolText)(JsonObject *answer, gint64 now, GString *out);

void tool_text_status(JsonObject *answer, gint64 now, GString *out);
void tool_text_list(JsonObject *answer, gint64 now, GString *out);
void tool_text_show(JsonObject *answer, gint64 now, GString *out);
void tool_text_fence(JsonObject *answer, gint64 now, GString *out);
void tool_text_release(JsonObject *answer, gint64 now, GString *out);
void tool_text_cleanup(JsonObject *answer, gint64 now, GString *out);

/* Nothing to say. */
void tool_text_lost(JsonObject *answer, gint64 now, GString *out);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Values as JSON for virtleasectl. */
#ifndef VL_LOCKD_JSONOUT_H
#define VL_LOCKD_JSONOUT_H

#include <json-glib/json-glib.h>

#include "lockd/record.h"
#include "lockd/store.h"

void vl_json_string(JsonBuilder *out, const char *member, const char *value); /* NULL: null */
void vl_json_int(JsonBuilder *out, const char *member, gint64 value);
void vl_json_bool(JsonBuilder *out, const char *member, gboolean value);
void vl_json_begin_list(JsonBuilder *out, const char *member);
void vl_json_addrs(JsonBuilder *out, const char *member, const GPtrArray *addrs); /* NULL: empty */
void vl_json_fenced(JsonBuilder *out, const VlRecord *record);
void vl_json_record(JsonBuilder *out, const VlRecord *record);
void vl_json_look(JsonBuilder *out, const VlLook *look);

#endif

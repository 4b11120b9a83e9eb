/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/jsonout.h"

void
vl_json_string(JsonBuilder *out, const char *member, const char *value)
{
    json_builder_set_member_name(out, member);
    if (value)
        json_builder_add_string_value(out, value);
    else
        json_builder_add_null_value(out);
}

void
vl_json_int(JsonBuilder *out, const char *member, gint64 value)
{
    json_builder_set_member_name(out, member);
    json_builder_add_int_value(out, value);
}

void
vl_json_bool(JsonBuilder *out, const char *member, gboolean value)
{
    json_builder_set_member_name(out, member);
    json_builder_add_boolean_value(out, value);
}

void
vl_json_begin_list(JsonBuilder *out, const char *member)
{
    json_builder_set_member_name(out, member);
    json_builder_begin_array(out);
}

void
vl_json_addrs(JsonBuilder *out, const char *member, const GPtrArray *addrs)
{
    vl_json_begin_list(out, member);
    for (guint i = 0; addrs && i < addrs->len; i++)
        json_builder_add_string_value(out, addrs->pdata[i]);
    json_builder_end_array(out);
}

void
vl_json_fenced(JsonBuilder *out, const VlRecord *record)
{
    vl_json_begin_list(out, "fenced");
    for (guint i = 0; i < record->fenced->len; i++) {
        const VlFenced *fenced = record->fenced->pdata[i];
        json_builder_begin_object(out);
        vl_json_string(out, "addr", fenced->addr);
        vl_json_int(out, "at", fenced->at);
        vl_json_int(out, "until", fenced->until);
        vl_json_int(out, "wanted", fenced->wanted);
        json_builder_end_object(out);
    }
    json_builder_end_array(out);
}

static void
holder_out(JsonBuilder *out, const VlHolder *holder)
{
    json_builder_begin_object(out);
    vl_json_string(out, "vm", holder->vm);
    vl_json_string(out, "uuid", holder->who.uuid);
    vl_json_string(out, "host", holder->host_name);
    vl_json_string(out, "host_id", holder->who.host);
    vl_json_int(out, "session", (gint64)holder->session);
    vl_json_int(out, "pid", holder->who.pid);
    vl_json_string(out, "state", holder->held ? "held" : "parked");
    vl_json_int(out, "since", holder->since);
    vl_json_addrs(out, "addrs", holder->addrs);
    json_builder_end_object(out);
}

void
vl_json_record(JsonBuilder *out, const VlRecord *record)
{
    vl_json_int(out, "epoch", (gint64)record->epoch);
    vl_json_string(out, "mode", record->shared ? "shared" : "exclusive");
    vl_json_begin_list(out, "holders");
    for (guint i = 0; i < record->holders->len; i++)
        holder_out(out, record->holders->pdata[i]);
    json_builder_end_array(out);
    json_builder_set_member_name(out, "claim");
    if (record->claim) {
        json_builder_begin_object(out);
        vl_json_string(out, "host", record->claim->host_name);
        vl_json_string(out, "vm", record->claim->vm);
        vl_json_int(out, "since", record->claim->since);
        vl_json_addrs(out, "addrs", record->claim->addrs);
        json_builder_end_object(out);
    } else {
        json_builder_add_null_value(out);
    }
    vl_json_fenced(out, record);
}

void
vl_json_look(JsonBuilder *out, const VlLook *look)
{
    vl_json_begin_list(out, "watchers");
    for (guint i = 0; look->watchers && i < look->watchers->len; i++)
        json_builder_add_string_value(out, ((VlWatcher *)look->watchers->pdata[i])->addr);
    json_builder_end_array(out);
    json_builder_set_member_name(out, "lock_owner");
    if (look->owner) {
        json_builder_begin_object(out);
        vl_json_string(out, "entity", look->owner->entity);
        vl_json_string(out, "addr", look->owner->addr);
        vl_json_bool(out, "managed", look->owner->managed);
        json_builder_end_object(out);
    } else {
        json_builder_add_null_value(out);
    }
    vl_json_bool(out, "exclusive_lock_feature", look->exclusive_lock_feature);
}

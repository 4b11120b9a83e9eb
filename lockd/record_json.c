/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Lease records as JSON. Reading is strict: a record that is not fully understood protects its
 * volume by being refused, never by being guessed at. */
#include <json-glib/json-glib.h>
#include <string.h>

#include "lockd/error.h"
#include "lockd/jsonin.h"
#include "lockd/record.h"

/* A cursor over one object: the first thing that does not fit is remembered. */
typedef struct {
    JsonObject *object;
    char **problem; /* shared by nested readers */
} Reader;

static void
complain(Reader *reader, const char *member, const char *want)
{
    if (!*reader->problem)
        *reader->problem = g_strdup_printf("member '%s' is not %s", member, want);
}

static char *
read_string(Reader *reader, const char *member)
{
    JsonNode *node = json_object_get_member(reader->object, member);
    if (node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING)
        return json_node_dup_string(node);
    complain(reader, member, "a string");
    return g_strdup("");
}

static gint64
read_int(Reader *reader, const char *member)
{
    JsonNode *node = json_object_get_member(reader->object, member);
    if (node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_INT64 &&
        json_node_get_int(node) >= 0)
        return json_node_get_int(node);
    complain(reader, member, "a whole number");
    return 0;
}

static JsonArray *
read_array(Reader *reader, const char *member, gboolean optional)
{
    JsonNode *node = json_object_get_member(reader->object, member);
    if (node && JSON_NODE_HOLDS_ARRAY(node))
        return json_node_get_array(node);
    if (node || !optional)
        complain(reader, member, "a list");
    return NULL;
}

static GPtrArray *
read_addrs(Reader *reader, const char *member)
{
    GPtrArray *addrs = vl_addrs_new();
    JsonArray *array = read_array(reader, member, FALSE);
    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonNode *node = json_array_get_element(array, i);
        if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING)
            vl_addrs_add(addrs, json_node_get_string(node));
        else
            complain(reader, member, "a list of strings");
    }
    return addrs;
}

static VlHolder *
read_holder(JsonObject *object, char **problem)
{
    Reader reader = {object, problem};
    VlHolder *holder = g_new0(VlHolder, 1);
    holder->who.host = read_string(&reader, "host");
    holder->who.boot = read_string(&reader, "boot");
    holder->who.uuid = read_string(&reader, "uuid");
    holder->who.pid = read_int(&reader, "pid");
    holder->who.start = (guint64)read_int(&reader, "start");
    holder->machine = read_string(&reader, "machine");
    holder->host_name = read_string(&reader, "name");
    holder->session = (guint64)read_int(&reader, "session");
    holder->vm = read_string(&reader, "vm");
    holder->token = read_string(&reader, "token");
    holder->addrs = read_addrs(&reader, "addrs");
    holder->since = read_int(&reader, "since");
    g_autofree char *state = read_string(&reader, "state");
    holder->held = g_str_equal(state, "held");
    if (!holder->held && !g_str_equal(state, "parked"))
        complain(&reader, "state", "\"held\" or \"parked\"");
    return holder;
}

static VlClaim *
read_claim(JsonObject *object, char **problem)
{
    Reader reader = {object, problem};
    VlClaim *claim = g_new0(VlClaim, 1);
    claim->id = read_string(&reader, "id");
    claim->host = read_string(&reader, "host");
    claim->host_name = read_string(&reader, "name");
    claim->session = (guint64)read_int(&reader, "session");
    claim->uuid = read_string(&reader, "uuid");
    claim->vm = read_string(&reader, "vm");
    claim->epoch = (guint64)read_int(&reader, "epoch");
    claim->addrs = read_addrs(&reader, "addrs");
    claim->since = read_int(&reader, "since");
    return claim;
}

static void
read_fenced(VlRecord *record, JsonObject *object, char **problem)
{
    Reader reader = {object, problem};
    g_autofree char *addr = read_string(&reader, "addr");
    gint64 at = read_int(&reader, "at");
    gint64 until = read_int(&reader, "until");
    gint64 wanted = read_int(&reader, "wanted");
    vl_record_add_fence(record, addr, at, until, wanted);
}

static void
read_holders(Reader *reader, const char *member, gboolean optional, GPtrArray *holders)
{
    JsonArray *array = read_array(reader, member, optional);
    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonNode *node = json_array_get_element(array, i);
        if (JSON_NODE_HOLDS_OBJECT(node))
            g_ptr_array_add(holders, read_holder(json_node_get_object(node), reader->problem));
        else
            complain(reader, member, "a list of objects");
    }
}

static void
read_lists(VlRecord *record, Reader *reader)
{
    read_holders(reader, "holders", FALSE, record->holders);
    read_holders(reader, "heirs", TRUE, record->heirs);
    JsonArray *fenced = read_array(reader, "fenced", TRUE);
    for (guint i = 0; fenced && i < json_array_get_length(fenced); i++) {
        JsonNode *node = json_array_get_element(fenced, i);
        if (JSON_NODE_HOLDS_OBJECT(node))
            read_fenced(record, json_node_get_object(node), reader->problem);
        else
            complain(reader, "fenced", "a list of objects");
    }
}

static VlRecord *
read_record(JsonObject *object, char **problem)
{
    Reader reader = {object, problem};
    g_autoptr(VlRecord) record = vl_record_new();
    gint64 version = read_int(&reader, "version");
    if (!*problem && version != VL_RECORD_VERSION)
        *problem = g_strdup_printf("version %" G_GINT64_FORMAT " is not understood by this virtleased (it "
                                   "knows %d); upgrade it",
                                   version, VL_RECORD_VERSION);
    record->epoch = (guint64)read_int(&reader, "epoch");
    record->write = read_string(&reader, "write");
    g_autofree char *mode = read_string(&reader, "mode");
    record->shared = g_str_equal(mode, "shared");
    if (!record->shared && !g_str_equal(mode, "exclusive"))
        complain(&reader, "mode", "\"exclusive\" or \"shared\"");
    read_lists(record, &reader);
    JsonNode *claim = json_object_get_member(object, "claim");
    if (claim && JSON_NODE_HOLDS_OBJECT(claim))
        record->claim = read_claim(json_node_get_object(claim), problem);
    else if (claim)
        complain(&reader, "claim", "an object");
    JsonNode *previous = json_object_get_member(object, "previous");
    if (previous && JSON_NODE_HOLDS_OBJECT(previous))
        record->previous = read_holder(json_node_get_object(previous), problem);
    else if (previous)
        complain(&reader, "previous", "an object");
    return g_steal_pointer(&record);
}

VlRecord *
vl_record_parse(const char *volume, GBytes *bytes, GError **error)
{
    if (!bytes)
        return vl_record_new();
    gsize size;
    const char *text = g_bytes_get_data(bytes, &size);
    g_autofree char *problem = NULL;
    g_autoptr(VlRecord) record = NULL;
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *object = vl_json_object(parser, text, size, VL_RECORD_SIZE_MAX, &problem);
    if (object)
        record = read_record(object, &problem);
    if (!problem)
        return g_steal_pointer(&record);
    vl_set_error(error, VL_ERR_RECORD,
                 "%s: its lease record (xattr 'virtlease' of the image's header object) cannot be used: "
                 "%s. Nobody may lease the volume until it is repaired",
                 volume, problem);
    return NULL;
}

/* ---- writing ---- */

static void
add_string(JsonBuilder *builder, const char *member, const char *value)
{
    json_builder_set_member_name(builder, member);
    json_builder_add_string_value(builder, value ? value : "");
}

static void
add_int(JsonBuilder *builder, const char *member, gint64 value)
{
    json_builder_set_member_name(builder, member);
    json_builder_add_int_value(builder, value);
}

static void
add_addrs(JsonBuilder *builder, const char *member, const GPtrArray *addrs)
{
    json_builder_set_member_name(builder, member);
    json_builder_begin_array(builder);
    for (guint i = 0; i < addrs->len; i++)
        json_builder_add_string_value(builder, addrs->pdata[i]);
    json_builder_end_array(builder);
}

static void
add_holder(JsonBuilder *builder, const VlHolder *holder)
{
    json_builder_begin_object(builder);
    add_string(builder, "host", holder->who.host);
    add_string(builder, "machine", holder->machine);
    add_string(builder, "name", holder->host_name);
    add_string(builder, "boot", holder->who.boot);
    add_int(builder, "session", (gint64)holder->session);
    add_string(builder, "uuid", holder->who.uuid);
    add_string(builder, "vm", holder->vm);
    add_int(builder, "pid", holder->who.pid);
    add_int(builder, "start", (gint64)holder->who.start);
    add_string(builder, "state", holder->held ? "held" : "parked");
    add_string(builder, "token", holder->token);
    add_addrs(builder, "addrs", holder->addrs);
    add_int(builder, "since", holder->since);
    json_builder_end_object(builder);
}

static void
add_claim(JsonBuilder *builder, const VlClaim *claim)
{
    json_builder_set_member_name(builder, "claim");
    json_builder_begin_object(builder);
    add_string(builder, "id", claim->id);
    add_string(builder, "host", claim->host);
    add_string(builder, "name", claim->host_name);
    add_int(builder, "session", (gint64)claim->session);
    add_string(builder, "uuid", claim->uuid);
    add_string(builder, "vm", claim->vm);
    add_int(builder, "epoch", (gint64)claim->epoch);
    add_addrs(builder, "addrs", claim->addrs);
    add_int(builder, "since", claim->since);
    json_builder_end_object(builder);
}

static void
add_fences(JsonBuilder *builder, const GPtrArray *fences)
{
    json_builder_set_member_name(builder, "fenced");
    json_builder_begin_array(builder);
    for (guint i = 0; i < fences->len; i++) {
        const VlFenced *fenced = fences->pdata[i];
        json_builder_begin_object(builder);
        add_string(builder, "addr", fenced->addr);
        add_int(builder, "at", fenced->at);
        add_int(builder, "until", fenced->until);
        add_int(builder, "wanted", fenced->wanted);
        json_builder_end_object(builder);
    }
    json_builder_end_array(builder);
}

GBytes *
vl_record_format(VlRecord *record)
{
    g_free(record->write);
    record->write = vl_random_id();
    g_autoptr(JsonBuilder) builder = json_builder_new();
    json_builder_begin_object(builder);
    add_int(builder, "version", VL_RECORD_VERSION);
    add_int(builder, "epoch", (gint64)record->epoch);
    add_string(builder, "write", record->write);
    add_string(builder, "mode", record->shared ? "shared" : "exclusive");
    json_builder_set_member_name(builder, "holders");
    json_builder_begin_array(builder);
    for (guint i = 0; i < record->holders->len; i++)
        add_holder(builder, record->holders->pdata[i]);
    json_builder_end_array(builder);
    if (record->previous) {
        json_builder_set_member_name(builder, "previous");
        add_holder(builder, record->previous);
    }
    if (record->heirs->len) {
        json_builder_set_member_name(builder, "heirs");
        json_builder_begin_array(builder);
        for (guint i = 0; i < record->heirs->len; i++)
            add_holder(builder, record->heirs->pdata[i]);
        json_builder_end_array(builder);
    }
    if (record->claim)
        add_claim(builder, record->claim);
    if (record->fenced->len)
        add_fences(builder, record->fenced);
    json_builder_end_object(builder);

    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    char *text = json_to_string(root, FALSE);
    return g_bytes_new_take(text, strlen(text));
}

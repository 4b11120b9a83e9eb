/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/identity.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "lockd/error.h"
#include "lockd/jsonin.h"
#include "lockd/record.h"

#define TEXT_MAX (256 * 1024)

static const char *const marks[] = {"live", "closed", "fenced"};

VlIdentity *
vl_identity_new(void)
{
    VlIdentity *identity = g_new0(VlIdentity, 1);
    identity->ips = vl_addrs_new();
    identity->krbd = vl_addrs_new();
    return identity;
}

void
vl_identity_free(VlIdentity *identity)
{
    if (!identity)
        return;
    g_free(identity->host);
    g_free(identity->machine);
    g_free(identity->name);
    g_free(identity->boot);
    g_free(identity->nonce);
    g_ptr_array_unref(identity->ips);
    g_ptr_array_unref(identity->krbd);
    g_free(identity);
}

static char *
get_string(JsonObject *object, const char *member)
{
    JsonNode *node = json_object_get_member(object, member);
    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING)
        return NULL;
    return json_node_dup_string(node);
}

static gint64
get_int(JsonObject *object, const char *member)
{
    JsonNode *node = json_object_get_member(object, member);
    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_INT64)
        return -1;
    return json_node_get_int(node);
}

/* What is in these lists decides who is fenced and who never is: all of it is understood, or nothing. */
static gboolean
get_list(JsonObject *object, const char *member, GPtrArray *list)
{
    JsonNode *node = json_object_get_member(object, member);
    if (node && !JSON_NODE_HOLDS_ARRAY(node))
        return FALSE;
    JsonArray *array = node ? json_node_get_array(node) : NULL;
    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonNode *item = json_array_get_element(array, i);
        if (!JSON_NODE_HOLDS_VALUE(item) || json_node_get_value_type(item) != G_TYPE_STRING)
            return FALSE;
        vl_addrs_add(list, json_node_get_string(item));
    }
    return TRUE;
}

static VlIdentity *
identity_read(JsonObject *object)
{
    g_autoptr(VlIdentity) identity = vl_identity_new();
    g_autofree char *mark = get_string(object, "state");
    gint64 session = get_int(object, "session");
    gint64 dead_after = get_int(object, "dead_after");
    gint64 grace = get_int(object, "grace");
    identity->host = get_string(object, "host");
    identity->machine = get_string(object, "machine");
    identity->name = get_string(object, "name");
    identity->boot = get_string(object, "boot");
    identity->nonce = get_string(object, "nonce");
    gboolean lists = get_list(object, "ips", identity->ips) && get_list(object, "krbd", identity->krbd);
    if (!lists || get_int(object, "version") != 1 || session < 0 || dead_after < 1 || dead_after > 86400 || grace < 0 ||
        grace > 86400 || !mark || !identity->host || !identity->machine || !identity->name || !identity->boot ||
        !identity->nonce)
        return NULL;
    identity->session = (guint64)session;
    identity->dead_after = (guint)dead_after;
    identity->grace = (guint)grace;
    for (guint i = 0; i < G_N_ELEMENTS(marks); i++) {
        if (g_str_equal(mark, marks[i])) {
            identity->mark = (VlSessionMark)i;
            return g_steal_pointer(&identity);
        }
    }
    return NULL;
}

VlIdentity *
vl_identity_parse(GBytes *bytes, GError **error)
{
    gsize size = 0;
    const char *text = bytes ? g_bytes_get_data(bytes, &size) : NULL;
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(VlIdentity) identity = NULL;
    JsonObject *object = vl_json_object(parser, text, size, TEXT_MAX, NULL);
    if (object)
        identity = identity_read(object);
    if (!identity)
        vl_set_error(error, VL_ERR_RECORD,
                     "a host's session object holds something this virtleased does not understand");
    return g_steal_pointer(&identity);
}

static void
add_list(JsonBuilder *builder, const char *member, const GPtrArray *list)
{
    json_builder_set_member_name(builder, member);
    json_builder_begin_array(builder);
    for (guint i = 0; i < list->len; i++)
        json_builder_add_string_value(builder, list->pdata[i]);
    json_builder_end_array(builder);
}

GBytes *
vl_identity_format(const VlIdentity *identity)
{
    const struct {
        const char *member;
        const char *value;
    } strings[] = {
        {"host", identity->host}, {"machine", identity->machine}, {"name", identity->name},
        {"boot", identity->boot}, {"nonce", identity->nonce},     {"state", marks[identity->mark]},
    };
    const struct {
        const char *member;
        gint64 value;
    } numbers[] = {
        {"version", 1},
        {"session", (gint64)identity->session},
        {"dead_after", identity->dead_after},
        {"grace", identity->grace},
    };
    g_autoptr(JsonBuilder) builder = json_builder_new();
    json_builder_begin_object(builder);
    for (guint i = 0; i < G_N_ELEMENTS(numbers); i++) {
        json_builder_set_member_name(builder, numbers[i].member);
        json_builder_add_int_value(builder, numbers[i].value);
    }
    for (guint i = 0; i < G_N_ELEMENTS(strings); i++) {
        json_builder_set_member_name(builder, strings[i].member);
        json_builder_add_string_value(builder, strings[i].value);
    }
    add_list(builder, "ips", identity->ips);
    add_list(builder, "krbd", identity->krbd);
    json_builder_end_object(builder);
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    char *text = json_to_string(root, FALSE);
    return g_bytes_new_take(text, strlen(text));
}

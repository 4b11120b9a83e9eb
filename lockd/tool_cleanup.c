/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/tool_cleanup.h"

#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>

#include "common/protocol.h"
#include "lockd/error.h"

enum {
    BATCH = 12, /* virtleased takes 16 arguments */
    FIRST_SIGN_MS = 2000,
    NEXT_SIGN_MS = 2000,
};

enum { REMOVED, USED, UNKNOWN, FAILED, KINDS };
static const char *const kind_names[KINDS] = {"removed", "used", "unknown", "failed"};

typedef struct {
    const ToolRequest *request;
    gboolean dry;
    JsonArray *kinds[KINDS];
    guint looked, total, gone;
    int64_t next_sign_ms;
} Cleanup;

/* A file that is gone was nobody's business. */
static int
kind_of(const char *result)
{
    if (g_str_equal(result, "removed") || g_str_equal(result, "unused"))
        return REMOVED;
    for (int i = 0; i < KINDS; i++)
        if (g_str_equal(result, kind_names[i]))
            return i;
    return g_str_equal(result, "gone") ? KINDS : FAILED;
}

static const char *
string_of(JsonObject *object, const char *member)
{
    JsonNode *node = json_object_get_member(object, member);
    const char *text = node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
    return text ? text : "";
}

static void
note(Cleanup *cleanup, JsonNode *node)
{
    JsonObject *from = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    if (!from)
        return;
    int kind = kind_of(string_of(from, "result"));
    if (kind == KINDS) {
        cleanup->gone++;
        return;
    }
    JsonObject *file = json_object_new();
    json_object_set_string_member(file, "file", string_of(from, "file"));
    if (*string_of(from, "why"))
        json_object_set_string_member(file, "why", string_of(from, "why"));
    json_array_add_object_element(cleanup->kinds[kind], file);
}

/* ---- asking ---- */

static void
sign(Cleanup *cleanup)
{
    int64_t now = vl_now_ms();
    if (now < cleanup->next_sign_ms)
        return;
    cleanup->next_sign_ms = now + NEXT_SIGN_MS;
    fprintf(stderr, "virtleasectl: %u of %u lease files looked at, %u %s\n", cleanup->looked, cleanup->total,
            json_array_get_length(cleanup->kinds[REMOVED]), cleanup->dry ? "unused" : "removed");
}

static JsonNode *
ask(Cleanup *cleanup, GPtrArray *args, const char *member, GError **error)
{
    ToolRequest request = *cleanup->request;
    request.args = args;
    g_autofree char *answer = tool_call(&request, error);
    JsonNode *root = answer ? json_from_string(answer, NULL) : NULL;
    JsonObject *object = root && JSON_NODE_HOLDS_OBJECT(root) ? json_node_get_object(root) : NULL;
    JsonNode *list = object ? json_object_get_member(object, member) : NULL;
    if (list && JSON_NODE_HOLDS_ARRAY(list))
        return root;
    if (answer)
        vl_set_error(error, VL_ERR_PROTOCOL,
                     "virtleased's answer is not understood; tool and daemon are of different versions");
    if (root)
        json_node_unref(root);
    return NULL;
}

static gboolean
do_batch(Cleanup *cleanup, JsonArray *candidates, guint from, GError **error)
{
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    if (cleanup->dry)
        g_ptr_array_add(args, (char *)"--dry-run");
    for (guint i = from; i < MIN(from + BATCH, cleanup->total); i++)
        g_ptr_array_add(args, (char *)json_array_get_string_element(candidates, i));
    g_autoptr(JsonNode) root = ask(cleanup, args, "files", error);
    if (!root)
        return FALSE;
    JsonArray *files = json_object_get_array_member(json_node_get_object(root), "files");
    for (guint i = 0; i < json_array_get_length(files); i++)
        note(cleanup, json_array_get_element(files, i));
    cleanup->looked = MIN(from + BATCH, cleanup->total);
    sign(cleanup);
    return TRUE;
}

static gboolean
check_names(JsonArray *candidates, GError **error)
{
    for (guint i = 0; i < json_array_get_length(candidates); i++) {
        JsonNode *node = json_array_get_element(candidates, i);
        const char *name = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
        if (name && *name)
            continue;
        vl_set_error(error, VL_ERR_PROTOCOL, "virtleased's answer names a file that is none");
        return FALSE;
    }
    return TRUE;
}

/* ---- the answer ---- */

static char *
summary(Cleanup *cleanup, const char *directory)
{
    g_autoptr(JsonObject) object = json_object_new();
    json_object_set_string_member(object, "directory", directory);
    json_object_set_boolean_member(object, "dry_run", cleanup->dry);
    json_object_set_int_member(object, "looked_at", cleanup->looked);
    for (int i = 0; i < KINDS; i++)
        json_object_set_array_member(object, kind_names[i], json_array_ref(cleanup->kinds[i]));
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    json_node_set_object(root, object);
    return json_to_string(root, FALSE);
}

static char *
run(Cleanup *cleanup, GError **error)
{
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    g_autoptr(JsonNode) root = ask(cleanup, none, "candidates", error);
    if (!root)
        return NULL;
    JsonObject *object = json_node_get_object(root);
    JsonArray *candidates = json_object_get_array_member(object, "candidates");
    JsonNode *left = json_object_get_member(object, "left");
    for (guint i = 0; left && JSON_NODE_HOLDS_ARRAY(left) && i < json_array_get_length(json_node_get_array(left)); i++)
        note(cleanup, json_array_get_element(json_node_get_array(left), i));
    cleanup->total = json_array_get_length(candidates);
    if (!check_names(candidates, error))
        return NULL;
    for (guint from = 0; from < cleanup->total; from += BATCH)
        if (!do_batch(cleanup, candidates, from, error)) {
            g_prefix_error(error, "after %u of %u lease files, %u of them %s: ", cleanup->looked, cleanup->total,
                           json_array_get_length(cleanup->kinds[REMOVED]), cleanup->dry ? "unused" : "removed");
            return NULL;
        }
    return summary(cleanup, string_of(object, "directory"));
}

char *
tool_cleanup(const ToolRequest *request, GError **error)
{
    Cleanup cleanup = {.request = request, .dry = request->args->len > 0, .next_sign_ms = vl_now_ms() + FIRST_SIGN_MS};
    for (int i = 0; i < KINDS; i++)
        cleanup.kinds[i] = json_array_new();
    char *answer = run(&cleanup, error);
    for (int i = 0; i < KINDS; i++)
        json_array_unref(cleanup.kinds[i]);
    return answer;
}

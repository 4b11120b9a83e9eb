/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/jsonin.h"

#include <string.h>

#define DEPTH_MAX 64

/* json-glib 1.6 goes one call deeper for every bracket, so 200 KB of them overflow the stack; it also takes
 * comments, "var x = ...", and whatever follows the first value. So the outline is checked first: an object, nested
 * within reason, nothing around it. */
static gboolean
outline_is_good(const char *text, gsize size)
{
    guint depth = 0;
    gboolean quoted = FALSE, done = FALSE;
    for (gsize i = 0; i < size; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = FALSE;
            continue;
        }
        if (strchr(" \t\r\n", c) && c)
            continue;
        if (done || (depth == 0 && c != '{') || c == '/' || c == '#')
            return FALSE;
        quoted = c == '"';
        if ((c == '{' || c == '[') && ++depth > DEPTH_MAX)
            return FALSE;
        if (c == '}' || c == ']')
            done = --depth == 0;
    }
    return done;
}

JsonObject *
vl_json_object(JsonParser *parser, const char *text, gsize size, gsize max, char **ret_problem)
{
    g_autoptr(GError) local = NULL;
    gboolean small = size <= max;
    if (small && text && outline_is_good(text, size) &&
        json_parser_load_from_data(parser, text, (gssize)size, &local)) {
        JsonNode *root = json_parser_get_root(parser);
        if (root && JSON_NODE_HOLDS_OBJECT(root))
            return json_node_get_object(root);
    }
    if (ret_problem)
        *ret_problem =
            small ? g_strdup_printf("it is not a JSON object%s%s", local ? ": " : "", local ? local->message : "")
                  : g_strdup("it is larger than any of ours");
    return NULL;
}

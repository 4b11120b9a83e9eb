/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/challenge.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "lockd/jsonin.h"

#define TEXT_MAX (16 * 1024)

static const char *const words[] = {
    [VL_ANSWER_NONE] = "none", [VL_ANSWER_NOBODY] = "nobody",     [VL_ANSWER_ALIVE] = "alive",
    [VL_ANSWER_MINE] = "mine", [VL_ANSWER_NOT_MINE] = "not-mine", [VL_ANSWER_FREEING] = "freeing",
    [VL_ANSWER_LOST] = "lost", [VL_ANSWER_READER] = "reader",
};

static void
add_string(JsonBuilder *builder, const char *member, const char *value)
{
    if (!value)
        return;
    json_builder_set_member_name(builder, member);
    json_builder_add_string_value(builder, value);
}

static void
add_int(JsonBuilder *builder, const char *member, gint64 value)
{
    json_builder_set_member_name(builder, member);
    json_builder_add_int_value(builder, value);
}

static GBytes *
finish(JsonBuilder *builder)
{
    json_builder_end_object(builder);
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    char *text = json_to_string(root, FALSE);
    return g_bytes_new_take(text, strlen(text));
}

static GBytes *
question_format(const char *nonce, const VlAsk *ask)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();
    json_builder_begin_object(builder);
    add_string(builder, "nonce", nonce);
    if (ask) {
        add_string(builder, "volume", ask->volume);
        add_string(builder, "addr", ask->addr);
    }
    if (ask && ask->holder) {
        add_string(builder, "host", ask->holder->host);
        add_string(builder, "boot", ask->holder->boot);
        add_string(builder, "uuid", ask->holder->uuid);
        add_int(builder, "pid", ask->holder->pid);
        add_int(builder, "start", (gint64)ask->holder->start);
    }
    return finish(builder);
}

static JsonObject *
parse(JsonParser *parser, GBytes *bytes)
{
    gsize size = 0;
    const char *text = bytes ? g_bytes_get_data(bytes, &size) : NULL;
    return vl_json_object(parser, text, size, TEXT_MAX, NULL);
}

static char *
member_string(JsonObject *object, const char *member)
{
    JsonNode *node = json_object_get_member(object, member);
    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING)
        return NULL;
    return json_node_dup_string(node);
}

static gint64
member_int(JsonObject *object, const char *member)
{
    JsonNode *node = json_object_get_member(object, member);
    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_INT64)
        return 0;
    return json_node_get_int(node);
}

gboolean
vl_question_parse(GBytes *payload, VlQuestion *ret_question)
{
    memset(ret_question, 0, sizeof(*ret_question));
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *object = parse(parser, payload);
    if (!object)
        return FALSE;
    ret_question->nonce = member_string(object, "nonce");
    ret_question->volume = member_string(object, "volume");
    ret_question->addr = member_string(object, "addr");
    ret_question->holder.host = member_string(object, "host");
    ret_question->holder.boot = member_string(object, "boot");
    ret_question->holder.uuid = member_string(object, "uuid");
    ret_question->holder.pid = member_int(object, "pid");
    ret_question->holder.start = (guint64)member_int(object, "start");
    if (ret_question->nonce)
        return TRUE;
    vl_question_clear(ret_question);
    return FALSE;
}

void
vl_question_clear(VlQuestion *question)
{
    g_clear_pointer(&question->nonce, g_free);
    g_clear_pointer(&question->volume, g_free);
    g_clear_pointer(&question->addr, g_free);
    vl_incarnation_clear(&question->holder);
}

GBytes *
vl_answer_format(const VlQuestion *question, const char *host, guint64 session, VlAnswer answer)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();
    json_builder_begin_object(builder);
    add_string(builder, "nonce", question->nonce);
    add_string(builder, "host", host);
    add_int(builder, "session", (gint64)session);
    add_string(builder, "answer", words[answer]);
    return finish(builder);
}

/* Should two watches of one host ever answer, the one that says more for life counts. */
static VlAnswer
stronger(VlAnswer a, VlAnswer b)
{
    static const VlAnswer order[] = {VL_ANSWER_MINE,    VL_ANSWER_ALIVE,    VL_ANSWER_READER,
                                     VL_ANSWER_FREEING, VL_ANSWER_NOT_MINE, VL_ANSWER_LOST};
    for (guint i = 0; i < G_N_ELEMENTS(order); i++)
        if (a == order[i] || b == order[i])
            return order[i];
    return a;
}

/* An ack counts only if it is from the host we asked and about this very question. */
static VlAnswer
answer_parse(GBytes *ack, const char *host, const char *nonce)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *object = parse(parser, ack);
    if (!object)
        return VL_ANSWER_NONE;
    g_autofree char *from = member_string(object, "host");
    g_autofree char *about = member_string(object, "nonce");
    g_autofree char *word = member_string(object, "answer");
    if (g_strcmp0(from, host) != 0 || g_strcmp0(about, nonce) != 0)
        return VL_ANSWER_NONE;
    for (guint i = VL_ANSWER_ALIVE; i < G_N_ELEMENTS(words); i++)
        if (g_strcmp0(word, words[i]) == 0)
            return (VlAnswer)i;
    return VL_ANSWER_ALIVE; /* a newer daemon's word: it lives */
}

gboolean
vl_challenge(VlPlace *place, const char *host, const VlAsk *ask, VlAnswer *ret_answer, GError **error)
{
    g_autofree char *nonce = vl_random_id();
    g_autoptr(GBytes) payload = question_format(nonce, ask);
    VlChallengeResult result = {0};
    if (!place->store->ops->challenge(place, host, payload, VL_CHALLENGE_TIMEOUT_S, &result, error)) {
        vl_challenge_result_clear(&result);
        return FALSE;
    }
    *ret_answer = result.anybody ? VL_ANSWER_NONE : VL_ANSWER_NOBODY;
    for (guint i = 0; result.acks && i < result.acks->len; i++) {
        VlAnswer answer = answer_parse(result.acks->pdata[i], host, nonce);
        if (answer != VL_ANSWER_NONE)
            *ret_answer = stronger(*ret_answer, answer);
    }
    vl_challenge_result_clear(&result);
    return TRUE;
}

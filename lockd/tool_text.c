/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/tool_text.h"

#include <string.h>

#include "lockd/tool_table.h"

#define INDENT "    "

/* ---- members, whatever their type turns out to be ---- */

static JsonNode *
value_of(JsonObject *object, const char *member)
{
    JsonNode *node = object ? json_object_get_member(object, member) : NULL;
    return node && JSON_NODE_HOLDS_VALUE(node) ? node : NULL;
}

/* Borrowed; "" when there is none. */
static const char *
string_of(JsonObject *object, const char *member)
{
    JsonNode *node = value_of(object, member);
    const char *string = node ? json_node_get_string(node) : NULL;
    return string ? string : "";
}

static gint64
int_of(JsonObject *object, const char *member, gint64 otherwise)
{
    JsonNode *node = value_of(object, member);
    return node && json_node_get_value_type(node) == G_TYPE_INT64 ? json_node_get_int(node) : otherwise;
}

static gboolean
bool_of(JsonObject *object, const char *member)
{
    JsonNode *node = value_of(object, member);
    return node && json_node_get_value_type(node) == G_TYPE_BOOLEAN && json_node_get_boolean(node);
}

static JsonObject *
object_of(JsonObject *object, const char *member)
{
    JsonNode *node = object ? json_object_get_member(object, member) : NULL;
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static JsonArray *
array_of(JsonObject *object, const char *member)
{
    JsonNode *node = object ? json_object_get_member(object, member) : NULL;
    return node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

static guint
count_of(JsonObject *object, const char *member)
{
    JsonArray *array = array_of(object, member);
    return array ? json_array_get_length(array) : 0;
}

static JsonObject *
object_at(JsonArray *array, guint i)
{
    JsonNode *node = json_array_get_element(array, i);
    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* "a, b, c", or `otherwise`. */
static char *
strings_of(JsonObject *object, const char *member, const char *otherwise)
{
    JsonArray *array = array_of(object, member);
    GString *out = g_string_new(NULL);
    for (guint i = 0; i < count_of(object, member); i++) {
        JsonNode *node = json_array_get_element(array, i);
        const char *string = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
        g_autofree char *shown = tool_printable(string ? string : "?");
        g_string_append_printf(out, "%s%s", out->len ? ", " : "", shown);
    }
    if (!out->len)
        g_string_append(out, otherwise);
    return g_string_free(out, FALSE);
}

/* "" without a time, which a table shows as "-". */
static char *
time_of(JsonObject *object, const char *member)
{
    gint64 seconds = int_of(object, member, 0);
    g_autoptr(GDateTime) time = seconds > 0 ? g_date_time_new_from_unix_local(seconds) : NULL;
    return time ? g_date_time_format(time, "%F %T") : g_strdup("");
}

/* ---- lines ---- */

static void add_line(GString *out, const char *name, const char *format, ...) G_GNUC_PRINTF(3, 4);

static void
add_line(GString *out, const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *shown = tool_printable(text);
    g_string_append_printf(out, "%-16s%s\n", name, *shown ? shown : "-");
}

/* "1 lease", "2 leases" */
static char *
amount(gint64 n, const char *noun)
{
    return g_strdup_printf("%" G_GINT64_FORMAT " %s%s", n, noun, n == 1 ? "" : "s");
}

/* ---- status ---- */

static char *
ago(gint64 ms)
{
    if (ms < 0)
        return g_strdup("never");
    if (ms < 60 * 1000)
        return g_strdup_printf("%" G_GINT64_FORMAT ".%d s ago", ms / 1000, (int)(ms % 1000 / 100));
    if (ms < 60 * 60 * 1000)
        return g_strdup_printf("%" G_GINT64_FORMAT " min ago", ms / 1000 / 60);
    return g_strdup_printf("%" G_GINT64_FORMAT " h ago", ms / 1000 / 60 / 60);
}

static void
add_sessions(JsonArray *sessions, GString *out)
{
    g_autoptr(ToolTable) table = tool_table_new("SESSION IN", "STATE", "NUMBER", "RENEWED", NULL);
    for (guint i = 0; i < json_array_get_length(sessions); i++) {
        JsonObject *session = object_at(sessions, i);
        g_autofree char *number = g_strdup_printf("%" G_GINT64_FORMAT, int_of(session, "session", 0));
        g_autofree char *renewed = ago(int_of(session, "silent_ms", -1));
        tool_table_add(table, string_of(session, "place"), string_of(session, "state"), number, renewed, NULL);
    }
    tool_table_print(table, "", out);
    for (guint i = 0; i < json_array_get_length(sessions); i++) {
        JsonObject *session = object_at(sessions, i);
        g_autofree char *place = tool_printable(string_of(session, "place"));
        g_autofree char *problem = tool_printable(string_of(session, "problem"));
        if (*problem)
            g_string_append_printf(out, "Problem in %s: %s\n", place, problem);
    }
}

static void
add_backends(JsonObject *answer, GString *out)
{
    JsonArray *backends = array_of(answer, "backends");
    for (guint i = 0; i < count_of(answer, "backends"); i++) {
        JsonObject *backend = object_at(backends, i);
        g_autofree char *problem = tool_printable(string_of(backend, "problem"));
        add_line(out, string_of(backend, "name"), "%s, %s", string_of(backend, "state"), string_of(backend, "detail"));
        if (*problem)
            add_line(out, "", "PROBLEM: %s", problem);
    }
}

void
tool_text_status(JsonObject *answer, gint64 now, GString *out)
{
    g_autofree char *vms = amount(int_of(answer, "vms", 0), "VM");
    g_autofree char *leases = amount(int_of(answer, "leases", 0), "lease");
    add_line(out, "Daemon", "virtleased %s at %s", string_of(answer, "version"), string_of(answer, "socket"));
    add_line(out, "Host", "%s (id %s)", string_of(answer, "host_name"), string_of(answer, "host_id"));
    add_line(out, "Machine, boot", "%s, %s", string_of(answer, "machine_id"), string_of(answer, "boot_id"));
    add_line(out, "Serves", "%s, %s", vms, leases);
    add_line(out, "Takeover",
             "of hosts silent for %" G_GINT64_FORMAT " s; a VM's start waits at most %" G_GINT64_FORMAT " s for it",
             int_of(answer, "dead_after", 0), int_of(answer, "takeover_wait", 0));
    add_backends(answer, out);
    g_string_append_c(out, '\n');
    if (count_of(answer, "sessions"))
        add_sessions(array_of(answer, "sessions"), out);
    else
        g_string_append(out, "No session: no VM has needed a lease of an RBD image yet.\n");
}

/* ---- list ---- */

void
tool_text_list(JsonObject *answer, gint64 now, GString *out)
{
    JsonArray *leases = array_of(answer, "leases");
    g_autoptr(ToolTable) table = tool_table_new("VOLUME", "STATE", "VM", "HOST", "PID", "SINCE", NULL);
    for (guint i = 0; i < count_of(answer, "leases"); i++) {
        JsonObject *lease = object_at(leases, i);
        gint64 number = int_of(lease, "pid", 0);
        g_autofree char *pid = number > 0 ? g_strdup_printf("%" G_GINT64_FORMAT, number) : g_strdup("");
        g_autofree char *since = time_of(lease, "since");
        gboolean shared = g_str_equal(string_of(lease, "mode"), "shared");
        gint64 wait = int_of(lease, "wait_s", 0);
        g_autofree char *waiting = wait > 0 ? g_strdup_printf(", %" G_GINT64_FORMAT " s left", wait) : g_strdup("");
        g_autofree char *state = g_strconcat(string_of(lease, "state"), shared ? ",shared" : "", waiting, NULL);
        tool_table_add(table, string_of(lease, "volume"), state, string_of(lease, "vm"), string_of(lease, "host"), pid,
                       since, NULL);
    }
    if (count_of(answer, "leases"))
        tool_table_print(table, "", out);
    else
        g_string_append(out, "No leases.\n");
}

/* ---- show ---- */

static void
add_holder(JsonObject *holder, GString *out)
{
    g_autofree char *since = time_of(holder, "since");
    g_autofree char *addrs = strings_of(holder, "addrs", "none recorded yet");
    if (*string_of(holder, "vm"))
        add_line(out, "Holder", "VM %s (%s)", string_of(holder, "vm"), string_of(holder, "uuid"));
    if (array_of(holder, "addrs"))
        add_line(out, "", "on host %s (id %s, session %" G_GINT64_FORMAT "), process %" G_GINT64_FORMAT,
                 string_of(holder, "host"), string_of(holder, "host_id"), int_of(holder, "session", 0),
                 int_of(holder, "pid", 0));
    else if (int_of(holder, "pid", 0))
        add_line(out, "", "on host %s, process %" G_GINT64_FORMAT, string_of(holder, "host"), int_of(holder, "pid", 0));
    else
        add_line(out, *string_of(holder, "vm") ? "" : "Holder", "host %s", string_of(holder, "host"));
    if (*since || *string_of(holder, "state"))
        add_line(out, "", "%s since %s", *string_of(holder, "state") ? string_of(holder, "state") : "held",
                 *since ? since : "-");
    if (array_of(holder, "addrs"))
        add_line(out, "", "addresses to fence: %s", addrs);
}

static void
add_claim(JsonObject *claim, GString *out)
{
    g_autofree char *since = time_of(claim, "since");
    g_autofree char *addrs = strings_of(claim, "addrs", "nothing");
    add_line(out, "Claim", "host %s takes it over for VM %s since %s", string_of(claim, "host"), string_of(claim, "vm"),
             *since ? since : "-");
    add_line(out, "", "and fences: %s", addrs);
}

static void
add_in_use(JsonObject *answer, GString *out)
{
    JsonObject *owner = object_of(answer, "lock_owner");
    g_autofree char *watchers = strings_of(answer, "watchers", "none: no client has the image open");
    if (owner)
        add_line(out, "Lock owner", "%s (%s)%s", string_of(owner, "addr"), string_of(owner, "entity"),
                 bool_of(owner, "managed") ? "" : ", a lock that librbd does not manage");
    else
        add_line(out, "Lock owner", "none");
    add_line(out, "Watchers", "%s", watchers);
    if (!bool_of(answer, "exclusive_lock_feature"))
        add_line(out, "Features", "exclusive-lock is off: only the recorded addresses can be fenced");
}

static char *
fence_note(JsonObject *fenced, gint64 now)
{
    gint64 until = int_of(fenced, "until", 0);
    gint64 wanted = int_of(fenced, "wanted", 0);
    g_autofree char *time = time_of(fenced, "wanted");
    if (wanted > now && until <= now)
        return g_strdup_printf("LAPSED, wanted until %s: it must be added again", time);
    if (until < wanted)
        return g_strdup_printf("lapses earlier than wanted (%s)", time);
    return g_strdup(until <= now ? "over" : "");
}

static void
add_fenced(JsonObject *answer, gint64 now, GString *out)
{
    JsonArray *fenced = array_of(answer, "fenced");
    g_autoptr(ToolTable) table = tool_table_new("FENCED ADDRESS", "SINCE", "UNTIL", "NOTE", NULL);
    for (guint i = 0; i < count_of(answer, "fenced"); i++) {
        JsonObject *entry = object_at(fenced, i);
        g_autofree char *at = time_of(entry, "at");
        g_autofree char *until = time_of(entry, "until");
        g_autofree char *note = fence_note(entry, now);
        tool_table_add(table, string_of(entry, "addr"), at, until, note, NULL);
    }
    if (!count_of(answer, "fenced"))
        return;
    g_string_append_c(out, '\n');
    tool_table_print(table, "", out);
}

void
tool_text_show(JsonObject *answer, gint64 now, GString *out)
{
    JsonArray *holders = array_of(answer, "holders");
    JsonObject *claim = object_of(answer, "claim");
    add_line(out, "Volume", "%s, in %s", string_of(answer, "volume"), string_of(answer, "place"));
    add_line(out, "Key", "%s", string_of(answer, "key"));
    const char *mode = *string_of(answer, "mode") ? string_of(answer, "mode") : "held";
    if (value_of(answer, "epoch"))
        add_line(out, "Lease", "%s, epoch %" G_GINT64_FORMAT, count_of(answer, "holders") ? mode : "free",
                 int_of(answer, "epoch", 0));
    else
        add_line(out, "Lease", "%s, guarded by %s", count_of(answer, "holders") ? mode : "free",
                 string_of(answer, "backend"));
    for (guint i = 0; i < count_of(answer, "holders"); i++)
        add_holder(object_at(holders, i), out);
    if (claim)
        add_claim(claim, out);
    if (array_of(answer, "watchers"))
        add_in_use(answer, out);
    add_fenced(answer, now, out);
}

/* ---- fence, release ---- */

void
tool_text_fence(JsonObject *answer, gint64 now, GString *out)
{
    JsonArray *leases = array_of(answer, "leases");
    g_autofree char *host = tool_printable(string_of(answer, "host"));
    g_autofree char *id = tool_printable(string_of(answer, "host_id"));
    g_autoptr(ToolTable) table = tool_table_new("VOLUME", "VM", "FENCED ADDRESSES", NULL);
    g_string_append_printf(out, "Host %s (id %s): its session is ended.\n", host, id);
    for (guint i = 0; i < count_of(answer, "leases"); i++) {
        JsonObject *lease = object_at(leases, i);
        g_autofree char *fenced = strings_of(lease, "fenced", "");
        tool_table_add(table, string_of(lease, "volume"), string_of(lease, "vm"), fenced, NULL);
    }
    if (count_of(answer, "leases")) {
        g_string_append(out, "These leases are free now:\n");
        tool_table_print(table, INDENT, out);
    } else {
        g_string_append(out, "It held no lease.\n");
    }
}

void
tool_text_release(JsonObject *answer, gint64 now, GString *out)
{
    JsonObject *owner = object_of(answer, "lock_owner");
    g_autofree char *volume = tool_printable(string_of(answer, "volume"));
    if (array_of(answer, "fenced")) {
        g_autofree char *fenced = strings_of(answer, "fenced", "nothing, as no client address was recorded or seen");
        g_string_append_printf(out, "%s: its lease is free. Fenced: %s\n", volume, fenced);
        return;
    }
    g_autofree char *watchers = strings_of(answer, "watchers", "");
    g_string_append_printf(out, "%s: its lease is free, and nothing was fenced.\n", volume);
    if (*watchers)
        g_string_append_printf(out, "These clients have it open and can still write: %s\n", watchers);
    else
        g_string_append(out, "No client has it open.\n");
    if (owner)
        add_line(out, "Lock owner", "%s (%s)", string_of(owner, "addr"), string_of(owner, "entity"));
}

void
tool_text_lost(JsonObject *answer, gint64 now, GString *out)
{
}

/* ---- cleanup ---- */

static void
add_files(JsonObject *answer, const char *member, const char *title, GString *out)
{
    JsonArray *files = array_of(answer, member);
    g_autoptr(ToolTable) table = tool_table_new(title, "WHY", NULL);
    for (guint i = 0; i < count_of(answer, member); i++) {
        JsonObject *file = object_at(files, i);
        tool_table_add(table, string_of(file, "file"), string_of(file, "why"), NULL);
    }
    if (!count_of(answer, member))
        return;
    g_string_append_c(out, '\n');
    tool_table_print(table, "", out);
}

void
tool_text_cleanup(JsonObject *answer, gint64 now, GString *out)
{
    gboolean dry = bool_of(answer, "dry_run");
    g_autofree char *removed = amount(count_of(answer, "removed"), "lease file");
    g_autofree char *used = amount(count_of(answer, "used"), "file");
    g_autofree char *dir = tool_printable(string_of(answer, "directory"));
    g_string_append_printf(out, "%s: %s %s, %s in use left alone\n", dir, removed, dry ? "would be removed" : "removed",
                           used);
    if (dry)
        add_files(answer, "removed", "UNUSED", out);
    add_files(answer, "unknown", "NOT UNDERSTOOD, LEFT ALONE", out);
    add_files(answer, "failed", "NOT REMOVED", out);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * virtleasectl: asks virtleased one thing and prints the answer. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"
#include "lockd/error.h"
#include "lockd/tool_call.h"
#include "lockd/tool_cleanup.h"
#include "lockd/tool_table.h"
#include "lockd/tool_text.h"

enum {
    EXIT_REFUSED = 1,
    EXIT_USAGE = 2,
    EXIT_DAEMON = 3,
    EXIT_HELD = 4,
    TIMEOUT_DEFAULT_S = 60,
    TIMEOUT_MAX_S = 600, /* virtleased takes no longer one */
};

typedef struct {
    char *socket;
    int timeout;
    gboolean json, version;
    gboolean all, force, no_fence, dry_run; /* of a verb */
    char **words;                           /* verb and operand */
} Options;

typedef struct {
    const char *name;
    const char *operand; /* what it is called, NULL: none */
    const char *options; /* that go with it, as in a synopsis */
    const char *help;
    const char *waiting; /* with %s for the operand */
    ToolText text;
    char *(*ask)(const ToolRequest *request, GError **error); /* NULL: tool_call */
} Verb;

static const Verb verbs[] = {
    {"status", NULL, "", "the daemon, its host, and its sessions with the storage", "reading its state",
     tool_text_status},
    {"list", NULL, " [--all]", "leases of this host; with --all those of other hosts as well", "reading the leases",
     tool_text_list},
    {"show", "VOLUME", "", "holders, claim, lock owner, watchers and fences of one volume", "reading the lease of %s",
     tool_text_show},
    {"fence", "HOST", " [--force]", "cut a dead host off its VMs' disks and free their leases",
     "ending the sessions of host %s and fencing its disks", tool_text_fence},
    {"release", "VOLUME", " --force [--no-fence]", "take a volume's lease away from its holder, fencing that first",
     "fencing and freeing %s", tool_text_release},
    {"cleanup", NULL, " [--dry-run]", "remove sanlock lease files that no VM on any host uses",
     "looking at lease files", tool_text_cleanup, tool_cleanup},
    {"lost", "VM", "",
     "said by sanlock, not by people: the lockspace that guards the disks of this VM (uuid) is failing",
     "stopping VM %s", tool_text_lost},
};

static const Verb *
find_verb(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(verbs); i++)
        if (g_str_equal(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

/* ---- command line ---- */

static char *
summary(void)
{
    GString *text = g_string_new("Verbs:\n");
    for (guint i = 0; i < G_N_ELEMENTS(verbs); i++)
        g_string_append_printf(text, "  %s%s%s%s\n        %s\n", verbs[i].name, verbs[i].operand ? " " : "",
                               verbs[i].operand ? verbs[i].operand : "", verbs[i].options, verbs[i].help);
    g_string_append(text, "  help\n        this text");
    return g_string_free(text, FALSE);
}

static GOptionContext *
context_new(Options *options)
{
    const GOptionEntry entries[] = {
        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &options->socket,
         "where virtleased listens (default " VL_DEFAULT_SOCKET ")", "PATH"},
        {"timeout", 't', 0, G_OPTION_ARG_INT, &options->timeout, "how long to wait for the answer (default 60)",
         "SECONDS"},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &options->json, "print the answer, or the error, as one JSON object", NULL},
        {"all", 'a', 0, G_OPTION_ARG_NONE, &options->all, "list: leases of all hosts", NULL},
        {"force", 0, 0, G_OPTION_ARG_NONE, &options->force, "fence: a host that is alive as well; release: needed",
         NULL},
        {"no-fence", 0, 0, G_OPTION_ARG_NONE, &options->no_fence,
         "release: leave the holder's access to the image alone", NULL},
        {"dry-run", 'n', 0, G_OPTION_ARG_NONE, &options->dry_run, "cleanup: only say what would be removed", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &options->version, "print the version", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->words, NULL, NULL},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    GOptionContext *context = g_option_context_new("VERB [OPERAND] - disk leases of libvirt's VMs");
    g_autofree char *text = summary();
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_summary(context, text);
    g_option_context_set_description(
        context, "Exit status: 0 done, 1 refused or failed, 2 bad usage, 3 virtleased not reachable,\n"
                 "4 the host lives or the lease is held. Only root may ask. See virtleasectl(8).");
    return context;
}

static gboolean usage_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean
usage_error(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, text);
    return FALSE;
}

static gboolean
check_options(const Verb *verb, const Options *options, GError **error)
{
    const struct {
        const char *name;
        gboolean given;
    } all[] = {
        {"--all", options->all},
        {"--force", options->force},
        {"--no-fence", options->no_fence},
        {"--dry-run", options->dry_run},
    };
    for (guint i = 0; i < G_N_ELEMENTS(all); i++)
        if (all[i].given && !strstr(verb->options, all[i].name))
            return usage_error(error, "%s does not go with '%s'", all[i].name, verb->name);
    if (g_str_equal(verb->name, "release") && !options->force)
        return usage_error(error, "'release' takes the lease away from its holder: say --force if "
                                  "that is meant");
    return TRUE;
}

static gboolean
check_usage(const Options *options, const Verb **ret_verb, GError **error)
{
    guint count = options->words ? g_strv_length(options->words) : 0;
    const Verb *verb = count ? find_verb(options->words[0]) : NULL;
    if (options->timeout < 1 || options->timeout > TIMEOUT_MAX_S)
        return usage_error(error, "--timeout must be from 1 to %d seconds", TIMEOUT_MAX_S);
    if (!count)
        return usage_error(error, "no verb given");
    if (!verb)
        return usage_error(error, "unknown verb '%s'", options->words[0]);
    /* The daemon takes a word with dashes for an option, wherever it stands. */
    if (verb->operand && (count < 2 || !*options->words[1] || *options->words[1] == '-'))
        return usage_error(error, "'%s' needs a %s", verb->name, verb->operand);
    if (count > (verb->operand ? 2 : 1))
        return usage_error(error, "'%s' is one word too many", options->words[count - 1]);
    *ret_verb = verb;
    return check_options(verb, options, error);
}

/* ---- answer ---- */

static void
add_string(JsonBuilder *out, const char *member, const char *string)
{
    g_autofree char *valid = g_utf8_make_valid(string, -1);
    json_builder_set_member_name(out, member);
    json_builder_add_string_value(out, valid);
}

static void
print_error(const char *code, const char *message, gboolean json)
{
    if (!json) {
        g_autofree char *shown = tool_printable(message);
        fprintf(stderr, "virtleasectl: %s\n", shown);
        return;
    }
    g_autoptr(JsonBuilder) out = json_builder_new();
    json_builder_begin_object(out);
    json_builder_set_member_name(out, "error");
    json_builder_begin_object(out);
    add_string(out, "code", code);
    add_string(out, "message", message);
    json_builder_end_object(out);
    json_builder_end_object(out);
    g_autoptr(JsonNode) root = json_builder_get_root(out);
    g_autofree char *text = json_to_string(root, FALSE);
    puts(text);
}

static int
exit_status(const GError *error)
{
    if (error->code == VL_ERR_HELD)
        return EXIT_HELD;
    return error->code == VL_ERR_DAEMON ? EXIT_DAEMON : EXIT_REFUSED;
}

static gboolean
print_answer(const Verb *verb, const char *answer, gboolean json, GError **error)
{
    g_autoptr(JsonNode) root = json_from_string(answer, NULL);
    g_autoptr(GString) out = g_string_new(NULL);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        vl_set_error(error, VL_ERR_PROTOCOL,
                     "virtleased's answer is not JSON; tool and daemon are of different versions");
        return FALSE;
    }
    if (json)
        g_string_append_printf(out, "%s\n", answer);
    else
        verb->text(json_node_get_object(root), g_get_real_time() / G_USEC_PER_SEC, out);
    fputs(out->str, stdout);
    return TRUE;
}

static gboolean
run(const Verb *verb, const Options *options, GError **error)
{
    const char *operand = verb->operand ? options->words[1] : NULL;
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    g_autofree char *shown = operand ? tool_printable(operand) : NULL;
    g_auto(GStrv) around = g_strsplit(verb->waiting, "%s", 2);
    g_autofree char *waiting = g_strjoinv(shown, around);
    if (operand)
        g_ptr_array_add(args, (char *)operand);
    if (options->all)
        g_ptr_array_add(args, (char *)"--all");
    if (options->force)
        g_ptr_array_add(args, (char *)"--force");
    if (options->no_fence)
        g_ptr_array_add(args, (char *)"--no-fence");
    if (options->dry_run)
        g_ptr_array_add(args, (char *)"--dry-run");
    ToolRequest request = {options->socket ? options->socket : VL_DEFAULT_SOCKET, (guint)options->timeout, verb->name,
                           args, waiting};
    g_autofree char *answer = verb->ask ? verb->ask(&request, error) : tool_call(&request, error);
    return answer && print_answer(verb, answer, options->json, error);
}

static int
tool_main(int argc, char **argv, Options *options)
{
    g_autoptr(GError) error = NULL;
    const Verb *verb = NULL;
    g_autoptr(GOptionContext) context = context_new(options);
    /* GOption forgets what it understood when it meets something it does not. */
    gboolean json =
        g_strv_contains((const char *const *)argv, "--json") || g_strv_contains((const char *const *)argv, "-j");
    gboolean parsed = g_option_context_parse(context, &argc, &argv, &error);
    json = parsed ? options->json : json;
    if (parsed && options->version) {
        puts("virtleasectl " VL_VERSION);
        return EXIT_SUCCESS;
    }
    if (parsed && options->words && g_str_equal(options->words[0], "help")) {
        g_autofree char *help = g_option_context_get_help(context, TRUE, NULL);
        fputs(help, stdout);
        return EXIT_SUCCESS;
    }
    if (!parsed || !check_usage(options, &verb, &error)) {
        print_error("usage", error->message, json);
        if (!json)
            fputs("Try 'virtleasectl --help'.\n", stderr);
        return EXIT_USAGE;
    }
    if (run(verb, options, &error))
        return EXIT_SUCCESS;
    print_error(vl_error_name((enum vl_error)error->code), error->message, json);
    return exit_status(error);
}

int
main(int argc, char **argv)
{
    Options options = {.timeout = TIMEOUT_DEFAULT_S};
    setlocale(LC_CTYPE, "");
    int status = tool_main(argc, argv, &options);
    g_free(options.socket);
    g_strfreev(options.words);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    /* An answer that did not arrive was not given. */
    fprintf(stderr, "virtleasectl: the answer could not be printed: %m\n");
    return status ? status : EXIT_REFUSED;
}

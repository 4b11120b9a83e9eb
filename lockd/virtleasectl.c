/* SPDX-License-Identifier: LGPL-2.1-or-later
 * virtleasectl: asks virtleased one thing and prints the answer. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"
#include "lockd/error.h"
#include "lockd/tool_call.h"
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
    gboolean all, force, no_fence; /* of a verb */
    char **words;                  /* verb and operand */
} Options;

typedef struct {
    const char *name;
    const char *operand; /* what it is called, NULL: none */
    const char *options;
    const char *help;
    const char *waiting; /* with %s for the operand */
    ToolText text;
} Verb;

static const Verb verbs[] = {
    {"status", NULL, "", "the daemon, its host, and its sessions with the storage",
     "reading its state", tool_text_status},
    {"list", NULL, "--all", "leases of this host; with --all, those that other hosts have as well",
     "reading the leases", tool_text_list},
    {"show", "VOLUME", "", "holders, fences, claim, lock owner and watchers of one volume",
     "reading the lease of %s from the storage", tool_text_show},
    {"fence", "HOST", "--force", "cut a dead host off its VMs' disks and free their leases",
     "ending the sessions of host %s and fencing its disks", tool_text_fence},
    {"release", "VOLUME", "--force --no-fence",
     "take one lease away from its holder, fencing it first", "fencing and freeing %s",
     tool_text_release},
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
    for (guint i = 0; i < G_N_ELEMENTS(verbs); i++) {
        const Verb *verb = &verbs[i];
        g_auto(GStrv) options = g_strsplit(verb->options, " ", -1);
        g_autoptr(GString) usage = g_string_new(verb->name);
        if (verb->operand)
            g_string_append_printf(usage, " %s", verb->operand);
        for (guint k = 0; options[k]; k++)
            g_string_append_printf(usage, " [%s]", options[k]);
        g_string_append_printf(text, "  %s\n        %s\n", usage->str, verb->help);
    }
    g_string_append(text, "  help\n        this text");
    return g_string_free(text, FALSE);
}

static GOptionContext *
context_new(Options *options)
{
    const GOptionEntry entries[] = {
        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &options->socket,
         "where virtleased listens (default " VL_DEFAULT_SOCKET ")", "PATH"},
        {"timeout", 't', 0, G_OPTION_ARG_INT, &options->timeout,
         "how long to wait for the answer (default 60)", "SECONDS"},
        {"json", 'j', 0, G_OPTION_ARG_NONE, &options->json,
         "print the answer, or the error, as one JSON object", NULL},
        {"all", 'a', 0, G_OPTION_ARG_NONE, &options->all, "list: leases of all hosts", NULL},
        {"force", 0, 0, G_OPTION_ARG_NONE, &options->force,
         "fence: a host that is alive as well; release: needed", NULL},
        {"no-fence", 0, 0, G_OPTION_ARG_NONE, &options->no_fence,
         "release: leave the holder's access to the image alone", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &options->version, "print the version", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->words, NULL, NULL},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    GOptionContext *context = g_option_context_new("VERB [OPERAND] - disk leases of libvirt's VMs");
    g_autofree char *text = summary();
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_summary(context, text);
    g_option_context_set_description(
        context,
        "Exit status: 0 done, 1 refused or failed, 2 bad usage, 3 virtleased not reachable,\n"
        "4 the host lives or the lease is held. Only root may ask. See virtleasectl(8).");
    return context;
}

static gboolean
option_fits(const Verb *verb, const char *option, gboolean given, GError **error)
{
    g_auto(GStrv) fitting = g_strsplit(verb->options, " ", -1);
    if (!given || g_strv_contains((const char *const *)fitting, option))
        return TRUE;
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "%s does not go with '%s'", option,
                verb->name);
    return FALSE;
}

/* The verb, if all that was said makes sense. */
static const Verb *
check_usage(const Options *options, GError **error)
{
    guint count = options->words ? g_strv_length(options->words) : 0;
    const Verb *verb = count ? find_verb(options->words[0]) : NULL;
    const char *problem = NULL;
    if (!count)
        problem = "no verb given";
    else if (options->timeout < 1 || options->timeout > TIMEOUT_MAX_S)
        problem = "--timeout must be from 1 to 600 seconds";
    else if (!verb)
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "unknown verb '%s'",
                    options->words[0]);
    else if (verb->operand && (count < 2 || !*options->words[1] || *options->words[1] == '-'))
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "'%s' needs a %s", verb->name,
                    verb->operand);
    else if (count > (verb->operand ? 2 : 1))
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "'%s' is one word too many",
                    options->words[count - 1]);
    else if (option_fits(verb, "--all", options->all, error) &&
             option_fits(verb, "--force", options->force, error) &&
             option_fits(verb, "--no-fence", options->no_fence, error))
        return verb;
    if (problem)
        g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, problem);
    return NULL;
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
    ToolRequest request = {options->socket ? options->socket : VL_DEFAULT_SOCKET,
                           (guint)options->timeout, verb->name, args, waiting};
    g_autofree char *answer = tool_call(&request, error);
    return answer && print_answer(verb, answer, options->json, error);
}

/* An answer that did not arrive on paper was not given. */
static int
finish(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "virtleasectl: the answer could not be printed: %m\n");
    return status ? status : EXIT_REFUSED;
}

int
main(int argc, char **argv)
{
    Options options = {.timeout = TIMEOUT_DEFAULT_S};
    g_autoptr(GError) error = NULL;
    setlocale(LC_CTYPE, "");
    g_autoptr(GOptionContext) context = context_new(&options);
    gboolean parsed = g_option_context_parse(context, &argc, &argv, &error);
    if (parsed && options.version) {
        puts("virtleasectl " VL_VERSION);
        return finish(EXIT_SUCCESS);
    }
    if (parsed && options.words && g_str_equal(options.words[0], "help")) {
        g_autofree char *help = g_option_context_get_help(context, TRUE, NULL);
        fputs(help, stdout);
        return finish(EXIT_SUCCESS);
    }
    const Verb *verb = parsed ? check_usage(&options, &error) : NULL;
    if (!verb) {
        print_error("usage", error->message, options.json);
        if (!options.json)
            fputs("Try 'virtleasectl --help'.\n", stderr);
        return finish(EXIT_USAGE);
    }
    if (run(verb, &options, &error))
        return finish(EXIT_SUCCESS);
    print_error(vl_error_name((enum vl_error)error->code), error->message, options.json);
    return finish(exit_status(error));
}

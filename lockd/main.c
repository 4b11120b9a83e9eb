/* SPDX-License-Identifier: LGPL-2.1-or-later
 * virtleased: options, logging, start and stop. */
#include <glib-unix.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "lockd/adopt.h"
#include "lockd/audit.h"
#include "lockd/backend.h"
#include "lockd/daemon.h"
#include "lockd/error.h"
#include "lockd/krbd.h"
#include "lockd/fault.h"
#include "lockd/rescan.h"
#include "lockd/server.h"
#include "lockd/store_rbd.h"
#include "lockd/successor.h"

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define TICK_S      1
#define STOP_WAIT_S 10
#define DESCRIPTORS 65536

enum { EXIT_CONFIG = 2, EXIT_START = 3 };

/* ---- logging: to stderr with a time; under systemd the journal adds its own ---- */

static gboolean log_debug, log_journal;

static GLogWriterOutput
log_write(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer opaque)
{
    const char *message = "";
    static const char *const words[] = {"error", "error", "error", "critical", "warning", "info", "detail", "debug"};
    if (!log_debug && (level & (G_LOG_LEVEL_DEBUG | G_LOG_LEVEL_INFO)))
        return G_LOG_WRITER_HANDLED;
    if (log_journal)
        return g_log_writer_journald(level, fields, n, opaque);
    for (gsize i = 0; i < n; i++)
        if (g_str_equal(fields[i].key, "MESSAGE"))
            message = fields[i].value;
    guint bit = (guint)g_bit_nth_msf(level & G_LOG_LEVEL_MASK, -1);
    gint64 now = g_get_real_time();
    time_t seconds = (time_t)(now / G_USEC_PER_SEC);
    struct tm fields_of;
    char time_text[32] = "?";
    /* Not GDateTime: it looks for the time zone's file anew every time. */
    if (localtime_r(&seconds, &fields_of))
        (void)strftime(time_text, sizeof(time_text), "%F %T", &fields_of);
    fprintf(stderr, "%s.%03d %s: %s\n", time_text, (int)(now % G_USEC_PER_SEC / 1000),
            bit < G_N_ELEMENTS(words) ? words[bit] : "?", message);
    return G_LOG_WRITER_HANDLED;
}

/* ---- what sessions ask of us ---- */

static gboolean
on_healthy(gpointer opaque)
{
    VlDaemon *daemon = opaque;
    gint now = (gint)(g_get_monotonic_time() / G_USEC_PER_SEC);
    return now - g_atomic_int_get(&daemon->main_tick) < (gint)daemon->settings->dead_after;
}

static VlAnswer
answer_for(VlDaemon *daemon, VlPlace *place, const VlQuestion *question)
{
    if (question->addr)
        return question->volume && vl_vms_has_reader(daemon->vms, question->volume) ? VL_ANSWER_READER
                                                                                    : VL_ANSWER_ALIVE;
    if (!question->volume || !question->holder.uuid || !g_atomic_int_get(&daemon->ready))
        return VL_ANSWER_ALIVE;
    if (question->holder.boot && g_str_has_prefix(question->holder.boot, "claim:")) {
        g_mutex_lock(&daemon->claims_lock);
        gboolean working = g_hash_table_contains(daemon->claims, question->holder.boot + strlen("claim:"));
        g_mutex_unlock(&daemon->claims_lock);
        return working ? VL_ANSWER_MINE : VL_ANSWER_NOT_MINE;
    }
    VlAnswer answer = vl_vms_answer(daemon->vms, question->volume, &question->holder);
    if (answer == VL_ANSWER_NOT_MINE)
        vl_adopt_orphan(daemon, place, question->volume);
    return answer;
}

static GBytes *
on_challenge(VlPlace *place, GBytes *payload, gpointer opaque)
{
    VlDaemon *daemon = opaque;
    VlQuestion question;
    if (!on_healthy(daemon) || !vl_question_parse(payload, &question))
        return NULL;
    VlAnswer answer = answer_for(daemon, place, &question);
    GBytes *reply = vl_answer_format(&question, daemon->host->id, vl_sessions_number(daemon->sessions, place), answer);
    g_info("challenged about %s: answered %d", question.volume ? question.volume : "this host", answer);
    vl_question_clear(&question);
    return reply;
}

static void
on_recheck(VlPlace *place, gpointer opaque)
{
    vl_audit_place(opaque, place);
}

static void
on_earlier_boot(VlPlace *place, gpointer opaque)
{
    vl_adopt_earlier_boot(opaque, place);
}

static gboolean
on_own_boot(const char *boot, gpointer opaque)
{
    return vl_journal_knows_boot(((VlDaemon *)opaque)->journal, boot);
}

/* ---- main loop ---- */

typedef struct {
    VlDaemon *daemon;
    GMainLoop *loop;
    guint seconds;
} Loop;

static gboolean
on_tick(gpointer data)
{
    Loop *loop = data;
    VL_FAULT("main-loop");
    g_atomic_int_set(&loop->daemon->main_tick, (gint)(g_get_monotonic_time() / G_USEC_PER_SEC));
    vl_refence_begin(loop->daemon);
    g_autoptr(GPtrArray) kernel = vl_krbd_clients("/sys", TRUE);
    vl_sessions_set_krbd(loop->daemon->sessions, kernel);
    vl_successor_begin(loop->daemon);
    vl_audit_tick(loop->daemon, ++loop->seconds);
    return G_SOURCE_CONTINUE;
}

static gboolean
on_signal(gpointer data)
{
    g_main_loop_quit(((Loop *)data)->loop);
    return G_SOURCE_CONTINUE;
}

static void
notify(const char *state)
{
#ifdef HAVE_SYSTEMD
    (void)sd_notify(0, state);
#else
    (void)state;
#endif
}

static gboolean
daemon_open(VlDaemon *daemon, GError **error)
{
    VlSessionEvents events = {on_healthy, on_challenge, on_recheck, on_earlier_boot, on_own_boot, daemon};
    VlStoreRbdSettings rbd = {daemon->settings->ceph_conf, daemon->settings->ceph_user, daemon->settings->op_timeout};
    daemon->host = vl_host_new(daemon->settings, error);
    if (!daemon->host)
        return FALSE;
    daemon->journal = vl_journal_open(daemon->settings->state_dir, daemon->host->boot, error);
    if (!daemon->journal)
        return FALSE;
    daemon->store = vl_store_rbd_new(&rbd);
    daemon->vms = vl_vms_new();
    daemon->verdicts = vl_verdicts_new(daemon->settings->dead_after, TRUE);
    daemon->sessions = vl_sessions_new(daemon->host, daemon->settings->dead_after, &events);
    g_atomic_int_set(&daemon->main_tick, (gint)(g_get_monotonic_time() / G_USEC_PER_SEC));
    return vl_backends_start(daemon, error);
}

/* Running VMs keep their leases: what we leave behind is a session with an announced silence. Threads of calls that
 * hang in storage are left to exit(). */
static void
daemon_close(VlDaemon *daemon, VlServer *server)
{
    g_atomic_int_set(&daemon->stopping, 1);
    vl_server_stop(server, STOP_WAIT_S);
    vl_sessions_stop(daemon->sessions, vl_vms_count_leases(daemon->vms) > 0, daemon->settings->restart_grace);
    vl_journal_close(daemon->journal);
}

static int
run(VlDaemon *daemon)
{
    g_autoptr(GError) error = NULL;
    Loop loop = {daemon, g_main_loop_new(NULL, FALSE), 0};
    if (!daemon_open(daemon, &error)) {
        g_critical("%s", error->message);
        return EXIT_START;
    }
    g_message("virtleased " VL_VERSION " on host %s (id %s, boot %s)", daemon->host->name, daemon->host->id,
              daemon->host->boot);
    vl_adopt_all(daemon);
    VlServer *server = vl_server_new(daemon, &error);
    if (!server) {
        g_critical("%s", error->message);
        return EXIT_START;
    }
    vl_rescan_watch(daemon);
    g_timeout_add_seconds(TICK_S, on_tick, &loop);
    g_unix_signal_add(SIGTERM, on_signal, &loop);
    g_unix_signal_add(SIGINT, on_signal, &loop);
    notify("READY=1");
    g_message("serving %s", daemon->settings->socket);
    g_main_loop_run(loop.loop);
    notify("STOPPING=1");
    g_message("stopping; running VMs keep their leases");
    daemon_close(daemon, server);
    g_main_loop_unref(loop.loop);
    return EXIT_SUCCESS;
}

/* A pidfd per VM, a lock file per local volume and a connection per call: the usual 1024 are too few for a host full of
 * VMs. */
static void
raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = MIN(limit.rlim_max, DESCRIPTORS);
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int
main(int argc, char **argv)
{
    g_autofree char *config = NULL;
    gboolean foreground = FALSE, check = FALSE, version = FALSE, debug = FALSE;
    const GOptionEntry entries[] = {
        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &config, "configuration file (default " VL_DEFAULT_CONFIG ")",
         "FILE"},
        {"foreground", 'f', 0, G_OPTION_ARG_NONE, &foreground,
         "do not detach (this is what it always does; kept for unit files)", NULL},
        {"check-config", 0, 0, G_OPTION_ARG_NONE, &check, "read the configuration, say what is wrong with it, exit",
         NULL},
        {"debug", 'd', 0, G_OPTION_ARG_NONE, &debug, "log details", NULL},
        {"version", 0, 0, G_OPTION_ARG_NONE, &version, "print the version", NULL},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new("- disk leases for libvirt's VMs");
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_description(context, "See virtleased(8) and the comments in " VL_DEFAULT_CONFIG ".");
    setlocale(LC_CTYPE, "");
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "virtleased: %s\n", error->message);
        return EXIT_CONFIG;
    }
    if (version) {
        puts("virtleased " VL_VERSION);
        return EXIT_SUCCESS;
    }
    VlSettings *settings = vl_settings_load(config ? config : VL_DEFAULT_CONFIG, config != NULL, &error);
    if (!settings) {
        fprintf(stderr, "virtleased: %s\n", error->message);
        return EXIT_CONFIG;
    }
    if (check) {
        puts("configuration is good");
        vl_settings_free(settings);
        return EXIT_SUCCESS;
    }
    log_debug = debug || settings->debug;
    log_journal = g_log_writer_is_journald(fileno(stderr));
    tzset();
    g_log_set_writer_func(log_write, NULL, NULL);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    VlDaemon *daemon = vl_daemon_new();
    daemon->settings = settings;
    return run(daemon);
}

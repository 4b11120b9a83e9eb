/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One host of a sanlock test: the sanlock parts of virtleased, asked through stdin. A process of its
 * own, because libsanlock_client talks to one daemon per process (SANLOCK_RUN_DIR).
 *
 *     sanlock-host LEASE_DIR HOST_ID IO_TIMEOUT NUM_HOSTS   lines "ID VERB ARGS", answers "ID ok|error ..." in any
 * order sanlock-host --vm                           a process registered with sanlock, until its stdin ends
 */
#include <errno.h>
#include <gio/gio.h>
#include <signal.h>
#include <stdint.h>
#include <sanlock.h>
#include <sanlock_resource.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/sanlock_call.h"
#include "lockd/sanlock_clean.h"
#include "lockd/sanlock_file.h"
#include "lockd/sanlock_lease.h"

static VlSanlockConf conf = {.space = NULL};
static VlSanlockSpace *space;
static GHashTable *vms; /* name -> GSubprocess */
static GMutex out_lock, vms_lock;
static const char *self;
static gint losses;

static void say(const char *id, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
say(const char *id, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_mutex_lock(&out_lock);
    printf("%s %s\n", id, text);
    fflush(stdout);
    g_mutex_unlock(&out_lock);
}

static int
be_vm(void)
{
    char byte;
    int fd = sanlock_register();
    if (fd < 0 || sanlock_restrict(fd, SANLK_RESTRICT_ALL) < 0)
        return 1;
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}

static GSubprocess *
vm_of(const char *name)
{
    g_mutex_lock(&vms_lock);
    GSubprocess *vm = g_hash_table_lookup(vms, name);
    g_mutex_unlock(&vms_lock);
    g_assert_nonnull(vm);
    return vm;
}

static pid_t
pid_of(const char *name)
{
    return GPOINTER_TO_INT(g_object_get_data(G_OBJECT(vm_of(name)), "pid")); /* also after its end */
}

static void
do_vm(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    char line[16] = "";
    GSubprocess *vm =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE, &error, self, "--vm", NULL);
    g_assert_no_error(error);
    g_input_stream_read(g_subprocess_get_stdout_pipe(vm), line, 5, NULL, NULL);
    g_object_set_data(G_OBJECT(vm), "pid", GINT_TO_POINTER(atoi(g_subprocess_get_identifier(vm))));
    g_mutex_lock(&vms_lock);
    g_hash_table_replace(vms, g_strdup(words[0]), vm);
    g_mutex_unlock(&vms_lock);
    say(id, strcmp(line, "ready") == 0 ? "ok %s" : "error %s", g_subprocess_get_identifier(vm));
}

/* A path stands for the lease of that volume; SPACE:NAME:FILE:OFFSET for itself. */
static VlSanlockRef *
ref_of(const char *word)
{
    g_auto(GStrv) words = g_strsplit(word, ":", 4);
    if (word[0] == '/')
        return vl_sanlock_ref_of_path(&conf, word);
    g_assert_cmpuint(g_strv_length(words), ==, 4);
    VlSanlockRef *ref = g_new0(VlSanlockRef, 1);
    *ref = (VlSanlockRef){g_strdup(words[0]), g_strdup(words[1]), g_strdup(words[2]),
                          g_ascii_strtoull(words[3], NULL, 10)};
    return ref;
}

/* NAME PATH SECONDS WAIT_SECONDS [shared|LVER] */
static void
do_take(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    VlSanlockRef *ref = ref_of(words[1]);
    g_autofree char *what = g_strdup_printf("file:%s", words[1]);
    VlCall call = {.deadline = vl_deadline_in(atof(words[2]))};
    gboolean shared = g_strcmp0(words[4], "shared") == 0;
    VlSanlockWant want = {.pid = pid_of(words[0]),
                          .ref = ref,
                          .what = what,
                          .shared = shared,
                          .lver = words[4] && !shared ? atoi(words[4]) : 0,
                          .wait_until = vl_deadline_in(atof(words[3]))};
    gint64 began = g_get_monotonic_time();
    gboolean ok = vl_sanlock_lease_acquire(space, &want, &call, &error);
    gint64 ms = (g_get_monotonic_time() - began) / 1000;
    if (ok)
        say(id, "ok %d", (int)ms);
    else
        say(id, "error %s %d %s", vl_error_name(vl_error_code(error)), (int)ms, error->message);
    vl_sanlock_ref_free(ref);
}

static void
do_drop(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    VlSanlockRef *ref = ref_of(words[1]);
    if (vl_sanlock_lease_release(space, pid_of(words[0]), ref, words[1], vl_deadline_in(10), &error))
        say(id, "ok");
    else
        say(id, "error %s 0 %s", vl_error_name(vl_error_code(error)), error->message);
    vl_sanlock_ref_free(ref);
}

/* NAME PATH: the lver, or none */
static void
do_held(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    VlSanlockRef *ref = ref_of(words[1]);
    g_autoptr(GHashTable) held = vl_sanlock_lease_inquire(pid_of(words[0]), words[1], vl_deadline_in(10), &error);
    gint64 lver = held ? vl_sanlock_lease_lver(held, ref) : -1;
    if (!held)
        say(id, "error %s 0 %s", vl_error_name(vl_error_code(error)), error->message);
    else if (lver >= 0)
        say(id, "ok %d", (int)lver);
    else
        say(id, "ok none");
    vl_sanlock_ref_free(ref);
}

static void
do_owner(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    guint64 host = 0;
    VlSanlockRef *ref = ref_of(words[0]);
    g_autofree char *text = vl_sanlock_lease_owner(space, ref, vl_deadline_in(10), &host, NULL, &error);
    if (error)
        say(id, "error %s 0 %s", vl_error_name(vl_error_code(error)), error->message);
    else
        say(id, "ok %d %s", (int)host, text ? text : "");
    vl_sanlock_ref_free(ref);
}

/* NAME: makes the lease file, or the lockspace */
static void
do_make(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    gboolean made = FALSE;
    if (vl_sanlock_file_make(&conf, words[0], vl_deadline_in(20), &made, &error))
        say(id, "ok %s", made ? "made" : "there");
    else
        say(id, "error %s 0 %s", vl_error_name(vl_error_code(error)), error->message);
}

static void
do_kill(const char *id, char **words)
{
    g_subprocess_send_signal(vm_of(words[0]), SIGKILL);
    g_subprocess_wait(vm_of(words[0]), NULL, NULL);
    say(id, "ok");
}

static void
do_alive(const char *id, char **words)
{
    say(id, "ok %s", g_subprocess_get_identifier(vm_of(words[0])) ? "yes" : "no");
}

static void
lost(const char *reason, gpointer opaque)
{
    g_atomic_int_inc(&losses);
    g_usleep(300 * 1000); /* pausing VMs takes a while */
}

static void
do_start(const char *id, char **words)
{
    space = vl_sanlock_space_new(&conf, lost, NULL);
    vl_sanlock_space_start(space);
    say(id, "ok");
}

static void
do_wait(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    VlCall call = {.deadline = vl_deadline_in(atof(words[0]))};
    if (vl_sanlock_space_wait(space, &call, "test", &error))
        say(id, "ok");
    else
        say(id, "error %s 0 %s", vl_error_name(vl_error_code(error)), error->message);
}

static void
do_status(const char *id, char **words)
{
    VlSpaceStatus status;
    vl_sanlock_space_status(space, &status);
    say(id, "ok %s; %s; hosts %u; losses %d; hung %u; watchdog %s", vl_sanlock_space_state_name(status.state),
        status.reason, status.hosts, g_atomic_int_get(&losses), vl_sanlock_hung(),
        !status.watchdog_known ? "unknown"
        : status.watchdog      ? "yes"
                               : "no");
    g_free(status.reason);
}

/* [--dry-run] [FILE...]: virtleasectl's answer */
static void
do_clean(const char *id, char **words)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    g_autoptr(JsonBuilder) out = json_builder_new();
    VlCall call = {.deadline = vl_deadline_in(30)};
    for (guint i = 0; words[i]; i++)
        g_ptr_array_add(args, words[i]);
    json_builder_begin_object(out);
    gboolean ok = vl_sanlock_clean(space, args, &call, out, &error);
    json_builder_end_object(out);
    g_autoptr(JsonNode) root = json_builder_get_root(out);
    g_autofree char *text = json_to_string(root, FALSE);
    if (ok)
        say(id, "ok %s", text);
    else
        say(id, "error %s 0 %s", vl_error_name(vl_error_code(error)), error->message);
}

static const struct {
    const char *verb;
    void (*func)(const char *id, char **words);
} verbs[] = {
    {"start", do_start}, {"wait", do_wait},   {"status", do_status}, {"vm", do_vm},
    {"take", do_take},   {"drop", do_drop},   {"held", do_held},     {"kill", do_kill},
    {"alive", do_alive}, {"owner", do_owner}, {"make", do_make},     {"clean", do_clean},
};

static void
run_line(gpointer data, gpointer unused)
{
    g_autofree char *line = data;
    g_auto(GStrv) words = g_strsplit(line, " ", -1);
    for (guint i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (g_strcmp0(words[1], verbs[i].verb) == 0)
            verbs[i].func(words[0], words + 2);
    }
}

int
main(int argc, char **argv)
{
    char line[4096];
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && strcmp(argv[1], "--vm") == 0)
        return be_vm();
    g_assert_cmpint(argc, ==, 6);
    self = argv[0];
    conf.lease_dir = argv[1];
    conf.host_id = (guint)atoi(argv[2]);
    conf.io_timeout = (guint)atoi(argv[3]);
    conf.num_hosts = (guint)atoi(argv[4]);
    conf.host_name = argv[5];
    conf.user = g_getenv("SANLOCK_TEST_USER");
    conf.space = g_getenv("SANLOCK_TEST_SPACE");
    if (g_getenv("SANLOCK_TEST_SECTOR"))
        conf.sector_size = (guint)atoi(g_getenv("SANLOCK_TEST_SECTOR"));
    if (g_getenv("SANLOCK_TEST_NUM_HOSTS"))
        conf.num_hosts = (guint)atoi(g_getenv("SANLOCK_TEST_NUM_HOSTS"));
    vms = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_object_unref);
    GThreadPool *pool = g_thread_pool_new(run_line, NULL, 64, FALSE, NULL);
    while (fgets(line, sizeof(line), stdin))
        g_thread_pool_push(pool, g_strdup(g_strchomp(line)), NULL);
    g_thread_pool_free(pool, FALSE, TRUE);
    vl_sanlock_space_free(space);
    g_hash_table_unref(vms); /* their stdin ends with us */
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/world.h"

#include <glib/gstdio.h>
#include <string.h>

#include "lockd/error.h"

#define BEAT_US    (2500 * 1000)
#define BEGIN_US   (1000 * G_USEC_PER_SEC)
#define DEAD_AFTER 10

typedef struct {
    gint64 when;
    void (*func)(World *world, gpointer opaque);
    gpointer opaque;
} Event;

/* ---- time ---- */

static gint64
clock_now(gpointer opaque)
{
    World *world = opaque;
    g_rec_mutex_lock(&world->lock);
    gint64 now = world->now;
    g_rec_mutex_unlock(&world->lock);
    return now;
}

/* What happens first, at `when` or earlier. */
static gboolean
step(World *world, gint64 when)
{
    WorldHost *first = NULL;
    Event *event = NULL;
    gint64 at = when + 1;
    for (guint i = 0; i < world->hosts->len; i++) {
        WorldHost *host = world->hosts->pdata[i];
        if (host->beating && host->next_beat < at) {
            at = host->next_beat;
            first = host;
        }
    }
    for (guint i = 0; i < world->events->len; i++) {
        Event *candidate = world->events->pdata[i];
        if (candidate->when < at) {
            at = candidate->when;
            event = candidate;
        }
    }
    if (at > when)
        return FALSE;
    world->now = MAX(world->now, at);
    if (event) {
        Event due = *event;
        g_ptr_array_remove(world->events, event);
        due.func(world, due.opaque);
    } else {
        first->next_beat += BEAT_US;
        fake_host_beat(world->store, first->place, first->id);
    }
    return TRUE;
}

static void
run_until(World *world, gint64 when)
{
    g_rec_mutex_lock(&world->lock);
    while (step(world, when))
        ;
    world->now = MAX(world->now, when);
    g_rec_mutex_unlock(&world->lock);
}

static void
clock_sleep_until(gint64 when, gpointer opaque)
{
    World *world = opaque;
    g_mutex_lock(&world->freeze_lock);
    if (world->freeze_at && when > world->freeze_at) {
        run_until(world, world->freeze_at);
        while (world->freeze_at)
            g_cond_wait(&world->thawed, &world->freeze_lock);
    }
    g_mutex_unlock(&world->freeze_lock);
    run_until(world, when);
    g_thread_yield();
}

static void
clock_pass(gint64 us, gpointer opaque)
{
    clock_sleep_until(clock_now(opaque) + us, opaque);
}

double
world_seconds(World *world)
{
    return (double)(clock_now(world) - BEGIN_US) / G_USEC_PER_SEC;
}

void
world_pass(World *world, double seconds)
{
    clock_pass((gint64)(seconds * G_USEC_PER_SEC), world);
}

void
world_at(World *world, double seconds, void (*func)(World *world, gpointer opaque), gpointer opaque)
{
    Event *event = g_new0(Event, 1);
    g_rec_mutex_lock(&world->lock);
    *event = (Event){world->now + (gint64)(seconds * G_USEC_PER_SEC), func, opaque};
    g_ptr_array_add(world->events, event);
    g_rec_mutex_unlock(&world->lock);
}

void
world_freeze(World *world, double seconds)
{
    g_mutex_lock(&world->freeze_lock);
    world->freeze_at = clock_now(world) + (gint64)(seconds * G_USEC_PER_SEC);
    g_mutex_unlock(&world->freeze_lock);
}

void
world_thaw(World *world)
{
    g_mutex_lock(&world->freeze_lock);
    world->freeze_at = 0;
    g_cond_broadcast(&world->thawed);
    g_mutex_unlock(&world->freeze_lock);
}

void
world_wait(World *world, gboolean (*func)(World *world, gpointer opaque), gpointer opaque)
{
    gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
    while (!func(world, opaque)) {
        if (g_get_monotonic_time() > end)
            g_error("waited in vain; the store's log:\n%s\nthe daemon's:\n%s", fake_log(world->store), world->log->str);
        g_usleep(1000);
    }
}

/* ---- the daemon ---- */

static gboolean
on_healthy(gpointer opaque)
{
    return TRUE;
}

static GBytes *
on_challenge(VlPlace *place, GBytes *payload, gpointer opaque)
{
    World *world = opaque;
    VlQuestion question;
    if (!vl_question_parse(payload, &question))
        return NULL;
    GBytes *answer = vl_answer_format(&question, world->daemon->host->id, 1, VL_ANSWER_ALIVE);
    vl_question_clear(&question);
    return answer;
}

static void
on_recheck(VlPlace *place, gpointer opaque)
{
    g_atomic_int_inc((gint *)&((World *)opaque)->rechecks);
}

static void
on_earlier_boot(VlPlace *place, gpointer opaque)
{
    g_atomic_int_inc((gint *)&((World *)opaque)->earlier_boots);
}

static gboolean
on_own_boot(const char *boot, gpointer opaque)
{
    return vl_journal_knows_boot(((World *)opaque)->daemon->journal, boot);
}

static VlHost *
host_a(void)
{
    VlHost *host = g_new0(VlHost, 1);
    host->id = g_strdup("host-a");
    host->machine = g_strdup("machine-a");
    host->name = g_strdup("node-a");
    host->boot = g_strdup("boot-a");
    host->ips = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_hash_table_add(host->ips, g_strdup("10.0.0.1"));
    return host;
}

static VlSettings *
settings_of(const char *dir)
{
    VlSettings *settings = g_new0(VlSettings, 1);
    settings->state_dir = g_strdup(dir);
    settings->run_root = g_strdup(dir);
    settings->op_timeout = 5;
    settings->dead_after = DEAD_AFTER;
    settings->takeover_wait = DEAD_AFTER + 10;
    settings->foreign_wait = 3;
    settings->blocklist_expire = 30 * 24 * 3600;
    settings->restart_grace = 120;
    settings->audit_interval = 30;
    settings->on_lease_lost = VL_LOST_LOG;
    return settings;
}

/* lockd warns about what tests make go wrong; only CRITICAL ends a test. */
static gboolean
log_fatal(const char *domain, GLogLevelFlags level, const char *message, gpointer opaque)
{
    return (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) != 0;
}

static void
log_keep(const char *domain, GLogLevelFlags level, const char *message, gpointer opaque)
{
    World *world = opaque;
    g_rec_mutex_lock(&world->lock);
    g_string_append_printf(world->log, "%s\n", message);
    g_rec_mutex_unlock(&world->lock);
    if ((level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) || g_getenv("G_MESSAGES_DEBUG"))
        g_log_default_handler(domain, level, message, NULL);
}

static void
world_free_host(gpointer data)
{
    WorldHost *host = data;
    g_free(host->id);
    g_free(host->name);
    g_free(host->boot);
    g_free(host->ip);
    g_free(host);
}

static void
daemon_open(World *world, gboolean threads)
{
    VlSessionEvents events = {on_healthy, on_challenge, on_recheck, on_earlier_boot, on_own_boot, world};
    g_autoptr(GError) error = NULL;
    guint64 number;
    world->daemon = vl_daemon_new();
    world->daemon->settings = settings_of(world->dir);
    world->daemon->host = host_a();
    world->daemon->journal = vl_journal_open(world->dir, "boot-a", &error);
    g_assert_no_error(error);
    world->daemon->store = fake_store_base(world->store);
    world->daemon->vms = vl_vms_new();
    world->daemon->verdicts = vl_verdicts_new(DEAD_AFTER, threads);
    world->daemon->sessions = vl_sessions_new(world->daemon->host, DEAD_AFTER, &events);
    world->daemon->ready = 1;
    VlCall call = {.deadline = vl_deadline_in(10)};
    g_assert_true(vl_sessions_ensure(world->daemon->sessions, world->place, &call, &number, NULL));
}

World *
world_new(gboolean threads)
{
    World *world = g_new0(World, 1);
    VlClock clock = {clock_now, clock_sleep_until, world};
    g_rec_mutex_init(&world->lock);
    g_mutex_init(&world->freeze_lock);
    g_cond_init(&world->thawed);
    world->now = BEGIN_US;
    world->log = g_string_new(NULL);
    world->hosts = g_ptr_array_new_with_free_func(world_free_host);
    world->events = g_ptr_array_new_with_free_func(g_free);
    world->vms = g_ptr_array_new_with_free_func((GDestroyNotify)vl_vm_unref);
    world->dir = g_dir_make_tmp("virtlease-unit-XXXXXX", NULL);
    g_assert_nonnull(world->dir);
    g_test_log_set_fatal_handler(log_fatal, NULL);
    g_log_set_default_handler(log_keep, world);
    vl_clock_replace(&clock);
    world->store = fake_store_new();
    fake_set_sleep(world->store, clock_pass, world);
    world->place = fake_place(world->store, "rbd");
    daemon_open(world, threads);
    fake_counts_reset(world->store);
    return world;
}

static void
remove_tree(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *below = g_build_filename(path, name, NULL);
        remove_tree(below);
    }
    (void)g_remove(path);
}

void
world_finish_jobs(World *world)
{
    GThreadPool *jobs = g_steal_pointer(&world->daemon->jobs);
    if (jobs)
        g_thread_pool_free(jobs, FALSE, TRUE);
}

void
world_free(World *world)
{
    VlDaemon *daemon = world->daemon;
    world_thaw(world);
    fake_hook(world->store, NULL, NULL);
    g_atomic_int_set(&daemon->stopping, 1);
    world_finish_jobs(world);
    if (daemon->sessions) {
        vl_sessions_stop(daemon->sessions, FALSE, 0);
        vl_sessions_free(daemon->sessions);
    }
    g_ptr_array_unref(world->vms);
    vl_vms_free(daemon->vms);
    vl_verdicts_free(daemon->verdicts);
    vl_journal_close(daemon->journal);
    vl_host_free(daemon->host);
    vl_settings_free(daemon->settings);
    g_hash_table_unref(daemon->claims);
    g_mutex_clear(&daemon->claims_lock);
    g_free(daemon);
    fake_store_free(world->store);
    vl_clock_replace(NULL);
    g_log_set_default_handler(g_log_default_handler, NULL);
    remove_tree(world->dir);
    g_free(world->dir);
    g_ptr_array_unref(world->hosts);
    g_ptr_array_unref(world->events);
    g_string_free(world->log, TRUE);
    g_rec_mutex_clear(&world->lock);
    g_mutex_clear(&world->freeze_lock);
    g_cond_clear(&world->thawed);
    g_free(world);
}

/* ---- other hosts ---- */

static GBytes *
host_answers(VlPlace *place, const char *id, GBytes *payload, gpointer opaque)
{
    WorldHost *host = opaque;
    VlQuestion question;
    g_atomic_int_inc((gint *)&host->asked);
    if (host->answer == VL_ANSWER_NONE)
        return NULL;
    g_assert_true(vl_question_parse(payload, &question));
    GBytes *answer = vl_answer_format(&question, host->id, host->session, host->answer);
    vl_question_clear(&question);
    return answer;
}

VlIdentity *
world_identity(const WorldHost *host)
{
    VlIdentity *identity = vl_identity_new();
    identity->host = g_strdup(host->id);
    identity->machine = g_strconcat("machine-", host->id + strlen("host-"), NULL);
    identity->name = g_strdup(host->name);
    identity->boot = g_strdup(host->boot);
    identity->session = host->session;
    identity->nonce = g_strdup("nonce");
    identity->dead_after = DEAD_AFTER;
    vl_addrs_add(identity->ips, host->ip);
    return identity;
}

WorldHost *
world_host(World *world, const char *letter, VlPlace *place)
{
    WorldHost *host = g_new0(WorldHost, 1);
    host->world = world;
    host->place = place ? place : world->place;
    host->id = g_strconcat("host-", letter, NULL);
    host->name = g_strconcat("node-", letter, NULL);
    host->boot = g_strconcat("boot-", letter, NULL);
    host->ip = g_strdup_printf("10.0.0.%d", letter[0]);
    host->session = 100;
    g_autoptr(VlIdentity) identity = world_identity(host);
    fake_host_put(world->store, host->place, identity);
    world_host_wake(host);
    g_rec_mutex_lock(&world->lock);
    g_ptr_array_add(world->hosts, host);
    g_rec_mutex_unlock(&world->lock);
    return host;
}

void
world_host_die(WorldHost *host)
{
    g_rec_mutex_lock(&host->world->lock);
    host->beating = FALSE;
    host->answer = VL_ANSWER_NONE;
    g_rec_mutex_unlock(&host->world->lock);
}

void
world_host_wake(WorldHost *host)
{
    g_rec_mutex_lock(&host->world->lock);
    host->beating = TRUE;
    host->answer = VL_ANSWER_MINE;
    host->next_beat = host->world->now;
    g_rec_mutex_unlock(&host->world->lock);
    fake_host_answer(host->world->store, host->place, host->id, host_answers, host);
}

VlHolder *
world_holder(const WorldHost *host, const char *vm, gboolean held, ...)
{
    VlHolder *holder = vl_holder_new();
    va_list args;
    holder->who.host = g_strdup(host->id);
    holder->who.boot = g_strdup(host->boot);
    holder->who.uuid = g_strconcat("uuid-", vm, NULL);
    holder->who.pid = 4711;
    holder->who.start = 1000;
    holder->machine = g_strdup("machine");
    holder->host_name = g_strdup(host->name);
    holder->session = host->session;
    holder->vm = g_strdup(vm);
    holder->held = held;
    holder->token = g_strdup("token");
    holder->since = 1790000000;
    va_start(args, held);
    for (const char *addr = va_arg(args, const char *); addr; addr = va_arg(args, const char *))
        vl_addrs_add(holder->addrs, addr);
    va_end(args);
    return holder;
}

VlRecord *
world_record(VlHolder *first, ...)
{
    VlRecord *record = vl_record_new();
    va_list args;
    record->epoch = 7;
    va_start(args, first);
    for (VlHolder *holder = first; holder; holder = va_arg(args, VlHolder *))
        g_ptr_array_add(record->holders, holder);
    va_end(args);
    return record;
}

void
world_claim(VlRecord *record, const WorldHost *host, const char *vm, const char *addr)
{
    record->claim = g_new0(VlClaim, 1);
    record->claim->id = g_strdup("claim-id");
    record->claim->host = g_strdup(host->id);
    record->claim->host_name = g_strdup(host->name);
    record->claim->session = host->session;
    record->claim->uuid = g_strconcat("uuid-", vm, NULL);
    record->claim->vm = g_strdup(vm);
    record->claim->epoch = record->epoch + 1;
    record->claim->addrs = vl_addrs_new();
    record->claim->since = 1790000001;
    if (addr)
        vl_addrs_add(record->claim->addrs, addr);
}

/* ---- ours ---- */

VlVm *
world_vm(World *world, const char *name, gint64 pid, ...)
{
    VlDaemon *daemon = world->daemon;
    g_autofree char *uuid = g_strconcat("uuid-", name, NULL);
    VlIncarnation who = {daemon->host->id, daemon->host->boot, uuid, pid ? pid : G_MAXINT32 - 1, 5};
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD, .pool = (char *)"rbd"};
    VlVm *vm = vl_vm_new(daemon->vms, &who, name, "qemu:///system", 0, -1);
    VlVm *other = NULL;
    va_list args;
    va_start(args, pid);
    for (const char *volume = va_arg(args, const char *); volume; volume = va_arg(args, const char *)) {
        g_autoptr(VlVolume) resolved = fake_volume(world->store, world->place, volume);
        spec.image = (char *)volume;
        vl_vm_add_lease(vm, vl_lease_new(vm, resolved, &spec, "vda", FALSE));
    }
    va_end(args);
    if (!vl_vms_add(daemon->vms, vm, &other))
        g_error("VM %s twice", name);
    g_ptr_array_add(world->vms, vm);
    return vm;
}

VlLease *
world_lease(VlVm *vm, const char *volume)
{
    for (guint i = 0; i < vm->leases->len; i++)
        if (g_str_equal(((VlLease *)vm->leases->pdata[i])->volume->display, volume))
            return vm->leases->pdata[i];
    g_error("VM %s has no lease on %s", vm->name, volume);
}

gboolean
world_take(World *world, VlVm *vm, guint wait_s, double seconds, GError **error)
{
    VlCall call = {.deadline = vl_deadline_in(seconds), .gone = &vm->exited};
    g_mutex_lock(&vm->op);
    gboolean ok = vl_take_all(world->daemon, vm, vm->leases, wait_s, &call, error);
    g_mutex_unlock(&vm->op);
    return ok;
}

void
world_assert_lease(VlVm *vm, const char *volume, VlLeaseState state)
{
    g_assert_cmpstr(vl_lease_state_name(world_lease(vm, volume)->state), ==, vl_lease_state_name(state));
}

gboolean
world_logged(World *world, const char *pattern)
{
    g_rec_mutex_lock(&world->lock);
    g_auto(GStrv) lines = g_strsplit(world->log->str, "\n", -1);
    g_rec_mutex_unlock(&world->lock);
    for (char **line = lines; *line; line++)
        if (g_pattern_match_simple(pattern, *line))
            return TRUE;
    return FALSE;
}

void
world_assert_error(const GError *error, enum vl_error code, const char *pattern)
{
    if (!error)
        g_error("no error, wanted %s", vl_error_name(code));
    if (vl_error_code(error) != code || !g_pattern_match_simple(pattern, error->message))
        g_error("got %s '%s', wanted %s like '%s'", vl_error_name(vl_error_code(error)), error->message,
                vl_error_name(code), pattern);
}

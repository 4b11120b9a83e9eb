/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_space.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/sanlock_call.h"
#include "lockd/sanlock_file.h"
#include "lockd/sanlock_hosts.h"
#include "lockd/sanlock_space_call.h"
#include "lockd/sanlock_words.h"

#define TICK_MS          500
#define NAMES_TICKS      60 /* how often the hosts' names are read; more often just after joining */
#define RETRY_FIRST_MS   1000
#define RETRY_MAX_MS     30000
#define HEALTH_TIMEOUT_S 5.0
#define NAMES_TIMEOUT_S  0.3
#define FORMAT_TIMEOUT_S 60.0
#define FORMATTING_S     10 /* how long a half-made lockspace file may be somebody's at work on it */

struct VlSanlockSpace {
    const VlSanlockConf *conf;
    VlSpaceLostFunc lost;
    gpointer opaque;
    GThread *thread;
    int wake[2]; /* a pipe: the thread is to end */
    VlSanlockHosts *hosts;
    gint stopping;
    /* Only the thread: */
    int monitor;  /* a connection that ends with the daemon */
    gint64 began; /* of the present attempt to join */
    guint pause_ms;
    char *refused; /* why the last attempt failed; NULL: it did not, or there was none */
    guint ticks;
    gboolean was_joined; /* VMs may have leases: not to be in it is a loss. At first as well: VMs outlive us */
    gboolean ever_joined;
    /* Guarded by lock: */
    GMutex lock;
    GCond cond;
    VlSpaceState state;
    gint64 since;
    char *reason;
    gboolean stuck; /* on its way to be joined, but something is wrong: a start does not wait for that */
    gboolean watchdog, watchdog_known;
};

static const char *const state_names[VL_SPACE_STATE_COUNT] = {
    [VL_SPACE_OFF] = "off",         [VL_SPACE_DOWN] = "sanlock down", [VL_SPACE_FORMATTING] = "formatting",
    [VL_SPACE_JOINING] = "joining", [VL_SPACE_JOINED] = "joined",     [VL_SPACE_FAILING] = "failing",
    [VL_SPACE_LOST] = "lost",
};

const char *
vl_sanlock_space_state_name(VlSpaceState state)
{
    return (guint)state < VL_SPACE_STATE_COUNT ? state_names[state] : "?";
}

const VlSanlockConf *
vl_sanlock_space_conf(VlSanlockSpace *space)
{
    return space->conf;
}

/* The one function through which the state changes. The same state with another reason is news too. */
static void
set_state(VlSanlockSpace *space, VlSpaceState state, const char *reason)
{
    g_mutex_lock(&space->lock);
    VlSpaceState was = space->state;
    gboolean news = was != state || g_strcmp0(space->reason, reason) != 0;
    if (was != state) {
        space->since = vl_clock_now();
        space->stuck = FALSE;
    }
    space->state = state;
    if (news) {
        g_free(space->reason);
        space->reason = g_strdup(reason);
    }
    g_cond_broadcast(&space->cond);
    g_mutex_unlock(&space->lock);
    if (!news)
        return;
    gboolean good = state == VL_SPACE_JOINED || state == VL_SPACE_FORMATTING || state == VL_SPACE_JOINING;
    g_log(G_LOG_DOMAIN, good && was != state ? G_LOG_LEVEL_MESSAGE : G_LOG_LEVEL_WARNING,
          "sanlock lockspace " VL_SANLOCK_SPACE ": %s -> %s: %s", state_names[was], state_names[state], reason);
}

static void
set_stuck(VlSanlockSpace *space, gboolean stuck)
{
    g_mutex_lock(&space->lock);
    space->stuck = stuck;
    g_cond_broadcast(&space->cond);
    g_mutex_unlock(&space->lock);
}

static VlSpaceState
get_state(VlSanlockSpace *space)
{
    g_mutex_lock(&space->lock);
    VlSpaceState state = space->state;
    g_mutex_unlock(&space->lock);
    return state;
}

gboolean
vl_sanlock_space_host(VlSanlockSpace *space, guint64 host_id, VlSpaceHost *ret)
{
    return vl_sanlock_hosts_get(space->hosts, host_id, ret);
}

/* ---- steps of the thread; each returns how long to wait before the next, in ms ---- */

static void
monitor_close(VlSanlockSpace *space)
{
    if (space->monitor >= 0)
        close(space->monitor);
    space->monitor = -1;
}

static guint
pause_grow(VlSanlockSpace *space)
{
    guint pause = space->pause_ms;
    set_stuck(space, TRUE);
    space->pause_ms = MIN(pause * 2, RETRY_MAX_MS);
    return pause;
}

/* VMs first, only then anything that could make others think our leases free. */
static void
lose(VlSanlockSpace *space, const char *reason)
{
    gboolean had = space->was_joined;
    space->was_joined = FALSE;
    if (space->ever_joined) /* else it is just the first look after a start of ours */
        set_state(space, VL_SPACE_LOST, reason);
    vl_sanlock_hosts_forget(space->hosts);
    if (had && space->lost)
        space->lost(reason, space->opaque);
    space->pause_ms = RETRY_FIRST_MS;
}

static guint
step_connect(VlSanlockSpace *space)
{
    gboolean watchdog, known;
    space->monitor = vl_sanlock_connect();
    if (space->monitor < 0) {
        g_autofree char *reason =
            g_strdup_printf("the sanlock daemon cannot be reached at %s (%s)", vl_sanlock_socket(), g_strerror(errno));
        set_state(space, VL_SPACE_DOWN, reason);
        return TICK_MS;
    }
    vl_space_call_watchdog(&watchdog, &known);
    g_mutex_lock(&space->lock);
    space->watchdog = watchdog;
    space->watchdog_known = known;
    g_mutex_unlock(&space->lock);
    if (known && !watchdog)
        g_warning("sanlock runs without a watchdog: a host that hangs but is not dead can still write to its disks "
                  "when others take them over after %d s",
                  VL_SANLOCK_DEAD_S(space->conf->io_timeout));
    space->began = vl_clock_now();
    set_state(space, VL_SPACE_FORMATTING, "the sanlock daemon answers");
    return 0;
}

/* Is there a lockspace in the file? A short or unformatted one may be in the making: libvirt's own
 * plugin and people create the file before they format it. */
static guint
step_format(VlSanlockSpace *space)
{
    g_autoptr(GError) error = NULL;
    int rc;
    if (!vl_space_call_read(space->conf, vl_deadline_in(HEALTH_TIMEOUT_S), &rc, &error)) {
        set_state(space, VL_SPACE_FORMATTING, error->message);
        return pause_grow(space);
    }
    if (rc == 0) {
        /* The next attempt may take sanlock a minute and more: meanwhile the last one is what is known. */
        g_autofree char *reason =
            g_strconcat("the lockspace is there", space->refused ? "; last time: " : NULL, space->refused, NULL);
        set_state(space, VL_SPACE_JOINING, reason);
        return 0;
    }
    if (rc == -ENOENT && !space->conf->space) {
        gboolean made = FALSE;
        gint64 deadline = vl_deadline_in(FORMAT_TIMEOUT_S);
        if (vl_sanlock_file_make(space->conf, VL_SANLOCK_SPACE, deadline, &made, &error)) {
            set_state(space, VL_SPACE_JOINING, made ? "formatted a new lockspace" : "another host formatted it");
            return 0;
        }
        set_state(space, VL_SPACE_FORMATTING, error->message);
        return pause_grow(space);
    }
    g_autofree char *file = vl_space_call_path(space->conf);
    vl_sanlock_error(&error, VL_SANLOCK_READ, rc, file, NULL);
    gboolean perhaps_soon =
        error->code == VL_ERR_RECORD && vl_clock_now() < space->began + FORMATTING_S * G_USEC_PER_SEC;
    g_autofree char *reason =
        g_strdup_printf("%s. %s", error->message,
                        perhaps_soon                   ? "Waiting for whoever is formatting it"
                        : error->code == VL_ERR_RECORD ? "It is left as it is: if nobody uses it, remove it"
                                                       : "Trying again");
    set_state(space, VL_SPACE_FORMATTING, reason);
    return perhaps_soon ? TICK_MS : pause_grow(space);
}

static void
joined(VlSanlockSpace *space)
{
    space->was_joined = space->ever_joined = TRUE;
    g_clear_pointer(&space->refused, g_free);
    space->ticks = 0;
    space->pause_ms = RETRY_FIRST_MS;
    vl_space_call_publish_name(space->conf);
    g_autofree char *reason = g_strdup_printf("as host %u", space->conf->host_id);
    set_state(space, VL_SPACE_JOINED, reason);
}

static guint
step_join(VlSanlockSpace *space)
{
    g_autoptr(GError) error = NULL;
    int rc;
    if (!vl_space_call_inquire(space->conf, vl_deadline_in(HEALTH_TIMEOUT_S), &rc, &error)) {
        set_state(space, VL_SPACE_JOINING, error->message);
        return pause_grow(space);
    }
    if (rc == 0) {
        joined(space);
        return 0;
    }
    if (rc == -EINPROGRESS)
        return TICK_MS;
    if (space->was_joined) {
        lose(space, "this host is not in the lockspace");
        if (space->ever_joined)
            set_state(space, VL_SPACE_JOINING, "joining again");
        return 0;
    }
    /* Waits for its end, unlike ASYNC: only so is the reason of a failure known. */
    double timeout = VL_SANLOCK_DEAD_S(space->conf->io_timeout) + 10 * space->conf->io_timeout;
    if (!vl_space_call_add(space->conf, vl_deadline_in(timeout), &rc, &error)) {
        set_state(space, VL_SPACE_JOINING, error->message);
        return pause_grow(space);
    }
    if (rc == 0 || rc == -EEXIST || rc == -EINPROGRESS)
        return 0; /* asked again, above */
    g_autofree char *file = vl_space_call_path(space->conf);
    g_autofree char *what = g_strdup_printf("joining %s as host %u", file, space->conf->host_id);
    vl_sanlock_error(&error, VL_SANLOCK_JOIN, rc, what, NULL);
    g_free(space->refused);
    space->refused = g_strdup(error->message);
    set_state(space, VL_SPACE_FORMATTING, error->message); /* perhaps it has been formatted anew */
    return pause_grow(space);
}

/* Our own record is renewed by the daemon every 2 I/O timeouts, if storage lets it. */
static void
judge_renewal(VlSanlockSpace *space)
{
    VlSpaceHost own;
    if (!vl_sanlock_space_host(space, space->conf->host_id, &own))
        return;
    double silent = (double)(vl_clock_now() - own.changed) / G_USEC_PER_SEC;
    guint limit = VL_SANLOCK_FAIL_S(space->conf->io_timeout);
    VlSpaceState state = get_state(space);
    if (silent < 6 * space->conf->io_timeout + 1) {
        if (state == VL_SPACE_FAILING)
            set_state(space, VL_SPACE_JOINED, "renewals go on");
    } else if (state == VL_SPACE_JOINED) {
        g_autofree char *reason = g_strdup_printf(
            "no renewal for %.0f s: its storage does not answer; after %u s sanlock stops the VMs", silent, limit);
        set_state(space, VL_SPACE_FAILING, reason);
    }
}

static guint
step_watch(VlSanlockSpace *space)
{
    g_autoptr(GError) error = NULL;
    VlSpaceSeen *seen = NULL;
    guint n = 0;
    int rc;
    gboolean with_names = space->ticks % (space->ticks < 2 * NAMES_TICKS ? 4 : NAMES_TICKS) == 0;
    space->ticks++;
    if (!vl_space_call_hosts(space->conf, vl_deadline_in(HEALTH_TIMEOUT_S), &rc, &seen, &n, &error)) {
        set_state(space, VL_SPACE_FAILING, error->message); /* hung or stopped: only the renewals count */
        judge_renewal(space);
        return TICK_MS;
    }
    if (rc == -ENOENT) {
        lose(space, "this host is no longer in the lockspace");
        space->began = vl_clock_now();
        set_state(space, VL_SPACE_FORMATTING, "joining again");
        return 0;
    }
    if (rc == 0 && with_names)
        vl_space_call_names(space->conf, seen, n, vl_deadline_in(NAMES_TIMEOUT_S));
    if (rc == 0)
        vl_sanlock_hosts_note(space->hosts, seen, n);
    g_free(seen);
    judge_renewal(space);
    return TICK_MS;
}

static guint
step(VlSanlockSpace *space)
{
    switch (get_state(space)) {
    case VL_SPACE_OFF:
    case VL_SPACE_DOWN:
    case VL_SPACE_LOST:
        return step_connect(space);
    case VL_SPACE_FORMATTING:
        return step_format(space);
    case VL_SPACE_JOINING:
        return step_join(space);
    case VL_SPACE_JOINED:
    case VL_SPACE_FAILING:
        return step_watch(space);
    case VL_SPACE_STATE_COUNT:
        break;
    }
    return TICK_MS;
}

static gpointer
space_thread(gpointer data)
{
    VlSanlockSpace *space = data;
    while (!g_atomic_int_get(&space->stopping)) {
        guint pause = step(space);
        struct pollfd fds[] = {{.fd = space->wake[0], .events = POLLIN}, {.fd = space->monitor, .events = POLLIN}};
        (void)poll(fds, G_N_ELEMENTS(fds), (int)pause);
        if (space->monitor >= 0 && fds[1].revents) {
            monitor_close(space);
            lose(space, "the sanlock daemon went away");
        }
    }
    monitor_close(space);
    return NULL;
}

/* ---- for everybody else ---- */

VlSanlockSpace *
vl_sanlock_space_new(const VlSanlockConf *conf, VlSpaceLostFunc lost, gpointer opaque)
{
    VlSanlockSpace *space = g_new0(VlSanlockSpace, 1);
    space->conf = conf;
    space->lost = lost;
    space->opaque = opaque;
    space->monitor = -1;
    space->pause_ms = RETRY_FIRST_MS;
    space->was_joined = TRUE;
    space->reason = g_strdup("not started");
    g_mutex_init(&space->lock);
    g_cond_init(&space->cond);
    space->hosts = vl_sanlock_hosts_new();
    if (pipe2(space->wake, O_CLOEXEC) < 0)
        g_error("pipe: %s", g_strerror(errno));
    return space;
}

void
vl_sanlock_space_start(VlSanlockSpace *space)
{
    space->thread = g_thread_new("sanlock-space", space_thread, space);
}

void
vl_sanlock_space_free(VlSanlockSpace *space)
{
    if (!space)
        return;
    g_atomic_int_set(&space->stopping, 1);
    close(space->wake[1]);
    if (space->thread)
        g_thread_join(space->thread);
    close(space->wake[0]);
    vl_sanlock_hosts_free(space->hosts);
    g_free(space->reason);
    g_free(space->refused);
    g_mutex_clear(&space->lock);
    g_cond_clear(&space->cond);
    g_free(space);
}

/* With its lock. */
static gboolean
is_coming(const VlSanlockSpace *space)
{
    return (space->state == VL_SPACE_JOINING || space->state == VL_SPACE_FORMATTING) && !space->stuck;
}

gboolean
vl_sanlock_space_wait(VlSanlockSpace *space, const VlCall *call, const char *what, GError **error)
{
    gboolean ok = TRUE;
    g_mutex_lock(&space->lock);
    while (ok && is_coming(space)) {
        (void)g_cond_wait_until(&space->cond, &space->lock, g_get_monotonic_time() + TICK_MS * 1000);
        if (is_coming(space)) {
            g_mutex_unlock(&space->lock);
            ok = vl_call_check(call, what, NULL);
            g_mutex_lock(&space->lock);
        }
    }
    ok = space->state == VL_SPACE_JOINED;
    if (!ok)
        vl_set_error(error, VL_ERR_STORAGE, "%s: this host is not in the sanlock lockspace (%s): %s", what,
                     state_names[space->state], space->reason);
    g_mutex_unlock(&space->lock);
    return ok;
}

gboolean
vl_sanlock_space_is_down(VlSanlockSpace *space)
{
    VlSpaceState state = get_state(space);
    return state == VL_SPACE_DOWN || state == VL_SPACE_LOST;
}

void
vl_sanlock_space_status(VlSanlockSpace *space, VlSpaceStatus *ret)
{
    VlSpaceHost own;
    gint64 renewed = vl_sanlock_space_host(space, space->conf->host_id, &own) ? own.changed : 0;
    g_mutex_lock(&space->lock);
    *ret = (VlSpaceStatus){.state = space->state,
                           .since = space->since,
                           .reason = g_strdup(space->reason),
                           .watchdog = space->watchdog,
                           .watchdog_known = space->watchdog_known,
                           .renewed = renewed,
                           .hosts = vl_sanlock_hosts_alive(space->hosts)};
    g_mutex_unlock(&space->lock);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/verdict.h"

#include <string.h>

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/identity.h"

#define POLL_US            (G_USEC_PER_SEC / 2)
#define QUICK_US           G_USEC_PER_SEC       /* a slower read proves nothing about the owner */
#define GAP_US             (3 * G_USEC_PER_SEC) /* between two reads: more, and nobody knows what the storage did meanwhile */
#define STORAGE_PATIENCE_S 60                   /* a shared window gives up when storage stays away this long */
#define CHALLENGE_US       (VL_CHALLENGE_TIMEOUT_S * G_USEC_PER_SEC)

void
vl_verdict_clear(VlVerdict *verdict)
{
    g_clear_pointer(&verdict->ips, g_ptr_array_unref);
    vl_session_object_clear(&verdict->seen);
}

static void
object_copy(VlSessionObject *to, const VlSessionObject *from)
{
    vl_session_object_clear(to);
    *to = *from;
    if (to->identity)
        g_bytes_ref(to->identity);
}

static gboolean
object_equal(const VlSessionObject *a, const VlSessionObject *b)
{
    return a->present == b->present &&
           (!a->present || (a->counter == b->counter && g_bytes_equal(a->identity, b->identity)));
}

/* The longer of the owner's patience and ours, and its announced silence. */
static guint
window_seconds(const VlIdentity *identity, guint dead_after_s)
{
    return identity ? MAX(dead_after_s, identity->dead_after) + identity->grace : dead_after_s;
}

/* One quick read of a host's session; a slow answer is an error, for the window's sake. */
static gboolean
session_look(VlPlace *place, const char *host, const VlCall *call, VlSessionObject *ret, GError **error)
{
    gint64 began = vl_clock_now();
    if (!place->store->ops->session_read(place, host, ret, vl_call_within(call, 2), error))
        return FALSE;
    if (vl_clock_now() - began <= QUICK_US)
        return TRUE;
    vl_session_object_clear(ret);
    vl_set_error(error, VL_ERR_STORAGE, "%s answers too slowly to tell whether a host is alive", place->display);
    return FALSE;
}

/* ---- one window ---- */

typedef struct {
    VlPlace *place;
    const char *host;
    const VlAsk *ask;
    guint dead_after_s;
    const VlCall *call;
    VlSessionObject first; /* as read at the beginning */
    gint64 began;          /* when that read had been answered */
    gint64 read;           /* when the last one had */
    gint64 length;         /* microseconds */
    VlAnswer answer;
} Window;

typedef enum { WINDOW_GOES_ON, WINDOW_ALIVE, WINDOW_DEAD, WINDOW_AGAIN, WINDOW_FAILED } WindowStep;

static WindowStep
window_challenge(Window *window, GError **error)
{
    if (!vl_challenge(window->place, window->host, window->ask, &window->answer, error))
        return WINDOW_AGAIN;
    return window->answer > VL_ANSWER_NOBODY ? WINDOW_ALIVE : WINDOW_GOES_ON;
}

static WindowStep
window_begin(Window *window, GError **error)
{
    vl_session_object_clear(&window->first);
    if (!session_look(window->place, window->host, window->call, &window->first, error))
        return WINDOW_AGAIN;
    window->began = window->read = vl_clock_now();
    g_autoptr(VlIdentity) identity = window->first.present ? vl_identity_parse(window->first.identity, error) : NULL;
    if (window->first.present && !identity)
        return WINDOW_FAILED;
    window->length = (gint64)window_seconds(identity, window->dead_after_s) * G_USEC_PER_SEC;
    return window_challenge(window, error);
}

static WindowStep
window_poll(Window *window, GError **error)
{
    VlSessionObject now = {0};
    if (!session_look(window->place, window->host, window->call, &now, error))
        return WINDOW_AGAIN;
    gboolean same = object_equal(&now, &window->first);
    vl_session_object_clear(&now);
    if (!same)
        return WINDOW_ALIVE;
    gint64 gap = vl_clock_now() - window->read;
    window->read += gap;
    if (gap <= GAP_US)
        return WINDOW_GOES_ON;
    vl_set_error(error, VL_ERR_STORAGE, "this daemon did not run for %.1f s and cannot tell whether storage did",
                 (double)gap / G_USEC_PER_SEC);
    return WINDOW_AGAIN;
}

/* The last challenge lies inside the window, so it costs no time beyond it. */
static WindowStep
window_watch(Window *window, GError **error)
{
    gboolean asked = FALSE;
    for (;;) {
        gint64 end = window->began + window->length;
        if (!vl_call_check(window->call, "waiting for a verdict", error))
            return WINDOW_FAILED;
        vl_clock_sleep_until(MIN(vl_clock_now() + POLL_US, asked ? end : end - CHALLENGE_US), window->call);
        WindowStep step = window_poll(window, error);
        if (step != WINDOW_GOES_ON)
            return step;
        if (!asked && vl_clock_now() >= end - CHALLENGE_US) {
            step = window_challenge(window, error);
            if (step != WINDOW_GOES_ON)
                return step;
            asked = TRUE;
        } else if (asked && vl_clock_now() >= end) {
            return WINDOW_DEAD;
        }
    }
}

gboolean
vl_window_run(VlPlace *place, const char *host, const VlAsk *ask, guint dead_after_s, const VlCall *call,
              VlSessionObject *ret_seen, VlAnswer *ret_answer, GError **error)
{
    Window window = {.place = place, .host = host, .ask = ask, .dead_after_s = dead_after_s, .call = call};
    g_autoptr(GError) last = NULL;
    WindowStep step = WINDOW_AGAIN;
    while (step == WINDOW_AGAIN) {
        if (!vl_call_check(call, "waiting for a verdict", error))
            break;
        if (last) {
            g_message("host %s: its window of silence starts again: %s", host, last->message);
            vl_clock_sleep_until(vl_clock_now() + POLL_US, call);
            g_clear_error(&last);
        }
        step = window_begin(&window, &last);
        if (step == WINDOW_GOES_ON)
            step = window_watch(&window, &last);
    }
    *ret_seen = window.first;
    *ret_answer = window.answer;
    if (step == WINDOW_ALIVE)
        vl_set_error(error, VL_ERR_HELD, "host %s is alive", host);
    else if (step == WINDOW_FAILED)
        g_propagate_error(error, g_steal_pointer(&last));
    return step == WINDOW_DEAD;
}

/* ---- windows shared by all who ask ---- */

typedef struct {
    gint refs;
    VlPlace *place;
    char *host;
    gboolean done;
    gboolean dead;
    VlSessionObject seen;
    VlAnswer answer;
    GError *error;
    gint64 began;
    guint seconds; /* how long the window is */
    /* a copy of the first asker's question */
    char *volume;
    VlIncarnation holder;
} Shared;

struct VlVerdicts {
    GMutex lock;
    GCond changed;
    guint dead_after_s;
    gboolean threaded;
    GHashTable *running; /* "PLACE HOST" -> Shared */
    GHashTable *dead;    /* "PLACE HOST" -> VlSessionObject, as it stood at a verdict of death */
};

static void
shared_unref(Shared *shared)
{
    if (!g_atomic_int_dec_and_test(&shared->refs))
        return;
    g_free(shared->host);
    g_free(shared->volume);
    vl_incarnation_clear(&shared->holder);
    vl_session_object_clear(&shared->seen);
    g_clear_error(&shared->error);
    g_free(shared);
}

static void
object_free(gpointer object)
{
    vl_session_object_clear(object);
    g_free(object);
}

VlVerdicts *
vl_verdicts_new(guint dead_after_s, gboolean threaded)
{
    VlVerdicts *verdicts = g_new0(VlVerdicts, 1);
    g_mutex_init(&verdicts->lock);
    g_cond_init(&verdicts->changed);
    verdicts->dead_after_s = dead_after_s;
    verdicts->threaded = threaded;
    verdicts->running = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)shared_unref);
    verdicts->dead = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, object_free);
    return verdicts;
}

void
vl_verdicts_free(VlVerdicts *verdicts)
{
    if (!verdicts)
        return;
    g_hash_table_unref(verdicts->running);
    g_hash_table_unref(verdicts->dead);
    g_mutex_clear(&verdicts->lock);
    g_cond_clear(&verdicts->changed);
    g_free(verdicts);
}

static char *
shared_key(VlPlace *place, const char *host)
{
    return g_strdup_printf("%s %s", place->key, host);
}

static void
shared_run(VlVerdicts *verdicts, Shared *shared)
{
    VlAsk ask = {shared->volume, &shared->holder, NULL};
    VlCall call = {.deadline = vl_deadline_in(shared->seconds * 3 + STORAGE_PATIENCE_S)};
    VlSessionObject seen = {0};
    VlAnswer answer = VL_ANSWER_NONE;
    GError *error = NULL;
    gboolean dead =
        vl_window_run(shared->place, shared->host, &ask, verdicts->dead_after_s, &call, &seen, &answer, &error);
    if (!dead && vl_error_code(error) == VL_ERR_HELD)
        g_clear_error(&error);
    g_message("host %s, %s: %s after %.1f s", shared->host, shared->place->display,
              dead    ? "silent, taken for dead"
              : error ? "no verdict"
                      : "alive",
              (double)(vl_clock_now() - shared->began) / G_USEC_PER_SEC);

    /* Whoever waits may end everything as soon as the lock is released. */
    g_mutex_lock(&verdicts->lock);
    shared->dead = dead;
    shared->seen = seen;
    shared->answer = answer;
    shared->error = error;
    shared->done = TRUE;
    if (dead) {
        VlSessionObject *kept = g_new0(VlSessionObject, 1);
        object_copy(kept, &seen);
        g_hash_table_insert(verdicts->dead, shared_key(shared->place, shared->host), kept);
    }
    g_autofree char *key = shared_key(shared->place, shared->host);
    g_hash_table_remove(verdicts->running, key);
    g_cond_broadcast(&verdicts->changed);
    g_mutex_unlock(&verdicts->lock);
}

typedef struct {
    VlVerdicts *verdicts;
    Shared *shared;
} RunArgs;

static gpointer
shared_thread(gpointer data)
{
    g_autofree RunArgs *args = data;
    shared_run(args->verdicts, args->shared);
    shared_unref(args->shared);
    return NULL;
}

/* Joins the running window of that host or starts one; *ret_own tells which. */
static Shared *
shared_join(VlVerdicts *verdicts, VlPlace *place, const VlAsk *ask, guint seconds, gboolean *ret_own)
{
    g_autofree char *key = shared_key(place, ask->holder->host);
    g_mutex_lock(&verdicts->lock);
    Shared *shared = g_hash_table_lookup(verdicts->running, key);
    *ret_own = !shared;
    if (!shared) {
        shared = g_new0(Shared, 1);
        shared->refs = 1;
        shared->place = place;
        shared->host = g_strdup(ask->holder->host);
        shared->began = vl_clock_now();
        shared->seconds = seconds;
        shared->volume = g_strdup(ask->volume);
        vl_incarnation_copy(&shared->holder, ask->holder);
        g_hash_table_insert(verdicts->running, g_steal_pointer(&key), shared);
    }
    g_atomic_int_inc(&shared->refs);
    g_mutex_unlock(&verdicts->lock);
    if (*ret_own && verdicts->threaded) {
        RunArgs *args = g_new0(RunArgs, 1);
        args->verdicts = verdicts;
        args->shared = shared;
        g_atomic_int_inc(&shared->refs);
        g_thread_unref(g_thread_new("verdict", shared_thread, args));
    } else if (*ret_own) {
        shared_run(verdicts, shared);
    }
    return shared;
}

/* Waits for the shared result; FALSE when this call's own time or asker is over. */
static gboolean
shared_wait(VlVerdicts *verdicts, Shared *shared, const VlCall *call, GError **error)
{
    g_mutex_lock(&verdicts->lock);
    while (!shared->done) {
        g_autoptr(GError) over = NULL;
        if (!vl_call_check(call, "waiting for a verdict", &over)) {
            double silent = (double)(vl_clock_now() - shared->began) / G_USEC_PER_SEC;
            g_mutex_unlock(&verdicts->lock);
            if (vl_error_code(over) == VL_ERR_TIMEOUT)
                vl_set_error(error, VL_ERR_UNKNOWN_OWNER,
                             "it has been silent for %.0f s, which does not prove it dead yet; try again in %.0f s",
                             silent, MAX(1.0, (double)shared->seconds + 1 - silent));
            else
                g_propagate_error(error, g_steal_pointer(&over));
            return FALSE;
        }
        g_cond_wait_until(&verdicts->changed, &verdicts->lock, g_get_monotonic_time() + 50 * 1000);
    }
    gboolean failed = shared->error != NULL;
    if (failed)
        g_propagate_error(error, g_error_copy(shared->error));
    g_mutex_unlock(&verdicts->lock);
    return !failed;
}

/* What is known without waiting: an operator ended the session, or it still stands where an earlier
 * verdict found it dead. *ret_seconds: how long a window must be. */
static gboolean
verdict_known(VlVerdicts *verdicts, VlPlace *place, const VlAsk *ask, guint64 session, const VlCall *call,
              VlVerdict *verdict, gboolean *ret_known, guint *ret_seconds, GError **error)
{
    const char *host = ask->holder->host;
    *ret_known = FALSE;
    *ret_seconds = verdicts->dead_after_s;
    vl_session_object_clear(&verdict->seen);
    if (!place->store->ops->session_read(place, host, &verdict->seen, vl_call_within(call, 5), error))
        return FALSE;
    if (!verdict->seen.present)
        return TRUE;
    g_autoptr(VlIdentity) identity = vl_identity_parse(verdict->seen.identity, error);
    if (!identity)
        return FALSE;
    *ret_seconds = window_seconds(identity, verdicts->dead_after_s);
    g_ptr_array_unref(verdict->ips);
    verdict->ips = vl_addrs_copy(identity->ips);
    verdict->ended = identity->mark == VL_SESSION_FENCED && session <= identity->session;
    g_autofree char *key = shared_key(place, host);
    g_mutex_lock(&verdicts->lock);
    const VlSessionObject *dead = g_hash_table_lookup(verdicts->dead, key);
    *ret_known = verdict->ended || (dead && object_equal(dead, &verdict->seen));
    g_mutex_unlock(&verdicts->lock);
    if (*ret_known)
        verdict->kind = VL_VERDICT_DEAD;
    return TRUE;
}

static VlVerdictKind
kind_of_answer(VlAnswer answer)
{
    if (answer == VL_ANSWER_NOT_MINE || answer == VL_ANSWER_FREEING)
        return VL_VERDICT_NOT_MINE;
    return answer == VL_ANSWER_LOST ? VL_VERDICT_LOST : VL_VERDICT_ALIVE;
}

void
vl_verdict_begin(VlVerdicts *verdicts, VlPlace *place, const VlAsk *ask, guint64 session, const VlCall *call)
{
    gboolean known, own;
    guint seconds;
    VlVerdict verdict = {.ips = vl_addrs_new()};
    if (verdicts->threaded && verdict_known(verdicts, place, ask, session, call, &verdict, &known, &seconds, NULL) &&
        !known)
        shared_unref(shared_join(verdicts, place, ask, seconds, &own));
    vl_verdict_clear(&verdict);
}

gboolean
vl_verdict_get(VlVerdicts *verdicts, VlPlace *place, const VlAsk *ask, guint64 session, const VlCall *call,
               VlVerdict *ret_verdict, GError **error)
{
    gboolean known, own;
    guint seconds;
    *ret_verdict = (VlVerdict){.ips = vl_addrs_new()};
    if (!verdict_known(verdicts, place, ask, session, call, ret_verdict, &known, &seconds, error))
        return FALSE;
    if (known)
        return TRUE;

    Shared *shared = shared_join(verdicts, place, ask, seconds, &own);
    gboolean ok = shared_wait(verdicts, shared, call, error);
    if (ok) {
        VlAnswer answer = shared->answer;
        object_copy(&ret_verdict->seen, &shared->seen);
        if (!shared->dead && !own)
            ok = vl_challenge(place, ask->holder->host, ask, &answer, error);
        ret_verdict->kind = shared->dead ? VL_VERDICT_DEAD : kind_of_answer(answer);
        /* Its session changed without a word of its own: perhaps an operator ended it. */
        if (ok && !shared->dead && answer <= VL_ANSWER_NOBODY)
            ok = verdict_known(verdicts, place, ask, session, call, ret_verdict, &known, &seconds, error);
    }
    shared_unref(shared);
    VL_FAULT("after-verdict");
    return ok;
}

gboolean
vl_verdict_confirm(VlPlace *place, const VlAsk *ask, const VlVerdict *verdict, const VlCall *call, GError **error)
{
    VlSessionObject object = {0};
    VlAnswer answer;
    if (verdict->kind == VL_VERDICT_LOST || verdict->ended)
        return TRUE;
    if (!vl_challenge(place, ask->holder->host, ask, &answer, error))
        return FALSE;
    if (!session_look(place, ask->holder->host, call, &object, error))
        return FALSE;
    gboolean silent = answer <= VL_ANSWER_NOBODY && object_equal(&object, &verdict->seen);
    vl_session_object_clear(&object);
    if (!silent)
        vl_set_error(error, VL_ERR_HELD, "that host woke up before it was fenced");
    return silent;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/session.h"

#include <string.h>

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/identity.h"
#include "lockd/procinfo.h"
#include "lockd/record.h"
#include "lockd/verdict.h"

#define RENEW_DEADLINE_S 6
#define BEGIN_DEADLINE_S 15
#define LOG_EVERY        8 /* failed renewals between two lines of log */

typedef struct {
    VlSessions *all;
    VlPlace *place;
    GThread *thread;
    /* guarded by all->lock */
    VlSessionState state;
    guint64 number;
    gint64 last_ok;
    char *problem;
    enum vl_error problem_code;
    gboolean hurry;     /* wake up now */
    gboolean republish; /* the identity says something that is no longer so */
    /* the thread's own */
    GBytes *identity;
    guint64 counter;
    guint failures;
    gboolean rewatch; /* a watch must be set (again) */
} Session;

struct VlSessions {
    const VlHost *host;
    guint dead_after_s;
    VlSessionEvents events;
    GMutex lock;
    GCond changed;
    GHashTable *table; /* VlPlace * -> Session */
    GPtrArray *krbd;
    gboolean stop, leases_left;
    guint grace_s;
};

static const char *const state_names[VL_SESSION_STATE_COUNT] = {"new", "live", "silent", "duplicate"};

const char *
vl_session_state_name(VlSessionState state)
{
    return state < VL_SESSION_STATE_COUNT ? state_names[state] : "?";
}

/* The one place where a session changes state. Called with the lock held. */
static void
session_set_state(Session *session, VlSessionState state, const GError *why)
{
    if (state != session->state)
        g_message("session in %s: %s -> %s%s%s", session->place->display, state_names[session->state],
                  state_names[state], why ? ": " : "", why ? why->message : "");
    session->state = state;
    g_free(session->problem);
    session->problem = why ? g_strdup(why->message) : NULL;
    session->problem_code = vl_error_code(why);
    g_cond_broadcast(&session->all->changed);
}

static void
session_note(Session *session, VlSessionState state, const GError *why)
{
    g_mutex_lock(&session->all->lock);
    session_set_state(session, state, why);
    g_mutex_unlock(&session->all->lock);
}

static const VlStoreOps *
ops(Session *session)
{
    return session->place->store->ops;
}

static GBytes *
identity_make(Session *session, guint64 number, VlSessionMark mark, guint grace)
{
    const VlHost *host = session->all->host;
    g_autoptr(VlIdentity) identity = vl_identity_new();
    identity->host = g_strdup(host->id);
    identity->machine = g_strdup(host->machine);
    identity->name = g_strdup(host->name);
    identity->boot = g_strdup(host->boot);
    identity->session = number;
    identity->nonce = vl_random_id();
    identity->mark = mark;
    identity->dead_after = session->all->dead_after_s;
    identity->grace = grace;
    /* The address storage knows us by is one that QEMU's clients have too. */
    g_autofree char *own = ops(session)->own_address(session->place);
    g_autofree char *addr = g_strconcat(own ? own : "", ":0/0", NULL);
    g_autofree char *ip = vl_addr_ip(addr); /* the form all others are compared in: IPv6 without brackets */
    if (ip)
        vl_addrs_add(identity->ips, ip);
    g_mutex_lock(&session->all->lock);
    for (guint i = 0; session->all->krbd && i < session->all->krbd->len; i++)
        vl_addrs_add(identity->krbd, session->all->krbd->pdata[i]);
    g_mutex_unlock(&session->all->lock);
    return vl_identity_format(identity);
}

/* ---- beginning ---- */

/* An object of our id, but of a boot we know nothing of: an earlier life whose journal is lost, or a
 * second host with our identity. Only the second one moves. */
static gboolean
check_stranger(Session *session, const VlIdentity *there, GError **error)
{
    VlIncarnation holder = {.host = session->all->host->id};
    VlAsk ask = {NULL, &holder, NULL};
    VlCall call = {.deadline =
                       vl_deadline_in((MAX(session->all->dead_after_s, there->dead_after) + there->grace) * 3 + 30)};
    VlSessionObject seen = {0};
    VlAnswer answer;
    g_autoptr(GError) local = NULL;
    g_message("session in %s: its object was written in boot %s of a host named %s; watching whether "
              "that one lives",
              session->place->display, there->boot, there->name);
    gboolean dead = vl_window_run(session->place, session->all->host->id, &ask, session->all->dead_after_s, &call,
                                  &seen, &answer, &local);
    vl_session_object_clear(&seen);
    if (dead)
        return TRUE;
    if (vl_error_code(local) != VL_ERR_HELD) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    vl_set_error(error, VL_ERR_DUP_HOST,
                 "two hosts share one identity: host id %s is in use by a living host '%s' (machine id %s), and "
                 "this host '%s' (machine id %s) has it too. Give each its own host_uuid in libvirtd.conf or "
                 "host_id in virtleased.conf",
                 there->host, there->name, there->machine, session->all->host->name, session->all->host->machine);
    return FALSE;
}

static gboolean
session_take(Session *session, VlSessionObject *object, gint64 deadline, GError **error)
{
    VlSessions *all = session->all;
    g_autoptr(VlIdentity) there = vl_identity_parse(object->identity, error);
    if (!there)
        return FALSE;
    gboolean same_boot = g_str_equal(there->boot, all->host->boot) && g_str_equal(there->machine, all->host->machine);
    gboolean earlier = !same_boot && there->mark != VL_SESSION_CLOSED;
    if (earlier &&
        !(all->events.own_boot(there->boot, all->events.opaque) && g_str_equal(there->machine, all->host->machine))) {
        if (!check_stranger(session, there, error))
            return FALSE;
        deadline = vl_deadline_in(BEGIN_DEADLINE_S);
    }
    /* A restarted daemon goes on with its number: the leases of this boot name it. */
    guint64 number = there->session;
    if (!same_boot || there->mark != VL_SESSION_LIVE)
        number = MAX(there->session + 1, (guint64)(g_get_real_time() / 1000));
    GBytes *identity = identity_make(session, number, VL_SESSION_LIVE, 0);
    if (!ops(session)->session_swap(session->place, all->host->id, object->identity, identity, deadline, error)) {
        g_bytes_unref(identity);
        return FALSE;
    }
    g_clear_pointer(&session->identity, g_bytes_unref);
    session->identity = identity;
    session->counter = object->counter;
    g_mutex_lock(&all->lock);
    session->number = number;
    g_mutex_unlock(&all->lock);
    if (!same_boot)
        all->events.earlier_boot(session->place, all->events.opaque);
    return TRUE;
}

static gboolean
session_create(Session *session, gint64 deadline, GError **error)
{
    guint64 number = MAX(session->number + 1, (guint64)(g_get_real_time() / 1000));
    GBytes *identity = identity_make(session, number, VL_SESSION_LIVE, 0);
    if (!ops(session)->session_create(session->place, session->all->host->id, identity, deadline, error)) {
        g_bytes_unref(identity);
        return FALSE;
    }
    g_clear_pointer(&session->identity, g_bytes_unref);
    session->identity = identity;
    session->counter = 0;
    g_mutex_lock(&session->all->lock);
    session->number = number;
    g_mutex_unlock(&session->all->lock);
    return TRUE;
}

static gboolean
session_begin(Session *session, GError **error)
{
    VlSessionObject object = {0};
    gint64 deadline = vl_deadline_in(BEGIN_DEADLINE_S);
    guint64 before = session->number;
    if (!ops(session)->session_read(session->place, session->all->host->id, &object, deadline, error))
        return FALSE;
    gboolean ok =
        object.present ? session_take(session, &object, deadline, error) : session_create(session, deadline, error);
    vl_session_object_clear(&object);
    session->rewatch = TRUE;
    if (ok && before && before != session->number)
        session->all->events.recheck(session->place, session->all->events.opaque);
    return ok;
}

/* ---- heartbeat ---- */

/* What a refused renewal means: an operator ended our number, another host has our name, or the object
 * is gone. In each case begin anew; beginning tells them apart. */
static void
session_refused(Session *session, const GError *why)
{
    g_warning("session in %s: renewal refused (%s); beginning a new session and checking every lease",
              session->place->display, why->message);
    session_note(session, VL_SESSION_NEW, why);
}

static void
session_failed(Session *session, const GError *why)
{
    gint64 silent = vl_clock_now() - session->last_ok;
    if (session->failures++ % LOG_EVERY == 0)
        g_warning("session in %s: not renewed for %.1f s: %s", session->place->display, (double)silent / G_USEC_PER_SEC,
                  why->message);
    session_note(session, VL_SESSION_SILENT, why);
    g_autoptr(GError) error = NULL;
    gboolean reconnected = FALSE;
    if (!ops(session)->recover(session->place, &reconnected, vl_deadline_in(RENEW_DEADLINE_S), &error))
        return;
    session->rewatch |= reconnected;
    if (reconnected) {
        g_warning("session in %s: this daemon's own client was fenced; reconnected, checking every lease",
                  session->place->display);
        session->all->events.recheck(session->place, session->all->events.opaque);
    }
}

static gboolean
session_watch(Session *session, GError **error)
{
    const char *host = session->all->host->id;
    if (!session->rewatch && ops(session)->session_watch_ok(session->place, host))
        return TRUE;
    if (!ops(session)->session_watch(session->place, host, session->all->events.challenge, session->all->events.opaque,
                                     vl_deadline_in(RENEW_DEADLINE_S), error))
        return FALSE;
    session->rewatch = FALSE;
    return TRUE;
}

static void
session_renewed(Session *session, gint64 sent)
{
    gint64 gap = sent - session->last_ok;
    gboolean was_live;
    g_mutex_lock(&session->all->lock);
    was_live = session->last_ok != 0;
    session->last_ok = sent;
    session->failures = 0;
    session_set_state(session, VL_SESSION_UP, NULL);
    g_mutex_unlock(&session->all->lock);
    if (was_live && gap > (gint64)session->all->dead_after_s * G_USEC_PER_SEC) {
        g_message("session in %s: renewed after %.1f s of silence; checking every lease", session->place->display,
                  (double)gap / G_USEC_PER_SEC);
        session->all->events.recheck(session->place, session->all->events.opaque);
    }
}

/* The same session under a new text. */
static gboolean
session_republish(Session *session, GError **error)
{
    g_mutex_lock(&session->all->lock);
    gboolean wanted = session->republish;
    session->republish = FALSE;
    g_mutex_unlock(&session->all->lock);
    if (!wanted)
        return TRUE;
    GBytes *identity = identity_make(session, session->number, VL_SESSION_LIVE, 0);
    if (!ops(session)->session_swap(session->place, session->all->host->id, session->identity, identity,
                                    vl_deadline_in(RENEW_DEADLINE_S), error)) {
        g_bytes_unref(identity);
        return FALSE;
    }
    g_bytes_unref(session->identity);
    session->identity = identity;
    return TRUE;
}

static void
session_beat(Session *session)
{
    g_autoptr(GError) error = NULL;
    if (!session->all->events.healthy(session->all->events.opaque)) {
        g_warning("session in %s: not renewed, the main loop does not answer", session->place->display);
        return;
    }
    if (session->state == VL_SESSION_NEW || session->state == VL_SESSION_DUPLICATE || !session->identity) {
        if (!session_begin(session, &error)) {
            enum vl_error code = vl_error_code(error);
            session_note(session, code == VL_ERR_DUP_HOST ? VL_SESSION_DUPLICATE : VL_SESSION_NEW, error);
            if (session->failures++ % LOG_EVERY == 0)
                g_warning("session in %s cannot begin: %s", session->place->display, error->message);
            gboolean reconnected;
            if (code == VL_ERR_STORAGE)
                (void)ops(session)->recover(session->place, &reconnected, vl_deadline_in(RENEW_DEADLINE_S), NULL);
            return;
        }
    }
    /* Deaf is not dead: a counter that moves is answer enough, so a watch that cannot be set does not stop it. */
    g_autoptr(GError) deaf = NULL;
    gboolean watched = session_watch(session, &deaf);
    gint64 sent = vl_clock_now();
    if (session_republish(session, &error) &&
        ops(session)->session_renew(session->place, session->all->host->id, session->identity, session->counter + 1,
                                    vl_deadline_in(RENEW_DEADLINE_S), &error)) {
        session->counter++;
        session_renewed(session, sent);
        if (!watched) {
            g_warning("session in %s: renewed, but challenges do not reach this host: %s", session->place->display,
                      deaf->message);
            session_note(session, VL_SESSION_UP, deaf);
        }
    } else if (vl_error_code(error) == VL_ERR_CHANGED || vl_error_code(error) == VL_ERR_MISSING) {
        session_refused(session, error);
        session->hurry = TRUE;
    } else {
        session->counter++; /* it may have arrived: never write a number twice */
        session_failed(session, error);
    }
}

static gpointer
session_thread(gpointer data)
{
    Session *session = data;
    VlSessions *all = session->all;
    const gint64 interval = (gint64)all->dead_after_s * G_USEC_PER_SEC / 4;
    g_mutex_lock(&all->lock);
    while (!all->stop) {
        gint64 next = g_get_monotonic_time() + interval;
        session->hurry = FALSE;
        g_mutex_unlock(&all->lock);
        session_beat(session);
        g_mutex_lock(&all->lock);
        if (session->state == VL_SESSION_SILENT)
            next = MIN(next, g_get_monotonic_time() + interval / 4);
        while (!all->stop && !session->hurry && g_get_monotonic_time() < next)
            g_cond_wait_until(&all->changed, &all->lock, next);
    }
    g_mutex_unlock(&all->lock);
    return NULL;
}

/* ---- table ---- */

VlSessions *
vl_sessions_new(const VlHost *host, guint dead_after_s, const VlSessionEvents *events)
{
    VlSessions *sessions = g_new0(VlSessions, 1);
    sessions->host = host;
    sessions->dead_after_s = dead_after_s;
    sessions->events = *events;
    g_mutex_init(&sessions->lock);
    g_cond_init(&sessions->changed);
    sessions->table = g_hash_table_new(NULL, NULL);
    return sessions;
}

static Session *
session_get(VlSessions *sessions, VlPlace *place)
{
    Session *session = g_hash_table_lookup(sessions->table, place);
    if (session || sessions->stop)
        return session;
    session = g_new0(Session, 1);
    session->all = sessions;
    session->place = place;
    g_hash_table_insert(sessions->table, place, session);
    session->thread = g_thread_new("heartbeat", session_thread, session);
    return session;
}

gboolean
vl_sessions_ensure(VlSessions *sessions, VlPlace *place, const VlCall *call, guint64 *ret_number, GError **error)
{
    gboolean ok = FALSE;
    g_mutex_lock(&sessions->lock);
    Session *session = session_get(sessions, place);
    for (;;) {
        g_autoptr(GError) over = NULL;
        if (!session) {
            vl_set_error(error, VL_ERR_DAEMON, "virtleased is stopping");
            break;
        }
        if (session->state == VL_SESSION_UP || session->state == VL_SESSION_SILENT) {
            *ret_number = session->number;
            ok = TRUE;
            break;
        }
        if (session->state == VL_SESSION_DUPLICATE || session->problem_code == VL_ERR_DENIED) {
            vl_set_error(error, session->problem_code, "%s", session->problem);
            break;
        }
        if (!vl_call_check(call, "beginning a session", &over)) {
            vl_set_error(error, vl_error_code(over), "%s: no session there yet: %s", place->display,
                         session->problem ? session->problem : over->message);
            break;
        }
        g_cond_wait_until(&sessions->changed, &sessions->lock, g_get_monotonic_time() + 50 * 1000);
    }
    g_mutex_unlock(&sessions->lock);
    return ok;
}

guint64
vl_sessions_number(VlSessions *sessions, VlPlace *place)
{
    g_mutex_lock(&sessions->lock);
    Session *session = g_hash_table_lookup(sessions->table, place);
    guint64 number = session ? session->number : 0;
    g_mutex_unlock(&sessions->lock);
    return number;
}

void
vl_session_info_clear(VlSessionInfo *info)
{
    g_clear_pointer(&info->problem, g_free);
}

GArray *
vl_sessions_list(VlSessions *sessions)
{
    GArray *list = g_array_new(FALSE, TRUE, sizeof(VlSessionInfo));
    g_array_set_clear_func(list, (GDestroyNotify)vl_session_info_clear);
    g_mutex_lock(&sessions->lock);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, sessions->table);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Session *session = value;
        VlSessionInfo info = {
            session->place, session->state, session->number, session->counter, 0, g_strdup(session->problem)};
        info.silent_ms = session->last_ok ? (vl_clock_now() - session->last_ok) / 1000 : -1;
        g_array_append_val(list, info);
    }
    g_mutex_unlock(&sessions->lock);
    return list;
}

void
vl_sessions_set_krbd(VlSessions *sessions, const GPtrArray *addrs)
{
    g_mutex_lock(&sessions->lock);
    if (!sessions->krbd || !vl_addrs_equal(sessions->krbd, addrs)) {
        GHashTableIter iter;
        gpointer value;
        g_hash_table_iter_init(&iter, sessions->table);
        while (g_hash_table_iter_next(&iter, NULL, &value))
            ((Session *)value)->republish = sessions->krbd || addrs->len;
        g_clear_pointer(&sessions->krbd, g_ptr_array_unref);
        sessions->krbd = vl_addrs_copy(addrs);
    }
    g_mutex_unlock(&sessions->lock);
}

static void
session_end(Session *session, gboolean leases_left, guint grace_s)
{
    if (session->thread)
        g_thread_join(session->thread);
    if (session->identity && session->state == VL_SESSION_UP) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) last = identity_make(
            session, session->number, leases_left ? VL_SESSION_LIVE : VL_SESSION_CLOSED, leases_left ? grace_s : 0);
        if (!ops(session)->session_swap(session->place, session->all->host->id, session->identity, last,
                                        vl_deadline_in(2), &error))
            g_warning("session in %s: its end could not be announced: %s", session->place->display, error->message);
    }
    ops(session)->session_unwatch(session->place, session->all->host->id);
}

void
vl_sessions_stop(VlSessions *sessions, gboolean leases_left, guint grace_s)
{
    g_mutex_lock(&sessions->lock);
    sessions->stop = TRUE;
    g_cond_broadcast(&sessions->changed);
    g_mutex_unlock(&sessions->lock);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, sessions->table);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        session_end(value, leases_left, grace_s);
}

void
vl_sessions_free(VlSessions *sessions)
{
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, sessions->table);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Session *session = value;
        g_clear_pointer(&session->identity, g_bytes_unref);
        g_free(session->problem);
        g_free(session);
    }
    g_hash_table_unref(sessions->table);
    g_clear_pointer(&sessions->krbd, g_ptr_array_unref);
    g_mutex_clear(&sessions->lock);
    g_cond_clear(&sessions->changed);
    g_free(sessions);
}

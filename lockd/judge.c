/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/judge.h"

#include <unistd.h>

#include "lockd/error.h"
#include "lockd/hold.h"
#include "lockd/identity.h"
#include "lockd/procinfo.h"
#include "lockd/takeover.h"

#define CHALLENGE_ROOM_S 2.0 /* even with takeover_wait = 0 a living owner gets the time to answer */

char *
vl_holder_describe(const VlHolder *holder)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(holder->since);
    g_autofree char *since = time ? g_date_time_format(time, "%F %T") : g_strdup("?");
    return g_strdup_printf("leased by VM '%s' on host %s since %s", holder->vm, holder->host_name, since);
}

static void
refuse_held(GError **error, const VlTake *take, const VlHolder *holder, const char *local)
{
    g_autofree char *who = vl_holder_describe(holder);
    if (local)
        vl_set_error(error, VL_ERR_HELD,
                     "%s is in use: %s, process %" G_GINT64_FORMAT " of this very host. Stop that VM first",
                     take->lease->volume->display, who, holder->who.pid);
    else
        vl_set_error(error, VL_ERR_HELD, "%s is in use: %s, and that host is alive. Stop the VM there first",
                     take->lease->volume->display, who);
}

/* ---- holders ---- */

/* A holder on this very host needs no verdict: its process is there or not. */
static gboolean
judge_local(VlDaemon *daemon, VlTake *take, VlHolder *holder, GError **error)
{
    if (g_strcmp0(holder->who.boot, daemon->host->boot) != 0)
        return TRUE; /* an earlier boot of ours: its processes are gone */
    g_autoptr(GError) gone = NULL;
    int pidfd = vl_proc_open((pid_t)holder->who.pid, holder->who.start, &gone);
    if (pidfd < 0 && vl_error_code(gone) == VL_ERR_MISSING)
        return TRUE;
    gboolean exited = pidfd >= 0 && vl_proc_exited(pidfd);
    if (pidfd >= 0)
        close(pidfd);
    if (exited)
        return TRUE;
    refuse_held(error, take, holder, "here");
    return FALSE;
}

/* Until when a silent owner is waited for. A take that goes on for longer, because the storage was away, still asks:
 * a living owner must be found out as soon as the storage answers. */
static gint64
verdict_deadline(const VlPatience *patience)
{
    gint64 until = patience->began + (gint64)patience->wait_s * G_USEC_PER_SEC;
    gint64 ask = vl_clock_now() + (gint64)(CHALLENGE_ROOM_S * G_USEC_PER_SEC);
    return MIN(patience->call->deadline, MAX(until, ask));
}

typedef struct {
    VlDaemon *daemon;
    VlTake *take;
    VlHolder *holder;
    VlCall call;
    VlVerdict *verdict;
    GError *error;
} Inquest;

static gpointer
inquest_run(gpointer data)
{
    Inquest *inquest = data;
    VlAsk ask = {inquest->take->lease->volume->key, &inquest->holder->who, NULL};
    if (!vl_verdict_get(inquest->daemon->verdicts, inquest->take->lease->volume->place, &ask, inquest->holder->session,
                        &inquest->call, inquest->verdict, &inquest->error))
        vl_verdict_clear(inquest->verdict);
    return NULL;
}

/* The text for the user, and whether to go on. */
static gboolean
inquest_conclude(Inquest *inquest, GError **error)
{
    const char *volume = inquest->take->lease->volume->display;
    g_autofree char *who = vl_holder_describe(inquest->holder);
    if (inquest->error) {
        vl_set_error(error, vl_error_code(inquest->error),
                     "%s is in use: %s, and whether that host lives cannot be told: %s%s%s", volume, who,
                     inquest->error->message,
                     vl_error_code(inquest->error) == VL_ERR_UNKNOWN_OWNER
                         ? ". If it is dead for certain: virtleasectl fence "
                         : "",
                     vl_error_code(inquest->error) == VL_ERR_UNKNOWN_OWNER ? inquest->holder->host_name : "");
        return FALSE;
    }
    switch (inquest->verdict->kind) {
    case VL_VERDICT_ALIVE:
        refuse_held(error, inquest->take, inquest->holder, NULL);
        return FALSE;
    case VL_VERDICT_NOT_MINE:
        vl_set_error(error, VL_ERR_CHANGED,
                     "%s: %s, whose process is gone; that host is freeing the lease at this moment. Try again", volume,
                     who);
        return FALSE;
    case VL_VERDICT_DEAD:
        if (inquest->daemon->settings->takeover == VL_TAKEOVER_MANUAL && !inquest->verdict->ended) {
            vl_set_error(error, VL_ERR_MANUAL,
                         "%s is in use: %s. That host is dead, and takeover = \"manual\": run 'virtleasectl fence %s', "
                         "then start the VM again",
                         volume, who, inquest->holder->host_name);
            return FALSE;
        }
        return TRUE;
    case VL_VERDICT_LOST:
    default:
        return TRUE;
    }
}

static void
inquests_add(GPtrArray *inquests, VlDaemon *daemon, VlTake *take, VlHolder *holder, const VlPatience *patience)
{
    Inquest *inquest = g_new0(Inquest, 1);
    inquest->daemon = daemon;
    inquest->take = take;
    inquest->holder = holder;
    inquest->call = *patience->call;
    inquest->call.deadline = verdict_deadline(patience);
    inquest->verdict = g_new0(VlVerdict, 1);
    g_ptr_array_add(inquests, inquest);
}

static void
inquest_free(Inquest *inquest)
{
    g_clear_error(&inquest->error);
    if (inquest->verdict)
        vl_verdict_clear(inquest->verdict);
    g_free(inquest->verdict);
    g_free(inquest);
}

/* Every silent host is watched at the same time: a VM in three pools waits once. */
static void
inquests_run(GPtrArray *inquests)
{
    g_autoptr(GPtrArray) threads = g_ptr_array_new();
    for (guint i = 1; i < inquests->len; i++)
        g_ptr_array_add(threads, g_thread_new("inquest", inquest_run, inquests->pdata[i]));
    if (inquests->len)
        inquest_run(inquests->pdata[0]);
    for (guint i = 0; i < threads->len; i++)
        g_thread_join(threads->pdata[i]);
}

/* Somebody else's takeover is under way, or died half-way. */
gboolean
vl_judge_claim(VlDaemon *daemon, VlTake *take, const VlPatience *patience, GError **error)
{
    const VlClaim *claim = take->record->claim;
    if (!claim)
        return TRUE;
    const char *volume = take->lease->volume->display;
    gboolean ours = g_str_equal(claim->host, daemon->host->id);
    if (ours && !vl_claims_have(daemon, claim->id))
        return TRUE; /* of an earlier life of this daemon */
    VlVerdictKind kind = VL_VERDICT_ALIVE;
    if (!ours) {
        g_autofree char *boot = g_strconcat("claim:", claim->id, NULL);
        VlHolder holder = {.who = {claim->host, boot, claim->uuid, 0, 0},
                           .host_name = claim->host_name,
                           .vm = claim->vm,
                           .session = claim->session,
                           .since = claim->since};
        VlAsk ask = {take->lease->volume->key, &holder.who, NULL};
        VlCall call = *patience->call;
        call.deadline = verdict_deadline(patience);
        VlVerdict verdict = {0};
        gboolean ok =
            vl_verdict_get(daemon->verdicts, take->lease->volume->place, &ask, claim->session, &call, &verdict, error);
        kind = verdict.kind;
        vl_verdict_clear(&verdict);
        if (!ok) {
            g_prefix_error(error,
                           "%s: host %s had begun to take it over for VM '%s', and whether it lives cannot be told: ",
                           volume, claim->host_name, claim->vm);
            return FALSE;
        }
    }
    if (kind != VL_VERDICT_ALIVE)
        return TRUE;
    vl_set_error(error, VL_ERR_HELD,
                 "%s is being taken over by host %s for VM '%s' at this moment. Try again in a few seconds", volume,
                 claim->host_name, claim->vm);
    return FALSE;
}

/* Addresses that the dead holder's session published, minus those a living session publishes as well; and
 * shared kernel clients, which nobody fences automatically. With one session unread it would not be known whose
 * addresses these are. */
static gboolean
learn_ips(VlDaemon *daemon, VlTake *take, const VlHolder *victim, GError **error)
{
    VlPlace *place = take->lease->volume->place;
    g_autoptr(GPtrArray) hosts = place->store->ops->session_list(place, vl_deadline_in(3), error);
    g_autoptr(GPtrArray) mine = vl_addrs_new();
    g_autoptr(GPtrArray) others = vl_addrs_new();
    if (!hosts)
        return FALSE;
    for (guint i = 0; i < hosts->len; i++) {
        VlSessionObject object = {0};
        g_autoptr(VlIdentity) identity = NULL;
        if (!place->store->ops->session_read(place, hosts->pdata[i], &object, vl_deadline_in(3), error))
            return FALSE;
        if (object.present)
            identity = vl_identity_parse(object.identity, NULL);
        vl_session_object_clear(&object);
        for (guint k = 0; identity && k < identity->krbd->len; k++)
            vl_addrs_add(take->never, identity->krbd->pdata[k]);
        for (guint k = 0; identity && k < identity->ips->len; k++) {
            if (g_str_equal(identity->host, victim->who.host))
                vl_addrs_add(mine, identity->ips->pdata[k]);
            else if (identity->mark == VL_SESSION_LIVE)
                vl_addrs_add(others, identity->ips->pdata[k]);
        }
    }
    for (guint i = 0; i < mine->len; i++)
        if (!vl_addrs_has(others, mine->pdata[i]))
            vl_addrs_add(take->dead_ips, mine->pdata[i]);
    return TRUE;
}

static void
verdicts_store(VlTake *take, VlHolder *holder, VlVerdict *verdict)
{
    for (guint i = 0; i < take->blockers->len; i++)
        if (take->blockers->pdata[i] == holder)
            take->verdicts->pdata[i] = verdict;
}

/* The claimant is judged first; the holder's window passes at the same time. */
static void
watch_holders(VlDaemon *daemon, const VlTake *take, const VlCall *call)
{
    for (guint i = 0; i < take->blockers->len && take->record->claim; i++) {
        const VlHolder *holder = take->blockers->pdata[i];
        VlAsk ask = {take->lease->volume->key, &holder->who, NULL};
        if (!g_str_equal(holder->who.host, daemon->host->id))
            vl_verdict_begin(daemon->verdicts, take->lease->volume->place, &ask, holder->session, call);
    }
}

gboolean
vl_judge_blockers(VlDaemon *daemon, GPtrArray *takes, const VlPatience *patience, GError **error)
{
    g_autoptr(GPtrArray) inquests = g_ptr_array_new_with_free_func((GDestroyNotify)inquest_free);
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        for (guint k = 0; k < take->blockers->len; k++) {
            VlHolder *holder = take->blockers->pdata[k];
            g_ptr_array_add(take->verdicts, NULL);
            if (!g_str_equal(holder->who.host, daemon->host->id))
                inquests_add(inquests, daemon, take, holder, patience);
            else if (!judge_local(daemon, take, holder, error))
                return FALSE;
        }
        watch_holders(daemon, take, patience->call);
        if (take->step == VL_TAKE_BLOCKED && !vl_judge_claim(daemon, take, patience, error))
            return FALSE;
    }
    inquests_run(inquests);
    gboolean ok = TRUE;
    for (guint i = 0; i < inquests->len; i++) {
        Inquest *inquest = inquests->pdata[i];
        ok = ok && inquest_conclude(inquest, error) && learn_ips(daemon, inquest->take, inquest->holder, error);
        if (ok)
            verdicts_store(inquest->take, inquest->holder, g_steal_pointer(&inquest->verdict));
    }
    return ok;
}

/* ---- clients that no lease explains ---- */

/* Does a living daemon say that this client is a reader of its host? */
static gboolean
is_reader(VlDaemon *daemon, VlTake *take, const char *addr)
{
    VlPlace *place = take->lease->volume->place;
    g_autofree char *ip = vl_addr_ip(addr);
    if (!ip)
        return FALSE;
    if (g_hash_table_contains(daemon->host->ips, ip))
        return vl_vms_has_reader(daemon->vms, take->lease->volume->key);
    g_autoptr(GPtrArray) hosts = place->store->ops->session_list(place, vl_deadline_in(3), NULL);
    for (guint i = 0; hosts && i < hosts->len; i++) {
        VlSessionObject object = {0};
        g_autoptr(VlIdentity) identity = NULL;
        if (place->store->ops->session_read(place, hosts->pdata[i], &object, vl_deadline_in(3), NULL) && object.present)
            identity = vl_identity_parse(object.identity, NULL);
        vl_session_object_clear(&object);
        if (!identity || !vl_addrs_has(identity->ips, ip))
            continue;
        VlAsk ask = {take->lease->volume->key, NULL, addr};
        VlAnswer answer = VL_ANSWER_NONE;
        if (vl_challenge(place, identity->host, &ask, &answer, NULL) && answer == VL_ANSWER_READER)
            return TRUE;
    }
    return FALSE;
}

static gboolean
expected(const VlTake *take, const char *addr)
{
    for (guint i = 0; i < take->blockers->len; i++)
        if (vl_addrs_has(((VlHolder *)take->blockers->pdata[i])->addrs, addr))
            return TRUE;
    if (take->record->claim && vl_addrs_has(take->record->claim->addrs, addr))
        return TRUE;
    g_autofree char *ip = vl_addr_ip(addr);
    return ip && take->blockers->len && vl_addrs_has(take->dead_ips, ip);
}

static gboolean
refuse_foreign(VlDaemon *daemon, VlTake *take, const char *addr, VlPatience *patience, GError **error)
{
    gint64 now = vl_clock_now();
    if (!patience->foreign_since)
        patience->foreign_since = now;
    gboolean wait = now - patience->foreign_since < (gint64)daemon->settings->foreign_wait * G_USEC_PER_SEC;
    vl_set_error(error, wait ? VL_ERR_CHANGED : VL_ERR_FOREIGN,
                 "%s is in use by client %s, which no lease explains: a VM on a host without virtlease, or an rbd map. "
                 "Stop it there (rbd status shows it), or set foreign_users",
                 take->lease->volume->display, addr);
    return FALSE;
}

gboolean
vl_judge_foreign(VlDaemon *daemon, VlTake *take, VlPatience *patience, GError **error)
{
    const VlLockOwner *owner = take->look.owner;
    /* A krbd device is mapped before its VM starts: its client is there already, and ours. */
    g_autoptr(GPtrArray) own = take->lease->open_already || take->lease->spec.krbd
                                   ? vl_hold_find_addrs(take->lease->vm, take->lease, &take->look, NULL)
                                   : vl_addrs_new();
    g_autoptr(GPtrArray) strangers = vl_rules_unexplained(take->record, take->look.watchers);
    gboolean ignore = daemon->settings->foreign_users == VL_FOREIGN_IGNORE;
    for (guint i = 0; i < strangers->len && !ignore; i++) {
        const char *addr = ((VlWatcher *)strangers->pdata[i])->addr;
        if (!vl_addrs_has(own, addr) && !expected(take, addr) && !is_reader(daemon, take, addr))
            return refuse_foreign(daemon, take, addr, patience, error);
    }
    if (!owner || expected(take, owner->addr) || vl_watchers_have(take->look.watchers, owner->addr))
        return TRUE;
    for (guint i = 0; i < take->record->holders->len; i++)
        if (vl_addrs_has(((VlHolder *)take->record->holders->pdata[i])->addrs, owner->addr))
            return TRUE;
    if (!owner->managed) {
        vl_set_error(
            error, VL_ERR_FOREIGN,
            "%s has an advisory lock '%s' of client %s (%s), not made by librbd or virtlease. Remove it if nobody "
            "uses the image: rbd lock rm",
            take->lease->volume->display, owner->cookie, owner->entity, owner->addr);
        return FALSE;
    }
    g_message("%s: its exclusive lock belongs to %s, which is gone: will be fenced", take->lease->volume->display,
              owner->addr);
    take->dead_foreign_owner = TRUE;
    return TRUE;
}

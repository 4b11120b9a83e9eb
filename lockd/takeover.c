/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/takeover.h"

#include "lockd/error.h"
#include "lockd/fault.h"

#define FENCE_S        15
#define STEP_S         6
#define EXPIRE_SLACK_S 60 /* an entry this much shorter than asked for was there before us */

static gint64
unix_now(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

/* ---- claims of this daemon ---- */

gboolean
vl_claims_have(VlDaemon *daemon, const char *id)
{
    g_mutex_lock(&daemon->claims_lock);
    gboolean found = g_hash_table_contains(daemon->claims, id);
    g_mutex_unlock(&daemon->claims_lock);
    return found;
}

static void
claims_set(VlDaemon *daemon, const char *id, gboolean working)
{
    g_mutex_lock(&daemon->claims_lock);
    if (working)
        g_hash_table_add(daemon->claims, g_strdup(id));
    else
        g_hash_table_remove(daemon->claims, id);
    g_mutex_unlock(&daemon->claims_lock);
}

/* ---- fencing ---- */

static void
note_short_entry(const char *addr, gint64 until, gint64 wanted)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(until);
    g_autofree char *text = time ? g_date_time_format(time, "%F %T") : g_strdup("?");
    g_warning("blocklist: %s was already listed, until %s only: the monitors keep that time although they "
              "report success. Its fence is renewed as soon as that entry lapses (wanted: %" G_GINT64_FORMAT " s more)",
              addr, text, wanted - until);
}

gboolean
vl_fence_set(VlDaemon *daemon, VlPlace *place, const GPtrArray *set, GPtrArray *ret_fenced, gint64 deadline,
             GError **error)
{
    if (!set->len)
        return TRUE;
    gint64 now = unix_now();
    gint64 wanted = now + daemon->settings->blocklist_expire;
    g_autofree VlFenceEntry *entries = g_new0(VlFenceEntry, set->len);
    for (guint i = 0; i < set->len; i++)
        entries[i].addr = set->pdata[i];
    gboolean ok = place->store->ops->fence(place, entries, set->len, daemon->settings->blocklist_expire, deadline);
    for (guint i = 0; i < set->len; i++) {
        if (entries[i].error) {
            if (error && !*error)
                vl_set_error(error, VL_ERR_FENCE, "cannot fence client %s: %s", entries[i].addr,
                             entries[i].error->message);
            ok = FALSE;
        } else if (entries[i].until) {
            g_message("fenced client %s in %s", entries[i].addr, place->display);
            if (entries[i].until < wanted - EXPIRE_SLACK_S)
                note_short_entry(entries[i].addr, entries[i].until, wanted);
            VlFenced *fenced = g_new0(VlFenced, 1);
            *fenced = (VlFenced){g_strdup(entries[i].addr), now, entries[i].until, wanted};
            if (entries[i].until >= wanted - EXPIRE_SLACK_S)
                fenced->wanted = entries[i].until;
            g_ptr_array_add(ret_fenced, fenced);
        }
        g_clear_error(&entries[i].error);
    }
    if (ok)
        ok = place->store->ops->barrier(place, deadline, error);
    else if (error && !*error)
        vl_set_error(error, VL_ERR_FENCE, "the blocklist of %s does not show every address after fencing",
                     place->display);
    return ok;
}

void
vl_fenced_into(VlRecord *record, const GPtrArray *set, const GPtrArray *fenced)
{
    for (guint i = 0; i < fenced->len; i++) {
        const VlFenced *entry = fenced->pdata[i];
        if (vl_addrs_has(set, entry->addr))
            vl_record_add_fence(record, entry->addr, entry->at, entry->until, entry->wanted);
    }
}

/* ---- steps ---- */

typedef struct {
    VlDaemon *daemon;
    VlVm *vm; /* NULL: free afterwards */
    GPtrArray *takes;
    const VlCall *call;
    GPtrArray *fenced; /* of VlFenced */
} Takeover;

static VlTake *
take_at(const Takeover *t, guint i)
{
    return t->takes->pdata[i];
}

/* Who is there now was there when the takes were judged; some may have gone. */
static gboolean
nobody_new(const VlLook *before, const VlLook *now)
{
    for (guint i = 0; now->watchers && i < now->watchers->len; i++)
        if (!vl_watchers_have(before->watchers, ((VlWatcher *)now->watchers->pdata[i])->addr))
            return FALSE;
    return !now->owner || (before->owner && g_str_equal(now->owner->addr, before->owner->addr) &&
                           g_str_equal(now->owner->cookie, before->owner->cookie));
}

/* The frozen set is what was seen between two identical reads of the record (R12): the first one came before this look,
 * the second is the compare of the claim's compare-and-swap. The look that the takes were judged by may be as old as a
 * verdict takes, and a client that came since would be neither judged nor fenced. */
static gboolean
step_freeze(Takeover *t, GError **error)
{
    g_autofree VlLook *looks = g_new0(VlLook, t->takes->len);
    for (guint i = 0; i < t->takes->len; i++)
        looks[i].volume = take_at(t, i)->lease->volume;
    VL_FAULT("between-reads");
    VlStore *store = looks[0].volume->place->store;
    gboolean ok = store->ops->look(looks, t->takes->len, VL_LOOK_ALL, vl_call_within(t->call, STEP_S));
    for (guint i = 0; i < t->takes->len; i++) {
        VlTake *take = take_at(t, i);
        GBytes *first = take->look.record;
        gboolean same = first && looks[i].record ? g_bytes_equal(first, looks[i].record) : first == looks[i].record;
        same = same && nobody_new(&take->look, &looks[i]);
        if (looks[i].error && error && !*error)
            g_propagate_error(error, g_steal_pointer(&looks[i].error));
        else if (!same && error && !*error)
            vl_set_error(error, VL_ERR_CHANGED, "%s: its lease or its clients changed while it was looked at",
                         looks[i].volume->display);
        ok = ok && same;
        if (ok) {
            vl_look_clear(&take->look);
            take->look = looks[i];
        } else {
            vl_look_clear(&looks[i]);
        }
    }
    return ok;
}

static gboolean
step_fence_sets(Takeover *t, GError **error)
{
    for (guint i = 0; i < t->takes->len; i++) {
        VlTake *take = take_at(t, i);
        VlFenceQuestion question = {
            .record = take->record,
            .victims = take->blockers,
            .dead_ips = take->dead_ips,
            .never = take->never,
            .own_ips = t->daemon->host->ips,
            .watchers = take->look.watchers,
            .owner = take->look.owner,
            .dead_foreign_owner = take->dead_foreign_owner,
            .now = unix_now(),
        };
        g_clear_pointer(&take->set, g_ptr_array_unref);
        take->set = vl_rules_fence_set(&question);
        for (guint k = 0; k < take->never->len; k++)
            for (guint v = 0; v < take->blockers->len; v++)
                if (vl_addrs_has(((VlHolder *)take->blockers->pdata[v])->addrs, take->never->pdata[k])) {
                    vl_set_error(
                        error, VL_ERR_FENCE,
                        "%s: its dead holder used the kernel client %s, which other images of that host share; "
                        "it is never fenced automatically. Make sure that host is off, then: "
                        "virtleasectl release %s --force",
                        take->lease->volume->display, (char *)take->never->pdata[k], take->lease->volume->display);
                    return FALSE;
                }
    }
    return TRUE;
}

static VlClaim *
claim_make(Takeover *t, VlTake *take)
{
    VlClaim *claim = g_new0(VlClaim, 1);
    claim->id = g_strdup(take->claim_id);
    claim->host = g_strdup(t->daemon->host->id);
    claim->host_name = g_strdup(t->daemon->host->name);
    claim->session = vl_sessions_number(t->daemon->sessions, take->lease->volume->place);
    claim->uuid = g_strdup(t->vm ? t->vm->who.uuid : "");
    claim->vm = g_strdup(t->vm ? t->vm->name : "");
    claim->epoch = take->record->epoch + 1;
    claim->addrs = vl_addrs_copy(take->set);
    claim->since = unix_now();
    return claim;
}

/* Writes one record per take over `expect`; on success the leases know them. */
static gboolean
write_records(Takeover *t, VlRecord **next, gboolean over_claim, GError **error)
{
    guint n = t->takes->len;
    g_autofree VlLease **leases = g_new0(VlLease *, n);
    g_autofree GBytes **expect = g_new0(GBytes *, n);
    for (guint i = 0; i < n; i++) {
        leases[i] = take_at(t, i)->lease;
        expect[i] = over_claim ? take_at(t, i)->claimed_raw : take_at(t, i)->look.record;
    }
    return vl_cas_records(leases, next, expect, n, vl_deadline_in(STEP_S), error);
}

static gboolean
step_claim(Takeover *t, GError **error)
{
    guint n = t->takes->len;
    g_autofree VlRecord **next = g_new0(VlRecord *, n);
    for (guint i = 0; i < n; i++) {
        VlTake *take = take_at(t, i);
        take->claim_id = vl_random_id();
        claims_set(t->daemon, take->claim_id, TRUE);
        next[i] = vl_record_copy(take->record);
        g_clear_pointer(&next[i]->claim, vl_claim_free);
        next[i]->claim = claim_make(t, take);
    }
    gboolean ok = write_records(t, next, FALSE, error);
    for (guint i = 0; i < n; i++) {
        VlTake *take = take_at(t, i);
        const VlRecord *stored = take->lease->record;
        if (stored && stored->claim && g_str_equal(stored->claim->id, take->claim_id)) {
            take->claimed = vl_record_copy(stored);
            take->claimed_raw = g_bytes_ref(take->lease->raw);
        }
        vl_record_free(next[i]);
    }
    return ok;
}

/* Takes our claims back; what was fenced already stays noted. Only tries: a claim that stays behind is
 * struck by whoever finds this daemon's answer "not mine". */
static void
withdraw(Takeover *t)
{
    for (guint i = 0; i < t->takes->len; i++) {
        VlTake *take = take_at(t, i);
        if (take->claimed) {
            g_autoptr(VlRecord) next = vl_record_copy(take->claimed);
            g_clear_pointer(&next->claim, vl_claim_free);
            vl_fenced_into(next, take->set, t->fenced);
            gboolean empty = !next->holders->len && !next->fenced->len;
            VlRecord *write = empty ? NULL : next;
            g_autoptr(GError) error = NULL;
            if (!vl_cas_records(&take->lease, &write, &take->claimed_raw, 1, vl_deadline_in(STEP_S), &error))
                g_warning("%s: the claim could not be withdrawn: %s", take->lease->volume->display, error->message);
        }
    }
}

static gboolean
step_confirm(Takeover *t, GError **error)
{
    for (guint i = 0; i < t->takes->len; i++) {
        VlTake *take = take_at(t, i);
        for (guint k = 0; k < take->blockers->len; k++) {
            const VlHolder *victim = take->blockers->pdata[k];
            const VlVerdict *verdict = take->verdicts->pdata[k];
            gboolean asked = FALSE;
            for (guint before = 0; before < i && !asked; before++) /* one question per host and place is enough */
                for (guint b = 0; b < take_at(t, before)->blockers->len && !asked; b++)
                    asked =
                        take_at(t, before)->lease->volume->place == take->lease->volume->place &&
                        g_str_equal(((VlHolder *)take_at(t, before)->blockers->pdata[b])->who.host, victim->who.host);
            VlAsk ask = {take->lease->volume->key, &victim->who, NULL};
            if (verdict && !asked && !vl_verdict_confirm(take->lease->volume->place, &ask, verdict, t->call, error)) {
                g_autofree char *who = vl_holder_describe(victim);
                g_prefix_error(error, "%s is in use: %s: ", take->lease->volume->display, who);
                return FALSE;
            }
        }
    }
    return TRUE;
}

/* Immediately before the fence: a daemon that was stopped here as a whole may have been taken for dead itself, and its
 * claim struck by an owner that lives. */
static gboolean
step_still_claimed(Takeover *t, GError **error)
{
    guint n = t->takes->len;
    g_autofree VlLook *looks = g_new0(VlLook, n);
    for (guint i = 0; i < n; i++)
        looks[i].volume = take_at(t, i)->lease->volume;
    gboolean ok = looks[0].volume->place->store->ops->look(looks, n, VL_LOOK_RECORD, vl_call_within(t->call, STEP_S));
    for (guint i = 0; i < n; i++) {
        gboolean ours = looks[i].record && g_bytes_equal(looks[i].record, take_at(t, i)->claimed_raw);
        if (looks[i].error && error && !*error)
            g_propagate_error(error, g_steal_pointer(&looks[i].error));
        else if (!ours && error && !*error)
            vl_set_error(error, VL_ERR_CHANGED, "%s: this host's claim is gone; nobody was fenced",
                         looks[i].volume->display);
        ok = ok && ours;
        vl_look_clear(&looks[i]);
    }
    return ok;
}

/* All addresses of all volumes in one round per place. */
static gboolean
step_fence(Takeover *t, GError **error)
{
    g_autoptr(GHashTable) places = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
    for (guint i = 0; i < t->takes->len; i++) {
        VlTake *take = take_at(t, i);
        VlPlace *place = take->lease->volume->place;
        GPtrArray *all = g_hash_table_lookup(places, place);
        if (!all) {
            all = vl_addrs_new();
            g_hash_table_insert(places, place, all);
        }
        for (guint k = 0; k < take->set->len; k++)
            vl_addrs_add(all, take->set->pdata[k]);
    }
    GHashTableIter iter;
    gpointer place, all;
    g_hash_table_iter_init(&iter, places);
    while (g_hash_table_iter_next(&iter, &place, &all))
        if (!vl_fence_set(t->daemon, place, all, t->fenced, vl_deadline_in(FENCE_S), error)) {
            g_prefix_error(error, "%s is not taken over: ", take_at(t, 0)->lease->volume->display);
            return FALSE;
        }
    return TRUE;
}

/* On a shared volume the lock goes to and fro between all holders; those who are not taken from keep it (R13). */
static gboolean
of_a_survivor(const VlTake *take, const char *addr)
{
    for (guint i = 0; i < take->record->holders->len; i++) {
        const VlHolder *holder = take->record->holders->pdata[i];
        if (vl_addrs_has(holder->addrs, addr) && !g_ptr_array_find(take->blockers, holder, NULL))
            return TRUE;
    }
    return FALSE;
}

/* Behind the barrier nothing of the dead destination arrives any more; had it ever written, the exclusive lock would
 * not be with the source. */
static gboolean
check_never_wrote(const VlTake *take, const VlLook *look, GError **error)
{
    const VlHolder *previous = take->claimed->previous;
    if (previous && look->owner && look->owner->managed && vl_addrs_has(previous->addrs, look->owner->addr))
        return TRUE;
    vl_set_error(error, VL_ERR_STALE,
                 "%s: the destination of the migration is dead, and it cannot be shown that the VM never ran there: "
                 "its memory here "
                 "is stale and it may not go on. Destroy it here",
                 take->lease->volume->display);
    return FALSE;
}

/* What is seen after the barrier must be our claim, and nobody but the fenced. */
static gboolean
check_and_break(Takeover *t, VlTake *take, VlLook *look, GError **error)
{
    const char *name = take->lease->volume->display;
    if (!look->record || !g_bytes_equal(look->record, take->claimed_raw)) {
        vl_set_error(error, VL_ERR_CHANGED, "%s: another host went ahead with its takeover", name);
        return FALSE;
    }
    if (take->give_back)
        return check_never_wrote(take, look, error);
    if (!look->owner)
        return TRUE;
    if (!vl_addrs_has(take->set, look->owner->addr)) {
        if (t->daemon->settings->foreign_users == VL_FOREIGN_IGNORE || of_a_survivor(take, look->owner->addr))
            return TRUE;
        vl_set_error(error, VL_ERR_FENCE,
                     "%s: after fencing, its exclusive lock is owned by %s (%s), which is not a client of the dead "
                     "holder; nothing was broken. See who that is: rbd status, rbd lock ls",
                     name, look->owner->addr, look->owner->entity);
        return FALSE;
    }
    g_message("%s: breaking the exclusive lock of %s (%s)", name, look->owner->addr, look->owner->entity);
    return look->volume->place->store->ops->break_lock(look->volume, look->owner, vl_deadline_in(STEP_S), error);
}

static gboolean
step_break(Takeover *t, GError **error)
{
    guint n = t->takes->len;
    g_autofree VlLook *looks = g_new0(VlLook, n);
    for (guint i = 0; i < n; i++)
        looks[i].volume = take_at(t, i)->lease->volume;
    gboolean ok =
        looks[0].volume->place->store->ops->look(looks, n, VL_LOOK_RECORD | VL_LOOK_OWNER, vl_deadline_in(STEP_S));
    for (guint i = 0; i < n; i++) {
        if (looks[i].error && error && !*error)
            g_propagate_error(error, g_steal_pointer(&looks[i].error));
        ok = ok && check_and_break(t, take_at(t, i), &looks[i], error);
        vl_look_clear(&looks[i]);
    }
    return ok;
}

static gboolean
step_grant(Takeover *t, GError **error)
{
    guint n = t->takes->len;
    g_autofree VlRecord **next = g_new0(VlRecord *, n);
    for (guint i = 0; i < n; i++) {
        VlTake *take = take_at(t, i);
        if (take->give_back) {
            next[i] = vl_rules_given_back(take->claimed, &((VlHolder *)take->blockers->pdata[0])->who);
            g_clear_pointer(&next[i]->claim, vl_claim_free);
        } else if (t->vm) {
            g_autoptr(VlHolder) holder = vl_take_holder(t->daemon, t->vm, take->lease->volume->place);
            next[i] = vl_rules_granted(take->claimed, holder, take->lease->shared, take->blockers);
        } else {
            next[i] = vl_record_copy(take->claimed);
            g_clear_pointer(&next[i]->claim, vl_claim_free);
            for (guint k = 0; k < take->blockers->len; k++)
                vl_record_remove(next[i], &((VlHolder *)take->blockers->pdata[k])->who);
            next[i]->epoch++;
        }
        vl_fenced_into(next[i], take->set, t->fenced);
        if (!next[i]->holders->len && !next[i]->fenced->len)
            g_clear_pointer(&next[i], vl_record_free);
    }
    gboolean ok = write_records(t, next, TRUE, error);
    for (guint i = 0; i < n; i++)
        vl_record_free(next[i]);
    return ok;
}

/* The dead host's index is only a list for people; leftovers in it harm nobody. */
static void
tidy_indexes(Takeover *t)
{
    for (guint i = 0; i < t->takes->len; i++) {
        VlTake *take = take_at(t, i);
        VlPlace *place = take->lease->volume->place;
        g_autoptr(GPtrArray) keys = g_ptr_array_new();
        g_ptr_array_add(keys, take->lease->volume->key);
        for (guint k = 0; k < take->blockers->len; k++) {
            const char *host = ((VlHolder *)take->blockers->pdata[k])->who.host;
            if (!g_str_equal(host, t->daemon->host->id))
                (void)place->store->ops->index_del(place, host, keys, vl_deadline_in(STEP_S), NULL);
        }
    }
}

static gboolean
takeover_steps(Takeover *t, GError **error)
{
    if (!step_freeze(t, error) || !step_fence_sets(t, error) || !vl_call_check(t->call, "takeover", error))
        return FALSE;
    VL_FAULT("before-claim");
    if (!step_claim(t, error))
        return FALSE;
    VL_FAULT("after-claim");
    if (!step_confirm(t, error) || !vl_call_check(t->call, "takeover", error))
        return FALSE;
    VL_FAULT("before-fence");
    if (!step_still_claimed(t, error) || !step_fence(t, error))
        return FALSE;
    VL_FAULT("after-fence");
    if (!step_break(t, error))
        return FALSE;
    VL_FAULT("after-break");
    return step_grant(t, error);
}

gboolean
vl_takeover(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, const VlCall *call, GError **error)
{
    if (!takes->len)
        return TRUE;
    Takeover t = {daemon, vm, takes, call, g_ptr_array_new_with_free_func((GDestroyNotify)vl_fenced_free)};
    gboolean ok = takeover_steps(&t, error);
    if (!ok)
        withdraw(&t);
    else
        tidy_indexes(&t);
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = take_at(&t, i);
        if (take->claim_id)
            claims_set(daemon, take->claim_id, FALSE);
    }
    g_ptr_array_unref(t.fenced);
    VL_FAULT("after-takeover");
    return ok;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/rules.h"

#include "lockd/procinfo.h"

VlTakeStep
vl_rules_take(const VlRecord *record, const VlIncarnation *me, gboolean shared, GPtrArray *ret_blockers)
{
    if (vl_record_find(record, me) && !record->claim)
        return VL_TAKE_OURS;
    gboolean join = shared && record->shared;
    for (guint i = 0; i < record->holders->len && !join; i++)
        if (!vl_incarnation_equal(&((VlHolder *)record->holders->pdata[i])->who, me))
            g_ptr_array_add(ret_blockers, record->holders->pdata[i]);
    return ret_blockers->len || record->claim ? VL_TAKE_BLOCKED : VL_TAKE_FREE;
}

VlRecord *
vl_rules_granted(const VlRecord *record, const VlHolder *holder, gboolean shared, const GPtrArray *victims)
{
    VlRecord *next = vl_record_copy(record);
    for (guint i = 0; victims && i < victims->len; i++)
        vl_record_remove(next, &((VlHolder *)victims->pdata[i])->who);
    vl_record_remove(next, &holder->who);
    g_clear_pointer(&next->claim, vl_claim_free);
    g_clear_pointer(&next->previous, vl_holder_free);
    g_ptr_array_set_size(next->heirs, 0);
    g_ptr_array_add(next->holders, vl_holder_copy(holder));
    next->shared = shared;
    next->epoch = record->epoch + 1;
    return next;
}

static void
drop_heir(VlRecord *record, const VlIncarnation *who)
{
    VlHolder *heir = vl_record_find_heir(record, who);
    if (heir)
        g_ptr_array_remove(record->heirs, heir);
}

static void
park(VlRecord *record, const VlHolder *holder)
{
    VlHolder *parked = vl_holder_copy(holder);
    parked->held = FALSE;
    g_ptr_array_add(record->holders, parked);
    record->epoch++;
}

VlRecord *
vl_rules_handed_over(const VlRecord *record, const VlHolder *from, const VlHolder *to)
{
    VlRecord *next = vl_record_copy(record);
    vl_holder_free(next->previous);
    next->previous = vl_holder_copy(from);
    next->previous->held = FALSE;
    vl_record_remove(next, &from->who);
    drop_heir(next, &to->who);
    park(next, to);
    return next;
}

VlRecord *
vl_rules_given_back(const VlRecord *record, const VlIncarnation *who)
{
    VlRecord *next = vl_record_copy(record);
    vl_record_remove(next, who);
    park(next, record->previous);
    g_clear_pointer(&next->previous, vl_holder_free);
    return next;
}

gboolean
vl_rules_is_previous(const VlRecord *record, const VlIncarnation *who)
{
    return record->previous && vl_incarnation_equal(&record->previous->who, who);
}

gboolean
vl_rules_may_succeed(const VlRecord *record, const VlIncarnation *me, const VlHolder *previous)
{
    const VlHolder *holder = vl_record_find(record, me);
    return holder && holder->held && !record->claim && !record->shared &&
           vl_rules_is_previous(record, &previous->who) && record->previous->session == previous->session;
}

VlRecord *
vl_rules_freed(const VlRecord *record, const VlIncarnation *who, gint64 now)
{
    VlRecord *next = vl_record_copy(record);
    drop_heir(next, who);
    if (vl_record_remove(next, who)) {
        next->epoch++;
        g_clear_pointer(&next->previous, vl_holder_free);
        if (next->heirs->len && !next->holders->len) {
            g_autoptr(VlHolder) heir = g_ptr_array_steal_index(next->heirs, 0);
            park(next, heir);
        }
    } else if (vl_rules_is_previous(next, who)) {
        g_clear_pointer(&next->previous, vl_holder_free); /* nobody left to give it back to */
    }
    vl_record_expire_fences(next, now);
    if (next->holders->len || next->fenced->len || next->claim || next->heirs->len)
        return next;
    vl_record_free(next);
    return NULL;
}

/* ---- fencing ---- */

static gboolean
is_victim(const VlFenceQuestion *question, const VlHolder *holder)
{
    for (guint i = 0; i < question->victims->len; i++)
        if (vl_incarnation_equal(&((VlHolder *)question->victims->pdata[i])->who, &holder->who))
            return TRUE;
    return FALSE;
}

/* Two VMs of one host on a shared volume cannot tell their clients apart (both are on the host's IP), so each may have
 * recorded the other's. */
static gboolean
recorded_by_others(const VlFenceQuestion *question, const char *addr)
{
    for (guint i = 0; i < question->record->holders->len; i++) {
        const VlHolder *holder = question->record->holders->pdata[i];
        if (!is_victim(question, holder) && vl_addrs_has(holder->addrs, addr))
            return TRUE;
    }
    return FALSE;
}

/* An address that was seen, not recorded: fenced only when it can be nobody's but a victim's. */
static void
consider(const VlFenceQuestion *question, const char *addr, GPtrArray *set)
{
    g_autofree char *ip = vl_addr_ip(addr);
    if (!ip || question->record->shared || g_hash_table_contains(question->own_ips, ip))
        return;
    if (vl_addrs_has(question->dead_ips, ip) && !recorded_by_others(question, addr) &&
        !vl_addrs_has(question->never, addr))
        vl_addrs_add(set, addr);
}

static gboolean
lapsed(const VlFenced *fenced, gint64 now)
{
    return fenced->until < fenced->wanted && fenced->until <= now && fenced->wanted > now;
}

gboolean
vl_rules_fence_lapsed(const VlRecord *record, gint64 now)
{
    for (guint i = 0; record && i < record->fenced->len; i++)
        if (lapsed(record->fenced->pdata[i], now))
            return TRUE;
    return FALSE;
}

GPtrArray *
vl_rules_fence_set(const VlFenceQuestion *question)
{
    GPtrArray *set = vl_addrs_new();
    const VlClaim *claim = question->record->claim;
    for (guint i = 0; i < question->victims->len; i++) {
        const VlHolder *victim = question->victims->pdata[i];
        for (guint k = 0; k < victim->addrs->len; k++)
            if (!vl_addrs_has(question->never, victim->addrs->pdata[k]) &&
                !recorded_by_others(question, victim->addrs->pdata[k]))
                vl_addrs_add(set, victim->addrs->pdata[k]);
    }
    for (guint i = 0; claim && i < claim->addrs->len; i++)
        if (!recorded_by_others(question, claim->addrs->pdata[i]))
            vl_addrs_add(set, claim->addrs->pdata[i]);
    for (guint i = 0; i < question->record->fenced->len; i++) {
        const VlFenced *fenced = question->record->fenced->pdata[i];
        if (lapsed(fenced, question->now))
            vl_addrs_add(set, fenced->addr);
    }
    for (guint i = 0; question->watchers && i < question->watchers->len; i++)
        consider(question, ((VlWatcher *)question->watchers->pdata[i])->addr, set);
    if (question->owner)
        consider(question, question->owner->addr, set);
    if (question->owner && question->dead_foreign_owner && !vl_addrs_has(question->never, question->owner->addr))
        vl_addrs_add(set, question->owner->addr);
    return set;
}

gboolean
vl_watchers_have(const GPtrArray *watchers, const char *addr)
{
    for (guint i = 0; watchers && i < watchers->len; i++)
        if (g_str_equal(((VlWatcher *)watchers->pdata[i])->addr, addr))
            return TRUE;
    return FALSE;
}

GPtrArray *
vl_rules_unexplained(const VlRecord *record, const GPtrArray *watchers)
{
    GPtrArray *rest = g_ptr_array_new();
    for (guint i = 0; watchers && i < watchers->len; i++) {
        VlWatcher *watcher = watchers->pdata[i];
        gboolean known = FALSE;
        for (guint k = 0; k < record->holders->len && !known; k++)
            known = vl_addrs_has(((VlHolder *)record->holders->pdata[k])->addrs, watcher->addr);
        for (guint k = 0; k < record->fenced->len && !known; k++)
            known = g_str_equal(((VlFenced *)record->fenced->pdata[k])->addr, watcher->addr);
        if (!known)
            g_ptr_array_add(rest, watcher);
    }
    return rest;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/record.h"

#include <string.h>

char *
vl_random_id(void)
{
    char *id = g_uuid_string_random();
    char *to = id;
    for (const char *from = id; *from; from++)
        if (*from != '-')
            *to++ = *from;
    *to = '\0';
    return id;
}

/* ---- address sets ---- */

GPtrArray *
vl_addrs_new(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

GPtrArray *
vl_addrs_copy(const GPtrArray *addrs)
{
    GPtrArray *copy = vl_addrs_new();
    for (guint i = 0; addrs && i < addrs->len; i++)
        g_ptr_array_add(copy, g_strdup(addrs->pdata[i]));
    return copy;
}

gboolean
vl_addrs_has(const GPtrArray *addrs, const char *addr)
{
    for (guint i = 0; addrs && i < addrs->len; i++)
        if (g_str_equal(addrs->pdata[i], addr))
            return TRUE;
    return FALSE;
}

gboolean
vl_addrs_add(GPtrArray *addrs, const char *addr)
{
    if (vl_addrs_has(addrs, addr))
        return FALSE;
    g_ptr_array_add(addrs, g_strdup(addr));
    return TRUE;
}

gboolean
vl_addrs_equal(const GPtrArray *a, const GPtrArray *b)
{
    if (a->len != b->len)
        return FALSE;
    for (guint i = 0; i < a->len; i++)
        if (!vl_addrs_has(b, a->pdata[i]))
            return FALSE;
    return TRUE;
}

/* ---- incarnations, holders, claims ---- */

gboolean
vl_incarnation_equal(const VlIncarnation *a, const VlIncarnation *b)
{
    return a->pid == b->pid && a->start == b->start && g_strcmp0(a->host, b->host) == 0 &&
           g_strcmp0(a->boot, b->boot) == 0 && g_strcmp0(a->uuid, b->uuid) == 0;
}

void
vl_incarnation_copy(VlIncarnation *to, const VlIncarnation *from)
{
    to->host = g_strdup(from->host);
    to->boot = g_strdup(from->boot);
    to->uuid = g_strdup(from->uuid);
    to->pid = from->pid;
    to->start = from->start;
}

void
vl_incarnation_clear(VlIncarnation *who)
{
    g_clear_pointer(&who->host, g_free);
    g_clear_pointer(&who->boot, g_free);
    g_clear_pointer(&who->uuid, g_free);
}

VlHolder *
vl_holder_new(void)
{
    VlHolder *holder = g_new0(VlHolder, 1);
    holder->addrs = vl_addrs_new();
    return holder;
}

VlHolder *
vl_holder_copy(const VlHolder *holder)
{
    VlHolder *copy = g_new0(VlHolder, 1);
    *copy = *holder;
    vl_incarnation_copy(&copy->who, &holder->who);
    copy->machine = g_strdup(holder->machine);
    copy->host_name = g_strdup(holder->host_name);
    copy->vm = g_strdup(holder->vm);
    copy->token = g_strdup(holder->token);
    copy->addrs = vl_addrs_copy(holder->addrs);
    return copy;
}

void
vl_holder_free(VlHolder *holder)
{
    if (!holder)
        return;
    vl_incarnation_clear(&holder->who);
    g_free(holder->machine);
    g_free(holder->host_name);
    g_free(holder->vm);
    g_free(holder->token);
    g_ptr_array_unref(holder->addrs);
    g_free(holder);
}

VlClaim *
vl_claim_copy(const VlClaim *claim)
{
    if (!claim)
        return NULL;
    VlClaim *copy = g_new0(VlClaim, 1);
    *copy = *claim;
    copy->id = g_strdup(claim->id);
    copy->host = g_strdup(claim->host);
    copy->host_name = g_strdup(claim->host_name);
    copy->uuid = g_strdup(claim->uuid);
    copy->vm = g_strdup(claim->vm);
    copy->addrs = vl_addrs_copy(claim->addrs);
    return copy;
}

void
vl_claim_free(VlClaim *claim)
{
    if (!claim)
        return;
    g_free(claim->id);
    g_free(claim->host);
    g_free(claim->host_name);
    g_free(claim->uuid);
    g_free(claim->vm);
    g_ptr_array_unref(claim->addrs);
    g_free(claim);
}

void
vl_fenced_free(VlFenced *fenced)
{
    g_free(fenced->addr);
    g_free(fenced);
}

/* ---- records ---- */

VlRecord *
vl_record_new(void)
{
    VlRecord *record = g_new0(VlRecord, 1);
    record->holders = g_ptr_array_new_with_free_func((GDestroyNotify)vl_holder_free);
    record->heirs = g_ptr_array_new_with_free_func((GDestroyNotify)vl_holder_free);
    record->fenced = g_ptr_array_new_with_free_func((GDestroyNotify)vl_fenced_free);
    return record;
}

VlRecord *
vl_record_copy(const VlRecord *record)
{
    VlRecord *copy = vl_record_new();
    copy->epoch = record->epoch;
    copy->write = g_strdup(record->write);
    copy->shared = record->shared;
    copy->claim = vl_claim_copy(record->claim);
    for (guint i = 0; i < record->holders->len; i++)
        g_ptr_array_add(copy->holders, vl_holder_copy(record->holders->pdata[i]));
    for (guint i = 0; i < record->heirs->len; i++)
        g_ptr_array_add(copy->heirs, vl_holder_copy(record->heirs->pdata[i]));
    if (record->previous)
        copy->previous = vl_holder_copy(record->previous);
    for (guint i = 0; i < record->fenced->len; i++) {
        const VlFenced *fenced = record->fenced->pdata[i];
        vl_record_add_fence(copy, fenced->addr, fenced->at, fenced->until, fenced->wanted);
    }
    return copy;
}

void
vl_record_free(VlRecord *record)
{
    if (!record)
        return;
    g_free(record->write);
    g_ptr_array_unref(record->holders);
    g_ptr_array_unref(record->heirs);
    g_ptr_array_unref(record->fenced);
    vl_holder_free(record->previous);
    vl_claim_free(record->claim);
    g_free(record);
}

static VlHolder *
find_in(const GPtrArray *holders, const VlIncarnation *who)
{
    for (guint i = 0; i < holders->len; i++) {
        VlHolder *holder = holders->pdata[i];
        if (vl_incarnation_equal(&holder->who, who))
            return holder;
    }
    return NULL;
}

VlHolder *
vl_record_find(const VlRecord *record, const VlIncarnation *who)
{
    return find_in(record->holders, who);
}

VlHolder *
vl_record_find_heir(const VlRecord *record, const VlIncarnation *who)
{
    return find_in(record->heirs, who);
}

gboolean
vl_record_remove(VlRecord *record, const VlIncarnation *who)
{
    VlHolder *holder = vl_record_find(record, who);
    return holder && g_ptr_array_remove(record->holders, holder);
}

void
vl_record_expire_fences(VlRecord *record, gint64 now)
{
    for (guint i = record->fenced->len; i > 0; i--) {
        const VlFenced *fenced = record->fenced->pdata[i - 1];
        if (MAX(fenced->wanted, fenced->until) <= now)
            g_ptr_array_remove_index(record->fenced, i - 1);
    }
}

void
vl_record_add_fence(VlRecord *record, const char *addr, gint64 at, gint64 until, gint64 wanted)
{
    for (guint i = 0; i < record->fenced->len; i++) {
        VlFenced *fenced = record->fenced->pdata[i];
        if (g_str_equal(fenced->addr, addr)) {
            fenced->until = until;
            fenced->wanted = MAX(fenced->wanted, wanted);
            return;
        }
    }
    VlFenced *fenced = g_new0(VlFenced, 1);
    fenced->addr = g_strdup(addr);
    fenced->at = at;
    fenced->until = until;
    fenced->wanted = wanted;
    g_ptr_array_add(record->fenced, fenced);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/migration.h"

#include "lockd/incoming.h"

void
migration_put_source(Case *c, const char *volume, gboolean held)
{
    fake_put(c->store, volume, world_record(world_holder(c->b, "web1", held, B1, NULL), NULL));
    fake_watch(c->store, volume, B1);
    fake_own(c->store, volume, B1);
}

/* `rest` gets what is to be taken at once, or the number of it is asserted. */
gboolean
migration_begin_for(Case *c, double seconds, GPtrArray *rest)
{
    VlCall call = {.deadline = vl_deadline_in(seconds)};
    g_clear_error(&c->error);
    g_mutex_lock(&c->vm->op);
    gboolean ok = vl_incoming_begin(c->world->daemon, c->vm, c->vm->leases, rest, &call, &c->error);
    g_mutex_unlock(&c->vm->op);
    return ok;
}

void
migration_begin(Case *c)
{
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    g_assert_true(migration_begin_for(c, 20, rest));
    g_assert_cmpuint(rest->len, ==, 0);
    fake_counts_reset(c->store);
}

gboolean
migration_finish(Case *c, const char *state, double seconds)
{
    VlCall call = {.deadline = vl_deadline_in(seconds), .gone = &c->vm->exited};
    g_clear_error(&c->error);
    g_mutex_lock(&c->vm->op);
    gboolean ok = vl_incoming_finish(c->world->daemon, c->vm, state, &call, &c->error);
    g_mutex_unlock(&c->vm->op);
    return ok;
}

/* The record is the source's still, and we are its only heir. */
void
migration_assert_heir(Case *c, const char *volume)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    g_assert_true(case_is_theirs(c, volume));
    g_assert_cmpuint(record->epoch, ==, 7);
    g_assert_cmpuint(record->heirs->len, ==, 1);
    const VlHolder *heir = vl_record_find_heir(record, &c->vm->who);
    g_assert_nonnull(heir);
    g_assert_cmpstr(heir->token, ==, c->vm->token);
    g_assert_false(heir->held);
    world_assert_lease(c->vm, volume, VL_LEASE_INCOMING);
}

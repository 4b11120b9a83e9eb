/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/case.h"

const char *const case_volumes[2] = {"vol1", "vol2"};
const char *const case_addrs[2] = {B1, B2};

void
case_begin(Case *c, gboolean threads, const char *second)
{
    *c = (Case){.world = world_new(threads)};
    c->store = c->world->store;
    c->b = world_host(c->world, "b", NULL);
    c->vm = world_vm(c->world, "web1", 0, "vol1", second, NULL);
}

void
case_begin_dead(Case *c, guint n)
{
    case_begin(c, FALSE, n > 1 ? "vol2" : NULL);
    c->volumes = n;
    case_held_by_b(c, n);
    world_host_die(c->b);
}

void
case_end(Case *c)
{
    g_clear_error(&c->error);
    world_free(c->world);
}

void
case_held_by_b(Case *c, guint n)
{
    for (guint i = 0; i < n; i++) {
        fake_put(c->store, case_volumes[i], world_record(world_holder(c->b, "web1", TRUE, case_addrs[i], NULL), NULL));
        fake_watch(c->store, case_volumes[i], case_addrs[i]);
        fake_own(c->store, case_volumes[i], case_addrs[i]);
    }
}

gboolean
case_take(Case *c, guint wait_s, double seconds)
{
    g_clear_error(&c->error);
    return world_take(c->world, c->vm, wait_s, seconds, &c->error);
}

static void
hook(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    gboolean own = op == FAKE_RENEW || op == FAKE_WATCH || g_strcmp0(name, "host-a") == 0;
    if (c->done || (c->op == FAKE_OP_COUNT ? own : op != c->op) || ++c->seen != c->at)
        return;
    c->done = TRUE;
    c->act(c);
}

void
case_before(Case *c, FakeOp op, guint at, void (*act)(gpointer opaque))
{
    c->op = op;
    c->at = at;
    c->seen = 0;
    c->done = FALSE;
    c->act = act;
    fake_hook(c->store, hook, c);
}

void
case_assert_state(Case *c, const char *volume, const char *want)
{
    g_autofree char *state = fake_state(c->store, volume);
    if (g_strcmp0(state, want) != 0)
        g_error("%s is '%s', not '%s':\n%s", volume, state, want, fake_log(c->store));
}

gboolean
case_is_ours(Case *c, const char *volume)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    return record && vl_record_find(record, &c->vm->who);
}

gboolean
case_is_theirs(Case *c, const char *volume)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    return record && record->holders->len == 1 &&
           g_str_equal(((VlHolder *)record->holders->pdata[0])->who.host, c->b->id);
}

void
case_assert_refused(Case *c, guint wait_s, enum vl_error code, const char *pattern)
{
    g_assert_false(case_take(c, wait_s, 60));
    world_assert_error(c->error, code, pattern);
    for (guint i = 0; i < c->vm->leases->len; i++) {
        VlLease *lease = c->vm->leases->pdata[i];
        g_autoptr(VlRecord) record = fake_get(c->store, lease->volume->display);
        g_assert_false(record && vl_record_find(record, &c->vm->who));
        g_assert_cmpint(lease->state, ==, VL_LEASE_FREE);
    }
    g_autofree char *index = fake_index(c->store, c->world->place, "host-a");
    g_assert_cmpstr(index, ==, "");
}

void
case_assert_no_claim(Case *c)
{
    for (guint i = 0; i < c->volumes; i++) {
        g_autoptr(VlRecord) record = fake_get(c->store, case_volumes[i]);
        g_assert_true(!record || !record->claim);
    }
}

void
case_assert_taken(Case *c)
{
    for (guint i = 0; i < c->volumes; i++) {
        case_assert_state(c, case_volumes[i], "web1:parked");
        g_assert_true(case_is_ours(c, case_volumes[i]));
        g_assert_cmpint(fake_blocklist_get(c->store, case_addrs[i]), >, 0);
        g_autofree char *owner = fake_owner(c->store, case_volumes[i]);
        g_assert_null(owner);
        world_assert_lease(c->vm, case_volumes[i], VL_LEASE_PARKED);
    }
}

void
case_assert_untouched(Case *c)
{
    for (guint i = 0; i < c->volumes; i++) {
        case_assert_state(c, case_volumes[i], "web1:held");
        g_assert_true(case_is_theirs(c, case_volumes[i]));
        g_autofree char *owner = fake_owner(c->store, case_volumes[i]);
        g_assert_cmpstr(owner, ==, case_addrs[i]);
        world_assert_lease(c->vm, case_volumes[i], VL_LEASE_FREE);
    }
    g_assert_cmpuint(fake_blocklist_size(c->store), ==, 0);
    fake_assert_never(c->store, "fence");
    fake_assert_never(c->store, "break");
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A migration has come in: the destination's Acquire takes over from the source by token, or has inherited. At the end,
 * what the source does when the migration failed. */
#include "lockd/error.h"
#include "lockd/incoming.h"
#include "tests/unit/migration.h"

static void
assert_handed_over(Case *c, const char *volume)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    const VlHolder *me = vl_record_find(record, &c->vm->who);
    g_assert_nonnull(me);
    g_assert_false(me->held);
    g_assert_cmpstr(me->token, ==, c->vm->token);
    g_assert_cmpuint(record->holders->len, ==, 1);
    g_assert_cmpuint(record->heirs->len, ==, 0);
    g_assert_cmpuint(record->epoch, ==, 8);
    g_assert_cmpstr(record->previous->who.host, ==, "host-b");
    g_assert_true(vl_addrs_has(record->previous->addrs, B1));
    world_assert_lease(c->vm, volume, VL_LEASE_PARKED);
}

static void
assert_stale(Case *c, const char *state, const char *pattern)
{
    double began = world_seconds(c->world);
    fake_counts_reset(c->store);
    g_assert_false(migration_finish(c, state, 20));
    world_assert_error(c->error, VL_ERR_STALE, pattern);
    g_assert_cmpfloat(world_seconds(c->world) - began, <, 0.1);
    fake_assert_never(c->store, "cas");
    world_assert_lease(c->vm, "vol1", VL_LEASE_INCOMING);
}

static void
source_writes(gpointer opaque)
{
    Case *c = opaque;
    VlRecord *record = fake_get(c->store, "vol1");
    vl_addrs_add(((VlHolder *)record->holders->pdata[0])->addrs, B2);
    fake_put(c->store, "vol1", record);
}

/* ---- Acquire at the end ---- */

static void
test_token(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    migration_put_source(&c, "vol1", FALSE);
    migration_put_source(&c, "vol2", FALSE);
    migration_begin(&c);
    g_assert_true(migration_finish(&c, STATE, 20));
    assert_handed_over(&c, "vol1");
    assert_handed_over(&c, "vol2");
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 0);
    /* Asked again: answered from memory. */
    fake_counts_reset(c.store);
    g_assert_true(migration_finish(&c, STATE, 20));
    g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
    case_end(&c);
}

static void
test_wrong_token(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", FALSE);
    migration_begin(&c);
    assert_stale(&c, "vl1:tokem", "vol1: the source has run on*memory here is stale*on host node-b*");
    assert_stale(&c, "vl1:", "*run on*");
    migration_assert_heir(&c, "vol1");
    case_end(&c);
}

static void
test_no_token(void)
{
    static const char *const states[] = {NULL, "", "token", "vl2:token"};
    for (guint i = 0; i < G_N_ELEMENTS(states); i++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        migration_put_source(&c, "vol1", FALSE);
        migration_begin(&c);
        assert_stale(&c, states[i], "vol1: the source sent no lease token*");
        migration_assert_heir(&c, "vol1");
        case_end(&c);
    }
}

static void
source_stops(World *world, gpointer volume)
{
    VlRecord *record = fake_get(world->store, volume);
    ((VlHolder *)record->holders->pdata[0])->held = FALSE;
    fake_put(world->store, volume, record);
}

static void
test_waits_for_parked(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", TRUE);
    migration_begin(&c);
    world_at(c.world, 2, source_stops, (gpointer) "vol1");
    g_assert_true(migration_finish(&c, STATE, 20));
    g_assert_cmpfloat(world_seconds(c.world), >=, 2);
    g_assert_cmpfloat(world_seconds(c.world), <, 2.2);
    assert_handed_over(&c, "vol1");
    case_end(&c);
}

static void
test_never_parked(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", TRUE);
    migration_begin(&c);
    g_assert_false(migration_finish(&c, STATE, 5));
    world_assert_error(c.error, VL_ERR_CHANGED, "vol1: host node-b has not yet said that it stopped the VM");
    g_assert_cmpfloat(world_seconds(c.world), >=, 5);
    g_assert_cmpfloat(world_seconds(c.world), <, 6);
    fake_assert_never(c.store, "cas");
    migration_assert_heir(&c, "vol1");
    case_end(&c);
}

/* A third host has called the source dead: theirs to finish or to withdraw. */
static void
claim_withdrawn(World *world, gpointer opaque)
{
    VlRecord *record = fake_get(world->store, "vol1");
    g_clear_pointer(&record->claim, vl_claim_free);
    fake_put(world->store, "vol1", record);
}

static void
test_claimed(void)
{
    for (guint withdrawn = 0; withdrawn < 2; withdrawn++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        c.c = world_host(c.world, "c", NULL);
        migration_put_source(&c, "vol1", FALSE);
        migration_begin(&c);
        VlRecord *record = fake_get(c.store, "vol1");
        world_claim(record, c.c, "web1", B1);
        fake_put(c.store, "vol1", record);
        if (withdrawn)
            world_at(c.world, 1, claim_withdrawn, NULL);
        g_assert_cmpint(migration_finish(&c, STATE, 5), ==, (int)withdrawn);
        if (withdrawn) {
            assert_handed_over(&c, "vol1");
        } else {
            world_assert_error(c.error, VL_ERR_CHANGED, "*");
            case_assert_state(&c, "vol1", "web1:parked+claim:node-c");
            fake_assert_never(c.store, "cas");
        }
        case_end(&c);
    }
}

/* While it came in the lease was freed; went to another VM; to the same VM elsewhere; or the source ran on and struck
 * its heir. */
static void
test_went_elsewhere(void)
{
    static const char *const patterns[] = {"*leased by nobody now*", "*VM 'db1' on host node-b*",
                                           "*VM 'web1' on host node-c*", "*VM 'web1' on host node-b*"};
    for (guint i = 0; i < G_N_ELEMENTS(patterns); i++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        c.c = world_host(c.world, "c", NULL);
        migration_put_source(&c, "vol1", FALSE);
        migration_begin(&c);
        VlHolder *holder = i == 0 ? NULL : world_holder(i == 2 ? c.c : c.b, i == 1 ? "db1" : "web1", FALSE, NULL);
        fake_put(c.store, "vol1", i == 0 ? NULL : world_record(holder, NULL));
        assert_stale(&c, STATE, patterns[i]);
        case_end(&c);
    }
}

/* R16: the source's QEMU exits without any token on its way (a paused VM); we inherit. */
static void
test_inherited(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", FALSE);
    migration_begin(&c);
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    fake_put(c.store, "vol1", vl_rules_freed(record, &((VlHolder *)record->holders->pdata[0])->who, 0));
    g_assert_true(case_is_ours(&c, "vol1"));
    g_assert_true(migration_finish(&c, NULL, 20));
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    g_assert_nonnull(vl_lease_holder(world_lease(c.vm, "vol1")));
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

/* ---- in between ---- */

static void
test_finish_changed(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", FALSE);
    migration_begin(&c);
    case_before(&c, FAKE_CAS, 1, source_writes);
    g_assert_true(migration_finish(&c, STATE, 20));
    g_assert_true(c.done);
    assert_handed_over(&c, "vol1");
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_true(vl_addrs_has(record->previous->addrs, B2)); /* nothing of the source's is lost */
    case_end(&c);
}

static void
source_resumes(gpointer opaque)
{
    Case *c = opaque;
    VlRecord *record = fake_get(c->store, "vol1");
    VlHolder *holder = record->holders->pdata[0];
    holder->held = TRUE;
    g_free(holder->token);
    holder->token = g_strdup("another");
    fake_put(c->store, "vol1", record);
}

/* libvirt gave the migration up, and the source runs on: faster than our compare-and-swap. */
static void
test_source_resumes(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", FALSE);
    migration_begin(&c);
    case_before(&c, FAKE_CAS, 1, source_resumes);
    g_assert_false(migration_finish(&c, STATE, 20));
    world_assert_error(c.error, VL_ERR_STALE, "*run on*");
    case_assert_state(&c, "vol1", "web1:held");
    g_assert_true(case_is_theirs(&c, "vol1"));
    case_end(&c);
}

static void
test_storage_errors(void)
{
    for (guint i = 0; i < 3; i++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        migration_put_source(&c, "vol1", FALSE);
        migration_begin(&c);
        if (i == 0)
            fake_fault(c.store, FAKE_LOOK, "vol1", 1, 3, FAKE_ERROR, VL_ERR_STORAGE);
        else
            fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, i == 1 ? FAKE_ERROR : FAKE_LOST_ACK, VL_ERR_STORAGE);
        if (i == 2) /* neither the answer nor the reading back arrives: found as ours by the next look */
            fake_fault(c.store, FAKE_LOOK, "vol1", 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
        g_assert_true(migration_finish(&c, STATE, 20));
        assert_handed_over(&c, "vol1");
        case_end(&c);
    }
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", FALSE);
    migration_begin(&c);
    fake_fault(c.store, FAKE_LOOK, "vol1", 1, 1000000, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(migration_finish(&c, STATE, 5));
    world_assert_error(c.error, VL_ERR_STORAGE, "vol1: made to fail");
    g_assert_cmpfloat(world_seconds(c.world), <, 6);
    world_assert_lease(c.vm, "vol1", VL_LEASE_INCOMING);
    case_end(&c);
}

/* Two volumes: none is handed over before both can be. */
static void
test_all_or_nothing(void)
{
    for (guint other_token = 0; other_token < 2; other_token++) {
        Case c;
        case_begin(&c, FALSE, "vol2");
        migration_put_source(&c, "vol1", FALSE);
        migration_put_source(&c, "vol2", TRUE);
        migration_begin(&c);
        if (other_token) {
            VlRecord *record = fake_get(c.store, "vol2");
            VlHolder *holder = record->holders->pdata[0];
            g_free(holder->token);
            holder->token = g_strdup("another");
            fake_put(c.store, "vol2", record);
            assert_stale(&c, STATE, "vol2: *run on*");
        } else {
            g_assert_false(migration_finish(&c, STATE, 5));
            world_assert_error(c.error, VL_ERR_CHANGED, "vol2: *");
        }
        fake_assert_never(c.store, "cas");
        migration_assert_heir(&c, "vol1");
        migration_assert_heir(&c, "vol2");
        case_end(&c);
    }
}

/* ---- on the source, after a migration that failed ---- */

/* web1 runs here and was to go to host-b. */
static void
case_begin_source(Case *c, gboolean held)
{
    case_begin(c, FALSE, NULL);
    g_assert_true(case_take(c, 20, 60));
    VlRecord *record = fake_get(c->store, "vol1");
    vl_record_find(record, &c->vm->who)->held = held;
    g_ptr_array_add(record->heirs, world_holder(c->b, "web1", FALSE, NULL));
    fake_put(c->store, "vol1", record);
    if (held)
        vl_lease_set_state(world_lease(c->vm, "vol1"), VL_LEASE_HELD, "test");
    fake_counts_reset(c->store);
}

static void
forget(Case *c)
{
    g_mutex_lock(&c->vm->op);
    vl_stay_all(c->world->daemon, c->vm);
    g_mutex_unlock(&c->vm->op);
}

static guint
heirs(Case *c)
{
    g_autoptr(VlRecord) record = fake_get(c->store, "vol1");
    return record->heirs->len;
}

static void
test_forget(void)
{
    Case c;
    case_begin_source(&c, TRUE);
    forget(&c);
    g_assert_cmpuint(heirs(&c), ==, 0);
    case_assert_state(&c, "vol1", "web1:held");
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_cmpstr(vl_record_find(record, &c.vm->who)->token, ==, c.vm->token);
    /* Nothing to strike, nothing written. */
    fake_counts_reset(c.store);
    forget(&c);
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 0);
    case_end(&c);
}

/* PARKED: the migration may still succeed. Claimed: nothing is written. Not ours any more. */
static void
test_forget_not(void)
{
    for (guint i = 0; i < 3; i++) {
        Case c;
        case_begin_source(&c, i != 0);
        VlRecord *record = fake_get(c.store, "vol1");
        if (i == 1)
            world_claim(record, c.b, "web1", B1);
        if (i == 2)
            vl_record_remove(record, &c.vm->who);
        fake_put(c.store, "vol1", record);
        forget(&c);
        g_assert_cmpuint(heirs(&c), ==, 1);
        g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 0);
        case_end(&c);
    }
}

static void
test_forget_fails(void)
{
    Case c;
    case_begin_source(&c, TRUE);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    forget(&c);
    g_assert_cmpuint(heirs(&c), ==, 1);
    g_assert_true(world_logged(c.world, "VM web1: the heir of its failed migration still stands*"));
    world_assert_lease(c.vm, "vol1", VL_LEASE_HELD);
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hand-over/token", test_token);
    g_test_add_func("/hand-over/wrong-token", test_wrong_token);
    g_test_add_func("/hand-over/no-token", test_no_token);
    g_test_add_func("/hand-over/waits-for-parked", test_waits_for_parked);
    g_test_add_func("/hand-over/never-parked", test_never_parked);
    g_test_add_func("/hand-over/claimed", test_claimed);
    g_test_add_func("/hand-over/went-elsewhere", test_went_elsewhere);
    g_test_add_func("/hand-over/inherited", test_inherited);
    g_test_add_func("/hand-over/finish-changed", test_finish_changed);
    g_test_add_func("/hand-over/source-resumes", test_source_resumes);
    g_test_add_func("/hand-over/storage-errors", test_storage_errors);
    g_test_add_func("/hand-over/all-or-nothing", test_all_or_nothing);
    g_test_add_func("/hand-over/forget", test_forget);
    g_test_add_func("/hand-over/forget-not", test_forget_not);
    g_test_add_func("/hand-over/forget-fails", test_forget_fails);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A migration comes in: the destination's child before its QEMU starts. Its Acquire: test-hand-over.c. */
#include "lockd/error.h"
#include "lockd/free.h"
#include "lockd/incoming.h"
#include "tests/unit/migration.h"

/* ---- the child's call ---- */

static void
test_heir(void)
{
    Case c;
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", TRUE);
    g_assert_true(migration_begin_for(&c, 20, rest));
    g_assert_cmpuint(rest->len, ==, 0);
    migration_assert_heir(&c, "vol1");
    case_assert_state(&c, "vol1", "web1:held"); /* the source runs on */
    fake_assert_order(c.store, "index+ fake:rbd/vol1", "look vol1 r w", "cas vol1 web1:held", NULL);
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    g_assert_true(vl_addrs_has(world_lease(c.vm, "vol1")->baseline, B1)); /* never ours */
    case_end(&c);
}

/* Of migrations that failed before: to a third host, and to an earlier QEMU here. */
static void
test_older_heirs(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    c.c = world_host(c.world, "c", NULL);
    VlRecord *record = world_record(world_holder(c.b, "web1", TRUE, B1, NULL), NULL);
    g_ptr_array_add(record->heirs, world_holder(c.c, "web1", FALSE, NULL));
    VlHolder *earlier = world_holder(c.c, "web1", FALSE, NULL);
    g_free(earlier->who.host);
    earlier->who.host = g_strdup("host-a");
    g_ptr_array_add(record->heirs, earlier);
    fake_put(c.store, "vol1", record);
    migration_begin(&c);
    migration_assert_heir(&c, "vol1");
    case_end(&c);
}

/* Its own client is among the watchers when an incoming VM is adopted. */
static void
test_adopted(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", TRUE);
    world_lease(c.vm, "vol1")->open_already = TRUE;
    migration_begin(&c);
    g_assert_null(world_lease(c.vm, "vol1")->baseline);
    case_end(&c);
}

/* What the source does not hold is not inherited but taken at once, as a storage copy's target must be. */
static void
assert_rest(Case *c, const char *volume)
{
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    migration_put_source(c, "vol1", TRUE);
    g_assert_true(migration_begin_for(c, 20, rest));
    migration_assert_heir(c, "vol1");
    g_assert_cmpuint(rest->len, ==, 1);
    g_assert_true(rest->pdata[0] == world_lease(c->vm, volume));
    world_assert_lease(c->vm, volume, VL_LEASE_NONE);
    fake_assert_never(c->store, "cas vol2");
    VlCall call = {.deadline = vl_deadline_in(20)};
    g_clear_error(&c->error);
    g_mutex_lock(&c->vm->op);
    (void)vl_take_all(c->world->daemon, c->vm, rest, 20, &call, &c->error);
    g_mutex_unlock(&c->vm->op);
}

static void
test_free_volume(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    assert_rest(&c, "vol2");
    g_assert_no_error(c.error);
    case_assert_state(&c, "vol2", "web1:parked");
    world_assert_lease(c.vm, "vol1", VL_LEASE_INCOMING);
    case_end(&c);
}

static void
test_shared_volume(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    VlRecord *record = world_record(world_holder(c.b, "web1", TRUE, B2, NULL), NULL);
    record->shared = TRUE;
    fake_put(c.store, "vol2", record);
    fake_watch(c.store, "vol2", B2);
    world_lease(c.vm, "vol2")->shared = TRUE;
    assert_rest(&c, "vol2");
    g_assert_no_error(c.error);
    case_assert_state(&c, "vol2", "web1:held,web1:parked"); /* both ends have it */
    case_end(&c);
}

static void
test_other_vm(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    fake_put(c.store, "vol2", world_record(world_holder(c.b, "db1", TRUE, B2, NULL), NULL));
    assert_rest(&c, "vol2");
    world_assert_error(c.error, VL_ERR_HELD, "vol2 is in use: leased by VM 'db1' on host node-b*");
    case_assert_state(&c, "vol2", "db1:held");
    case_end(&c);
}

/* The same VM, but on this very host: no source of a migration. It is gone, and fenced before the lease is taken. */
static void
test_earlier_here(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    VlHolder *earlier = world_holder(c.b, "web1", TRUE, "10.0.0.1:0/4", NULL);
    g_free(earlier->who.host);
    earlier->who.host = g_strdup("host-a");
    fake_put(c.store, "vol2", world_record(earlier, NULL));
    assert_rest(&c, "vol2");
    g_assert_no_error(c.error);
    fake_assert_order(c.store, "fence 10.0.0.1:0/4", "cas vol2 web1:parked", NULL);
    case_end(&c);
}

static void
source_writes(gpointer opaque)
{
    Case *c = opaque;
    VlRecord *record = fake_get(c->store, "vol1");
    vl_addrs_add(((VlHolder *)record->holders->pdata[0])->addrs, B2);
    fake_put(c->store, "vol1", record);
}

/* The source's daemon writes at the same time (an audit, say): nothing of it is lost. */
static void
test_begin_changed(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    migration_put_source(&c, "vol1", TRUE);
    case_before(&c, FAKE_CAS, 1, source_writes);
    migration_begin(&c);
    g_assert_true(c.done);
    migration_assert_heir(&c, "vol1");
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_true(vl_addrs_has(((VlHolder *)record->holders->pdata[0])->addrs, B2));
    case_end(&c);
}

static void
test_begin_fails(void)
{
    static const FakeOp ops[] = {FAKE_INDEX_SET, FAKE_LOOK, FAKE_CAS, FAKE_CAS};
    static const enum vl_error codes[] = {VL_ERR_STORAGE, VL_ERR_STORAGE, VL_ERR_STORAGE, VL_ERR_CHANGED};
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        Case c;
        g_autoptr(GPtrArray) rest = g_ptr_array_new();
        case_begin(&c, FALSE, "vol2");
        migration_put_source(&c, "vol1", TRUE);
        migration_put_source(&c, "vol2", TRUE);
        fake_fault(c.store, ops[i], ops[i] == FAKE_INDEX_SET ? NULL : "vol2", 1, 1000000, FAKE_ERROR, codes[i]);
        g_assert_false(migration_begin_for(&c, 5, rest));
        world_assert_error(c.error, codes[i], "*");
        g_assert_cmpfloat(world_seconds(c.world), <, 6);
        world_assert_lease(c.vm, "vol1", VL_LEASE_NONE);
        world_assert_lease(c.vm, "vol2", VL_LEASE_NONE);
        /* libvirt ends the process; the exit path strikes the heir that was written already. */
        fake_faults_clear(c.store);
        vl_exit_begin(c.world->daemon, c.vm);
        world_finish_jobs(c.world);
        g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
        g_assert_cmpuint(record->heirs->len, ==, 0);
        g_assert_true(case_is_theirs(&c, "vol1"));
        case_end(&c);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/incoming/heir", test_heir);
    g_test_add_func("/incoming/older-heirs", test_older_heirs);
    g_test_add_func("/incoming/adopted", test_adopted);
    g_test_add_func("/incoming/free-volume", test_free_volume);
    g_test_add_func("/incoming/shared-volume", test_shared_volume);
    g_test_add_func("/incoming/other-vm", test_other_vm);
    g_test_add_func("/incoming/earlier-here", test_earlier_here);
    g_test_add_func("/incoming/begin-changed", test_begin_changed);
    g_test_add_func("/incoming/begin-fails", test_begin_fails);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A QEMU process of ours is gone, and something comes between that and its leases being free: another host's claim,
 * storage that does not answer, a write that was faster. */
#include "lockd/error.h"
#include "tests/unit/exiting.h"

static void
claimant_dies(World *world, gpointer opaque)
{
    world_host_die(((Case *)opaque)->b);
}

/* Somebody is taking it over: theirs to finish while they live; nothing is fenced or freed beside them. */
static void
test_claimed(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    VlRecord *record = fake_get(c.store, "vol1");
    world_claim(record, c.b, "web1", A1);
    fake_put(c.store, "vol1", record);
    world_at(c.world, 7, claimant_dies, &c);
    exiting_finish(&c);
    g_assert_cmpfloat(world_seconds(c.world), >=, 7 + 10);
    g_assert_true(world_logged(c.world, "*not free yet: vol1 is being taken over by host node-b*"));
    case_assert_state(&c, "vol1", "free");
    exiting_assert_fenced(&c, "vol1", A1);
    g_autoptr(VlRecord) after = fake_get(c.store, "vol1");
    g_assert_null(after->claim);
    case_end(&c);
}

static void
claimant_is_done(World *world, gpointer opaque)
{
    Case *c = opaque;
    fake_put(c->store, "vol1", world_record(world_holder(c->b, "web1", FALSE, NULL), NULL));
}

static void
test_taken_over(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    VlRecord *record = fake_get(c.store, "vol1");
    world_claim(record, c.b, "web1", A1);
    fake_put(c.store, "vol1", record);
    world_at(c.world, 3, claimant_is_done, &c);
    exiting_finish(&c);
    g_assert_true(case_is_theirs(&c, "vol1"));
    fake_assert_never(c.store, "fence");
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

/* Whatever does not answer is asked again; the lease is not free before all of it has been done. */
static void
test_errors(void)
{
    static const FakeOp ops[] = {FAKE_LOOK, FAKE_FENCE, FAKE_BARRIER, FAKE_BREAK, FAKE_CAS, FAKE_CAS};
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        Case c;
        exiting_case_begin(&c, 2);
        fake_fault(c.store, ops[i], NULL, 1, 5, i == 5 ? FAKE_LOST_ACK : FAKE_ERROR, VL_ERR_STORAGE);
        exiting_finish(&c);
        exiting_assert_fenced(&c, "vol1", A1);
        exiting_assert_fenced(&c, "vol2", A2);
        case_assert_state(&c, "vol1", "free");
        case_assert_state(&c, "vol2", "free");
        fake_assert_order(c.store, "fence " A1, "barrier rbd", "break vol1 " A1, "cas vol1 free", NULL);
        case_end(&c);
    }
}

static void
heir_comes(gpointer opaque)
{
    Case *c = opaque;
    VlRecord *record = fake_get(c->store, "vol1");
    g_ptr_array_add(record->heirs, world_holder(c->b, "web1", FALSE, NULL));
    fake_put(c->store, "vol1", record);
}

static void
test_changed(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    exiting_closed(&c, "vol1", A1);
    case_before(&c, FAKE_CAS, 1, heir_comes);
    exiting_finish(&c);
    g_assert_true(c.done);
    g_assert_true(case_is_theirs(&c, "vol1")); /* not freed over the heir's head */
    case_end(&c);
}

/* Once more, after the fence: the storage has dropped the watch of the fenced client, which does not mean that it went
 * by itself. The fence is still to be remembered (R6). */
static void
heir_comes_watch_goes(gpointer opaque)
{
    heir_comes(opaque);
    fake_unwatch(((Case *)opaque)->store, "vol1", A1);
}

static void
test_changed_after_fence(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    case_before(&c, FAKE_CAS, 1, heir_comes_watch_goes);
    exiting_finish(&c);
    g_assert_true(case_is_theirs(&c, "vol1"));
    exiting_assert_fenced(&c, "vol1", A1);
    case_end(&c);
}

/* An image that is gone, or a record nobody understands, does not keep the others. */
static void
test_hopeless(void)
{
    for (guint deleted = 0; deleted < 2; deleted++) {
        Case c;
        exiting_case_begin(&c, 2);
        if (deleted)
            fake_volume_delete(c.store, "vol1");
        else
            fake_put_text(c.store, "vol1", "{}");
        exiting_finish(&c);
        exiting_assert_fenced(&c, "vol2", A2);
        case_assert_state(&c, "vol2", "free");
        case_end(&c);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exit-errors/claimed", test_claimed);
    g_test_add_func("/exit-errors/taken-over", test_taken_over);
    g_test_add_func("/exit-errors/errors", test_errors);
    g_test_add_func("/exit-errors/changed", test_changed);
    g_test_add_func("/exit-errors/hopeless", test_hopeless);
    g_test_add_func("/exit-errors/changed-after-fence", test_changed_after_fence);
    return g_test_run();
}

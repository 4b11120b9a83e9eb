/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A dead host's volume is taken over: whom it fences, and who else is on the image.
 *
 * vol1 and vol2 are held by web1 on host-b (10.0.0.98), whose QEMU's clients B1 and B2 watch them and own their locks.
 * host-b is dead. web1 starts here, on host-a. */
#include "lockd/error.h"
#include "lockd/takeover.h"
#include "tests/unit/case.h"

#define HOUR 3600

/* ---- fencing ---- */

static void
test_fence_fails(void)
{
    static const FakeOp ops[] = {FAKE_FENCE, FAKE_BARRIER, FAKE_BREAK};
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        Case c;
        case_begin_dead(&c, 2);
        /* The second volume's only, where an op names one. */
        fake_fault(c.store, ops[i],
                   ops[i] == FAKE_FENCE   ? B2
                   : ops[i] == FAKE_BREAK ? "vol2"
                                          : NULL,
                   1, 100, FAKE_ERROR, VL_ERR_DENIED);
        g_assert_false(case_take(&c, 20, 60));
        g_assert_nonnull(c.error);
        if (ops[i] == FAKE_FENCE) {
            world_assert_error(c.error, VL_ERR_FENCE, "*" B2 "*");
            fake_assert_never(c.store, "barrier");
        }
        if (ops[i] != FAKE_BREAK)
            fake_assert_never(c.store, "break");
        fake_assert_never(c.store, "cas vol1 web1:parked");
        fake_assert_never(c.store, "cas vol2 web1:parked");
        case_assert_no_claim(&c);
        g_assert_true(case_is_theirs(&c, "vol1"));
        /* What was fenced is written down, whoever goes on. */
        g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
        g_assert_cmpuint(record->fenced->len, ==, 1);
        case_end(&c);
    }
}

/* An operator's (or librbd's own) entry was there first: the monitors keep its time and say "success". */
static void
test_shorter_entry(void)
{
    Case c;
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    case_begin_dead(&c, 1);
    fake_blocklist_put(c.store, B1, now + HOUR);
    g_assert_true(case_take(&c, 20, 60));
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    const VlFenced *fenced = record->fenced->pdata[0];
    g_assert_cmpint(fenced->until, ==, now + HOUR);
    g_assert_cmpint(fenced->wanted, >=, now + c.world->daemon->settings->blocklist_expire);
    g_assert_true(world_logged(c.world, "*" B1 " was already listed*"));
    g_assert_false(vl_rules_fence_lapsed(record, now + HOUR - 1));
    g_assert_true(vl_rules_fence_lapsed(record, now + HOUR + 1));
    case_end(&c);
}

/* It has lapsed, the holder's daemon (which had the duty to renew it) is gone, the record is free: set again first. */
static void
test_lapsed_entry(void)
{
    Case c;
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    case_begin_dead(&c, 1);
    VlRecord *record = world_record(NULL, NULL);
    vl_record_add_fence(record, "10.0.0.97:0/3", now - HOUR, now - 60, now + HOUR);
    fake_put(c.store, "vol1", record);
    fake_unwatch(c.store, "vol1", B1);
    fake_own(c.store, "vol1", NULL);
    g_assert_true(case_take(&c, 20, 60));
    fake_assert_order(c.store, "fence 10.0.0.97:0/3", "barrier", "cas vol1 web1:parked", NULL);
    case_end(&c);
}

static void
test_whole_host_refused(void)
{
    Case c;
    case_begin_dead(&c, 1);
    fake_put(c.store, "vol1", world_record(world_holder(c.b, "web1", TRUE, "10.0.0.98:0/0", NULL), NULL));
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_FENCE, "*10.0.0.98:0/0*");
    g_assert_cmpuint(fake_blocklist_size(c.store), <=, 1); /* B1 by the IP rule at most */
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.98:0/0"), ==, 0);
    g_assert_true(case_is_theirs(&c, "vol1"));
    case_assert_no_claim(&c);
    case_end(&c);
}

/* R14 */
static void
test_kernel_client(void)
{
    Case c;
    case_begin_dead(&c, 1);
    g_autoptr(VlIdentity) identity = world_identity(c.b);
    vl_addrs_add(identity->krbd, B1);
    fake_host_put(c.store, c.world->place, identity);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_FENCE, "*kernel client " B1 "*");
    case_assert_untouched(&c);
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

/* Which addresses are shared, or kernel clients', must be known before anybody is fenced by them. */
static void
test_sessions_unread(void)
{
    Case c;
    case_begin_dead(&c, 1);
    world_host(c.world, "c", NULL);
    fake_fault(c.store, FAKE_READ, "host-c", 1, 1000, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(case_take(&c, 20, 30));
    world_assert_error(c.error, VL_ERR_STORAGE, "*host-c*");
    case_assert_untouched(&c);
    fake_faults_clear(c.store);
    case_end(&c);
    case_begin_dead(&c, 1);
    fake_fault(c.store, FAKE_LIST, NULL, 1, 2, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_true(case_take(&c, 20, 60)); /* once it answers again, it goes on */
    case_end(&c);
}

/* ---- who is on the image ---- */

static void
newcomer(World *world, gpointer opaque)
{
    fake_watch(world->store, "vol1", "10.0.0.98:0/12");
}

/* While the verdict is being waited for, the dead daemon's QEMU opens the image anew (blockcopy, pivot): 0/12 is in no
 * record. The look before the verdict did not show it; taken over on that, it would go on writing beside us. */
static void
test_newcomer(void)
{
    Case c;
    case_begin_dead(&c, 1);
    world_at(c.world, 5, newcomer, NULL);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_taken(&c);
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.98:0/12"), >, 0);
    case_end(&c);
}

static void
owner_replaced(World *world, gpointer opaque)
{
    fake_watch(world->store, "vol1", "10.9.9.9:0/1");
    fake_own(world->store, "vol1", "10.9.9.9:0/1");
}

/* In that time the lock goes to a stranger, alive: it is judged, not fenced. */
static void
test_owner_replaced(void)
{
    Case c;
    case_begin_dead(&c, 1);
    world_at(c.world, 5, owner_replaced, NULL);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_FOREIGN, "*10.9.9.9:0/1*");
    fake_assert_never(c.store, "fence");
    fake_assert_never(c.store, "break");
    case_end(&c);
}

/* A dead foreign owner (no watch) is to be fenced; meanwhile the lock has gone to somebody alive. */
static void
foreign_owner_lives(gpointer opaque)
{
    owner_replaced(((Case *)opaque)->world, NULL);
}

static void
test_foreign_owner_replaced(void)
{
    Case c;
    case_begin_dead(&c, 1);
    fake_put(c.store, "vol1", NULL);
    fake_unwatch(c.store, "vol1", B1);
    case_before(&c, FAKE_LOOK, 2, foreign_owner_lives);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_FOREIGN, "*10.9.9.9:0/1*");
    g_assert_cmpint(fake_blocklist_get(c.store, "10.9.9.9:0/1"), ==, 0);
    g_autofree char *owner = fake_owner(c.store, "vol1");
    g_assert_cmpstr(owner, ==, "10.9.9.9:0/1");
    case_end(&c);
}

/* After the fence another owner is seen than the one that was frozen: not broken, nobody let in. */
static void
test_owner_after_fence(void)
{
    Case c;
    case_begin_dead(&c, 1);
    case_before(&c, FAKE_BARRIER, 1, foreign_owner_lives);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_FENCE, "*10.9.9.9:0/1*nothing was broken*");
    fake_assert_never(c.store, "break");
    case_assert_no_claim(&c);
    g_assert_true(case_is_theirs(&c, "vol1"));
    case_end(&c);
}

static void
owner_frees(World *world, gpointer opaque)
{
    fake_unwatch(world->store, "vol1", B1);
    fake_own(world->store, "vol1", NULL);
    fake_put(world->store, "vol1", NULL);
}

/* Just before the claim the owner (its QEMU exited, its daemon's last act) frees the lease: nobody needs fencing. */
static void
owner_frees_now(gpointer opaque)
{
    owner_frees(((Case *)opaque)->world, NULL);
}

static void
test_owner_frees(void)
{
    for (guint look = 2; look <= 3; look++) {
        Case c;
        case_begin_dead(&c, 1);
        case_before(&c, look == 2 ? FAKE_LOOK : FAKE_CAS, look == 2 ? 2 : 1, owner_frees_now);
        g_assert_true(case_take(&c, 20, 60));
        case_assert_state(&c, "vol1", "web1:parked");
        g_assert_cmpuint(fake_blocklist_size(c.store), ==, 0);
        case_end(&c);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/takeover/fence-fails", test_fence_fails);
    g_test_add_func("/takeover/shorter-entry", test_shorter_entry);
    g_test_add_func("/takeover/lapsed-entry", test_lapsed_entry);
    g_test_add_func("/takeover/whole-host-refused", test_whole_host_refused);
    g_test_add_func("/takeover/kernel-client", test_kernel_client);
    g_test_add_func("/takeover/sessions-unread", test_sessions_unread);
    g_test_add_func("/takeover/newcomer", test_newcomer);
    g_test_add_func("/takeover/owner-replaced", test_owner_replaced);
    g_test_add_func("/takeover/foreign-owner-replaced", test_foreign_owner_replaced);
    g_test_add_func("/takeover/owner-after-fence", test_owner_after_fence);
    g_test_add_func("/takeover/owner-frees", test_owner_frees);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A dead host's volume is taken over: the order of the steps, and what happens when anything comes between them. Whom
 * it fences: test-takeover-fence.c.
 *
 * vol1 and vol2 are held by web1 on host-b (10.0.0.98), whose QEMU's clients B1 and B2 watch them and own their locks.
 * host-b is dead. web1 starts here, on host-a. */
#include "lockd/error.h"
#include "lockd/takeover.h"
#include "tests/unit/case.h"

/* ---- the order ---- */

static void
test_order(void)
{
    Case c;
    case_begin_dead(&c, 1);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_taken(&c);
    fake_assert_order(c.store, "index+ fake:rbd/vol1", "look vol1 r w o", "challenge host-b", "challenge host-b",
                      "list rbd", "look vol1 r w o", "cas vol1 web1:held+claim:node-a", "challenge host-b",
                      "read host-b", "fence " B1, "barrier rbd", "look vol1 r o", "break vol1 " B1,
                      "cas vol1 web1:parked", "look vol1 r", NULL);
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 2);
    g_assert_cmpuint(fake_count(c.store, FAKE_FENCE), ==, 1);
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_cmpuint(record->epoch, ==, 8);
    g_assert_cmpuint(record->fenced->len, ==, 1);
    const VlFenced *fenced = record->fenced->pdata[0];
    g_assert_cmpstr(fenced->addr, ==, B1);
    g_assert_cmpint(fenced->until, ==, fake_blocklist_get(c.store, B1));
    g_assert_cmpint(fenced->until, ==, fenced->wanted);
    g_assert_false(vl_claims_have(c.world->daemon, "any"));
    case_end(&c);
}

/* Nothing is written that the step before has not allowed, whatever the store's ops are counted as. */
static void
test_order_two(void)
{
    Case c;
    case_begin_dead(&c, 2);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_taken(&c);
    fake_assert_order(c.store, "cas vol1 web1:held+claim", "cas vol2 web1:held+claim", "challenge host-b", "fence " B1,
                      "fence " B2, "barrier", "break vol1 " B1, "break vol2 " B2, "cas vol1 web1:parked",
                      "cas vol2 web1:parked", NULL);
    g_assert_cmpuint(fake_count(c.store, FAKE_FENCE), ==, 1); /* one round for all */
    g_assert_cmpuint(fake_count(c.store, FAKE_BARRIER), ==, 1);
    case_end(&c);
}

/* ---- the owner wakes ---- */

static void
wake(gpointer opaque)
{
    Case *c = opaque;
    fake_host_beat(c->store, c->world->place, c->b->id);
    world_host_wake(c->b);
}

/* The owner's daemon goes on (renews, answers) just before the k-th op, for each k: either it is noticed, and then
 * nothing is fenced, broken or left claimed; or it came too late, and then its lease is gone as well. Never fenced in
 * vain. */
static void
test_owner_wakes(void)
{
    guint too_late = 0, noticed = 0;
    for (guint k = 1;; k++) {
        Case c;
        case_begin_dead(&c, 2);
        case_before(&c, FAKE_OP_COUNT, k, wake);
        gboolean ok = case_take(&c, 20, 60);
        gboolean woke = c.done;
        case_assert_no_claim(&c);
        if (ok) {
            case_assert_taken(&c);
            too_late++;
        } else {
            world_assert_error(c.error, VL_ERR_HELD, "*on host node-b*");
            case_assert_untouched(&c);
            noticed++;
        }
        if (ok && c.done)
            g_assert_cmpuint(fake_blocklist_size(c.store), ==, 2);
        case_end(&c);
        if (!woke)
            break;
    }
    /* Until confirm has looked, every wake-up is noticed; afterwards none. */
    g_assert_cmpuint(noticed, >=, 20);
    g_assert_cmpuint(too_late, >=, 6);
}

/* Its daemon answers, but cannot write: the challenge of confirm finds it. */
static void
answers(gpointer opaque)
{
    Case *c = opaque;
    c->b->answer = VL_ANSWER_ALIVE;
}

static void
test_owner_answers(void)
{
    Case c;
    case_begin_dead(&c, 1);
    case_before(&c, FAKE_CAS, 1, answers);
    g_assert_false(case_take(&c, 20, 60));
    case_assert_untouched(&c);
    fake_assert_order(c.store, "cas vol1 web1:held+claim", "challenge host-b", "cas vol1 web1:held", NULL);
    case_end(&c);
}

static void
test_confirm_unknown(void)
{
    static const FakeOp ops[] = {FAKE_READ, FAKE_CHALLENGE};
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        Case c;
        case_begin_dead(&c, 1);
        g_assert_true(case_take(&c, 20, 60)); /* to learn how many come before confirm's */
        guint last = fake_count(c.store, ops[i]);
        case_end(&c);
        case_begin_dead(&c, 1);
        fake_fault(c.store, ops[i], "host-b", ops[i] == FAKE_CHALLENGE ? 3 : last - 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
        gboolean ok = case_take(&c, 20, 60);
        g_assert_true(ok); /* a later round finds it dead still; in between the claim is withdrawn */
        if (ops[i] == FAKE_CHALLENGE)
            fake_assert_order(c.store, "cas vol1 web1:held+claim", "challenge host-b !storage", "cas vol1 web1:held",
                              "cas vol1 web1:held+claim", "fence", NULL);
        case_assert_taken(&c);
        case_end(&c);
    }
}

/* ---- somebody else is faster ---- */

static void
other_claims(gpointer opaque)
{
    Case *c = opaque;
    c->c = world_host(c->world, "c", NULL);
    g_autoptr(VlRecord) record = fake_get(c->store, "vol1");
    world_claim(record, c->c, "web1", B1);
    fake_put(c->store, "vol1", vl_record_copy(record));
}

/* Two claimants: the lowest key decides. Who loses it has not touched the other volume, and has fenced nobody. */
static void
test_claim_lost(void)
{
    Case c;
    case_begin_dead(&c, 2);
    case_before(&c, FAKE_CAS, 1, other_claims);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_HELD, "*vol1*taken over by host node-c*");
    case_assert_state(&c, "vol1", "web1:held+claim:node-c");
    case_assert_state(&c, "vol2", "web1:held");
    fake_assert_never(c.store, "cas vol2");
    fake_assert_never(c.store, "fence");
    case_end(&c);
}

/* The same between claim and fence: our claim is not there any more (another host called us dead). */
static void
other_grants(gpointer opaque)
{
    Case *c = opaque;
    c->c = world_host(c->world, "c", NULL);
    fake_put(c->store, "vol1", world_record(world_holder(c->c, "web1", TRUE, "10.0.0.99:0/5", NULL), NULL));
    fake_own(c->store, "vol1", "10.0.0.99:0/5");
}

static void
test_lost_before_break(void)
{
    Case c;
    case_begin_dead(&c, 1);
    case_before(&c, FAKE_BARRIER, 1, other_grants);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_HELD, "*on host node-c*");
    fake_assert_never(c.store, "break");
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_cmpstr(((VlHolder *)record->holders->pdata[0])->who.host, ==, "host-c");
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.99:0/5"), ==, 0);
    case_end(&c);
}

/* And between break and grant. */
static void
test_lost_before_grant(void)
{
    Case c;
    case_begin_dead(&c, 1);
    case_before(&c, FAKE_CAS, 2, other_grants);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_HELD, "*on host node-c*");
    g_assert_false(case_is_ours(&c, "vol1"));
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.99:0/5"), ==, 0);
    case_end(&c);
}

static void
other_takes_vol2(gpointer opaque)
{
    Case *c = opaque;
    c->c = world_host(c->world, "c", NULL);
    fake_put(c->store, "vol2", world_record(world_holder(c->c, "db1", TRUE, "10.0.0.99:0/5", NULL), NULL));
}

/* All or nothing: vol1 was granted already when vol2 turned out to be lost. */
static void
test_all_or_nothing(void)
{
    Case c;
    case_begin_dead(&c, 2);
    case_before(&c, FAKE_CAS, 4, other_takes_vol2); /* claims of both, grant of vol1, grant of vol2 */
    g_assert_false(case_take(&c, 20, 60));
    g_assert_true(c.done);
    fake_assert_order(c.store, "cas vol1 web1:parked", "cas vol2 web1:parked !changed", "cas vol1 free", NULL);
    g_assert_false(case_is_ours(&c, "vol1"));
    g_assert_false(case_is_ours(&c, "vol2"));
    case_assert_state(&c, "vol1", "free");
    case_assert_state(&c, "vol2", "db1:held");
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_cmpuint(record->fenced->len, >=, 1); /* whoever comes next keeps B1 fenced (R6) */
    world_assert_lease(c.vm, "vol1", VL_LEASE_FREE);
    world_assert_lease(c.vm, "vol2", VL_LEASE_FREE);
    g_autofree char *index = fake_index(c.store, c.world->place, "host-a");
    g_assert_cmpstr(index, ==, "");
    case_end(&c);
}

/* ---- claims that were left behind ---- */

static void
put_claimed(Case *c, WorldHost *claimant)
{
    VlRecord *record = world_record(world_holder(c->b, "web1", TRUE, B1, NULL), NULL);
    world_claim(record, claimant, "web1", "10.0.0.98:0/77");
    fake_put(c->store, "vol1", record);
}

static void
test_dead_claimant(void)
{
    Case c;
    case_begin_dead(&c, 1);
    c.c = world_host(c.world, "c", NULL);
    world_host_die(c.c);
    put_claimed(&c, c.c);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_taken(&c);
    /* With its set: perhaps it had fenced the half of it. */
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.98:0/77"), >, 0);
    case_end(&c);
}

static void
test_living_claimant(void)
{
    Case c;
    case_begin_dead(&c, 1);
    c.c = world_host(c.world, "c", NULL);
    put_claimed(&c, c.c);
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_HELD, "*taken over by host node-c*");
    case_assert_state(&c, "vol1", "web1:held+claim:node-c");
    fake_assert_never(c.store, "cas");
    fake_assert_never(c.store, "fence");
    /* Its daemon lives, but that attempt of it is over. */
    c.c->answer = VL_ANSWER_NOT_MINE;
    case_end(&c);
}

static void
test_claim_given_up(void)
{
    Case c;
    case_begin_dead(&c, 1);
    c.c = world_host(c.world, "c", NULL);
    c.c->answer = VL_ANSWER_NOT_MINE;
    put_claimed(&c, c.c);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_taken(&c);
    case_end(&c);
}

/* Of an earlier life of this daemon, killed in mid-takeover. */
static void
test_own_old_claim(void)
{
    Case c;
    case_begin_dead(&c, 1);
    VlRecord *record = world_record(world_holder(c.b, "web1", TRUE, B1, NULL), NULL);
    world_claim(record, c.b, "web1", B1);
    g_free(record->claim->host);
    record->claim->host = g_strdup("host-a");
    fake_put(c.store, "vol1", record);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_taken(&c);
    case_end(&c);
}

/* ---- answers that are lost ---- */

/* R18: each compare-and-swap is done, but called failed; reading back tells. The lease is granted once. */
static void
test_lost_ack(void)
{
    for (guint nth = 1; nth <= 2; nth++) {
        for (guint v = 0; v < 2; v++) {
            Case c;
            case_begin_dead(&c, 2);
            fake_fault(c.store, FAKE_CAS, case_volumes[v], nth, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
            g_assert_true(case_take(&c, 20, 60));
            case_assert_taken(&c);
            g_assert_cmpuint(fake_count(c.store, FAKE_FENCE), ==, 1);
            g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
            g_assert_cmpuint(record->epoch, ==, 8);
            case_end(&c);
        }
    }
}

/* The write was done, its answer lost, and reading back fails as well: what is stored may be our claim or our
 * grant. Later rounds find that out. */
static void
test_lost_ack_and_read(void)
{
    for (guint nth = 1; nth <= 2; nth++) {
        Case c;
        case_begin_dead(&c, 1);
        fake_fault(c.store, FAKE_CAS, "vol1", nth, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
        fake_fault(c.store, FAKE_LOOK, "vol1", nth == 1 ? 3 : 4, 1, FAKE_ERROR, VL_ERR_STORAGE);
        g_assert_true(case_take(&c, 20, 60));
        case_assert_taken(&c);
        case_end(&c);
    }
}

/* Each op fails once, in turn: in the end the lease is ours, or the call says why not; never half of it. */
static void
test_each_fails_once(void)
{
    static const FakeOp ops[] = {FAKE_LOOK, FAKE_CAS,       FAKE_FENCE, FAKE_BARRIER,   FAKE_BREAK,
                                 FAKE_READ, FAKE_CHALLENGE, FAKE_LIST,  FAKE_INDEX_SET, FAKE_INDEX_DEL};
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        for (guint nth = 1; nth <= 6; nth++) {
            Case c;
            case_begin_dead(&c, 2);
            fake_fault(c.store, ops[i], NULL, nth, 1, FAKE_ERROR, VL_ERR_STORAGE);
            if (case_take(&c, 20, 60)) {
                case_assert_taken(&c);
            } else {
                g_assert_false(case_is_ours(&c, "vol1"));
                g_assert_false(case_is_ours(&c, "vol2"));
            }
            case_assert_no_claim(&c);
            case_end(&c);
        }
    }
}

/* R19: the child is gone. Before the claim it stops; a claim that stands already is withdrawn. */
static void
child_gone(gpointer opaque)
{
    g_atomic_int_set(&((Case *)opaque)->vm->exited, 1);
}

static void
test_child_gone(void)
{
    for (guint nth = 1; nth <= 2; nth++) {
        Case c;
        case_begin_dead(&c, 1);
        case_before(&c, nth == 1 ? FAKE_LOOK : FAKE_CAS, nth == 1 ? 2 : 1, child_gone);
        g_assert_false(case_take(&c, 20, 60));
        world_assert_error(c.error, VL_ERR_CANCELLED, "*");
        case_assert_untouched(&c);
        case_assert_no_claim(&c);
        if (nth == 1)
            fake_assert_never(c.store, "cas");
        case_end(&c);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/takeover/order", test_order);
    g_test_add_func("/takeover/order-two", test_order_two);
    g_test_add_func("/takeover/owner-wakes", test_owner_wakes);
    g_test_add_func("/takeover/owner-answers", test_owner_answers);
    g_test_add_func("/takeover/confirm-unknown", test_confirm_unknown);
    g_test_add_func("/takeover/claim-lost", test_claim_lost);
    g_test_add_func("/takeover/lost-before-break", test_lost_before_break);
    g_test_add_func("/takeover/lost-before-grant", test_lost_before_grant);
    g_test_add_func("/takeover/all-or-nothing", test_all_or_nothing);
    g_test_add_func("/takeover/dead-claimant", test_dead_claimant);
    g_test_add_func("/takeover/living-claimant", test_living_claimant);
    g_test_add_func("/takeover/claim-given-up", test_claim_given_up);
    g_test_add_func("/takeover/own-old-claim", test_own_old_claim);
    g_test_add_func("/takeover/lost-ack", test_lost_ack);
    g_test_add_func("/takeover/lost-ack-and-read", test_lost_ack_and_read);
    g_test_add_func("/takeover/each-fails-once", test_each_fails_once);
    g_test_add_func("/takeover/child-gone", test_child_gone);
    return g_test_run();
}

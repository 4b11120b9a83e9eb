/* SPDX-License-Identifier: LGPL-2.1-or-later
 * PARKED <-> HELD, of a VM whose "QEMU" is this very test process. What a resume that failed half-way leaves behind:
 * test-resume.c. */
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/hold.h"
#include "tests/unit/qemu.h"

#define OWN   QEMU_ADDR
#define OTHER "10.0.0.98:0/5"

typedef struct {
    World *world;
    FakeStore *store;
    WorldHost *b;
    VlVm *vm;
    GError *error;
} Case;

static void
case_adopt(Case *c, World *world, VlVm *vm)
{
    *c = (Case){.world = world, .store = world->store, .vm = vm};
    c->b = world_host(world, "b", NULL);
    g_assert_true(world_take(world, vm, 20, 60, &c->error));
    g_assert_no_error(c->error);
}

/* web1 has been granted vol1 (and vol2); its QEMU has not opened anything yet. */
static void
case_begin(Case *c, const char *second)
{
    World *world = world_new(FALSE);
    case_adopt(c, world, world_vm(world, "web1", getpid(), "vol1", second, NULL));
}

static void
case_end(Case *c)
{
    g_clear_error(&c->error);
    world_free(c->world);
}

static gboolean
hold_for(Case *c, double seconds)
{
    g_clear_error(&c->error);
    return qemu_hold(c->world, c->vm, seconds, &c->error);
}

static gboolean
hold(Case *c)
{
    return hold_for(c, 30);
}

static const VlHolder *
stored(Case *c, const char *volume, VlRecord **ret_record)
{
    *ret_record = fake_get(c->store, volume);
    g_assert_nonnull(*ret_record);
    return vl_record_find(*ret_record, &c->vm->who);
}

static void
assert_held(Case *c, const char *volume)
{
    g_autoptr(VlRecord) record = NULL;
    const VlHolder *holder = stored(c, volume, &record);
    g_assert_nonnull(holder);
    g_assert_true(holder->held);
    g_assert_cmpstr(holder->token, ==, c->vm->token);
    g_assert_true(vl_addrs_has(holder->addrs, OWN));
    world_assert_lease(c->vm, volume, VL_LEASE_HELD);
}

/* ---- the usual ---- */

static void
test_first(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    g_assert_false(c.vm->ever_held);
    g_assert_true(hold(&c));
    assert_held(&c, "vol1");
    g_assert_true(c.vm->ever_held);
    g_assert_true(c.vm->running);
    case_end(&c);
}

/* Round trips: one look at the watchers and one write, however many disks: all go out together. */
static void
assert_resume(Case *c, guint looks, guint writes)
{
    fake_counts_reset(c->store);
    g_assert_true(hold(c));
    g_assert_cmpuint(fake_count(c->store, FAKE_LOOK), ==, looks);
    g_assert_cmpuint(fake_count(c->store, FAKE_CAS), ==, writes);
    g_assert_cmpuint(fake_round_trips(c->store), ==, looks + writes);
    /* While held, libvirt's repeated calls are answered from memory. */
    fake_counts_reset(c->store);
    g_assert_true(hold(c));
    g_assert_cmpuint(fake_round_trips(c->store), ==, 0);
}

static void
test_round_trips(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    assert_resume(&c, 1, 1);
    qemu_park(c.world, c.vm);
    assert_resume(&c, 1, 1);
    case_end(&c);

    World *world = world_new(FALSE);
    case_adopt(&c, world, world_vm(world, "web1", getpid(), "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", NULL));
    qemu_opens(c.world, c.vm);
    assert_resume(&c, 1, 1);
    qemu_park(c.world, c.vm);
    assert_resume(&c, 1, 1);
    case_end(&c);
}

/* R2: a new token at every PARKED -> HELD; Release and Inquire show the current one and change nothing. */
static void
test_token(void)
{
    Case c;
    case_begin(&c, "vol2");
    qemu_opens(c.world, c.vm);
    g_autofree char *taken = vl_hold_state(c.vm);
    g_assert_true(hold(&c));
    g_autofree char *first = vl_hold_state(c.vm);
    g_assert_cmpstr(first, !=, taken);
    g_assert_true(g_str_has_prefix(first, VL_STATE_PREFIX));
    qemu_park(c.world, c.vm);
    g_autofree char *released = vl_hold_state(c.vm);
    g_assert_cmpstr(released, ==, first);
    g_autoptr(VlRecord) record = NULL;
    g_assert_cmpstr(stored(&c, "vol1", &record)->token, ==, c.vm->token);
    qemu_park(c.world, c.vm); /* libvirt calls Release twice */
    g_autofree char *again = vl_hold_state(c.vm);
    g_assert_cmpstr(again, ==, first);
    g_assert_true(hold(&c));
    g_autofree char *second = vl_hold_state(c.vm);
    g_assert_cmpstr(second, !=, first);
    assert_held(&c, "vol1");
    assert_held(&c, "vol2");
    g_assert_true(hold(&c));
    g_autofree char *same = vl_hold_state(c.vm);
    g_assert_cmpstr(same, ==, second);
    case_end(&c);
}

/* A hold that fails leaves the old token in force. */
static void
test_token_kept(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    g_autofree char *before = vl_hold_state(c.vm);
    fake_fault(c.store, FAKE_CAS, NULL, 1, 100000, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(hold_for(&c, 5));
    world_assert_error(c.error, VL_ERR_STORAGE, "*vol1*made to fail*"); /* the reason, not only that time is over */
    g_autofree char *after = vl_hold_state(c.vm);
    g_assert_cmpstr(after, ==, before);
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    g_assert_false(c.vm->running);
    case_end(&c);
}

/* Stopped and resumed before the background had time to write "parked": it must not be written afterwards. */
static void
test_resumed_at_once(void)
{
    Case c;
    VlCall call = {0};
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    g_assert_true(hold(&c));
    fake_counts_reset(c.store);
    call.deadline = vl_deadline_in(30);
    g_mutex_lock(&c.vm->op);
    vl_park_all(c.world->daemon, c.vm);
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    g_assert_true(vl_hold_all(c.world->daemon, c.vm, &call, NULL));
    g_mutex_unlock(&c.vm->op);
    world_finish_jobs(c.world);
    assert_held(&c, "vol1");
    fake_assert_never(c.store, "cas vol1 web1:parked");
    case_end(&c);
}

/* R2: parking leaves a token alone that somebody else has written: with ours nothing is handed over then. */
static void
test_other_token(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    g_assert_true(hold(&c));
    VlRecord *record = fake_get(c.store, "vol1");
    VlHolder *holder = vl_record_find(record, &c.vm->who);
    g_free(holder->token);
    holder->token = g_strdup("another");
    fake_put(c.store, "vol1", record);
    qemu_park(c.world, c.vm);
    g_autoptr(VlRecord) after = NULL;
    g_assert_cmpstr(stored(&c, "vol1", &after)->token, ==, "another");
    case_end(&c);
}

/* ---- the record is another one ---- */

/* Our own daemon's audit wrote it meanwhile (a fence noted, say): read again, go on, keep what was added. */
static void
test_changed_but_ours(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    VlRecord *record = fake_get(c.store, "vol1");
    vl_record_add_fence(record, OTHER, 1, 2000000000, 2000000000);
    fake_put(c.store, "vol1", record);
    g_assert_true(hold(&c));
    assert_held(&c, "vol1");
    g_autoptr(VlRecord) after = fake_get(c.store, "vol1");
    g_assert_cmpuint(after->fenced->len, ==, 1);
    case_end(&c);
}

/* R18: written, but the answer was lost, or the store's second try found the first. */
static void
test_lost_ack(void)
{
    static const enum vl_error codes[] = {VL_ERR_STORAGE, VL_ERR_CHANGED};
    for (guint i = 0; i < G_N_ELEMENTS(codes); i++) {
        Case c;
        case_begin(&c, NULL);
        qemu_opens(c.world, c.vm);
        fake_counts_reset(c.store);
        fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, codes[i]);
        g_assert_true(hold(&c));
        assert_held(&c, "vol1");
        g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 1);
        case_end(&c);
    }
}

/* R1: somebody else's, or free: this memory is stale, however PARKED we think we are. */
static void
test_stale(void)
{
    for (guint is_free = 0; is_free < 2; is_free++) {
        Case c;
        case_begin(&c, NULL);
        qemu_opens(c.world, c.vm);
        fake_put(c.store, "vol1", is_free ? NULL : world_record(world_holder(c.b, "web1", TRUE, OTHER, NULL), NULL));
        g_assert_false(hold(&c));
        world_assert_error(c.error, VL_ERR_STALE, is_free ? "vol1 *(free now)*stale*" : "vol1 *on host node-b*stale*");
        world_assert_lease(c.vm, "vol1", VL_LEASE_LOST);
        g_assert_false(c.vm->running);
        g_autofree char *state = fake_state(c.store, "vol1");
        g_assert_cmpstr(state, ==, is_free ? "-" : "web1:held");
        /* And it stays so, without asking again. */
        fake_counts_reset(c.store);
        g_assert_false(hold(&c));
        world_assert_error(c.error, VL_ERR_STALE, "vol1*lost*");
        g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
        case_end(&c);
    }
}

static void
test_all_or_nothing(void)
{
    Case c;
    case_begin(&c, "vol2");
    qemu_opens(c.world, c.vm);
    g_autofree char *token = g_strdup(c.vm->token);
    fake_put(c.store, "vol2", world_record(world_holder(c.b, "web1", TRUE, OTHER, NULL), NULL));
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_STALE, "vol2*");
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    world_assert_lease(c.vm, "vol2", VL_LEASE_LOST);
    g_assert_cmpstr(c.vm->token, ==, token);
    g_assert_false(c.vm->ever_held);
    case_end(&c);
}

/* Somebody takes us for dead: while its claim stands we change nothing; a dead claimant's is struck. */
static void
put_claim(Case *c)
{
    VlRecord *record = fake_get(c->store, "vol1");
    world_claim(record, c->b, "web1", OWN);
    fake_put(c->store, "vol1", record);
}

static void
test_claimed(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    put_claim(&c);
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_HELD, "*taken over by host node-b*");
    g_autofree char *state = fake_state(c.store, "vol1");
    g_assert_cmpstr(state, ==, "web1:parked+claim:node-b");
    world_host_die(c.b);
    g_assert_true(hold(&c));
    assert_held(&c, "vol1");
    case_end(&c);
}

/* ---- addresses (R3) ---- */

static void
test_no_address(void)
{
    Case c;
    case_begin(&c, NULL);
    double began = world_seconds(c.world);
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_NO_ADDRESS, "vol1: no client of this QEMU*");
    g_assert_cmpfloat(world_seconds(c.world) - began, >=, 3);
    g_assert_cmpfloat(world_seconds(c.world) - began, <, 4);
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    /* On addresses that none of its sockets has: not its own. */
    fake_watch(c.store, "vol1", OTHER);
    fake_watch(c.store, "vol1", "127.0.0.2:0/9");
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_NO_ADDRESS, "*");
    g_autofree char *state = fake_state(c.store, "vol1");
    g_assert_cmpstr(state, ==, "web1:parked");
    qemu_opens(c.world, c.vm);
    g_assert_true(hold(&c));
    g_autoptr(VlRecord) record = NULL;
    g_assert_cmpuint(stored(&c, "vol1", &record)->addrs->len, ==, 1);
    case_end(&c);
}

/* One of two images shows no client: neither is granted. */
static void
test_one_address_missing(void)
{
    Case c;
    case_begin(&c, "vol2");
    fake_watch(c.store, "vol1", OWN);
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_NO_ADDRESS, "vol2: *");
    fake_assert_never(c.store, "cas vol1 web1:held");
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    case_end(&c);
}

static void
opens(World *world, gpointer opaque)
{
    qemu_opens(world, opaque);
}

static void
test_address_late(void)
{
    Case c;
    case_begin(&c, NULL);
    world_at(c.world, 1, opens, c.vm);
    g_assert_true(hold(&c));
    assert_held(&c, "vol1");
    case_end(&c);
}

/* A client that was there before this QEMU was, on the same address, is somebody else's. */
static void
test_baseline(void)
{
    Case c;
    World *world = world_new(FALSE);
    VlVm *vm = world_vm(world, "web1", getpid(), "vol1", NULL);
    world->daemon->settings->foreign_users = VL_FOREIGN_IGNORE;
    fake_watch(world->store, "vol1", "127.0.0.1:0/1");
    case_adopt(&c, world, vm);
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_NO_ADDRESS, "*");
    qemu_opens(c.world, c.vm);
    g_assert_true(hold(&c));
    g_autoptr(VlRecord) record = NULL;
    const VlHolder *holder = stored(&c, "vol1", &record);
    g_assert_cmpuint(holder->addrs->len, ==, 1);
    g_assert_true(vl_addrs_has(holder->addrs, OWN));
    case_end(&c);
}

/* Reopened while it was paused: the new client is written down before the CPUs run, the old one kept. */
static void
test_reopened(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    g_assert_true(hold(&c));
    qemu_park(c.world, c.vm);
    fake_unwatch(c.store, "vol1", OWN);
    fake_watch(c.store, "vol1", "127.0.0.1:0/222");
    g_assert_true(hold(&c));
    g_autoptr(VlRecord) record = NULL;
    const VlHolder *holder = stored(&c, "vol1", &record);
    g_assert_true(vl_addrs_has(holder->addrs, OWN));
    g_assert_true(vl_addrs_has(holder->addrs, "127.0.0.1:0/222"));
    case_end(&c);
}

/* All its clients are gone (the image was closed under it): what is recorded is no proof that it can be fenced. */
static void
test_closed(void)
{
    Case c;
    case_begin(&c, NULL);
    qemu_opens(c.world, c.vm);
    g_assert_true(hold(&c));
    qemu_park(c.world, c.vm);
    fake_unwatch(c.store, "vol1", OWN);
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_NO_ADDRESS, "*");
    case_end(&c);
}

/* R19 */
static void
test_gone(void)
{
    Case c;
    case_begin(&c, NULL);
    g_atomic_int_set(&c.vm->exited, 1);
    g_assert_false(hold(&c));
    world_assert_error(c.error, VL_ERR_CANCELLED, "*");
    fake_assert_never(c.store, "cas vol1 web1:held");
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_connect();
    g_test_add_func("/hold/first", test_first);
    g_test_add_func("/hold/round-trips", test_round_trips);
    g_test_add_func("/hold/token", test_token);
    g_test_add_func("/hold/token-kept", test_token_kept);
    g_test_add_func("/hold/resumed-at-once", test_resumed_at_once);
    g_test_add_func("/hold/other-token", test_other_token);
    g_test_add_func("/hold/changed-but-ours", test_changed_but_ours);
    g_test_add_func("/hold/lost-ack", test_lost_ack);
    g_test_add_func("/hold/stale", test_stale);
    g_test_add_func("/hold/all-or-nothing", test_all_or_nothing);
    g_test_add_func("/hold/claimed", test_claimed);
    g_test_add_func("/hold/no-address", test_no_address);
    g_test_add_func("/hold/one-address-missing", test_one_address_missing);
    g_test_add_func("/hold/address-late", test_address_late);
    g_test_add_func("/hold/baseline", test_baseline);
    g_test_add_func("/hold/reopened", test_reopened);
    g_test_add_func("/hold/closed", test_closed);
    g_test_add_func("/hold/gone", test_gone);
    int result = g_test_run();
    qemu_disconnect();
    return result;
}

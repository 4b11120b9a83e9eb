/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A resume of eight disks of which only some could be written. libvirt is told "no" and keeps the old token, so a
 * migration of the paused VM would present that one: every record must have it, and none may say HELD. */
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/hold.h"
#include "lockd/incoming.h"
#include "tests/unit/qemu.h"

#define DISKS 8

typedef struct {
    World *world;
    FakeStore *store;
    VlVm *vm;
    char *token; /* the one that libvirt has */
} Case;

static const char *const disks[DISKS] = {"v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"};

/* web1 ran and was stopped. */
static void
case_begin(Case *c)
{
    World *world = world_new(FALSE);
    *c = (Case){.world = world, .store = world->store};
    c->vm = world_vm(world, "web1", getpid(), "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", NULL);
    g_assert_true(world_take(world, c->vm, 20, 60, NULL));
    qemu_opens(world, c->vm);
    g_assert_true(qemu_hold(world, c->vm, 30, NULL));
    qemu_park(world, c->vm);
    c->token = g_strdup(c->vm->token);
    fake_counts_reset(c->store);
}

static void
case_end(Case *c)
{
    g_free(c->token);
    world_free(c->world);
}

static gboolean
is_as_before(Case *c, guint i)
{
    g_autoptr(VlRecord) record = fake_get(c->store, disks[i]);
    const VlHolder *holder = vl_record_find(record, &c->vm->who);
    return holder && !holder->held && g_str_equal(holder->token, c->token);
}

static gboolean
all_as_before(World *world, gpointer opaque)
{
    guint n = 0;
    for (guint i = 0; i < DISKS; i++)
        n += is_as_before(opaque, i);
    return n == DISKS;
}

/* The background lets go of the VM only when its leases are settled. */
static gboolean
nothing_left(World *world, gpointer opaque)
{
    VlVm *vm = opaque;
    gboolean left = FALSE;
    g_mutex_lock(&vm->op);
    for (guint i = 0; i < vm->leases->len; i++) {
        const VlLease *lease = vm->leases->pdata[i];
        left = left || (lease->unwritten && lease->state == VL_LEASE_PARKED);
    }
    g_mutex_unlock(&vm->op);
    return !left;
}

static void
fail(Case *c, guint from, guint to, FakeFault fault, guint times)
{
    for (guint i = from; i < to; i++)
        fake_fault(c->store, FAKE_CAS, disks[i], 1, times, fault, VL_ERR_STORAGE);
}

static void
assert_fails(Case *c, enum vl_error code)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(qemu_hold(c->world, c->vm, 5, &error));
    world_assert_error(error, code, "v*");
    g_assert_cmpstr(c->vm->token, ==, c->token);
    g_assert_false(c->vm->running);
}

/* The VM arrives at host-c with the token that libvirt has. */
static gboolean
migrates(Case *c, GError **error)
{
    g_autoptr(VlVm) vm = NULL;
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    g_autofree char *state = vl_hold_state(c->vm);
    VlDaemon *daemon = c->world->daemon;
    VlHost *here = daemon->host;
    VlHost there = *here;
    VlCall call = {.deadline = vl_deadline_in(5)};
    there.id = (char *)"host-c";
    VlIncarnation who = {there.id, there.boot, c->vm->who.uuid, 77, 7};
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD, .pool = (char *)"rbd"};
    daemon->host = &there;
    vm = vl_vm_new(daemon->vms, &who, "web1", "qemu:///system", 0, -1);
    for (guint i = DISKS; i > 0; i--) { /* in another order than ours */
        g_autoptr(VlVolume) volume = fake_volume(c->store, c->world->place, disks[i - 1]);
        spec.image = (char *)disks[i - 1];
        vl_vm_add_lease(vm, vl_lease_new(vm, volume, &spec, "vda", FALSE));
    }
    gboolean ok = vl_incoming_begin(daemon, vm, vm->leases, rest, &call, error) &&
                  vl_incoming_finish(daemon, vm, state, &call, error);
    g_assert_cmpuint(rest->len, ==, 0);
    daemon->host = here;
    return ok;
}

/* ---- the storage refuses some ---- */

static void
test_some_fail(void)
{
    static const guint from[] = {4, 1, 0, 7};
    static const guint to[] = {8, 8, 4, 8};
    for (guint i = 0; i < G_N_ELEMENTS(from); i++) {
        Case c;
        case_begin(&c);
        fail(&c, from[i], to[i], FAKE_ERROR, 1000000);
        assert_fails(&c, VL_ERR_STORAGE);
        fake_assert_order(c.store, i == 2 ? "cas v5 web1:held" : "cas v1 web1:held", NULL);
        fake_faults_clear(c.store);
        world_wait(c.world, all_as_before, &c);
        g_autoptr(GError) error = NULL;
        g_assert_true(migrates(&c, &error));
        g_assert_no_error(error);
        case_end(&c);
    }
}

/* Those that were written are brought back while the others still cannot be written: they are as they were anyway. */
static void
test_brought_back_at_once(void)
{
    Case c;
    case_begin(&c);
    fail(&c, 4, 8, FAKE_ERROR, 1000000);
    assert_fails(&c, VL_ERR_STORAGE);
    world_wait(c.world, all_as_before, &c);
    case_end(&c);
}

/* Written, but neither the answer nor the reading back came: what is known of it here is the old record. */
static void
lose_looks(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    if (op == FAKE_CAS)
        fake_fault(store, FAKE_LOOK, "v3", 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
}

static void
test_written_unknown(void)
{
    Case c;
    case_begin(&c);
    fail(&c, 2, 3, FAKE_LOST_ACK, 1);
    fail(&c, 4, 8, FAKE_ERROR, 1000000);
    fake_hook(c.store, lose_looks, NULL);
    assert_fails(&c, VL_ERR_STORAGE);
    fake_hook(c.store, NULL, NULL);
    fake_faults_clear(c.store);
    world_wait(c.world, all_as_before, &c);
    case_end(&c);
}

/* The storage goes away for all between write and repair, and comes back after a minute. */
static void
goes_away(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    if (op != FAKE_CAS || fake_count(store, FAKE_CAS) != 2)
        return;
    fake_fault(store, FAKE_CAS, NULL, 1, 1000000, FAKE_ERROR, VL_ERR_STORAGE);
    fake_fault(store, FAKE_LOOK, NULL, 1, 1000000, FAKE_ERROR, VL_ERR_STORAGE);
}

static gboolean
minute_over(World *world, gpointer opaque)
{
    return world_seconds(world) > *(double *)opaque;
}

static void
test_away_for_long(void)
{
    Case c;
    case_begin(&c);
    fail(&c, 4, 8, FAKE_ERROR, 1);
    fake_hook(c.store, goes_away, &c);
    double end = world_seconds(c.world) + 60;
    assert_fails(&c, VL_ERR_STORAGE);
    g_assert_false(all_as_before(c.world, &c));
    world_wait(c.world, minute_over, &end);
    g_assert_false(nothing_left(c.world, c.vm));
    fake_hook(c.store, NULL, NULL);
    fake_faults_clear(c.store);
    world_wait(c.world, all_as_before, &c);
    world_wait(c.world, nothing_left, c.vm);
    case_end(&c);
}

/* ---- one of them is not ours any more ---- */

static void
test_one_lost(void)
{
    Case c;
    case_begin(&c);
    WorldHost *b = world_host(c.world, "b", NULL);
    fake_put(c.store, "v5", world_record(world_holder(b, "db1", TRUE, "10.0.0.98:0/5", NULL), NULL));
    assert_fails(&c, VL_ERR_STALE);
    world_assert_lease(c.vm, "v5", VL_LEASE_LOST);
    world_wait(c.world, nothing_left, c.vm);
    for (guint i = 0; i < DISKS; i++)
        g_assert_true(is_as_before(&c, i) == (i != 4));
    g_autofree char *state = fake_state(c.store, "v5");
    g_assert_cmpstr(state, ==, "db1:held"); /* theirs is left alone */
    case_end(&c);
}

/* Somebody is about to take one over that says HELD already: while the claim stands nothing is written there; when it
 * is withdrawn, that one goes back, too. */
static void
claims(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op != FAKE_CAS || fake_count(store, FAKE_CAS) != 2)
        return;
    VlRecord *record = fake_get(store, "v2");
    WorldHost *b = world_host(c->world, "b", NULL);
    world_claim(record, b, "web1", QEMU_ADDR);
    fake_put(store, "v2", record);
}

static gboolean
others_as_before(World *world, gpointer opaque)
{
    guint n = 0;
    for (guint i = 0; i < DISKS; i++)
        n += i != 1 && is_as_before(opaque, i);
    return n == DISKS - 1;
}

static void
test_one_claimed(void)
{
    Case c;
    case_begin(&c);
    fail(&c, 4, 8, FAKE_ERROR, 1);
    fake_hook(c.store, claims, &c);
    assert_fails(&c, VL_ERR_HELD);
    fake_hook(c.store, NULL, NULL);
    world_wait(c.world, others_as_before, &c);
    g_autofree char *state = fake_state(c.store, "v2");
    g_assert_cmpstr(state, ==, "web1:held+claim:node-b");
    VlRecord *record = fake_get(c.store, "v2");
    g_clear_pointer(&record->claim, vl_claim_free);
    fake_put(c.store, "v2", record);
    world_wait(c.world, all_as_before, &c);
    case_end(&c);
}

/* ---- resumed again ---- */

static void
test_again(void)
{
    Case c;
    case_begin(&c);
    fail(&c, 4, 8, FAKE_ERROR, 1000000);
    assert_fails(&c, VL_ERR_STORAGE);
    fake_faults_clear(c.store);
    g_assert_true(qemu_hold(c.world, c.vm, 5, NULL));
    g_assert_cmpstr(c.vm->token, !=, c.token);
    world_finish_jobs(c.world); /* what was to bring them back comes too late, and sees it */
    for (guint i = 0; i < DISKS; i++) {
        g_autoptr(VlRecord) record = fake_get(c.store, disks[i]);
        const VlHolder *holder = vl_record_find(record, &c.vm->who);
        g_assert_true(holder->held);
        g_assert_cmpstr(holder->token, ==, c.vm->token);
    }
    case_end(&c);
}

/* The VM ends while the storage is away: the background does not wait for it for ever. */
static void
test_exited(void)
{
    Case c;
    case_begin(&c);
    fail(&c, 4, 8, FAKE_ERROR, 1);
    fake_hook(c.store, goes_away, &c);
    assert_fails(&c, VL_ERR_STORAGE);
    g_atomic_int_set(&c.vm->exited, 1);
    world_finish_jobs(c.world); /* returns */
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_connect();
    g_test_add_func("/resume/some-fail", test_some_fail);
    g_test_add_func("/resume/brought-back-at-once", test_brought_back_at_once);
    g_test_add_func("/resume/written-unknown", test_written_unknown);
    g_test_add_func("/resume/away-for-long", test_away_for_long);
    g_test_add_func("/resume/one-lost", test_one_lost);
    g_test_add_func("/resume/one-claimed", test_one_claimed);
    g_test_add_func("/resume/again", test_again);
    g_test_add_func("/resume/exited", test_exited);
    int result = g_test_run();
    qemu_disconnect();
    return result;
}

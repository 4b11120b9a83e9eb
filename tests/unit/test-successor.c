/* SPDX-License-Identifier: LGPL-2.1-or-later
 * web1 was migrated here from host-b and is HELD; its source, whose clients B1 and B2 watch vol1 and vol2 and own their
 * locks, still stands in the records as the previous one. */
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/successor.h"
#include "tests/unit/world.h"

#define OWN        "10.0.0.1:0/1"
#define B1         "10.0.0.98:0/11"
#define B2         "10.0.0.98:0/22"
#define DEAD_AFTER 10
/* A window asks at both ends; the third challenge is the one before the fence. */
#define CONFIRMS 3

typedef struct {
    World *world;
    FakeStore *store;
    WorldHost *b, *c;
    VlVm *vm;
    /* what a hook is to do, and when */
    FakeOp op;
    guint at, seen;
    void (*act)(gpointer opaque);
} Case;

static const char *const volumes[] = {"vol1", "vol2"};
static const char *const addrs[] = {B1, B2};

/* The lease knows what is stored. */
static void
learn(VlLease *lease)
{
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    VlTake *take = vl_take_new(lease);
    g_ptr_array_add(takes, take);
    g_assert_true(vl_take_look(takes, VL_LOOK_RECORD, vl_deadline_in(5), NULL));
    vl_lease_set_record(lease, g_bytes_ref(take->look.record), vl_record_copy(take->record));
}

static void
hand_over(Case *c, const char *volume, const char *addr)
{
    VlRecord *record = fake_get(c->store, volume);
    VlHolder *holder = vl_record_find(record, &c->vm->who);
    holder->held = TRUE;
    vl_addrs_add(holder->addrs, OWN);
    record->previous = world_holder(c->b, "web1", FALSE, addr, NULL);
    fake_put(c->store, volume, record);
    fake_watch(c->store, volume, OWN);
    fake_watch(c->store, volume, addr);
    fake_own(c->store, volume, addr);
    learn(world_lease(c->vm, volume));
    vl_lease_set_state(world_lease(c->vm, volume), VL_LEASE_HELD, "test");
}

static void
case_begin(Case *c)
{
    g_autoptr(GError) error = NULL;
    *c = (Case){.world = world_new(FALSE)};
    c->store = c->world->store;
    c->b = world_host(c->world, "b", NULL);
    c->c = world_host(c->world, "c", NULL);
    c->vm = world_vm(c->world, "web1", getpid(), "vol1", "vol2", NULL);
    g_assert_true(world_take(c->world, c->vm, 20, 60, &error));
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++)
        hand_over(c, volumes[i], addrs[i]);
    fake_counts_reset(c->store);
}

static void
case_end(Case *c)
{
    world_free(c->world);
}

/* As the main loop does, every second. */
static void
look_for(Case *c, double seconds)
{
    double end = world_seconds(c->world) + seconds;
    while (world_seconds(c->world) < end) {
        vl_successor_look(c->world->daemon, c->vm);
        world_pass(c->world, 1);
    }
}

static void
on_op(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op == c->op && ++c->seen == c->at)
        c->act(c);
}

/* Before the `at`th op of that kind. */
static void
when(Case *c, FakeOp op, guint at, void (*act)(gpointer opaque))
{
    c->op = op;
    c->at = at;
    c->act = act;
    fake_hook(c->store, on_op, c);
}

static void
assert_nobody_fenced(Case *c)
{
    fake_assert_never(c->store, "fence");
    fake_assert_never(c->store, "break");
    g_assert_cmpuint(fake_blocklist_size(c->store), ==, 0);
}

static void
assert_untouched(Case *c)
{
    assert_nobody_fenced(c);
    fake_assert_never(c->store, "cas");
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++) {
        g_autofree char *owner = fake_owner(c->store, volumes[i]);
        g_assert_cmpstr(owner, ==, addrs[i]);
    }
}

static gboolean
stands(Case *c, const char *volume)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    return record->previous != NULL;
}

static void
assert_done(Case *c, const char *volume, const char *addr)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    g_autofree char *owner = fake_owner(c->store, volume);
    const VlHolder *holder = vl_record_find(record, &c->vm->who);
    g_assert_null(record->previous);
    g_assert_null(owner);
    g_assert_nonnull(holder);
    g_assert_true(holder->held);
    g_assert_cmpint(fake_blocklist_get(c->store, addr), >, 0);
    g_assert_cmpuint(record->fenced->len, ==, 1);
    const VlFenced *fenced = record->fenced->pdata[0];
    g_assert_cmpstr(fenced->addr, ==, addr);
    g_assert_cmpint(fenced->until, ==, fake_blocklist_get(c->store, addr));
    g_assert_null(world_lease(c->vm, volume)->record->previous);
    world_assert_lease(c->vm, volume, VL_LEASE_HELD);
}

/* ---- dead or not ---- */

static void
test_dead(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    double began = world_seconds(c.world);
    vl_successor_look(c.world->daemon, c.vm);
    g_assert_cmpfloat(world_seconds(c.world) - began, >=, DEAD_AFTER);
    g_assert_cmpfloat(world_seconds(c.world) - began, <, DEAD_AFTER + 2);
    assert_done(&c, "vol1", B1);
    assert_done(&c, "vol2", B2);
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 2);
    fake_assert_order(c.store, "challenge host-b", "look vol1", "break vol1 " B1, "fence " B1, "barrier", "look vol1",
                      "cas vol1 web1:held", NULL);
    /* And that was all. */
    fake_counts_reset(c.store);
    look_for(&c, 5);
    g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
    g_assert_cmpuint(fake_count(c.store, FAKE_READ), ==, 0);
    case_end(&c);
}

/* It dies some time after the first looks. */
static void
test_dead_later(void)
{
    Case c;
    case_begin(&c);
    look_for(&c, 30);
    assert_untouched(&c);
    world_host_die(c.b);
    look_for(&c, 5);
    assert_done(&c, "vol1", B1);
    assert_done(&c, "vol2", B2);
    case_end(&c);
}

/* A living source costs one read of its session and one of the records a second, and is asked but once. */
static void
test_living(void)
{
    Case c;
    case_begin(&c);
    look_for(&c, 60);
    assert_untouched(&c);
    g_assert_true(stands(&c, "vol1"));
    g_assert_cmpuint(c.b->asked, ==, 1);
    g_assert_cmpuint(fake_count(c.store, FAKE_READ), <=, 63);
    g_assert_cmpuint(fake_round_trips(c.store), <=, 60);
    case_end(&c);
}

static void
wakes(World *world, gpointer host)
{
    world_host_wake(host);
}

static void
test_silent_too_briefly(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    world_at(c.world, DEAD_AFTER - 1, wakes, c.b);
    look_for(&c, 40);
    assert_untouched(&c);
    case_end(&c);
}

/* Its heartbeat hangs, but somebody there answers. */
static void
test_answers(void)
{
    Case c;
    case_begin(&c);
    c.b->beating = FALSE;
    look_for(&c, 40);
    assert_untouched(&c);
    case_end(&c);
}

static void
wake_b(gpointer opaque)
{
    world_host_wake(((Case *)opaque)->b);
}

static void
test_back_before_the_fence(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    when(&c, FAKE_CHALLENGE, CONFIRMS, wake_b);
    look_for(&c, 40);
    g_assert_cmpuint(c.seen, >=, CONFIRMS);
    g_assert_true(world_logged(c.world, "*not fenced yet*woke up*"));
    assert_untouched(&c);
    case_end(&c);
}

/* Its session in another pool goes on: what is silent is the pool. */
static void
test_alive_in_another_place(void)
{
    Case c;
    case_begin(&c);
    VlPlace *place = fake_place(c.store, "fast");
    WorldHost *b = world_host(c.world, "b", place);
    VlVolume *volume = fake_volume(c.store, place, "vol3");
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD, .pool = (char *)"fast", .image = (char *)"vol3"};
    VlLease *lease = vl_lease_new(c.vm, volume, &spec, "vdc", FALSE);
    vl_volume_unref(volume);
    g_autoptr(VlHolder) me = vl_take_holder(c.world->daemon, c.vm, place);
    fake_put(c.store, "vol3", world_record(vl_holder_copy(me), NULL));
    vl_vm_add_lease(c.vm, lease);
    vl_lease_set_state(lease, VL_LEASE_TAKING, "test");
    hand_over(&c, "vol3", "10.0.0.98:0/33");
    world_host_die(c.b);
    look_for(&c, 40);
    assert_untouched(&c);
    g_assert_false(world_logged(c.world, "*not fenced yet*")); /* it did not come that far */
    world_host_die(b);
    look_for(&c, 5);
    assert_done(&c, "vol1", B1);
    assert_done(&c, "vol3", "10.0.0.98:0/33");
    case_end(&c);
}

/* ---- what stands in the record ---- */

static void
put_claim(gpointer opaque)
{
    Case *c = opaque;
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++) {
        VlRecord *record = fake_get(c->store, volumes[i]);
        world_claim(record, c->c, "web1", OWN);
        fake_put(c->store, volumes[i], record);
    }
}

static void
put_stranger(gpointer opaque)
{
    Case *c = opaque;
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++) {
        VlRecord *record = world_record(world_holder(c->c, "web1", TRUE, "10.0.0.99:0/1", NULL), NULL);
        record->previous = world_holder(c->b, "web1", FALSE, addrs[i], NULL);
        fake_put(c->store, volumes[i], record);
    }
}

static void
put_other_previous(gpointer opaque)
{
    Case *c = opaque;
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++) {
        VlRecord *record = fake_get(c->store, volumes[i]);
        record->previous->who.pid++;
        fake_put(c->store, volumes[i], record);
    }
}

static void
put_parked(gpointer opaque)
{
    Case *c = opaque;
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++) {
        VlRecord *record = fake_get(c->store, volumes[i]);
        vl_record_find(record, &c->vm->who)->held = FALSE;
        fake_put(c->store, volumes[i], record);
    }
}

static void
exits(gpointer opaque)
{
    g_atomic_int_set(&((Case *)opaque)->vm->exited, 1);
}

static void (*const changes[])(gpointer opaque) = {put_claim, put_stranger, put_parked, exits};

/* Before the first look. */
static void
test_changed(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(changes); i++) {
        Case c;
        case_begin(&c);
        world_host_die(c.b);
        changes[i](&c);
        look_for(&c, 40);
        assert_untouched(&c);
        case_end(&c);
    }
}

/* While the host is challenged for the last time. */
static void
test_changed_since_the_verdict(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(changes); i++) {
        Case c;
        case_begin(&c);
        world_host_die(c.b);
        when(&c, FAKE_CHALLENGE, CONFIRMS, changes[i]);
        vl_successor_look(c.world->daemon, c.vm);
        g_assert_cmpuint(c.seen, >=, CONFIRMS);
        assert_untouched(&c);
        case_end(&c);
    }
}

/* The one that was judged is not the one that stands now. */
static void
test_other_previous(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    when(&c, FAKE_CHALLENGE, CONFIRMS, put_other_previous);
    vl_successor_look(c.world->daemon, c.vm);
    assert_untouched(&c);
    case_end(&c);
}

/* Between fence and swap: what stands there stays. */
static void
test_changed_behind_the_barrier(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    when(&c, FAKE_BARRIER, 1, put_stranger);
    vl_successor_look(c.world->daemon, c.vm);
    fake_assert_never(c.store, "cas");
    g_assert_true(stands(&c, "vol1"));
    case_end(&c);
}

/* A source that lives against all appearances may have had it back. */
static void
own_again(gpointer opaque)
{
    fake_own(((Case *)opaque)->store, "vol1", B1);
}

static void
test_lock_taken_again(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    when(&c, FAKE_BARRIER, 1, own_again);
    vl_successor_look(c.world->daemon, c.vm);
    assert_done(&c, "vol1", B1);
    case_end(&c);
}

/* Its own daemon was faster, as nearly always. */
static void
test_struck(void)
{
    Case c;
    case_begin(&c);
    for (guint i = 0; i < G_N_ELEMENTS(volumes); i++) {
        VlRecord *record = fake_get(c.store, volumes[i]);
        g_clear_pointer(&record->previous, vl_holder_free);
        fake_put(c.store, volumes[i], record);
    }
    look_for(&c, 5);
    g_assert_cmpuint(fake_count(c.store, FAKE_LOOK), ==, 1);
    g_assert_cmpuint(fake_count(c.store, FAKE_READ), ==, 0);
    assert_nobody_fenced(&c);
    case_end(&c);
}

/* ---- whom to fence ---- */

static void
test_recorded_by_us(void)
{
    Case c;
    case_begin(&c);
    VlRecord *record = fake_get(c.store, "vol1");
    vl_addrs_add(record->previous->addrs, OWN);
    fake_put(c.store, "vol1", record);
    world_host_die(c.b);
    look_for(&c, 1);
    assert_done(&c, "vol1", B1);
    g_assert_cmpint(fake_blocklist_get(c.store, OWN), ==, 0);
    case_end(&c);
}

/* Our QEMU has the lock by now: it keeps it. And nobody is fenced for sitting on the dead host's address. */
static void
test_lock_is_ours(void)
{
    Case c;
    case_begin(&c);
    fake_own(c.store, "vol1", OWN);
    fake_watch(c.store, "vol1", "10.0.0.98:0/77");
    world_host_die(c.b);
    look_for(&c, 1);
    g_autofree char *owner = fake_owner(c.store, "vol1");
    g_assert_cmpstr(owner, ==, OWN);
    g_assert_false(stands(&c, "vol1"));
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 2);
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.98:0/77"), ==, 0);
    case_end(&c);
}

/* R14 */
static void
test_shared_kernel_client(void)
{
    Case c;
    case_begin(&c);
    g_autoptr(VlIdentity) identity = world_identity(c.b);
    vl_addrs_add(identity->krbd, B1);
    fake_host_put(c.store, c.world->place, identity);
    world_host_die(c.b);
    look_for(&c, 5);
    g_assert_true(stands(&c, "vol1"));
    g_assert_cmpint(fake_blocklist_get(c.store, B1), ==, 0);
    fake_assert_never(c.store, "break vol1");
    g_assert_true(world_logged(c.world, "*web1 was migrated from host node-b*kernel client*"));
    assert_done(&c, "vol2", B2);
    case_end(&c);
}

/* takeover = "manual": not before the operator's word. */
static void
test_manual(void)
{
    Case c;
    case_begin(&c);
    c.world->daemon->settings->takeover = VL_TAKEOVER_MANUAL;
    world_host_die(c.b);
    look_for(&c, 40);
    assert_untouched(&c);
    g_assert_true(world_logged(c.world, "*virtleasectl fence node-b*"));
    g_autoptr(VlIdentity) identity = world_identity(c.b);
    identity->mark = VL_SESSION_FENCED;
    fake_host_put(c.store, c.world->place, identity);
    double began = world_seconds(c.world);
    vl_successor_look(c.world->daemon, c.vm);
    g_assert_cmpfloat(world_seconds(c.world) - began, <, 1);
    assert_done(&c, "vol1", B1);
    case_end(&c);
}

/* ---- storage ---- */

static void
test_failures(void)
{
    static const FakeOp ops[] = {FAKE_BREAK, FAKE_FENCE, FAKE_BLOCKLIST, FAKE_BARRIER, FAKE_CAS};
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        Case c;
        case_begin(&c);
        world_host_die(c.b);
        fake_fault(c.store, ops[i], NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
        vl_successor_look(c.world->daemon, c.vm);
        if (ops[i] != FAKE_BLOCKLIST)
            g_assert_true(stands(&c, "vol1"));
        look_for(&c, 3);
        assert_done(&c, "vol1", B1);
        assert_done(&c, "vol2", B2);
        case_end(&c);
    }
}

/* R18 */
static void
test_lost_ack(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
    vl_successor_look(c.world->daemon, c.vm);
    assert_done(&c, "vol1", B1);
    assert_done(&c, "vol2", B2);
    case_end(&c);
}

/* ---- jobs ---- */

static gboolean
nobody_looks(World *world, gpointer opaque)
{
    return !g_atomic_int_get(&((Case *)opaque)->vm->source_looked);
}

/* One look at a VM at a time. */
static void
test_looked_at_already(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    g_atomic_int_set(&c.vm->source_looked, 1);
    vl_successor_begin(c.world->daemon);
    world_finish_jobs(c.world);
    g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
    case_end(&c);
}

static void
test_in_the_background(void)
{
    Case c;
    case_begin(&c);
    world_host_die(c.b);
    g_mutex_lock(&c.vm->op); /* a call is at it */
    vl_successor_look(c.world->daemon, c.vm);
    g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
    g_mutex_unlock(&c.vm->op);
    vl_successor_begin(c.world->daemon);
    world_wait(c.world, nobody_looks, &c);
    assert_done(&c, "vol1", B1);
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/successor/dead", test_dead);
    g_test_add_func("/successor/dead-later", test_dead_later);
    g_test_add_func("/successor/living", test_living);
    g_test_add_func("/successor/silent-too-briefly", test_silent_too_briefly);
    g_test_add_func("/successor/answers", test_answers);
    g_test_add_func("/successor/back-before-the-fence", test_back_before_the_fence);
    g_test_add_func("/successor/alive-in-another-place", test_alive_in_another_place);
    g_test_add_func("/successor/changed", test_changed);
    g_test_add_func("/successor/changed-since-the-verdict", test_changed_since_the_verdict);
    g_test_add_func("/successor/other-previous", test_other_previous);
    g_test_add_func("/successor/changed-behind-the-barrier", test_changed_behind_the_barrier);
    g_test_add_func("/successor/lock-taken-again", test_lock_taken_again);
    g_test_add_func("/successor/struck", test_struck);
    g_test_add_func("/successor/recorded-by-us", test_recorded_by_us);
    g_test_add_func("/successor/lock-is-ours", test_lock_is_ours);
    g_test_add_func("/successor/shared-kernel-client", test_shared_kernel_client);
    g_test_add_func("/successor/manual", test_manual);
    g_test_add_func("/successor/failures", test_failures);
    g_test_add_func("/successor/lost-ack", test_lost_ack);
    g_test_add_func("/successor/looked-at-already", test_looked_at_already);
    g_test_add_func("/successor/in-the-background", test_in_the_background);
    return g_test_run();
}

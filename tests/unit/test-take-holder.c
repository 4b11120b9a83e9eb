/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Taking leases while somebody holds one of them, alive, dead or in between, and the settings that decide then. */
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/procinfo.h"
#include "tests/unit/case.h"

/* ---- somebody holds it ---- */

static void
test_living_holder(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    case_held_by_b(&c, 1);
    double began = world_seconds(c.world);
    case_assert_refused(&c, 20, VL_ERR_HELD, "vol1 is in use: leased by VM 'web1' on host node-b since 20*");
    g_assert_cmpfloat(world_seconds(c.world) - began, <, 1);
    case_assert_state(&c, "vol1", "web1:held");
    case_assert_state(&c, "vol2", "-");
    fake_assert_never(c.store, "fence");
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

/* Before a slow backend waits for a dead owner, the others are asked: the leases are not being taken yet. */
static void
test_asked_first(void)
{
    Case c;
    g_autoptr(GError) error = NULL;
    VlCall call = {.deadline = vl_deadline_in(40)};
    case_begin(&c, FALSE, NULL);
    case_held_by_b(&c, 1);
    g_assert_false(vl_take_ask_records(c.world->daemon, c.vm, c.vm->leases, 20, &call, &error));
    world_assert_error(error, VL_ERR_HELD, "vol1 is in use: leased by VM 'web1' on host node-b since 20*");
    world_assert_lease(c.vm, "vol1", VL_LEASE_NONE);
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

/* The other disk was free and is taken in vain when the second one turns out to be held meanwhile: rolled back. */
static void
second_goes(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op == FAKE_CAS && fake_count(store, FAKE_CAS) == 2)
        fake_put(store, "vol2", world_record(world_holder(c->b, "db1", TRUE, "10.0.0.98:0/5", NULL), NULL));
}

static void
test_rollback(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    fake_hook(c.store, second_goes, &c);
    case_assert_refused(&c, 20, VL_ERR_HELD, "vol2 is in use*");
    fake_assert_order(c.store, "cas vol1 web1:parked", "cas vol2 web1:parked !changed", "cas vol1 -", NULL);
    case_assert_state(&c, "vol1", "-");
    case_assert_state(&c, "vol2", "db1:held");
    case_end(&c);
}

/* The rollback itself fails: the lease stays FREEING for the exit path, and nobody is told it is free. */
static void
test_rollback_fails(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    fake_hook(c.store, second_goes, &c);
    fake_fault(c.store, FAKE_CAS, "vol1", 2, 100, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(case_take(&c, 20, 60));
    case_assert_state(&c, "vol1", "web1:parked");
    world_assert_lease(c.vm, "vol1", VL_LEASE_FREEING);
    world_assert_lease(c.vm, "vol2", VL_LEASE_FREE);
    g_autofree char *index = fake_index(c.store, c.world->place, "host-a");
    g_assert_cmpstr(index, ==, "fake:rbd/vol1");
    case_end(&c);
}

/* This test itself as a QEMU of this host; `later`: its number now belongs to a process started later. */
static VlRecord *
local_record(Case *c, gboolean later)
{
    VlHolder *holder = world_holder(c->b, "other", TRUE, "10.0.0.1:0/4", NULL);
    g_free(holder->who.host);
    g_free(holder->who.boot);
    holder->who.host = g_strdup("host-a");
    holder->who.boot = g_strdup("boot-a");
    holder->who.pid = getpid();
    g_assert_true(vl_proc_start_time(getpid(), &holder->who.start, NULL));
    holder->who.start -= later;
    return world_record(holder, NULL);
}

/* A process of this very host is asked for by pidfd, not by challenge. */
static void
test_local_holder(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_put(c.store, "vol1", local_record(&c, FALSE));
    case_assert_refused(&c, 20, VL_ERR_HELD, "*of this very host*");
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    case_end(&c);

    /* The same number, but a process that has gone: fenced, taken. */
    case_begin(&c, FALSE, NULL);
    fake_put(c.store, "vol1", local_record(&c, TRUE));
    g_assert_true(case_take(&c, 20, 60));
    fake_assert_order(c.store, "fence 10.0.0.1:0/4", "barrier", "cas vol1 web1:parked", NULL);
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    case_end(&c);
}

/* Its daemon lives and is just freeing the lease: asked again until it has. */
static void
freed_at_last(World *world, gpointer opaque)
{
    fake_put(world->store, "vol1", NULL);
    fake_unwatch(world->store, "vol1", B1);
    fake_own(world->store, "vol1", NULL);
}

static void
test_being_freed(void)
{
    static const VlAnswer answers[] = {VL_ANSWER_NOT_MINE, VL_ANSWER_FREEING};
    for (guint i = 0; i < G_N_ELEMENTS(answers); i++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        case_held_by_b(&c, 1);
        c.b->answer = answers[i];
        world_at(c.world, 0.7, freed_at_last, NULL);
        g_assert_true(case_take(&c, 20, 60));
        fake_assert_never(c.store, "fence");
        g_assert_cmpfloat(world_seconds(c.world), <, 1.5);
        case_end(&c);
    }
}

/* It lives, but gave this lease up as lost: its QEMU is fenced (again) and the lease taken, without any waiting. */
static void
test_given_up(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    case_held_by_b(&c, 1);
    c.b->answer = VL_ANSWER_LOST;
    g_assert_true(case_take(&c, 20, 60));
    g_assert_cmpint(fake_blocklist_get(c.store, B1), >, 0);
    g_assert_cmpfloat(world_seconds(c.world), <, 1);
    case_end(&c);
}

/* Two disks, the second one's holder lives on this host and refuses before anybody is asked. */
static void
test_remote_and_local(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    case_held_by_b(&c, 1);
    fake_put(c.store, "vol2", local_record(&c, FALSE));
    case_assert_refused(&c, 20, VL_ERR_HELD, "vol2 is in use*");
    g_assert_cmpuint(c.b->asked, ==, 0);
    case_end(&c);
}

/* ---- settings ---- */

static void
test_manual(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    case_held_by_b(&c, 1);
    world_host_die(c.b);
    c.world->daemon->settings->takeover = VL_TAKEOVER_MANUAL;
    case_assert_refused(&c, 20, VL_ERR_MANUAL, "*virtleasectl fence node-b*");
    fake_assert_never(c.store, "cas");
    fake_assert_never(c.store, "fence");
    /* The operator has done so. */
    g_autoptr(VlIdentity) identity = world_identity(c.b);
    identity->mark = VL_SESSION_FENCED;
    fake_host_put(c.store, c.world->place, identity);
    VlVm *again = world_vm(c.world, "web2", 0, "vol1", NULL);
    g_assert_true(world_take(c.world, again, 20, 60, NULL));
    g_assert_cmpint(fake_blocklist_get(c.store, B1), >, 0);
    case_end(&c);
}

/* takeover_wait = 0: a silent owner refuses at once, and the text says when to come back; a living one is heard. */
static void
test_no_wait(void)
{
    Case c;
    case_begin(&c, TRUE, NULL);
    case_held_by_b(&c, 1);
    world_host_die(c.b);
    world_freeze(c.world, 2.5);
    case_assert_refused(&c, 0, VL_ERR_UNKNOWN_OWNER,
                        "vol1 is in use: *cannot be told: *silent*try again in * s*virtleasectl fence node-b");
    fake_assert_never(c.store, "cas");
    world_thaw(c.world);
    /* The window went on without us. */
    VlVm *again = world_vm(c.world, "web2", 0, "vol1", NULL);
    g_assert_true(world_take(c.world, again, 20, 60, NULL));
    case_end(&c);
    case_begin(&c, TRUE, NULL);
    case_held_by_b(&c, 1);
    case_assert_refused(&c, 0, VL_ERR_HELD, "*that host is alive*");
    case_end(&c);
}

/* takeover_watch = wait: the host's daemon is dead, its QEMU is there to be seen. */
static void
qemu_goes(World *world, gpointer opaque)
{
    fake_unwatch(world->store, "vol1", B1);
}

static void
test_watch_wait(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    case_held_by_b(&c, 1);
    world_host_die(c.b);
    c.world->daemon->settings->takeover_watch = VL_WATCH_WAIT;
    case_assert_refused(&c, 20, VL_ERR_UNKNOWN_OWNER, "*client " B1 " still watches*");
    g_assert_cmpfloat(world_seconds(c.world), >=, 20);
    fake_assert_never(c.store, "cas");
    fake_assert_never(c.store, "fence");
    case_end(&c);
    case_begin(&c, FALSE, NULL);
    case_held_by_b(&c, 1);
    world_host_die(c.b);
    c.world->daemon->settings->takeover_watch = VL_WATCH_WAIT;
    world_at(c.world, 15, qemu_goes, NULL);
    g_assert_true(case_take(&c, 20, 60));
    g_assert_cmpfloat(world_seconds(c.world), >=, 15);
    g_assert_cmpint(fake_blocklist_get(c.store, B1), >, 0);
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/take/living-holder", test_living_holder);
    g_test_add_func("/take/asked-first", test_asked_first);
    g_test_add_func("/take/rollback", test_rollback);
    g_test_add_func("/take/rollback-fails", test_rollback_fails);
    g_test_add_func("/take/local-holder", test_local_holder);
    g_test_add_func("/take/being-freed", test_being_freed);
    g_test_add_func("/take/given-up", test_given_up);
    g_test_add_func("/take/remote-and-local", test_remote_and_local);
    g_test_add_func("/take/manual", test_manual);
    g_test_add_func("/take/no-wait", test_no_wait);
    g_test_add_func("/take/watch-wait", test_watch_wait);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A QEMU process of ours is gone: what it left behind is fenced before its leases are free (R5), and whose they are
 * then. What comes in between: test-exit-errors.c. */
#include "lockd/error.h"
#include "lockd/rules.h"
#include "tests/unit/exiting.h"

/* ---- fence or not (R5) ---- */

/* It closed its images: nothing can still arrive. One look, one write, one index entry. */
static void
test_closed(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    exiting_closed(&c, "vol1", A1);
    exiting_finish(&c);
    case_assert_state(&c, "vol1", "-");
    fake_assert_order(c.store, "look vol1 r w o", "cas vol1 -", "index- fake:rbd/vol1", NULL);
    fake_assert_never(c.store, "fence");
    fake_assert_never(c.store, "barrier");
    fake_assert_never(c.store, "break");
    g_assert_cmpuint(fake_round_trips(c.store), ==, 2);
    case_end(&c);
}

static void
test_killed(void)
{
    Case c;
    exiting_case_begin(&c, 2);
    exiting_finish(&c);
    fake_assert_order(c.store, "look vol1 r w o", "fence " A1, "fence " A2, "barrier rbd", "break vol1 " A1,
                      "break vol2 " A2, "cas vol1 free", "cas vol2 free", "index- ", NULL);
    g_assert_cmpuint(fake_count(c.store, FAKE_FENCE), ==, 1);
    exiting_assert_fenced(&c, "vol1", A1);
    exiting_assert_fenced(&c, "vol2", A2);
    case_end(&c);
}

/* A watch, or the lock: either of them shows a client that may still write. */
static void
test_watch_or_lock(void)
{
    for (guint lock = 0; lock < 2; lock++) {
        Case c;
        exiting_case_begin(&c, 1);
        exiting_closed(&c, "vol1", A1);
        if (lock)
            fake_own(c.store, "vol1", A1);
        else
            fake_watch(c.store, "vol1", A1);
        exiting_finish(&c);
        exiting_assert_fenced(&c, "vol1", A1);
        g_autofree char *owner = fake_owner(c.store, "vol1");
        g_assert_null(owner);
        case_end(&c);
    }
}

/* Died between open and its first Acquire: its client is in no record. */
static void
test_unrecorded(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    g_assert_true(case_take(&c, 20, 60));
    fake_watch(c.store, "vol1", A9);
    fake_watch(c.store, "vol1", B1); /* not on this host */
    exiting_finish(&c);
    g_assert_cmpint(fake_blocklist_get(c.store, A9), >, 0);
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 1);
    case_assert_state(&c, "vol1", "free");
    case_end(&c);
}

/* ... unless it was there before that QEMU, or may be a reader's. */
static void
test_unrecorded_not_its(void)
{
    for (guint reader = 0; reader < 2; reader++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        g_autoptr(VlVolume) volume = fake_volume(c.store, c.world->place, "vol1");
        if (!reader) {
            c.world->daemon->settings->foreign_users = VL_FOREIGN_IGNORE;
            fake_watch(c.store, "vol1", A9);
        }
        g_assert_true(case_take(&c, 20, 60));
        if (reader) {
            vl_vm_add_reader(world_vm(c.world, "backup", 0, NULL), volume);
            fake_watch(c.store, "vol1", A9);
        }
        g_clear_pointer(&volume, vl_volume_unref);
        exiting_finish(&c);
        g_assert_cmpuint(fake_blocklist_size(c.store), ==, 0);
        case_assert_state(&c, "vol1", "-");
        case_end(&c);
    }
}

/* Nobody looked when it exited: its watches may have timed out since, and its last writes may still be under way. A
 * main loop that hung does not know when that was. */
static void
test_late(void)
{
    for (guint i = 0; i < 4; i++) {
        Case c;
        exiting_case_begin(&c, 1);
        exiting_closed(&c, "vol1", A1);
        if (i == 0) { /* by another path: known to be late */
            c.vm->late_exit = TRUE;
        } else if (i == 1) { /* the job was waited for */
            c.vm->exited_at = vl_clock_now();
            world_pass(c.world, 6);
        } else if (i == 2) { /* the main loop's last sign of life */
            g_atomic_int_set(&c.world->daemon->main_tick, (gint)(vl_clock_now() / G_USEC_PER_SEC) - 6);
        } else { /* the storage did not answer for so long */
            fake_fault(c.store, FAKE_LOOK, "vol1", 1, 10, FAKE_ERROR, VL_ERR_STORAGE);
        }
        exiting_finish(&c);
        exiting_assert_fenced(&c, "vol1", A1);
        fake_assert_order(c.store, "fence " A1, "barrier", "cas vol1 free", NULL);
        case_end(&c);
    }
}

static void
test_not_late(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    exiting_closed(&c, "vol1", A1);
    c.vm->exited_at = vl_clock_now();
    g_atomic_int_set(&c.world->daemon->main_tick, (gint)(vl_clock_now() / G_USEC_PER_SEC) - 1);
    world_pass(c.world, 3);
    exiting_finish(&c);
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 0);
    case_assert_state(&c, "vol1", "-");
    case_end(&c);
}

/* Two VMs of this host on one shared volume may have recorded each other's clients: the other one's lives. */
static void
test_recorded_by_another(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    VlRecord *record = fake_get(c.store, "vol1");
    record->shared = TRUE;
    vl_addrs_add(vl_record_find(record, &c.vm->who)->addrs, A2);
    g_ptr_array_add(record->holders, world_holder(c.b, "web2", TRUE, A2, NULL));
    fake_put(c.store, "vol1", record);
    fake_watch(c.store, "vol1", A2);
    fake_watch(c.store, "vol1", A9);
    exiting_finish(&c);
    exiting_assert_fenced(&c, "vol1", A1);
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 1);
    case_assert_state(&c, "vol1", "web2:held");
    case_end(&c);
}

/* The lock is somebody else's by now: it is not broken with ours. */
static void
test_other_owner(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    fake_own(c.store, "vol1", B1);
    exiting_finish(&c);
    exiting_assert_fenced(&c, "vol1", A1);
    fake_assert_never(c.store, "break");
    g_autofree char *owner = fake_owner(c.store, "vol1");
    g_assert_cmpstr(owner, ==, B1);
    case_end(&c);
}

/* ---- whose lease it is then ---- */

/* R16 */
static void
test_heir(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    VlRecord *record = fake_get(c.store, "vol1");
    g_ptr_array_add(record->heirs, world_holder(c.b, "web1", FALSE, NULL));
    fake_put(c.store, "vol1", record);
    exiting_finish(&c);
    fake_assert_order(c.store, "fence " A1, "barrier", "break vol1", "cas vol1 web1:parked", NULL);
    g_assert_true(case_is_theirs(&c, "vol1"));
    exiting_assert_fenced(&c, "vol1", A1);
    g_autoptr(VlRecord) after = fake_get(c.store, "vol1");
    g_assert_cmpuint(after->heirs->len, ==, 0);
    case_end(&c);
}

/* web1 came from host-b by migration, and is gone. */
static void
came_from_b(Case *c, const char *owner)
{
    exiting_case_begin(c, 1);
    VlRecord *record = fake_get(c->store, "vol1");
    record->previous = world_holder(c->b, "web1", FALSE, B1, NULL);
    fake_put(c->store, "vol1", record);
    fake_watch(c->store, "vol1", B1);
    fake_own(c->store, "vol1", owner);
}

/* R1: the lock is the source's still, so nothing was written here. */
static void
test_given_back(void)
{
    Case c;
    came_from_b(&c, B1);
    exiting_finish(&c);
    case_assert_state(&c, "vol1", "web1:parked");
    g_assert_true(case_is_theirs(&c, "vol1"));
    exiting_assert_fenced(&c, "vol1", A1); /* its client is dead all the same */
    g_assert_cmpint(fake_blocklist_get(c.store, B1), ==, 0);
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_null(record->previous);
    g_assert_cmpstr(((VlHolder *)record->holders->pdata[0])->token, ==, "token");
    case_end(&c);
}

/* It had taken the lock over; it ran on an image without lock; or the lock is an advisory one: not given back. */
static void
test_not_given_back(void)
{
    for (guint i = 0; i < 3; i++) {
        Case c;
        came_from_b(&c, i == 0 ? A1 : NULL);
        if (i == 2)
            fake_own_advisory(c.store, "vol1", B1);
        exiting_finish(&c);
        case_assert_state(&c, "vol1", "free");
        g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
        g_assert_null(record->previous);
        case_end(&c);
    }
}

/* Nobody ever locked that image, and the CPUs were never let run here. */
static void
test_given_back_unlocked(void)
{
    Case c;
    came_from_b(&c, NULL);
    c.vm->ever_held = FALSE;
    exiting_finish(&c);
    g_assert_true(case_is_theirs(&c, "vol1"));
    case_end(&c);
}

/* The source of a migration that succeeded: nothing of its lease is left, but a client that was not closed yet would
 * keep the destination waiting. */
static void
test_handed_over(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    VlRecord *record = fake_get(c.store, "vol1");
    g_autoptr(VlRecord) next = NULL;
    g_autoptr(VlHolder) there = world_holder(c.b, "web1", TRUE, B1, NULL);
    next = vl_rules_handed_over(record, vl_record_find(record, &c.vm->who), there);
    vl_record_free(record);
    fake_put(c.store, "vol1", g_steal_pointer(&next));
    exiting_finish(&c);
    g_assert_true(case_is_theirs(&c, "vol1"));
    g_assert_cmpint(fake_blocklist_get(c.store, A1), >, 0);
    g_assert_cmpint(fake_blocklist_get(c.store, B1), ==, 0);
    /* The break first: see vl_exit_records(). */
    fake_assert_order(c.store, "break vol1 " A1, "fence " A1, "barrier", "cas vol1 web1:", NULL);
    g_autoptr(VlRecord) after = fake_get(c.store, "vol1");
    g_assert_null(after->previous);
    case_end(&c);
}

/* R8: the same VM, even the same pid, but not this process. */
static void
test_not_ours(void)
{
    Case c;
    exiting_case_begin(&c, 1);
    VlRecord *record = fake_get(c.store, "vol1");
    ((VlHolder *)record->holders->pdata[0])->who.start++;
    fake_put(c.store, "vol1", record);
    exiting_finish(&c);
    case_assert_state(&c, "vol1", "web1:held");
    fake_assert_never(c.store, "cas");
    fake_assert_never(c.store, "fence");
    fake_assert_never(c.store, "break");
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exit/closed", test_closed);
    g_test_add_func("/exit/killed", test_killed);
    g_test_add_func("/exit/watch-or-lock", test_watch_or_lock);
    g_test_add_func("/exit/unrecorded", test_unrecorded);
    g_test_add_func("/exit/unrecorded-not-its", test_unrecorded_not_its);
    g_test_add_func("/exit/late", test_late);
    g_test_add_func("/exit/not-late", test_not_late);
    g_test_add_func("/exit/recorded-by-another", test_recorded_by_another);
    g_test_add_func("/exit/other-owner", test_other_owner);
    g_test_add_func("/exit/heir", test_heir);
    g_test_add_func("/exit/given-back", test_given_back);
    g_test_add_func("/exit/not-given-back", test_not_given_back);
    g_test_add_func("/exit/given-back-unlocked", test_given_back_unlocked);
    g_test_add_func("/exit/handed-over", test_handed_over);
    g_test_add_func("/exit/not-ours", test_not_ours);
    return g_test_run();
}

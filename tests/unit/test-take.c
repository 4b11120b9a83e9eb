/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Taking leases for a process that is about to start: the round trips of a free volume, and that it is all or nothing
 * whatever answers are lost. Who stands in the way: test-take-holder.c, test-take-foreign.c; takeovers as such:
 * test-takeover.c. */
#include <glib/gstdio.h>

#include "lockd/error.h"
#include "tests/unit/case.h"

/* ---- free ---- */

/* Index, look, write, look again (R4): four round trips, whatever the number of disks; and one more write, because
 * the lowest key goes alone. */
static void
test_free(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_state(&c, "vol1", "web1:parked");
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    fake_assert_order(c.store, "index+ fake:rbd/vol1", "look vol1 r w o", "cas vol1 web1:parked", "look vol1 r", NULL);
    g_assert_cmpuint(fake_round_trips(c.store), ==, 3);
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    const VlHolder *holder = vl_record_find(record, &c.vm->who);
    g_assert_cmpuint(record->epoch, ==, 1);
    g_assert_cmpstr(holder->host_name, ==, "node-a");
    g_assert_cmpstr(holder->machine, ==, "machine-a");
    g_assert_cmpuint(holder->session, ==, vl_sessions_number(c.world->daemon->sessions, c.world->place));
    g_assert_cmpstr(holder->token, ==, c.vm->token);
    case_end(&c);
}

static void
test_eight_disks(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlVm *vm = world_vm(world, "web1", 0, "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", NULL);
    g_assert_true(world_take(world, vm, 20, 60, NULL));
    g_assert_cmpuint(fake_round_trips(world->store), ==, 4);
    g_assert_cmpuint(fake_count(world->store, FAKE_INDEX_SET), ==, 1);
    fake_assert_order(world->store, "cas v1", "cas v2", "cas v8", NULL);
}

/* The lowest key first, whatever order the VM has its disks in. */
static void
test_lowest_first(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlVm *vm = world_vm(world, "web1", 0, "v5", "v1", "v3", NULL);
    g_assert_true(world_take(world, vm, 20, 60, NULL));
    fake_assert_order(world->store, "cas v1", "cas v5", "cas v3", NULL);
}

/* R18: when the first write is sent, journal and index know of it. */
static void
look_at_journal(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op != FAKE_CAS)
        return;
    g_autoptr(GPtrArray) entries = vl_journal_read(c->world->daemon->journal);
    g_assert_cmpuint(entries->len, ==, 1);
    const VlJournalVm *entry = entries->pdata[0];
    g_assert_true(vl_incarnation_equal(&entry->who, &c->vm->who));
    g_assert_cmpuint(entry->specs->len, ==, 2);
    g_autofree char *index = fake_index(store, c->world->place, "host-a");
    g_assert_cmpstr(index, ==, "fake:rbd/vol1,fake:rbd/vol2");
}

static void
test_announced_first(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    fake_hook(c.store, look_at_journal, &c);
    g_assert_true(case_take(&c, 20, 60));
    case_end(&c);
}

static void
test_no_journal(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    g_autofree char *vms = g_build_filename(c.world->dir, "vms", NULL);
    g_assert_cmpint(g_rmdir(vms), ==, 0);
    case_assert_refused(&c, 20, VL_ERR_JOURNAL, "*vms*");
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

static void
test_no_index(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_INDEX_SET, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    case_assert_refused(&c, 20, VL_ERR_STORAGE, "*");
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

static void
test_garbage(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    fake_put_text(c.store, "vol2", "{\"version\":2}");
    g_assert_false(case_take(&c, 20, 60));
    world_assert_error(c.error, VL_ERR_RECORD, "vol2: *version 2*");
    case_assert_state(&c, "vol1", "-");
    case_assert_state(&c, "vol2", "?");
    case_end(&c);
}

/* ---- the last look (R4) ---- */

static void
taken_away(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op == FAKE_LOOK && fake_count(store, FAKE_CAS) == 1) {
        fake_hook(store, NULL, NULL);
        fake_put(store, "vol1", world_record(world_holder(c->b, "web1", TRUE, B1, NULL), NULL));
    }
}

static void
test_verify(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_hook(c.store, taken_away, &c);
    case_assert_refused(&c, 20, VL_ERR_LOST, "vol1: *");
    case_assert_state(&c, "vol1", "web1:held"); /* theirs is left alone */
    case_end(&c);
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_LOOK, "vol1", 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(case_take(&c, 20, 60)); /* not seen, not granted */
    case_assert_state(&c, "vol1", "-");
    case_end(&c);
}

/* ---- answers that are lost ---- */

static void
test_lost_ack(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
    g_assert_true(case_take(&c, 20, 60));
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 1);
    case_end(&c);
    /* The store sent it again by itself, and the second one found the first. */
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_CHANGED);
    g_assert_true(case_take(&c, 20, 60));
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 1);
    case_end(&c);
    /* Neither the answer nor the reading back arrives: the next round finds its own name in the record. */
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
    fake_fault(c.store, FAKE_LOOK, "vol1", 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_true(case_take(&c, 20, 60));
    case_assert_state(&c, "vol1", "web1:parked");
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_cmpuint(record->epoch, ==, 1);
    case_end(&c);
}

/* The storage is away for good: the call ends at its deadline and says what of. */
static void
test_storage_away(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_LOOK, NULL, 1, 1000000, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(world_take(c.world, c.vm, 20, 30, &c.error));
    world_assert_error(c.error, VL_ERR_STORAGE, "vol1: made to fail");
    g_assert_cmpfloat(world_seconds(c.world), <, 31);
    world_assert_lease(c.vm, "vol1", VL_LEASE_FREEING);
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/take/free", test_free);
    g_test_add_func("/take/eight-disks", test_eight_disks);
    g_test_add_func("/take/lowest-first", test_lowest_first);
    g_test_add_func("/take/announced-first", test_announced_first);
    g_test_add_func("/take/no-journal", test_no_journal);
    g_test_add_func("/take/no-index", test_no_index);
    g_test_add_func("/take/garbage", test_garbage);
    g_test_add_func("/take/verify", test_verify);
    g_test_add_func("/take/lost-ack", test_lost_ack);
    g_test_add_func("/take/storage-away", test_storage_away);
    return g_test_run();
}

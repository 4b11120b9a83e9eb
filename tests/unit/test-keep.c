/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Adoption of what is ours already, and whose turn it is to be audited. */
#include "lockd/audit.h"
#include "lockd/error.h"
#include "lockd/keep.h"
#include "lockd/procinfo.h"
#include "tests/unit/world.h"

#include <unistd.h>

#define B1 "10.0.0.98:0/11"

typedef struct {
    World *world;
    VlVm *vm;
    GPtrArray *rest;
    GError *error;
} Case;

/* web1 runs here with vol1 and vol2. */
static void
case_begin(Case *c)
{
    *c = (Case){.world = world_new(FALSE)};
    c->vm = world_vm(c->world, "web1", 0, "vol1", "vol2", NULL);
    c->rest = g_ptr_array_new();
}

static void
case_end(Case *c)
{
    g_clear_error(&c->error);
    g_ptr_array_unref(c->rest);
    world_free(c->world);
}

static VlRecord *
ours(Case *c, gboolean held)
{
    VlHolder *holder = vl_take_holder(c->world->daemon, c->vm, c->world->place);
    holder->held = held;
    return world_record(holder, NULL);
}

static gboolean
keep(Case *c)
{
    VlCall call = {.deadline = vl_deadline_in(10)};
    return vl_keep_leases(c->world->daemon, c->vm, c->vm->leases, c->rest, &call, &c->error);
}

static void
test_ours(void)
{
    Case c;
    case_begin(&c);
    fake_put(c.world->store, "vol1", ours(&c, TRUE));
    fake_put(c.world->store, "vol2", ours(&c, FALSE));
    fake_counts_reset(c.world->store);
    g_assert_true(keep(&c));
    g_assert_cmpuint(c.rest->len, ==, 0);
    world_assert_lease(c.vm, "vol1", VL_LEASE_PARKED);
    world_assert_lease(c.vm, "vol2", VL_LEASE_PARKED);
    g_assert_cmpuint(fake_round_trips(c.world->store), ==, 1);
    g_assert_true(world_lease(c.vm, "vol1")->kept);
    g_assert_true(vl_lease_holder(world_lease(c.vm, "vol1"))->held);
    g_autoptr(GPtrArray) journal = vl_journal_read(c.world->daemon->journal);
    g_assert_cmpuint(journal->len, ==, 1);

    g_autofree char *before = fake_index(c.world->store, c.world->place, "host-a");
    g_assert_cmpstr(before, ==, "");
    vl_keep_index(c.world->daemon);
    vl_keep_index(c.world->daemon);
    g_assert_cmpuint(fake_count(c.world->store, FAKE_INDEX_SET), ==, 1);
    g_autofree char *index = fake_index(c.world->store, c.world->place, "host-a");
    g_assert_nonnull(strstr(index, "vol1"));
    g_assert_nonnull(strstr(index, "vol2"));
    case_end(&c);
}

/* Whatever is not plainly ours is taken with all questions asked. */
static void
test_not_ours(void)
{
    Case c;
    case_begin(&c);
    WorldHost *b = world_host(c.world, "b", NULL);
    fake_put(c.world->store, "vol1", world_record(world_holder(b, "web1", TRUE, B1, NULL), NULL));
    g_assert_true(keep(&c)); /* vol2 is free */
    g_assert_cmpuint(c.rest->len, ==, 2);
    world_assert_lease(c.vm, "vol1", VL_LEASE_NONE);
    world_assert_lease(c.vm, "vol2", VL_LEASE_NONE);
    g_assert_cmpuint(fake_count(c.world->store, FAKE_CAS), ==, 0);
    case_end(&c);
}

static void
test_claimed(void)
{
    Case c;
    case_begin(&c);
    WorldHost *b = world_host(c.world, "b", NULL);
    VlRecord *record = ours(&c, TRUE);
    world_claim(record, b, "web1", B1);
    fake_put(c.world->store, "vol1", record);
    fake_put(c.world->store, "vol2", ours(&c, TRUE));
    g_assert_true(keep(&c));
    g_assert_cmpuint(c.rest->len, ==, 1);
    g_assert_true(c.rest->pdata[0] == world_lease(c.vm, "vol1"));
    world_assert_lease(c.vm, "vol2", VL_LEASE_PARKED);
    case_end(&c);
}

/* An earlier process of the same VM: not this one's memory, not this one's lease. */
static void
test_other_process(void)
{
    Case c;
    case_begin(&c);
    VlRecord *record = ours(&c, TRUE);
    ((VlHolder *)record->holders->pdata[0])->who.start++;
    fake_put(c.world->store, "vol1", record);
    g_assert_true(keep(&c));
    g_assert_cmpuint(c.rest->len, ==, 2);
    case_end(&c);
}

static void
test_storage_away(void)
{
    Case c;
    case_begin(&c);
    fake_put(c.world->store, "vol1", ours(&c, TRUE));
    fake_put(c.world->store, "vol2", ours(&c, TRUE));
    fake_fault(c.world->store, FAKE_LOOK, "vol2", 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(keep(&c));
    world_assert_error(c.error, VL_ERR_STORAGE, "*vol2*");
    world_assert_lease(c.vm, "vol1", VL_LEASE_NONE);
    case_end(&c);
}

/* ---- audit ---- */

/* Each VM once per interval, and never all of them in one second. */
static void
test_turns(void)
{
    enum { VMS = 300, INTERVAL = 30, MOST = 3 * VMS / INTERVAL };
    World *world = world_new(FALSE);
    for (guint i = 0; i < VMS; i++) {
        g_autofree char *name = g_strdup_printf("web%u", i);
        g_autofree char *volume = g_strdup_printf("vol%u", i);
        g_autoptr(GError) error = NULL;
        VlVm *vm = world_vm(world, name, (gint64)getpid(), volume, NULL);
        g_assert_true(world_take(world, vm, 0, 60, &error));
    }
    fake_counts_reset(world->store);
    guint before = 0;
    for (guint second = 1; second <= INTERVAL; second++) {
        vl_audit_tick(world->daemon, second);
        while (g_thread_pool_unprocessed(world->daemon->jobs))
            g_usleep(1000);
        g_usleep(5000);
        guint now = fake_count(world->store, FAKE_LOOK);
        g_assert_cmpuint(now - before, <=, MOST);
        before = now;
    }
    world_finish_jobs(world);
    g_assert_cmpuint(fake_count(world->store, FAKE_LOOK), ==, VMS);
    world_free(world);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/keep/ours", test_ours);
    g_test_add_func("/keep/not-ours", test_not_ours);
    g_test_add_func("/keep/claimed", test_claimed);
    g_test_add_func("/keep/other-process", test_other_process);
    g_test_add_func("/keep/storage-away", test_storage_away);
    g_test_add_func("/audit/turns", test_turns);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Taking leases while clients that no lease explains are on the image. */
#include "lockd/error.h"
#include "tests/unit/case.h"

/* ---- clients that no lease explains ---- */

static void
test_foreign(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.9.9.9:0/1");
    fake_own(c.store, "vol1", "10.9.9.9:0/1");
    case_assert_refused(&c, 20, VL_ERR_FOREIGN, "vol1 is in use by client 10.9.9.9:0/1*");
    g_assert_cmpfloat(world_seconds(c.world), >=, 3);
    g_assert_cmpfloat(world_seconds(c.world), <, 4);
    fake_assert_never(c.store, "cas");
    fake_assert_never(c.store, "fence");
    case_end(&c);
}

/* It was just being closed (a qemu-img, an rbd map of a second): retried. */
static void
foreigner_goes(World *world, gpointer opaque)
{
    fake_unwatch(world->store, "vol1", "10.9.9.9:0/1");
    fake_own(world->store, "vol1", NULL);
}

static void
test_foreign_goes(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.9.9.9:0/1");
    fake_own(c.store, "vol1", "10.9.9.9:0/1");
    world_at(c.world, 2, foreigner_goes, NULL);
    g_assert_true(case_take(&c, 20, 60));
    fake_assert_never(c.store, "fence");
    case_end(&c);
}

static void
test_foreign_ignored(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    c.world->daemon->settings->foreign_users = VL_FOREIGN_IGNORE;
    fake_watch(c.store, "vol1", "10.9.9.9:0/1");
    g_assert_true(case_take(&c, 20, 60));
    fake_assert_never(c.store, "fence");
    g_assert_true(vl_addrs_has(world_lease(c.vm, "vol1")->baseline, "10.9.9.9:0/1")); /* never ours */
    case_end(&c);
}

/* Owns the lock, watches no more: dead. Fenced like any other before its lock is broken. */
static void
test_dead_foreign_owner(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_own(c.store, "vol1", "10.9.9.9:0/1");
    g_assert_true(case_take(&c, 20, 60));
    fake_assert_order(c.store, "cas vol1 free+claim:node-a", "fence 10.9.9.9:0/1", "barrier", "break vol1 10.9.9.9:0/1",
                      "cas vol1 web1:parked", NULL);
    case_end(&c);
}

static void
test_advisory_lock(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_own_advisory(c.store, "vol1", "10.9.9.9:0/1");
    case_assert_refused(&c, 20, VL_ERR_FOREIGN, "vol1 has an advisory lock*rbd lock rm*");
    fake_assert_never(c.store, "break");
    case_end(&c);
}

/* A watcher on another virtlease host may be a reader: that host's daemon says so. */
static void
test_reader(void)
{
    static const VlAnswer answers[] = {VL_ANSWER_READER, VL_ANSWER_ALIVE, VL_ANSWER_NONE};
    for (guint i = 0; i < G_N_ELEMENTS(answers); i++) {
        Case c;
        case_begin(&c, FALSE, NULL);
        c.b->answer = answers[i];
        fake_watch(c.store, "vol1", "10.0.0.98:0/5");
        if (answers[i] == VL_ANSWER_READER)
            g_assert_true(case_take(&c, 20, 60));
        else
            case_assert_refused(&c, 20, VL_ERR_FOREIGN, "*10.0.0.98:0/5*");
        case_end(&c);
    }
}

static void
test_own_reader(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.0.0.1:0/5");
    case_assert_refused(&c, 20, VL_ERR_FOREIGN, "*10.0.0.1:0/5*");
    case_end(&c);
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.0.0.1:0/5");
    VlVm *reader = world_vm(c.world, "backup", 0, NULL);
    g_autoptr(VlVolume) volume = fake_volume(c.store, c.world->place, "vol1");
    vl_vm_add_reader(reader, volume);
    g_assert_true(case_take(&c, 20, 60));
    g_clear_pointer(&volume, vl_volume_unref);
    case_end(&c);
}

/* Two living sessions publish the dead host's address (hosts behind one NAT): what is seen on it proves nothing. */
static void
test_shared_ip(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    case_held_by_b(&c, 1);
    fake_watch(c.store, "vol1", "10.0.0.98:0/55");
    world_host_die(c.b);
    WorldHost *twin = world_host(c.world, "c", NULL);
    g_autoptr(VlIdentity) identity = world_identity(twin);
    vl_addrs_add(identity->ips, c.b->ip);
    fake_host_put(c.store, c.world->place, identity);
    case_assert_refused(&c, 20, VL_ERR_FOREIGN, "*10.0.0.98:0/55*");
    g_assert_cmpint(fake_blocklist_get(c.store, "10.0.0.98:0/55"), ==, 0);
    case_end(&c);
}

/* A fenced client's watch stays for Ceph's 30 s; it is no stranger. */
static void
test_fenced_watcher(void)
{
    Case c;
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    case_begin(&c, FALSE, NULL);
    VlRecord *record = world_record(NULL, NULL);
    vl_record_add_fence(record, B1, now, now + 1000, now + 1000);
    fake_put(c.store, "vol1", record);
    fake_watch(c.store, "vol1", B1);
    g_assert_true(case_take(&c, 20, 60));
    fake_assert_never(c.store, "fence");
    g_autoptr(VlRecord) after = fake_get(c.store, "vol1");
    g_assert_cmpuint(after->fenced->len, ==, 1);
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/take/foreign", test_foreign);
    g_test_add_func("/take/foreign-goes", test_foreign_goes);
    g_test_add_func("/take/foreign-ignored", test_foreign_ignored);
    g_test_add_func("/take/dead-foreign-owner", test_dead_foreign_owner);
    g_test_add_func("/take/advisory-lock", test_advisory_lock);
    g_test_add_func("/take/reader", test_reader);
    g_test_add_func("/take/own-reader", test_own_reader);
    g_test_add_func("/take/shared-ip", test_shared_ip);
    g_test_add_func("/take/fenced-watcher", test_fenced_watcher);
    return g_test_run();
}

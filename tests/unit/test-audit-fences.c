/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Looking after the fences behind a lease we have: a fenced holder's other clients (R4), and fences that lapse too
 * early (R6). web1 runs here, on host-a, with vol1; its "QEMU" is this very test process. */
#include <unistd.h>

#include "lockd/audit.h"
#include "lockd/error.h"
#include "tests/unit/case.h"
#include "tests/unit/qemu.h"

#define OLD  "10.0.0.98:0/77" /* what was fenced on host-b before web1 came here */
#define HOUR 3600

static gint64
now(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

static void
audit(Case *c)
{
    g_mutex_lock(&c->vm->op);
    vl_audit_vm(c->world->daemon, c->vm);
    g_mutex_unlock(&c->vm->op);
}

/* web1 runs; a fence on `addr` is noted in its record, which the monitors let lapse at `until`. */
static void
case_begin_fenced(Case *c, const char *addr, gint64 until)
{
    *c = (Case){.world = world_new(FALSE)};
    c->store = c->world->store;
    c->b = world_host(c->world, "b", NULL);
    c->vm = world_vm(c->world, "web1", getpid(), "vol1", NULL);
    g_assert_true(case_take(c, 20, 60));
    qemu_opens(c->world, c->vm);
    g_assert_true(qemu_hold(c->world, c->vm, 30, NULL));
    VlRecord *record = fake_get(c->store, "vol1");
    vl_record_add_fence(record, addr, now() - HOUR, until, now() + HOUR);
    fake_put(c->store, "vol1", record);
    audit(c);
    fake_counts_reset(c->store);
}

static const VlFenced *
noted(const VlRecord *record, const char *addr)
{
    for (guint i = 0; i < record->fenced->len; i++)
        if (g_str_equal(((VlFenced *)record->fenced->pdata[i])->addr, addr))
            return record->fenced->pdata[i];
    return NULL;
}

/* ---- strangers ---- */

static void
test_fenced_ip(void)
{
    Case c;
    case_begin_fenced(&c, OLD, now() + HOUR);
    fake_watch(c.store, "vol1", OLD); /* fenced: no stranger */
    fake_watch(c.store, "vol1", B1);
    fake_watch(c.store, "vol1", "10.0.0.99:0/5"); /* on no fenced holder's IP: said, not fenced */
    audit(&c);
    g_assert_true(world_logged(c.world, "vol1, leased by VM web1 here, is also watched by client " B1 "*"));
    g_assert_true(world_logged(c.world, "*also watched by client 10.0.0.99:0/5*"));
    g_assert_false(world_logged(c.world, "*also watched by client " OLD "*"));
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 1);
    g_autoptr(VlRecord) record = fake_get(c.store, "vol1");
    g_assert_cmpint(noted(record, B1)->until, ==, fake_blocklist_get(c.store, B1));
    g_assert_cmpuint(record->fenced->len, ==, 2);
    world_assert_lease(c.vm, "vol1", VL_LEASE_HELD);
    /* Noted, so that is no stranger either, and all is quiet. */
    fake_counts_reset(c.store);
    audit(&c);
    fake_assert_never(c.store, "fence");
    case_end(&c);
}

/* On our own IP it may be anybody of ours; a client of our own was fenced here before. */
static void
test_own_ip(void)
{
    Case c;
    case_begin_fenced(&c, "10.0.0.1:0/8", now() + HOUR);
    fake_watch(c.store, "vol1", "10.0.0.1:0/9");
    audit(&c);
    g_assert_cmpuint(fake_blocklist_size(c.store), ==, 0);
    g_assert_false(world_logged(c.world, "*also watched*"));
    case_end(&c);
}

/* web1 is on its way back to host-b, which was fenced before; or has just come from there. */
static void
test_migration(void)
{
    for (guint came = 0; came < 2; came++) {
        Case c;
        case_begin_fenced(&c, OLD, now() + HOUR);
        VlRecord *record = fake_get(c.store, "vol1");
        if (came)
            record->previous = world_holder(c.b, "web1", FALSE, B1, NULL);
        else
            g_ptr_array_add(record->heirs, world_holder(c.b, "web1", FALSE, NULL));
        fake_put(c.store, "vol1", record);
        fake_watch(c.store, "vol1", B1);
        audit(&c);
        g_assert_cmpuint(fake_blocklist_size(c.store), ==, 0);
        if (came) { /* another client than those that handed over is a stranger all the same */
            fake_watch(c.store, "vol1", B2);
            audit(&c);
            g_assert_cmpuint(fake_blocklist_size(c.store), ==, 1);
            g_assert_cmpint(fake_blocklist_get(c.store, B2), >, 0);
        }
        case_end(&c);
    }
}

static void
test_stranger_not_fenced(void)
{
    Case c;
    case_begin_fenced(&c, OLD, now() + HOUR);
    fake_watch(c.store, "vol1", B1);
    fake_fault(c.store, FAKE_FENCE, B1, 1, 1, FAKE_ERROR, VL_ERR_DENIED);
    audit(&c);
    g_assert_true(world_logged(c.world, "vol1: cannot fence client " B1 "*"));
    fake_assert_never(c.store, "cas");
    audit(&c);
    g_assert_cmpint(fake_blocklist_get(c.store, B1), >, 0);
    case_end(&c);
}

/* ---- fences that lapse ---- */

static void
refence(Case *c)
{
    vl_refence_begin(c->world->daemon);
    world_finish_jobs(c->world);
}

static void
assert_noted(Case *c, gint64 until)
{
    g_autoptr(VlRecord) record = fake_get(c->store, "vol1");
    g_assert_cmpuint(record->fenced->len, ==, 1);
    g_assert_cmpint(noted(record, OLD)->until, ==, until);
}

static void
test_lapsed(void)
{
    Case c;
    case_begin_fenced(&c, OLD, now() - 60);
    refence(&c);
    fake_assert_order(c.store, "fence " OLD, "barrier rbd", "cas vol1 web1:held", NULL);
    g_assert_cmpint(fake_blocklist_get(c.store, OLD), >, now() + HOUR);
    assert_noted(&c, fake_blocklist_get(c.store, OLD));
    g_assert_true(world_logged(c.world, "vol1: client " OLD " fenced anew*"));
    case_end(&c);
}

/* The monitors have not dropped the old entry yet, and adding it again changes nothing: tried again later. */
static void
test_still_listed(void)
{
    Case c;
    gint64 until = now() - 1;
    case_begin_fenced(&c, OLD, until);
    fake_blocklist_put(c.store, OLD, until);
    refence(&c);
    g_assert_cmpuint(fake_count(c.store, FAKE_FENCE), ==, 1);
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 0);
    assert_noted(&c, until);
    g_assert_false(world_logged(c.world, "*fenced anew*"));
    case_end(&c);
}

static void
test_refence_fails(void)
{
    Case c;
    gint64 until = now() - 60;
    case_begin_fenced(&c, OLD, until);
    fake_fault(c.store, FAKE_FENCE, OLD, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    refence(&c);
    g_assert_true(world_logged(c.world, "vol1: fence not renewed yet: cannot fence client " OLD "*"));
    assert_noted(&c, until);
    case_end(&c);
}

/* It stands; or the lease is not ours any more, and with it the duty. */
static void
test_no_duty(void)
{
    for (guint lost = 0; lost < 2; lost++) {
        Case c;
        case_begin_fenced(&c, OLD, lost ? now() - 60 : now() + 60);
        if (lost)
            vl_lease_set_state(world_lease(c.vm, "vol1"), VL_LEASE_LOST, "test");
        refence(&c);
        g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
        case_end(&c);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_connect();
    g_test_add_func("/audit-fences/fenced-ip", test_fenced_ip);
    g_test_add_func("/audit-fences/own-ip", test_own_ip);
    g_test_add_func("/audit-fences/migration", test_migration);
    g_test_add_func("/audit-fences/stranger-not-fenced", test_stranger_not_fenced);
    g_test_add_func("/audit-fences/lapsed", test_lapsed);
    g_test_add_func("/audit-fences/still-listed", test_still_listed);
    g_test_add_func("/audit-fences/refence-fails", test_refence_fails);
    g_test_add_func("/audit-fences/no-duty", test_no_duty);
    int result = g_test_run();
    qemu_disconnect();
    return result;
}

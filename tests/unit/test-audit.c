/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Looking after leases we have: web1 runs here, on host-a, with vol1. Its "QEMU" is this very test process. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockd/audit.h"
#include "lockd/error.h"
#include "lockd/procinfo.h"
#include "lockd/rules.h"
#include "tests/unit/case.h"
#include "tests/unit/qemu.h"

#define NEW  "127.0.0.1:0/222"
#define HOUR 3600

static void
case_begin_held(Case *c)
{
    *c = (Case){.world = world_new(FALSE)};
    c->store = c->world->store;
    c->b = world_host(c->world, "b", NULL);
    c->vm = world_vm(c->world, "web1", getpid(), "vol1", NULL);
    g_assert_true(case_take(c, 20, 60));
    qemu_opens(c->world, c->vm);
    g_assert_true(qemu_hold(c->world, c->vm, 30, NULL));
    fake_counts_reset(c->store);
}

static void
audit(Case *c)
{
    g_mutex_lock(&c->vm->op);
    vl_audit_vm(c->world->daemon, c->vm);
    g_mutex_unlock(&c->vm->op);
}

static void
assert_state(Case *c, VlLeaseState state)
{
    world_assert_lease(c->vm, "vol1", state);
}

/* What the record says of us; its record is the caller's. */
static const VlHolder *
me(Case *c, VlRecord **ret_record)
{
    *ret_record = fake_get(c->store, "vol1");
    const VlHolder *holder = vl_record_find(*ret_record, &c->vm->who);
    g_assert_nonnull(holder);
    return holder;
}

static void
put_other(Case *c)
{
    fake_put(c->store, "vol1", world_record(world_holder(c->b, "web1", TRUE, B1, NULL), NULL));
}

static guint
count_changes(Case *c)
{
    return fake_count(c->store, FAKE_CAS) + fake_count(c->store, FAKE_FENCE) + fake_count(c->store, FAKE_BLOCKLIST);
}

/* ---- in order ---- */

static void
test_quiet(void)
{
    Case c;
    case_begin_held(&c);
    audit(&c);
    assert_state(&c, VL_LEASE_HELD);
    g_assert_cmpuint(fake_count(c.store, FAKE_LOOK), ==, 1);
    g_assert_cmpuint(count_changes(&c), ==, 0);
    case_end(&c);
}

static void
test_no_answer(void)
{
    Case c;
    case_begin_held(&c);
    put_other(&c);
    fake_fault(c.store, FAKE_LOOK, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    audit(&c);
    assert_state(&c, VL_LEASE_HELD); /* not known to be lost */
    g_assert_true(world_logged(c.world, "VM web1: its leases cannot be checked*"));
    audit(&c);
    assert_state(&c, VL_LEASE_LOST);
    case_end(&c);
}

/* ---- lost ---- */

/* A process that can be killed. */
static pid_t
spawn(Case *c)
{
    guint64 start;
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    g_assert_cmpint(pid, >, 0);
    g_assert_true(vl_proc_start_time(pid, &start, NULL));
    c->vm->pidfd = vl_proc_open(pid, start, NULL);
    g_assert_cmpint(c->vm->pidfd, >=, 0);
    return pid;
}

static gboolean
is_killed(World *world, gpointer opaque)
{
    return vl_proc_exited(((Case *)opaque)->vm->pidfd);
}

static void
end_process(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
}

/* R4: what never held its lease is killed at once, whatever the administrator chose; else the choice counts. */
static void
test_lost(void)
{
    for (guint i = 0; i < 3; i++) {
        Case c;
        case_begin_held(&c);
        pid_t pid = spawn(&c);
        c.vm->ever_held = i != 0;
        c.world->daemon->settings->on_lease_lost = i == 2 ? VL_LOST_KILL : VL_LOST_LOG;
        if (i == 1)
            fake_put(c.store, "vol1", NULL);
        else
            put_other(&c);
        audit(&c);
        assert_state(&c, VL_LEASE_LOST);
        if (i == 1) {
            world_finish_jobs(c.world);
            g_assert_false(is_killed(c.world, &c));
            g_assert_true(world_logged(c.world, "*(its record is free)"));
        } else {
            world_wait(c.world, is_killed, &c);
            g_assert_true(world_logged(c.world, "*leased by VM 'web1' on host node-b*"));
        }
        g_assert_true(world_logged(c.world, i ? "*its lease on vol1 is LOST*" : "*before its CPUs ever ran; killing*"));
        g_assert_cmpuint(count_changes(&c), ==, 0); /* theirs is left alone */
        /* Lost once; it is not looked at any more. */
        fake_counts_reset(c.store);
        audit(&c);
        g_assert_cmpuint(fake_round_trips(c.store), ==, 0);
        end_process(pid);
        case_end(&c);
    }
}

/* R2: handed over by our own token, wherever the lease is by now. */
static void
test_handed_over(void)
{
    Case c;
    case_begin_held(&c);
    qemu_park(c.world, c.vm);
    VlRecord *record = fake_get(c.store, "vol1");
    g_autoptr(VlHolder) there = world_holder(c.b, "web1", FALSE, B1, NULL);
    fake_put(c.store, "vol1", vl_rules_handed_over(record, vl_record_find(record, &c.vm->who), there));
    vl_record_free(record);
    fake_counts_reset(c.store);
    audit(&c);
    assert_state(&c, VL_LEASE_PARKED);
    g_assert_cmpuint(count_changes(&c), ==, 0);
    case_end(&c);
}

/* The record still names us, but our QEMU's clients are fenced and gone. */
static void
test_fenced(void)
{
    for (guint fenced = 0; fenced < 2; fenced++) {
        Case c;
        case_begin_held(&c);
        fake_unwatch(c.store, "vol1", QEMU_ADDR);
        if (fenced)
            fake_blocklist_put(c.store, QEMU_ADDR, g_get_real_time() / G_USEC_PER_SEC + HOUR);
        audit(&c);
        assert_state(&c, fenced ? VL_LEASE_LOST : VL_LEASE_HELD);
        g_assert_cmpuint(fake_count(c.store, FAKE_BLOCKLIST), ==, 1);
        case_end(&c);
    }
}

/* ---- put right ---- */

/* R3 */
static void
test_new_client(void)
{
    for (guint held = 0; held < 2; held++) {
        Case c;
        g_autoptr(VlRecord) record = NULL;
        case_begin_held(&c);
        if (!held)
            qemu_park(c.world, c.vm);
        fake_watch(c.store, "vol1", NEW);
        fake_watch(c.store, "vol1", B1); /* not ours */
        audit(&c);
        const VlHolder *holder = me(&c, &record);
        g_assert_cmpuint(holder->addrs->len, ==, 2);
        g_assert_true(vl_addrs_has(holder->addrs, NEW));
        g_assert_true(vl_addrs_has(holder->addrs, QEMU_ADDR));
        g_assert_cmpint(holder->held, ==, held);
        g_assert_cmpstr(holder->token, ==, c.vm->token);
        g_assert_true(world_logged(c.world, "VM web1: new client " NEW " on vol1"));
        case_end(&c);
    }
}

/* One whose CPUs never ran has all its clients found when they are about to. */
static void
test_new_client_not_yet(void)
{
    Case c;
    g_autoptr(VlRecord) record = NULL;
    c = (Case){.world = world_new(FALSE)};
    c.store = c.world->store;
    c.vm = world_vm(c.world, "web1", getpid(), "vol1", NULL);
    g_assert_true(case_take(&c, 20, 60));
    qemu_opens(c.world, c.vm);
    fake_counts_reset(c.store);
    audit(&c);
    g_assert_cmpuint(me(&c, &record)->addrs->len, ==, 0);
    g_assert_cmpuint(count_changes(&c), ==, 0);
    case_end(&c);
}

/* R15 */
static void
test_session(void)
{
    Case c;
    g_autoptr(VlRecord) after = NULL;
    case_begin_held(&c);
    VlRecord *record = fake_get(c.store, "vol1");
    vl_record_find(record, &c.vm->who)->session -= 1; /* ours was fenced, and is a new one now */
    fake_put(c.store, "vol1", record);
    audit(&c);
    g_assert_cmpuint(me(&c, &after)->session, ==, vl_sessions_number(c.world->daemon->sessions, c.world->place));
    case_end(&c);
}

static void
test_put_right_fails(void)
{
    Case c;
    g_autoptr(VlRecord) record = NULL;
    case_begin_held(&c);
    fake_watch(c.store, "vol1", NEW);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    audit(&c);
    assert_state(&c, VL_LEASE_HELD);
    g_assert_true(world_logged(c.world, "vol1: its record could not be brought up to date*"));
    audit(&c);
    g_assert_true(vl_addrs_has(me(&c, &record)->addrs, NEW));
    case_end(&c);
}

/* ---- claims ---- */

static void
put_claim(Case *c)
{
    VlRecord *record = fake_get(c->store, "vol1");
    world_claim(record, c->b, "web1", QEMU_ADDR);
    fake_put(c->store, "vol1", record);
}

static void
test_living_claim(void)
{
    Case c;
    case_begin_held(&c);
    put_claim(&c);
    fake_watch(c.store, "vol1", NEW);
    audit(&c);
    assert_state(&c, VL_LEASE_HELD);
    case_assert_state(&c, "vol1", "web1:held+claim:node-b"); /* while it stands we change nothing */
    g_assert_cmpuint(count_changes(&c), ==, 0);
    g_assert_true(g_atomic_int_get(&c.vm->audit_soon)); /* but look again at once */
    case_end(&c);
}

static void
test_dead_claim(void)
{
    for (guint fenced = 0; fenced < 2; fenced++) {
        Case c;
        case_begin_held(&c);
        put_claim(&c);
        world_host_die(c.b);
        if (fenced) /* it came that far; the watch may still be shown */
            fake_blocklist_put(c.store, QEMU_ADDR, g_get_real_time() / G_USEC_PER_SEC + HOUR);
        audit(&c);
        assert_state(&c, fenced ? VL_LEASE_LOST : VL_LEASE_HELD);
        case_assert_state(&c, "vol1", fenced ? "web1:held+claim:node-b" : "web1:held");
        case_end(&c);
    }
}

/* Whether it came that far cannot be told: its claim is not struck on a guess. */
static void
test_dead_claim_unknown(void)
{
    Case c;
    case_begin_held(&c);
    put_claim(&c);
    world_host_die(c.b);
    fake_blocklist_put(c.store, QEMU_ADDR, g_get_real_time() / G_USEC_PER_SEC + HOUR);
    fake_fault(c.store, FAKE_BLOCKLIST, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    audit(&c);
    assert_state(&c, VL_LEASE_HELD);
    case_assert_state(&c, "vol1", "web1:held+claim:node-b");
    g_assert_true(g_atomic_int_get(&c.vm->audit_soon));
    audit(&c);
    assert_state(&c, VL_LEASE_LOST);
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_connect();
    g_test_add_func("/audit/quiet", test_quiet);
    g_test_add_func("/audit/no-answer", test_no_answer);
    g_test_add_func("/audit/lost", test_lost);
    g_test_add_func("/audit/handed-over", test_handed_over);
    g_test_add_func("/audit/fenced", test_fenced);
    g_test_add_func("/audit/new-client", test_new_client);
    g_test_add_func("/audit/new-client-not-yet", test_new_client_not_yet);
    g_test_add_func("/audit/session", test_session);
    g_test_add_func("/audit/put-right-fails", test_put_right_fails);
    g_test_add_func("/audit/living-claim", test_living_claim);
    g_test_add_func("/audit/dead-claim", test_dead_claim);
    g_test_add_func("/audit/dead-claim-unknown", test_dead_claim_unknown);
    int result = g_test_run();
    qemu_disconnect();
    return result;
}

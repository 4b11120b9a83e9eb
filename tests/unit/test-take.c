/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Taking leases for a process that is about to start: who stands in the way, and that it is all or nothing. Takeovers
 * as such: test-takeover.c. */
#include <glib/gstdio.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/procinfo.h"
#include "tests/unit/world.h"

#define B1 "10.0.0.98:0/11"

typedef struct {
    World *world;
    FakeStore *store;
    WorldHost *b;
    VlVm *vm;
    GError *error;
} Case;

/* web1 is to start here with vol1 (and vol2). */
static void
case_begin(Case *c, gboolean threads, const char *second)
{
    *c = (Case){.world = world_new(threads)};
    c->store = c->world->store;
    c->b = world_host(c->world, "b", NULL);
    c->vm = world_vm(c->world, "web1", 0, "vol1", second, NULL);
}

static void
case_end(Case *c)
{
    g_clear_error(&c->error);
    world_free(c->world);
}

/* vol1 is held by web1 on host-b, whose QEMU is B1. */
static void
held_by_b(Case *c)
{
    fake_put(c->store, "vol1", world_record(world_holder(c->b, "web1", TRUE, B1, NULL), NULL));
    fake_watch(c->store, "vol1", B1);
    fake_own(c->store, "vol1", B1);
}

static gboolean
take(Case *c, guint wait_s)
{
    g_clear_error(&c->error);
    return world_take(c->world, c->vm, wait_s, 60, &c->error);
}

static void
assert_refused(Case *c, guint wait_s, enum vl_error code, const char *pattern)
{
    g_assert_false(take(c, wait_s));
    world_assert_error(c->error, code, pattern);
    for (guint i = 0; i < c->vm->leases->len; i++) {
        VlLease *lease = c->vm->leases->pdata[i];
        g_autoptr(VlRecord) record = fake_get(c->store, lease->volume->display);
        g_assert_false(record && vl_record_find(record, &c->vm->who));
        g_assert_cmpint(lease->state, ==, VL_LEASE_FREE);
    }
    g_autofree char *index = fake_index(c->store, c->world->place, "host-a");
    g_assert_cmpstr(index, ==, "");
}

static void
assert_state(Case *c, const char *volume, const char *want)
{
    g_autofree char *state = fake_state(c->store, volume);
    g_assert_cmpstr(state, ==, want);
}

/* ---- free ---- */

/* Index, look, write, look again (R4): four round trips, whatever the number of disks; and one more write, because
 * the lowest key goes alone. */
static void
test_free(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    g_assert_true(take(&c, 20));
    assert_state(&c, "vol1", "web1:parked");
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
    g_assert_true(take(&c, 20));
    case_end(&c);
}

static void
test_no_journal(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    g_autofree char *vms = g_build_filename(c.world->dir, "vms", NULL);
    g_assert_cmpint(g_rmdir(vms), ==, 0);
    assert_refused(&c, 20, VL_ERR_JOURNAL, "*vms*");
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

static void
test_no_index(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_INDEX_SET, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    assert_refused(&c, 20, VL_ERR_STORAGE, "*");
    fake_assert_never(c.store, "cas");
    case_end(&c);
}

static void
test_garbage(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    fake_put_text(c.store, "vol2", "{\"version\":2}");
    g_assert_false(take(&c, 20));
    world_assert_error(c.error, VL_ERR_RECORD, "vol2: *version 2*");
    assert_state(&c, "vol1", "-");
    assert_state(&c, "vol2", "?");
    case_end(&c);
}

/* ---- somebody holds it ---- */

static void
test_living_holder(void)
{
    Case c;
    case_begin(&c, FALSE, "vol2");
    held_by_b(&c);
    double began = world_seconds(c.world);
    assert_refused(&c, 20, VL_ERR_HELD, "vol1 is in use: leased by VM 'web1' on host node-b since 20*");
    g_assert_cmpfloat(world_seconds(c.world) - began, <, 1);
    assert_state(&c, "vol1", "web1:held");
    assert_state(&c, "vol2", "-");
    fake_assert_never(c.store, "fence");
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
    assert_refused(&c, 20, VL_ERR_HELD, "vol2 is in use*");
    fake_assert_order(c.store, "cas vol1 web1:parked", "cas vol2 web1:parked !changed", "cas vol1 -", NULL);
    assert_state(&c, "vol1", "-");
    assert_state(&c, "vol2", "db1:held");
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
    g_assert_false(take(&c, 20));
    assert_state(&c, "vol1", "web1:parked");
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
    assert_refused(&c, 20, VL_ERR_HELD, "*of this very host*");
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    case_end(&c);

    /* The same number, but a process that has gone: fenced, taken. */
    case_begin(&c, FALSE, NULL);
    fake_put(c.store, "vol1", local_record(&c, TRUE));
    g_assert_true(take(&c, 20));
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
        held_by_b(&c);
        c.b->answer = answers[i];
        world_at(c.world, 0.7, freed_at_last, NULL);
        g_assert_true(take(&c, 20));
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
    held_by_b(&c);
    c.b->answer = VL_ANSWER_LOST;
    g_assert_true(take(&c, 20));
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
    held_by_b(&c);
    fake_put(c.store, "vol2", local_record(&c, FALSE));
    assert_refused(&c, 20, VL_ERR_HELD, "vol2 is in use*");
    g_assert_cmpuint(c.b->asked, ==, 0);
    case_end(&c);
}

/* ---- settings ---- */

static void
test_manual(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    held_by_b(&c);
    world_host_die(c.b);
    c.world->daemon->settings->takeover = VL_TAKEOVER_MANUAL;
    assert_refused(&c, 20, VL_ERR_MANUAL, "*virtleasectl fence node-b*");
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
    held_by_b(&c);
    world_host_die(c.b);
    world_freeze(c.world, 2.5);
    assert_refused(&c, 0, VL_ERR_UNKNOWN_OWNER,
                   "vol1 is in use: *cannot be told: *silent*try again in * s*virtleasectl fence node-b");
    fake_assert_never(c.store, "cas");
    world_thaw(c.world);
    /* The window went on without us. */
    VlVm *again = world_vm(c.world, "web2", 0, "vol1", NULL);
    g_assert_true(world_take(c.world, again, 20, 60, NULL));
    case_end(&c);
    case_begin(&c, TRUE, NULL);
    held_by_b(&c);
    assert_refused(&c, 0, VL_ERR_HELD, "*that host is alive*");
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
    held_by_b(&c);
    world_host_die(c.b);
    c.world->daemon->settings->takeover_watch = VL_WATCH_WAIT;
    assert_refused(&c, 20, VL_ERR_UNKNOWN_OWNER, "*client " B1 " still watches*");
    g_assert_cmpfloat(world_seconds(c.world), >=, 20);
    fake_assert_never(c.store, "cas");
    fake_assert_never(c.store, "fence");
    case_end(&c);
    case_begin(&c, FALSE, NULL);
    held_by_b(&c);
    world_host_die(c.b);
    c.world->daemon->settings->takeover_watch = VL_WATCH_WAIT;
    world_at(c.world, 15, qemu_goes, NULL);
    g_assert_true(take(&c, 20));
    g_assert_cmpfloat(world_seconds(c.world), >=, 15);
    g_assert_cmpint(fake_blocklist_get(c.store, B1), >, 0);
    case_end(&c);
}

/* ---- clients that no lease explains ---- */

static void
test_foreign(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.9.9.9:0/1");
    fake_own(c.store, "vol1", "10.9.9.9:0/1");
    assert_refused(&c, 20, VL_ERR_FOREIGN, "vol1 is in use by client 10.9.9.9:0/1*");
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
    g_assert_true(take(&c, 20));
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
    g_assert_true(take(&c, 20));
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
    g_assert_true(take(&c, 20));
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
    assert_refused(&c, 20, VL_ERR_FOREIGN, "vol1 has an advisory lock*rbd lock rm*");
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
            g_assert_true(take(&c, 20));
        else
            assert_refused(&c, 20, VL_ERR_FOREIGN, "*10.0.0.98:0/5*");
        case_end(&c);
    }
}

static void
test_own_reader(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.0.0.1:0/5");
    assert_refused(&c, 20, VL_ERR_FOREIGN, "*10.0.0.1:0/5*");
    case_end(&c);
    case_begin(&c, FALSE, NULL);
    fake_watch(c.store, "vol1", "10.0.0.1:0/5");
    VlVm *reader = world_vm(c.world, "backup", 0, NULL);
    g_autoptr(VlVolume) volume = fake_volume(c.store, c.world->place, "vol1");
    vl_vm_add_reader(reader, volume);
    g_assert_true(take(&c, 20));
    g_clear_pointer(&volume, vl_volume_unref);
    case_end(&c);
}

/* Two living sessions publish the dead host's address (hosts behind one NAT): what is seen on it proves nothing. */
static void
test_shared_ip(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    held_by_b(&c);
    fake_watch(c.store, "vol1", "10.0.0.98:0/55");
    world_host_die(c.b);
    WorldHost *twin = world_host(c.world, "c", NULL);
    g_autoptr(VlIdentity) identity = world_identity(twin);
    vl_addrs_add(identity->ips, c.b->ip);
    fake_host_put(c.store, c.world->place, identity);
    assert_refused(&c, 20, VL_ERR_FOREIGN, "*10.0.0.98:0/55*");
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
    g_assert_true(take(&c, 20));
    fake_assert_never(c.store, "fence");
    g_autoptr(VlRecord) after = fake_get(c.store, "vol1");
    g_assert_cmpuint(after->fenced->len, ==, 1);
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
    assert_refused(&c, 20, VL_ERR_LOST, "vol1: *");
    assert_state(&c, "vol1", "web1:held"); /* theirs is left alone */
    case_end(&c);
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_LOOK, "vol1", 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(take(&c, 20)); /* not seen, not granted */
    assert_state(&c, "vol1", "-");
    case_end(&c);
}

/* ---- answers that are lost ---- */

static void
test_lost_ack(void)
{
    Case c;
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
    g_assert_true(take(&c, 20));
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 1);
    case_end(&c);
    /* The store sent it again by itself, and the second one found the first. */
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_CHANGED);
    g_assert_true(take(&c, 20));
    g_assert_cmpuint(fake_count(c.store, FAKE_CAS), ==, 1);
    case_end(&c);
    /* Neither the answer nor the reading back arrives: the next round finds its own name in the record. */
    case_begin(&c, FALSE, NULL);
    fake_fault(c.store, FAKE_CAS, "vol1", 1, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
    fake_fault(c.store, FAKE_LOOK, "vol1", 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_true(take(&c, 20));
    assert_state(&c, "vol1", "web1:parked");
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
    g_test_add_func("/take/living-holder", test_living_holder);
    g_test_add_func("/take/rollback", test_rollback);
    g_test_add_func("/take/rollback-fails", test_rollback_fails);
    g_test_add_func("/take/local-holder", test_local_holder);
    g_test_add_func("/take/being-freed", test_being_freed);
    g_test_add_func("/take/given-up", test_given_up);
    g_test_add_func("/take/remote-and-local", test_remote_and_local);
    g_test_add_func("/take/manual", test_manual);
    g_test_add_func("/take/no-wait", test_no_wait);
    g_test_add_func("/take/watch-wait", test_watch_wait);
    g_test_add_func("/take/foreign", test_foreign);
    g_test_add_func("/take/foreign-goes", test_foreign_goes);
    g_test_add_func("/take/foreign-ignored", test_foreign_ignored);
    g_test_add_func("/take/dead-foreign-owner", test_dead_foreign_owner);
    g_test_add_func("/take/advisory-lock", test_advisory_lock);
    g_test_add_func("/take/reader", test_reader);
    g_test_add_func("/take/own-reader", test_own_reader);
    g_test_add_func("/take/shared-ip", test_shared_ip);
    g_test_add_func("/take/fenced-watcher", test_fenced_watcher);
    g_test_add_func("/take/verify", test_verify);
    g_test_add_func("/take/lost-ack", test_lost_ack);
    g_test_add_func("/take/storage-away", test_storage_away);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * This host's own session. dead_after is 1 s here, so a heartbeat comes every 250 ms of real time; windows (is that
 * stranger alive?) run on the fake clock. */
#include "lockd/error.h"
#include "tests/unit/world.h"

#define HOST "host-a"

typedef struct {
    World *world;
    FakeStore *store;
    VlPlace *place;
    VlSessions *sessions;
    gint rechecks, earlier_boots, unhealthy;
    guint64 number;
    GError *error;
} Case;

static gboolean
on_healthy(gpointer opaque)
{
    return !g_atomic_int_get(&((Case *)opaque)->unhealthy);
}

static GBytes *
on_challenge(VlPlace *place, GBytes *payload, gpointer opaque)
{
    return g_bytes_new("{}", 2);
}

static void
on_recheck(VlPlace *place, gpointer opaque)
{
    g_atomic_int_inc(&((Case *)opaque)->rechecks);
}

static void
on_earlier_boot(VlPlace *place, gpointer opaque)
{
    g_atomic_int_inc(&((Case *)opaque)->earlier_boots);
}

static gboolean
on_own_boot(const char *boot, gpointer opaque)
{
    return g_str_equal(boot, "boot-before");
}

static void
case_begin(Case *c)
{
    VlSessionEvents events = {on_healthy, on_challenge, on_recheck, on_earlier_boot, on_own_boot, c};
    *c = (Case){.world = world_new(FALSE)};
    c->store = c->world->store;
    c->place = fake_place(c->store, "pool2");
    c->sessions = vl_sessions_new(c->world->daemon->host, 1, &events);
}

static void
case_end(Case *c)
{
    fake_hook(c->store, NULL, NULL);
    vl_sessions_stop(c->sessions, FALSE, 0);
    vl_sessions_free(c->sessions);
    g_clear_error(&c->error);
    world_free(c->world);
}

static gboolean
ensure(Case *c)
{
    VlCall call = {.deadline = vl_deadline_in(1000)};
    g_clear_error(&c->error);
    return vl_sessions_ensure(c->sessions, c->place, &call, &c->number, &c->error);
}

static void
begin(Case *c)
{
    g_assert_true(ensure(c));
    g_assert_no_error(c->error);
}

/* An object that was there before us. */
static guint64
put(Case *c, const char *boot, const char *machine, VlSessionMark mark)
{
    g_autoptr(VlIdentity) identity = vl_identity_new();
    identity->host = g_strdup(HOST);
    identity->machine = g_strdup(machine);
    identity->name = g_strdup("node-x");
    identity->boot = g_strdup(boot);
    identity->nonce = g_strdup("nonce");
    identity->session = 77;
    identity->mark = mark;
    identity->dead_after = 1;
    fake_host_put(c->store, c->place, identity);
    return identity->session;
}

static VlSessionState
state_of(Case *c)
{
    g_autoptr(GArray) list = vl_sessions_list(c->sessions);
    g_assert_cmpuint(list->len, ==, 1);
    return g_array_index(list, VlSessionInfo, 0).state;
}

static gboolean
is_silent(World *world, gpointer opaque)
{
    return state_of(opaque) == VL_SESSION_SILENT;
}

static gboolean
is_live(World *world, gpointer opaque)
{
    return state_of(opaque) == VL_SESSION_UP;
}

static gboolean
has_rechecked(World *world, gpointer opaque)
{
    return g_atomic_int_get(&((Case *)opaque)->rechecks) > 0;
}

static gboolean
is_watched(World *world, gpointer opaque)
{
    return fake_host_watched(world->store, ((Case *)opaque)->place, HOST);
}

/* ---- beginning ---- */

static void
test_create(void)
{
    Case c;
    case_begin(&c);
    g_assert_cmpuint(vl_sessions_number(c.sessions, c.place), ==, 0);
    begin(&c);
    g_autoptr(VlIdentity) identity = fake_host_get(c.store, c.place, HOST);
    g_assert_cmpuint(identity->session, ==, c.number);
    g_assert_cmpuint(vl_sessions_number(c.sessions, c.place), ==, c.number);
    g_assert_cmpstr(identity->boot, ==, "boot-a");
    g_assert_cmpstr(identity->machine, ==, "machine-a");
    g_assert_cmpint(identity->mark, ==, VL_SESSION_LIVE);
    g_assert_cmpuint(identity->dead_after, ==, 1);
    g_assert_true(vl_addrs_has(identity->ips, "10.0.0.1"));
    g_assert_cmpuint(fake_host_counter(c.store, c.place, HOST), >=, 1);
    g_assert_true(fake_host_watched(c.store, c.place, HOST));
    g_assert_cmpint(c.rechecks + c.earlier_boots, ==, 0);
    case_end(&c);
}

/* IPv6 is published in the form that all others are compared in. */
static void
test_address_form(void)
{
    Case c;
    case_begin(&c);
    fake_set_own_address(c.store, "[fd00::1]");
    begin(&c);
    g_autoptr(VlIdentity) identity = fake_host_get(c.store, c.place, HOST);
    g_assert_cmpuint(identity->ips->len, ==, 1);
    g_assert_true(vl_addrs_has(identity->ips, "fd00::1"));
    case_end(&c);
    case_begin(&c);
    fake_set_own_address(c.store, NULL);
    begin(&c);
    g_autoptr(VlIdentity) none = fake_host_get(c.store, c.place, HOST);
    g_assert_cmpuint(none->ips->len, ==, 0);
    case_end(&c);
}

/* The daemon was restarted: the leases of this boot name that number, it goes on with it and with the counter. */
static void
test_restart(void)
{
    Case c;
    case_begin(&c);
    guint64 number = put(&c, "boot-a", "machine-a", VL_SESSION_LIVE);
    for (guint i = 0; i < 5; i++)
        fake_host_beat(c.store, c.place, HOST);
    begin(&c);
    g_assert_cmpuint(c.number, ==, number);
    g_assert_cmpuint(fake_host_counter(c.store, c.place, HOST), >, 5);
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    g_assert_cmpint(c.earlier_boots, ==, 0);
    case_end(&c);
}

/* A boot that stands in our own journal: no waiting, but what it left must be fenced and freed. */
static void
test_earlier_boot(void)
{
    Case c;
    case_begin(&c);
    guint64 number = put(&c, "boot-before", "machine-a", VL_SESSION_LIVE);
    begin(&c);
    g_assert_cmpuint(c.number, >, number);
    g_assert_cmpint(c.earlier_boots, ==, 1);
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    case_end(&c);
}

static void
test_closed(void)
{
    Case c;
    case_begin(&c);
    guint64 number = put(&c, "boot-x", "machine-x", VL_SESSION_CLOSED);
    begin(&c);
    g_assert_cmpuint(c.number, >, number);
    g_assert_cmpuint(fake_count(c.store, FAKE_CHALLENGE), ==, 0);
    case_end(&c);
}

static void
stranger_renews(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op == FAKE_READ && g_strcmp0(name, HOST) == 0)
        fake_host_beat(store, c->place, HOST);
}

/* Two hosts, one identity: an error, never a fight. Also if the boot is ours but the machine is not (a cloned host). */
static void
test_stranger_alive(void)
{
    static const char *const boots[] = {"boot-x", "boot-before"};
    for (guint i = 0; i < G_N_ELEMENTS(boots); i++) {
        Case c;
        case_begin(&c);
        guint64 number = put(&c, boots[i], "machine-x", VL_SESSION_LIVE);
        fake_hook(c.store, stranger_renews, &c);
        g_assert_false(ensure(&c));
        world_assert_error(c.error, VL_ERR_DUP_HOST, "two hosts share one identity*node-x*machine-x*");
        g_autoptr(VlIdentity) identity = fake_host_get(c.store, c.place, HOST);
        g_assert_cmpuint(identity->session, ==, number);
        g_assert_cmpuint(fake_count(c.store, FAKE_SWAP), ==, 0);
        case_end(&c);
    }
}

/* The same object, but nobody moves it: an earlier life whose journal is lost. */
static void
test_stranger_dead(void)
{
    Case c;
    case_begin(&c);
    guint64 number = put(&c, "boot-x", "machine-x", VL_SESSION_LIVE);
    double began = world_seconds(c.world);
    begin(&c);
    g_assert_cmpuint(c.number, >, number);
    g_assert_cmpint(c.earlier_boots, ==, 1);
    g_assert_cmpfloat(world_seconds(c.world) - began, >=, 1.0);
    case_end(&c);
}

static void
test_denied(void)
{
    Case c;
    case_begin(&c);
    fake_fault(c.store, FAKE_CREATE, NULL, 1, 1000, FAKE_ERROR, VL_ERR_DENIED);
    g_assert_false(ensure(&c));
    world_assert_error(c.error, VL_ERR_DENIED, "*made to fail*");
    case_end(&c);
}

/* ---- heartbeat ---- */

/* One small write per interval, whatever the number of leases. */
static void
test_renew(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_counts_reset(c.store);
    guint64 before = fake_host_counter(c.store, c.place, HOST);
    g_usleep(600 * 1000);
    guint renewals = fake_count(c.store, FAKE_RENEW);
    g_assert_cmpuint(renewals, >=, 1);
    g_assert_cmpuint(renewals, <=, 4);
    g_assert_cmpuint(fake_host_counter(c.store, c.place, HOST), >, before);
    g_assert_cmpuint(fake_count(c.store, FAKE_READ) + fake_count(c.store, FAKE_SWAP) + fake_count(c.store, FAKE_WATCH),
                     ==, 0);
    case_end(&c);
}

/* The main loop hangs: then this host must look as dead as it is (R21). */
static void
test_unhealthy(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    g_atomic_int_set(&c.unhealthy, 1);
    g_usleep(20 * 1000);
    guint64 before = fake_host_counter(c.store, c.place, HOST);
    g_usleep(400 * 1000);
    g_assert_cmpuint(fake_host_counter(c.store, c.place, HOST), ==, before);
    case_end(&c);
}

/* R15: an operator ended our number. A new one, and every lease is looked at. */
static void
test_fenced(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    guint64 number = c.number;
    g_autoptr(VlIdentity) identity = fake_host_get(c.store, c.place, HOST);
    identity->mark = VL_SESSION_FENCED;
    fake_host_put(c.store, c.place, identity);
    world_wait(c.world, has_rechecked, &c);
    world_wait(c.world, is_live, &c);
    begin(&c);
    g_assert_cmpuint(c.number, >, number);
    g_assert_cmpint(c.earlier_boots, ==, 0);
    case_end(&c);
}

static void
test_object_gone(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    guint64 number = c.number;
    fake_host_delete(c.store, c.place, HOST);
    world_wait(c.world, has_rechecked, &c);
    world_wait(c.world, is_live, &c);
    begin(&c);
    g_assert_cmpuint(c.number, >, number);
    case_end(&c);
}

/* Silence longer than dead_after: somebody may have taken over. */
static void
test_silence(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_fault(c.store, FAKE_RENEW, NULL, 1, 1000, FAKE_ERROR, VL_ERR_STORAGE);
    world_wait(c.world, is_silent, &c);
    g_assert_cmpuint(fake_count(c.store, FAKE_RECOVER), >=, 1);
    begin(&c); /* nothing is lost by silence alone */
    world_pass(c.world, 1.5);
    g_assert_cmpint(g_atomic_int_get(&c.rechecks), ==, 0);
    fake_faults_clear(c.store);
    world_wait(c.world, has_rechecked, &c);
    world_wait(c.world, is_live, &c);
    case_end(&c);
}

static void
test_short_silence(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_fault(c.store, FAKE_RENEW, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    world_wait(c.world, is_silent, &c);
    world_wait(c.world, is_live, &c);
    g_assert_cmpint(g_atomic_int_get(&c.rechecks), ==, 0);
    case_end(&c);
}

/* A renewal that was done but called failed: the number after it is a new one, or who watches would see us stand still.
 */
static void
test_lost_ack(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_fault(c.store, FAKE_RENEW, NULL, 1, 1, FAKE_LOST_ACK, VL_ERR_STORAGE);
    world_wait(c.world, is_silent, &c);
    guint64 before = fake_host_counter(c.store, c.place, HOST);
    world_wait(c.world, is_live, &c);
    g_assert_cmpuint(fake_host_counter(c.store, c.place, HOST), >, before);
    case_end(&c);
}

/* This daemon's own client was fenced: a new one; watch and leases are looked at again. */
static void
test_reconnect(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_counts_reset(c.store);
    fake_set_reconnect(c.store);
    fake_fault(c.store, FAKE_RENEW, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    world_wait(c.world, has_rechecked, &c);
    world_wait(c.world, is_live, &c);
    g_assert_cmpuint(fake_count(c.store, FAKE_WATCH), ==, 1);
    case_end(&c);
}

static void
test_broken_watch(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_host_break_watch(c.store, c.place, HOST);
    world_wait(c.world, is_watched, &c);
    case_end(&c);
}

/* Deaf is not dead: while the watch cannot be set the counter goes on, or living VMs would be fenced. */
static void
test_deaf(void)
{
    Case c;
    case_begin(&c);
    begin(&c);
    fake_fault(c.store, FAKE_WATCH, NULL, 1, 1000, FAKE_ERROR, VL_ERR_STORAGE);
    fake_host_break_watch(c.store, c.place, HOST);
    guint64 before = fake_host_counter(c.store, c.place, HOST);
    g_usleep(600 * 1000);
    g_assert_cmpuint(fake_host_counter(c.store, c.place, HOST), >, before);
    g_assert_true(world_logged(c.world, "*challenges do not reach this host*"));
    case_end(&c);
}

/* ---- end ---- */

static void
test_stop(void)
{
    for (guint left = 0; left < 2; left++) {
        Case c;
        case_begin(&c);
        begin(&c);
        vl_sessions_stop(c.sessions, left, 120);
        g_autoptr(VlIdentity) identity = fake_host_get(c.store, c.place, HOST);
        g_assert_cmpint(identity->mark, ==, left ? VL_SESSION_LIVE : VL_SESSION_CLOSED);
        g_assert_cmpuint(identity->grace, ==, left ? 120 : 0);
        g_assert_cmpuint(identity->session, ==, c.number);
        g_assert_false(fake_host_watched(c.store, c.place, HOST));
        vl_sessions_free(c.sessions);
        world_free(c.world);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/session/create", test_create);
    g_test_add_func("/session/address-form", test_address_form);
    g_test_add_func("/session/restart", test_restart);
    g_test_add_func("/session/earlier-boot", test_earlier_boot);
    g_test_add_func("/session/closed", test_closed);
    g_test_add_func("/session/stranger-alive", test_stranger_alive);
    g_test_add_func("/session/stranger-dead", test_stranger_dead);
    g_test_add_func("/session/denied", test_denied);
    g_test_add_func("/session/renew", test_renew);
    g_test_add_func("/session/unhealthy", test_unhealthy);
    g_test_add_func("/session/fenced", test_fenced);
    g_test_add_func("/session/object-gone", test_object_gone);
    g_test_add_func("/session/silence", test_silence);
    g_test_add_func("/session/short-silence", test_short_silence);
    g_test_add_func("/session/lost-ack", test_lost_ack);
    g_test_add_func("/session/reconnect", test_reconnect);
    g_test_add_func("/session/broken-watch", test_broken_watch);
    g_test_add_func("/session/deaf", test_deaf);
    g_test_add_func("/session/stop", test_stop);
    return g_test_run();
}

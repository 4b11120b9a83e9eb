/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Is a silent host dead? Times are those of the fake clock; dead_after is 10 s, challenges take 1 s unanswered. */
#include "lockd/error.h"
#include "tests/unit/world.h"

typedef struct {
    World *world;
    WorldHost *b;
    VlIncarnation holder;
    VlAsk ask;
    VlCall call;
    VlVerdict verdict;
    GError *error;
} Case;

static void
case_begin(Case *c, gboolean threads)
{
    *c = (Case){.world = world_new(threads)};
    c->b = world_host(c->world, "b", NULL);
    c->holder = (VlIncarnation){c->b->id, c->b->boot, (char *)"uuid-web1", 4711, 1000};
    c->ask = (VlAsk){"fake:rbd/vol1", &c->holder, NULL};
    c->call.deadline = vl_deadline_in(1000);
}

static void
case_again(Case *c)
{
    vl_verdict_clear(&c->verdict);
    g_clear_error(&c->error);
}

static void
case_end(Case *c)
{
    case_again(c);
    world_free(c->world);
}

static gboolean
ask(Case *c)
{
    case_again(c);
    return vl_verdict_get(c->world->daemon->verdicts, c->world->place, &c->ask, c->b->session, &c->call, &c->verdict,
                          &c->error);
}

static void
assert_verdict(Case *c, VlVerdictKind want, double from, double to)
{
    double began = world_seconds(c->world);
    gboolean ok = ask(c);
    g_assert_no_error(c->error);
    g_assert_true(ok);
    g_assert_cmpint(c->verdict.kind, ==, want);
    double took = world_seconds(c->world) - began;
    if (took < from || took > to)
        g_error("the verdict took %.2f s instead of %.2f to %.2f", took, from, to);
}

static gboolean
confirm(Case *c)
{
    g_clear_error(&c->error);
    return vl_verdict_confirm(c->world->place, &c->ask, &c->verdict, &c->call, &c->error);
}

/* ---- dead ---- */

/* Read, challenge, 10 s of silence with the second challenge inside them. */
static void
test_dead(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    g_assert_cmpuint(c.b->asked, ==, 2);
    g_assert_cmpuint(c.verdict.seen.counter, ==, fake_host_counter(c.world->store, c.world->place, c.b->id));
    g_assert_false(c.verdict.ended);
    g_assert_true(vl_addrs_has(c.verdict.ips, c.b->ip));
    g_assert_true(confirm(&c));
    case_end(&c);
}

/* The last renewal that can count is one just before the end. */
static void
beat(World *world, gpointer opaque)
{
    WorldHost *host = opaque;
    fake_host_beat(world->store, host->place, host->id);
}

static void
test_last_moment(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    world_at(c.world, 9.99, beat, c.b);
    assert_verdict(&c, VL_VERDICT_ALIVE, 9.9, 10.01);
    world_at(c.world, 10.1, beat, c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 9.9, 10.05);
    case_end(&c);
}

/* What an empty watch list says: nothing. It neither shortens nor answers, and costs no time. */
static void
test_nobody_watches(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_host_answer(c.world->store, c.world->place, c.b->id, NULL, NULL);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    case_end(&c);
    case_begin(&c, FALSE);
    fake_host_answer(c.world->store, c.world->place, c.b->id, NULL, NULL);
    assert_verdict(&c, VL_VERDICT_ALIVE, 0, 3.01); /* it renews */
    case_end(&c);
}

static void
test_never_registered(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_host_delete(c.world->store, c.world->place, c.b->id);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    case_end(&c);
}

/* ---- alive ---- */

static void
test_counter_moves(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    c.b->beating = TRUE; /* renews, but its answers do not arrive */
    assert_verdict(&c, VL_VERDICT_ALIVE, 0, 3.01);
    case_end(&c);
}

static void
test_answers(void)
{
    static const struct {
        VlAnswer answer;
        VlVerdictKind want;
    } cases[] = {{VL_ANSWER_ALIVE, VL_VERDICT_ALIVE},
                 {VL_ANSWER_MINE, VL_VERDICT_ALIVE},
                 {VL_ANSWER_READER, VL_VERDICT_ALIVE},
                 {VL_ANSWER_NOT_MINE, VL_VERDICT_NOT_MINE},
                 {VL_ANSWER_LOST, VL_VERDICT_LOST}};
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        Case c;
        case_begin(&c, FALSE);
        world_host_die(c.b);
        c.b->answer = cases[i].answer;
        assert_verdict(&c, cases[i].want, 0, 0.01); /* within a second: at once */
        case_end(&c);
    }
}

static void
wake(World *world, gpointer opaque)
{
    world_host_wake(opaque);
    ((WorldHost *)opaque)->beating = FALSE;
}

/* The second challenge is what finds a host that answers but cannot write. */
static void
test_second_challenge(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    world_at(c.world, 5, wake, c.b);
    assert_verdict(&c, VL_VERDICT_ALIVE, 8.9, 9.6);
    case_end(&c);
}

/* ---- windows that start again ---- */

/* The read at about 5 s fails: everything before it proves nothing. */
static void
test_failed_read(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_fault(c.world->store, FAKE_READ, c.b->id, 12, 1, FAKE_ERROR, VL_ERR_STORAGE);
    assert_verdict(&c, VL_VERDICT_DEAD, 16.5, 16.51);
    case_end(&c);
}

static void
slow_read(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op == FAKE_READ && fake_count(store, FAKE_READ) == 12)
        world_pass(c->world, 1.2);
}

static void
test_slow_read(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_hook(c.world->store, slow_read, &c);
    assert_verdict(&c, VL_VERDICT_DEAD, 17.7, 17.71);
    case_end(&c);
}

static void
test_failed_challenge(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_fault(c.world->store, FAKE_CHALLENGE, c.b->id, 2, 1, FAKE_ERROR, VL_ERR_STORAGE);
    assert_verdict(&c, VL_VERDICT_DEAD, 19.5, 19.51);
    case_end(&c);
}

/* The asker itself was stopped from 2 s to 32 s, the storage was away from 2.1 s to 31.9 s. The owner, alive, could
 * neither renew nor (its watch was lost) be asked. Two good reads at both ends are not a window of good reads. */
static void
stopped(FakeStore *store, FakeOp op, const char *name, gpointer opaque)
{
    Case *c = opaque;
    if (op == FAKE_READ && fake_count(store, FAKE_READ) == 5) {
        fake_hook(store, NULL, NULL);
        fake_host_answer(store, c->world->place, c->b->id, NULL, NULL);
    }
}

static gint64
jumping_now(gpointer opaque)
{
    World *world = opaque;
    return world->now;
}

static void
jumping_sleep(gint64 when, gpointer opaque)
{
    World *world = opaque;
    static gboolean jumped;
    world_pass(world, 0);
    world->now = MAX(world->now, when);
    if (!jumped && world_seconds(world) > 2) {
        jumped = TRUE;
        world->now += 30 * G_USEC_PER_SEC;
    }
}

static void
test_asker_was_stopped(void)
{
    Case c;
    case_begin(&c, FALSE);
    VlClock clock = {jumping_now, jumping_sleep, c.world};
    world_host_die(c.b);
    fake_hook(c.world->store, stopped, &c);
    vl_clock_replace(&clock);
    assert_verdict(&c, VL_VERDICT_DEAD, 30 + 2 + 10, 30 + 2 + 12);
    case_end(&c);
}

/* ---- the owner's own settings ---- */

static void
put_identity(Case *c, guint dead_after, guint grace, VlSessionMark mark)
{
    g_autoptr(VlIdentity) identity = world_identity(c->b);
    identity->dead_after = dead_after;
    identity->grace = grace;
    identity->mark = mark;
    fake_host_put(c->world->store, c->world->place, identity);
}

static void
test_longer_dead_after(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    put_identity(&c, 25, 0, VL_SESSION_LIVE);
    assert_verdict(&c, VL_VERDICT_DEAD, 25.0, 25.01);
    case_end(&c);
    case_begin(&c, FALSE);
    world_host_die(c.b);
    put_identity(&c, 4, 0, VL_SESSION_LIVE); /* shorter than ours: ours */
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    case_end(&c);
}

static void
test_grace(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    put_identity(&c, 10, 20, VL_SESSION_LIVE);
    assert_verdict(&c, VL_VERDICT_DEAD, 30.0, 30.01);
    case_end(&c);
}

/* A planned stop (grace 120 s by default), and then the host never comes back: that must end in a verdict, too. */
static void
test_long_grace(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    put_identity(&c, 10, 120, VL_SESSION_LIVE);
    assert_verdict(&c, VL_VERDICT_DEAD, 130.0, 130.01);
    case_end(&c);
    case_begin(&c, FALSE);
    world_host_die(c.b);
    put_identity(&c, 600, 0, VL_SESSION_LIVE);
    assert_verdict(&c, VL_VERDICT_DEAD, 600.0, 600.01);
    case_end(&c);
}

static void
test_ended_session(void)
{
    Case c;
    case_begin(&c, FALSE);
    put_identity(&c, 10, 0, VL_SESSION_FENCED);
    assert_verdict(&c, VL_VERDICT_DEAD, 0, 0);
    g_assert_true(c.verdict.ended);
    g_assert_true(confirm(&c)); /* the operator's word, whatever answers */
    /* Only that number was ended: a lease of a later one is not touched by it (R15). */
    c.b->session++;
    assert_verdict(&c, VL_VERDICT_ALIVE, 0, 0.01);
    case_end(&c);
}

/* `virtleasectl fence` comes while somebody waits. */
static void
end_session(World *world, gpointer opaque)
{
    put_identity(opaque, 10, 0, VL_SESSION_FENCED);
}

static void
test_ended_meanwhile(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    world_at(c.world, 4.2, end_session, &c);
    assert_verdict(&c, VL_VERDICT_DEAD, 4.2, 4.8);
    g_assert_true(c.verdict.ended);
    case_end(&c);
}

static void
test_not_understood(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_host_put_text(c.world->store, c.world->place, c.b->id, "{\"version\":2}");
    g_assert_false(ask(&c));
    world_assert_error(c.error, VL_ERR_RECORD, "*");
    case_end(&c);
}

static void
test_storage_away(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    fake_fault(c.world->store, FAKE_READ, c.b->id, 2, 100000, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(ask(&c));
    g_assert_nonnull(c.error);
    case_end(&c);
}

/* ---- many askers ---- */

/* Dead is remembered while the counter stands, and no longer. */
static void
test_cached(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    fake_counts_reset(c.world->store);
    assert_verdict(&c, VL_VERDICT_DEAD, 0, 0);
    g_assert_cmpuint(fake_count(c.world->store, FAKE_READ), ==, 1);
    g_assert_cmpuint(fake_count(c.world->store, FAKE_CHALLENGE), ==, 0);
    fake_host_beat(c.world->store, c.world->place, c.b->id);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    world_host_wake(c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 0, 0); /* as far as anybody can see; confirm asks once more */
    g_assert_false(confirm(&c));
    world_pass(c.world, 0);
    assert_verdict(&c, VL_VERDICT_ALIVE, 0, 0.01);
    case_end(&c);
}

/* Its object was deleted and made anew since, and happens to stand at the same counter: another life. */
static void
test_cached_other_life(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    c.b->session++;
    put_identity(&c, 10, 0, VL_SESSION_LIVE);
    c.b->answer = VL_ANSWER_MINE;
    assert_verdict(&c, VL_VERDICT_ALIVE, 0, 0.01);
    case_end(&c);
}

static gpointer
asker(gpointer data)
{
    Case *c = data;
    g_assert_true(ask(c));
    return NULL;
}

static gboolean
asked_once(World *world, gpointer opaque)
{
    return ((WorldHost *)opaque)->asked == 1;
}

static gboolean
read_twice(World *world, gpointer opaque)
{
    return fake_count(world->store, FAKE_READ) >= GPOINTER_TO_UINT(opaque);
}

/* Ten callers, one window: two challenges in all. */
static void
test_shared(void)
{
    Case c;
    case_begin(&c, TRUE);
    world_host_die(c.b);
    world_freeze(c.world, 5);
    GThread *threads[10];
    Case askers[10];
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++) {
        askers[i] = c;
        threads[i] = g_thread_new("asker", asker, &askers[i]);
        if (i == 0)
            world_wait(c.world, asked_once, c.b);
    }
    guint reads = fake_count(c.world->store, FAKE_READ);
    world_wait(c.world, read_twice, GUINT_TO_POINTER(reads));
    g_usleep(20 * 1000); /* all of them are in their wait by now, or join later and share all the same */
    world_thaw(c.world);
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_thread_join(threads[i]);
        g_assert_cmpint(askers[i].verdict.kind, ==, VL_VERDICT_DEAD);
        case_again(&askers[i]);
    }
    g_assert_cmpuint(c.b->asked, ==, 2);
    g_assert_cmpfloat(world_seconds(c.world), <, 10.6);
    case_end(&c);
}

/* Time of this call is over, the window goes on for the next one. */
static void
test_call_too_short(void)
{
    Case c;
    case_begin(&c, TRUE);
    world_host_die(c.b);
    world_freeze(c.world, 4);
    c.call.deadline = vl_deadline_in(3);
    g_assert_false(ask(&c));
    world_assert_error(c.error, VL_ERR_UNKNOWN_OWNER, "it has been silent for 4 s*try again in 7 s*");
    c.call.deadline = vl_deadline_in(100);
    world_thaw(c.world);
    assert_verdict(&c, VL_VERDICT_DEAD, 0, 6.01);
    g_assert_cmpuint(c.b->asked, ==, 2);
    case_end(&c);
}

/* R19: the asker went away. */
static void
test_cancelled(void)
{
    Case c;
    gint gone = 0;
    case_begin(&c, TRUE);
    world_host_die(c.b);
    world_freeze(c.world, 4);
    c.call.gone = &gone;
    g_atomic_int_set(&gone, 1);
    g_assert_false(ask(&c));
    world_assert_error(c.error, VL_ERR_CANCELLED, "*went away*");
    world_thaw(c.world);
    c.call.gone = NULL;
    assert_verdict(&c, VL_VERDICT_DEAD, 0, 10.01);
    case_end(&c);
}

/* ---- confirm ---- */

static void
test_confirm(void)
{
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    fake_host_beat(c.world->store, c.world->place, c.b->id); /* woke up, its watch is not there yet */
    g_assert_false(confirm(&c));
    world_assert_error(c.error, VL_ERR_HELD, "*woke up*");
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    c.b->answer = VL_ANSWER_ALIVE; /* answers, but has not renewed yet */
    g_assert_false(confirm(&c));
    world_assert_error(c.error, VL_ERR_HELD, "*woke up*");
    c.b->answer = VL_ANSWER_NONE;
    g_assert_true(confirm(&c));
    case_end(&c);
}

static void
test_confirm_unknown(void)
{
    static const FakeOp ops[] = {FAKE_READ, FAKE_CHALLENGE};
    Case c;
    case_begin(&c, FALSE);
    world_host_die(c.b);
    assert_verdict(&c, VL_VERDICT_DEAD, 10.0, 10.01);
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        fake_fault(c.world->store, ops[i], c.b->id, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
        g_assert_false(confirm(&c));
        world_assert_error(c.error, VL_ERR_STORAGE, "*");
    }
    case_end(&c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/verdict/dead", test_dead);
    g_test_add_func("/verdict/last-moment", test_last_moment);
    g_test_add_func("/verdict/nobody-watches", test_nobody_watches);
    g_test_add_func("/verdict/never-registered", test_never_registered);
    g_test_add_func("/verdict/counter-moves", test_counter_moves);
    g_test_add_func("/verdict/answers", test_answers);
    g_test_add_func("/verdict/second-challenge", test_second_challenge);
    g_test_add_func("/verdict/failed-read", test_failed_read);
    g_test_add_func("/verdict/slow-read", test_slow_read);
    g_test_add_func("/verdict/failed-challenge", test_failed_challenge);
    g_test_add_func("/verdict/asker-was-stopped", test_asker_was_stopped);
    g_test_add_func("/verdict/longer-dead-after", test_longer_dead_after);
    g_test_add_func("/verdict/grace", test_grace);
    g_test_add_func("/verdict/long-grace", test_long_grace);
    g_test_add_func("/verdict/ended-session", test_ended_session);
    g_test_add_func("/verdict/ended-meanwhile", test_ended_meanwhile);
    g_test_add_func("/verdict/not-understood", test_not_understood);
    g_test_add_func("/verdict/storage-away", test_storage_away);
    g_test_add_func("/verdict/cached", test_cached);
    g_test_add_func("/verdict/cached-other-life", test_cached_other_life);
    g_test_add_func("/verdict/shared", test_shared);
    g_test_add_func("/verdict/call-too-short", test_call_too_short);
    g_test_add_func("/verdict/cancelled", test_cancelled);
    g_test_add_func("/verdict/confirm", test_confirm);
    g_test_add_func("/verdict/confirm-unknown", test_confirm_unknown);
    return g_test_run();
}

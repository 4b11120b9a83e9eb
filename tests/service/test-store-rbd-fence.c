/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The RBD store on a live cluster: fencing, breaking locks, a cluster that does not answer or is
 * full. */
#include "ceph-rig.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

static Rig *rig;
#define OPS (rig->store->ops)
#define DAY (24 * 3600)

static GBytes *
text(const char *s)
{
    return g_bytes_new(s, strlen(s));
}

static VlPlace *
place(void)
{
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    return volume->place;
}

static void
expect_until(gint64 until, gint64 seconds)
{
    gint64 left = until - g_get_real_time() / G_USEC_PER_SEC;
    g_assert_cmpint(left, >, seconds - 60);
    g_assert_cmpint(left, <, seconds + 60);
}

/* A monitor holds back a proposal that follows another within paxos_propose_interval (1 s). */
static void
let_monitor_idle(void)
{
    g_usleep(2500 * 1000);
}

static void
unfence(const char *addr)
{
    g_free(rig_mon(rig, "{\"prefix\": \"osd blocklist\", \"blocklistop\": \"rm\", \"addr\": \"%s\"}", addr));
}

/* --- fence --- */

static void
test_fence_many(void)
{
    VlFenceEntry entries[8] = {0};
    char *addrs[8];
    for (int i = 0; i < 8; i++)
        addrs[i] = g_strdup_printf("10.99.0.%d:0/%u", i, 4294967295U - (guint)g_random_int_range(0, 1000000));
    g_free(addrs[7]);
    addrs[7] = g_strdup_printf("[FD00:0:0::7]:0/%u", (guint)g_random_int_range(1, 1000000));
    for (int i = 0; i < 8; i++)
        entries[i].addr = addrs[i];
    let_monitor_idle();
    gint64 start = g_get_monotonic_time();
    g_assert_true(OPS->fence(place(), entries, 8, 30 * DAY, rig_in(5000)));
    g_test_message("fence 8 addresses: %d us", (int)(g_get_monotonic_time() - start));
    for (int i = 0; i < 8; i++) {
        g_assert_no_error(entries[i].error);
        expect_until(entries[i].until, 30 * DAY);
    }
    GError *error = NULL;
    g_autoptr(GHashTable) list = OPS->blocklist(place(), rig_in(5000), &error);
    g_assert_no_error(error);
    gint64 *until = g_hash_table_lookup(list, addrs[0]);
    g_assert_nonnull(until);
    g_assert_cmpint(*until, ==, entries[0].until);
    for (int i = 0; i < 8; i++) {
        unfence(addrs[i]);
        g_free(addrs[i]);
    }
}

/* Ceph's own trap: the first expiry stays, and the read-back is the only one to say so. */
static void
test_fence_again_keeps_first_time(void)
{
    VlFenceEntry entry = {.addr = "10.99.1.1:0/77"};
    g_assert_true(OPS->fence(place(), &entry, 1, 3600, rig_in(5000)));
    expect_until(entry.until, 3600);
    gint64 first = entry.until;
    g_assert_true(OPS->fence(place(), &entry, 1, 30 * DAY, rig_in(5000)));
    g_assert_cmpint(entry.until, ==, first);
    unfence(entry.addr);
}

static void
test_fence_refuses(void)
{
    static const char *const bad[] = {
        "10.99.2.1:0/0",
        "10.99.2.1",
        "10.99.2.1:0",
        "10.99.2.1/5",
        "10.99.2.0/24",
        "host:0/5",
        "",
        "/",
        ":",
        "10.99.2.1:0/4294967296",
        "10.99.2.1:0/-5",
        "10.99.2.1:0/5\", \"x\": \"",
        "10.99.2.1:0/ 5",
        "10.99.2.1:65536/5",
        "fd00::1:0/5",
        "[fd00::1:0/5",
        "[]:0/5",
        "10.99.2.1:0/00",
    };
    VlFenceEntry entries[G_N_ELEMENTS(bad) + 1] = {0};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        entries[i].addr = bad[i];
    entries[G_N_ELEMENTS(bad)].addr = "10.99.2.1:0/5";
    g_assert_false(OPS->fence(place(), entries, G_N_ELEMENTS(entries), 60, rig_in(5000)));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_cmpint(entries[i].until, ==, 0);
        rig_expect(&entries[i].error, VL_ERR_FENCE, "will not blocklist");
    }
    g_assert_no_error(entries[G_N_ELEMENTS(bad)].error);
    expect_until(entries[G_N_ELEMENTS(bad)].until, 60);
    unfence("10.99.2.1:0/5");
    VlFenceEntry forever = {.addr = "10.99.2.1:0/6"};
    g_assert_false(OPS->fence(place(), &forever, 1, 0, rig_in(5000)));
    rig_expect(&forever.error, VL_ERR_FENCE, "0 seconds");
}

static void
test_fence_denied(void)
{
    /* 'allow r' on the monitors may read the list, not add to it. */
    GError *error = NULL;
    char *path = g_build_filename(rig->dir, RIG_USER_POOR, NULL);
    g_free(rig_mon(rig, "{\"prefix\": \"auth caps\", \"entity\": \"client." RIG_USER_POOR "\", \"caps\": "
                        "[\"mon\", \"allow r\", \"osd\", \"profile rbd\"]}"));
    VlStore *poor = rig_store(rig, RIG_USER_POOR, 5);
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD, .pool = rig->pool, .ns = (char *)"", .image = (char *)"img"};
    VlVolume *volume = poor->ops->resolve(poor, &spec, rig_in(5000), &error);
    g_assert_no_error(error);
    VlFenceEntry entry = {.addr = "10.99.3.1:0/5"};
    g_assert_false(poor->ops->fence(volume->place, &entry, 1, 60, rig_in(5000)));
    rig_expect(&entry.error, VL_ERR_DENIED, "may not blocklist");
    vl_volume_unref(volume);
    poor->ops->free(poor);
    g_free(path);
}

/* The whole sequence of a takeover, with the owner alive and its watch in place. */
static void
test_takeover(void)
{
    GError *error = NULL;
    rig_create_image(rig, "", "take");
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "take");
    Guest *old = guest_new(rig, "take");
    g_assert_cmpint(guest_write(old), ==, 0);
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    g_assert_cmpstr(look.owner->addr, ==, old->addr);

    let_monitor_idle();
    gint64 start = g_get_monotonic_time();
    VlFenceEntry entry = {.addr = look.owner->addr};
    g_assert_true(OPS->fence(volume->place, &entry, 1, 30 * DAY, rig_in(5000)));
    g_assert_true(OPS->barrier(volume->place, rig_in(5000), &error));
    g_assert_true(OPS->break_lock(volume, look.owner, rig_in(5000), &error));
    g_test_message("fence, barrier, break: %d us", (int)(g_get_monotonic_time() - start));
    Guest *new = guest_new(rig, "take");
    g_assert_cmpint(guest_write(new), ==, 0);
    g_test_message("new owner has written: %d us", (int)(g_get_monotonic_time() - start));
    g_assert_cmpint(g_get_monotonic_time() - start, <, 5 * G_USEC_PER_SEC);
    g_assert_cmpint(guest_write(old), ==, -ESHUTDOWN);

    /* The old owner is gone from the lock: breaking it again must not touch the new one. */
    g_assert_true(OPS->break_lock(volume, look.owner, rig_in(5000), &error));
    g_autoptr(VlLockOwner) owner = vl_lock_owner_copy(look.owner);
    vl_look_clear(&look);
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    g_assert_cmpstr(look.owner->addr, ==, new->addr);
    g_assert_cmpint(look.watchers->len, ==, 1);
    /* Nor does the right client with another cookie. */
    g_free(owner->entity);
    owner->entity = g_strdup(look.owner->entity);
    g_free(owner->cookie);
    owner->cookie = g_strdup("auto 1");
    g_assert_true(OPS->break_lock(volume, owner, rig_in(5000), &error));
    vl_look_clear(&look);
    g_assert_true(OPS->look(&look, 1, VL_LOOK_OWNER, rig_in(5000)));
    g_assert_nonnull(look.owner);
    vl_look_clear(&look);
    unfence(old->addr);
    guest_free(new);
    guest_free(old);
}

/* --- a cluster that does not answer --- */

static void
late(bool ok, GError **error, gint64 start, const char *what)
{
    gint64 us = g_get_monotonic_time() - start;
    g_test_message("%s: back after %d us", what, (int)us);
    g_assert_false(ok);
    rig_expect(error, VL_ERR_STORAGE, "connection timed out");
    g_assert_cmpint(us, <, 450 * 1000);
}

static gint answered;

static GBytes *
count_answer(VlPlace *p, GBytes *payload, gpointer opaque)
{
    g_atomic_int_inc(&answered);
    return NULL;
}

static void
test_paused_cluster(void)
{
    GError *error = NULL;
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    VlPlace *p = volume->place;
    g_autoptr(GBytes) id = text("id");
    VlChallengeResult result = {0};
    g_assert_true(OPS->session_create(p, "paused", id, rig_in(5000), &error));
    g_free(rig_mon(rig, "{\"prefix\": \"osd set\", \"key\": \"pause\"}"));
    g_assert_true(OPS->barrier(p, rig_in(5000), &error));
    VlLook look = {.volume = volume};
    VlCas cas = {.volume = volume, .replace = id};
    VlSessionObject object;
#define LATE(call, err, what)                                                                                          \
    do {                                                                                                               \
        gint64 start = g_get_monotonic_time();                                                                         \
        bool ok = call;                                                                                                \
        late(ok, err, start, what);                                                                                    \
    } while (0)
    LATE(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(300)), &look.error, "look");
    LATE(OPS->cas(&cas, 1, rig_in(300)), &cas.error, "cas");
    LATE(OPS->session_read(p, "paused", &object, rig_in(300), &error), &error, "read");
    LATE(OPS->session_renew(p, "paused", id, 1, rig_in(300), &error), &error, "renew");
    LATE(OPS->session_watch(p, "paused", count_answer, NULL, rig_in(300), &error), &error, "watch");
    g_assert_null(OPS->session_list(p, rig_in(300), &error));
    g_clear_error(&error);
    gboolean reconnected;
    LATE(OPS->recover(p, &reconnected, rig_in(300), &error), &error, "recover");
    gint64 start = g_get_monotonic_time();
    /* A notify is a read to the OSD's pause flags; it is only bounded by its own timeout. */
    bool ok = OPS->challenge(p, "paused", id, 1, &result, &error);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 3 * G_USEC_PER_SEC);
    g_test_message("challenge of a paused cluster: %s", ok ? "answered" : error->message);
    vl_challenge_result_clear(&result);
    g_clear_error(&error);

    g_free(rig_mon(rig, "{\"prefix\": \"osd unset\", \"key\": \"pause\"}"));
    rados_wait_for_latest_osdmap(rig->admin);
    g_assert_true(OPS->barrier(p, rig_in(5000), &error));
    /* The watch that came too late answers nobody, and is undone. */
    g_assert_true(OPS->challenge(p, "paused", id, 1, &result, &error));
    g_assert_cmpint(result.acks->len, ==, 0);
    g_assert_cmpint(g_atomic_int_get(&answered), ==, 0);
    vl_challenge_result_clear(&result);
    g_assert_false(OPS->session_watch_ok(p, "paused"));
    /* What was reported as failed was not sent afterwards. */
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    g_assert_null(look.record);
    vl_look_clear(&look);
}

static void
set_ratios(const char *nearfull, const char *backfillfull, const char *full)
{
    const char *const ratios[] = {"nearfull", nearfull, "backfillfull", backfillfull, "full", full};
    for (size_t i = 0; i < G_N_ELEMENTS(ratios); i += 2)
        g_free(rig_mon(rig, "{\"prefix\": \"osd set-%s-ratio\", \"ratio\": %s}", ratios[i], ratios[i + 1]));
}

/* The OSD tells the monitor, which marks all pools: some seconds. */
static void
wait_full(bool want)
{
    for (gint64 end = rig_in(30000); g_get_monotonic_time() < end; g_usleep(100000)) {
        g_autofree char *dump = rig_mon(rig, "{\"prefix\": \"osd dump\"}");
        if ((strstr(dump, "hashpspool,full") != NULL) == want) {
            rados_wait_for_latest_osdmap(rig->admin);
            return;
        }
    }
    g_error("the cluster did not become %s", want ? "full" : "usable");
}

/* A full cluster must not make a host look dead, nor keep a lease from being freed. */
static void
test_full_cluster(void)
{
    GError *error = NULL;
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    g_autoptr(GBytes) id = text("id");
    VlCas take = {.volume = volume, .replace = id};
    VlCas drop = {.volume = volume, .expect = id};
    g_autofree char *data = g_malloc0(4 << 20);
    g_assert_true(OPS->session_create(volume->place, "full", id, rig_in(5000), &error));
    g_assert_cmpint(rados_write_full(rig->io, "ballast", data, 4 << 20), ==, 0);
    set_ratios("0.00001", "0.00002", "0.0001");
    wait_full(true);
    g_assert_true(OPS->barrier(volume->place, rig_in(5000), &error));
    bool renewed = OPS->session_renew(volume->place, "full", id, 123, rig_in(2000), &error);
    bool taken = OPS->cas(&take, 1, rig_in(2000));
    bool dropped = OPS->cas(&drop, 1, rig_in(2000));
    set_ratios("0.85", "0.9", "0.95");
    wait_full(false);
    g_assert_no_error(error);
    g_assert_no_error(take.error);
    g_assert_no_error(drop.error);
    g_assert_true(renewed && taken && dropped);
}

/* --- how long things take --- */

static void
measure(const char *what, int rounds, void (*op)(VlVolume *volume), VlVolume *volume)
{
    op(volume);
    gint64 start = g_get_monotonic_time();
    for (int i = 0; i < rounds; i++)
        op(volume);
    g_test_message("%s: %d us", what, (int)((g_get_monotonic_time() - start) / rounds));
}

static void
do_look(VlVolume *volume)
{
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_ALL, rig_in(5000)));
    vl_look_clear(&look);
}

static void
do_look_record(VlVolume *volume)
{
    VlLook look = {.volume = volume};
    g_assert_true(OPS->look(&look, 1, VL_LOOK_RECORD, rig_in(5000)));
    vl_look_clear(&look);
}

static void
do_cas(VlVolume *volume)
{
    g_autoptr(GBytes) record = text("{\"version\": 1}");
    VlCas take = {.volume = volume, .replace = record};
    VlCas drop = {.volume = volume, .expect = record};
    g_assert_true(OPS->cas(&take, 1, rig_in(5000)));
    g_assert_true(OPS->cas(&drop, 1, rig_in(5000)));
}

static void
do_resolve(VlVolume *volume)
{
    vl_volume_unref(rig_resolve(rig, "", "img"));
}

static void
do_renew(VlVolume *volume)
{
    GError *error = NULL;
    g_autoptr(GBytes) id = text("id");
    g_assert_true(OPS->session_renew(volume->place, "measured", id, 7, rig_in(5000), &error));
}

static GBytes *
answer(VlPlace *p, GBytes *payload, gpointer opaque)
{
    return g_bytes_ref(payload);
}

static void
do_challenge(VlVolume *volume)
{
    GError *error = NULL;
    g_autoptr(GBytes) payload = text("id");
    VlChallengeResult result = {0};
    g_assert_true(OPS->challenge(volume->place, "measured", payload, 1, &result, &error));
    g_assert_cmpint(result.acks->len, ==, 1);
    vl_challenge_result_clear(&result);
}

static void
do_barrier(VlVolume *volume)
{
    GError *error = NULL;
    g_assert_true(OPS->barrier(volume->place, rig_in(5000), &error));
}

static void
test_measure(void)
{
    g_autoptr(VlVolume) volume = rig_resolve(rig, "", "img");
    GError *error = NULL;
    g_autoptr(GBytes) id = text("id");
    g_assert_true(OPS->session_create(volume->place, "measured", id, rig_in(5000), &error));
    g_assert_true(OPS->session_watch(volume->place, "measured", answer, NULL, rig_in(5000), &error));
    measure("resolve", 100, do_resolve, volume);
    measure("look, all", 100, do_look, volume);
    measure("look, record only", 100, do_look_record, volume);
    measure("cas twice", 100, do_cas, volume);
    measure("session_renew", 100, do_renew, volume);
    measure("challenge, answered", 100, do_challenge, volume);
    measure("barrier", 100, do_barrier, volume);
    OPS->session_unwatch(volume->place, "measured");
}

int
main(int argc, char **argv)
{
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    g_test_message("1.5 is written %.1f here", 1.5);
    rig = rig_new();
    rig_create_image(rig, "", "img");
    g_test_add_func("/rbd/fence-many", test_fence_many);
    g_test_add_func("/rbd/fence-again-keeps-first-time", test_fence_again_keeps_first_time);
    g_test_add_func("/rbd/fence-refuses", test_fence_refuses);
    g_test_add_func("/rbd/fence-denied", test_fence_denied);
    g_test_add_func("/rbd/takeover", test_takeover);
    g_test_add_func("/rbd/paused-cluster", test_paused_cluster);
    g_test_add_func("/rbd/full-cluster", test_full_cluster);
    g_test_add_func("/rbd/measure", test_measure);
    int rc = g_test_run();
    rig_free(rig);
    return rc;
}

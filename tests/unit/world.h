/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A daemon made of its parts on "host-a" (10.0.0.1), without sockets, in a world that only has a store in memory and
 * a clock of its own: sleeping costs no time, and while the daemon sleeps other hosts renew their sessions.
 *
 * With `threads` FALSE everything a take does happens on the calling thread, one thing after another.
 */
#ifndef VL_TESTS_WORLD_H
#define VL_TESTS_WORLD_H

#include "lockd/daemon.h"
#include "lockd/leases.h"
#include "lockd/take.h"
#include "tests/unit/store_fake.h"

typedef struct World World;

typedef struct {
    World *world;
    VlPlace *place;
    char *id, *name, *boot, *ip; /* "host-b", "node-b", "boot-b", "10.0.0.98" */
    guint64 session;
    gboolean beating;  /* renews every 2.5 s */
    gboolean watching; /* its watch is there; false: nobody is asked */
    VlAnswer answer;   /* what it answers; NONE: nothing */
    guint asked;       /* challenges that reached it */
    gint64 next_beat;
} WorldHost;

struct World {
    FakeStore *store;
    VlPlace *place; /* "rbd" */
    VlDaemon *daemon;
    char *dir; /* state directory */
    guint rechecks, earlier_boots;
    /* private */
    GRecMutex lock;
    GCond thawed;
    GMutex freeze_lock;
    gint64 now, freeze_at;
    GPtrArray *hosts, *events, *vms;
    GString *log;
};

World *world_new(gboolean threads);
void world_free(World *world);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

/* Returns when all background jobs have ended; there can be no new ones afterwards. */
void world_finish_jobs(World *world);

/* ---- time ---- */

double world_seconds(World *world); /* since the beginning */
void world_pass(World *world, double seconds);
/* When `seconds` from now have passed. */
void world_at(World *world, double seconds, void (*func)(World *world, gpointer opaque), gpointer opaque);
/* A thread that would sleep past `seconds` from now gets that far and then hangs until world_thaw(). */
void world_freeze(World *world, double seconds);
void world_thaw(World *world);
/* Real time: waits at most 5 s until `func` says so. */
void world_wait(World *world, gboolean (*func)(World *world, gpointer opaque), gpointer opaque);

/* ---- other hosts ---- */

/* "b" makes "host-b"; alive, with a session in `place` (NULL: world->place). */
WorldHost *world_host(World *world, const char *letter, VlPlace *place);
VlIdentity *world_identity(const WorldHost *host);
void world_host_die(WorldHost *host); /* silent; its watch is still there, as after a power loss */
void world_host_wake(WorldHost *host);

/* A lease of VM `vm` on that host; addresses NULL-terminated. */
VlHolder *world_holder(const WorldHost *host, const char *vm, gboolean held, ...) G_GNUC_NULL_TERMINATED;
/* A record with these holders, NULL-terminated, taken over; epoch 7. */
VlRecord *world_record(VlHolder *first, ...) G_GNUC_NULL_TERMINATED;
void world_claim(VlRecord *record, const WorldHost *host, const char *vm, const char *addr);

/* ---- ours ---- */

/* A VM of this daemon with a lease in state NONE on each of these volumes, made where they are not there yet.
 * pid 0: a process that does not exist. */
VlVm *world_vm(World *world, const char *name, gint64 pid, ...) G_GNUC_NULL_TERMINATED;
VlLease *world_lease(VlVm *vm, const char *volume);
/* vl_take_all() of all its leases, within `seconds`. */
gboolean world_take(World *world, VlVm *vm, guint wait_s, double seconds, GError **error);
void world_assert_lease(VlVm *vm, const char *volume, VlLeaseState state);

/* Some line of the daemon's log is like that pattern (g_pattern_match). */
gboolean world_logged(World *world, const char *pattern);
void world_assert_error(const GError *error, enum vl_error code, const char *pattern);

#endif

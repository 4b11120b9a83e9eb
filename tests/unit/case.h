/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A world with another host in it and one VM of ours, web1, as most tests of the rules want it. */
#ifndef VL_TESTS_CASE_H
#define VL_TESTS_CASE_H

#include "tests/unit/world.h"

#define B1 "10.0.0.98:0/11" /* client of a QEMU on host-b, on vol1 */
#define B2 "10.0.0.98:0/22" /* ... on vol2 */

typedef struct {
    World *world;
    FakeStore *store;
    WorldHost *b, *c; /* c only where a test makes it */
    VlVm *vm;         /* web1 here, on host-a */
    GError *error;
    guint volumes; /* of case_begin_dead */
    gboolean done; /* case_before() has acted */
    /* private */
    FakeOp op;
    guint at, seen;
    void (*act)(gpointer opaque);
} Case;

/* "vol1", "vol2" and what host-b's QEMUs are there: B1, B2. */
extern const char *const case_volumes[2], *const case_addrs[2];

/* web1 is to start here with vol1 (and `second`); host-b lives. */
void case_begin(Case *c, gboolean threads, const char *second);
/* The first n volumes are held by web1 on host-b, whose QEMU's clients watch them and own their locks. host-b is dead;
 * web1 is to start here. */
void case_begin_dead(Case *c, guint n);
void case_end(Case *c);

/* vol1 (or the first n) held by web1 on host-b, which has it open. */
void case_held_by_b(Case *c, guint n);
/* vl_take_all() for web1; c->error says why not. */
gboolean case_take(Case *c, guint wait_s, double seconds);
/* Calls act(c) once, before the at-th op of that kind. FAKE_OP_COUNT: of any kind but our own session's upkeep. */
void case_before(Case *c, FakeOp op, guint at, void (*act)(gpointer opaque));

/* What is stored for that volume, as fake_state() writes it. */
void case_assert_state(Case *c, const char *volume, const char *want);
/* The holder in the record is our process; is host-b's and nobody else's. */
gboolean case_is_ours(Case *c, const char *volume);
gboolean case_is_theirs(Case *c, const char *volume);

/* web1 is refused for that reason, and nothing of it is left behind. */
void case_assert_refused(Case *c, guint wait_s, enum vl_error code, const char *pattern);
/* Of the volumes of case_begin_dead(): taken over, host-b's clients fenced and without the lock; as they were, nobody
 * fenced; without any claim. */
void case_assert_taken(Case *c);
void case_assert_untouched(Case *c);
void case_assert_no_claim(Case *c);

#endif

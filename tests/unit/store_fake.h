/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A VlStore in memory: several places, volumes and hosts, everything a test may want to happen to them, and a log
 * of what was asked in which order. Thread-safe; hooks run without the lock, so they may call anything here.
 *
 * Log lines, one per element of an op (own-session upkeep is counted, not logged):
 *   look VOL | cas VOL STATE | fence ADDR | barrier PLACE | break VOL ADDR | read HOST | challenge HOST | index+ VOL |
 *   index- VOL | blocklist | ...
 * STATE of a cas is what is written, "web1:parked" "web1:held" "-" (removed) "free", with "+claim:HOST" behind it;
 * "!changed" etc. is put behind a line whose op failed.
 */
#ifndef VL_TESTS_STORE_FAKE_H
#define VL_TESTS_STORE_FAKE_H

#include "common/errors.h"
#include "lockd/identity.h"
#include "lockd/record.h"
#include "lockd/store.h"

typedef enum {
    FAKE_RESOLVE,
    FAKE_PLACES,
    FAKE_LOOK,
    FAKE_CAS,
    FAKE_FENCE,
    FAKE_BLOCKLIST,
    FAKE_BARRIER,
    FAKE_BREAK,
    FAKE_READ,
    FAKE_CREATE,
    FAKE_SWAP,
    FAKE_RENEW,
    FAKE_LIST,
    FAKE_WATCH,
    FAKE_CHALLENGE,
    FAKE_INDEX_SET,
    FAKE_INDEX_DEL,
    FAKE_INDEX_LIST,
    FAKE_RECOVER,
    FAKE_OP_COUNT
} FakeOp;

typedef struct FakeStore FakeStore;

FakeStore *fake_store_new(void);
void fake_store_free(FakeStore *store); /* all volumes must have been unreferenced */
VlStore *fake_store_base(FakeStore *store);

/* The place with that name, made at its first use. */
VlPlace *fake_place(FakeStore *store, const char *name);
/* This daemon's own storage address; "10.0.0.1" at first. */
void fake_set_own_address(FakeStore *store, const char *ip);

/* ---- volumes; `name` is unique in the store, the key is PLACE/NAME ---- */

VlVolume *fake_volume(FakeStore *store, VlPlace *place, const char *name); /* made at its first use; a reference */
void fake_volume_delete(FakeStore *store, const char *name);
void fake_put(FakeStore *store, const char *name, VlRecord *record); /* takes it over; NULL: no record */
void fake_put_text(FakeStore *store, const char *name, const char *text);
VlRecord *fake_get(FakeStore *store, const char *name); /* a copy; NULL: no record stored */
/* As the log shows it: "web1:held+claim:node-b", "-". */
char *fake_state(FakeStore *store, const char *name);
void fake_watch(FakeStore *store, const char *name, const char *addr);
void fake_unwatch(FakeStore *store, const char *name, const char *addr);
void fake_own(FakeStore *store, const char *name, const char *addr); /* NULL: nobody */
void fake_own_advisory(FakeStore *store, const char *name, const char *addr);
char *fake_owner(FakeStore *store, const char *name); /* its address or NULL */

/* ---- blocklist ---- */

void fake_blocklist_put(FakeStore *store, const char *addr, gint64 until); /* 0: take it out */
gint64 fake_blocklist_get(FakeStore *store, const char *addr);             /* 0: not in it */
guint fake_blocklist_size(FakeStore *store);

/* ---- hosts ---- */

/* NULL: nobody watches; else what the host acks (NULL: nothing). */
typedef GBytes *(*FakeAnswerFunc)(VlPlace *place, const char *host, GBytes *payload, gpointer opaque);
void fake_host_put(FakeStore *store, VlPlace *place, const VlIdentity *identity);
void fake_host_put_text(FakeStore *store, VlPlace *place, const char *host, const char *text);
void fake_host_delete(FakeStore *store, VlPlace *place, const char *host);
VlIdentity *fake_host_get(FakeStore *store, VlPlace *place, const char *host); /* NULL: no object */
guint64 fake_host_counter(FakeStore *store, VlPlace *place, const char *host);
void fake_host_beat(FakeStore *store, VlPlace *place, const char *host);
void fake_host_answer(FakeStore *store, VlPlace *place, const char *host, FakeAnswerFunc func, gpointer opaque);
/* A second watch of the same object, e.g. two daemons of one identity. */
void fake_host_answer_too(FakeStore *store, VlPlace *place, const char *host, FakeAnswerFunc func, gpointer opaque);
gboolean fake_host_watched(FakeStore *store, VlPlace *place, const char *host); /* by the daemon under test */
void fake_host_break_watch(FakeStore *store, VlPlace *place, const char *host);
/* Volume keys in the index, sorted, with commas. */
char *fake_index(FakeStore *store, VlPlace *place, const char *host);

/* ---- what goes wrong, and when ---- */

typedef enum {
    FAKE_ERROR,    /* not done, and said so */
    FAKE_LOST_ACK, /* done, but reported as failed */
} FakeFault;
/* The nth (1 = next) op of this kind and `times - 1` more after it; `name` limits it to one volume, host or address
 * (NULL: any). Ops of arrays count and fail per element. */
void fake_fault(FakeStore *store, FakeOp op, const char *name, guint nth, guint times, FakeFault fault,
                enum vl_error code);
void fake_faults_clear(FakeStore *store);

/* Before each op (per call, not per element), without the lock. `name` is the first element's. */
typedef void (*FakeHook)(FakeStore *store, FakeOp op, const char *name, gpointer opaque);
void fake_hook(FakeStore *store, FakeHook hook, gpointer opaque);
/* The next recover says that the client had been fenced and is a new one now. */
void fake_set_reconnect(FakeStore *store);
/* How a challenge that nobody answers passes its time; NULL: it takes none. */
void fake_set_sleep(FakeStore *store, void (*sleep)(gint64 us, gpointer opaque), gpointer opaque);

/* ---- what was done ---- */

/* Calls, i.e. round trips: an op with eight elements counts one. */
guint fake_count(FakeStore *store, FakeOp op);
guint fake_round_trips(FakeStore *store); /* of ops on volumes and blocklist, not of sessions */
void fake_counts_reset(FakeStore *store); /* and the log */
char *fake_log(FakeStore *store);         /* lines joined with '\n' */
/* Lines that begin with these prefixes appear in this order, others between them allowed. NULL-terminated. */
void fake_assert_order(FakeStore *store, ...) G_GNUC_NULL_TERMINATED;
void fake_assert_never(FakeStore *store, const char *prefix);

#endif

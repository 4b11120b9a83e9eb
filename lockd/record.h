/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The lease record: what is stored with a volume, as a value. JSON outside, structs inside; no
 * storage and no rules here. An absent record and one without holders both mean "free"; the second
 * remembers fences that have not run out (R6).
 *
 *   {"version":1, "epoch":7, "write":"<random>", "mode":"exclusive",
 *    "holders":[{"host":"<host id>","machine":"…","name":"node-a","boot":"…","session":12,
 *                "uuid":"…","vm":"web1","pid":4711,"start":123456,"state":"held","token":"…",
 *                "addrs":["10.0.0.1:0/123"],"since":1790000000}],
 *    "previous":{a holder}, "heirs":[holders],
 *    "claim":{"id":"…","host":"…","name":"node-b","session":3,"uuid":"…","vm":"web1",
 *             "epoch":8,"addrs":["10.0.0.1:0/123"],"since":…},
 *    "fenced":[{"addr":"…","at":…,"until":…,"wanted":…}]}
 */
#ifndef VL_LOCKD_RECORD_H
#define VL_LOCKD_RECORD_H

#include <glib.h>

#define VL_RECORD_VERSION  1
#define VL_RECORD_SIZE_MAX (256 * 1024)

/* One QEMU process: leases belong to these, not to names. */
typedef struct {
    char *host; /* host id */
    char *boot;
    char *uuid;
    gint64 pid;
    guint64 start; /* clock ticks since boot */
} VlIncarnation;

typedef struct {
    VlIncarnation who;
    char *machine;   /* machine id of the host */
    char *host_name; /* for people */
    guint64 session;
    char *vm;
    gboolean held; /* vCPUs may run; else PARKED */
    char *token;
    GPtrArray *addrs; /* of char *: the client addresses to fence */
    gint64 since;     /* unix seconds */
} VlHolder;

typedef struct {
    char *id; /* random: names this very attempt */
    char *host, *host_name;
    guint64 session;
    char *uuid, *vm;  /* for whom */
    guint64 epoch;    /* what the record's epoch will be */
    GPtrArray *addrs; /* of char *: exactly what will be fenced */
    gint64 since;
} VlClaim;

typedef struct {
    char *addr;
    gint64 at;     /* when it was fenced, unix seconds */
    gint64 until;  /* expiry that the monitors really have */
    gint64 wanted; /* expiry asked for; later than `until` when an older entry was met */
} VlFenced;

typedef struct {
    guint64 epoch;
    char *write; /* random id of the write that made this version (R18) */
    gboolean shared;
    GPtrArray *holders; /* of VlHolder */
    VlClaim *claim;     /* or NULL */
    VlHolder *previous; /* who handed the lease over to the holder by token; NULL once that is final (R1) */
    GPtrArray *heirs;   /* of VlHolder: incoming QEMUs of the same VM; no right to run (R16) */
    GPtrArray *fenced;  /* of VlFenced */
} VlRecord;

VlRecord *vl_record_new(void); /* free, epoch 0 */
VlRecord *vl_record_copy(const VlRecord *record);
void vl_record_free(VlRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlRecord, vl_record_free)

/* NULL bytes give a free record. Error RECORD for anything not understood, future versions included;
 * the message begins with `volume`. */
VlRecord *vl_record_parse(const char *volume, GBytes *bytes, GError **error);
/* The bytes to store; gives the record a fresh `write` id. */
GBytes *vl_record_format(VlRecord *record);

VlHolder *vl_holder_new(void);
VlHolder *vl_holder_copy(const VlHolder *holder);
void vl_holder_free(VlHolder *holder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlHolder, vl_holder_free)
VlClaim *vl_claim_copy(const VlClaim *claim);
void vl_claim_free(VlClaim *claim);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlClaim, vl_claim_free)
void vl_fenced_free(VlFenced *fenced);

gboolean vl_incarnation_equal(const VlIncarnation *a, const VlIncarnation *b);
void vl_incarnation_copy(VlIncarnation *to, const VlIncarnation *from);
void vl_incarnation_clear(VlIncarnation *who);

/* The holder that is this very incarnation, or NULL. */
VlHolder *vl_record_find(const VlRecord *record, const VlIncarnation *who);
/* Removes that holder; FALSE when it is none. */
gboolean vl_record_remove(VlRecord *record, const VlIncarnation *who);
/* The heir that is this very incarnation, or NULL. */
VlHolder *vl_record_find_heir(const VlRecord *record, const VlIncarnation *who);
/* Drops fences whose wanted time is over. */
void vl_record_expire_fences(VlRecord *record, gint64 now);
/* Adds or prolongs. */
void vl_record_add_fence(VlRecord *record, const char *addr, gint64 at, gint64 until, gint64 wanted);

/* Sets of addresses as arrays of char *. */
GPtrArray *vl_addrs_new(void);
GPtrArray *vl_addrs_copy(const GPtrArray *addrs);
gboolean vl_addrs_has(const GPtrArray *addrs, const char *addr);
gboolean vl_addrs_add(GPtrArray *addrs, const char *addr); /* TRUE if it was new */
gboolean vl_addrs_equal(const GPtrArray *a, const GPtrArray *b);

/* 128 random bits in hex. */
char *vl_random_id(void);

#endif

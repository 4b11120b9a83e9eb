/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What the two halves of the store in memory share. "locked": with the store's lock held. */
#ifndef VL_TESTS_STORE_FAKE_PRIV_H
#define VL_TESTS_STORE_FAKE_PRIV_H

#include "tests/unit/store_fake.h"

typedef struct {
    char *name;
    VlPlace *place;
    GBytes *record;
    GPtrArray *watchers; /* of char * */
    VlLockOwner *owner;
    gboolean deleted;
} FakeVolume;

typedef struct {
    GBytes *identity; /* NULL: no session object */
    guint64 counter;
    FakeAnswerFunc answer[2]; /* another host's daemon, and a second one */
    gpointer answer_opaque[2];
    VlChallengeFunc func; /* the daemon under test */
    gpointer func_opaque;
    gboolean watch_broken;
    GHashTable *index;
} FakeHost;

typedef struct {
    FakeOp op;
    char *name;
    guint nth, times, seen;
    FakeFault kind;
    enum vl_error code;
} Fault;

struct FakeStore {
    VlStore base;
    GMutex lock;
    GHashTable *places;    /* name -> VlPlace */
    GHashTable *volumes;   /* name -> FakeVolume */
    GHashTable *hosts;     /* "PLACE HOST" -> FakeHost */
    GHashTable *blocklist; /* addr -> gint64 * */
    GPtrArray *faults;     /* of Fault */
    GPtrArray *log;        /* of char * */
    guint counts[FAKE_OP_COUNT];
    FakeHook hook;
    gpointer hook_opaque;
    void (*sleep)(gint64 us, gpointer opaque);
    gpointer sleep_opaque;
    char *own_address;
    gboolean reconnect;
    gint volumes_out;
    guint cookies;
};

extern const VlStoreOps fake_ops;

FakeVolume *fake_data_find(FakeStore *store, const char *name);
VlVolume *fake_volume_locked(FakeStore *store, const char *place, const char *name, gboolean make);
char *fake_state_of(GBytes *record);
gint64 fake_blocklist_locked(FakeStore *store, const char *addr);
void fake_blocklist_set_locked(FakeStore *store, const char *addr, gint64 until);
FakeHost *fake_host_find(FakeStore *store, VlPlace *place, const char *host);
FakeHost *fake_host_get_or_new(FakeStore *store, VlPlace *place, const char *host);
GPtrArray *fake_hosts_locked(FakeStore *store, VlPlace *place);

#endif

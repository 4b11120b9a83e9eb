/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What the daemon's parts share: one struct handed down, no globals. */
#ifndef VL_LOCKD_DAEMON_H
#define VL_LOCKD_DAEMON_H

#include "lockd/call.h"
#include "lockd/host.h"
#include "lockd/journal.h"
#include "lockd/session.h"
#include "lockd/settings.h"
#include "lockd/store.h"
#include "lockd/verdict.h"
#include "lockd/vm.h"

typedef struct {
    VlSettings *settings;
    VlHost *host;
    VlStore *store;
    VlSessions *sessions;
    VlVerdicts *verdicts;
    VlVms *vms;
    VlJournal *journal;
    GHashTable *backends; /* VlBackendOps -> its state; NULL in tests of records only */
    GThreadPool *jobs;    /* background work: vl_daemon_run() */
    GHashTable *claims;   /* ids of the claims this daemon is working on; guarded by claims_lock */
    GMutex claims_lock;
    gint ready;     /* atomic: VMs that ran before us are in the table */
    gint main_tick; /* atomic: seconds of monotonic time at the main loop's last sign of life */
    gint adopting;  /* atomic: VMs whose first adoption has not ended */
    gint stopping;  /* atomic */
} VlDaemon;

#define VL_JOBS_MAX 256

/* An empty one with its pool and claim table; the rest is put in by main.c or a test. */
VlDaemon *vl_daemon_new(void);

/* Runs `func(daemon, data)` on a worker thread; `data` is freed with `free_func` after it. */
typedef void (*VlJobFunc)(VlDaemon *daemon, gpointer data);
void vl_daemon_run(VlDaemon *daemon, VlJobFunc func, gpointer data, GDestroyNotify free_func);

#endif

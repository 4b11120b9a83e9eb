/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The calls of the plugin, after decoding. Each returns FALSE with an error whose text a user of virsh
 * will read.
 */
#ifndef VL_LOCKD_REGISTER_H
#define VL_LOCKD_REGISTER_H

#include "lockd/backend.h"

/* A request as decoded. */
typedef struct {
    char *uuid; /* canonical text */
    char *name, *uri, *state;
    gint64 pid; /* of the message; REGISTER uses the peer's */
    int action;
    guint timeout_ms;
    guint resources;     /* how many the plugin named */
    GPtrArray *disks;    /* of VlDisk: those the plugin named, which are <lease>s, files and block devices */
    GArray *sanlock;     /* of int: descriptors of the child that are registered with sanlock */
    char *sanlock_error; /* why there are none although they were wanted */
} VlRequest;
void vl_request_init(VlRequest *request);
void vl_request_clear(VlRequest *request);

/* The forked child, before it becomes QEMU: takes all leases of the VM as PARKED. `peer` is the socket's. TRUE with
 * ret_enrol->connections: nothing is taken yet, the child must register with sanlock and ask once more. */
gboolean vl_register(VlDaemon *daemon, const VlRequest *request, gint64 peer, VlCall *call, VlEnrol *ret_enrol,
                     GError **error);
/* CPUs are about to run, or a disk is about to be attached. */
gboolean vl_acquire(VlDaemon *daemon, const VlRequest *request, VlCall *call, GError **error);
gboolean vl_release(VlDaemon *daemon, const VlRequest *request, VlCall *call, char **ret_state, GError **error);
gboolean vl_inquire(VlDaemon *daemon, const VlRequest *request, VlCall *call, char **ret_state, GError **error);
gboolean vl_detached(VlDaemon *daemon, const VlRequest *request, VlCall *call, GError **error);

/* Puts a VM under watch: when its pidfd says so, the exit path begins. */
void vl_watch_exit(VlDaemon *daemon, VlVm *vm);

#endif

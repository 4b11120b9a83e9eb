/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The calls of the plugin, after decoding. Each returns FALSE with an error whose text a user of virsh
 * will read.
 */
#ifndef VL_LOCKD_REGISTER_H
#define VL_LOCKD_REGISTER_H

#include "lockd/daemon.h"

/* A request as decoded. */
typedef struct {
    char *uuid; /* canonical text */
    char *name, *uri, *state;
    gint64 pid; /* of the message; REGISTER uses the peer's */
    int action;
    guint timeout_ms;
    guint resources;    /* how many the plugin named */
    GPtrArray *devices; /* of struct vl_volume_spec: <lease> devices; kind OTHER when not ours */
} VlRequest;
void vl_request_init(VlRequest *request);
void vl_request_clear(VlRequest *request);

/* The forked child, before it becomes QEMU: takes all leases of the VM as PARKED. `peer` is the socket's. */
gboolean vl_register(VlDaemon *daemon, const VlRequest *request, gint64 peer, VlCall *call, GError **error);
/* CPUs are about to run, or a disk is about to be attached. */
gboolean vl_acquire(VlDaemon *daemon, const VlRequest *request, VlCall *call, GError **error);
gboolean vl_release(VlDaemon *daemon, const VlRequest *request, VlCall *call, char **ret_state, GError **error);
gboolean vl_inquire(VlDaemon *daemon, const VlRequest *request, VlCall *call, char **ret_state, GError **error);
gboolean vl_detached(VlDaemon *daemon, const VlRequest *request, VlCall *call, GError **error);

/* Puts a VM under watch: when its pidfd says so, the exit path begins. */
void vl_watch_exit(VlDaemon *daemon, VlVm *vm);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * From the bytes of a request to the bytes of its reply. */
#ifndef VL_LOCKD_REQUEST_H
#define VL_LOCKD_REQUEST_H

#include "common/protocol.h"
#include "lockd/daemon.h"

/* What arrived on a socket, already bounded. */
typedef struct {
    uint16_t type;
    const uint8_t *body;
    size_t len;
    gint64 peer_pid;
    int fd; /* the connection: its end ends the call */
} VlIncoming;

/* Runs the request and fills `reply` (initialised here). Never fails: errors are replies. */
void vl_request_run(VlDaemon *daemon, const VlIncoming *incoming, struct vl_msg *reply);

#endif

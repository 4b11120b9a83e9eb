/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The UNIX socket. The main loop accepts; a worker thread per connection reads the one request, runs it and writes the
 * one reply, each with a deadline. Root only.
 */
#ifndef VL_LOCKD_SERVER_H
#define VL_LOCKD_SERVER_H

#include "lockd/daemon.h"

typedef struct VlServer VlServer;

/* Binds the socket (or takes the one systemd passed) and begins to accept. CONFIG when it cannot. */
VlServer *vl_server_new(VlDaemon *daemon, GError **error);
/* Stops accepting and waits for running requests, at most `wait_s`. */
void vl_server_stop(VlServer *server, guint wait_s);

#endif

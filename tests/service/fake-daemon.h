/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A virtleased that answers as told, in a thread of the test.
 */
#ifndef VL_TESTS_SERVICE_FAKE_DAEMON_H
#define VL_TESTS_SERVICE_FAKE_DAEMON_H

#include <glib.h>

#include "common/errors.h"
#include "common/protocol.h"

/* What the daemon does with one connection. */
enum behaviour {
    ANSWER,  /* code, text, state as set */
    HANG_UP, /* reads the request, closes */
    REFUSE,  /* answers before it has read anything, closes */
    SAY_NOTHING,
    GARBAGE,   /* not our magic */
    NOT_REPLY, /* a frame of another type */
    NO_CODE,   /* a reply without ERROR_CODE */
};

struct daemon {
    char *dir, *socket, *config;
    int fd;
    GThread *thread;
    enum behaviour script[4];       /* for the first connections; the last one repeats */
    enum vl_error code, later_code; /* later: to the second request and after, unless VL_OK */
    const char *text, *state, *json;
    unsigned int want[2]; /* SANLOCK_WANT in the first answer and in the second; 0: none */
    const char *killpath, *killargs;
    unsigned int delay_ms; /* before it answers */
    unsigned int connections;
    struct vl_frame frame; /* of the last request */
    uint8_t *body;
};

void daemon_start(struct daemon *daemon);
void daemon_stop(struct daemon *daemon);

#endif

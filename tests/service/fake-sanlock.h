/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A sanlock in one of the moods that the real one cannot be asked for, in a thread of the test.
 */
#ifndef VL_TESTS_SERVICE_FAKE_SANLOCK_H
#define VL_TESTS_SERVICE_FAKE_SANLOCK_H

#include <glib.h>

enum mood {
    FRIENDLY, /* answers killpath and restrict */
    REFUSING, /* the same, but with -ENOMEM from the second connection on */
    SILENT,   /* accepts, never answers */
    LEAVING,  /* accepts, closes at once */
    STUCK,    /* does not even accept; its queue is full */
};

struct fake_sanlock {
    enum mood mood;
    int fd;
    GThread *thread;
    unsigned int connections;
    GString *heard; /* everything that clients sent, NUL bytes as '.' */
    int others[16]; /* connections: in the queue of a STUCK one, else accepted */
    unsigned int nothers;
};

void fake_sanlock_start(struct fake_sanlock *sanlock, const char *run_dir, enum mood mood);
void fake_sanlock_stop(struct fake_sanlock *sanlock);

#endif

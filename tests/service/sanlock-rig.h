/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Hosts with a real sanlock daemon each, sharing one lease directory. Capabilities that the daemon or the program is to
 * do without are in the environment: SANLOCK_TEST_DROP_DAEMON, SANLOCK_TEST_DROP_HOST ("-chown,-dac_override"). */
#ifndef VL_TESTS_SANLOCK_RIG_H
#define VL_TESTS_SANLOCK_RIG_H

#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>

typedef struct {
    char *dir; /* everything below it */
    char *leases;
} Rig;

typedef struct {
    Rig *rig;
    guint number; /* of its directory, its name */
    guint id;     /* host id, the number if not said otherwise */
    char *run_dir;
    GSubprocess *daemon, *host;
    GDataInputStream *out;
    GHashTable *answers; /* id -> text, come but not yet asked for */
    guint last;
} Host;

void rig_setup(Rig *rig, gconstpointer unused);
void rig_teardown(Rig *rig, gconstpointer unused);
char *rig_lease_file(const Rig *rig, const char *path); /* of a volume */

/* A host whose daemon runs; not yet in the lockspace. io_timeout 1. */
Host *host_new(Rig *rig, guint number);
Host *host_new_as(Rig *rig, guint number, guint id);
void host_free(Host *host);
void host_daemon_start(Host *host);
void host_daemon_kill(Host *host, int signal);
/* Joined. */
void host_join(Host *host);
void host_start(Host *host); /* the program, if host_stop() ended it */
void host_stop(Host *host);

/* "VERB ARGS" to the host, without waiting; then its answer. */
guint host_send(Host *host, const char *format, ...) G_GNUC_PRINTF(2, 3);
char *host_answer(Host *host, guint id);
/* Both at once; valid until the next call about this host. */
const char *host_do(Host *host, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* g_pattern_match, with both in the message. */
#define assert_like(text, pattern)                                                                                     \
    do {                                                                                                               \
        g_autofree char *text_ = g_strdup(text);                                                                       \
        if (!g_pattern_match_simple(pattern, text_))                                                                   \
            g_error("%s:%d: '%s' is not like '%s'", __FILE__, __LINE__, text_, pattern);                               \
    } while (0)

/* Asks until the answer is like the pattern. */
void host_until(Host *host, double seconds, const char *pattern, const char *line);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plugin/settings.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "common/config.h"
#include "common/protocol.h"

enum {
    TIMEOUT_DEFAULT_S = 40, /* above virtleased's default takeover_wait (dead_after + 10 s) */
    TIMEOUT_MIN_S = 5,
    TIMEOUT_MAX_S = 600,
    CONNECT_WAIT_DEFAULT_S = 3,
};

/* The lock is taken by init and deinit only, never in a forked child. */
static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int init_count;
static _Atomic(struct settings *) current;

static const char *
check_socket(const char *path)
{
    if (path[0] != '/')
        return "must be an absolute path";
    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return "is too long for a socket (107 bytes at most)";
    return NULL;
}

static void
settings_free(struct settings *settings)
{
    if (settings)
        free(settings->socket);
    free(settings);
}

static int
settings_load(const char *path, struct settings *settings, char **ret_error)
{
    const struct vl_conf_key keys[] = {
        {.name = "socket", .type = VL_CONF_STRING, .target = &settings->socket, .check = check_socket},
        {.name = "timeout",
         .type = VL_CONF_UINT,
         .target = &settings->timeout_s,
         .min = TIMEOUT_MIN_S,
         .max = TIMEOUT_MAX_S,
         .hint = "seconds"},
        {.name = "connect_wait",
         .type = VL_CONF_UINT,
         .target = &settings->connect_wait_s,
         .min = 0,
         .max = TIMEOUT_MAX_S,
         .hint = "seconds"},
        {.name = NULL},
    };

    settings->timeout_s = TIMEOUT_DEFAULT_S;
    settings->connect_wait_s = CONNECT_WAIT_DEFAULT_S;
    settings->socket = strdup(VL_DEFAULT_SOCKET);
    if (!settings->socket)
        return -ENOMEM;
    return path ? vl_config_load(path, false, keys, ret_error) : 0;
}

int
settings_init(const char *path, char **ret_error)
{
    struct settings *settings = calloc(1, sizeof(*settings));
    int r;

    *ret_error = NULL;
    if (!settings)
        return -ENOMEM;
    r = settings_load(path, settings, ret_error);
    if (r == 0) {
        pthread_mutex_lock(&init_lock);
        if (init_count++ == 0) {
            atomic_store(&current, settings);
            settings = NULL;
        }
        pthread_mutex_unlock(&init_lock);
    }
    settings_free(settings);
    return r;
}

void
settings_deinit(void)
{
    pthread_mutex_lock(&init_lock);
    if (init_count > 0 && --init_count == 0)
        settings_free(atomic_exchange(&current, NULL));
    pthread_mutex_unlock(&init_lock);
}

const struct settings *
settings_get(void)
{
    return atomic_load(&current);
}

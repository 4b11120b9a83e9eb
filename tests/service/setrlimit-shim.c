/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Preloaded into the sanlock daemon under test: it will not start where it may not raise its own
 * limits, as in a container, although it is told to lock no memory and to have no priority.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

__attribute__((visibility("default"))) int
setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    int (*real)(__rlimit_resource_t, const struct rlimit *);
    void *symbol = dlsym(RTLD_NEXT, "setrlimit");
    int r;

    memcpy(&real, &symbol, sizeof(real));
    r = real(resource, limit);
    return r < 0 && errno == EPERM && (resource == RLIMIT_MEMLOCK || resource == RLIMIT_RTPRIO) ? 0 : r;
}

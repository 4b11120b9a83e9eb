/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Preloaded into the sanlock daemon where tests run without CAP_SYS_RESOURCE: the daemon ends when it
 * may not raise these two limits, which no test needs. */
#include <dlfcn.h>
#include <errno.h>
#include <sys/resource.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit);

int
setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    int (*real)(__rlimit_resource_t, const struct rlimit *) = dlsym(RTLD_NEXT, "setrlimit");
    int rc = real(resource, limit);
    return rc < 0 && errno == EPERM && (resource == RLIMIT_MEMLOCK || resource == RLIMIT_RTPRIO) ? 0 : rc;
}

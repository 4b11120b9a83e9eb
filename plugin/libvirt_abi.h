/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt's lock driver ABI, declared here because libvirt installs no header for it. Mirrors what
 * libvirt 1.0.0 to 11.3.0 exchange with a driver: src/locking/lock_driver.h of 7.0.0, 9.0.0 and
 * 11.3.0 (whose layouts are identical), and sizes of the table in Debian's sanlock.so and lockd.so.
 * Before 1.0.0 drvAcquire had no `action`; those versions are refused by nobody but would not work.
 *
 * Upper-case names and drv* members are spelled as in libvirt, so that they can be found there.
 */
#ifndef VL_PLUGIN_LIBVIRT_ABI_H
#define VL_PLUGIN_LIBVIRT_ABI_H

#include <assert.h>
#include <stddef.h>

/* major * 1000000 + minor * 1000 + micro; never changed since the interface exists. */
#define VIR_LOCK_MANAGER_VERSION                1000000u
#define VIR_LOCK_MANAGER_VERSION_MAJOR(version) ((version) / 1000000u)

enum {
    VIR_LOCK_MANAGER_USES_STATE = 1 << 0, /* driver flags: states travel with migrations */

    VIR_LOCK_MANAGER_OBJECT_TYPE_DOMAIN = 0,

    VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK = 0,
    VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE = 1,

    VIR_LOCK_MANAGER_NEW_STARTED = 1 << 0,

    VIR_LOCK_MANAGER_RESOURCE_READONLY = 1 << 0,
    VIR_LOCK_MANAGER_RESOURCE_SHARED = 1 << 1,

    VIR_LOCK_MANAGER_ACQUIRE_REGISTER_ONLY = 1 << 0,
    VIR_LOCK_MANAGER_ACQUIRE_RESTRICT = 1 << 1,
};

enum {
    VIR_LOCK_MANAGER_PARAM_TYPE_STRING = 0,
    VIR_LOCK_MANAGER_PARAM_TYPE_CSTRING = 1,
    VIR_LOCK_MANAGER_PARAM_TYPE_INT = 2,
    VIR_LOCK_MANAGER_PARAM_TYPE_LONG = 3,
    VIR_LOCK_MANAGER_PARAM_TYPE_UINT = 4,
    VIR_LOCK_MANAGER_PARAM_TYPE_ULONG = 5,
    VIR_LOCK_MANAGER_PARAM_TYPE_DOUBLE = 6,
    VIR_LOCK_MANAGER_PARAM_TYPE_UUID = 7,
};

#define VIR_UUID_BUFLEN 16

/* Strings are borrowed from libvirt for the duration of the call. "id" and "pid" say UINT but are
 * stored through `iv`: -1 and 0 for a VM that does not run. */
struct vir_lock_param {
    int type;
    const char *key;
    union {
        int iv;
        long long l;
        unsigned int ui;
        unsigned long long ul;
        double d;
        char *str;
        const char *cstr;
        unsigned char uuid[VIR_UUID_BUFLEN];
    } value;
};

struct vir_lock_driver;

/* Allocated by libvirt; privateData is the driver's. */
struct vir_lock_manager {
    struct vir_lock_driver *driver;
    void *privateData;
};

/* Every function returns 0, or -1 with an error raised in the calling thread. */
struct vir_lock_driver {
    unsigned int version;
    unsigned int flags;

    int (*drvInit)(unsigned int version, const char *config_file, unsigned int flags);
    int (*drvDeinit)(void);
    /* drvFree is not called when drvNew fails. */
    int (*drvNew)(struct vir_lock_manager *man, unsigned int type, size_t nparams, struct vir_lock_param *params,
                  unsigned int flags);
    void (*drvFree)(struct vir_lock_manager *man);
    int (*drvAddResource)(struct vir_lock_manager *man, unsigned int type, const char *name, size_t nparams,
                          struct vir_lock_param *params, unsigned int flags);
    int (*drvAcquire)(struct vir_lock_manager *man, const char *state, unsigned int flags, int action, int *fd);
    int (*drvRelease)(struct vir_lock_manager *man, char **state, unsigned int flags);
    int (*drvInquire)(struct vir_lock_manager *man, char **state, unsigned int flags);
};

#ifdef __LP64__
static_assert(sizeof(struct vir_lock_driver) == 72, "as in Debian's sanlock.so and lockd.so");
static_assert(sizeof(struct vir_lock_param) == 32, "int, pointer, 16 bytes of union");
static_assert(sizeof(struct vir_lock_manager) == 16, "two pointers");
static_assert(offsetof(struct vir_lock_param, key) == 8, "");
static_assert(offsetof(struct vir_lock_param, value) == 16, "");
static_assert(offsetof(struct vir_lock_driver, drvInit) == 8, "");
static_assert(offsetof(struct vir_lock_driver, drvInquire) == 64, "");
#endif

/* Error reporting: virReportErrorHelper is exported by libvirt.so under a version that changes with
 * every release (LIBVIRT_PRIVATE_9.0.0, ...); found by plain name with dlsym it has had this
 * signature since 0.9. Numbers from libvirt/virterror.h, which are public and never reused. */
typedef void (*vir_report_error_fn)(int domain, int code, const char *file, const char *func, size_t line,
                                    const char *format, ...);

enum {
    VIR_FROM_LOCKING = 42,

    VIR_ERR_INTERNAL_ERROR = 1,
    VIR_ERR_OPERATION_FAILED = 9,
    VIR_ERR_OPERATION_INVALID = 55,
    VIR_ERR_CONFIG_UNSUPPORTED = 67,
    VIR_ERR_RESOURCE_BUSY = 87,
};

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/driver.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the part of libvirt.so that drivers call: exported, so that dlsym and the link find it ----
 */

#define EXPORTED __attribute__((visibility("default")))

__thread int error_code;
__thread char error_text[8192];

EXPORTED void virReportErrorHelper(int domain, int code, const char *file, const char *func, size_t line,
                                   const char *format, ...) G_GNUC_PRINTF(6, 7);
EXPORTED void virReportSystemErrorFull(int domain, int error, const char *file, const char *func, size_t line,
                                       const char *format, ...) G_GNUC_PRINTF(6, 7);

void
virReportErrorHelper(int domain, int code, const char *file, const char *func, size_t line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error_text, sizeof(error_text), format, args);
    va_end(args);
    error_code = code;
}

void
virReportSystemErrorFull(int domain, int error, const char *file, const char *func, size_t line, const char *format,
                         ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error_text, sizeof(error_text), format, args);
    va_end(args);
    error_code = 38; /* VIR_ERR_SYSTEM_ERROR */
}

static int (*libvirt_error_code)(void);
static const char *(*libvirt_error_message)(void);

int
init_libvirt(void *module)
{
    int (*init)(void) = NULL;

    *(void **)&init = dlsym(module, "virInitialize");
    *(void **)&libvirt_error_code = dlsym(module, "virGetLastErrorCode");
    *(void **)&libvirt_error_message = dlsym(module, "virGetLastErrorMessage");
    return init ? init() : 0;
}

void
complete_error(void)
{
    if (error_text[0] != '\0' || !libvirt_error_code || !libvirt_error_message)
        return;
    error_code = libvirt_error_code();
    g_strlcpy(error_text, libvirt_error_message(), sizeof(error_text));
}

/* ---- what libvirt knows about the VM ---- */

struct vm vm;
const struct vir_lock_driver *driver;

void
resource_free(gpointer data)
{
    struct resource *resource = data;

    g_free(resource->name);
    g_free(resource->path);
    g_free(resource->space);
    g_free(resource);
}

int64_t
now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int
new_manager(struct vir_lock_manager *man, unsigned int flags)
{
    struct vir_lock_param params[] = {
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_UUID, .key = "uuid"},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_STRING, .key = "name", .value.str = vm.name},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_UINT, .key = "id", .value.iv = vm.id},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_UINT, .key = "pid", .value.iv = vm.pid},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_CSTRING, .key = "uri", .value.cstr = vm.uri},
    };

    memcpy(params[0].value.uuid, vm.uuid, sizeof(vm.uuid));
    *man = (struct vir_lock_manager){.driver = (struct vir_lock_driver *)driver};
    return driver->drvNew(man, VIR_LOCK_MANAGER_OBJECT_TYPE_DOMAIN, G_N_ELEMENTS(params), params, flags);
}

int
add_resource(struct vir_lock_manager *man, const struct resource *resource)
{
    struct vir_lock_param params[] = {
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_STRING, .key = "path", .value.str = resource->path},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_ULONG, .key = "offset", .value.ul = resource->offset},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_STRING, .key = "lockspace", .value.str = resource->space},
    };
    size_t nparams = resource->type == VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE ? (resource->space ? 3 : 2) : 0;

    return driver->drvAddResource(man, resource->type, resource->name, nparams, nparams > 0 ? params : NULL,
                                  resource->flags);
}

int
new_manager_with_resources(struct vir_lock_manager *man, unsigned int flags)
{
    if (new_manager(man, flags) < 0)
        return -1;
    for (guint i = 0; i < vm.resources->len; i++) {
        if (add_resource(man, g_ptr_array_index(vm.resources, i)) < 0) {
            driver->drvFree(man);
            return -1;
        }
    }
    return 0;
}

/* ---- operations ---- */

int
run_op(struct vir_lock_manager *man, const struct op *op, char **state)
{
    char *before = *state;
    int fd = -1, r = -1;

    switch (op->kind) {
    case OP_ACQUIRE:
        return driver->drvAcquire(man, op->state, op->flags, op->action, &fd);
    case OP_RELEASE_NULL:
        return driver->drvRelease(man, NULL, 0);
    case OP_RELEASE:
        r = driver->drvRelease(man, state, 0);
        break;
    case OP_INQUIRE:
        *state = NULL;
        r = driver->drvInquire(man, state, 0);
        break;
    }
    if (*state != before)
        free(before); /* libvirt would leak it */
    return r;
}

int
run_call(const struct op *op, char **state)
{
    struct vir_lock_manager man;
    int r;

    if (new_manager_with_resources(&man, 0) < 0)
        return -1;
    r = run_op(&man, op, state);
    driver->drvFree(&man);
    return r;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plugin/vm.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/report.h"

struct resource {
    unsigned int type;
    unsigned int flags;
    char *name;
    char *path;  /* of a <lease> */
    char *space; /* of a <lease>; NULL: none */
    uint64_t offset;
};

struct vm {
    unsigned char uuid[VIR_UUID_BUFLEN];
    char *name;
    char *uri; /* NULL in calls that only give something back */
    int id;    /* -1: not running */
    int pid;   /* 0: not running */
    struct resource *resources;
    size_t nresources;
};

static int
out_of_memory(void)
{
    report_error(VL_ERR_INTERNAL, "out of memory");
    return -1;
}

/* ---- parameters: unknown keys are skipped, known ones must have libvirt's type ---- */

static bool
is_param(const struct vir_lock_param *param, const char *key)
{
    return strcmp(param->key, key) == 0;
}

static int
wrong_param(const struct vir_lock_param *param)
{
    report_error(VL_ERR_INTERNAL, "parameter '%s' from libvirt has the unexpected type %d", param->key, param->type);
    return -1;
}

static int
copy_string(const struct vir_lock_param *param, char **target)
{
    const char *string;
    char *copy = NULL;

    if (param->type == VIR_LOCK_MANAGER_PARAM_TYPE_STRING)
        string = param->value.str;
    else if (param->type == VIR_LOCK_MANAGER_PARAM_TYPE_CSTRING)
        string = param->value.cstr;
    else
        return wrong_param(param);
    if (string && !(copy = strdup(string)))
        return out_of_memory();
    free(*target);
    *target = copy;
    return 0;
}

static int
copy_int(const struct vir_lock_param *param, int *target)
{
    if (param->type != VIR_LOCK_MANAGER_PARAM_TYPE_UINT && param->type != VIR_LOCK_MANAGER_PARAM_TYPE_INT)
        return wrong_param(param);
    *target = param->value.iv; /* libvirt stores -1 under the type UINT */
    return 0;
}

static int
copy_offset(const struct vir_lock_param *param, uint64_t *target)
{
    if (param->type != VIR_LOCK_MANAGER_PARAM_TYPE_ULONG)
        return wrong_param(param);
    *target = param->value.ul;
    return 0;
}

static int
vm_take_param(struct vm *vm, const struct vir_lock_param *param, bool *has_uuid)
{
    if (is_param(param, "uuid")) {
        if (param->type != VIR_LOCK_MANAGER_PARAM_TYPE_UUID)
            return wrong_param(param);
        memcpy(vm->uuid, param->value.uuid, sizeof(vm->uuid));
        *has_uuid = true;
        return 0;
    }
    if (is_param(param, "name"))
        return copy_string(param, &vm->name);
    if (is_param(param, "uri"))
        return copy_string(param, &vm->uri);
    if (is_param(param, "id"))
        return copy_int(param, &vm->id);
    if (is_param(param, "pid"))
        return copy_int(param, &vm->pid);
    return 0;
}

struct vm *
vm_new(size_t nparams, const struct vir_lock_param *params)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    bool has_uuid = false;
    size_t i;

    if (!vm) {
        (void)out_of_memory();
        return NULL;
    }
    vm->id = -1;
    for (i = 0; i < nparams; i++) {
        if (vm_take_param(vm, &params[i], &has_uuid) < 0) {
            vm_free(vm);
            return NULL;
        }
    }
    if (!has_uuid) {
        report_error(VL_ERR_INTERNAL, "libvirt named no UUID for the VM '%s'", vm->name ? vm->name : "");
        vm_free(vm);
        return NULL;
    }
    return vm;
}

/* ---- resources ---- */

static void
resource_clear(struct resource *resource)
{
    free(resource->name);
    free(resource->path);
    free(resource->space);
}

static struct resource *
vm_new_resource(struct vm *vm, unsigned int type, const char *name, unsigned int flags)
{
    struct resource *grown;
    char *copy;

    if (!name) {
        report_error(VL_ERR_INTERNAL, "libvirt named no path of a disk or key of a lease");
        return NULL;
    }
    if (vm->nresources >= VL_PROTO_RESOURCES_MAX) {
        report_error(VL_ERR_CONFIG, "a VM may have at most %d disks and leases", VL_PROTO_RESOURCES_MAX);
        return NULL;
    }
    copy = strdup(name);
    grown = realloc(vm->resources, (vm->nresources + 1) * sizeof(*grown));
    if (grown)
        vm->resources = grown;
    if (!grown || !copy) {
        free(copy);
        (void)out_of_memory();
        return NULL;
    }
    grown += vm->nresources++;
    *grown = (struct resource){.type = type, .flags = flags, .name = copy};
    return grown;
}

int
vm_add_disk(struct vm *vm, const char *path, unsigned int flags)
{
    return vm_new_resource(vm, VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK, path, flags) ? 0 : -1;
}

int
vm_add_lease(struct vm *vm, const char *key, size_t nparams, const struct vir_lock_param *params)
{
    struct resource *lease = vm_new_resource(vm, VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE, key, 0);
    size_t i;
    int r = lease ? 0 : -1;

    for (i = 0; i < nparams && r == 0; i++) {
        if (is_param(&params[i], "path"))
            r = copy_string(&params[i], &lease->path);
        else if (is_param(&params[i], "lockspace"))
            r = copy_string(&params[i], &lease->space);
        else if (is_param(&params[i], "offset"))
            r = copy_offset(&params[i], &lease->offset);
    }
    if (r < 0 && lease) {
        resource_clear(lease);
        vm->nresources--;
    }
    return r;
}

/* ---- the request ---- */

static void
describe_resource(const struct resource *resource, struct vl_msg *request)
{
    size_t mark = vl_msg_begin(request, VL_TAG_RESOURCE);

    vl_msg_add_u64(request, VL_TAG_RES_TYPE, resource->type);
    vl_msg_add_u64(request, VL_TAG_RES_FLAGS, resource->flags);
    vl_msg_add_string(request, VL_TAG_RES_NAME, resource->name);
    if (resource->type == VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE) {
        vl_msg_add_string(request, VL_TAG_RES_PATH, resource->path);
        vl_msg_add_string(request, VL_TAG_RES_SPACE, resource->space);
        vl_msg_add_u64(request, VL_TAG_RES_OFFSET, resource->offset);
    }
    vl_msg_end(request, mark);
}

void
vm_describe(const struct vm *vm, struct vl_msg *request)
{
    size_t i;

    vl_msg_add_bytes(request, VL_TAG_UUID, vm->uuid, sizeof(vm->uuid));
    vl_msg_add_string(request, VL_TAG_NAME, vm->name);
    vl_msg_add_string(request, VL_TAG_URI, vm->uri);
    vl_msg_add_u64(request, VL_TAG_PID, vm->pid > 0 ? (uint64_t)vm->pid : 0);
    if (vm->id >= 0)
        vl_msg_add_u64(request, VL_TAG_ID, (uint64_t)vm->id);
    for (i = 0; i < vm->nresources; i++)
        describe_resource(&vm->resources[i], request);
}

void
vm_free(struct vm *vm)
{
    size_t i;

    if (!vm)
        return;
    for (i = 0; i < vm->nresources; i++)
        resource_clear(&vm->resources[i]);
    free(vm->resources);
    free(vm->name);
    free(vm->uri);
    free(vm);
}

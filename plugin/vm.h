/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What libvirt says about a VM before it asks for something: the parameters of drvNew and the
 * resources of drvAddResource, copied. libvirt makes one for every single call and frees it again.
 */
#ifndef VL_PLUGIN_VM_H
#define VL_PLUGIN_VM_H

#include <stddef.h>
#include <stdint.h>

#include "common/protocol.h"
#include "plugin/libvirt_abi.h"

struct vm;

/* NULL with an error raised. */
struct vm *vm_new(size_t nparams, const struct vir_lock_param *params);

/* 0, or -1 with an error raised. */
int vm_add_disk(struct vm *vm, const char *path, unsigned int flags);
int vm_add_lease(struct vm *vm, const char *key, size_t nparams, const struct vir_lock_param *params);

/* Adds everything known to a request. */
void vm_describe(const struct vm *vm, struct vl_msg *request);

void vm_free(struct vm *vm);

#endif

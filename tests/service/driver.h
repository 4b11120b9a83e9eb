/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The parts of vldriver: driver.c (commands), driver_libvirt.c (libvirt's role), driver_child.c
 * (the forked child that becomes QEMU), driver_loop.c (many calls, timed).
 */
#ifndef VL_TESTS_SERVICE_DRIVER_H
#define VL_TESTS_SERVICE_DRIVER_H

#include <glib.h>

#include "plugin/libvirt_abi.h"

/* ---- driver_libvirt.c ---- */

struct resource {
    unsigned int type, flags;
    char *name, *path, *space;
    unsigned long long offset;
};

/* What libvirt knows about the VM. */
struct vm {
    unsigned char uuid[VIR_UUID_BUFLEN];
    char *name, *uri;
    int id, pid;
    GPtrArray *resources;
};

struct op {
    enum { OP_ACQUIRE, OP_RELEASE, OP_RELEASE_NULL, OP_INQUIRE } kind;
    const char *state;
    unsigned int flags;
    int action;
};

extern struct vm vm;
extern const struct vir_lock_driver *driver;
extern __thread int error_code;
extern __thread char error_text[8192];

/* libvirt's own drivers bring libvirt.so, which wants to be initialised and keeps the errors of its
 * RPC to itself; ours does not bring it. */
int init_libvirt(void *module);
/* After a failure: fetches an error that only libvirt.so knows into error_code and error_text. */
void complete_error(void);
void resource_free(gpointer resource);
int64_t now_us(void);
int new_manager(struct vir_lock_manager *man, unsigned int flags);
int add_resource(struct vir_lock_manager *man, const struct resource *resource);
/* New and AddResource; nothing to free on failure. */
int new_manager_with_resources(struct vir_lock_manager *man, unsigned int flags);
/* Runs it with *state in the role of libvirt's priv->lockState. */
int run_op(struct vir_lock_manager *man, const struct op *op, char **state);
/* New, AddResource, op, Free: what libvirt does every time. */
int run_call(const struct op *op, char **state);

/* ---- driver.c ---- */

gboolean parse_op(char **words, int count, struct op *op);
G_GNUC_PRINTF(2, 3) void answer_ok(int64_t us, const char *format, ...);
void answer_error(int code, int64_t us, const char *text);

/* ---- commands elsewhere; FALSE: makes no sense ---- */

gboolean cmd_spawn(char **words, int count);
gboolean cmd_go(char **words, int count);
gboolean cmd_wait(char **words, int count);
gboolean cmd_kill(char **words, int count);
gboolean cmd_loop(char **words, int count);
gboolean cmd_threads(char **words, int count);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * This very test process as a QEMU: it has a TCP connection on 127.0.0.1, so clients on that address can be its own.
 * Its pid is getpid(). */
#ifndef VL_TESTS_QEMU_H
#define VL_TESTS_QEMU_H

#include "tests/unit/world.h"

#define QEMU_ADDR "127.0.0.1:0/111"

void qemu_connect(void);
void qemu_disconnect(void);

/* It opens every volume that the VM has a lease on. */
void qemu_opens(World *world, VlVm *vm);
/* vl_hold_all() with its lock, within `seconds`. */
gboolean qemu_hold(World *world, VlVm *vm, double seconds, GError **error);
/* vl_park_all(), until every stored record says so, too. */
void qemu_park(World *world, VlVm *vm);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Registering the forked child with sanlock. sanlock knows a process by the connections that it made
 * itself, keeps its leases while a copy of them is open, and kills that process when the leases are
 * lost: so the process that becomes QEMU makes them, and QEMU keeps them open without knowing.
 */
#ifndef VL_PLUGIN_SANLK_H
#define VL_PLUGIN_SANLK_H

#include <stddef.h>
#include <stdint.h>

#include "common/protocol.h"

/* Registered connections, close-on-exec until sanlk_leave_to_qemu(). */
struct sanlk {
    int fds[VL_SANLOCK_WANT_MAX];
    size_t count;
};

enum { SANLK_ERROR_SIZE = 512 };

/* Makes `want` connections (1 to VL_SANLOCK_WANT_MAX) within a few seconds and before deadline_ms,
 * each with the killpath program `path` (NULL: none) and its `args` (NULL: none). 0, or -errno with
 * a sentence in `error` and nothing left open. Signal mask, dispositions and timers are afterwards
 * what they were. Changes a disposition meanwhile, so it is for the child's only thread. */
int sanlk_register(size_t want, const char *path, char *args, int64_t deadline_ms, struct sanlk *ret_sanlk,
                   char error[SANLK_ERROR_SIZE]);

/* Lets exec keep the connections. 0 or -errno. */
int sanlk_leave_to_qemu(const struct sanlk *sanlk);

/* To sanlock this is the end of the process: it forgets the registration. */
void sanlk_close(struct sanlk *sanlk);

#endif

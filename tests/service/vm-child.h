/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The forked child in which libvirt lets a lock driver register a VM, and what it would hand on to
 * QEMU before and after that.
 */
#ifndef VL_TESTS_SERVICE_VM_CHILD_H
#define VL_TESTS_SERVICE_VM_CHILD_H

#include <glib.h>
#include <sys/types.h>

enum { CHILD_TEXT_MAX = 8192, CHILD_FDS_MAX = 64 };

/* What survives an exec. */
struct legacy {
    char signals[CHILD_TEXT_MAX]; /* dispositions, mask, pending, timers */
    char fds[CHILD_FDS_MAX + 1];  /* per descriptor: '.' none, 'c' close-on-exec, 'k' kept */
};

struct report {
    int r, code;
    int64_t ms;
    char text[1024];
    struct legacy before, after;
};

/* Forks, registers, and execs something that stands for QEMU. Returns its pid after the exec; 0 if the
 * child was refused and has ended. Fails the test if signals or timers are not what they were.
 * odd_signals: they begin as no libvirt leaves them, blocked and ignored. */
pid_t start_vm(struct report *report, gboolean odd_signals);

void end_vm(pid_t pid);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Fault points: named places where a test may stop, kill or delay the daemon. They exist only in
 * builds with -Dfaults=true. A file $VIRTLEASE_FAULT_DIR/NAME arms the point NAME: its text is
 *   wait   create NAME.hit and wait until the file NAME is removed
 *   stop   create NAME.hit and SIGSTOP the whole process
 *   exit   create NAME.hit and _exit(99) at once, as kill -9 would
 */
#ifndef VL_LOCKD_FAULT_H
#define VL_LOCKD_FAULT_H

#ifdef VL_FAULTS
void vl_fault_point(const char *name);
#define VL_FAULT(name) vl_fault_point(name)
#else
#define VL_FAULT(name) ((void)0)
#endif

#endif

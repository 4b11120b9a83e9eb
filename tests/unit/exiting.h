/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A QEMU process of ours that is gone: web1 had vol1 (and vol2) here, on host-a. */
#ifndef VL_TESTS_EXITING_H
#define VL_TESTS_EXITING_H

#include "tests/unit/case.h"

#define A1 "10.0.0.1:0/11" /* its client on vol1 */
#define A2 "10.0.0.1:0/12" /* and on vol2 */
#define A9 "10.0.0.1:0/99" /* one of this host that nobody has recorded */

/* The records of the first n volumes say HELD, with its client, which watches the image and owns its lock. Epoch 7. */
void exiting_case_begin(Case *c, guint n);
/* That client has gone by itself. */
void exiting_closed(Case *c, const char *volume, const char *addr);
/* vl_exit_begin(), until the daemon has freed everything and forgotten the VM. */
void exiting_finish(Case *c);
/* Fenced, and the record remembers just that. */
void exiting_assert_fenced(Case *c, const char *volume, const char *addr);

#endif

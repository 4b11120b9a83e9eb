/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Live migration, seen from its destination: web1 runs on host-b and comes in here, on host-a. */
#ifndef VL_TESTS_MIGRATION_H
#define VL_TESTS_MIGRATION_H

#include "tests/unit/case.h"

#define STATE "vl1:token" /* libvirt's state string with the token of world_holder() */

/* web1 on host-b has that volume, HELD or PARKED, and its client B1 is on it. */
void migration_put_source(Case *c, const char *volume, gboolean held);
/* vl_incoming_begin() of all leases; `rest` gets what is to be taken at once. */
gboolean migration_begin_for(Case *c, double seconds, GPtrArray *rest);
/* The same, when all of them are the source's. */
void migration_begin(Case *c);
gboolean migration_finish(Case *c, const char *state, double seconds);
/* The record is the source's still, and we are its only heir. */
void migration_assert_heir(Case *c, const char *volume);

#endif

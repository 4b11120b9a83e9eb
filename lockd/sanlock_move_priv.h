/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The parts of sanlock_move.c that only read text, for their tests. */
#ifndef VL_LOCKD_SANLOCK_MOVE_PRIV_H
#define VL_LOCKD_SANLOCK_MOVE_PRIV_H

#include "lockd/backend_sanlock.h"

/* The version of a lease in a state string; 0: it does not say. */
gint64 vl_sanlock_version_in(const char *state, const VlSanlockRef *ref);

/* By this text of /proc/PID/fdinfo/N QEMU may write to the file. */
gboolean vl_sanlock_fdinfo_locked(const char *text);

#endif

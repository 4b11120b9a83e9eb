/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Removing lease files, by a process that exists for that alone: registered with sanlock, it holds the lease of each
 * file while it removes it. Why so and not otherwise: sanlock_clean.h.
 */
#ifndef VL_LOCKD_SANLOCK_REMOVE_H
#define VL_LOCKD_SANLOCK_REMOVE_H

#include "lockd/sanlock_conf.h"

typedef enum {
    VL_SANLOCK_REMOVE_LINK,    /* rc: errno */
    VL_SANLOCK_REMOVE_OPEN,    /* errno */
    VL_SANLOCK_REMOVE_ACQUIRE, /* sanlock's */
    VL_SANLOCK_REMOVE_CHANGED, /* the name stands for another file now */
    VL_SANLOCK_REMOVE_UNLINK,  /* errno */
    VL_SANLOCK_REMOVE_DONE,
    VL_SANLOCK_REMOVE_DIED, /* the process ended before it could say */
} VlSanlockRemoveStep;

typedef struct {
    VlSanlockRemoveStep step;
    int rc;
} VlSanlockRemoved;

/* Blocks. What became of each of `names`: an array of as many, free it with g_free. NULL: the process could not be made
 * or not register; -errno or sanlock's code in *ret_rc. */
VlSanlockRemoved *vl_sanlock_remove(const char *lease_dir, guint sector_size, char *const *names, guint n, int *ret_rc);

#endif

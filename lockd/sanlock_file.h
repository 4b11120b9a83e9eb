/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Making a file that sanlock can use, once, whoever else wants to make it at the same time.
 *
 * sanlock formats whatever it is told to, held leases included. So nothing is ever formatted under its
 * own name: a temporary file of ours is formatted completely and then linked to the name, which fails
 * if there is anything, whatever it is. A host that dies on the way leaves a temporary file and
 * nothing else; two hosts at once make two temporary files, and one of them gets the name.
 */
#ifndef VL_LOCKD_SANLOCK_FILE_H
#define VL_LOCKD_SANLOCK_FILE_H

#include "lockd/sanlock_conf.h"

#define VL_SANLOCK_TEMP_PREFIX ".virtlease-tmp-"

/* A lease (`name` is its md5) or, with `name` VL_SANLOCK_SPACE, the lockspace, in lease_dir. TRUE: the
 * name exists now; *ret_made: by us. Runs on a worker until `deadline`. */
gboolean vl_sanlock_file_make(const VlSanlockConf *conf, const char *name, gint64 deadline, gboolean *ret_made,
                              GError **error);

/* Blocking parts, for vl_sanlock_file_make and tests: steps and their errno. */
typedef enum {
    VL_SANLOCK_STEP_OWNER,
    VL_SANLOCK_STEP_CREATE,
    VL_SANLOCK_STEP_CHOWN,
    VL_SANLOCK_STEP_ALLOCATE,
    VL_SANLOCK_STEP_FORMAT,
    VL_SANLOCK_STEP_LINK,
    VL_SANLOCK_STEP_DONE,
} VlSanlockStep;

void vl_sanlock_file_error(GError **error, VlSanlockStep step, int rc, const VlSanlockConf *conf, const char *name);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What libsanlock_client's return codes mean, in words: the one place that knows them.
 *
 * The codes are errnos and sanlock's own numbers mixed, and an errno says something else in another
 * call: -ENOSPC is a full file system where a lease is formatted, and "this host is not in the
 * lockspace" where one is acquired.
 */
#ifndef VL_LOCKD_SANLOCK_WORDS_H
#define VL_LOCKD_SANLOCK_WORDS_H

#include <glib.h>

#include "lockd/error.h"

typedef enum {
    VL_SANLOCK_ACQUIRE = 1,
    VL_SANLOCK_RELEASE = 2,
    VL_SANLOCK_INQUIRE = 4,
    VL_SANLOCK_JOIN = 8,
    VL_SANLOCK_FORMAT = 16,
    VL_SANLOCK_READ = 32,
} VlSanlockVerb;

/* No code of the library's: the daemon could not be connected, or went away during the call. */
#define VL_SANLOCK_DOWN (-10001)

/* The sentence for a code, without names; never NULL. *ret_code: what it means to the rules. */
const char *vl_sanlock_words(VlSanlockVerb verb, int rc, enum vl_error *ret_code);

/* "WHAT: sentence (sanlock CODE)"; `who`, if known, replaces the anonymous owner in the sentences
 * that speak of one ("host 7, which is alive"). */
void vl_sanlock_error(GError **error, VlSanlockVerb verb, int rc, const char *what, const char *who);

#endif

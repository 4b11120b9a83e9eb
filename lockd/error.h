/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The daemon's one GError domain; codes are enum vl_error, so they travel in replies unchanged. */
#ifndef VL_LOCKD_ERROR_H
#define VL_LOCKD_ERROR_H

#include <glib.h>

#include "common/errors.h"

#define VL_ERROR (vl_error_quark())
GQuark vl_error_quark(void);

/* g_set_error() in our domain. */
void vl_set_error(GError **error, enum vl_error code, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The code of an error of any domain; VL_ERR_INTERNAL for foreign ones, VL_OK for NULL. */
enum vl_error vl_error_code(const GError *error);

#endif

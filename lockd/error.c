/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/error.h"

G_DEFINE_QUARK(virtlease - error, vl_error)

void
vl_set_error(GError **error, enum vl_error code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, VL_ERROR, (int)code, text);
}

enum vl_error
vl_error_code(const GError *error)
{
    if (!error)
        return VL_OK;
    if (error->domain != VL_ERROR || error->code <= 0 || error->code >= VL_ERR_COUNT)
        return VL_ERR_INTERNAL;
    return (enum vl_error)error->code;
}

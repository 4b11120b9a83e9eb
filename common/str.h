/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Two helpers for plain C strings, private to common/. */
#ifndef VL_COMMON_STR_H
#define VL_COMMON_STR_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static inline void
vl_free_string(char **string)
{
    free(*string);
}
#define autofree __attribute__((cleanup(vl_free_string)))

/* malloc'ed; NULL without memory (where asprintf() leaves its pointer undefined). */
__attribute__((format(printf, 1, 2))) static inline char *
vl_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return text;
}

#endif

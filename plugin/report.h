/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VL_PLUGIN_REPORT_H
#define VL_PLUGIN_REPORT_H

#include <stddef.h>

#include "common/errors.h"

/* Finds libvirt's error function. Called by drvInit, because a forked child must not take the
 * dynamic loader's lock. */
void report_init(void);

/* Raises libvirt's thread-local error, which virsh prints; outside libvirt writes to stderr. A
 * failing call without one reads "cause is unknown". */
#define report_error(code, ...) report_error_at(__func__, __LINE__, code, __VA_ARGS__)

__attribute__((format(printf, 4, 5))) void report_error_at(const char *func, size_t line, enum vl_error code,
                                                           const char *format, ...);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/errors.h"

#include <stddef.h>

static const char *const names[VL_ERR_COUNT] = {
    [VL_OK] = "ok",
    [VL_ERR_INTERNAL] = "internal",
    [VL_ERR_HELD] = "held",
    [VL_ERR_FOREIGN] = "foreign-user",
    [VL_ERR_STORAGE] = "storage",
    [VL_ERR_DENIED] = "denied",
    [VL_ERR_MISSING] = "missing",
    [VL_ERR_RECORD] = "record",
    [VL_ERR_STALE] = "stale-memory",
    [VL_ERR_NOT_REGISTERED] = "not-registered",
    [VL_ERR_NO_ADDRESS] = "no-address",
    [VL_ERR_TIMEOUT] = "timeout",
    [VL_ERR_CONFIG] = "config",
    [VL_ERR_PROTOCOL] = "protocol",
    [VL_ERR_NOT_PERMITTED] = "not-permitted",
    [VL_ERR_FENCE] = "fence",
    [VL_ERR_CHANGED] = "changed",
    [VL_ERR_CANCELLED] = "cancelled",
    [VL_ERR_JOURNAL] = "journal",
    [VL_ERR_DUP_HOST] = "duplicate-host",
    [VL_ERR_LOST] = "lost",
    [VL_ERR_NO_XML] = "no-status-xml",
    [VL_ERR_DAEMON] = "daemon",
    [VL_ERR_MANUAL] = "manual",
    [VL_ERR_UNKNOWN_OWNER] = "unknown-owner",
};

const char *
vl_error_name(enum vl_error code)
{
    if ((int)code < 0 || code >= VL_ERR_COUNT || !names[code])
        return "unknown";
    return names[code];
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plugin/report.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/protocol.h"
#include "plugin/libvirt_abi.h"

/* Set once per drvInit to what is always the same address: atomic only for the reader's sake. */
static _Atomic(vir_report_error_fn) report_to_libvirt;

void
report_init(void)
{
    void *symbol = dlsym(RTLD_DEFAULT, "virReportErrorHelper");
    vir_report_error_fn function;

    /* ISO C has no cast from object to function pointer; POSIX says the bytes are the same. */
    memcpy(&function, &symbol, sizeof(function));
    atomic_store(&report_to_libvirt, function);
}

/* libvirt puts a phrase before the text ("resource busy: ", "unsupported configuration: ", ...),
 * and management software tells by the number whether trying again later makes sense. */
static int
libvirt_code(enum vl_error code)
{
    switch (code) {
    case VL_ERR_HELD:
    case VL_ERR_FOREIGN:
    case VL_ERR_UNKNOWN_OWNER:
    case VL_ERR_MANUAL:
    case VL_ERR_CHANGED:
        return VIR_ERR_RESOURCE_BUSY;
    case VL_ERR_CONFIG:
    case VL_ERR_DUP_HOST:
        return VIR_ERR_CONFIG_UNSUPPORTED;
    case VL_ERR_STALE:
    case VL_ERR_NOT_REGISTERED:
    case VL_ERR_LOST:
        return VIR_ERR_OPERATION_INVALID;
    case VL_ERR_STORAGE:
    case VL_ERR_DENIED:
    case VL_ERR_MISSING:
    case VL_ERR_NO_ADDRESS:
    case VL_ERR_TIMEOUT:
    case VL_ERR_NOT_PERMITTED:
    case VL_ERR_FENCE:
    case VL_ERR_CANCELLED:
    case VL_ERR_JOURNAL:
    case VL_ERR_NO_XML:
    case VL_ERR_DAEMON:
        return VIR_ERR_OPERATION_FAILED;
    case VL_OK:
    case VL_ERR_INTERNAL:
    case VL_ERR_RECORD:
    case VL_ERR_PROTOCOL:
    case VL_ERR_COUNT:
        break;
    }
    return VIR_ERR_INTERNAL_ERROR;
}

/* In one write, because the VM's log has several writers; not stdio, whose lock may be held forever
 * in a forked child. Nothing can be done if it fails. */
static void
report_to_stderr(char *text)
{
    size_t len = strlen(text);

    text[len] = '\n'; /* in place of the NUL */
    if (write(STDERR_FILENO, text, len + 1) < 0)
        return;
}

void
report_error_at(const char *func, size_t line, enum vl_error code, const char *format, ...)
{
    vir_report_error_fn function = atomic_load(&report_to_libvirt);
    char text[VL_PROTO_STRING_MAX + 256];
    va_list args;

    va_start(args, format);
    if (vsnprintf(text, sizeof(text), format, args) < 0)
        text[0] = '\0';
    va_end(args);
    if (function)
        function(VIR_FROM_LOCKING, libvirt_code(code), "virtlease", func, line, "%s", text);
    else
        report_to_stderr(text);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * In place of sanlk.c where libsanlock_client was not there to build with.
 */
#include "plugin/sanlk.h"

#include <errno.h>
#include <stdio.h>

int
sanlk_register(size_t want, const char *path, char *args, int64_t deadline_ms, struct sanlk *ret_sanlk,
               char error[SANLK_ERROR_SIZE])
{
    *ret_sanlk = (struct sanlk){.count = 0};
    snprintf(error, SANLK_ERROR_SIZE, "this virtlease.so was built without sanlock");
    return -ENOSYS;
}

int
sanlk_leave_to_qemu(const struct sanlk *sanlk)
{
    return 0;
}

void
sanlk_close(struct sanlk *sanlk)
{
}

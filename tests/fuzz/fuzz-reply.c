/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the plugin, inside libvirtd, makes of a reply's body. How to run: see meson.build here.
 */
#include <stdlib.h>
#include <string.h>

#include "plugin/call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct call_reply reply;

    if (call_parse_reply(data, size, &reply) < 0)
        return 0;
    /* The two things that libvirt relies on. */
    if ((int)reply.code < 0 || reply.code >= VL_ERR_COUNT)
        abort();
    if (reply.state && (reply.state[0] == '\0' || strpbrk(reply.state, "<>&\"' \t\n")))
        abort();
    /* For the child: strings are bounded before they are looked at. */
    if (reply.sanlock_path && strlen(reply.sanlock_path) > VL_PROTO_STRING_MAX)
        abort();
    call_reply_clear(&reply);
    return 0;
}

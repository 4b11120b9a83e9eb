/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What a peer may send to virtleased: a header and a body of fields, some of them nested. How to
 * run: see meson.build here.
 */
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"

enum { DEPTH_MAX = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(int condition)
{
    if (!condition)
        abort();
}

/* Decodes every field in every way and copies it into a message of our own. */
static void
walk(const uint8_t *bytes, size_t len, int depth, struct vl_msg *copy)
{
    struct vl_reader reader;
    struct vl_field field;

    vl_reader_init(&reader, bytes, len);
    while (vl_reader_next(&reader, &field) > 0) {
        uint64_t number = 0;
        char *string = NULL;

        check(field.bytes >= bytes && field.bytes + field.len <= bytes + len);
        if (vl_field_u64(&field, &number) == 0 && number % 2 == 0)
            vl_msg_add_u64(copy, field.tag, number);
        if (vl_field_string(&field, &string) == 0) {
            check(strlen(string) == field.len);
            vl_msg_add_text(copy, field.tag, string);
        }
        free(string);
        if (field.tag == VL_TAG_RESOURCE && depth < DEPTH_MAX) {
            size_t mark = vl_msg_begin(copy, field.tag);

            walk(field.bytes, field.len, depth + 1, copy);
            vl_msg_end(copy, mark);
        }
    }
}

/* Whatever was built from it must be readable again. */
static void
check_readable(struct vl_msg *msg)
{
    struct vl_frame frame;
    struct vl_reader reader;
    struct vl_field field;
    int r;

    if (vl_msg_finish(msg) < 0)
        return;
    check(vl_frame_parse(msg->data, VL_PROTO_REQUEST_MAX, &frame) == 0);
    check(frame.length == msg->len - VL_PROTO_HEADER_SIZE);
    vl_reader_init(&reader, msg->data + VL_PROTO_HEADER_SIZE, frame.length);
    while ((r = vl_reader_next(&reader, &field)) > 0)
        ;
    check(r == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vl_frame frame = {.length = 0};
    struct vl_msg copy;

    if (size < VL_PROTO_HEADER_SIZE)
        return 0;
    /* A wrong header does not spare the body: the fuzzer would need luck to get any further. */
    if (vl_frame_parse(data, VL_PROTO_REQUEST_MAX, &frame) == 0)
        check(frame.length <= VL_PROTO_REQUEST_MAX);
    vl_msg_init(&copy, VL_MSG_ACQUIRE, VL_PROTO_REQUEST_MAX);
    walk(data + VL_PROTO_HEADER_SIZE, size - VL_PROTO_HEADER_SIZE, 0, &copy);
    check_readable(&copy);
    vl_msg_free(&copy);
    return 0;
}

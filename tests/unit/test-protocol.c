/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/protocol.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

static void
build_sample(struct vl_msg *msg)
{
    size_t mark;

    vl_msg_init(msg, VL_MSG_ACQUIRE, VL_PROTO_REQUEST_MAX);
    vl_msg_add_bytes(msg, VL_TAG_UUID, "0123456789abcdef", 16);
    vl_msg_add_string(msg, VL_TAG_NAME, "väm");
    vl_msg_add_string(msg, VL_TAG_STATE, NULL);
    vl_msg_add_string(msg, VL_TAG_URI, "");
    vl_msg_add_u64(msg, VL_TAG_PID, 0x1122334455667788);
    mark = vl_msg_begin(msg, VL_TAG_RESOURCE);
    vl_msg_add_u64(msg, VL_TAG_RES_TYPE, 1);
    vl_msg_add_string(msg, VL_TAG_RES_NAME, "/dev/rbd/p/i");
    vl_msg_end(msg, mark);
    vl_msg_add_u64(msg, VL_TAG_TIMEOUT_MS, 40000);
}

static void
assert_next(struct vl_reader *reader, uint16_t tag, struct vl_field *field)
{
    g_assert_cmpint(vl_reader_next(reader, field), ==, 1);
    g_assert_cmpuint(field->tag, ==, tag);
}

static void
assert_string(const struct vl_field *field, const char *expected)
{
    char *string = NULL;

    g_assert_cmpint(vl_field_string(field, &string), ==, 0);
    g_assert_cmpstr(string, ==, expected);
    free(string);
}

static void
assert_u64(const struct vl_field *field, uint64_t expected)
{
    uint64_t value = ~expected;

    g_assert_cmpint(vl_field_u64(field, &value), ==, 0);
    g_assert_cmpuint(value, ==, expected);
}

static void
test_round_trip(void)
{
    struct vl_msg msg;
    struct vl_frame frame;
    struct vl_reader reader, nested;
    struct vl_field field;

    build_sample(&msg);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    g_assert_cmpint(vl_frame_parse(msg.data, VL_PROTO_REQUEST_MAX, &frame), ==, 0);
    g_assert_cmpuint(frame.version, ==, VL_PROTO_VERSION);
    g_assert_cmpuint(frame.type, ==, VL_MSG_ACQUIRE);
    g_assert_cmpuint(frame.length, ==, msg.len - VL_PROTO_HEADER_SIZE);

    vl_reader_init(&reader, msg.data + VL_PROTO_HEADER_SIZE, frame.length);
    assert_next(&reader, VL_TAG_UUID, &field);
    g_assert_cmpmem(field.bytes, field.len, "0123456789abcdef", 16);
    assert_next(&reader, VL_TAG_NAME, &field);
    assert_string(&field, "väm");
    assert_next(&reader, VL_TAG_URI, &field); /* the NULL state before it is absent */
    assert_string(&field, "");
    assert_next(&reader, VL_TAG_PID, &field);
    assert_u64(&field, 0x1122334455667788);
    assert_next(&reader, VL_TAG_RESOURCE, &field);
    vl_reader_init(&nested, field.bytes, field.len);
    assert_next(&nested, VL_TAG_RES_TYPE, &field);
    assert_u64(&field, 1);
    assert_next(&nested, VL_TAG_RES_NAME, &field);
    assert_string(&field, "/dev/rbd/p/i");
    g_assert_cmpint(vl_reader_next(&nested, &field), ==, 0);
    assert_next(&reader, VL_TAG_TIMEOUT_MS, &field);
    assert_u64(&field, 40000);
    g_assert_cmpint(vl_reader_next(&reader, &field), ==, 0);
    g_assert_cmpint(vl_reader_next(&reader, &field), ==, 0);
    vl_msg_free(&msg);
    vl_msg_free(&msg);
}

/* The bytes are a promise between two programs that may be upgraded apart. */
static void
test_wire_bytes(void)
{
    static const uint8_t expected[] = {
        'V', 'L', 's', '1', 1, 0, 3, 0, 16, 0, 0, 0, 0, 0, 0, 0, /* header */
        3,   0,   0,   0,   8, 0, 0, 0, 8,  7, 6, 5, 4, 3, 2, 1, /* PID */
    };
    struct vl_msg msg;

    vl_msg_init(&msg, VL_MSG_ACQUIRE, 100);
    vl_msg_add_u64(&msg, VL_TAG_PID, 0x0102030405060708);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    g_assert_cmpmem(msg.data, msg.len, expected, sizeof(expected));
    vl_msg_free(&msg);
}

static void
test_body_limit(void)
{
    struct vl_msg msg;

    vl_msg_init(&msg, VL_MSG_CTL, 24); /* three field headers, or one and 16 bytes */
    vl_msg_add_bytes(&msg, VL_TAG_UUID, "0123456789abcdef", 16);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    vl_msg_add_string(&msg, VL_TAG_ARG, "");
    g_assert_cmpint(vl_msg_finish(&msg), ==, -EMSGSIZE);
    vl_msg_add_string(&msg, VL_TAG_ARG, "the first error is kept");
    vl_msg_end(&msg, vl_msg_begin(&msg, VL_TAG_RESOURCE));
    g_assert_cmpint(vl_msg_finish(&msg), ==, -EMSGSIZE);
    vl_msg_free(&msg);

    vl_msg_init(&msg, VL_MSG_REPLY, SIZE_MAX);
    g_assert_cmpuint(msg.max, ==, VL_PROTO_REPLY_MAX);
    vl_msg_add_bytes(&msg, VL_TAG_JSON, "", (size_t)VL_PROTO_REPLY_MAX + 1);
    g_assert_cmpint(vl_msg_finish(&msg), ==, -EMSGSIZE);
    vl_msg_free(&msg);
}

static void
test_nested_limit(void)
{
    struct vl_msg msg;
    size_t mark, i;

    vl_msg_init(&msg, VL_MSG_REGISTER, 64);
    mark = vl_msg_begin(&msg, VL_TAG_RESOURCE);
    for (i = 0; i < 100; i++)
        vl_msg_add_u64(&msg, VL_TAG_RES_FLAGS, i);
    vl_msg_end(&msg, mark);
    g_assert_cmpint(vl_msg_finish(&msg), ==, -EMSGSIZE);
    vl_msg_free(&msg);

    vl_msg_init(&msg, VL_MSG_REGISTER, 64);
    vl_msg_end(&msg, 4096); /* no such begin */
    g_assert_cmpint(vl_msg_finish(&msg), ==, -EINVAL);
    vl_msg_free(&msg);
}

static void
test_string_limit(void)
{
    g_autofree char *longest = g_strnfill(VL_PROTO_STRING_MAX, 'x');
    g_autofree char *longer = g_strnfill(VL_PROTO_STRING_MAX + 1, 'x');
    struct vl_msg msg;
    struct vl_field field = {.bytes = (const uint8_t *)longer, .len = VL_PROTO_STRING_MAX};
    char *string = NULL;

    vl_msg_init(&msg, VL_MSG_REGISTER, VL_PROTO_REQUEST_MAX);
    vl_msg_add_string(&msg, VL_TAG_NAME, longest);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    vl_msg_add_string(&msg, VL_TAG_NAME, longer);
    g_assert_cmpint(vl_msg_finish(&msg), ==, -EMSGSIZE);
    vl_msg_free(&msg);

    assert_string(&field, longest);
    field.len++;
    g_assert_cmpint(vl_field_string(&field, &string), ==, -EMSGSIZE);
    g_assert_null(string);
}

/* An error text is cut, never in the middle of a character. */
static void
test_long_text(void)
{
    g_autofree char *head = g_strnfill(VL_PROTO_STRING_MAX - 1, 'x');
    g_autofree char *text = g_strconcat(head, "äöü", NULL);
    struct vl_msg msg;
    struct vl_reader reader;
    struct vl_field field;

    vl_msg_init(&msg, VL_MSG_REPLY, VL_PROTO_REQUEST_MAX);
    vl_msg_add_text(&msg, VL_TAG_ERROR_TEXT, text);
    vl_msg_add_text(&msg, VL_TAG_ERROR_TEXT, "short");
    vl_msg_add_text(&msg, VL_TAG_ERROR_TEXT, NULL);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    vl_reader_init(&reader, msg.data + VL_PROTO_HEADER_SIZE, msg.len - VL_PROTO_HEADER_SIZE);
    assert_next(&reader, VL_TAG_ERROR_TEXT, &field);
    assert_string(&field, head);
    assert_next(&reader, VL_TAG_ERROR_TEXT, &field);
    assert_string(&field, "short");
    g_assert_cmpint(vl_reader_next(&reader, &field), ==, 0);
    vl_msg_free(&msg);
}

static void
test_field_values(void)
{
    struct vl_field field = {.bytes = (const uint8_t *)"a\0b45678", .len = 7};
    uint64_t value = 42;
    char *string = NULL;

    g_assert_cmpint(vl_field_u64(&field, &value), ==, -EPROTO);
    field.len = 0;
    g_assert_cmpint(vl_field_u64(&field, &value), ==, -EPROTO);
    g_assert_cmpuint(value, ==, 42);
    field.len = 3;
    g_assert_cmpint(vl_field_string(&field, &string), ==, -EPROTO);
    g_assert_null(string);
    field.len = 1;
    assert_string(&field, "a");
}

/* ---- frames and readers ---- */

static void
test_frame_header(void)
{
    struct vl_msg msg;
    struct vl_frame frame = {.type = 77};
    uint8_t header[VL_PROTO_HEADER_SIZE];
    static const struct {
        size_t at;
        uint8_t byte;
        int expected;
    } cases[] = {
        {0, 'v', -EPROTO},   {3, '2', -EPROTO},   {4, 2, -EPROTONOSUPPORT}, {5, 1, -EPROTONOSUPPORT}, {12, 1, -EPROTO},
        {15, 0x80, -EPROTO}, {8, 101, -EMSGSIZE}, {11, 1, -EMSGSIZE},       {11, 0xff, -EMSGSIZE},
    };

    vl_msg_init(&msg, VL_MSG_CTL, 100);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        memcpy(header, msg.data, sizeof(header));
        header[cases[i].at] = cases[i].byte;
        g_assert_cmpint(vl_frame_parse(header, 100, &frame), ==, cases[i].expected);
        g_assert_cmpuint(frame.type, ==, 77);
    }
    memcpy(header, msg.data, sizeof(header));
    header[8] = 100;
    g_assert_cmpint(vl_frame_parse(header, 100, &frame), ==, 0);
    g_assert_cmpuint(frame.length, ==, 100);
    vl_msg_free(&msg);
}

/* -1 when the bytes do not add up, else the number of fields. Copies to the heap, so that ASan sees
 * a read past the end. */
static int
count_fields(const uint8_t *bytes, size_t len)
{
    g_autofree uint8_t *copy = g_memdup2(bytes, len);
    struct vl_reader reader;
    struct vl_field field;
    int r, count = 0;

    vl_reader_init(&reader, copy, len);
    while ((r = vl_reader_next(&reader, &field)) > 0)
        count++;
    g_assert_true(r == 0 || r == -EPROTO);
    return r < 0 ? -1 : count;
}

static void
test_truncated_everywhere(void)
{
    struct vl_msg msg;
    const uint8_t *body;
    size_t len, complete = 0;

    build_sample(&msg);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    body = msg.data + VL_PROTO_HEADER_SIZE;
    for (len = 0; len <= msg.len - VL_PROTO_HEADER_SIZE; len++)
        complete += count_fields(body, len) >= 0;
    g_assert_cmpuint(complete, ==, 7); /* after 0..6 whole fields */
    vl_msg_free(&msg);
}

static void
test_field_lengths(void)
{
    uint8_t bytes[12] = {VL_TAG_NAME, 0, 0, 0, 4, 0, 0, 0, 'n', 'a', 'm', 'e'};

    g_assert_cmpint(count_fields(bytes, 12), ==, 1);
    bytes[4] = 5;
    g_assert_cmpint(count_fields(bytes, 12), ==, -1);
    bytes[4] = 4;
    bytes[7] = 0xff; /* 4 GB: no overflow either */
    g_assert_cmpint(count_fields(bytes, 12), ==, -1);
    memset(bytes + 4, 0xff, 4);
    g_assert_cmpint(count_fields(bytes, 12), ==, -1);
    memset(bytes + 4, 0, 4);
    bytes[4] = 4;
    bytes[2] = 1; /* reserved */
    g_assert_cmpint(count_fields(bytes, 12), ==, -1);
}

static void
test_unknown_tag_skipped(void)
{
    struct vl_msg msg;
    struct vl_reader reader;
    struct vl_field field;

    vl_msg_init(&msg, VL_MSG_ACQUIRE, 1000);
    vl_msg_add_string(&msg, (enum vl_tag)54321, "from the future");
    vl_msg_add_u64(&msg, VL_TAG_PID, 7);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    vl_reader_init(&reader, msg.data + VL_PROTO_HEADER_SIZE, msg.len - VL_PROTO_HEADER_SIZE);
    assert_next(&reader, 54321, &field);
    assert_next(&reader, VL_TAG_PID, &field);
    assert_u64(&field, 7);
    vl_msg_free(&msg);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/protocol/round-trip", test_round_trip);
    g_test_add_func("/protocol/wire-bytes", test_wire_bytes);
    g_test_add_func("/protocol/body-limit", test_body_limit);
    g_test_add_func("/protocol/nested-limit", test_nested_limit);
    g_test_add_func("/protocol/string-limit", test_string_limit);
    g_test_add_func("/protocol/long-text", test_long_text);
    g_test_add_func("/protocol/field-values", test_field_values);
    g_test_add_func("/protocol/frame-header", test_frame_header);
    g_test_add_func("/protocol/truncated-everywhere", test_truncated_everywhere);
    g_test_add_func("/protocol/field-lengths", test_field_lengths);
    g_test_add_func("/protocol/unknown-tag", test_unknown_tag_skipped);
    return g_test_run();
}

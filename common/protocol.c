/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/protocol.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    FIELD_HEADER_SIZE = 8,
    FIELD_LENGTH_AT = 4, /* within the field header */
    CONNECT_RETRY_MS = 100,
};

static_assert(sizeof(((struct sockaddr_un *)NULL)->sun_path) >= sizeof(VL_DEFAULT_SOCKET),
              "the default socket path fits into an address");

static void
put_u16(uint8_t *at, uint16_t value)
{
    at[0] = value & 0xff;
    at[1] = value >> 8;
}

static void
put_u32(uint8_t *at, uint32_t value)
{
    put_u16(at, value & 0xffff);
    put_u16(at + 2, value >> 16);
}

static void
put_u64(uint8_t *at, uint64_t value)
{
    put_u32(at, value & 0xffffffff);
    put_u32(at + 4, value >> 32);
}

static uint16_t
get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t
get_u32(const uint8_t *at)
{
    return get_u16(at) | (uint32_t)get_u16(at + 2) << 16;
}

static uint64_t
get_u64(const uint8_t *at)
{
    return get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

/* ---- building ---- */

static void
msg_fail(struct vl_msg *msg, int error)
{
    if (msg->error == 0)
        msg->error = error;
}

/* Room for `len` more bytes, or NULL with the error remembered. */
static uint8_t *
msg_reserve(struct vl_msg *msg, size_t len)
{
    size_t limit = VL_PROTO_HEADER_SIZE + msg->max;
    size_t cap = msg->cap ? msg->cap : 512;
    uint8_t *grown;

    if (msg->error)
        return NULL;
    if (len > limit - msg->len) {
        msg_fail(msg, -EMSGSIZE);
        return NULL;
    }
    while (cap < msg->len + len)
        cap *= 2;
    if (cap > msg->cap) {
        grown = realloc(msg->data, cap);
        if (!grown) {
            msg_fail(msg, -ENOMEM);
            return NULL;
        }
        msg->data = grown;
        msg->cap = cap;
    }
    msg->len += len;
    return msg->data + msg->len - len;
}

void
vl_msg_init(struct vl_msg *msg, enum vl_msg_type type, size_t body_max)
{
    uint8_t *header;

    memset(msg, 0, sizeof(*msg));
    msg->max = body_max < VL_PROTO_REPLY_MAX ? body_max : VL_PROTO_REPLY_MAX;
    header = msg_reserve(msg, VL_PROTO_HEADER_SIZE);
    if (!header)
        return;
    memset(header, 0, VL_PROTO_HEADER_SIZE);
    put_u32(header, VL_PROTO_MAGIC);
    put_u16(header + 4, VL_PROTO_VERSION);
    put_u16(header + 6, (uint16_t)type);
}

void
vl_msg_add_bytes(struct vl_msg *msg, enum vl_tag tag, const void *bytes, size_t len)
{
    uint8_t *at;

    if (len > VL_PROTO_REPLY_MAX) {
        msg_fail(msg, -EMSGSIZE);
        return;
    }
    at = msg_reserve(msg, FIELD_HEADER_SIZE + len);
    if (!at)
        return;
    put_u16(at, (uint16_t)tag);
    put_u16(at + 2, 0);
    put_u32(at + FIELD_LENGTH_AT, (uint32_t)len);
    if (len > 0)
        memcpy(at + FIELD_HEADER_SIZE, bytes, len);
}

void
vl_msg_add_string(struct vl_msg *msg, enum vl_tag tag, const char *string)
{
    size_t len;

    if (!string)
        return;
    len = strnlen(string, VL_PROTO_STRING_MAX + 1);
    if (len > VL_PROTO_STRING_MAX)
        msg_fail(msg, -EMSGSIZE);
    else
        vl_msg_add_bytes(msg, tag, string, len);
}

void
vl_msg_add_text(struct vl_msg *msg, enum vl_tag tag, const char *text)
{
    size_t len;

    if (!text)
        return;
    len = strnlen(text, VL_PROTO_STRING_MAX + 1);
    if (len > VL_PROTO_STRING_MAX) {
        len = VL_PROTO_STRING_MAX;
        while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
            len--; /* not in the middle of a UTF-8 sequence */
    }
    vl_msg_add_bytes(msg, tag, text, len);
}

void
vl_msg_add_u64(struct vl_msg *msg, enum vl_tag tag, uint64_t value)
{
    uint8_t bytes[8];

    put_u64(bytes, value);
    vl_msg_add_bytes(msg, tag, bytes, sizeof(bytes));
}

size_t
vl_msg_begin(struct vl_msg *msg, enum vl_tag tag)
{
    size_t mark = msg->len;

    vl_msg_add_bytes(msg, tag, NULL, 0);
    return mark;
}

void
vl_msg_end(struct vl_msg *msg, size_t mark)
{
    if (msg->error)
        return;
    if (mark < VL_PROTO_HEADER_SIZE || mark + FIELD_HEADER_SIZE > msg->len) {
        msg_fail(msg, -EINVAL);
        return;
    }
    put_u32(msg->data + mark + FIELD_LENGTH_AT, (uint32_t)(msg->len - mark - FIELD_HEADER_SIZE));
}

int
vl_msg_finish(struct vl_msg *msg)
{
    if (!msg->error && msg->len < VL_PROTO_HEADER_SIZE)
        msg_fail(msg, -EINVAL);
    if (!msg->error)
        put_u32(msg->data + 8, (uint32_t)(msg->len - VL_PROTO_HEADER_SIZE));
    return msg->error;
}

void
vl_msg_free(struct vl_msg *msg)
{
    free(msg->data);
    memset(msg, 0, sizeof(*msg));
}

/* ---- reading ---- */

int
vl_frame_parse(const uint8_t header[VL_PROTO_HEADER_SIZE], size_t body_max, struct vl_frame *ret_frame)
{
    struct vl_frame frame = {
        .version = get_u16(header + 4),
        .type = get_u16(header + 6),
        .length = get_u32(header + 8),
    };

    if (get_u32(header) != VL_PROTO_MAGIC)
        return -EPROTO;
    if (frame.version != VL_PROTO_VERSION)
        return -EPROTONOSUPPORT; /* before the rest, whose meaning belongs to that version */
    if (get_u32(header + 12) != 0)
        return -EPROTO;
    if (frame.length > body_max)
        return -EMSGSIZE;
    *ret_frame = frame;
    return 0;
}

void
vl_reader_init(struct vl_reader *reader, const void *bytes, size_t len)
{
    *reader = (struct vl_reader){.bytes = bytes, .len = len};
}

int
vl_reader_next(struct vl_reader *reader, struct vl_field *ret_field)
{
    size_t left = reader->len - reader->at;
    const uint8_t *at;
    uint32_t len;

    if (left == 0)
        return 0;
    if (left < FIELD_HEADER_SIZE)
        return -EPROTO;
    at = reader->bytes + reader->at;
    len = get_u32(at + FIELD_LENGTH_AT);
    if (get_u16(at + 2) != 0 || len > left - FIELD_HEADER_SIZE)
        return -EPROTO;
    reader->at += FIELD_HEADER_SIZE + len;
    *ret_field = (struct vl_field){
        .tag = get_u16(at),
        .bytes = at + FIELD_HEADER_SIZE,
        .len = len,
    };
    return 1;
}

int
vl_field_u64(const struct vl_field *field, uint64_t *ret_value)
{
    if (field->len != 8)
        return -EPROTO;
    *ret_value = get_u64(field->bytes);
    return 0;
}

int
vl_field_string(const struct vl_field *field, char **ret_string)
{
    char *copy;

    if (field->len > VL_PROTO_STRING_MAX)
        return -EMSGSIZE;
    if (field->len > 0 && memchr(field->bytes, '\0', field->len))
        return -EPROTO;
    copy = malloc(field->len + 1);
    if (!copy)
        return -ENOMEM;
    if (field->len > 0)
        memcpy(copy, field->bytes, field->len);
    copy[field->len] = '\0';
    *ret_string = copy;
    return 0;
}

/* ---- sockets ---- */

int64_t
vl_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits for `events` on fd, or just waits when fd is -1 (poll ignores it). 1 = ready. */
static int
wait_until(int fd, short events, int64_t deadline_ms)
{
    struct pollfd pfd = {.fd = fd, .events = events};

    for (;;) {
        int64_t left = deadline_ms - vl_now_ms();
        int n;

        if (left <= 0)
            return -ETIMEDOUT;
        n = poll(&pfd, 1, left < INT_MAX ? (int)left : INT_MAX);
        if (n > 0)
            return 1;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

/* A new socket for every attempt: POSIX leaves the state of one after a failed connect open. */
static int
connect_once(const struct sockaddr_un *address, int *ret_fd)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error;

    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0) {
        *ret_fd = fd;
        return 0;
    }
    error = errno;
    (void)close(fd);
    return -error;
}

int
vl_connect(const char *path, int64_t deadline_ms, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(path);

    if (len == 0)
        return -EINVAL;
    if (len >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, len + 1);

    for (;;) {
        int r = connect_once(&address, ret_fd);
        int64_t now, pause;

        /* EINTR: connect() to a UNIX socket that was interrupted has not connected (unix(7)). */
        if (r != -ENOENT && r != -ECONNREFUSED && r != -EAGAIN && r != -EINTR)
            return r;
        now = vl_now_ms();
        if (now >= deadline_ms)
            return r;
        pause = deadline_ms - now < CONNECT_RETRY_MS ? deadline_ms - now : CONNECT_RETRY_MS;
        (void)wait_until(-1, 0, now + pause);
    }
}

int
vl_write_all(int fd, const void *bytes, size_t len, int64_t deadline_ms)
{
    const uint8_t *at = bytes;

    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        int r;

        if (n >= 0) {
            at += n;
            len -= (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EPIPE)
            return -ECONNRESET;
        if (errno != EAGAIN)
            return -errno;
        r = wait_until(fd, POLLOUT, deadline_ms);
        if (r < 0)
            return r;
    }
    return 0;
}

int
vl_read_all(int fd, void *bytes, size_t len, int64_t deadline_ms)
{
    uint8_t *at = bytes;

    while (len > 0) {
        ssize_t n = recv(fd, at, len, MSG_DONTWAIT);
        int r;

        if (n > 0) {
            at += n;
            len -= (size_t)n;
            continue;
        }
        if (n == 0)
            return -ECONNRESET;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        r = wait_until(fd, POLLIN, deadline_ms);
        if (r < 0)
            return r;
    }
    return 0;
}

int
vl_read_frame(int fd, size_t body_max, int64_t deadline_ms, struct vl_frame *ret_frame, uint8_t **ret_body)
{
    uint8_t header[VL_PROTO_HEADER_SIZE];
    struct vl_frame frame;
    uint8_t *body;
    int r;

    r = vl_read_all(fd, header, sizeof(header), deadline_ms);
    if (r < 0)
        return r;
    r = vl_frame_parse(header, body_max, &frame);
    if (r < 0)
        return r;
    body = malloc(frame.length > 0 ? frame.length : 1);
    if (!body)
        return -ENOMEM;
    r = vl_read_all(fd, body, frame.length, deadline_ms);
    if (r < 0) {
        free(body);
        return r;
    }
    *ret_frame = frame;
    *ret_body = body;
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plugin/call.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FULL_QUEUE_WAIT_MS = 1000 };

void
call_reply_clear(struct call_reply *reply)
{
    free(reply->text);
    free(reply->state);
    free(reply->sanlock_path);
    free(reply->sanlock_args);
    *reply = (struct call_reply){.code = VL_ERR_INTERNAL};
}

/* ---- the answer ---- */

static int
take_string(const struct vl_field *field, char **target)
{
    char *string = NULL;
    int r = vl_field_string(field, &string);

    if (r < 0)
        return r;
    free(*target);
    *target = string;
    return 0;
}

/* libvirt writes the state unescaped into the migration cookie and the status XML: a '<' in it and
 * libvirtd forgets a running VM at its next restart. */
static bool
is_state(const char *state)
{
    return state[strspn(state, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                               "._:/=,+-")] == '\0';
}

static int
take_field(const struct vl_field *field, uint64_t *code, struct call_reply *reply)
{
    switch (field->tag) {
    case VL_TAG_ERROR_CODE:
        return vl_field_u64(field, code);
    case VL_TAG_ERROR_TEXT:
        return take_string(field, &reply->text);
    case VL_TAG_STATE:
        return take_string(field, &reply->state);
    case VL_TAG_SANLOCK_WANT:
        return vl_field_u64(field, &reply->sanlock_want);
    case VL_TAG_SANLOCK_PATH:
        return take_string(field, &reply->sanlock_path);
    case VL_TAG_SANLOCK_ARGS:
        return take_string(field, &reply->sanlock_args);
    default:
        return 0;
    }
}

static int
parse_fields(const void *body, size_t len, struct call_reply *reply)
{
    struct vl_reader reader;
    struct vl_field field;
    uint64_t code = UINT64_MAX;
    int r;

    vl_reader_init(&reader, body, len);
    while ((r = vl_reader_next(&reader, &field)) > 0) {
        int taken = take_field(&field, &code, reply);

        if (taken < 0)
            return taken;
    }
    if (r < 0)
        return r;
    if (code == UINT64_MAX || (reply->state && !is_state(reply->state)))
        return -EPROTO;
    /* A newer virtleased may know more reasons; its text explains them. */
    reply->code = code < VL_ERR_COUNT ? (enum vl_error)code : VL_ERR_INTERNAL;
    return 0;
}

int
call_parse_reply(const void *body, size_t len, struct call_reply *ret_reply)
{
    struct call_reply reply = {.code = VL_ERR_INTERNAL};
    int r = parse_fields(body, len, &reply);

    if (r < 0) {
        call_reply_clear(&reply);
        return r;
    }
    if (reply.state && reply.state[0] == '\0') {
        free(reply.state); /* libvirt takes "" for none as well */
        reply.state = NULL;
    }
    *ret_reply = reply;
    return 0;
}

/* ---- the exchange ---- */

/* How far an exchange came, for the words of the message. */
enum stage { STAGE_REQUEST, STAGE_CONNECT, STAGE_ANSWER };

struct exchange {
    const struct settings *settings;
    struct vl_msg *request;
    size_t request_len; /* without TIMEOUT_MS */
    int64_t deadline_ms;
    enum stage stage;
};

static int64_t
earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A socket that is not there or refuses is a daemon that is down or restarting: connect_wait. One
 * whose queue is full belongs to a living daemon: as long as the call may take. */
static int
connect_daemon(const struct exchange *x, int *ret_fd)
{
    int64_t wait_ms = (int64_t)x->settings->connect_wait_s * 1000;
    int r;

    for (;;) {
        r = vl_connect(x->settings->socket, earlier(vl_now_ms() + wait_ms, x->deadline_ms), ret_fd);
        if (r != -EAGAIN || vl_now_ms() >= x->deadline_ms)
            return r;
        wait_ms = FULL_QUEUE_WAIT_MS; /* connect_wait may be 0: do not spin */
    }
}

static int
add_timeout(struct exchange *x)
{
    int64_t left = x->deadline_ms - vl_now_ms();

    x->request->len = x->request_len; /* cut off what an earlier attempt added */
    vl_msg_add_u64(x->request, VL_TAG_TIMEOUT_MS, left > 0 ? (uint64_t)left : 0);
    return vl_msg_finish(x->request);
}

static int
talk(struct exchange *x, int fd, struct call_reply *ret_reply)
{
    struct vl_frame frame;
    uint8_t *body = NULL;
    int r;

    r = vl_write_all(fd, x->request->data, x->request->len, x->deadline_ms);
    /* A daemon that closes early may have said why (not permitted, other version). */
    if (r < 0 && r != -ECONNRESET)
        return r;
    r = vl_read_frame(fd, VL_PROTO_REQUEST_MAX, x->deadline_ms, &frame, &body);
    if (r < 0)
        return r;
    r = frame.type == VL_MSG_REPLY ? call_parse_reply(body, frame.length, ret_reply) : -EPROTO;
    free(body);
    return r;
}

static int
exchange_once(struct exchange *x, struct call_reply *ret_reply)
{
    int fd = -1;
    int r;

    x->stage = STAGE_CONNECT;
    r = connect_daemon(x, &fd);
    if (r < 0)
        return r;
    x->stage = STAGE_REQUEST;
    r = add_timeout(x);
    if (r == 0) {
        x->stage = STAGE_ANSWER;
        r = talk(x, fd, ret_reply);
    }
    (void)close(fd); /* here at the latest: in the child it must not reach QEMU's exec */
    return r;
}

/* ---- words ---- */

static void
describe_failure(const struct exchange *x, int error, const char *consequence, char **ret_text)
{
    const char *socket = x->settings->socket;
    const char *why = strerrordesc_np(-error); /* strerror's lock may be held forever in a child */
    int n;

    if (x->stage == STAGE_REQUEST)
        n = asprintf(ret_text, "the request to virtleased cannot be made (%s): %s",
                     error == -EMSGSIZE ? "too many disks, or a name that is too long" : why, consequence);
    else if (x->stage == STAGE_CONNECT)
        n = asprintf(ret_text, "virtleased is not answering on %s (%s): %s", socket,
                     error == -EAGAIN ? "its queue of callers is full" : why, consequence);
    else if (error == -ETIMEDOUT)
        n = asprintf(ret_text, "virtleased on %s gave no answer within %u seconds: %s", socket, x->settings->timeout_s,
                     consequence);
    else if (error == -ECONNRESET)
        n = asprintf(ret_text, "virtleased on %s ended the connection without an answer: %s", socket, consequence);
    else
        n = asprintf(ret_text,
                     "virtleased on %s gave an answer that cannot be understood (%s; are plugin "
                     "and daemon of one version?): %s",
                     socket, why, consequence);
    if (n < 0)
        *ret_text = NULL;
}

static enum vl_error
code_of_failure(const struct exchange *x, int error)
{
    if (error == -ENOMEM)
        return VL_ERR_INTERNAL;
    switch (x->stage) {
    case STAGE_REQUEST:
        return VL_ERR_CONFIG;
    case STAGE_CONNECT:
        return VL_ERR_DAEMON;
    case STAGE_ANSWER:
        break;
    }
    if (error == -ETIMEDOUT)
        return VL_ERR_TIMEOUT;
    return error == -ECONNRESET ? VL_ERR_DAEMON : VL_ERR_PROTOCOL;
}

int64_t
call_deadline(const struct settings *settings)
{
    return vl_now_ms() + (int64_t)settings->timeout_s * 1000;
}

void
call_daemon(const struct settings *settings, int64_t deadline_ms, struct vl_msg *request, const char *consequence,
            struct call_reply *ret_reply)
{
    struct exchange x = {
        .settings = settings,
        .request = request,
        .request_len = request->len,
        .deadline_ms = deadline_ms,
        .stage = STAGE_REQUEST,
    };
    int r;

    *ret_reply = (struct call_reply){.code = VL_ERR_INTERNAL};
    r = request->error;
    if (r == 0)
        r = exchange_once(&x, ret_reply);
    /* A daemon that was restarted in the middle; every request may be repeated. Once, so that a
     * request which crashes it does not do so for ever. */
    if (r == -ECONNRESET && x.stage == STAGE_ANSWER)
        r = exchange_once(&x, ret_reply);
    request->len = x.request_len;
    if (r < 0) {
        ret_reply->code = code_of_failure(&x, r);
        describe_failure(&x, r, consequence, &ret_reply->text);
    }
}

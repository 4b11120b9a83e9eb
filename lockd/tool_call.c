/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/tool_call.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/protocol.h"
#include "lockd/error.h"

enum {
    CONNECT_MS = 1000, /* somebody sits at the keyboard: a missing daemon is said at once */
    FIRST_SIGN_MS = 2000,
    NEXT_SIGN_MS = 5000,
};

/* ---- asking ---- */

static void
set_connect_error(const ToolRequest *request, int r, GError **error)
{
    if ((r == -EACCES || r == -EPERM) && geteuid() != 0)
        vl_set_error(error, VL_ERR_NOT_PERMITTED, "only root may talk to virtleased (socket %s: %s)", request->socket,
                     g_strerror(-r));
    else if (r == -EINVAL || r == -ENAMETOOLONG)
        vl_set_error(error, VL_ERR_DAEMON, "\"%s\" cannot be the path of a socket: %s", request->socket,
                     g_strerror(-r));
    else
        vl_set_error(error, VL_ERR_DAEMON,
                     "virtleased cannot be reached at %s: %s. Start it with 'systemctl start "
                     "virtleased', or say with --socket where it listens",
                     request->socket, g_strerror(-r));
}

static int
connect_daemon(const ToolRequest *request, int64_t deadline_ms, GError **error)
{
    int fd = -1;
    int r = vl_connect(request->socket, MIN(deadline_ms, vl_now_ms() + CONNECT_MS), &fd);
    if (r < 0)
        set_connect_error(request, r, error);
    return fd;
}

static gboolean
send_request(const ToolRequest *request, int fd, int64_t deadline_ms, GError **error)
{
    struct vl_msg msg;
    vl_msg_init(&msg, VL_MSG_CTL, VL_PROTO_REQUEST_MAX);
    vl_msg_add_string(&msg, VL_TAG_VERB, request->verb);
    for (guint i = 0; i < request->args->len; i++)
        vl_msg_add_string(&msg, VL_TAG_ARG, request->args->pdata[i]);
    vl_msg_add_u64(&msg, VL_TAG_TIMEOUT_MS, (uint64_t)MAX(deadline_ms - vl_now_ms(), 1));
    int r = vl_msg_finish(&msg);
    if (r < 0)
        vl_set_error(error, VL_ERR_PROTOCOL, "the request cannot be sent: %s", g_strerror(-r));
    else
        /* A daemon that refuses before it has read anything has closed already; it has answered,
         * too: whatever goes wrong here, the reply says more about it. */
        (void)vl_write_all(fd, msg.data, msg.len, deadline_ms);
    vl_msg_free(&msg);
    return r == 0;
}

/* Until the answer begins to arrive; says on stderr what is waited for, or nobody knows whether it
 * hangs. */
static void
wait_for_answer(const ToolRequest *request, int fd, int64_t began_ms, int64_t deadline_ms)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    int64_t sign_ms = began_ms + FIRST_SIGN_MS;
    for (int64_t now = vl_now_ms(); now < deadline_ms; now = vl_now_ms()) {
        if (now >= sign_ms) {
            fprintf(stderr, "virtleasectl: waiting for virtleased (%d s of at most %u s): %s\n",
                    (int)((now - began_ms) / 1000), request->timeout_s, request->waiting);
            sign_ms += NEXT_SIGN_MS;
        }
        int n = poll(&pfd, 1, (int)(MIN(sign_ms, deadline_ms) - now));
        if (n > 0 || (n < 0 && errno != EINTR))
            return;
    }
}

/* ---- the answer ---- */

static void
set_read_error(const ToolRequest *request, int r, GError **error)
{
    if (r == -ETIMEDOUT)
        vl_set_error(error, VL_ERR_TIMEOUT, "virtleased did not answer within %u s: %s. Its log says what it is doing",
                     request->timeout_s, request->waiting);
    else if (r == -EPROTONOSUPPORT)
        vl_set_error(error, VL_ERR_PROTOCOL,
                     "virtleased at %s speaks another version of the protocol; install tool and "
                     "daemon of one version, and restart the daemon",
                     request->socket);
    else if (r == -EPROTO)
        vl_set_error(error, VL_ERR_PROTOCOL, "what listens at %s does not answer like a virtleased", request->socket);
    else if (r == -EMSGSIZE)
        vl_set_error(error, VL_ERR_PROTOCOL, "virtleased's answer is larger than %u MiB",
                     VL_PROTO_REPLY_MAX / 1024 / 1024);
    else
        vl_set_error(error, VL_ERR_DAEMON, "virtleased went away before it answered (socket %s: %s); its log says why",
                     request->socket, g_strerror(-r));
}

typedef struct {
    gboolean has_code;
    uint64_t code;
    char *text; /* malloc'ed */
    char *json;
} Reply;

static int
decode_field(const struct vl_field *field, Reply *reply)
{
    if (field->tag == VL_TAG_ERROR_CODE) {
        reply->has_code = TRUE;
        return vl_field_u64(field, &reply->code);
    }
    if (field->tag == VL_TAG_ERROR_TEXT && !reply->text)
        return vl_field_string(field, &reply->text);
    if (field->tag == VL_TAG_JSON && !reply->json)
        reply->json = g_strndup((const char *)field->bytes, field->len);
    return 0;
}

/* Takes the JSON out of the reply, or says what it says instead. */
static char *
conclude(const ToolRequest *request, int r, Reply *reply, GError **error)
{
    if (r < 0 || !reply->has_code || reply->code > G_MAXINT || (reply->code == VL_OK && !reply->json))
        set_read_error(request, -EPROTO, error);
    else if (reply->code != VL_OK)
        vl_set_error(error, (enum vl_error)reply->code, "%s",
                     reply->text ? reply->text : "virtleased refused and gave no reason");
    else
        return g_steal_pointer(&reply->json);
    return NULL;
}

static char *
read_answer(const ToolRequest *request, int fd, int64_t deadline_ms, GError **error)
{
    struct vl_frame frame;
    struct vl_reader reader;
    struct vl_field field;
    uint8_t *body;
    Reply reply = {0};
    int r = vl_read_frame(fd, VL_PROTO_REPLY_MAX, deadline_ms, &frame, &body);
    if (r < 0) {
        set_read_error(request, r, error);
        return NULL;
    }
    vl_reader_init(&reader, body, frame.length);
    r = frame.type == VL_MSG_REPLY ? 1 : -EPROTO;
    while (r > 0)
        if ((r = vl_reader_next(&reader, &field)) > 0 && decode_field(&field, &reply) < 0)
            r = -EPROTO;
    char *json = conclude(request, r, &reply, error);
    free(reply.text);
    g_free(reply.json);
    free(body);
    return json;
}

char *
tool_call(const ToolRequest *request, GError **error)
{
    int64_t began_ms = vl_now_ms();
    int64_t deadline_ms = began_ms + (int64_t)request->timeout_s * 1000;
    char *json = NULL;
    int fd = connect_daemon(request, deadline_ms, error);
    if (fd < 0)
        return NULL;
    if (send_request(request, fd, deadline_ms, error)) {
        wait_for_answer(request, fd, began_ms, deadline_ms);
        json = read_answer(request, fd, deadline_ms, error);
    }
    (void)close(fd);
    return json;
}

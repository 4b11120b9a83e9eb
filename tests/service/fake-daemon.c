/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/fake-daemon.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void
daemon_add_want(const struct daemon *daemon, struct vl_msg *msg)
{
    unsigned int want = daemon->connections <= 2 && daemon->connections > 0 ? daemon->want[daemon->connections - 1] : 0;

    if (want == 0)
        return;
    vl_msg_add_u64(msg, VL_TAG_SANLOCK_WANT, want);
    vl_msg_add_string(msg, VL_TAG_SANLOCK_PATH, daemon->killpath);
    vl_msg_add_string(msg, VL_TAG_SANLOCK_ARGS, daemon->killargs);
}

static void
daemon_reply(const struct daemon *daemon, int fd, enum vl_msg_type type, gboolean with_code)
{
    enum vl_error code = daemon->connections > 1 && daemon->later_code ? daemon->later_code : daemon->code;
    struct vl_msg msg;

    vl_msg_init(&msg, type, VL_PROTO_REPLY_MAX);
    vl_msg_add_string(&msg, (enum vl_tag)999, "from the future");
    if (with_code)
        vl_msg_add_u64(&msg, VL_TAG_ERROR_CODE, code);
    vl_msg_add_string(&msg, VL_TAG_ERROR_TEXT, daemon->text);
    vl_msg_add_string(&msg, VL_TAG_STATE, daemon->state);
    daemon_add_want(daemon, &msg);
    if (daemon->json)
        vl_msg_add_bytes(&msg, VL_TAG_JSON, daemon->json, strlen(daemon->json));
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    (void)vl_write_all(fd, msg.data, msg.len, vl_now_ms() + 5000);
    vl_msg_free(&msg);
}

static void
daemon_serve(struct daemon *daemon, int fd, enum behaviour behaviour)
{
    char byte;

    if (behaviour == REFUSE) {
        daemon_reply(daemon, fd, VL_MSG_REPLY, TRUE);
        return;
    }
    free(daemon->body);
    daemon->body = NULL;
    g_assert_cmpint(vl_read_frame(fd, VL_PROTO_REQUEST_MAX, vl_now_ms() + 5000, &daemon->frame, &daemon->body), ==, 0);
    g_usleep(daemon->delay_ms * 1000);
    if (behaviour == ANSWER || behaviour == NO_CODE)
        daemon_reply(daemon, fd, VL_MSG_REPLY, behaviour == ANSWER);
    else if (behaviour == NOT_REPLY)
        daemon_reply(daemon, fd, VL_MSG_CTL, TRUE);
    else if (behaviour == GARBAGE)
        (void)send(fd, "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL);
    else if (behaviour == SAY_NOTHING)
        (void)vl_read_all(fd, &byte, 1, vl_now_ms() + 20000); /* until the plugin gives up */
}

static gpointer
daemon_run(gpointer data)
{
    struct daemon *daemon = data;
    int fd;

    while ((fd = accept4(daemon->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        unsigned int index = MIN(daemon->connections, G_N_ELEMENTS(daemon->script) - 1);

        daemon->connections++; /* before the answer, after which the test looks at it */
        daemon_serve(daemon, fd, daemon->script[index]);
        close(fd);
    }
    return NULL;
}

void
daemon_start(struct daemon *daemon)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    g_strlcpy(address.sun_path, daemon->socket, sizeof(address.sun_path));
    daemon->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(daemon->fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(daemon->fd, 64), ==, 0);
    daemon->thread = g_thread_new("daemon", daemon_run, daemon);
}

void
daemon_stop(struct daemon *daemon)
{
    if (daemon->thread) {
        shutdown(daemon->fd, SHUT_RDWR);
        g_thread_join(daemon->thread);
        close(daemon->fd);
    }
    free(daemon->body);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/server.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/request.h"

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define CONNECTIONS_MAX 512
#define BACKLOG         512
#define READ_MS         5000 /* for a whole request to arrive */
#define WRITE_MS        5000

struct VlServer {
    VlDaemon *daemon;
    int fd;
    guint source;
    GThreadPool *pool;
    gint running; /* atomic */
    char *unlink; /* path we made, or NULL */
};

static void
send_reply(int fd, struct vl_msg *reply)
{
    int r = vl_msg_finish(reply);
    if (r == 0)
        r = vl_write_all(fd, reply->data, reply->len, vl_now_ms() + WRITE_MS);
    if (r < 0)
        g_info("a reply could not be sent: %s", g_strerror(-r));
}

static void
refuse(int fd, enum vl_error code, const char *text)
{
    struct vl_msg reply;
    vl_msg_init(&reply, VL_MSG_REPLY, VL_PROTO_REPLY_MAX);
    vl_msg_add_u64(&reply, VL_TAG_ERROR_CODE, code);
    vl_msg_add_text(&reply, VL_TAG_ERROR_TEXT, text);
    send_reply(fd, &reply);
    vl_msg_free(&reply);
}

static void
serve(gpointer data, gpointer opaque)
{
    int fd = GPOINTER_TO_INT(data) - 1;
    VlServer *server = opaque;
    struct ucred peer = {0};
    socklen_t size = sizeof(peer);
    struct vl_frame frame;
    uint8_t *body = NULL;
    int r;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0) {
        g_warning("a process of user %u (pid %d) tried to talk to us: refused", peer.uid, peer.pid);
        refuse(fd, VL_ERR_NOT_PERMITTED, "only root may talk to virtleased");
    } else if ((r = vl_read_frame(fd, VL_PROTO_REQUEST_MAX, vl_now_ms() + READ_MS, &frame, &body)) < 0) {
        g_autofree char *text = g_strdup_printf("request not understood: %s", g_strerror(-r));
        g_warning("pid %d: %s", peer.pid, text);
        refuse(fd, VL_ERR_PROTOCOL, text);
    } else {
        VlIncoming incoming = {frame.type, body, frame.length, peer.pid, fd};
        struct vl_msg reply;
        vl_request_run(server->daemon, &incoming, &reply);
        send_reply(fd, &reply);
        vl_msg_free(&reply);
    }
    free(body);
    close(fd);
    g_atomic_int_add(&server->running, -1);
}

static gboolean
on_connection(gint fd, GIOCondition condition, gpointer data)
{
    VlServer *server = data;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return G_SOURCE_CONTINUE;
    if (g_atomic_int_add(&server->running, 1) >= CONNECTIONS_MAX) {
        g_atomic_int_add(&server->running, -1);
        refuse(client, VL_ERR_TIMEOUT, "virtleased is serving its maximum of requests; try again");
        close(client);
        return G_SOURCE_CONTINUE;
    }
    g_thread_pool_push(server->pool, GINT_TO_POINTER(client + 1), NULL); /* a pool takes no NULL */
    return G_SOURCE_CONTINUE;
}

/* ---- binding ---- */

static int
passed_by_systemd(void)
{
#ifdef HAVE_SYSTEMD
    if (sd_listen_fds(1) == 1 && sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) > 0)
        return SD_LISTEN_FDS_START;
#endif
    return -1;
}

static int
bind_path(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        vl_set_error(error, VL_ERR_CONFIG, "socket \"%s\": a socket path has at most %zu characters", path,
                     sizeof(address.sun_path) - 1);
        return -1;
    }
    strcpy(address.sun_path, path); /* length checked above */
    g_autofree char *dir = g_path_get_dirname(path);
    (void)g_mkdir_with_parents(dir, 0755);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)g_unlink(path); /* the journal's lock keeps a second daemon out */
    mode_t mask = umask(0177);
    int r = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof(address));
    int saved = errno;
    umask(mask);
    if (r == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    vl_set_error(error, VL_ERR_CONFIG, "socket \"%s\" cannot be bound: %s", path, g_strerror(r < 0 ? saved : errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

VlServer *
vl_server_new(VlDaemon *daemon, GError **error)
{
    VlServer *server = g_new0(VlServer, 1);
    server->daemon = daemon;
    server->fd = passed_by_systemd();
    if (server->fd < 0) {
        server->fd = bind_path(daemon->settings->socket, error);
        server->unlink = g_strdup(daemon->settings->socket);
    }
    if (server->fd < 0) {
        g_free(server->unlink);
        g_free(server);
        return NULL;
    }
    server->pool = g_thread_pool_new(serve, server, CONNECTIONS_MAX, FALSE, NULL);
    server->source = g_unix_fd_add(server->fd, G_IO_IN, on_connection, server);
    return server;
}

void
vl_server_stop(VlServer *server, guint wait_s)
{
    gint64 until = g_get_monotonic_time() + (gint64)wait_s * G_USEC_PER_SEC;
    g_source_remove(server->source);
    if (server->unlink)
        (void)g_unlink(server->unlink);
    close(server->fd);
    while (g_atomic_int_get(&server->running) > 0 && g_get_monotonic_time() < until)
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(10 * 1000);
    if (g_atomic_int_get(&server->running) > 0)
        g_warning("%d request(s) are still running; leaving them", g_atomic_int_get(&server->running));
    else
        g_thread_pool_free(server->pool, FALSE, TRUE);
    g_free(server->unlink);
}

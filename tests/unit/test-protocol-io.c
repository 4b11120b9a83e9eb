/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The part of common/protocol.h that waits: deadlines kept, descriptors closed.
 */
#include "common/protocol.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned int
count_fds(void)
{
    unsigned int count = 0;
    DIR *dir = opendir("/proc/self/fd");

    g_assert_nonnull(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void
build_sample(struct vl_msg *msg)
{
    vl_msg_init(msg, VL_MSG_ACQUIRE, VL_PROTO_REQUEST_MAX);
    vl_msg_add_string(msg, VL_TAG_NAME, "a name that makes the body longer than 32 bytes");
    vl_msg_add_u64(msg, VL_TAG_TIMEOUT_MS, 40000);
}

/* ---- sockets ---- */

struct pair {
    int ours, theirs;
    unsigned int fds;
};

static void
pair_open(struct pair *pair, gconstpointer data)
{
    int fds[2];

    pair->fds = count_fds();
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    pair->ours = fds[0];
    pair->theirs = fds[1];
}

static void
pair_close(struct pair *pair, gconstpointer data)
{
    close(pair->ours);
    if (pair->theirs >= 0)
        close(pair->theirs);
    g_assert_cmpuint(count_fds(), ==, pair->fds);
}

/* Between `least` and a generous margin above it. */
static void
assert_took(int64_t start, int64_t least)
{
    g_assert_cmpint(vl_now_ms() - start, >=, least - 1);
    g_assert_cmpint(vl_now_ms() - start, <, least + 2000);
}

static void
test_frame_over_socket(struct pair *pair, gconstpointer data)
{
    struct vl_msg msg;
    struct vl_frame frame;
    uint8_t *body = NULL;
    int64_t deadline = vl_now_ms() + 5000;

    build_sample(&msg);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    g_assert_cmpint(vl_write_all(pair->theirs, msg.data, msg.len, deadline), ==, 0);
    g_assert_cmpint(vl_read_frame(pair->ours, 4096, deadline, &frame, &body), ==, 0);
    g_assert_cmpmem(body, frame.length, msg.data + VL_PROTO_HEADER_SIZE, msg.len - VL_PROTO_HEADER_SIZE);
    free(body);
    vl_msg_free(&msg);

    vl_msg_init(&msg, VL_MSG_REPLY, 0); /* an empty body is a body */
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    g_assert_cmpint(vl_write_all(pair->theirs, msg.data, msg.len, deadline), ==, 0);
    g_assert_cmpint(vl_read_frame(pair->ours, 4096, deadline, &frame, &body), ==, 0);
    g_assert_cmpuint(frame.length, ==, 0);
    g_assert_nonnull(body);
    free(body);
    vl_msg_free(&msg);
}

static void
test_frame_cut_off(struct pair *pair, gconstpointer data)
{
    struct vl_msg msg;
    struct vl_frame frame;
    uint8_t *body = NULL;
    int64_t deadline = vl_now_ms() + 5000;

    build_sample(&msg);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    g_assert_cmpint(vl_write_all(pair->theirs, msg.data, msg.len - 1, deadline), ==, 0);
    close(pair->theirs);
    pair->theirs = -1;
    g_assert_cmpint(vl_read_frame(pair->ours, 4096, deadline, &frame, &body), ==, -ECONNRESET);
    g_assert_null(body);
    vl_msg_free(&msg);
}

static void
test_frame_too_long(struct pair *pair, gconstpointer data)
{
    struct vl_msg msg;
    struct vl_frame frame;
    uint8_t *body = NULL;
    int64_t deadline = vl_now_ms() + 5000;

    build_sample(&msg);
    g_assert_cmpint(vl_msg_finish(&msg), ==, 0);
    g_assert_cmpint(vl_write_all(pair->theirs, msg.data, msg.len, deadline), ==, 0);
    g_assert_cmpint(vl_read_frame(pair->ours, 32, deadline, &frame, &body), ==, -EMSGSIZE);
    g_assert_null(body);
    vl_msg_free(&msg);
}

static void
test_silent_peer(struct pair *pair, gconstpointer data)
{
    char bytes[4];
    int64_t start = vl_now_ms();

    g_assert_cmpint(vl_read_all(pair->ours, bytes, 4, start + 150), ==, -ETIMEDOUT);
    assert_took(start, 150);
    g_assert_cmpint(vl_read_all(pair->ours, bytes, 4, start), ==, -ETIMEDOUT);
    g_assert_cmpint(vl_read_all(pair->ours, bytes, 0, start), ==, 0);
}

static gpointer
drip(gpointer data)
{
    int fd = GPOINTER_TO_INT(data);

    while (send(fd, "x", 1, MSG_NOSIGNAL) == 1)
        g_usleep(20 * 1000);
    return NULL;
}

/* A peer that sends a byte now and then does not stretch the deadline. */
static void
test_dripping_peer(struct pair *pair, gconstpointer data)
{
    char bytes[4096];
    int64_t start = vl_now_ms();
    GThread *thread = g_thread_new("drip", drip, GINT_TO_POINTER(pair->theirs));

    g_assert_cmpint(vl_read_all(pair->ours, bytes, sizeof(bytes), start + 200), ==, -ETIMEDOUT);
    assert_took(start, 200);
    shutdown(pair->ours, SHUT_RDWR);
    g_thread_join(thread);
}

static void
test_peer_reads_nothing(struct pair *pair, gconstpointer data)
{
    size_t len = 8 * 1024 * 1024;
    g_autofree char *bytes = g_malloc0(len);
    int64_t start = vl_now_ms();

    g_assert_cmpint(vl_write_all(pair->ours, bytes, len, start + 150), ==, -ETIMEDOUT);
    assert_took(start, 150);
}

static void
test_write_to_closed(struct pair *pair, gconstpointer data)
{
    close(pair->theirs);
    pair->theirs = -1;
    g_assert_cmpint(vl_write_all(pair->ours, "x", 1, vl_now_ms() + 1000), ==, -ECONNRESET);
}

/* ---- connect ---- */

struct listener {
    char *dir, *path;
    int fd;
    unsigned int fds;
};

static void
listener_start(struct listener *listener, int backlog)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    g_strlcpy(address.sun_path, listener->path, sizeof(address.sun_path));
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listener->fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(listener->fd, backlog), ==, 0);
}

static void
listener_new(struct listener *listener, gconstpointer data)
{
    listener->dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    listener->path = g_build_filename(listener->dir, "s", NULL);
    listener->fd = -1;
    listener->fds = count_fds();
}

static void
listener_free(struct listener *listener, gconstpointer data)
{
    if (listener->fd >= 0)
        close(listener->fd);
    g_assert_cmpuint(count_fds(), ==, listener->fds);
    g_unlink(listener->path);
    g_assert_cmpint(g_rmdir(listener->dir), ==, 0);
    g_free(listener->path);
    g_free(listener->dir);
}

static void
test_connect(struct listener *listener, gconstpointer data)
{
    int fd = -1;

    listener_start(listener, 1);
    g_assert_cmpint(vl_connect(listener->path, vl_now_ms() + 1000, &fd), ==, 0);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
    g_assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    close(fd);
}

static void
test_connect_nobody(struct listener *listener, gconstpointer data)
{
    int64_t start = vl_now_ms();
    int fd = 42;

    g_assert_cmpint(vl_connect(listener->path, start + 250, &fd), ==, -ENOENT);
    assert_took(start, 250);
    g_assert_cmpint(vl_connect(listener->path, start, &fd), ==, -ENOENT); /* one try at least */
    listener_start(listener, 1);
    close(listener->fd);
    listener->fd = -1;
    start = vl_now_ms();
    g_assert_cmpint(vl_connect(listener->path, start + 150, &fd), ==, -ECONNREFUSED);
    assert_took(start, 150);
    g_assert_cmpint(fd, ==, 42);
}

static void
test_connect_full_backlog(struct listener *listener, gconstpointer data)
{
    int64_t start;
    int fds[8], count = 0, fd = 42, r;

    listener_start(listener, 0);
    while ((r = vl_connect(listener->path, 0, &fds[count])) == 0)
        g_assert_cmpint(++count, <, 8);
    g_assert_cmpint(r, ==, -EAGAIN);
    start = vl_now_ms();
    g_assert_cmpint(vl_connect(listener->path, start + 150, &fd), ==, -EAGAIN);
    assert_took(start, 150);
    while (count > 0)
        close(fds[--count]);
}

static gpointer
listen_later(gpointer data)
{
    g_usleep(300 * 1000);
    listener_start(data, 1);
    return NULL;
}

static void
test_connect_late_socket(struct listener *listener, gconstpointer data)
{
    GThread *thread = g_thread_new("late", listen_later, listener);
    int64_t start = vl_now_ms();
    int fd = -1;

    g_assert_cmpint(vl_connect(listener->path, start + 10000, &fd), ==, 0);
    assert_took(start, 250);
    g_thread_join(thread);
    close(fd);
}

static void
test_connect_bad_path(struct listener *listener, gconstpointer data)
{
    g_autofree char *longer = g_strnfill(108, 'x');
    g_autofree char *below_file = g_build_filename(listener->path, "s", NULL);
    int64_t start = vl_now_ms();
    int fd = -1;

    g_assert_cmpint(vl_connect("", start + 5000, &fd), ==, -EINVAL);
    g_assert_cmpint(vl_connect(longer, start + 5000, &fd), ==, -ENAMETOOLONG);
    g_assert_true(g_file_set_contents(listener->path, "", 0, NULL));
    g_assert_cmpint(vl_connect(below_file, start + 5000, &fd), ==, -ENOTDIR);
    assert_took(start, 0); /* what waiting does not cure is not waited for */
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define PAIR(name, function) g_test_add("/protocol/socket/" name, struct pair, NULL, pair_open, function, pair_close)
#define LISTENER(name, function)                                                                                       \
    g_test_add("/protocol/connect/" name, struct listener, NULL, listener_new, function, listener_free)
    PAIR("frame", test_frame_over_socket);
    PAIR("cut-off", test_frame_cut_off);
    PAIR("too-long", test_frame_too_long);
    PAIR("silent-peer", test_silent_peer);
    PAIR("dripping-peer", test_dripping_peer);
    PAIR("peer-reads-nothing", test_peer_reads_nothing);
    PAIR("write-to-closed", test_write_to_closed);
    LISTENER("works", test_connect);
    LISTENER("nobody", test_connect_nobody);
    LISTENER("full-backlog", test_connect_full_backlog);
    LISTENER("late-socket", test_connect_late_socket);
    LISTENER("bad-path", test_connect_bad_path);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/fake-sanlock.h"

#include <errno.h>
#include <stdint.h>
#include <sanlock.h> /* wants stdint.h first */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* libsanlock's wire format as far as needed: requests and answers begin with eight numbers. */
enum { HEADER_WORDS = 8, WORD_RESULT = 6, KILLPATH_BYTES = SANLK_HELPER_PATH_LEN + SANLK_HELPER_ARGS_LEN };

static gboolean
hear(struct fake_sanlock *sanlock, int fd, size_t len)
{
    char bytes[512];

    g_assert_cmpuint(len, <=, sizeof(bytes));
    if (recv(fd, bytes, len, MSG_WAITALL) != (ssize_t)len)
        return FALSE;
    for (size_t i = 0; i < len; i++)
        g_string_append_c(sanlock->heard, bytes[i] != '\0' ? bytes[i] : '.');
    return TRUE;
}

static void
say(int fd, int result)
{
    int32_t words[HEADER_WORDS] = {0};

    words[WORD_RESULT] = result;
    (void)send(fd, words, sizeof(words), MSG_NOSIGNAL);
}

static void
converse(struct fake_sanlock *sanlock, int fd)
{
    const size_t header = HEADER_WORDS * sizeof(int32_t);
    int result = sanlock->mood == REFUSING && sanlock->connections > 1 ? -ENOMEM : 0;

    if (!hear(sanlock, fd, header) || !hear(sanlock, fd, header + KILLPATH_BYTES)) /* register, killpath */
        return;
    say(fd, result);
    if (hear(sanlock, fd, header)) /* restrict */
        say(fd, result);
}

static gpointer
run(gpointer data)
{
    struct fake_sanlock *sanlock = data;
    int fd;

    while ((fd = accept4(sanlock->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        sanlock->connections++;
        if (sanlock->mood == LEAVING) {
            close(fd);
            continue;
        }
        if (sanlock->mood != SILENT)
            converse(sanlock, fd);
        g_assert_cmpuint(sanlock->nothers, <, G_N_ELEMENTS(sanlock->others));
        sanlock->others[sanlock->nothers++] = fd;
    }
    return NULL;
}

static void
fill_queue(struct fake_sanlock *sanlock, const struct sockaddr_un *address)
{
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        g_assert_cmpuint(sanlock->nothers, <, G_N_ELEMENTS(sanlock->others));
        sanlock->others[sanlock->nothers++] = fd;
        if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
            break;
    }
    g_assert_cmpint(errno, ==, EAGAIN);
}

void
fake_sanlock_start(struct fake_sanlock *sanlock, const char *run_dir, enum mood mood)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *sanlock = (struct fake_sanlock){.mood = mood, .heard = g_string_new("")};
    g_snprintf(address.sun_path, sizeof(address.sun_path), "%s/sanlock.sock", run_dir);
    sanlock->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(sanlock->fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(sanlock->fd, 5), ==, 0); /* sanlock's own number */
    if (mood == STUCK)
        fill_queue(sanlock, &address);
    else
        sanlock->thread = g_thread_new("sanlock", run, sanlock);
}

void
fake_sanlock_stop(struct fake_sanlock *sanlock)
{
    if (!sanlock->heard)
        return;
    shutdown(sanlock->fd, SHUT_RDWR);
    if (sanlock->thread)
        g_thread_join(sanlock->thread);
    close(sanlock->fd);
    while (sanlock->nothers > 0)
        close(sanlock->others[--sanlock->nothers]);
    g_string_free(sanlock->heard, TRUE);
}

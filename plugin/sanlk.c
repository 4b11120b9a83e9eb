/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libsanlock_client has no timeouts of its own: its connect() waits while sanlock's backlog of 5 is
 * full (sanlock stopped, or starved), its recv() as long as sanlock takes, its send() raises SIGPIPE.
 * connect() can only be ended by a signal, because the socket is the library's until it is connected;
 * send() and recv() only by timeouts on the socket, because the library repeats them after a signal.
 */
#include "plugin/sanlk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sanlock.h>
#include <sanlock_resource.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static_assert(VL_SANLOCK_STRING_MAX == SANLK_HELPER_PATH_LEN - 2, "sanlock_killpath() cuts off one more than it must");
static_assert(VL_SANLOCK_STRING_MAX == SANLK_HELPER_ARGS_LEN - 2, "likewise");

enum {
    WAIT_MS = 5000,        /* all connections together: the rest of the call's time is virtleased's */
    ALARM_REPEAT_MS = 100, /* a signal between a look at the clock and connect() is lost */
};

/* From here on sanlock takes no command over these connections, neither from a QEMU that was broken
 * into (which could format leases) nor from virtleased over a copy of the descriptor: virtleased acts
 * by (-1, pid). Must be the last command: sanlock 3.8.5 does not refuse the next one, it hangs, and a
 * sanlock_acquire() stops its whole main loop. Signals are not restricted: a QEMU whose leases are
 * lost has to die. The answer also proves that sanlock has dealt with the registration. */
static const uint32_t RESTRICT_FLAGS = SANLK_RESTRICT_ALL;

/* ---- signals: undone before return, or QEMU would inherit them ---- */

struct pipe_signal {
    sigset_t old_mask;
    bool was_pending;
};

static void
only(int number, sigset_t *ret_set)
{
    sigemptyset(ret_set);
    sigaddset(ret_set, number);
}

static void
hold_back_sigpipe(struct pipe_signal *ret_saved)
{
    sigset_t set;

    sigpending(&set);
    ret_saved->was_pending = sigismember(&set, SIGPIPE);
    only(SIGPIPE, &set);
    pthread_sigmask(SIG_BLOCK, &set, &ret_saved->old_mask);
}

static void
give_back_sigpipe(const struct pipe_signal *saved)
{
    const struct timespec at_once = {.tv_sec = 0};
    sigset_t set;

    only(SIGPIPE, &set);
    if (!saved->was_pending) {
        while (sigtimedwait(&set, NULL, &at_once) < 0 && errno == EINTR)
            ;
    }
    pthread_sigmask(SIG_SETMASK, &saved->old_mask, NULL);
}

static void
wake_up(int number)
{
}

static struct timespec
timespec_of_ms(int64_t ms)
{
    return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
}

struct alarm {
    timer_t timer;
    struct sigaction old_action;
    sigset_t old_mask;
};

/* Interrupts this thread's system calls from deadline_ms on. A POSIX timer and not alarm(), because
 * exec ends it: a child that dies or execs on another way takes no alarm along into QEMU. */
static int
alarm_begin(int64_t deadline_ms, struct alarm *ret_alarm)
{
    const struct sigaction action = {.sa_handler = wake_up}; /* no SA_RESTART */
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    struct itimerspec when = {
        .it_value = timespec_of_ms(deadline_ms),
        .it_interval = timespec_of_ms(ALARM_REPEAT_MS),
    };
    sigset_t set;

    event._sigev_un._tid = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &ret_alarm->timer) < 0)
        return -errno;
    only(SIGALRM, &set);
    sigaction(SIGALRM, &action, &ret_alarm->old_action);
    pthread_sigmask(SIG_UNBLOCK, &set, &ret_alarm->old_mask);
    timer_settime(ret_alarm->timer, TIMER_ABSTIME, &when, NULL);
    return 0;
}

/* The timer first: once it is deleted, its last signal has been delivered to the empty handler. */
static void
alarm_end(const struct alarm *alarm)
{
    timer_delete(alarm->timer);
    pthread_sigmask(SIG_SETMASK, &alarm->old_mask, NULL);
    sigaction(SIGALRM, &alarm->old_action, NULL);
}

/* ---- one connection ---- */

static int
connect_and_register(int64_t deadline_ms)
{
    struct alarm alarm;
    int r;

    r = alarm_begin(deadline_ms, &alarm);
    if (r < 0)
        return r;
    do
        r = sanlock_register();
    while (r == -EINTR && vl_now_ms() < deadline_ms); /* somebody else's signal */
    alarm_end(&alarm);
    return r == -EINTR ? -ETIMEDOUT : r;
}

static int
set_timeouts(int fd, const struct timeval *timeout)
{
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, timeout, sizeof(*timeout)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, timeout, sizeof(*timeout)) < 0)
        return -errno;
    return 0;
}

static int
limit_time(int fd, int64_t deadline_ms)
{
    int64_t left = deadline_ms - vl_now_ms();
    const struct timeval timeout = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};

    return left > 0 ? set_timeouts(fd, &timeout) : -ETIMEDOUT; /* {0, 0} would mean for ever */
}

/* The sanlock of these years answers with -1 for a closed connection, which is no -EPERM, and passes
 * on the EAGAIN of a timeout. */
static int
answer(int r)
{
    if (r == -EAGAIN)
        return -ETIMEDOUT;
    return r == -1 || r == -EPIPE ? -ECONNRESET : r;
}

static int
introduce(int fd, const char *path, char *args, int64_t deadline_ms)
{
    const struct timeval forever = {.tv_sec = 0};
    char none[] = "";
    int r = 0;

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    if (path) {
        r = limit_time(fd, deadline_ms);
        /* Without SANLK_KILLPATH_PID: virtleased writes into the arguments what its program needs. */
        if (r == 0)
            r = answer(sanlock_killpath(fd, 0, path, args ? args : none));
    }
    if (r == 0)
        r = limit_time(fd, deadline_ms);
    if (r == 0)
        r = answer(sanlock_restrict(fd, RESTRICT_FLAGS));
    /* The timeouts belong to the socket, whoever has a copy of it. Cleared now: virtleased sets its own. */
    if (r == 0)
        r = set_timeouts(fd, &forever);
    return r;
}

/* ---- words ---- */

/* As the library finds it. */
static const char *
run_dir(void)
{
    const char *dir = getenv("SANLOCK_RUN_DIR");

    return dir ? dir : "/run/sanlock";
}

static void
describe(int r, char error[SANLK_ERROR_SIZE])
{
    const char *why = r <= -200 ? sanlock_strerror(r) : strerrordesc_np(-r); /* strerror may lock */
    const char *what = "the VM's process cannot register with sanlock";

    if (r == -ENOENT || r == -ECONNREFUSED)
        what = "sanlock is not running on this host";
    else if (r == -ETIMEDOUT)
        what = "sanlock does not answer: it is stopped, overloaded, or has too many clients";
    else if (r == -ECONNRESET)
        what = "sanlock ended the connection: see its log";
    snprintf(error, SANLK_ERROR_SIZE, "%s (%s/sanlock.sock: %s)", what, run_dir(), why ? why : "unknown error");
}

/* ---- all of them ---- */

static int
register_all(size_t want, const char *path, char *args, int64_t deadline_ms, struct sanlk *sanlk)
{
    while (sanlk->count < want) {
        int fd = connect_and_register(deadline_ms);
        int r;

        if (fd < 0)
            return answer(fd);
        sanlk->fds[sanlk->count++] = fd; /* before anything can fail, so that it is closed then */
        r = introduce(fd, path, args, deadline_ms);
        if (r < 0)
            return r;
    }
    return 0;
}

int
sanlk_register(size_t want, const char *path, char *args, int64_t deadline_ms, struct sanlk *ret_sanlk,
               char error[SANLK_ERROR_SIZE])
{
    int64_t latest_ms = vl_now_ms() + WAIT_MS;
    struct pipe_signal saved;
    int r;

    *ret_sanlk = (struct sanlk){.count = 0};
    hold_back_sigpipe(&saved);
    r = register_all(want, path, args, deadline_ms < latest_ms ? deadline_ms : latest_ms, ret_sanlk);
    give_back_sigpipe(&saved);
    if (r < 0) {
        describe(r, error);
        sanlk_close(ret_sanlk);
    }
    return r;
}

/* The one place where descriptors are meant to survive exec: sanlock holds the VM's leases as long as
 * QEMU lives, that is until the kernel closes these. libvirt closes nothing between its hook and exec. */
int
sanlk_leave_to_qemu(const struct sanlk *sanlk)
{
    for (size_t i = 0; i < sanlk->count; i++)
        if (fcntl(sanlk->fds[i], F_SETFD, 0) < 0)
            return -errno;
    return 0;
}

void
sanlk_close(struct sanlk *sanlk)
{
    while (sanlk->count > 0)
        (void)close(sanlk->fds[--sanlk->count]);
}

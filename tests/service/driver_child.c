/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/driver.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child tells its parent through a pipe: after the lock driver has answered, and once more
 * if exec failed. */
struct report {
    int r, code, fd;
    int new_fds; /* descriptors open after the calls that were not before */
    int64_t us;
    char text[4096];
};

static int held_child = -1; /* write end of the pipe on which a held child waits */

static int
count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

/* The calls of libvirt's qemuProcessHook, which runs in the child before exec with paused = true.
 */
static void
hook(int action, struct report *report)
{
    const unsigned int flags = VIR_LOCK_MANAGER_ACQUIRE_REGISTER_ONLY | VIR_LOCK_MANAGER_ACQUIRE_RESTRICT;
    struct vir_lock_manager man;
    int before = count_fds();
    int64_t start = now_us();

    report->fd = -1;
    vm.pid = getpid();
    report->r = new_manager_with_resources(&man, VIR_LOCK_MANAGER_NEW_STARTED);
    if (report->r == 0) {
        report->r = driver->drvAcquire(&man, NULL, flags, action, &report->fd);
        driver->drvFree(&man);
    }
    report->us = now_us() - start;
    report->new_fds = count_fds() - before;
    if (report->r < 0) {
        complete_error();
        report->code = error_code;
        g_strlcpy(report->text, error_text, sizeof(report->text));
    }
}

static void
send_report(int fd, const struct report *report)
{
    if (write(fd, report, sizeof(*report)) != sizeof(*report))
        _exit(125);
}

G_GNUC_NORETURN static void
child(char **argv, int action, int report_fd, int go_fd)
{
    struct report report = {.r = 0};
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    dup2(STDERR_FILENO, STDOUT_FILENO);
    dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
    hook(action, &report);
    send_report(report_fd, &report);
    if (report.r < 0)
        _exit(126);
    if (go_fd >= 0 && read(go_fd, &byte, 1) != 1)
        _exit(125);
    execvp(argv[0], argv);
    report = (struct report){.r = -1};
    g_snprintf(report.text, sizeof(report.text), "%s: %s", argv[0], g_strerror(errno));
    send_report(report_fd, &report);
    _exit(127);
}

static gboolean
read_report(int fd, struct report *report)
{
    return read(fd, report, sizeof(*report)) == sizeof(*report);
}

static void
release_held_child(void)
{
    if (held_child >= 0)
        close(held_child);
    held_child = -1;
}

static void
answer_spawn(pid_t pid, int report_fd, gboolean hold)
{
    struct report report, failed;

    if (!read_report(report_fd, &report)) {
        answer_error(0, 0, "the child died before it could report");
    } else if (report.r < 0) {
        release_held_child();
        answer_error(report.code, report.us, report.text);
        waitpid(pid, NULL, 0);
    } else if (!hold && read_report(report_fd, &failed)) { /* EOF: exec closed it */
        answer_error(0, report.us, failed.text);
        waitpid(pid, NULL, 0);
    } else {
        vm.pid = pid;
        answer_ok(report.us, " pid=%d fd=%d newfds=%d", (int)pid, report.fd, report.new_fds);
    }
}

struct spawn {
    char **argv; /* empty: bad command */
    gboolean hold;
    int action;
};

static struct spawn
parse_spawn(char **words)
{
    struct spawn spawn = {.argv = words + 1};

    for (;; spawn.argv++) {
        if (g_strcmp0(spawn.argv[0], "--hold") == 0)
            spawn.hold = TRUE;
        else if (g_strcmp0(spawn.argv[0], "--action") == 0 && spawn.argv[1])
            spawn.action = atoi(*++spawn.argv);
        else
            return spawn;
    }
}

gboolean
cmd_spawn(char **words, int count)
{
    struct spawn spawn = parse_spawn(words);
    int reports[2], gos[2];
    pid_t pid;

    if (!spawn.argv[0] || held_child >= 0 || pipe2(reports, O_CLOEXEC) < 0 || pipe2(gos, O_CLOEXEC) < 0)
        return FALSE;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(gos[1]); /* or our own copy would keep the pipe open */
        child(spawn.argv, spawn.action, reports[1], spawn.hold ? gos[0] : -1);
    }
    close(reports[1]);
    close(gos[0]);
    held_child = gos[1];
    if (pid < 0)
        answer_error(0, 0, g_strerror(errno));
    else
        answer_spawn(pid, reports[0], spawn.hold);
    close(reports[0]);
    if (!spawn.hold)
        release_held_child();
    return TRUE;
}

gboolean
cmd_go(char **words, int count)
{
    if (held_child < 0 || write(held_child, "g", 1) != 1)
        return FALSE;
    release_held_child();
    answer_ok(0, "%s", "");
    return TRUE;
}

static gboolean
wait_for_exit(pid_t pid, int timeout_ms)
{
    struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    int n;

    if (pfd.fd < 0)
        return TRUE; /* waitpid knows */
    n = poll(&pfd, 1, timeout_ms);
    close(pfd.fd);
    return n > 0;
}

gboolean
cmd_wait(char **words, int count)
{
    int64_t start = now_us();
    int status;

    if (count != 3)
        return FALSE;
    if (!wait_for_exit(atoi(words[1]), atoi(words[2])))
        answer_error(0, now_us() - start, "still running");
    else if (waitpid(atoi(words[1]), &status, 0) < 0)
        answer_error(0, now_us() - start, g_strerror(errno));
    else if (WIFSIGNALED(status))
        answer_ok(now_us() - start, " signal=%d", WTERMSIG(status));
    else
        answer_ok(now_us() - start, " exit=%d", WEXITSTATUS(status));
    return TRUE;
}

gboolean
cmd_kill(char **words, int count)
{
    int64_t start = now_us();

    if (count != 3 || atoi(words[1]) <= 0)
        return FALSE;
    if (kill(atoi(words[1]), atoi(words[2])) < 0)
        answer_error(0, now_us() - start, g_strerror(errno));
    else
        answer_ok(now_us() - start, "%s", "");
    return TRUE;
}

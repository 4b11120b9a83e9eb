/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/vm-child.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/protocol.h"
#include "tests/service/driver.h"

static void append(char *text, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
append(char *text, const char *format, ...)
{
    size_t len = strlen(text);
    va_list args;

    va_start(args, format);
    g_vsnprintf(text + len, CHILD_TEXT_MAX - len, format, args);
    va_end(args);
}

static void
append_file(char *text, const char *path)
{
    size_t len = strlen(text);
    int fd = open(path, O_RDONLY | O_CLOEXEC); /* absent where the kernel was built without */
    ssize_t n = fd >= 0 ? read(fd, text + len, CHILD_TEXT_MAX - len - 1) : 0;

    text[len + (n > 0 ? (size_t)n : 0)] = '\0';
    if (fd >= 0)
        close(fd);
}

static void
append_set(char *text, const char *name, const sigset_t *set)
{
    append(text, "%s:", name);
    for (int i = 1; i < NSIG; i++)
        if (sigismember(set, i) == 1)
            append(text, " %d", i);
    append(text, "\n");
}

static void
describe_legacy(struct legacy *legacy)
{
    struct itimerval timer;
    sigset_t set;

    *legacy = (struct legacy){.signals = ""};
    for (int i = 1; i < NSIG; i++) {
        struct sigaction action;

        if (sigaction(i, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
            append(legacy->signals, "%d: %p %x\n", i, (void *)(uintptr_t)action.sa_handler, (unsigned)action.sa_flags);
    }
    sigprocmask(SIG_BLOCK, NULL, &set);
    append_set(legacy->signals, "blocked", &set);
    sigpending(&set);
    append_set(legacy->signals, "pending", &set);
    getitimer(ITIMER_REAL, &timer);
    append(legacy->signals, "alarm: %ld\n", (long)(timer.it_value.tv_sec + timer.it_value.tv_usec));
    append_file(legacy->signals, "/proc/self/timers");
    for (int fd = 0; fd < CHILD_FDS_MAX; fd++) {
        int flags = fcntl(fd, F_GETFD);

        legacy->fds[fd] = '.';
        if (flags >= 0)
            legacy->fds[fd] = flags & FD_CLOEXEC ? 'c' : 'k';
    }
}

/* As libvirt leaves them, or at their oddest. */
static void
prepare_signals(gboolean odd)
{
    sigset_t set;

    sigemptyset(&set);
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    if (odd) {
        signal(SIGALRM, SIG_IGN);
        sigaddset(&set, SIGALRM);
        sigaddset(&set, SIGPIPE);
    }
    sigprocmask(SIG_SETMASK, &set, NULL);
}

G_GNUC_NORETURN static void
child(int report_fd, gboolean odd)
{
    const unsigned int flags = VIR_LOCK_MANAGER_ACQUIRE_REGISTER_ONLY | VIR_LOCK_MANAGER_ACQUIRE_RESTRICT;
    static struct report report; /* not on a stack that a sanitizer has made small */
    struct vir_lock_manager man;
    int64_t start;
    int fd = -1;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prepare_signals(odd);
    vm.pid = getpid();
    describe_legacy(&report.before);
    start = vl_now_ms();
    report.r = new_manager_with_resources(&man, VIR_LOCK_MANAGER_NEW_STARTED);
    if (report.r == 0) {
        report.r = driver->drvAcquire(&man, NULL, flags, 0, &fd);
        driver->drvFree(&man);
    }
    report.ms = vl_now_ms() - start;
    describe_legacy(&report.after);
    report.code = error_code;
    g_strlcpy(report.text, error_text, sizeof(report.text));
    if (write(report_fd, &report, sizeof(report)) == sizeof(report) && report.r == 0)
        execlp("sleep", "sleep", "60", NULL);
    _exit(126);
}

static gboolean
read_all(int fd, void *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = read(fd, (char *)bytes + at, len - at);

        if (n <= 0)
            return FALSE;
        at += (size_t)n;
    }
    return TRUE;
}

pid_t
start_vm(struct report *report, gboolean odd)
{
    int pipe_fds[2], status;
    char byte;
    pid_t pid;

    g_assert_cmpint(pipe2(pipe_fds, O_CLOEXEC), ==, 0);
    pid = fork();
    if (pid == 0)
        child(pipe_fds[1], odd);
    close(pipe_fds[1]);
    if (!read_all(pipe_fds[0], report, sizeof(*report))) {
        waitpid(pid, &status, 0);
        g_error("the child died: status 0x%x", status);
    }
    g_assert_false(read_all(pipe_fds[0], &byte, 1)); /* exec or exit closes it */
    close(pipe_fds[0]);
    g_assert_cmpstr(report->after.signals, ==, report->before.signals);
    if (report->r == 0)
        return pid;
    waitpid(pid, NULL, 0);
    return 0;
}

void
end_vm(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_remove.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdint.h> /* sanlock.h needs it and does not say so */
#include <sanlock.h>
#include <sanlock_resource.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockd/fault.h"
#include "lockd/sanlock_file.h"

#define NAME_DIGITS   32
#define CLEARED_MAGIC 0x11282016u /* sanlock's own mark of a lease that is no longer one; little endian on disk */

typedef struct {
    char name[NAME_DIGITS + 1];
    guint32 salt; /* of the second name */
} Order;

typedef struct {
    const char *dir;
    guint sector_size;
    int dirfd, order;
    int sanlock; /* registered; its end releases what is held */
} Remover;

/* ---- in the child: no locks, no stdio, no GLib ---- */

typedef struct {
    struct sanlk_resource resource;
    struct sanlk_disk disk; /* its disks[0] */
} Lease;

static int
lease_fill(const Remover *remover, const char *name, const char *second, Lease *lease)
{
    memset(lease, 0, sizeof(*lease));
    memcpy(lease->resource.lockspace_name, VL_SANLOCK_SPACE, sizeof(VL_SANLOCK_SPACE));
    memcpy(lease->resource.name, name, NAME_DIGITS);
    lease->resource.num_disks = 1;
    if (remover->sector_size)
        lease->resource.flags =
            SANLK_RES_ALIGN1M | (remover->sector_size == 4096 ? SANLK_RES_SECTOR4K : SANLK_RES_SECTOR512);
    int len = snprintf(lease->disk.path, sizeof(lease->disk.path), "%s/%s", remover->dir, second);
    return len < (int)sizeof(lease->disk.path) ? 0 : -ENAMETOOLONG;
}

/* The inode has no name any more and nobody shall ever take its lease. */
static void
mark_cleared(int fd)
{
    guint32 magic = GUINT32_TO_LE(CLEARED_MAGIC);
    if (pwrite(fd, &magic, sizeof(magic), 0) == (ssize_t)sizeof(magic))
        (void)fdatasync(fd);
}

/* Both names, while the lease is held. The second one first: see sanlock_clean.h. */
static VlSanlockRemoved
unlink_both(const Remover *remover, const char *name, const char *second, int fd)
{
    struct stat inode, now;
    if (fstat(fd, &inode) < 0 || fstatat(remover->dirfd, name, &now, AT_SYMLINK_NOFOLLOW) < 0 ||
        inode.st_dev != now.st_dev || inode.st_ino != now.st_ino)
        return (VlSanlockRemoved){VL_SANLOCK_REMOVE_CHANGED, 0};
    VL_FAULT("clean-held");
    if (unlinkat(remover->dirfd, second, 0) < 0)
        return (VlSanlockRemoved){VL_SANLOCK_REMOVE_UNLINK, -errno};
    VL_FAULT("clean-between");
    /* ENOENT: a repeated NFS request whose first copy did it. */
    if (unlinkat(remover->dirfd, name, 0) < 0 && errno != ENOENT) {
        int saved = errno;
        (void)linkat(remover->dirfd, name, remover->dirfd, second, 0); /* to be released through it */
        return (VlSanlockRemoved){VL_SANLOCK_REMOVE_UNLINK, -saved};
    }
    VL_FAULT("clean-unlinked");
    mark_cleared(fd);
    return (VlSanlockRemoved){VL_SANLOCK_REMOVE_DONE, 0};
}

static VlSanlockRemoved
remove_held(const Remover *remover, const char *name, const char *second, int fd)
{
    Lease lease;
    struct sanlk_resource *resources[] = {&lease.resource};
    int rc = lease_fill(remover, name, second, &lease);
    if (rc == 0)
        rc = sanlock_acquire(remover->sanlock, -1, SANLK_ACQUIRE_OWNER_NOWAIT, 1, resources, NULL);
    if (rc < 0)
        return (VlSanlockRemoved){VL_SANLOCK_REMOVE_ACQUIRE, rc};
    VlSanlockRemoved removed = unlink_both(remover, name, second, fd);
    /* With -ENOENT when it is done: it finds no file, which is what we want. */
    (void)sanlock_release(remover->sanlock, -1, 0, 1, resources);
    return removed;
}

static VlSanlockRemoved
remove_one(const Remover *remover, const Order *order)
{
    char second[sizeof(VL_SANLOCK_TEMP_PREFIX) + NAME_DIGITS + 16];
    (void)snprintf(second, sizeof(second), VL_SANLOCK_TEMP_PREFIX "%08x-%s", order->salt, order->name);
    if (linkat(remover->dirfd, order->name, remover->dirfd, second, 0) < 0)
        return (VlSanlockRemoved){VL_SANLOCK_REMOVE_LINK, -errno};
    int fd = openat(remover->dirfd, second, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    VlSanlockRemoved removed = {VL_SANLOCK_REMOVE_OPEN, -errno};
    if (fd >= 0) {
        removed = remove_held(remover, order->name, second, fd);
        (void)close(fd);
    }
    if (removed.step != VL_SANLOCK_REMOVE_DONE)
        (void)unlinkat(remover->dirfd, second, 0);
    return removed;
}

/* Handlers of the parent write to descriptors that are gone here; sanlock must be able to end us. */
static void
reset_signals(void)
{
    struct sigaction standard = {.sa_handler = SIG_DFL}, ignore = {.sa_handler = SIG_IGN};
    sigset_t none;
    for (int signal = 1; signal < NSIG; signal++)
        (void)sigaction(signal, &standard, NULL);
    (void)sigaction(SIGPIPE, &ignore, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Nothing of virtleased's may stay open here: its locks live as long as their last descriptor. */
static void
close_others(int a, int b)
{
    unsigned int low = (unsigned int)MIN(a, b), high = (unsigned int)MAX(a, b);
    if (low > 3)
        (void)close_range(3, low - 1, 0);
    if (high > low + 1)
        (void)close_range(low + 1, high - 1, 0);
    (void)close_range(high + 1, ~0u, 0);
}

static void G_GNUC_NORETURN
child_run(Remover *remover)
{
    Order order;
    reset_signals();
    close_others(remover->dirfd, remover->order);
    remover->sanlock = sanlock_register();
    VlSanlockRemoved answer = {VL_SANLOCK_REMOVE_DONE, MIN(remover->sanlock, 0)};
    while (write(remover->order, &answer, sizeof(answer)) == (ssize_t)sizeof(answer) && remover->sanlock >= 0 &&
           read(remover->order, &order, sizeof(order)) == (ssize_t)sizeof(order))
        answer = remove_one(remover, &order);
    _exit(0);
}

/* ---- in virtleased ---- */

static pid_t
child_start(Remover *remover, int other)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        child_run(remover);
    int saved = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)close(other);
    errno = saved;
    return pid;
}

static gboolean
exchange(int fd, const char *name, VlSanlockRemoved *ret)
{
    Order order = {.salt = g_random_int()};
    g_strlcpy(order.name, name, sizeof(order.name));
    return send(fd, &order, sizeof(order), MSG_NOSIGNAL) == (ssize_t)sizeof(order) &&
           read(fd, ret, sizeof(*ret)) == (ssize_t)sizeof(*ret);
}

static VlSanlockRemoved *
converse(int fd, char *const *names, guint n, int *ret_rc)
{
    VlSanlockRemoved answer;
    if (read(fd, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
        answer.rc = -EPIPE;
    *ret_rc = answer.rc;
    if (answer.rc < 0)
        return NULL;
    VlSanlockRemoved *removed = g_new(VlSanlockRemoved, n);
    for (guint i = 0; i < n; i++)
        if (!exchange(fd, names[i], &removed[i]))
            removed[i] = (VlSanlockRemoved){VL_SANLOCK_REMOVE_DIED, 0};
    return removed;
}

VlSanlockRemoved *
vl_sanlock_remove(const char *lease_dir, guint sector_size, char *const *names, guint n, int *ret_rc)
{
    VlSanlockRemoved *removed = NULL;
    int pair[2];
    int dirfd = open(lease_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *ret_rc = -errno;
    if (dirfd < 0)
        return NULL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
        Remover remover = {.dir = lease_dir, .sector_size = sector_size, .dirfd = dirfd, .order = pair[1]};
        pid_t pid = child_start(&remover, pair[1]);
        *ret_rc = -errno;
        if (pid > 0)
            removed = converse(pair[0], names, n, ret_rc);
        (void)close(pair[0]);
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    } else {
        *ret_rc = -errno;
    }
    (void)close(dirfd);
    return removed;
}

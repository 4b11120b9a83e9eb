/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_call.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lockd/call.h"
#include "lockd/error.h"
#include "lockd/sanlock_words.h"

#define THREADS_MAX   (VL_SANLOCK_HUNG_MAX + 64)
#define BUSY_PAUSE_US (10 * 1000)

typedef struct {
    const VlSanlockOp *op;
    gpointer data;
    guint64 target;
    gint64 deadline;
    int rc;
    gboolean done, left; /* guarded by calls.lock */
} Call;

static struct {
    GMutex lock;
    GCond cond;          /* some call is over, or some target is free */
    GHashTable *targets; /* of guint64 *: with a command under way */
    GThreadPool *threads;
    guint hung;
} calls;

const char *
vl_sanlock_socket(void)
{
    static char *path;
    if (g_once_init_enter(&path)) {
        const char *dir = g_getenv("SANLOCK_RUN_DIR");
        g_once_init_leave(&path, g_build_filename(dir && *dir ? dir : "/run/sanlock", "sanlock.sock", NULL));
    }
    return path;
}

int
vl_sanlock_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    g_strlcpy(address.sun_path, vl_sanlock_socket(), sizeof(address.sun_path));
    /* EAGAIN: a full backlog, so somebody does listen, but we are not connected. */
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* The library's connect() errors look like those of the lease file, and a daemon that dies during
 * the call like "not permitted". */
static int
tell_down(int rc)
{
    if (rc != -ENOENT && rc != -ECONNREFUSED && rc != -EACCES && rc != -EPERM && rc != -ECONNRESET && rc != -EPIPE)
        return rc;
    int fd = vl_sanlock_connect();
    if (fd < 0)
        return errno == EAGAIN ? rc : VL_SANLOCK_DOWN;
    close(fd);
    return rc == -ECONNREFUSED || rc == -ECONNRESET || rc == -EPIPE ? VL_SANLOCK_DOWN : rc;
}

static gboolean
is_left(Call *call)
{
    g_mutex_lock(&calls.lock);
    gboolean left = call->left;
    g_mutex_unlock(&calls.lock);
    return left;
}

/* With calls.lock. */
static void
target_give(Call *call)
{
    if (call->target)
        g_hash_table_remove(calls.targets, &call->target);
    g_cond_broadcast(&calls.cond);
}

static void
call_over(Call *call, int rc)
{
    g_mutex_lock(&calls.lock);
    if (!call->left) {
        call->rc = rc;
        call->done = TRUE;
        target_give(call);
        g_mutex_unlock(&calls.lock); /* from here on the call is its caller's */
        return;
    }
    g_mutex_unlock(&calls.lock);
    if (call->op->late)
        call->op->late(call->data, rc);
    call->op->free(call->data);
    g_mutex_lock(&calls.lock);
    calls.hung--;
    target_give(call);
    g_mutex_unlock(&calls.lock);
    g_free(call);
}

static void
call_run(gpointer data, gpointer unused)
{
    Call *call = data;
    int rc = -ECANCELED;
    while (!is_left(call)) {
        rc = call->op->run(call->data);
        if (rc != -EBUSY || !call->target || g_get_monotonic_time() + BUSY_PAUSE_US >= call->deadline)
            break;
        g_usleep(BUSY_PAUSE_US);
    }
    call_over(call, tell_down(rc));
}

/* With calls.lock: waits for the target to be free and takes it. */
static gboolean
target_take(guint64 target, gint64 deadline)
{
    if (!calls.threads) {
        calls.targets = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
        calls.threads = g_thread_pool_new(call_run, NULL, THREADS_MAX, FALSE, NULL);
    }
    if (!target)
        return TRUE;
    while (g_hash_table_contains(calls.targets, &target)) {
        if (!g_cond_wait_until(&calls.cond, &calls.lock, deadline))
            return FALSE;
    }
    guint64 *key = g_new(guint64, 1);
    *key = target;
    g_hash_table_add(calls.targets, key);
    return TRUE;
}

/* With calls.lock. */
static gboolean
call_wait(Call *call)
{
    while (!call->done && g_cond_wait_until(&calls.cond, &calls.lock, call->deadline))
        ;
    if (!call->done) {
        call->left = TRUE;
        calls.hung++;
    }
    return call->done;
}

gboolean
vl_sanlock_call(const VlSanlockOp *op, gpointer data, guint64 target, const char *what, gint64 deadline, int *ret_rc,
                GError **error)
{
    Call *call = g_new0(Call, 1);
    *call = (Call){.op = op, .data = data, .target = target, .deadline = deadline};
    g_mutex_lock(&calls.lock);
    if (calls.hung >= VL_SANLOCK_HUNG_MAX) {
        vl_set_error(error, VL_ERR_STORAGE, "%s: the sanlock daemon hangs, %u earlier calls have had no answer", what,
                     calls.hung);
    } else if (!target_take(target, deadline)) {
        vl_set_error(error, VL_ERR_TIMEOUT, "%s: sanlock has not yet answered an earlier call about this VM", what);
    } else {
        g_thread_pool_push(calls.threads, call, NULL);
        if (call_wait(call)) {
            g_mutex_unlock(&calls.lock);
            *ret_rc = call->rc;
            g_free(call);
            return TRUE;
        }
        vl_set_error(error, VL_ERR_TIMEOUT, "%s: the sanlock daemon did not answer within the time of this call", what);
        g_mutex_unlock(&calls.lock);
        return FALSE;
    }
    g_mutex_unlock(&calls.lock);
    op->free(data);
    g_free(call);
    return FALSE;
}

int
vl_sanlock_why_not_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    close(fd);
    return -EACCES;
}

guint
vl_sanlock_hung(void)
{
    g_mutex_lock(&calls.lock);
    guint hung = calls.hung;
    g_mutex_unlock(&calls.lock);
    return hung;
}

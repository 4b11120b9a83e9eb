/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Calls that hang, come late, and get in each other's way; and what sanlock's numbers are called. */
#include <errno.h>
#include <glib.h>
#include <sanlock_rv.h>
#include <string.h>

#include "lockd/error.h"
#include "lockd/sanlock_call.h"
#include "lockd/sanlock_words.h"

typedef struct {
    gint sleep_ms, rc, busy;

} Job;

static gint running, most, late, freed, runs;

static void
reset(void)
{
    running = most = late = freed = runs = 0;
}

static int
job_run(gpointer data)
{
    Job *job = data;
    gint now = g_atomic_int_add(&running, 1) + 1;
    if (now > g_atomic_int_get(&most))
        g_atomic_int_set(&most, now);
    g_atomic_int_inc(&runs);
    g_usleep((gulong)job->sleep_ms * 1000);
    (void)g_atomic_int_dec_and_test(&running);
    return job->busy-- > 0 ? -EBUSY : job->rc;
}

static void
job_late(gpointer data, int rc)
{
    g_usleep(50 * 1000);
    g_atomic_int_set(&late, rc == 0 ? 1 : rc);
}

static void
job_free(gpointer data)
{
    g_atomic_int_inc(&freed);
    g_free(data);
}

static const VlSanlockOp op = {job_run, job_late, job_free};

static gint64
in_ms(gint ms)
{
    return g_get_monotonic_time() + (gint64)ms * 1000;
}

/* The result, or the code of the error as a number above 1000. */
static int
call(gint sleep_ms, int rc, gint busy, guint64 target, gint within_ms)
{
    g_autoptr(GError) error = NULL;
    Job *job = g_new0(Job, 1);
    int result = 0;
    job->sleep_ms = sleep_ms;
    job->rc = rc;
    job->busy = busy;
    if (!vl_sanlock_call(&op, job, target, "test", in_ms(within_ms), &result, &error)) {
        g_assert_nonnull(error);
        return 1000 + (int)vl_error_code(error);
    }
    g_assert_no_error(error);
    job_free(job);
    return result;
}

static void
wait_none_hangs(void)
{
    for (guint i = 0; i < 1000 && vl_sanlock_hung(); i++)
        g_usleep(10 * 1000);
    g_assert_cmpuint(vl_sanlock_hung(), ==, 0);
}

static void
test_result(void)
{
    reset();
    g_assert_cmpint(call(0, 0, 0, 0, 1000), ==, 0);
    g_assert_cmpint(call(0, -243, 0, 7, 1000), ==, -243);
    g_assert_cmpint(late, ==, 0);
    g_assert_cmpint(freed, ==, 2);
}

static void
test_busy_is_retried(void)
{
    reset();
    g_assert_cmpint(call(0, 0, 3, 7, 1000), ==, 0);
    g_assert_cmpint(runs, ==, 4);
    g_assert_cmpint(call(0, 0, 100000, 7, 100), ==, -EBUSY);
    reset();
    g_assert_cmpint(call(0, 0, 3, 0, 1000), ==, -EBUSY); /* about no process: nobody to wait for */
}

/* Given up, counted, undone; and the next one about the same process waits until that is done. */
static void
test_left_behind(void)
{
    reset();
    gint64 began = g_get_monotonic_time();
    g_assert_cmpint(call(400, 0, 0, 7, 100), ==, 1000 + VL_ERR_TIMEOUT);
    g_assert_cmpint(g_get_monotonic_time() - began, <, 300 * 1000);
    g_assert_cmpuint(vl_sanlock_hung(), ==, 1);
    g_assert_cmpint(call(0, 0, 0, 7, 50), ==, 1000 + VL_ERR_TIMEOUT);
    g_assert_cmpint(call(0, 0, 0, 8, 50), ==, 0); /* another process is not held up */
    g_assert_cmpint(late, ==, 0);
    g_assert_cmpint(call(0, -17, 0, 7, 2000), ==, -17);
    g_assert_cmpint(late, ==, 1);
    g_assert_cmpuint(vl_sanlock_hung(), ==, 0);
    g_assert_cmpint(freed, ==, 4);
}

static gpointer
call_thread(gpointer data)
{
    g_assert_cmpint(call(30, 0, 0, GPOINTER_TO_UINT(data), 5000), ==, 0);
    return NULL;
}

static void
run_threads(gboolean one_target)
{
    GThread *threads[8];
    reset();
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("call", call_thread, GUINT_TO_POINTER(one_target ? 7 : 7 + i));
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
}

static void
test_one_at_a_time(void)
{
    run_threads(TRUE);
    g_assert_cmpint(most, ==, 1);
    run_threads(FALSE);
    g_assert_cmpint(most, >, 1);
}

/* A daemon that answers nobody does not get all our threads. */
static void
test_bounded(void)
{
    reset();
    for (guint i = 0; i < VL_SANLOCK_HUNG_MAX; i++)
        g_assert_cmpint(call(5000, 0, 0, 0, 30), ==, 1000 + VL_ERR_TIMEOUT);
    g_assert_cmpint(call(0, 0, 0, 0, 1000), ==, 1000 + VL_ERR_STORAGE);
    wait_none_hangs();
    g_assert_cmpint(call(0, 0, 0, 0, 1000), ==, 0);
}

/* Nobody listens where the test's SANLOCK_RUN_DIR points: the library's errno is not the lease file's. */
static void
test_daemon_down(void)
{
    g_assert_cmpint(call(0, -ENOENT, 0, 0, 1000), ==, VL_SANLOCK_DOWN);
    g_assert_cmpint(call(0, -ECONNREFUSED, 0, 0, 1000), ==, VL_SANLOCK_DOWN);
    g_assert_cmpint(call(0, -EIO, 0, 0, 1000), ==, -EIO);
}

/* ---- words ---- */

static void
assert_words(VlSanlockVerb verb, int rc, enum vl_error code, const char *pattern)
{
    g_autoptr(GError) error = NULL;
    vl_sanlock_error(&error, verb, rc, "file:/disk", "host 7 (node-b)");
    g_assert_error(error, VL_ERROR, (int)code);
    if (!g_pattern_match_simple(pattern, error->message))
        g_error("%d: '%s' is not like '%s'", rc, error->message, pattern);
}

static void
test_words(void)
{
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_ACQUIRE_IDLIVE, VL_ERR_HELD,
                 "file:/disk: held by host 7 (node-b), which is*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_ACQUIRE_OWNED_RETRY, VL_ERR_UNKNOWN_OWNER,
                 "*host 7 (node-b)*stopped renewing*");
    assert_words(VL_SANLOCK_ACQUIRE, -EEXIST, VL_ERR_HELD, "*another VM of this host*");
    assert_words(VL_SANLOCK_ACQUIRE, -EAGAIN, VL_ERR_CHANGED, "*being released, or shared*");
    assert_words(VL_SANLOCK_JOIN, -EAGAIN, VL_ERR_STORAGE, "*still leaving the lockspace*");
    assert_words(VL_SANLOCK_ACQUIRE, -ESRCH, VL_ERR_NOT_REGISTERED, "*not registered with the sanlock daemon*");
    assert_words(VL_SANLOCK_ACQUIRE, -ENOSPC, VL_ERR_STORAGE, "*not in the lockspace*");
    assert_words(VL_SANLOCK_FORMAT, -ENOSPC, VL_ERR_STORAGE, "*file system is full*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_ACQUIRE_LVER, VL_ERR_STALE, "*stale*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_LEADER_MAGIC, VL_ERR_RECORD, "*never formatted*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_LEADER_LOCKSPACE, VL_ERR_RECORD, "*another lockspace*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_LEADER_RESOURCE, VL_ERR_RECORD, "*another volume*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_LEADER_CHECKSUM, VL_ERR_RECORD, "*wrong checksum*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_LEADER_NUMHOSTS, VL_ERR_CONFIG, "*host id is larger*");
    assert_words(VL_SANLOCK_ACQUIRE, -EMSGSIZE, VL_ERR_RECORD, "*empty or too short*");
    assert_words(VL_SANLOCK_ACQUIRE, SANLK_AIO_TIMEOUT, VL_ERR_STORAGE, "*did not answer sanlock in time*");
    assert_words(VL_SANLOCK_ACQUIRE, -EROFS, VL_ERR_STORAGE, "*read-only*");
    assert_words(VL_SANLOCK_ACQUIRE, -EACCES, VL_ERR_DENIED, "*sanlock_user*");
    assert_words(VL_SANLOCK_RELEASE, -EPERM, VL_ERR_CHANGED, "*does not have it*");
    assert_words(VL_SANLOCK_JOIN, SANLK_HOSTID_BUSY, VL_ERR_DUP_HOST, "*another host uses this host id*");
    assert_words(VL_SANLOCK_JOIN, SANLK_WD_ERROR, VL_ERR_STORAGE, "*watchdog*");
    assert_words(VL_SANLOCK_ACQUIRE, VL_SANLOCK_DOWN, VL_ERR_STORAGE, "*sanlock daemon does not run*");
    assert_words(VL_SANLOCK_ACQUIRE, -299, VL_ERR_STORAGE, "*unknown here (sanlock -299)");
}

/* Whatever the number, no message may speak of a device that is full where a lease is acquired. */
static void
test_never_no_space(void)
{
    for (int rc = -1; rc >= -300; rc--) {
        enum vl_error code;
        const char *text = vl_sanlock_words(VL_SANLOCK_ACQUIRE, rc, &code);
        g_assert_null(strstr(text, "full"));
        g_assert_null(strstr(text, "No space"));
        g_assert_cmpint(code, !=, VL_OK);
    }
}

int
main(int argc, char **argv)
{
    g_setenv("SANLOCK_RUN_DIR", "/nonexistent", TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sanlock-call/result", test_result);
    g_test_add_func("/sanlock-call/busy-is-retried", test_busy_is_retried);
    g_test_add_func("/sanlock-call/left-behind", test_left_behind);
    g_test_add_func("/sanlock-call/one-at-a-time", test_one_at_a_time);
    g_test_add_func("/sanlock-call/bounded", test_bounded);
    g_test_add_func("/sanlock-call/daemon-down", test_daemon_down);
    g_test_add_func("/sanlock-words/words", test_words);
    g_test_add_func("/sanlock-words/never-no-space", test_never_no_space);
    return g_test_run();
}

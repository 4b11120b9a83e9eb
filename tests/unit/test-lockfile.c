/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Lock files with real processes: a "VM" is a sleeping child. */
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/lockfile.h"
#include "lockd/procinfo.h"

#define NAME "file-8.1-77.lease"

typedef struct {
    char *dir;
} Bed;

typedef struct {
    pid_t pid;
    VlIncarnation who;
    VlLockfileHolder holder;
} Vm;

static void
vm_start(Vm *vm, const char *uuid, gboolean shared)
{
    vm->pid = fork();
    if (vm->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody */
        pause();
        _exit(0);
    }
    vm->who = (VlIncarnation){g_strdup("host-a"), g_strdup("boot-a"), g_strdup(uuid), vm->pid, 0};
    g_assert_true(vl_proc_start_time(vm->pid, &vm->who.start, NULL));
    vm->holder = (VlLockfileHolder){&vm->who, uuid, "file:/x", shared};
}

static void
vm_kill(Vm *vm)
{
    if (vm->pid > 0) {
        kill(vm->pid, SIGKILL);
        g_assert_cmpint(waitpid(vm->pid, NULL, 0), ==, vm->pid);
    }
    vm->pid = 0;
}

static void
vm_done(Vm *vm)
{
    vm_kill(vm);
    vl_incarnation_clear(&vm->who);
}

static VlLockfile *
take(Bed *bed, Vm *vm, GError **error)
{
    VlCall call = {.deadline = vl_deadline_in(1)};
    return vl_lockfile_take(bed->dir, NAME, &vm->holder, &call, error);
}

static void
assert_refused(Bed *bed, Vm *vm, enum vl_error code, const char *pattern)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(take(bed, vm, &error));
    g_assert_cmpint(vl_error_code(error), ==, code);
    if (!g_pattern_match_simple(pattern, error->message))
        g_error("not like \"%s\": %s", pattern, error->message);
}

static void
set_up(Bed *bed, gconstpointer data)
{
    bed->dir = g_dir_make_tmp("vl-lockfile-XXXXXX", NULL);
}

static void
tear_down(Bed *bed, gconstpointer data)
{
    g_autofree char *path = g_build_filename(bed->dir, NAME, NULL);
    (void)g_unlink(path);
    g_assert_cmpint(g_rmdir(bed->dir), ==, 0); /* nothing else was left in it */
    g_free(bed->dir);
}

static void
test_one_at_a_time(Bed *bed, gconstpointer data)
{
    Vm a = {0}, b = {0};
    vm_start(&a, "vm-a", FALSE);
    vm_start(&b, "vm-b", FALSE);
    VlLockfile *file = take(bed, &a, NULL);
    g_assert_nonnull(file);
    assert_refused(bed, &b, VL_ERR_HELD, "file:/x is in use: leased by VM 'vm-a'*process *Stop that VM first");
    vl_lockfile_free(file);
    g_autofree char *path = g_build_filename(bed->dir, NAME, NULL);
    g_assert_cmpint(g_access(path, F_OK), <, 0);
    file = take(bed, &b, NULL);
    g_assert_nonnull(file);
    vl_lockfile_free(file);
    vm_done(&a);
    vm_done(&b);
}

/* The daemon was killed: its lock is gone, the VM it locked for is not. */
static void
test_outlives_the_daemon(Bed *bed, gconstpointer data)
{
    Vm a = {0}, b = {0};
    vm_start(&a, "vm-a", FALSE);
    vm_start(&b, "vm-b", FALSE);
    pid_t daemon = fork();
    if (daemon == 0)
        _exit(take(bed, &a, NULL) ? 0 : 1);
    int status = -1;
    g_assert_cmpint(waitpid(daemon, &status, 0), ==, daemon);
    g_assert_cmpint(status, ==, 0);
    assert_refused(bed, &b, VL_ERR_HELD, "*leased by VM 'vm-a'*");
    g_autoptr(GPtrArray) before = vl_lockfile_holders(bed->dir, NAME, "boot-a", NULL);
    g_usleep(G_USEC_PER_SEC + G_USEC_PER_SEC / 10);
    VlLockfile *again = take(bed, &a, NULL);
    g_assert_nonnull(again);
    g_autoptr(GPtrArray) after = vl_lockfile_holders(bed->dir, NAME, "boot-a", NULL);
    g_assert_cmpint(((VlLockfileEntry *)after->pdata[0])->since, ==, ((VlLockfileEntry *)before->pdata[0])->since);
    vl_lockfile_free(again);
    vm_done(&a);
    vm_done(&b);
}

static void
test_dead_holder_is_nobody(Bed *bed, gconstpointer data)
{
    Vm a = {0}, b = {0};
    vm_start(&a, "vm-a", FALSE);
    vm_start(&b, "vm-b", FALSE);
    pid_t daemon = fork();
    if (daemon == 0)
        _exit(take(bed, &a, NULL) ? 0 : 1);
    g_assert_cmpint(waitpid(daemon, NULL, 0), ==, daemon);
    vm_kill(&a);
    VlLockfile *file = take(bed, &b, NULL);
    g_assert_nonnull(file);
    vl_lockfile_free(file);
    vm_done(&a);
    vm_done(&b);
}

/* The VM is dead, its virtleased has not let go yet: worth another try. */
static void
test_dying_holder(Bed *bed, gconstpointer data)
{
    Vm a = {0}, b = {0};
    vm_start(&a, "vm-a", FALSE);
    vm_start(&b, "vm-b", FALSE);
    VlLockfile *file = take(bed, &a, NULL);
    vm_kill(&a);
    assert_refused(bed, &b, VL_ERR_CHANGED, "*locked, but by no VM that still runs*");
    vl_lockfile_free(file);
    file = take(bed, &b, NULL);
    g_assert_nonnull(file);
    vl_lockfile_free(file);
    vm_done(&a);
    vm_done(&b);
}

static void
test_shared(Bed *bed, gconstpointer data)
{
    Vm a = {0}, b = {0}, c = {0};
    vm_start(&a, "vm-a", TRUE);
    vm_start(&b, "vm-b", TRUE);
    vm_start(&c, "vm-c", FALSE);
    VlLockfile *first = take(bed, &a, NULL);
    VlLockfile *second = take(bed, &b, NULL);
    g_assert_true(first && second);
    assert_refused(bed, &c, VL_ERR_HELD, "*leased (shared) by VM 'vm-?'*");
    vl_lockfile_free(first);
    assert_refused(bed, &c, VL_ERR_HELD, "*leased (shared) by VM 'vm-b'*");
    g_autoptr(GPtrArray) holders = vl_lockfile_holders(bed->dir, NAME, "boot-a", NULL);
    g_assert_cmpuint(holders->len, ==, 1);
    vl_lockfile_free(second);
    VlLockfile *alone = take(bed, &c, NULL);
    g_assert_nonnull(alone);
    assert_refused(bed, &a, VL_ERR_HELD, "*leased by VM 'vm-c'*");
    vl_lockfile_free(alone);
    vm_done(&a);
    vm_done(&b);
    vm_done(&c);
}

static void
test_removed_by_somebody(Bed *bed, gconstpointer data)
{
    Vm a = {0};
    vm_start(&a, "vm-a", FALSE);
    VlLockfile *file = take(bed, &a, NULL);
    g_autofree char *path = g_build_filename(bed->dir, NAME, NULL);
    g_assert_true(vl_lockfile_in_place(file));
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_false(vl_lockfile_in_place(file));
    vl_lockfile_free(file);
    vm_done(&a);
}

static void
test_garbage_is_nobody(Bed *bed, gconstpointer data)
{
    Vm a = {0};
    g_autofree char *path = g_build_filename(bed->dir, NAME, NULL);
    vm_start(&a, "vm-a", FALSE);
    g_assert_true(g_file_set_contents(path, "[holder 0]\npid=x\n\xff[[", -1, NULL));
    VlLockfile *file = take(bed, &a, NULL);
    g_assert_nonnull(file);
    g_autoptr(GPtrArray) holders = vl_lockfile_holders(bed->dir, NAME, "boot-a", NULL);
    g_assert_cmpuint(holders->len, ==, 1);
    g_assert_cmpstr(((VlLockfileEntry *)holders->pdata[0])->vm, ==, "vm-a");
    g_autoptr(GPtrArray) later = vl_lockfile_holders(bed->dir, NAME, "boot-b", NULL);
    g_assert_cmpuint(later->len, ==, 0);
    vl_lockfile_free(file);
    vm_done(&a);
}

static void
test_unusable(Bed *bed, gconstpointer data)
{
    Vm a = {0};
    Bed nowhere = {.dir = (char *)"/nonexistent/directory"};
    g_autofree char *path = g_build_filename(bed->dir, NAME, NULL);
    vm_start(&a, "vm-a", FALSE);
    assert_refused(&nowhere, &a, VL_ERR_STORAGE, "lock file /nonexistent/*cannot be opened*");
    g_assert_cmpint(symlink("/etc/passwd", path), ==, 0);
    assert_refused(bed, &a, VL_ERR_STORAGE, "lock file *cannot be opened*");
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_true(g_file_set_contents(path, "", 0, NULL));
    g_assert_cmpint(truncate(path, 2 * 1024 * 1024), ==, 0); /* too much to be read: who is in it is not known */
    assert_refused(bed, &a, VL_ERR_STORAGE, "lock file *cannot be read*");
    vm_done(&a);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/lockfile/" name, Bed, NULL, set_up, func, tear_down)
    ADD("one-at-a-time", test_one_at_a_time);
    ADD("outlives-the-daemon", test_outlives_the_daemon);
    ADD("dead-holder-is-nobody", test_dead_holder_is_nobody);
    ADD("dying-holder", test_dying_holder);
    ADD("shared", test_shared);
    ADD("removed-by-somebody", test_removed_by_somebody);
    ADD("garbage-is-nobody", test_garbage_is_nobody);
    ADD("unusable", test_unusable);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Local leases in a daemon: who else of this host stands in the way, and what happens to lock files under it. A "VM"
 * is a sleeping child. */
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockd/backend_local.h"
#include "lockd/error.h"
#include "lockd/procinfo.h"
#include "tests/unit/world.h"

typedef struct {
    World *world;
    char *file, *local; /* a disk; the directory of lock files */
    GPtrArray *children;
} Bed;

static void
bed_begin(Bed *bed)
{
    bed->world = world_new(FALSE);
    bed->file = g_build_filename(bed->world->dir, "disk", NULL);
    bed->local = g_build_filename(bed->world->dir, "local", NULL);
    bed->children = g_ptr_array_new();
    g_assert_true(g_file_set_contents(bed->file, "x", 1, NULL));
    g_assert_true(vl_backends_start(bed->world->daemon, NULL));
}

static void
bed_end(Bed *bed)
{
    for (guint i = 0; i < bed->children->len; i++) {
        kill(GPOINTER_TO_INT(bed->children->pdata[i]), SIGKILL);
        waitpid(GPOINTER_TO_INT(bed->children->pdata[i]), NULL, 0);
    }
    g_ptr_array_unref(bed->children);
    g_free(vl_backend_state(bed->world->daemon, &vl_backend_local));
    g_hash_table_unref(bed->world->daemon->backends);
    world_free(bed->world);
    g_free(bed->local);
    g_free(bed->file);
}

static guint
lock_files(Bed *bed)
{
    GDir *dir = g_dir_open(bed->local, 0, NULL);
    guint n = 0;
    while (dir && g_dir_read_name(dir))
        n++;
    if (dir)
        g_dir_close(dir);
    return n;
}

/* A living VM that wants the disk. */
static VlVm *
vm_new(Bed *bed, const char *name, gboolean shared)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody */
        pause();
        _exit(0);
    }
    g_ptr_array_add(bed->children, GINT_TO_POINTER(pid));
    VlVm *vm = world_vm(bed->world, name, pid, NULL);
    g_assert_true(vl_proc_start_time(pid, &vm->who.start, NULL));
    struct vl_volume_spec spec = {.kind = VL_VOLUME_FILE, .path = bed->file};
    g_autoptr(VlVolume) volume = vl_backend_resolve(bed->world->daemon, &spec, vl_deadline_in(1), NULL);
    g_assert_nonnull(volume);
    vl_vm_add_lease(vm, vl_lease_new(vm, volume, &spec, "vda", shared));
    return vm;
}

static gboolean
take(Bed *bed, VlVm *vm, GError **error)
{
    return world_take(bed->world, vm, 0, 1, error);
}

static void
assert_refused(Bed *bed, VlVm *vm, const char *pattern)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(take(bed, vm, &error));
    world_assert_error(error, VL_ERR_HELD, pattern);
}

static void
remove_lock_files(Bed *bed)
{
    GDir *dir = g_dir_open(bed->local, 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(bed->local, name, NULL);
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_dir_close(dir);
    g_assert_cmpint(g_rmdir(bed->local), ==, 0);
}

/* A lock file that is gone does not let the next VM in, and the audit makes it anew, directory and all. */
static void
test_lock_files_removed(void)
{
    Bed bed;
    bed_begin(&bed);
    VlVm *web1 = vm_new(&bed, "web1", FALSE);
    g_assert_true(take(&bed, web1, NULL));
    remove_lock_files(&bed);
    g_assert_cmpint(g_mkdir(bed.local, 0700), ==, 0);
    assert_refused(&bed, vm_new(&bed, "web2", FALSE), "*disk*web1*removed*Stop that VM first");
    g_assert_cmpint(g_rmdir(bed.local), ==, 0);
    vl_audit_leases(bed.world->daemon, web1, NULL);
    g_assert_true(world_logged(bed.world, "VM web1: the lock file of *disk was removed by somebody; made anew"));
    g_assert_cmpuint(lock_files(&bed), ==, 1);
    assert_refused(&bed, vm_new(&bed, "web3", FALSE), "*leased by VM 'web1'*Stop that VM first");
    bed_end(&bed);
}

static void
test_shared_rivals(void)
{
    Bed bed;
    bed_begin(&bed);
    VlVm *web1 = vm_new(&bed, "web1", TRUE);
    g_assert_true(take(&bed, web1, NULL));
    remove_lock_files(&bed);
    g_assert_cmpint(g_mkdir(bed.local, 0700), ==, 0);
    g_assert_true(take(&bed, vm_new(&bed, "web2", TRUE), NULL));
    assert_refused(&bed, vm_new(&bed, "web3", FALSE), "*'web?'*");
    bed_end(&bed);
}

/* The daemon was just started: a VM that ran before it may have the disk, whatever the lock files say. */
static void
test_waits_for_adoption(void)
{
    Bed bed;
    bed_begin(&bed);
    VlVm *fresh = vm_new(&bed, "web1", FALSE);
    VlVm *adopted = vm_new(&bed, "web2", FALSE);
    g_autoptr(GError) error = NULL;
    bed.world->daemon->adopting = 1;
    adopted->adopting = TRUE;
    g_assert_false(take(&bed, fresh, &error));
    g_assert_true(take(&bed, adopted, NULL));
    adopted->adopting = FALSE;
    bed.world->daemon->adopting = 0;
    assert_refused(&bed, vm_new(&bed, "web3", FALSE), "*'web2'*");
    bed_end(&bed);
}

/* What VMs left behind that ended while no daemon ran. */
static void
test_sweep(void)
{
    Bed bed;
    bed_begin(&bed);
    VlVm *web1 = vm_new(&bed, "web1", FALSE);
    g_assert_true(take(&bed, web1, NULL));
    g_autofree char *stale = g_build_filename(bed.local, "file-8.1-77.lease", NULL);
    g_autofree char *other = g_build_filename(bed.local, "README", NULL);
    g_assert_true(
        g_file_set_contents(stale, "[holder 0]\nboot=boot-a\nuuid=u\npid=999999999\nstart=5\nvm=old\n", -1, NULL));
    g_assert_true(g_file_set_contents(other, "", 0, NULL));
    vl_lockfile_sweep(bed.local, "boot-a");
    g_assert_cmpint(g_access(stale, F_OK), <, 0);
    g_assert_cmpuint(lock_files(&bed), ==, 2); /* web1's, and what is none */
    vl_lockfile_sweep(bed.local, "boot-b");    /* web1's is locked */
    g_assert_cmpuint(lock_files(&bed), ==, 2);
    bed_end(&bed);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/local/lock-files-removed", test_lock_files_removed);
    g_test_add_func("/local/shared-rivals", test_shared_rivals);
    g_test_add_func("/local/waits-for-adoption", test_waits_for_adoption);
    g_test_add_func("/local/sweep", test_sweep);
    return g_test_run();
}

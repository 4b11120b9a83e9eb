/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What an Acquire finds missing: disks that it names and that have no lease, and leases that an adoption did not get.
 * A "VM" is a sleeping child with a status XML. */
#include "lockd/rescan.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockd/adopt.h"
#include "lockd/backend_local.h"
#include "lockd/error.h"
#include "lockd/procinfo.h"
#include "lockd/statusxml.h"
#include "tests/unit/world.h"

#define UUID "6f1d2c3b-0000-4000-8000-0000000000a1"

typedef struct {
    World *world;
    VlVm *vm;
    char *one, *two; /* disks; the second does not exist */
    pid_t pid;
} Bed;

static void
bed_begin(Bed *bed)
{
    bed->world = world_new(FALSE);
    bed->one = g_build_filename(bed->world->dir, "one", NULL);
    bed->two = g_build_filename(bed->world->dir, "two", NULL);
    g_assert_true(g_file_set_contents(bed->one, "x", 1, NULL));
    g_assert_true(vl_backends_start(bed->world->daemon, NULL));
    bed->pid = fork();
    if (bed->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails ends here and now */
        pause();
        _exit(0);
    }
    VlDaemon *daemon = bed->world->daemon;
    VlIncarnation who = {daemon->host->id, daemon->host->boot, (char *)UUID, bed->pid, 0};
    g_assert_true(vl_proc_start_time(bed->pid, &who.start, NULL));
    bed->vm = vl_vm_new(daemon->vms, &who, "web1", "qemu:///system", 0, vl_proc_open(bed->pid, who.start, NULL));
}

static void
bed_end(Bed *bed)
{
    vl_vm_unref(bed->vm);
    kill(bed->pid, SIGKILL);
    waitpid(bed->pid, NULL, 0);
    world_finish_jobs(bed->world);
    g_free(vl_backend_state(bed->world->daemon, &vl_backend_local));
    g_hash_table_unref(bed->world->daemon->backends);
    world_free(bed->world);
    g_free(bed->one);
    g_free(bed->two);
}

static void
write_xml(Bed *bed, const char *disks)
{
    g_autofree char *dir = g_build_filename(bed->world->dir, "libvirt", "qemu", NULL);
    g_autofree char *path = g_build_filename(dir, "web1.xml", NULL);
    g_autofree char *text = g_strdup_printf("<domstatus state='paused' pid='%d'><domain><name>web1</name><uuid>" UUID
                                            "</uuid><devices>%s</devices></domain></domstatus>",
                                            (int)bed->pid, disks);
    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static char *
disk_xml(const char *path)
{
    return g_strdup_printf("<disk type='file'><source file='%s'/><target dev='vda'/></disk>", path);
}

/* libvirt's Acquire names the first disk. */
static VlLease *
acquire(Bed *bed, gboolean *ret_attach)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func((GDestroyNotify)vl_disk_free);
    g_autoptr(GError) error = NULL;
    VlCall call = {.deadline = vl_deadline_in(5)};
    VlDisk *disk = g_new0(VlDisk, 1);
    disk->spec.kind = VL_VOLUME_FILE;
    disk->spec.path = strdup(bed->one);
    g_ptr_array_add(disks, disk);
    g_assert_true(vl_rescan_named(bed->world->daemon, bed->vm, disks, &call, ret_attach, &error));
    g_assert_cmpuint(bed->vm->leases->len, ==, 1);
    VlLease *lease = bed->vm->leases->pdata[0];
    g_assert_cmpint(lease->state, ==, VL_LEASE_PARKED);
    return lease;
}

static void
test_attach(void)
{
    Bed bed;
    gboolean attach = FALSE;
    bed_begin(&bed);
    write_xml(&bed, "");
    VlLease *lease = acquire(&bed, &attach);
    g_assert_true(attach);
    g_assert_false(lease->open_already);
    g_assert_false(lease->seen);
    bed_end(&bed);
}

/* A disk of a VM with memory that has no lease: it had one that was lost to us, so its versions count (R1). */
static void
test_resume(void)
{
    Bed bed;
    gboolean attach = TRUE;
    bed_begin(&bed);
    g_autofree char *xml = disk_xml(bed.one);
    write_xml(&bed, xml);
    VlLease *lease = acquire(&bed, &attach);
    g_assert_false(attach);
    g_assert_true(lease->open_already);
    bed_end(&bed);
}

/* Whether it is an attach cannot be told: CPUs may be about to run, and a disk may be about to come. It is not taken
 * away again because the XML does not name it yet. */
static void
test_attach_or_resume(void)
{
    Bed bed;
    gboolean attach = TRUE;
    bed_begin(&bed);
    write_xml(&bed, "<disk type='volume'><source pool='p' volume='other'/><target dev='vdb'/></disk>");
    VlLease *lease = acquire(&bed, &attach);
    g_assert_false(attach);
    g_assert_false(lease->open_already);
    g_assert_false(lease->seen);
    bed_end(&bed);
}

/* ---- adoption ---- */

static gboolean
is_adopted(World *world, gpointer opaque)
{
    g_autoptr(VlVm) vm = vl_vms_find_uuid(world->daemon->vms, UUID);
    return vm && !vm->adopting;
}

/* The file of one disk is away when the daemon starts. No resume before all of its disks have their leases. */
static void
test_adopted_in_part(void)
{
    Bed bed;
    g_autoptr(GError) error = NULL;
    bed_begin(&bed);
    VlDaemon *daemon = bed.world->daemon;
    VlCall call = {.deadline = vl_deadline_in(5)};
    g_autofree char *one = disk_xml(bed.one), *two = disk_xml(bed.two);
    g_autofree char *both = g_strconcat(one, two, NULL);
    write_xml(&bed, both);
    g_assert_true(vl_journal_write(daemon->journal, bed.vm, NULL));
    vl_adopt_all(daemon);
    world_wait(bed.world, is_adopted, NULL);
    g_assert_true(world_logged(bed.world, "VM web1 * runs, but has NO lease*two*"));
    g_autoptr(VlVm) vm = vl_vms_find_uuid(daemon->vms, UUID);
    daemon->settings->hotplug_conflict = VL_CONFLICT_LOG;
    g_assert_false(vl_rescan_unleased(daemon, vm, &call, &error));
    world_assert_error(error, VL_ERR_MISSING, "VM 'web1' has a disk that it has no lease for: *two*");
    g_assert_true(g_file_set_contents(bed.two, "x", 1, NULL));
    g_assert_true(vl_rescan_unleased(daemon, vm, &call, NULL));
    g_assert_cmpuint(vm->leases->len, ==, 2);
    g_assert_true(g_unlink(bed.two) == 0 && vl_rescan_unleased(daemon, vm, &call, NULL));
    bed_end(&bed);
}

/* ---- detach ---- */

/* Whether QEMU still has a file open is not known without its /proc: then it has. */
static void
test_open_unless_known(void)
{
    Bed bed;
    gboolean attach;
    bed_begin(&bed);
    write_xml(&bed, "");
    VlLease *lease = acquire(&bed, &attach);
    g_assert_true(vl_backend_of(lease->volume)->closed(lease));
    bed.vm->who.pid = G_MAXINT32 - 1;
    g_assert_false(vl_backend_of(lease->volume)->closed(lease));
    bed_end(&bed);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rescan/attach", test_attach);
    g_test_add_func("/rescan/resume", test_resume);
    g_test_add_func("/rescan/attach-or-resume", test_attach_or_resume);
    g_test_add_func("/rescan/adopted-in-part", test_adopted_in_part);
    g_test_add_func("/rescan/open-unless-known", test_open_unless_known);
    return g_test_run();
}

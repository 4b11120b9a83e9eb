/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What survives a crash of the daemon. */
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lockd/error.h"
#include "tests/unit/world.h"

/* Everything one VM has, some of it odd. */
static VlVm *
full_vm(World *world)
{
    struct vl_volume_spec rbd = {.kind = VL_VOLUME_RBD,
                                 .pool = (char *)"p\"1",
                                 .ns = (char *)"",
                                 .image = (char *)"i\xc3\xa4",
                                 .conf = (char *)"/c",
                                 .mon_hosts = (char *)"a:1,b:2"};
    struct vl_volume_spec krbd = {.kind = VL_VOLUME_RBD,
                                  .pool = (char *)"rbd",
                                  .image = (char *)"x",
                                  .krbd = true,
                                  .fsid = (char *)"f",
                                  .pool_id = (char *)"2",
                                  .image_id = (char *)"abc",
                                  .path = (char *)"/dev/rbd0"};
    VlVm *vm = world_vm(world, "web1", 4711, NULL);
    g_autoptr(VlVolume) volume = fake_volume(world->store, world->place, "vol1");
    vl_vm_add_lease(vm, vl_lease_new(vm, volume, &rbd, "vda", FALSE));
    vl_vm_add_lease(vm, vl_lease_new(vm, volume, &krbd, "vdb", FALSE));
    vm->action = 3;
    return vm;
}

static GPtrArray *
reopened(World *world, VlJournal **ret_journal)
{
    g_autoptr(GError) error = NULL;
    vl_journal_close(g_steal_pointer(&world->daemon->journal));
    world->daemon->journal = vl_journal_open(world->dir, "boot-a", &error);
    g_assert_no_error(error);
    *ret_journal = world->daemon->journal;
    return vl_journal_read(*ret_journal);
}

/* Written only when it would say something new. */
static void
test_ensure(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlVm *vm = full_vm(world);
    g_autofree char *path = g_strdup_printf("%s/vms/%s-%" G_GINT64_FORMAT "-%" G_GUINT64_FORMAT ".json", world->dir,
                                            vm->who.uuid, vm->who.pid, vm->who.start);
    GStatBuf first, second;
    g_assert_true(vl_journal_ensure(world->daemon->journal, vm, NULL));
    g_assert_cmpint(g_stat(path, &first), ==, 0);
    g_assert_true(vl_journal_ensure(world->daemon->journal, vm, NULL));
    g_assert_cmpint(g_stat(path, &second), ==, 0);
    g_assert_cmpuint(first.st_ino, ==, second.st_ino);
    vl_vm_drop_lease(vm, vm->leases->pdata[0]);
    g_assert_true(vl_journal_ensure(world->daemon->journal, vm, NULL));
    g_autoptr(GPtrArray) entries = vl_journal_read(world->daemon->journal);
    g_assert_cmpuint(((VlJournalVm *)entries->pdata[0])->specs->len, ==, 1);
}

static void
test_round_trip(void)
{
    g_autoptr(World) world = world_new(FALSE);
    g_autoptr(GError) error = NULL;
    VlJournal *journal;
    VlVm *vm = full_vm(world);
    g_assert_true(vl_journal_write(world->daemon->journal, vm, &error));
    g_assert_true(vl_journal_write(world->daemon->journal, vm, &error)); /* replaces itself */
    g_autoptr(GPtrArray) entries = reopened(world, &journal);
    g_assert_cmpuint(entries->len, ==, 1);
    const VlJournalVm *entry = entries->pdata[0];
    g_assert_true(vl_incarnation_equal(&entry->who, &vm->who));
    g_assert_cmpstr(entry->name, ==, "web1");
    g_assert_cmpstr(entry->uri, ==, "qemu:///system");
    g_assert_cmpint(entry->action, ==, 3);
    g_assert_cmpuint(entry->specs->len, ==, 2);
    for (guint i = 0; i < 2; i++) {
        const struct vl_volume_spec *got = entry->specs->pdata[i], *want = &((VlLease *)vm->leases->pdata[i])->spec;
        g_assert_true(vl_volume_spec_equal(got, want));
        g_assert_cmpstr(got->fsid, ==, want->fsid);
        g_assert_cmpstr(got->pool_id, ==, want->pool_id);
        g_assert_cmpstr(got->image_id, ==, want->image_id);
        g_assert_cmpstr(got->path, ==, want->path);
        g_assert_cmpint(got->krbd, ==, want->krbd);
    }
    vl_journal_remove(journal, &vm->who);
    vl_journal_remove(journal, &vm->who); /* twice is nothing */
    g_autoptr(GPtrArray) none = vl_journal_read(journal);
    g_assert_cmpuint(none->len, ==, 0);
}

/* Two processes of one VM (R8) are two files. */
static void
test_incarnations(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlJournal *journal = world->daemon->journal;
    VlVm *vm = full_vm(world);
    g_assert_true(vl_journal_write(journal, vm, NULL));
    vm->who.start++;
    g_assert_true(vl_journal_write(journal, vm, NULL));
    vl_journal_remove(journal, &vm->who);
    g_autoptr(GPtrArray) entries = vl_journal_read(journal);
    g_assert_cmpuint(entries->len, ==, 1);
    g_assert_cmpuint(((VlJournalVm *)entries->pdata[0])->who.start, ==, vm->who.start - 1);
}

/* Not understood: said, set aside, and the others still count. */
static void
test_broken(void)
{
    static const char *const texts[] = {"{",
                                        "[]",
                                        "{}",
                                        "null",
                                        "{\"uuid\":7,\"name\":[],\"pid\":{}}",
                                        "{\"host\":\"h\",\"boot\":\"b\",\"uuid\":\"u\",\"name\":\"n\",\"pid\":0}"};
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(World) world = world_new(FALSE);
        g_autofree char *path = g_build_filename(world->dir, "vms", "x-1-2.json", NULL);
        g_autofree char *aside = g_strconcat(path, ".broken", NULL);
        g_assert_true(vl_journal_write(world->daemon->journal, full_vm(world), NULL));
        g_assert_true(g_file_set_contents(path, texts[i], -1, NULL));
        g_autoptr(GPtrArray) entries = vl_journal_read(world->daemon->journal);
        g_assert_cmpuint(entries->len, ==, 1);
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
        g_assert_true(g_file_test(aside, G_FILE_TEST_EXISTS));
        g_autofree char *pattern = g_strconcat(path, ": not understood*", NULL);
        g_assert_true(world_logged(world, pattern));
        g_autoptr(GPtrArray) again = vl_journal_read(world->daemon->journal);
        g_assert_cmpuint(again->len, ==, 1);
    }
}

/* What is written unsynced, for VMs without a record, may be empty after a power loss. */
static void
test_empty(void)
{
    g_autoptr(World) world = world_new(FALSE);
    g_autofree char *path = g_build_filename(world->dir, "vms", "x-1-2.json", NULL);
    g_assert_true(vl_journal_write(world->daemon->journal, world_vm(world, "plain", 0, NULL), NULL));
    g_assert_true(g_file_set_contents(path, "", 0, NULL));
    g_autoptr(GPtrArray) entries = vl_journal_read(world->daemon->journal);
    g_assert_cmpuint(entries->len, ==, 1);
    g_assert_cmpstr(((VlJournalVm *)entries->pdata[0])->name, ==, "plain");
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_false(world_logged(world, "*not understood*"));
}

/* A disk as full as it gets: the message names the file, and what was there before is still there. */
static void
test_full_disk(void)
{
    g_autoptr(World) world = world_new(FALSE);
    g_autoptr(GError) error = NULL;
    struct rlimit before, none;
    VlVm *vm = full_vm(world);
    g_assert_true(vl_journal_write(world->daemon->journal, vm, NULL));
    vm->action = 4;
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &before), ==, 0);
    none = (struct rlimit){10, before.rlim_max};
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &none), ==, 0);
    gboolean ok = vl_journal_write(world->daemon->journal, vm, &error);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &before), ==, 0);
    g_assert_false(ok);
    g_autofree char *pattern = g_strconcat(world->dir, "/vms/uuid-web1-*", NULL);
    world_assert_error(error, VL_ERR_JOURNAL, pattern);
    g_autoptr(GPtrArray) entries = vl_journal_read(world->daemon->journal);
    g_assert_cmpuint(entries->len, ==, 1);
    g_assert_cmpint(((VlJournalVm *)entries->pdata[0])->action, ==, 3);
}

static void
test_no_directory(void)
{
    g_autoptr(World) world = world_new(FALSE);
    g_autoptr(GError) error = NULL;
    g_autofree char *below_file = g_build_filename(world->dir, "boots.json", "state", NULL);
    g_autofree char *pattern = g_strconcat(below_file, "*cannot be created: *", NULL);
    g_assert_null(vl_journal_open(below_file, "boot-a", &error));
    world_assert_error(error, VL_ERR_JOURNAL, pattern);
    /* It went away later. */
    g_clear_error(&error);
    g_autofree char *vms = g_build_filename(world->dir, "vms", NULL);
    g_assert_cmpint(g_rmdir(vms), ==, 0);
    g_assert_false(vl_journal_write(world->daemon->journal, full_vm(world), &error));
    g_autofree char *gone = g_strconcat(vms, "/uuid-web1-*cannot be written: *", NULL);
    world_assert_error(error, VL_ERR_JOURNAL, gone);
}

static void
test_second_daemon(void)
{
    g_autoptr(World) world = world_new(FALSE);
    g_autoptr(GError) error = NULL;
    VlJournal *journal;
    g_assert_null(vl_journal_open(world->dir, "boot-a", &error));
    g_autofree char *pattern = g_strconcat(world->dir, "/lock: another virtleased is running*", NULL);
    world_assert_error(error, VL_ERR_JOURNAL, pattern);
    g_autoptr(GPtrArray) entries = reopened(world, &journal); /* when the first is gone */
    g_assert_cmpuint(entries->len, ==, 0);
}

static void
test_boots(void)
{
    g_autofree char *dir = g_dir_make_tmp("virtlease-unit-XXXXXX", NULL);
    g_autofree char *state = g_build_filename(dir, "a", "b", NULL); /* made with its parents */
    for (guint i = 0; i < 40; i++) {
        g_autofree char *boot = g_strdup_printf("boot-%u", i);
        VlJournal *journal = vl_journal_open(state, boot, NULL);
        g_assert_nonnull(journal);
        g_assert_true(vl_journal_knows_boot(journal, boot));
        g_assert_true(i == 0 || vl_journal_knows_boot(journal, "boot-0") == (i < 32));
        g_assert_false(vl_journal_knows_boot(journal, "boot-40"));
        vl_journal_close(journal);
    }
    VlJournal *journal = vl_journal_open(state, "boot-39", NULL);
    g_assert_true(vl_journal_knows_boot(journal, "boot-8"));
    vl_journal_close(journal);
    g_autofree char *command = g_strdup_printf("rm -r '%s'", dir);
    g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

/* Boots that cannot be read are not known: then a stranger's object is watched first (session.c), no harm done. */
static void
test_broken_boots(void)
{
    static const char *const texts[] = {"", "[", "7", "{\"boots\":{}}", "{\"boots\":[{},[],null,7,\"boot-z\"]}"};
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(World) world = world_new(FALSE);
        VlJournal *journal;
        g_autofree char *path = g_build_filename(world->dir, "boots.json", NULL);
        g_assert_true(g_file_set_contents(path, texts[i], -1, NULL));
        g_autoptr(GPtrArray) entries = reopened(world, &journal);
        g_assert_cmpuint(entries->len, ==, 0);
        g_assert_true(vl_journal_knows_boot(journal, "boot-a"));
        g_assert_cmpint(vl_journal_knows_boot(journal, "boot-z"), ==, i == G_N_ELEMENTS(texts) - 1);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/journal/ensure", test_ensure);
    g_test_add_func("/journal/round-trip", test_round_trip);
    g_test_add_func("/journal/incarnations", test_incarnations);
    g_test_add_func("/journal/broken", test_broken);
    g_test_add_func("/journal/empty", test_empty);
    g_test_add_func("/journal/full-disk", test_full_disk);
    g_test_add_func("/journal/no-directory", test_no_directory);
    g_test_add_func("/journal/second-daemon", test_second_daemon);
    g_test_add_func("/journal/boots", test_boots);
    g_test_add_func("/journal/broken-boots", test_broken_boots);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Leases in other places than a directory that everybody may write to, and hosts that do not fit together: real sanlock
 * daemons, as in test-sanlock.c. Block devices and missing rights need root. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/service/sanlock-rig.h"

#define AREA     (1024 * 1024)
#define SPACE    "__LIBVIRT__DISKS__"
#define NOBODY   65534
#define SETTINGS "SANLOCK_TEST_SPACE", "SANLOCK_TEST_SECTOR", "SANLOCK_TEST_NUM_HOSTS", "SANLOCK_TEST_USER"
#define RIGHTS   "SANLOCK_TEST_DROP_DAEMON", "SANLOCK_TEST_DROP_HOST"

typedef struct {
    Rig rig;
    char *device; /* a loop device; goes with the last that has it open, us if need be */
    int device_fd;
} Place;

static void
place_setup(Place *place, gconstpointer unused)
{
    rig_setup(&place->rig, NULL);
    place->device_fd = -1;
}

/* -> what it printed; NULL: it failed. `host`: whose sanlock daemon it talks to. */
static char *
run(const Host *host, const char *first, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE);
    char *out = NULL;
    va_list args;
    va_start(args, first);
    for (const char *word = first; word; word = va_arg(args, const char *))
        g_ptr_array_add(argv, (char *)word);
    va_end(args);
    g_ptr_array_add(argv, NULL);
    if (host)
        g_subprocess_launcher_setenv(launcher, "SANLOCK_RUN_DIR", host->run_dir, TRUE);
    g_autoptr(GSubprocess) process = g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, NULL);
    if (!process || !g_subprocess_communicate_utf8(process, NULL, NULL, &out, NULL, NULL))
        return NULL;
    g_test_message("%s %s ...: %s", first, (char *)argv->pdata[1], out);
    if (!g_subprocess_get_successful(process))
        g_clear_pointer(&out, g_free);
    return out;
}

static void
must(char *out)
{
    g_assert_nonnull(out);
    g_free(out);
}

static void
place_teardown(Place *place, gconstpointer unused)
{
    const char *const names[] = {SETTINGS, RIGHTS};
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        g_unsetenv(names[i]);
    if (place->device_fd >= 0)
        close(place->device_fd);
    g_free(place->device);
    rig_teardown(&place->rig, NULL);
}

/* NULL: skipped. `sector`: what the device says its sectors are. */
static const char *
device_new(Place *place, const char *sector)
{
    g_autofree char *file = g_build_filename(place->rig.dir, "device", NULL);
    g_autofree char *zeros = g_malloc0(4 * AREA);
    g_assert_true(g_file_set_contents(file, zeros, 4 * AREA, NULL));
    place->device = geteuid() == 0 ? run(NULL, "losetup", "-b", sector, "-f", "--show", file, NULL) : NULL;
    if (!place->device) {
        g_test_skip("no loop devices here");
        return NULL;
    }
    place->device_fd = open(g_strchomp(place->device), O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(place->device_fd, >=, 0);
    must(run(NULL, "losetup", "-d", place->device, NULL));
    return place->device;
}

static gboolean
may_drop_rights(void)
{
    g_autofree char *out = geteuid() == 0 ? run(NULL, "setpriv", "--bounding-set", "-chown", "true", NULL) : NULL;
    if (!out)
        g_test_skip("needs root and setpriv");
    return out != NULL;
}

static void
format_space(const Host *host, const char *device)
{
    g_autofree char *arg = g_strdup_printf(SPACE ":0:%s:0", device);
    must(run(host, g_getenv("VL_SANLOCK"), "client", "init", "-s", arg, "-o", "1", NULL));
}

/* One host takes it, the other is refused, until the first has let go. */
static void
check_exclusion(Host *a, Host *b, const char *lease)
{
    g_autofree char *line = g_strdup_printf("take v %s 10 0", lease);
    host_do(a, "vm v");
    host_do(b, "vm v");
    host_until(b, 10, "ok joined;*hosts 2;*", "status");
    assert_like(host_do(a, "take v %s 10 0", lease), "ok*");
    host_until(b, 5, "error held *host 1*, which is alive*", line);
    assert_like(host_do(b, "held v %s", lease), "ok none");
    assert_like(host_do(a, "drop v %s", lease), "ok");
    assert_like(host_do(b, "take v %s 10 0", lease), "ok*");
    assert_like(host_do(b, "held v %s", lease), "ok 2");
}

/* ---- the lockspace on a block device ---- */

static void
test_device(Place *place, gconstpointer unused)
{
    const char *device = device_new(place, "512");
    char head[4096], zeros[4096] = "";
    if (!device)
        return;
    g_setenv("SANLOCK_TEST_SPACE", device, TRUE);
    Host *a = host_new(&place->rig, 1), *b = host_new(&place->rig, 2);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 20, "ok formatting; *never formatted*left as it is*", "status");
    FILE *file = fopen(device, "r");
    g_assert_nonnull(file);
    g_assert_cmpuint(fread(head, sizeof(head), 1, file), ==, 1);
    fclose(file);
    g_assert_cmpmem(head, sizeof(head), zeros, sizeof(zeros));
    format_space(a, device);
    host_until(a, 40, "ok joined;*", "status");
    host_join(b);
    check_exclusion(a, b, "/disk");
    /* nothing of it in the directory: only the lease, and the hosts' names */
    g_autofree char *in_dir = g_build_filename(place->rig.leases, SPACE, NULL);
    g_assert_false(g_file_test(in_dir, G_FILE_TEST_EXISTS));
    host_free(a);
    host_free(b);
}

static void
test_device_missing(Place *place, gconstpointer unused)
{
    g_setenv("SANLOCK_TEST_SPACE", "/dev/virtlease-no-such-device", TRUE);
    Host *a = host_new(&place->rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 10, "ok formatting; /dev/virtlease-no-such-device: the file does not exist*", "status");
    g_assert_false(g_file_test("/dev/virtlease-no-such-device", G_FILE_TEST_EXISTS));
    host_free(a);
}

/* ---- sectors ---- */

static void
test_sectors_4k(Place *place, gconstpointer unused)
{
    g_setenv("SANLOCK_TEST_SECTOR", "4096", TRUE);
    Host *a = host_new(&place->rig, 1), *b = host_new(&place->rig, 2);
    host_join(a);
    host_join(b);
    check_exclusion(a, b, "/disk");
    g_autofree char *file = rig_lease_file(&place->rig, "/disk");
    g_autofree char *name = g_path_get_basename(file);
    g_autofree char *lease = g_strdup_printf(SPACE ":%s:%s:0", name, file);
    g_autofree char *leader = run(NULL, g_getenv("VL_SANLOCK"), "direct", "read_leader", "-r", lease, NULL);
    g_assert_nonnull(leader);
    assert_like(leader, "*sector_size 4096*");
    host_free(a);
    host_free(b);
}

static void
test_sectors_of_a_4k_device(Place *place, gconstpointer unused)
{
    const char *device = device_new(place, "4096");
    if (!device)
        return;
    g_setenv("SANLOCK_TEST_SPACE", device, TRUE);
    g_setenv("SANLOCK_TEST_SECTOR", "512", TRUE);
    Host *a = host_new(&place->rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 15, "ok formatting; /dev/loop*set sanlock_sector_size to 4096*", "status");
    host_stop(a);
    g_setenv("SANLOCK_TEST_SECTOR", "4096", TRUE);
    g_autofree char *arg = g_strdup_printf(SPACE ":0:%s:0", device);
    must(run(a, g_getenv("VL_SANLOCK"), "client", "init", "-s", arg, "-o", "1", "-Z", "4096", "-A", "1M", NULL));
    host_start(a);
    host_join(a);
    host_free(a);
}

/* ---- leases that are not ours: <lease> devices ---- */

typedef struct {
    char *space, *lease, *added; /* what sanlock's tools are told */
    char *spec;                  /* what the host is */
} Foreign;

static void
foreign_new(Foreign *foreign, Place *place, const Host *host, guint64 offset)
{
    g_autofree char *file = g_build_filename(place->rig.dir, "foreign", NULL);
    g_autofree char *zeros = g_malloc0(4 * AREA);
    g_assert_true(g_file_set_contents(file, zeros, 4 * AREA, NULL));
    foreign->space = g_strdup_printf("other:0:%s:0", file);
    foreign->lease = g_strdup_printf("other:key:%s:%" G_GUINT64_FORMAT, file, offset);
    foreign->spec = g_strdup(foreign->lease);
    must(run(host, g_getenv("VL_SANLOCK"), "client", "init", "-s", foreign->space, "-o", "1", NULL));
    must(run(host, g_getenv("VL_SANLOCK"), "client", "init", "-r", foreign->lease, NULL));
}

static void
foreign_join(Place *place, const Host *host)
{
    g_autofree char *arg = g_strdup_printf("other:%u:%s/foreign:0", host->number, place->rig.dir);
    must(run(host, g_getenv("VL_SANLOCK"), "client", "add_lockspace", "-s", arg, "-o", "1", NULL));
}

static void
foreign_clear(Foreign *foreign)
{
    g_free(foreign->space);
    g_free(foreign->lease);
    g_free(foreign->spec);
}

static void
test_foreign(Place *place, gconstpointer unused)
{
    Foreign foreign;
    Host *a = host_new(&place->rig, 1), *b = host_new(&place->rig, 2);
    foreign_new(&foreign, place, a, 2 * AREA);
    host_join(a);
    host_join(b);
    foreign_join(place, a);
    foreign_join(place, b);
    check_exclusion(a, b, foreign.spec);
    /* of another offset, where nothing is: never made */
    g_autofree char *odd = g_strdup_printf("other:key:%s/foreign:%d", place->rig.dir, AREA);
    assert_like(host_do(a, "take v %s 10 0", odd), "error record *lease file */foreign*never formatted*");
    g_autofree char *none = g_build_filename(place->rig.dir, "none", NULL);
    g_autofree char *made = g_build_filename(place->rig.leases, "key", NULL);
    g_autofree char *missing = g_strdup_printf("other:key:%s:0", none);
    assert_like(host_do(a, "take v %s 10 0", missing), "error missing *lease file */none*");
    g_assert_false(g_file_test(none, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(made, G_FILE_TEST_EXISTS));
    g_autofree char *other = g_strdup_printf("other:strange:%s/foreign:%d", place->rig.dir, 2 * AREA);
    assert_like(host_do(a, "take v %s 10 0", other), "error record *belongs to another volume*");
    host_free(a);
    host_free(b);
    foreign_clear(&foreign);
}

static void
test_foreign_not_joined(Place *place, gconstpointer unused)
{
    Foreign foreign;
    Host *a = host_new(&place->rig, 1);
    foreign_new(&foreign, place, a, 2 * AREA);
    host_join(a);
    host_do(a, "vm v");
    gint64 began = g_get_monotonic_time();
    assert_like(host_do(a, "take v %s 20 0", foreign.spec), "error storage *this host is not in the lockspace*");
    g_assert_cmpint(g_get_monotonic_time() - began, <, 3 * G_USEC_PER_SEC);
    assert_like(host_do(a, "held v %s", foreign.spec), "ok none");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*"); /* ours are none the worse for it */
    foreign_join(place, a);
    assert_like(host_do(a, "take v %s 10 0", foreign.spec), "ok*");
    host_free(a);
    foreign_clear(&foreign);
}

/* ---- no rights ---- */

static void
give_away(const char *path, mode_t mode)
{
    g_assert_cmpint(chown(path, NOBODY, NOBODY), ==, 0);
    g_assert_cmpint(chmod(path, mode), ==, 0);
}

/* As root on an NFS export that squashes root: nobody, in a directory that is somebody else's. */
static void
test_squashed_directory(Place *place, gconstpointer unused)
{
    if (!may_drop_rights())
        return;
    give_away(place->rig.leases, 0755);
    g_setenv("SANLOCK_TEST_DROP_HOST", "-dac_override,-dac_read_search", TRUE);
    Host *a = host_new(&place->rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 10, "ok formatting; *creating it: Permission denied*no_root_squash*", "status");
    assert_like(host_do(a, "make 0123"), "error denied *leases/0123: creating it: Permission denied*no_root_squash*");
    host_free(a);
}

/* It may create files there, but not give them to sanlock. */
static void
test_squashed_owner(Place *place, gconstpointer unused)
{
    if (!may_drop_rights())
        return;
    g_setenv("SANLOCK_TEST_DROP_HOST", "-chown", TRUE);
    g_setenv("SANLOCK_TEST_USER", "nobody", TRUE);
    Host *a = host_new(&place->rig, 1);
    assert_like(host_do(a, "start"), "ok");
    host_until(a, 10, "ok formatting; *giving it to sanlock: Operation not permitted*no_root_squash*", "status");
    assert_like(host_do(a, "make 0123"), "error denied *giving it to sanlock*no_root_squash*");
    g_autoptr(GDir) dir = g_dir_open(place->rig.leases, 0, NULL);
    g_assert_null(g_dir_read_name(dir)); /* nothing half made is left */
    host_free(a);
}

/* The lease is there, but the daemon may not open it, whatever we may. */
static void
test_daemon_may_not_open(Place *place, gconstpointer unused)
{
    if (!may_drop_rights())
        return;
    g_setenv("SANLOCK_TEST_DROP_DAEMON", "-dac_override,-dac_read_search", TRUE);
    g_autofree char *file = rig_lease_file(&place->rig, "/disk");
    Host *a = host_new(&place->rig, 1);
    host_join(a);
    host_do(a, "vm v");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    assert_like(host_do(a, "drop v /disk"), "ok");
    give_away(file, 0600);
    assert_like(host_do(a, "take v /disk 10 0"),
                "error denied *file:/disk: lease file *sanlock daemon's user may not open*");
    assert_like(host_do(a, "owner /disk"), "error denied *sanlock daemon's user may not open*");
    assert_like(host_do(a, "held v /disk"), "ok none");
    host_free(a);
}

/* ---- hosts that do not fit ---- */

static void
test_host_id_too_large(Place *place, gconstpointer unused)
{
    g_setenv("SANLOCK_TEST_NUM_HOSTS", "2", TRUE);
    Host *a = host_new(&place->rig, 1);
    host_join(a);
    host_do(a, "vm v");
    assert_like(host_do(a, "take v /small 10 0"), "ok*");
    assert_like(host_do(a, "drop v /small"), "ok");
    g_unsetenv("SANLOCK_TEST_NUM_HOSTS");
    Host *b = host_new(&place->rig, 3);
    host_join(b);
    host_do(b, "vm v");
    assert_like(host_do(b, "take v /small 10 0"),
                "error config *file:/small: *host id is larger than this lease has room*");
    assert_like(host_do(b, "held v /small"), "ok none");
    assert_like(host_do(b, "take v /disk 10 0"), "ok*"); /* made by itself, with room for 64 */
    assert_like(host_do(a, "take v /small 10 0"), "ok*");
    host_free(a);
    host_free(b);
}

/* The second one does not get in, and the first one's leases stay what they are. */
static void
test_same_host_id(Place *place, gconstpointer unused)
{
    Host *a = host_new(&place->rig, 1), *b = host_new_as(&place->rig, 2, 1);
    host_join(a);
    host_do(a, "vm v");
    host_do(b, "vm v");
    assert_like(host_do(a, "take v /disk 10 0"), "ok*");
    assert_like(host_do(b, "start"), "ok");
    /* sanlock first waits as long as a dead owner of the id would need: 8 x io_timeout + 60 s */
    host_until(b, 100, "ok formatting; *joining * as host 1: another host uses this host id*", "status");
    assert_like(host_do(b, "take v /disk 10 0"), "error storage *another host uses this host id*");
    assert_like(host_do(b, "held v /disk"), "ok none");
    assert_like(host_do(a, "held v /disk"), "ok 1");
    assert_like(host_do(a, "take v /more 10 0"), "ok*");
    assert_like(host_do(a, "status"), "ok joined;*");
    host_free(a);
    host_free(b);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/sanlock-places/" name, Place, NULL, place_setup, func, place_teardown)
    ADD("device/lockspace", test_device);
    ADD("device/missing", test_device_missing);
    ADD("sectors/4k", test_sectors_4k);
    ADD("sectors/4k-device", test_sectors_of_a_4k_device);
    ADD("foreign/joined", test_foreign);
    ADD("foreign/not-joined", test_foreign_not_joined);
    ADD("rights/squashed-directory", test_squashed_directory);
    ADD("rights/squashed-owner", test_squashed_owner);
    ADD("rights/daemon", test_daemon_may_not_open);
    ADD("hosts/id-too-large", test_host_id_too_large);
    ADD("hosts/same-id", test_same_host_id);
    return g_test_run();
}

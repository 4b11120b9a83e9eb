/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What the migration of VMs with sanlock leases reads: state strings, /proc/PID/fdinfo, its own file of versions. */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/sanlock_move_priv.h"
#include "lockd/vm.h"

#define NAME  "0123456789ab0123456789ab01234567"
#define OTHER "fedcba987654fedcba987654fedcba98"
#define TWIN  "0123456789abffffffffffffffffffff" /* the same first 12 digits as NAME */

/* ---- state strings ---- */

static gint64
version(const char *state, const char *name)
{
    VlSanlockRef ref = {.name = (char *)name};
    return vl_sanlock_version_in(state, &ref);
}

static void
test_version_there(void)
{
    g_assert_cmpint(version("token=x,sanlock=0123456789ab:7", NAME), ==, 7);
    g_assert_cmpint(version("token=x,sanlock=0123456789ab:7,more=1", NAME), ==, 7);
    g_assert_cmpint(version("token=x,sanlock=fedcba987654:3/0123456789ab:7", NAME), ==, 7);
    g_assert_cmpint(version("token=x,sanlock=fedcba987654:3/0123456789ab:7", OTHER), ==, 3);
    g_assert_cmpint(version("token=x,sanlock=0123456789ab:9223372036854775807", NAME), ==, G_MAXINT64);
}

static void
test_version_missing(void)
{
    const char *const states[] = {NULL,
                                  "",
                                  "token=x",
                                  "sanlock=0123456789ab:7", /* not a member of its own */
                                  "token=x,sanlock=",
                                  "token=x,sanlock=,0123456789ab:7",
                                  "token=x,sanlock=0123456789ab",
                                  "token=x,sanlock=0123456789a:7",
                                  "token=x,sanlock=0123456789abc:7",
                                  "token=x,sanlock=0123456789abc7",
                                  "token=x,sanlock=fedcba987654:3",
                                  "token=x,sanlock=/0123456789ac:7/",
                                  "token=x,sanlock=fedcba987654:3,0123456789ab:7",
                                  "token=x,sanlocks=0123456789ab:7"};
    for (guint i = 0; i < G_N_ELEMENTS(states); i++) {
        g_test_message("%s", states[i] ? states[i] : "NULL");
        g_assert_cmpint(version(states[i], NAME), ==, 0);
    }
}

/* What is no version is none, not the digits that it begins with. */
static void
test_version_garbage(void)
{
    const char *const texts[] = {"",
                                 "0",
                                 "-1",
                                 "-0",
                                 "7x",
                                 "x7",
                                 " 7",
                                 "7 ",
                                 "+7",
                                 "0x7",
                                 "7.",
                                 "7:8",
                                 "--7",
                                 ":7",
                                 "%n",
                                 "9223372036854775808",
                                 "99999999999999999999999999"};
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *state = g_strdup_printf("token=x,sanlock=0123456789ab:%s", texts[i]);
        g_test_message("%s", state);
        g_assert_cmpint(version(state, NAME), ==, 0);
    }
}

/* Of two leases that the state string cannot tell apart both get the version that is named first: for one of them that
 * is wrong, and sanlock refuses it as stale. */
static void
test_version_collision(void)
{
    const char *state = "token=x,sanlock=0123456789ab:7/0123456789ab:9";
    g_assert_cmpint(version(state, NAME), ==, 7);
    g_assert_cmpint(version(state, TWIN), ==, 7);
}

/* ---- fdinfo ---- */

static gboolean
locked(const char *lock)
{
    g_autofree char *text = g_strdup_printf("pos:\t0\nflags:\t02104002\nmnt_id:\t29\nino:\t101\n%s\n", lock);
    return vl_sanlock_fdinfo_locked(text);
}

static void
test_fdinfo_ranges(void)
{
    g_assert_true(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 101 101"));
    g_assert_true(locked("lock:\t1: OFDLCK ADVISORY  WRITE -1 08:01:123 101 101"));
    g_assert_true(locked("lock:\t1: OFDLCK  ADVISORY  READ -1 08:01:123 100 103"));
    g_assert_true(locked("lock:\t1: OFDLCK  ADVISORY  WRITE -1 08:01:123 0 EOF"));
    g_assert_true(locked("lock:\t1: OFDLCK  ADVISORY  READ -1 08:01:123 101 EOF"));
    g_assert_true(locked("lock:\t1: OFDLCK  ADVISORY  READ -1 08:01:123 0 101"));
    g_assert_true(
        locked("lock:\t1: OFDLCK ADVISORY READ -1 08:01:1 100 100\nlock:\t2: OFDLCK ADVISORY READ -1 08:01:1 101 101"));
    /* consistent read, write-unchanged, resize, and what others must not do (201): not a right to write */
    g_assert_false(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 100 100"));
    g_assert_false(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 102 103"));
    g_assert_false(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 201 201"));
    g_assert_false(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 102 EOF"));
}

static void
test_fdinfo_not_qemus(void)
{
    g_assert_false(vl_sanlock_fdinfo_locked(""));
    g_assert_false(vl_sanlock_fdinfo_locked("pos:\t101\nflags:\t0\nino:\t101\n"));
    g_assert_false(locked("lock:\t1: POSIX  ADVISORY  WRITE 4711 08:01:123 0 EOF"));
    g_assert_false(locked("lock:\t1: POSIX  ADVISORY  WRITE 4711 08:01:123 101 101"));
    g_assert_false(locked("lock:\t1: FLOCK  ADVISORY  WRITE 4711 08:01:123 0 EOF"));
    g_assert_false(locked("lock:\t1: LEASE  ACTIVE    WRITE 4711 08:01:123 0 EOF"));
    g_assert_false(locked("note:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 101 101"));
}

/* Cut off or odd: it may be the lock that matters. */
static void
test_fdinfo_not_understood(void)
{
    const char *whole = "lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 101 EOF";
    for (gsize len = strlen("lock:\t1: OFDLCK"); len <= strlen(whole); len++) {
        g_autofree char *cut = g_strndup(whole, len);
        g_test_message("%s", cut);
        g_assert_true(locked(cut));
    }
    g_assert_true(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 200 EO"));
    g_assert_true(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 -5 3"));
    g_assert_true(locked("lock:\t1: OFDLCK ADVISORY  READ  -1 08:01:123 200 201 "));
}

/* ---- the file of versions ---- */

typedef struct {
    VlSanlock sanlock;
    VlVms *vms;
    VlVm *vm;
    VlLease *lease;
    char *file;
} Life;

static VlLease *
lease_new(VlVm *vm, const char *first, const char *second)
{
    VlSanlockVolume *own = g_new0(VlSanlockVolume, 1);
    VlVolume *volume = g_new0(VlVolume, 1);
    struct vl_volume_spec spec = {.kind = VL_VOLUME_LEASE};
    own->refs = g_ptr_array_new_with_free_func((GDestroyNotify)vl_sanlock_ref_free);
    for (guint i = 0; i < 2; i++) {
        VlSanlockRef *ref = g_new0(VlSanlockRef, 1);
        ref->name = g_strdup(i ? second : first);
        g_ptr_array_add(own->refs, ref);
    }
    *volume = (VlVolume){.refs = 1,
                         .backend = &vl_backend_sanlock,
                         .key = g_strconcat("sanlock:", first, NULL),
                         .display = g_strdup(first),
                         .priv = own};
    VlLease *lease = vl_lease_new(vm, volume, &spec, "vda", FALSE);
    vl_volume_unref(volume);
    vl_vm_add_lease(vm, lease);
    return lease;
}

static void
setup(Life *life, gconstpointer unused)
{
    VlIncarnation who = {.uuid = (char *)"u", .pid = 7, .start = 8, .host = (char *)"h", .boot = (char *)"b"};
    life->sanlock.dir = g_dir_make_tmp("vl-versions-XXXXXX", NULL);
    life->vms = vl_vms_new();
    life->vm = vl_vm_new(life->vms, &who, "v", NULL, 0, -1);
    life->lease = lease_new(life->vm, NAME, OTHER);
    life->file = g_build_filename(life->sanlock.dir, "u-7-8.versions", NULL);
}

static void
teardown(Life *life, gconstpointer unused)
{
    (void)g_unlink(life->file);
    g_assert_cmpint(g_rmdir(life->sanlock.dir), ==, 0);
    vl_vm_drop_lease(life->vm, life->lease);
    vl_vm_unref(life->vm);
    vl_vms_free(life->vms);
    g_free(life->sanlock.dir);
    g_free(life->file);
}

/* Another life of virtleased knows nothing of the lease but what is written. */
static gboolean
load_anew(Life *life)
{
    memset(vl_sanlock_lease_of(life->lease), 0, sizeof(VlSanlockLease));
    return vl_sanlock_load_versions(&life->sanlock, life->vm, life->lease);
}

static void
test_versions_kept(Life *life, gconstpointer unused)
{
    VlSanlockLease *own = vl_sanlock_lease_of(life->lease);
    g_assert_false(vl_sanlock_had_leases(&life->sanlock, life->vm));
    own->taken = 2;
    own->lver[0] = 41;
    own->lver[1] = G_MAXINT64;
    g_assert_true(vl_sanlock_save_versions(&life->sanlock, life->vm, NULL));
    g_assert_true(vl_sanlock_had_leases(&life->sanlock, life->vm));
    g_assert_true(load_anew(life));
    g_assert_cmpint(own->lver[0], ==, 41);
    g_assert_cmpint(own->lver[1], ==, G_MAXINT64);
    g_assert_false(own->let_go);
    own->taken = 0;
    own->let_go = TRUE;
    g_assert_true(vl_sanlock_save_versions(&life->sanlock, life->vm, NULL));
    g_assert_true(load_anew(life));
    g_assert_cmpint(own->lver[0], ==, 41);
    g_assert_true(own->let_go);
    vl_sanlock_forget_versions(&life->sanlock, life->vm);
    g_assert_false(vl_sanlock_had_leases(&life->sanlock, life->vm));
    g_assert_false(load_anew(life));
    g_assert_cmpint(own->lver[0], ==, 0);
}

/* Neither taken nor let go: there is nothing to go by later. */
static void
test_versions_of_nothing(Life *life, gconstpointer unused)
{
    vl_sanlock_lease_of(life->lease)->lver[0] = 41;
    g_assert_true(vl_sanlock_save_versions(&life->sanlock, life->vm, NULL));
    g_assert_false(load_anew(life));
    g_assert_cmpint(vl_sanlock_lease_of(life->lease)->lver[0], ==, 0);
}

static void
test_versions_not_written(Life *life, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(g_rmdir(life->sanlock.dir), ==, 0);
    g_assert_false(vl_sanlock_save_versions(&life->sanlock, life->vm, &error));
    g_assert_cmpint(vl_error_code(error), ==, VL_ERR_JOURNAL);
    g_assert_cmpint(g_mkdir(life->sanlock.dir, 0700), ==, 0);
}

static void
write_versions(Life *life, const char *text)
{
    g_autofree char *shown = g_strescape(text, NULL);
    g_test_message("%s", shown);
    g_assert_true(g_file_set_contents(life->file, text, -1, NULL));
}

/* A damaged version is not "any version will do". */
static void
test_versions_damaged(Life *life, gconstpointer unused)
{
    const char *const values[] = {"x", "", "-1", "-9", "7x", "9223372036854775808", "0x7"};
    const char *const files[] = {"garbage", "[versions\n" NAME "=7\n", NAME "=7\n", "\xff\xfe"};
    VlSanlockLease *own = vl_sanlock_lease_of(life->lease);
    for (guint i = 0; i < G_N_ELEMENTS(values); i++) {
        g_autofree char *text = g_strdup_printf("[versions]\n%s=%s\n%s=5\n", NAME, values[i], OTHER);
        write_versions(life, text);
        g_assert_true(load_anew(life));
        g_assert_cmpint(own->lver[0], ==, VL_SANLOCK_LVER_UNREADABLE);
        g_assert_cmpint(own->lver[1], ==, 5);
    }
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        write_versions(life, files[i]);
        g_assert_true(load_anew(life));
        g_assert_cmpint(own->lver[0], ==, VL_SANLOCK_LVER_UNREADABLE);
        g_assert_cmpint(own->lver[1], ==, VL_SANLOCK_LVER_UNREADABLE);
    }
}

/* It is refused before sanlock is asked at all (there is no lockspace here that could be). */
static void
test_versions_damaged_not_taken(Life *life, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    VlCall call = {.deadline = G_MAXINT64};
    write_versions(life, "garbage");
    g_assert_true(load_anew(life));
    g_assert_false(vl_sanlock_take_refs(&life->sanlock, life->vm, life->lease, 0, FALSE, &call, &error));
    g_assert_cmpint(vl_error_code(error), ==, VL_ERR_STALE);
    g_assert_nonnull(strstr(error->message, NAME));
}

/* Written for other leases: those here were attached since. */
static void
test_versions_of_others(Life *life, gconstpointer unused)
{
    const char *const files[] = {"", "[versions]\n", "[versions]\nffff=3\n[let go]\nffff=true\n"};
    VlSanlockLease *own = vl_sanlock_lease_of(life->lease);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        write_versions(life, files[i]);
        g_assert_false(load_anew(life));
        g_assert_cmpint(own->lver[0], ==, 0);
        g_assert_false(own->let_go);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sanlock-move/version/there", test_version_there);
    g_test_add_func("/sanlock-move/version/missing", test_version_missing);
    g_test_add_func("/sanlock-move/version/garbage", test_version_garbage);
    g_test_add_func("/sanlock-move/version/collision", test_version_collision);
    g_test_add_func("/sanlock-move/fdinfo/ranges", test_fdinfo_ranges);
    g_test_add_func("/sanlock-move/fdinfo/not-qemus", test_fdinfo_not_qemus);
    g_test_add_func("/sanlock-move/fdinfo/not-understood", test_fdinfo_not_understood);
#define ADD(name, func) g_test_add("/sanlock-move/versions/" name, Life, NULL, setup, func, teardown)
    ADD("kept", test_versions_kept);
    ADD("of-nothing", test_versions_of_nothing);
    ADD("not-written", test_versions_not_written);
    ADD("damaged", test_versions_damaged);
    ADD("damaged-not-taken", test_versions_damaged_not_taken);
    ADD("of-others", test_versions_of_others);
    return g_test_run();
}

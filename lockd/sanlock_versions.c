/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The versions in which a process had its leases, for the next life of this daemon: with them it takes a lease again
 * only if nobody had it meanwhile.
 */
#include "lockd/backend_sanlock.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "lockd/error.h"

#define VERSIONS_GROUP "versions"
#define LET_GO_GROUP   "let go"
#define FRESH          ".new"

static char *
versions_file(const VlSanlock *sanlock, const VlVm *vm)
{
    g_autofree char *name = g_strdup_printf("%s-%" G_GINT64_FORMAT "-%" G_GUINT64_FORMAT ".versions", vm->who.uuid,
                                            vm->who.pid, vm->who.start);
    return g_build_filename(sanlock->dir, name, NULL);
}

/* Not synced: what this must survive is a crash of ours; when the host goes down, so does the process. */
static gboolean
write_unsynced(const char *file, const char *text, GError **error)
{
    g_autofree char *fresh = g_strconcat(file, FRESH, NULL);
    gsize len = strlen(text);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    errno = fd < 0 ? errno : ENOSPC; /* unless write() knows better */
    gboolean ok = fd >= 0 && write(fd, text, len) == (ssize_t)len && g_rename(fresh, file) == 0;
    if (!ok)
        vl_set_error(error, VL_ERR_JOURNAL, "%s cannot be written: %s", fresh, g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Keeps what is written of leases that are not in the table (after a restart, of disks that the status XML does not
 * name). */
gboolean
vl_sanlock_save_versions(VlSanlock *sanlock, VlVm *vm, GError **error)
{
    g_autofree char *file = versions_file(sanlock, vm);
    g_autoptr(GKeyFile) keys = g_key_file_new();
    (void)g_key_file_load_from_file(keys, file, G_KEY_FILE_NONE, NULL);
    g_autoptr(GPtrArray) leases = vl_backend_share(&vl_backend_sanlock, vm->leases, VL_LEASE_STATE_COUNT);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        const VlSanlockLease *own = vl_sanlock_lease_of(lease);
        const VlSanlockVolume *volume = lease->volume->priv;
        for (guint r = 0; r < volume->refs->len && (own->taken || own->let_go); r++) {
            g_autofree char *name = vl_sanlock_ref_id(volume->refs->pdata[r]);
            g_key_file_set_int64(keys, VERSIONS_GROUP, name, own->lver[r]);
            g_key_file_set_boolean(keys, LET_GO_GROUP, name, own->let_go);
        }
    }
    g_autofree char *text = g_key_file_to_data(keys, NULL, NULL);
    return write_unsynced(file, text, error);
}

void
vl_sanlock_drop_versions(VlSanlock *sanlock, VlVm *vm, GPtrArray *leases)
{
    g_autofree char *file = versions_file(sanlock, vm);
    g_autoptr(GKeyFile) keys = g_key_file_new();
    g_autoptr(GError) error = NULL;
    if (!g_key_file_load_from_file(keys, file, G_KEY_FILE_NONE, NULL))
        return;
    for (guint i = 0; i < leases->len; i++) {
        const VlSanlockVolume *volume = ((VlLease *)leases->pdata[i])->volume->priv;
        for (guint r = 0; r < volume->refs->len; r++) {
            g_autofree char *name = vl_sanlock_ref_id(volume->refs->pdata[r]);
            (void)g_key_file_remove_key(keys, VERSIONS_GROUP, name, NULL);
            (void)g_key_file_remove_key(keys, LET_GO_GROUP, name, NULL);
        }
    }
    g_auto(GStrv) left = g_key_file_get_keys(keys, VERSIONS_GROUP, NULL, NULL);
    g_autofree char *text = g_key_file_to_data(keys, NULL, NULL);
    if (!left || !left[0])
        vl_sanlock_forget_versions(sanlock, vm);
    else if (!write_unsynced(file, text, &error))
        g_warning("VM %s: %s", vm->name, error->message);
}

/* A version that is there and cannot be read is one that nobody has: not having one would be no condition at all. */
static gint64
version_of(GKeyFile *keys, const char *name)
{
    g_autofree char *text = g_key_file_get_value(keys, VERSIONS_GROUP, name, NULL);
    guint64 version;
    if (!text)
        return 0;
    return g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, &version, NULL) ? (gint64)version
                                                                               : VL_SANLOCK_LVER_UNREADABLE;
}

gboolean
vl_sanlock_load_versions(VlSanlock *sanlock, VlVm *vm, VlLease *lease)
{
    g_autofree char *file = versions_file(sanlock, vm);
    g_autoptr(GKeyFile) keys = g_key_file_new();
    g_autoptr(GError) error = NULL;
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = lease->volume->priv;
    gboolean any = FALSE;
    gboolean readable = g_key_file_load_from_file(keys, file, G_KEY_FILE_NONE, &error);
    if (g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
        return FALSE;
    for (guint i = 0; i < volume->refs->len; i++) {
        g_autofree char *name = vl_sanlock_ref_id(volume->refs->pdata[i]);
        own->lver[i] = readable ? version_of(keys, name) : VL_SANLOCK_LVER_UNREADABLE;
        own->let_go = own->let_go || g_key_file_get_boolean(keys, LET_GO_GROUP, name, NULL);
        any = any || !readable || g_key_file_has_key(keys, VERSIONS_GROUP, name, NULL);
    }
    return any;
}

gboolean
vl_sanlock_had_leases(VlSanlock *sanlock, const VlVm *vm)
{
    g_autofree char *file = versions_file(sanlock, vm);
    return g_file_test(file, G_FILE_TEST_EXISTS);
}

void
vl_sanlock_forget_versions(VlSanlock *sanlock, VlVm *vm)
{
    g_autofree char *file = versions_file(sanlock, vm);
    g_autofree char *fresh = g_strconcat(file, FRESH, NULL); /* of a life that was cut short */
    (void)g_unlink(file);
    (void)g_unlink(fresh);
}

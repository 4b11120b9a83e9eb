/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/lockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/procinfo.h"

#define LEASE_BYTE 0
#define GUARD_BYTE 1
#define POLL_US    (5 * 1000)
#define GUARD_S    5.0
#define SIZE_MAX_B (1024 * 1024) /* thousands of holders of one shared volume */

struct VlLockfile {
    char *path;
    int fd;
    VlIncarnation who;
};

static void
entry_free(gpointer data)
{
    VlLockfileEntry *entry = data;
    vl_incarnation_clear(&entry->who);
    g_free(entry->vm);
    g_free(entry);
}

/* ---- locks ---- */

static gboolean
lock_byte(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static gboolean
failed(const char *path, const char *what, int error_number, GError **error)
{
    vl_set_error(error, VL_ERR_STORAGE, "lock file %s %s: %s", path, what, g_strerror(error_number));
    return FALSE;
}

/* Opens the file and locks its text. It may be removed by its last holder in between: then it is opened anew. */
static int
open_guarded(const char *path, int flags, const VlCall *call, GError **error)
{
    gint64 until = vl_call_within(call, GUARD_S);
    for (;;) {
        struct stat named, opened;
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
        if (fd < 0) {
            failed(path, "cannot be opened", errno, error);
            return -1;
        }
        while (!lock_byte(fd, F_WRLCK, GUARD_BYTE)) {
            int why = errno;
            if ((why != EAGAIN && why != EACCES) || vl_clock_now() >= until) {
                failed(path, "cannot be locked", why, error);
                close(fd);
                return -1;
            }
            vl_clock_sleep_until(vl_clock_now() + POLL_US, NULL);
        }
        if (fstat(fd, &opened) == 0 && stat(path, &named) == 0 && named.st_ino == opened.st_ino &&
            named.st_dev == opened.st_dev)
            return fd;
        close(fd);
        if (vl_clock_now() >= until) {
            failed(path, "keeps changing", EAGAIN, error);
            return -1;
        }
    }
}

/* ---- text ---- */

static gboolean
is_alive(const VlIncarnation *who, const char *boot)
{
    g_autoptr(GError) error = NULL;
    if (g_strcmp0(who->boot, boot) != 0)
        return FALSE;
    int pidfd = vl_proc_open((pid_t)who->pid, who->start, &error);
    gboolean alive = pidfd >= 0 ? !vl_proc_exited(pidfd) : vl_error_code(error) != VL_ERR_MISSING;
    if (pidfd >= 0)
        close(pidfd);
    return alive;
}

static VlLockfileEntry *
read_entry(GKeyFile *keys, const char *group)
{
    VlLockfileEntry *entry = g_new0(VlLockfileEntry, 1);
    entry->who.host = g_key_file_get_string(keys, group, "host", NULL);
    entry->who.boot = g_key_file_get_string(keys, group, "boot", NULL);
    entry->who.uuid = g_key_file_get_string(keys, group, "uuid", NULL);
    entry->who.pid = g_key_file_get_int64(keys, group, "pid", NULL);
    entry->who.start = g_key_file_get_uint64(keys, group, "start", NULL);
    entry->vm = g_key_file_get_string(keys, group, "vm", NULL);
    entry->shared = g_key_file_get_boolean(keys, group, "shared", NULL);
    entry->since = g_key_file_get_int64(keys, group, "since", NULL);
    if (!entry->vm)
        entry->vm = g_strdup("?");
    if (entry->who.uuid && entry->who.boot && entry->who.pid > 0)
        return entry;
    entry_free(entry);
    return NULL;
}

/* NULL with errno: it cannot be read. What is not understood is nobody: a file cut short by a power loss is of an
 * earlier boot, and the lock itself tells whether a virtleased holds it. */
static GPtrArray *
read_living(int fd, const char *boot)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return NULL;
    if (st.st_size > SIZE_MAX_B) {
        errno = EFBIG;
        return NULL;
    }
    g_autofree char *text = g_malloc((gsize)st.st_size + 1);
    ssize_t len = pread(fd, text, (gsize)st.st_size, 0);
    if (len < 0)
        return NULL;
    GPtrArray *entries = g_ptr_array_new_with_free_func(entry_free);
    g_autoptr(GKeyFile) keys = g_key_file_new();
    if (len == 0 || !g_key_file_load_from_data(keys, text, (gsize)len, G_KEY_FILE_NONE, NULL))
        return entries;
    g_auto(GStrv) groups = g_key_file_get_groups(keys, NULL);
    for (gsize i = 0; groups[i]; i++) {
        VlLockfileEntry *entry = read_entry(keys, groups[i]);
        if (entry && is_alive(&entry->who, boot))
            g_ptr_array_add(entries, entry);
        else if (entry)
            entry_free(entry);
    }
    return entries;
}

static gboolean
write_entries(int fd, const GPtrArray *entries)
{
    g_autoptr(GKeyFile) keys = g_key_file_new();
    for (guint i = 0; i < entries->len; i++) {
        const VlLockfileEntry *entry = entries->pdata[i];
        g_autofree char *group = g_strdup_printf("holder %u", i);
        g_key_file_set_string(keys, group, "host", entry->who.host ? entry->who.host : "");
        g_key_file_set_string(keys, group, "boot", entry->who.boot);
        g_key_file_set_string(keys, group, "uuid", entry->who.uuid);
        g_key_file_set_int64(keys, group, "pid", entry->who.pid);
        g_key_file_set_uint64(keys, group, "start", entry->who.start);
        g_key_file_set_string(keys, group, "vm", entry->vm);
        g_key_file_set_boolean(keys, group, "shared", entry->shared);
        g_key_file_set_int64(keys, group, "since", entry->since);
    }
    gsize len = 0;
    g_autofree char *text = g_key_file_to_data(keys, &len, NULL);
    ssize_t wrote = pwrite(fd, text, len, 0);
    if (wrote >= 0 && (gsize)wrote != len)
        errno = ENOSPC;
    return wrote >= 0 && (gsize)wrote == len && ftruncate(fd, (off_t)len) == 0;
}

/* ---- taking ---- */

static const VlLockfileEntry *
in_the_way(const GPtrArray *living, const VlLockfileHolder *holder)
{
    for (guint i = 0; i < living->len; i++) {
        const VlLockfileEntry *entry = living->pdata[i];
        if (!vl_incarnation_equal(&entry->who, holder->who) && !(holder->shared && entry->shared))
            return entry;
    }
    return NULL;
}

static gboolean
refuse(const VlLockfileEntry *entry, const char *path, const VlLockfileHolder *holder, GError **error)
{
    if (!entry) {
        vl_set_error(error, VL_ERR_CHANGED,
                     "%s is in use: its lock file %s is locked, but by no VM that still runs on this host. Look for a "
                     "second virtleased, or try again",
                     holder->volume, path);
        return FALSE;
    }
    g_autoptr(GDateTime) since = g_date_time_new_from_unix_local(entry->since);
    g_autofree char *when = since ? g_date_time_format(since, "%F %T") : g_strdup("?");
    vl_set_error(error, VL_ERR_HELD,
                 "%s is in use: leased%s by VM '%s' on this host, process %" G_GINT64_FORMAT
                 ", since %s. Stop that VM first",
                 holder->volume, entry->shared ? " (shared)" : "", entry->vm, entry->who.pid, when);
    return FALSE;
}

static void
put_entry(GPtrArray *living, const VlLockfileHolder *holder)
{
    gint64 since = g_get_real_time() / G_USEC_PER_SEC;
    for (guint i = living->len; i > 0; i--) {
        const VlLockfileEntry *old = living->pdata[i - 1];
        if (!vl_incarnation_equal(&old->who, holder->who))
            continue;
        since = old->since; /* a restarted virtleased takes again what the VM has had all the time */
        g_ptr_array_remove_index(living, i - 1);
    }
    VlLockfileEntry *entry = g_new0(VlLockfileEntry, 1);
    vl_incarnation_copy(&entry->who, holder->who);
    entry->vm = g_strdup(holder->vm);
    entry->shared = holder->shared;
    entry->since = since;
    g_ptr_array_add(living, entry);
}

/* Guard held. */
static gboolean
take_guarded(int fd, const char *path, const VlLockfileHolder *holder, GError **error)
{
    g_autoptr(GPtrArray) living = read_living(fd, holder->who->boot);
    if (!living)
        return failed(path, "cannot be read", errno, error);
    const VlLockfileEntry *other = in_the_way(living, holder);
    if (other)
        return refuse(other, path, holder, error);
    if (!lock_byte(fd, holder->shared ? F_RDLCK : F_WRLCK, LEASE_BYTE)) {
        int why = errno;
        return why == EAGAIN || why == EACCES ? refuse(NULL, path, holder, error)
                                              : failed(path, "cannot be locked", why, error);
    }
    put_entry(living, holder);
    VL_FAULT("local-before-write");
    if (!write_entries(fd, living))
        return failed(path, "cannot be written", errno, error);
    return TRUE;
}

VlLockfile *
vl_lockfile_take(const char *dir, const char *name, const VlLockfileHolder *holder, const VlCall *call, GError **error)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open_guarded(path, O_CREAT, call, error);
    if (fd < 0)
        return NULL;
    gboolean ok = take_guarded(fd, path, holder, error);
    (void)lock_byte(fd, F_UNLCK, GUARD_BYTE);
    if (!ok) {
        close(fd);
        return NULL;
    }
    VlLockfile *file = g_new0(VlLockfile, 1);
    file->path = g_steal_pointer(&path);
    file->fd = fd;
    vl_incarnation_copy(&file->who, holder->who);
    return file;
}

gboolean
vl_lockfile_in_place(const VlLockfile *file)
{
    struct stat named, opened;
    return fstat(file->fd, &opened) == 0 && stat(file->path, &named) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

/* ---- letting go ---- */

static void
strike(VlLockfile *file)
{
    g_autoptr(GPtrArray) living = read_living(file->fd, file->who.boot);
    if (!living)
        return;
    for (guint i = living->len; i > 0; i--)
        if (vl_incarnation_equal(&((VlLockfileEntry *)living->pdata[i - 1])->who, &file->who))
            g_ptr_array_remove_index(living, i - 1);
    if (living->len)
        (void)write_entries(file->fd, living);
    else
        (void)unlink(file->path);
}

void
vl_lockfile_free(VlLockfile *file)
{
    if (!file)
        return;
    VlCall call = {.deadline = vl_deadline_in(GUARD_S)};
    int guard = vl_lockfile_in_place(file) ? open_guarded(file->path, 0, &call, NULL) : -1;
    if (guard >= 0)
        strike(file);
    close(file->fd);
    if (guard >= 0)
        close(guard);
    g_free(file->path);
    vl_incarnation_clear(&file->who);
    g_free(file);
}

/* Nobody's: no holder lives, and no other process has the lease's byte. */
static void
sweep_file(const char *path, const char *boot)
{
    VlCall call = {.deadline = vl_deadline_in(0.1)};
    int fd = open_guarded(path, 0, &call, NULL);
    if (fd < 0)
        return;
    g_autoptr(GPtrArray) living = read_living(fd, boot);
    if (living && !living->len && lock_byte(fd, F_WRLCK, LEASE_BYTE))
        (void)unlink(path);
    close(fd);
}

void
vl_lockfile_sweep(const char *dir, const char *boot)
{
    GDir *entries = g_dir_open(dir, 0, NULL);
    const char *name;
    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        if (g_str_has_suffix(name, ".lease"))
            sweep_file(path, boot);
    }
    if (entries)
        g_dir_close(entries);
}

/* ---- looking ---- */

GPtrArray *
vl_lockfile_holders(const char *dir, const char *name, const char *boot, GError **error)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno != ENOENT) {
        failed(path, "cannot be read", errno, error);
        return NULL;
    }
    if (fd < 0)
        return g_ptr_array_new_with_free_func(entry_free);
    GPtrArray *living = read_living(fd, boot);
    if (!living)
        failed(path, "cannot be read", errno, error);
    close(fd);
    return living;
}

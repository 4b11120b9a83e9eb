/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Live migration. sanlock cannot hand a lease from host to host, so for a moment nobody has it: the source lets go when
 * its QEMU has (R7), the destination takes it before its CPUs run. What makes that safe is the lease's version, which
 * grows whenever somebody takes it: the destination takes it only in the version that the source had, and a
 * source that gets its VM back only in the version it let go. Whoever came in between changed it, and both are
 * refused (R1).
 */
#include "lockd/sanlock_move_priv.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/fault.h"

#define STEP_S       10.0
#define POLL_US      (10 * 1000)
#define SLOW_POLL_US (500 * 1000)
#define SLOW_AFTER_S 10
#define NO_LOCK_S    1   /* a QEMU that never showed a lock has let go so long after its CPUs stopped */
#define HANDOVER_S   60  /* how long a destination waits for the source to let go */
#define WRITE_BYTE   101 /* QEMU's file-posix.c: RAW_LOCK_PERM_BASE + the bit of BLK_PERM_WRITE */
#define NAME_DIGITS  12  /* of the lease's name, in the state string: enough to tell a VM's leases apart */
#define STATE_NAME   ",sanlock="

/* ---- going ---- */

typedef enum { OPEN_NOT, OPEN_UNLOCKED, OPEN_LOCKED } Open;

static gboolean
to_number(const char *text, guint64 max, guint64 *ret)
{
    return g_ascii_string_to_unsigned(text, 10, 0, max, ret, NULL);
}

/* "lock:\t1: OFDLCK ADVISORY  READ -1 08:01:123 101 101". A lock of QEMU's kind that is not understood may cover
 * everything: what is not proven to be let go is kept. */
static gboolean
covers_write_byte(const char *line)
{
    if (!g_str_has_prefix(line, "lock:") || !strstr(line, "OFDLCK"))
        return FALSE;
    g_auto(GStrv) words = g_strsplit_set(line, " \t", -1);
    guint n = g_strv_length(words);
    guint64 start, end = G_MAXUINT64;
    gboolean understood = n > 2 && to_number(words[n - 2], G_MAXUINT64, &start) &&
                          (g_str_equal(words[n - 1], "EOF") || to_number(words[n - 1], G_MAXUINT64, &end));
    return !understood || (start <= WRITE_BYTE && end >= WRITE_BYTE);
}

gboolean
vl_sanlock_fdinfo_locked(const char *text)
{
    gboolean locked = FALSE;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; lines[i] && !locked; i++)
        locked = covers_write_byte(lines[i]);
    return locked;
}

static gboolean
descriptor_locked(const char *proc, const char *number)
{
    g_autofree char *file = g_build_filename(proc, "fdinfo", number, NULL);
    g_autofree char *text = NULL;
    return g_file_get_contents(file, &text, NULL, NULL) && vl_sanlock_fdinfo_locked(text);
}

static gboolean
is_file(const char *path, const VlFileId *id)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return FALSE;
    return S_ISBLK(st.st_mode) ? !id->ino && st.st_rdev == id->dev : st.st_dev == id->dev && st.st_ino == id->ino;
}

static Open
qemu_has(const VlVm *vm, const VlFileId *id)
{
    g_autofree char *proc = g_strdup_printf("/proc/%" G_GINT64_FORMAT, vm->who.pid);
    g_autofree char *fds = g_build_filename(proc, "fd", NULL);
    g_autoptr(GDir) dir = g_dir_open(fds, 0, NULL);
    Open open = dir ? OPEN_NOT : OPEN_LOCKED; /* it cannot be told, so it may write */
    for (const char *name; dir && open != OPEN_LOCKED && (name = g_dir_read_name(dir));) {
        g_autofree char *path = g_build_filename(fds, name, NULL);
        if (is_file(path, id))
            open = descriptor_locked(proc, name) ? OPEN_LOCKED : OPEN_UNLOCKED;
    }
    return open;
}

void
vl_sanlock_note_locks(const GPtrArray *leases)
{
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        VlSanlockLease *own = vl_sanlock_lease_of(lease);
        const VlSanlockVolume *volume = lease->volume->priv;
        own->lock_seen = own->lock_seen || (volume->is_file && qemu_has(lease->vm, &volume->id) == OPEN_LOCKED);
    }
}

/* QEMU does not write any more. One that never showed a lock (locking=off) is given a moment for its last writes. */
static gboolean
has_let_go(VlLease *lease, gint64 stopped)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = lease->volume->priv;
    Open open = volume->is_file ? qemu_has(lease->vm, &volume->id) : OPEN_UNLOCKED;
    own->lock_seen = own->lock_seen || open == OPEN_LOCKED;
    if (open == OPEN_LOCKED)
        return FALSE;
    return open == OPEN_NOT || own->lock_seen || vl_clock_now() >= stopped + NO_LOCK_S * G_USEC_PER_SEC;
}

/* Written down first: without its version nobody here could ever take it again. */
static void
let_go(VlSanlock *sanlock, VlVm *vm, VlLease *lease)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    g_autoptr(GError) error = NULL;
    own->let_go = TRUE;
    if (!vl_sanlock_save_versions(sanlock, vm, &error)) {
        own->let_go = FALSE;
        g_warning("VM %s: %s is not released for its migration: %s", vm->name, lease->volume->display, error->message);
        return;
    }
    if (!vl_sanlock_release_refs(sanlock, vm, lease, vl_deadline_in(STEP_S), &error)) {
        own->let_go = FALSE;
        g_warning("VM %s: %s is not released for its migration yet: %s", vm->name, lease->volume->display,
                  error->message);
        return;
    }
    g_message("VM %s: %s released for its migration, in version %" G_GINT64_FORMAT, vm->name, lease->volume->display,
              own->lver[0]);
}

typedef struct {
    VlVm *vm;
    gint64 stopped;
} Going;

static void
going_free(gpointer data)
{
    Going *going = data;
    g_atomic_int_set(&going->vm->sanlock_going, 0);
    vl_vm_unref(going->vm);
    g_free(going);
}

/* One look, the operation lock held. TRUE: there is something left to wait for. */
static gboolean
going_step(VlSanlock *sanlock, VlVm *vm, gint64 stopped)
{
    gboolean left = FALSE;
    if (vm->running || !vm->migrating || g_atomic_int_get(&vm->exited))
        return FALSE;
    g_autoptr(GPtrArray) leases = vl_backend_share(&vl_backend_sanlock, vm->leases, VL_LEASE_PARKED);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (!vl_sanlock_lease_of(lease)->let_go && has_let_go(lease, stopped))
            let_go(sanlock, vm, lease);
        left = left || !vl_sanlock_lease_of(lease)->let_go;
    }
    return left;
}

static void
going_job(VlDaemon *daemon, gpointer data)
{
    Going *going = data;
    gboolean left = TRUE;
    while (left && !g_atomic_int_get(&daemon->stopping)) {
        gboolean slow = vl_clock_now() > going->stopped + SLOW_AFTER_S * G_USEC_PER_SEC;
        g_mutex_lock(&going->vm->op);
        left = going_step(vl_sanlock_of(daemon), going->vm, going->stopped);
        g_mutex_unlock(&going->vm->op);
        if (left)
            vl_clock_sleep_until(vl_clock_now() + (slow ? SLOW_POLL_US : POLL_US), NULL);
    }
}

/* The CPUs stop before QEMU has written its last, and nobody tells when that is done. */
void
vl_sanlock_depart(VlDaemon *daemon, VlVm *vm, GPtrArray *leases)
{
    if (!g_atomic_int_compare_and_exchange(&vm->sanlock_going, 0, 1))
        return;
    Going *going = g_new0(Going, 1);
    going->vm = vl_vm_ref(vm);
    going->stopped = vl_clock_now();
    vl_daemon_run(daemon, going_job, going, going_free);
}

/* ---- coming ---- */

void
vl_sanlock_state(const VlVm *vm, const GPtrArray *leases, GString *state)
{
    const char *before = STATE_NAME;
    /* Also asked right after its CPUs stopped, perhaps the last time that a migrating QEMU still shows its locks. */
    vl_sanlock_note_locks(leases);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        const VlSanlockLease *own = lease->priv;
        const VlSanlockVolume *volume = lease->volume->priv;
        for (guint r = 0; own && !lease->shared && r < volume->refs->len; r++) {
            g_autofree char *id = vl_sanlock_ref_id(volume->refs->pdata[r]);
            g_string_append_printf(state, "%s%.*s:%" G_GINT64_FORMAT, before, NAME_DIGITS, id, own->lver[r]);
            before = "/";
        }
    }
}

gint64
vl_sanlock_version_in(const char *state, const VlSanlockRef *ref)
{
    g_autofree char *id = vl_sanlock_ref_id(ref);
    const char *list = state ? strstr(state, STATE_NAME) : NULL;
    guint64 version;
    if (!list)
        return 0;
    g_autofree char *mine = g_strndup(list + strlen(STATE_NAME), strcspn(list + strlen(STATE_NAME), ","));
    g_auto(GStrv) items = g_strsplit(mine, "/", -1);
    for (guint i = 0; items[i]; i++)
        if (strncmp(items[i], id, NAME_DIGITS) == 0 && items[i][NAME_DIGITS] == ':')
            return to_number(items[i] + NAME_DIGITS + 1, G_MAXINT64, &version) ? (gint64)version : 0;
    return 0;
}

/* *ret_foreign: another host has one of its refs, and that can only be the source (else the take of what is free
 * would refuse). The versions are those of now; the source keeps them until it lets go. */
static gboolean
look_at_source(VlSanlock *sanlock, VlLease *lease, const VlCall *call, gboolean *ret_foreign, GError **error)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = lease->volume->priv;
    *ret_foreign = FALSE;
    for (guint i = 0; i < volume->refs->len; i++) {
        guint64 host = 0, lver = 0;
        g_autoptr(GError) local = NULL;
        g_free(vl_sanlock_lease_owner(sanlock->space, volume->refs->pdata[i], vl_call_within(call, STEP_S), &host,
                                      &lver, &local));
        if (local && vl_error_code(local) != VL_ERR_MISSING) {
            g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s: ", lease->volume->display);
            return FALSE;
        }
        own->lver[i] = host ? (gint64)lver : 0;
        *ret_foreign = *ret_foreign || (host && host != sanlock->conf.host_id);
    }
    return TRUE;
}

gboolean
vl_sanlock_begin_incoming(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free, const VlCall *call,
                          GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        gboolean foreign = FALSE;
        if (!lease->shared && !vl_sanlock_space_wait(sanlock->space, call, lease->volume->display, error))
            return FALSE;
        if (!lease->shared && !look_at_source(sanlock, lease, call, &foreign, error))
            return FALSE;
        if (!foreign) {
            memset(vl_sanlock_lease_of(lease)->lver, 0, sizeof(vl_sanlock_lease_of(lease)->lver));
            g_ptr_array_add(ret_free, lease);
            continue;
        }
        vl_lease_set_state(lease, VL_LEASE_TAKING, "VM comes in");
        vl_lease_set_state(lease, VL_LEASE_INCOMING, "still its source's");
    }
    return TRUE;
}

static gboolean
finish_one(VlSanlock *sanlock, VlVm *vm, VlLease *lease, const char *state, const VlCall *call, GError **error)
{
    VlSanlockLease *own = vl_sanlock_lease_of(lease);
    const VlSanlockVolume *volume = lease->volume->priv;
    VlCall bounded = *call;
    bounded.deadline = vl_call_within(call, HANDOVER_S);
    gboolean told = FALSE;
    for (guint i = 0; i < volume->refs->len; i++) {
        gint64 lver = vl_sanlock_version_in(state, volume->refs->pdata[i]);
        told = told || lver > 0;
        own->lver[i] = lver > 0 ? lver : own->lver[i];
    }
    if (!told) {
        vl_set_error(
            error, VL_ERR_STALE,
            "%s: the source host gave no version of its lease; virtlease must guard the VM there by sanlock too",
            lease->volume->display);
        return FALSE;
    }
    return vl_sanlock_take_local(sanlock, vm, lease, call, error) &&
           vl_sanlock_take_refs(sanlock, vm, lease, 0, TRUE, &bounded, error);
}

gboolean
vl_sanlock_finish_incoming(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *state, const VlCall *call,
                           GError **error)
{
    VlSanlock *sanlock = vl_sanlock_of(daemon);
    VL_FAULT("before-hand-over");
    for (guint i = 0; i < leases->len; i++)
        if (!finish_one(sanlock, vm, leases->pdata[i], state, call, error))
            return FALSE;
    if (!vl_sanlock_verify(sanlock, vm, leases, vl_call_within(call, STEP_S), error) ||
        !vl_sanlock_save_versions(sanlock, vm, error))
        return FALSE;
    for (guint i = 0; i < leases->len; i++)
        vl_lease_set_state(leases->pdata[i], VL_LEASE_PARKED, "handed over by its source");
    return TRUE;
}

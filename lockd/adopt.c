/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/adopt.h"

#include <string.h>
#include <unistd.h>

#include "lockd/disks.h"
#include "lockd/error.h"
#include "lockd/keep.h"
#include "lockd/leases.h"
#include "lockd/procinfo.h"
#include "lockd/register.h"
#include "lockd/statusxml.h"

#define SYSTEM_URI "qemu:///system"
#define ATTEMPT_S  30.0
#define RETRY_S    2.0
#define STEP_S     6
/* Records of a sweep read in one go. */
#define SWEEP_AT_ONCE 64

static void
set_adopting(VlVm *vm, gboolean adopting)
{
    vl_vms_lock(vm->vms);
    vm->adopting = adopting;
    vl_vms_unlock(vm->vms);
}

/* ---- leases of a running VM ---- */

/* Leases without a record are let go of when they are dropped, so those that we have stay. */
static void
drop_leases(VlVm *vm)
{
    for (guint i = vm->leases->len; i > 0; i--) {
        VlLease *lease = vm->leases->pdata[i - 1];
        if (lease->volume->place || !vl_lease_is_ours(lease))
            vl_vm_drop_lease(vm, lease);
    }
}

/* The token that libvirt may have in its state string lives in the record. */
static void
keep_token(VlVm *vm)
{
    for (guint i = 0; i < vm->leases->len; i++) {
        const VlHolder *holder = vl_lease_holder(vm->leases->pdata[i]);
        if (holder && *holder->token && ((VlLease *)vm->leases->pdata[i])->kept) {
            g_free(vm->token);
            vm->token = g_strdup(holder->token);
            return;
        }
    }
}

/* An incoming migration goes on where the daemon left it: its leases are still the source's, or ours by now. */
static gboolean
take_adopted(VlDaemon *daemon, VlVm *vm, const VlDomain *domain, GPtrArray *fresh, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) others = g_ptr_array_new();
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    gboolean incoming = domain->async_job && g_str_equal(domain->async_job, "migration in");
    if (!vl_keep_leases(daemon, vm, fresh, others, call, error))
        return FALSE;
    if (incoming && !vl_incoming_begin(daemon, vm, others, rest, call, error))
        return FALSE;
    return vl_take_all(daemon, vm, incoming ? rest : others, daemon->settings->takeover_wait, call, error);
}

/* What the records said before we came stays as it was: HELD keeps its token, which may be on its way in libvirt's
 * migration state, and PARKED stays PARKED even if the XML still says running (the Release came first). A paused VM
 * whose record says HELD stopped while no daemon ran: that is made up for now, because a migration's destination may be
 * waiting for it (R17). TRUE: some lease is new to a running VM. */
static gboolean
restore_states(VlDaemon *daemon, VlVm *vm, const VlDomain *domain)
{
    gboolean fresh = FALSE;
    gboolean held = FALSE;
    gboolean stopped = domain->paused; /* or so a record says */
    gboolean plain = FALSE;            /* leases without a record go with the others */
    for (guint i = 0; i < vm->leases->len; i++) {
        VlLease *lease = vm->leases->pdata[i];
        plain = plain || (lease->state == VL_LEASE_PARKED && !lease->volume->place);
        const VlHolder *holder = lease->state == VL_LEASE_PARKED ? vl_lease_holder(lease) : NULL;
        if (!holder)
            continue;
        vm->migrating = vm->migrating || lease->record->heirs->len;
        fresh = fresh || !lease->kept;
        if (holder->held)
            vl_lease_set_state(lease, VL_LEASE_HELD, "held before");
        held = held || holder->held;
        stopped = stopped || (lease->kept && !holder->held);
    }
    if (domain->paused)
        vl_park_all(daemon, vm);
    else if (held)
        vl_vm_set_running(vm, TRUE);
    return (fresh && !domain->paused) || ((plain || !vm->leases->len) && !stopped);
}

/* Leases without a record come first, and whatever becomes of the others: the storage of those may be away for long. */
static gboolean
take_plain(VlDaemon *daemon, VlVm *vm, GPtrArray *fresh, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) plain = g_ptr_array_new();
    for (guint i = fresh->len; i > 0; i--) {
        VlLease *lease = fresh->pdata[i - 1];
        lease->open_already = TRUE;
        if (!lease->volume->place)
            g_ptr_array_add(plain, g_ptr_array_remove_index(fresh, i - 1));
    }
    return vl_take_all(daemon, vm, plain, daemon->settings->takeover_wait, call, error);
}

static gboolean
adopt_leases(VlDaemon *daemon, VlVm *vm, const VlDomain *domain, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) fresh = g_ptr_array_new();
    gboolean known = vl_disks_add(daemon, vm, domain, call, fresh, error);
    if (!take_plain(daemon, vm, fresh, call, known ? error : NULL) || !known) {
        drop_leases(vm);
        return FALSE;
    }
    if (!take_adopted(daemon, vm, domain, fresh, call, error))
        return FALSE;
    keep_token(vm);
    return !restore_states(daemon, vm, domain) || vl_hold_all(daemon, vm, call, error);
}

static gboolean
adopt_attempt(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error)
{
    g_autoptr(VlDomain) domain = vl_disks_domain(daemon, vm->uri, vm->name, vm->who.uuid, vm->who.pid, call, error);
    return domain && adopt_leases(daemon, vm, domain, call, error);
}

static void
index_job(VlDaemon *daemon, gpointer data)
{
    vl_keep_index(daemon);
}

/* The index is written once for all VMs found at the start; for one that had to wait for its storage, when it is
 * through. */
static void
index_adopted(VlDaemon *daemon, gboolean first, gboolean ok)
{
    if (first ? g_atomic_int_dec_and_test(&daemon->adopting) : ok)
        vl_daemon_run(daemon, index_job, NULL, NULL);
}

/* Storage that is away is waited for; a VM whose disks are leased by somebody else is said loudly. */
static void
adopt_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    for (gboolean first = TRUE;; first = FALSE) {
        g_autoptr(GError) error = NULL;
        VlCall call = {.deadline = vl_deadline_in(ATTEMPT_S), .gone = &vm->exited};
        g_mutex_lock(&vm->op);
        gboolean ok = adopt_attempt(daemon, vm, &call, &error);
        enum vl_error code = vl_error_code(error);
        gboolean again = !ok && (code == VL_ERR_STORAGE || code == VL_ERR_TIMEOUT || code == VL_ERR_CHANGED ||
                                 code == VL_ERR_NO_ADDRESS || code == VL_ERR_UNKNOWN_OWNER);
        if (again && !g_atomic_int_get(&vm->exited))
            drop_leases(vm);
        vm->unadopted = !ok;
        g_mutex_unlock(&vm->op);
        index_adopted(daemon, first, ok);
        if (ok)
            g_message("VM %s (process %" G_GINT64_FORMAT "): adopted with %u lease(s)", vm->name, vm->who.pid,
                      vm->leases->len);
        else
            g_warning("VM %s (process %" G_GINT64_FORMAT ") runs, but has NO lease%s: %s", vm->name, vm->who.pid,
                      again ? " yet" : "", error->message);
        if (!again || g_atomic_int_get(&vm->exited) || g_atomic_int_get(&daemon->stopping))
            break;
        vl_clock_sleep_until(vl_deadline_in(RETRY_S), &call);
    }
    set_adopting(vm, FALSE);
}

static VlVm *
adopt_begin(VlDaemon *daemon, const VlIncarnation *who, const char *name, const char *uri, int action, GError **error)
{
    int pidfd = vl_proc_open((pid_t)who->pid, who->start, error);
    if (pidfd < 0)
        return NULL;
    g_autoptr(VlVm) vm = vl_vm_new(daemon->vms, who, name, uri, action, pidfd);
    g_autoptr(VlVm) other = NULL;
    vm->adopting = TRUE;
    vm->ever_held = TRUE; /* unknown: never killed on suspicion (R4) */
    if (!vl_vms_add(daemon->vms, vm, &other))
        return g_steal_pointer(&other);
    vl_watch_exit(daemon, vm);
    g_atomic_int_inc(&daemon->adopting);
    vl_daemon_run(daemon, adopt_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
    return g_steal_pointer(&vm);
}

VlVm *
vl_adopt_running(VlDaemon *daemon, const char *uri, const char *name, const char *uuid, gint64 pid, const VlCall *call,
                 GError **error)
{
    VlIncarnation who = {daemon->host->id, daemon->host->boot, (char *)uuid, pid, 0};
    if (!vl_proc_start_time((pid_t)pid, &who.start, error))
        return NULL;
    if (!vl_proc_is_qemu_of((pid_t)pid, uuid)) {
        vl_set_error(error, VL_ERR_NOT_REGISTERED, "process %" G_GINT64_FORMAT " is not the QEMU of %s", pid, uuid);
        return NULL;
    }
    g_autoptr(VlVm) vm = adopt_begin(daemon, &who, name, uri ? uri : SYSTEM_URI, 0, error);
    while (vm && vm->adopting && vl_call_check(call, "adopting a running VM", error))
        vl_clock_sleep_until(vl_clock_now() + 20 * 1000, call);
    return vm && !vm->adopting ? g_steal_pointer(&vm) : NULL;
}

/* ---- processes that are gone ---- */

/* A stand-in for a process nobody saw exit: its leases are always fenced before they are free (R5). */
static VlVm *
ghost_new(VlDaemon *daemon, const VlIncarnation *who, const char *name)
{
    VlVm *vm = vl_vm_new(daemon->vms, who, name, SYSTEM_URI, 0, -1);
    vm->late_exit = TRUE;
    vm->ever_held = TRUE;
    g_atomic_int_set(&vm->exited, 1);
    return vm;
}

typedef struct {
    VlVm *vm;
    GPtrArray *specs; /* of struct vl_volume_spec */
} Ghost;

static void
ghost_free(gpointer data)
{
    Ghost *ghost = data;
    vl_vm_unref(ghost->vm);
    g_ptr_array_unref(ghost->specs);
    g_free(ghost);
}

/* From the journal: the volumes are known by name only and must be resolved first. */
static void
ghost_job(VlDaemon *daemon, gpointer data)
{
    Ghost *ghost = data;
    for (guint i = 0; i < ghost->specs->len && !g_atomic_int_get(&daemon->stopping);) {
        const struct vl_volume_spec *spec = ghost->specs->pdata[i];
        if (spec->kind != VL_VOLUME_RBD) { /* others leave no record that outlives their process */
            i++;
            continue;
        }
        g_autoptr(GError) error = NULL;
        g_autoptr(VlVolume) volume =
            daemon->store->ops->resolve(daemon->store, spec, vl_deadline_in(ATTEMPT_S), &error);
        guint64 number;
        VlCall call = {.deadline = vl_deadline_in(ATTEMPT_S)};
        gboolean ok = volume && vl_sessions_ensure(daemon->sessions, volume->place, &call, &number, &error);
        if (ok) {
            g_mutex_lock(&ghost->vm->op);
            vl_vm_add_lease(ghost->vm, vl_lease_new(ghost->vm, volume, spec, "", FALSE));
            g_mutex_unlock(&ghost->vm->op);
        } else if (vl_error_code(error) != VL_ERR_MISSING) {
            g_warning("VM %s: its process %" G_GINT64_FORMAT " is gone, its leases cannot be freed yet: %s",
                      ghost->vm->name, ghost->vm->who.pid, error->message);
            vl_clock_sleep_until(vl_deadline_in(RETRY_S), NULL);
            continue;
        }
        i++;
    }
    vl_exit_begin(daemon, ghost->vm);
}

static void
ghost_from_journal(VlDaemon *daemon, VlJournalVm *entry)
{
    g_autoptr(VlVm) vm = ghost_new(daemon, &entry->who, entry->name);
    g_autoptr(VlVm) other = NULL;
    if (!vl_vms_add(daemon->vms, vm, &other))
        g_message("VM %s: process %" G_GINT64_FORMAT " is gone, a newer one runs", vm->name, vm->who.pid);
    Ghost *ghost = g_new0(Ghost, 1);
    ghost->vm = vl_vm_ref(vm);
    ghost->specs = g_ptr_array_ref(entry->specs);
    vl_daemon_run(daemon, ghost_job, ghost, ghost_free);
}

/* A holder in a record that says this host, and is none of our running processes. */
static void
ghost_from_record(VlDaemon *daemon, VlVolume *volume, const VlHolder *holder)
{
    g_autoptr(VlVm) known = vl_vms_find_incarnation(daemon->vms, &holder->who);
    if (known)
        return;
    if (g_strcmp0(holder->who.boot, daemon->host->boot) == 0) {
        g_autoptr(GError) gone = NULL;
        int pidfd = vl_proc_open((pid_t)holder->who.pid, holder->who.start, &gone);
        gboolean alive = pidfd >= 0 ? !vl_proc_exited(pidfd) : vl_error_code(gone) != VL_ERR_MISSING;
        if (pidfd >= 0)
            close(pidfd);
        if (alive) {
            vl_vm_unref(adopt_begin(daemon, &holder->who, holder->vm, SYSTEM_URI, 0, NULL));
            return;
        }
    }
    g_message("%s: its lease names VM '%s', process %" G_GINT64_FORMAT
              " of this host%s, which is gone: fencing and freeing it",
              volume->display, holder->vm, holder->who.pid,
              g_strcmp0(holder->who.boot, daemon->host->boot) ? " in an earlier boot" : "");
    g_autoptr(VlVm) vm = ghost_new(daemon, &holder->who, holder->vm);
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD};
    vl_vm_add_lease(vm, vl_lease_new(vm, volume, &spec, "", FALSE));
    vl_exit_begin(daemon, vm);
}

static void
sweep_look(VlDaemon *daemon, const VlLook *look)
{
    g_autoptr(VlRecord) record = look->error ? NULL : vl_record_parse(look->volume->display, look->record, NULL);
    for (guint i = 0; record && i < record->holders->len; i++) {
        const VlHolder *holder = record->holders->pdata[i];
        if (g_str_equal(holder->who.host, daemon->host->id))
            ghost_from_record(daemon, look->volume, holder);
    }
    if (look->error && vl_error_code(look->error) == VL_ERR_MISSING) {
        VlPlace *place = look->volume->place;
        g_autoptr(GPtrArray) keys = g_ptr_array_new();
        g_ptr_array_add(keys, look->volume->key);
        (void)place->store->ops->index_del(place, daemon->host->id, keys, vl_deadline_in(STEP_S), NULL);
    }
}

static void
sweep_volumes(VlDaemon *daemon, GPtrArray *volumes)
{
    for (guint begin = 0; begin < volumes->len && !g_atomic_int_get(&daemon->stopping); begin += SWEEP_AT_ONCE) {
        VlLook looks[SWEEP_AT_ONCE] = {0};
        guint n = MIN(volumes->len - begin, SWEEP_AT_ONCE);
        for (guint i = 0; i < n; i++)
            looks[i].volume = volumes->pdata[begin + i];
        (void)looks[0].volume->place->store->ops->look(looks, n, VL_LOOK_RECORD, vl_deadline_in(STEP_S));
        for (guint i = 0; i < n; i++) {
            sweep_look(daemon, &looks[i]);
            vl_look_clear(&looks[i]);
        }
    }
}

static void
sweep_add(GPtrArray *volumes, VlPlace *place, const char *key, const char *display)
{
    VlVolume *volume = place->store->ops->volume_from_key(place, key, display, NULL);
    if (volume)
        g_ptr_array_add(volumes, volume);
}

typedef struct {
    VlPlace *place;
    char *key; /* NULL: everything in the index */
} Sweep;

static void
sweep_job(VlDaemon *daemon, gpointer data)
{
    Sweep *sweep = data;
    g_autoptr(GPtrArray) volumes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_volume_unref);
    if (sweep->key) {
        sweep_add(volumes, sweep->place, sweep->key, sweep->key);
        sweep_volumes(daemon, volumes);
        return;
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) index =
        sweep->place->store->ops->index_list(sweep->place, daemon->host->id, vl_deadline_in(STEP_S), &error);
    if (!index) {
        g_warning("%s: the index of this host's leases cannot be read: %s", sweep->place->display, error->message);
        return;
    }
    GHashTableIter iter;
    gpointer key, text;
    g_hash_table_iter_init(&iter, index);
    while (g_hash_table_iter_next(&iter, &key, &text)) {
        g_auto(GStrv) lines = g_strsplit(text, "\n", 3);
        sweep_add(volumes, sweep->place, key, lines[0] && *lines[0] ? lines[0] : key);
    }
    sweep_volumes(daemon, volumes);
}

static void
sweep_free(gpointer data)
{
    g_free(((Sweep *)data)->key);
    g_free(data);
}

static void
sweep_begin(VlDaemon *daemon, VlPlace *place, const char *key)
{
    Sweep *sweep = g_new0(Sweep, 1);
    sweep->place = place;
    sweep->key = g_strdup(key);
    vl_daemon_run(daemon, sweep_job, sweep, sweep_free);
}

void
vl_adopt_earlier_boot(VlDaemon *daemon, VlPlace *place)
{
    sweep_begin(daemon, place, NULL);
}

void
vl_adopt_orphan(VlDaemon *daemon, VlPlace *place, const char *volume_key)
{
    sweep_begin(daemon, place, volume_key);
}

/* ---- at start ---- */

static void
adopt_journal(VlDaemon *daemon)
{
    g_autoptr(GPtrArray) entries = vl_journal_read(daemon->journal);
    for (guint i = 0; i < entries->len; i++) {
        VlJournalVm *entry = entries->pdata[i];
        g_autoptr(GError) gone = NULL;
        g_autoptr(VlVm) vm = NULL;
        if (g_strcmp0(entry->who.boot, daemon->host->boot) == 0 && g_strcmp0(entry->who.host, daemon->host->id) == 0)
            vm = adopt_begin(daemon, &entry->who, entry->name, entry->uri ? entry->uri : SYSTEM_URI, entry->action,
                             &gone);
        if (!vm)
            ghost_from_journal(daemon, entry);
    }
}

static void
adopt_status_xmls(VlDaemon *daemon)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = vl_statusxml_dir(SYSTEM_URI, daemon->settings->run_root, &error);
    g_autoptr(GPtrArray) domains = dir ? vl_statusxml_list(dir) : NULL;
    for (guint i = 0; domains && i < domains->len; i++) {
        const VlDomain *domain = domains->pdata[i];
        VlIncarnation who = {daemon->host->id, daemon->host->boot, domain->uuid, domain->pid, 0};
        if (domain->pid <= 0 || !vl_proc_start_time((pid_t)domain->pid, &who.start, NULL) ||
            !vl_proc_is_qemu_of((pid_t)domain->pid, domain->uuid))
            continue;
        vl_vm_unref(adopt_begin(daemon, &who, domain->name, SYSTEM_URI, 0, NULL));
    }
}

/* Places in which we left something in an earlier life, also when the journal is lost. */
static void
wake_places(VlDaemon *daemon, gpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) places = daemon->store->ops->places(daemon->store, vl_deadline_in(ATTEMPT_S), &error);
    if (!places)
        g_info("default cluster: %s", error->message);
    for (guint i = 0; places && i < places->len; i++) {
        VlPlace *place = places->pdata[i];
        VlSessionObject object = {0};
        guint64 number;
        VlCall call = {.deadline = vl_deadline_in(ATTEMPT_S)};
        gboolean present =
            place->store->ops->session_read(place, daemon->host->id, &object, vl_deadline_in(STEP_S), NULL) &&
            object.present;
        vl_session_object_clear(&object);
        if (present && vl_sessions_ensure(daemon->sessions, place, &call, &number, NULL))
            sweep_begin(daemon, place, NULL);
    }
}

void
vl_adopt_all(VlDaemon *daemon)
{
    g_atomic_int_inc(&daemon->adopting); /* not over before all have begun */
    adopt_journal(daemon);
    adopt_status_xmls(daemon);
    index_adopted(daemon, TRUE, TRUE);
    vl_daemon_run(daemon, wake_places, NULL, NULL);
    g_atomic_int_set(&daemon->ready, 1);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/register.h"

#include <glib-unix.h>

#include "lockd/adopt.h"
#include "lockd/disks.h"
#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/leases.h"
#include "lockd/procinfo.h"
#include "lockd/rescan.h"

#define EXIT_WAIT_S      20.0
#define READER_SESSION_S 5.0
#define POLL_US          (10 * 1000)

void
vl_request_init(VlRequest *request)
{
    request->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vl_disk_free);
    request->sanlock = g_array_new(FALSE, FALSE, sizeof(int));
}

void
vl_request_clear(VlRequest *request)
{
    g_clear_pointer(&request->disks, g_ptr_array_unref);
    g_clear_pointer(&request->sanlock, g_array_unref);
    g_clear_pointer(&request->uuid, g_free);
    g_clear_pointer(&request->name, g_free);
    g_clear_pointer(&request->uri, g_free);
    g_clear_pointer(&request->state, g_free);
    g_clear_pointer(&request->sanlock_error, g_free);
}

/* ---- exit watch ---- */

typedef struct {
    VlDaemon *daemon;
    VlVm *vm;
} Watch;

static void
watch_free(gpointer data)
{
    Watch *watch = data;
    vl_vm_unref(watch->vm);
    g_free(watch);
}

static gboolean
on_process_exit(gint fd, GIOCondition condition, gpointer data)
{
    Watch *watch = data;
    watch->vm->watch = 0;
    vl_exit_begin(watch->daemon, watch->vm);
    return G_SOURCE_REMOVE;
}

void
vl_watch_exit(VlDaemon *daemon, VlVm *vm)
{
    Watch *watch = g_new0(Watch, 1);
    watch->daemon = daemon;
    watch->vm = vl_vm_ref(vm);
    vm->watch = g_unix_fd_add_full(G_PRIORITY_HIGH, vm->pidfd, G_IO_IN, on_process_exit, watch, watch_free);
}

/* ---- register ---- */

/* One incarnation of a VM at a time (R8): a predecessor that still runs refuses us, one that is gone must
 * first be done with. */
static gboolean
add_after_predecessor(VlDaemon *daemon, VlVm *vm, const VlCall *call, GError **error)
{
    gint64 until = vl_call_within(call, EXIT_WAIT_S);
    for (;;) {
        g_autoptr(VlVm) other = NULL;
        if (vl_vms_add(daemon->vms, vm, &other))
            return TRUE;
        if (!g_atomic_int_get(&other->exited) && !vl_proc_exited(other->pidfd)) {
            vl_set_error(error, VL_ERR_HELD,
                         "VM '%s' (%s) still runs on this host as process %" G_GINT64_FORMAT
                         "; a second one may not start",
                         other->name, other->who.uuid, other->who.pid);
            return FALSE;
        }
        if (vl_clock_now() >= until || !vl_call_check(call, "waiting for the previous process", NULL)) {
            vl_set_error(error, VL_ERR_STORAGE,
                         "VM '%s': the leases of its previous process %" G_GINT64_FORMAT
                         " could not be freed yet, see the log of "
                         "virtleased; try again when its storage answers",
                         other->name, other->who.pid);
            return FALSE;
        }
        vl_clock_sleep_until(vl_clock_now() + POLL_US, call);
    }
}

static VlVm *
vm_for_peer(VlDaemon *daemon, const VlRequest *request, gint64 peer, GError **error)
{
    VlIncarnation who = {daemon->host->id, daemon->host->boot, request->uuid, peer, 0};
    if (peer <= 0) {
        vl_set_error(error, VL_ERR_NOT_PERMITTED, "VM '%s': its process cannot be seen from virtleased's pid namespace",
                     request->name);
        return NULL;
    }
    if (!vl_proc_start_time((pid_t)peer, &who.start, error))
        return NULL;
    int pidfd = vl_proc_open((pid_t)peer, who.start, error);
    if (pidfd < 0)
        return NULL;
    return vl_vm_new(daemon->vms, &who, request->name, request->uri, request->action, pidfd);
}

/* A host that only reads must be there to say so: its clients on the image look like anybody's (see is_reader in
 * judge.c). Only tried: the reader itself needs no lease. */
static void
be_asked_about_readers(VlDaemon *daemon, VlVm *vm, const VlCall *call)
{
    VlCall brief = *call;
    brief.deadline = vl_call_within(call, READER_SESSION_S);
    for (guint i = 0; i < vm->readers->len; i++) {
        guint64 number;
        g_autoptr(GError) error = NULL;
        if (!vl_sessions_ensure(daemon->sessions, ((VlVolume *)vm->readers->pdata[i])->place, &brief, &number, &error))
            g_warning("VM %s: other hosts cannot ask about its readonly disks: %s", vm->name, error->message);
    }
}

/* Backends that need something of the child first. Asked once: what it could not do is their business then. */
static gboolean
must_enrol(VlDaemon *daemon, VlVm *vm, const VlRequest *request, VlEnrol *ret_enrol)
{
    g_clear_pointer(&vm->sanlock, g_array_unref);
    vm->sanlock = g_array_ref(request->sanlock);
    g_free(vm->sanlock_error);
    vm->sanlock_error = g_strdup(request->sanlock_error);
    if (request->sanlock->len || request->sanlock_error)
        return FALSE;
    for (guint b = 0; vl_backends[b] && !ret_enrol->connections; b++)
        if (vl_backends[b]->enrol)
            vl_backends[b]->enrol(daemon, vm, ret_enrol);
    return ret_enrol->connections > 0;
}

static gboolean
register_leases(VlDaemon *daemon, VlVm *vm, const VlRequest *request, const VlCall *call, VlEnrol *ret_enrol,
                GError **error)
{
    g_autoptr(VlDomain) domain =
        vl_disks_domain(daemon, request->uri, request->name, request->uuid, vm->who.pid, call, error);
    if (!domain)
        return FALSE;
    g_autoptr(GPtrArray) fresh = g_ptr_array_new();
    VlDomain named = {.disks = request->disks}; /* <disk type='volume'> has its path here only */
    domain->named = request->disks;
    if (!vl_disks_add(daemon, vm, domain, call, fresh, error) || !vl_disks_add(daemon, vm, &named, call, fresh, error))
        return FALSE;
    if (must_enrol(daemon, vm, request, ret_enrol))
        return TRUE;
    GPtrArray *leases = vm->leases; /* all of them are new, some since the first time we were asked */
    be_asked_about_readers(daemon, vm, call);
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    gboolean incoming = domain->async_job && g_str_equal(domain->async_job, "migration in");
    if (incoming && !vl_incoming_begin(daemon, vm, leases, rest, call, error))
        return FALSE;
    return vl_take_all(daemon, vm, incoming ? rest : leases, daemon->settings->takeover_wait, call, error);
}

/* The same process, asking for the second time after it enrolled; NULL: it is new. */
static VlVm *
enrolled_vm(VlDaemon *daemon, const VlVm *vm)
{
    VlVm *known = vl_vms_find_incarnation(daemon->vms, &vm->who);
    if (known && !known->enrolling)
        g_clear_pointer(&known, vl_vm_unref);
    return known;
}

gboolean
vl_register(VlDaemon *daemon, const VlRequest *request, gint64 peer, VlCall *call, VlEnrol *ret_enrol, GError **error)
{
    g_autoptr(VlVm) vm = vm_for_peer(daemon, request, peer, error);
    if (!vm)
        return FALSE;
    g_autoptr(VlVm) known = enrolled_vm(daemon, vm);
    if (known) {
        VlVm *fresh = vm;
        vm = g_steal_pointer(&known);
        known = fresh;
    }
    call->gone = &vm->exited;
    gboolean ok = known || add_after_predecessor(daemon, vm, call, error);
    if (ok) {
        /* The pidfd is watched before the first compare-and-swap (R4): whatever happens to the child from
         * here on, its leases have somebody to free them. */
        if (!known)
            vl_watch_exit(daemon, vm);
        g_mutex_lock(&vm->op);
        ok = register_leases(daemon, vm, request, call, ret_enrol, error);
        vm->enrolling = ok && ret_enrol->connections > 0;
        g_mutex_unlock(&vm->op);
    }
    call->gone = NULL;
    if (ok && vl_proc_exited(vm->pidfd)) {
        vl_set_error(error, VL_ERR_CANCELLED, "VM '%s': its process is gone", vm->name);
        ok = FALSE;
    }
    return ok;
}

/* ---- the others ---- */

static VlVm *
vm_of(VlDaemon *daemon, const VlRequest *request, const VlCall *call, GError **error)
{
    g_autoptr(VlVm) vm = vl_vms_find_uuid(daemon->vms, request->uuid);
    if (vm && vm->who.pid == request->pid && !g_atomic_int_get(&vm->exited) && !vl_proc_exited(vm->pidfd)) {
        while (vm->adopting && vl_call_check(call, "waiting until the VM's leases are known again", error))
            vl_clock_sleep_until(vl_clock_now() + POLL_US, call);
        return vm->adopting ? NULL : g_steal_pointer(&vm);
    }
    if (!vm && request->pid > 0) {
        g_autoptr(VlVm) found =
            vl_adopt_running(daemon, request->uri, request->name, request->uuid, request->pid, call, error);
        if (found)
            return g_steal_pointer(&found);
        g_prefix_error(error, "VM '%s' is not registered: ", request->name);
        return NULL;
    }
    vl_set_error(error, VL_ERR_NOT_REGISTERED,
                 "VM '%s' (%s), process %" G_GINT64_FORMAT
                 ", is not registered with virtleased: no lease. It must be started anew "
                 "through libvirt",
                 request->name, request->uuid, request->pid);
    return NULL;
}

gboolean
vl_acquire(VlDaemon *daemon, const VlRequest *request, VlCall *call, GError **error)
{
    g_autoptr(VlVm) vm = vm_of(daemon, request, call, error);
    if (!vm)
        return FALSE;
    call->gone = &vm->exited;
    g_mutex_lock(&vm->op);
    gboolean attach = FALSE;
    gboolean ok = vl_incoming_finish(daemon, vm, request->state, call, error) &&
                  vl_rescan_unleased(daemon, vm, call, error) &&
                  vl_rescan_named(daemon, vm, request->disks, call, &attach, error);
    /* What is attached to a paused VM waits for its CPUs to run. */
    if (ok && (!attach || vm->running))
        ok = vl_hold_all(daemon, vm, call, error);
    g_mutex_unlock(&vm->op);
    call->gone = NULL;
    /* Perhaps this was about a disk that libvirt does not name and has not yet written down (R9). */
    if (ok)
        vl_rescan_later(daemon, vm);
    return ok;
}

gboolean
vl_release(VlDaemon *daemon, const VlRequest *request, VlCall *call, char **ret_state, GError **error)
{
    g_autoptr(VlVm) vm = vm_of(daemon, request, call, error);
    if (!vm)
        return FALSE;
    g_mutex_lock(&vm->op);
    vl_park_all(daemon, vm);
    *ret_state = vl_hold_state(vm);
    g_mutex_unlock(&vm->op);
    return TRUE;
}

gboolean
vl_inquire(VlDaemon *daemon, const VlRequest *request, VlCall *call, char **ret_state, GError **error)
{
    if (request->pid == 0) /* offline migration: nothing runs, nothing to hand over */
        return TRUE;
    g_autoptr(VlVm) vm = vm_of(daemon, request, call, error);
    if (!vm)
        return FALSE;
    g_mutex_lock(&vm->op);
    *ret_state = vl_hold_state(vm);
    g_mutex_unlock(&vm->op);
    return TRUE;
}

gboolean
vl_detached(VlDaemon *daemon, const VlRequest *request, VlCall *call, GError **error)
{
    g_autoptr(VlVm) vm = vl_vms_find_uuid(daemon->vms, request->uuid);
    if (vm && vm->who.pid == request->pid) {
        g_mutex_lock(&vm->op);
        vl_rescan_released(vm, request->disks);
        g_mutex_unlock(&vm->op);
        vl_rescan_later(daemon, vm);
    }
    return TRUE; /* a hint: also given for things never acquired */
}

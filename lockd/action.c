/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/action.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <signal.h>

#include "lockd/procinfo.h"

/* libvirt's numbers of <on_lockfailure> (domain_conf.h, virDomainLockFailureAction). */
enum { ON_DEFAULT, ON_POWEROFF, ON_RESTART, ON_PAUSE, ON_IGNORE };

static int
choose(const VlDaemon *daemon, const VlVm *vm)
{
    if (vm->action != ON_DEFAULT)
        return vm->action == ON_RESTART ? ON_POWEROFF : vm->action;
    if (daemon->settings->on_lease_lost == VL_LOST_KILL)
        return ON_POWEROFF;
    return daemon->settings->on_lease_lost == VL_LOST_LOG ? ON_IGNORE : ON_PAUSE;
}

/* Runs `func` on the VM through libvirt's client API. */
static gboolean
by_libvirt(VlVm *vm, gboolean (*func)(virDomainPtr domain, const char *target), const char *target, const char *what)
{
    gboolean ok = FALSE;
    virConnectPtr connection = virConnectOpen(vm->uri);
    virDomainPtr domain = connection ? virDomainLookupByUUIDString(connection, vm->who.uuid) : NULL;
    if (domain)
        ok = func(domain, target);
    if (!ok)
        g_warning("VM %s: could not be %s: %s", vm->name, what, virGetLastErrorMessage());
    if (domain)
        virDomainFree(domain);
    if (connection)
        virConnectClose(connection);
    return ok;
}

static gboolean
do_pause(virDomainPtr domain, const char *target)
{
    return virDomainSuspend(domain) == 0;
}

/* libvirt finds a disk to detach by its <target>; the rest of the element is not compared
 * (virDomainDiskFindByBusAndDst). */
static gboolean
do_detach(virDomainPtr domain, const char *target)
{
    g_autofree char *xml =
        g_markup_printf_escaped("<disk type='network' device='disk'><source protocol='rbd' name='x/x'/>"
                                "<target dev='%s'/></disk>",
                                target);
    return virDomainDetachDeviceFlags(domain, xml, VIR_DOMAIN_AFFECT_LIVE) == 0;
}

static gboolean
pause_by_libvirt(VlVm *vm)
{
    return by_libvirt(vm, do_pause, NULL, "paused");
}

gboolean
vl_action_ignores(const VlDaemon *daemon, const VlVm *vm)
{
    return choose(daemon, vm) == ON_IGNORE;
}

gboolean
vl_action_stop(VlDaemon *daemon, VlVm *vm)
{
    int action = choose(daemon, vm);
    if (action == ON_POWEROFF) {
        g_warning("VM %s: killed, its lease is lost", vm->name);
        vl_proc_kill(vm->pidfd, SIGKILL);
        return TRUE;
    }
    if (action != ON_PAUSE || !pause_by_libvirt(vm))
        return FALSE;
    g_warning("VM %s: paused, its lease is lost", vm->name);
    return TRUE;
}

static void
lost_job(VlDaemon *daemon, gpointer data)
{
    (void)vl_action_stop(daemon, data);
}

void
vl_action_lost(VlDaemon *daemon, VlVm *vm, const char *volume)
{
    g_warning("VM %s: its lease on %s is LOST", vm->name, volume);
    vl_daemon_run(daemon, lost_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
}

typedef struct {
    VlVm *vm;
    char *target;
} Conflict;

static void
conflict_free(gpointer data)
{
    Conflict *conflict = data;
    vl_vm_unref(conflict->vm);
    g_free(conflict->target);
    g_free(conflict);
}

static void
conflict_job(VlDaemon *daemon, gpointer data)
{
    Conflict *conflict = data;
    gboolean detach = daemon->settings->hotplug_conflict == VL_CONFLICT_DETACH && conflict->target;
    if (detach && by_libvirt(conflict->vm, do_detach, conflict->target, "relieved of the disk"))
        g_warning("VM %s: disk %s was told to go, somebody else has leased it", conflict->vm->name, conflict->target);
    else if (pause_by_libvirt(conflict->vm))
        g_warning("VM %s: paused, because a disk was attached that somebody else has leased", conflict->vm->name);
}

void
vl_action_conflict(VlDaemon *daemon, VlVm *vm, const char *target)
{
    if (daemon->settings->hotplug_conflict == VL_CONFLICT_LOG)
        return;
    Conflict *conflict = g_new0(Conflict, 1);
    conflict->vm = vl_vm_ref(vm);
    conflict->target = g_strdup(target);
    vl_daemon_run(daemon, conflict_job, conflict, conflict_free);
}

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

static gboolean
pause_by_libvirt(VlVm *vm)
{
    gboolean ok = FALSE;
    virConnectPtr connection = virConnectOpen(vm->uri);
    virDomainPtr domain = connection ? virDomainLookupByUUIDString(connection, vm->who.uuid) : NULL;
    if (domain)
        ok = virDomainSuspend(domain) == 0;
    if (!ok)
        g_warning("VM %s: could not be paused: %s", vm->name, virGetLastErrorMessage());
    if (domain)
        virDomainFree(domain);
    if (connection)
        virConnectClose(connection);
    return ok;
}

static void
lost_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    int action = choose(daemon, vm);
    if (action == ON_POWEROFF) {
        g_warning("VM %s: killed, its lease is lost", vm->name);
        vl_proc_kill(vm->pidfd, SIGKILL);
    } else if (action == ON_PAUSE && pause_by_libvirt(vm)) {
        g_warning("VM %s: paused, its lease is lost", vm->name);
    }
}

void
vl_action_lost(VlDaemon *daemon, VlVm *vm, const char *volume)
{
    g_warning("VM %s: its lease on %s is LOST; what it still writes there is refused by the storage", vm->name, volume);
    vl_daemon_run(daemon, lost_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
}

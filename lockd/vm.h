/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The QEMU processes of this host that virtleased watches, and their leases.
 *
 * Locks: `vms` has one mutex for the table and for what others may read of a VM or lease; it is never
 * held over storage, files or waits. Each VM has an operation lock, taken for the whole of a call
 * about it (a call may wait for a verdict under it), so that calls about one VM are one after another and
 * calls about different VMs are not.
 */
#ifndef VL_LOCKD_VM_H
#define VL_LOCKD_VM_H

#include "lockd/challenge.h"
#include "lockd/lease.h"

typedef struct VlVms VlVms;

struct VlVm {
    gint refs;
    VlVms *vms;
    VlIncarnation who; /* host, boot, uuid, pid, start: fixed for its life */
    char *name, *uri;
    int action; /* libvirt's on_lockfailure number */
    int pidfd;
    gint exited; /* atomic: the process is gone */
    guint watch; /* GSource of the pidfd, main loop only */
    /* Table lock: */
    GPtrArray *leases;  /* of VlLease */
    GPtrArray *readers; /* of VlVolume: volumes this VM has as readonly disks */
    gboolean running;   /* CPUs were let run and not stopped since */
    gboolean gone;      /* the exit has been handled; no longer in the table */
    gboolean adopting;  /* found at start, its leases are still being looked at */
    /* Operation lock: */
    GMutex op;
    gboolean ever_held;
    gint64 exited_at;   /* vl_clock_now() when the exit was noticed; 0 = not yet */
    gboolean late_exit; /* its clients were not looked at when it exited, but later: always fence (R5) */
    char *unleased;     /* why a disk attached to it has no lease, or NULL: it may not be resumed so */
    gboolean unadopted; /* its adoption failed: what it lacks is not even in the table, and is taken before a resume */
    gboolean migrating; /* libvirt was seen migrating it to another host */
    gboolean leftover;  /* a detached image is still open in QEMU */
    gint audit_soon;    /* atomic: another host's claim stands in a record of ours; see what becomes of it */
    gint rescan;        /* atomic: 0 idle, 1 a rescan is under way, 2 and another is wanted */
    gint source_looked; /* atomic: a look at the source of its migration is under way; what follows is that look's */
    guint64 source_counter; /* of the source's session, as last read */
    gint64 source_moved;    /* vl_clock_now() when the source's host was last seen alive; 0 = not yet */
    gboolean source_told;   /* why a dead source is left alone has been logged */
    char *token;            /* current hand-over token */
    gboolean enrolling;     /* its child is registering with sanlock and will ask once more */
    GArray *sanlock;        /* of int: QEMU's descriptors that are registered with sanlock; NULL: not known */
    char *sanlock_error;
    gint sanlock_lost;  /* atomic: it is being (1) or has been (2) stopped because sanlock does not know it any more */
    gint sanlock_going; /* atomic: a job waits for QEMU to let go of its images (sanlock_move.c) */
    char *next_token; /* of a resume that is not done: some records may have it, but libvirt was never told; or NULL */
};

VlVms *vl_vms_new(void);
void vl_vms_free(VlVms *vms);
void vl_vms_lock(VlVms *vms);
void vl_vms_unlock(VlVms *vms);

/* A VM not yet in the table; takes over `pidfd`. */
VlVm *vl_vm_new(VlVms *vms, const VlIncarnation *who, const char *name, const char *uri, int action, int pidfd);
VlVm *vl_vm_ref(VlVm *vm);
void vl_vm_unref(VlVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlVm, vl_vm_unref)

/* FALSE when another incarnation with that uuid is in the table (*ret_other, a reference). */
gboolean vl_vms_add(VlVms *vms, VlVm *vm, VlVm **ret_other);
void vl_vms_remove(VlVms *vms, VlVm *vm);
/* References; NULL when unknown. */
VlVm *vl_vms_find_uuid(VlVms *vms, const char *uuid);
VlVm *vl_vms_find_incarnation(VlVms *vms, const VlIncarnation *who);
GPtrArray *vl_vms_all(VlVms *vms); /* of references */
guint vl_vms_count_leases(VlVms *vms);

/* Another VM whose lease on that volume stands in the way (of a shared one only what is not shared): a reference. */
VlVm *vl_vms_find_rival(VlVms *vms, const VlVm *vm, const char *volume_key, gboolean shared);

void vl_vm_add_lease(VlVm *vm, VlLease *lease);
void vl_vm_drop_lease(VlVm *vm, VlLease *lease); /* frees it */
VlLease *vl_vm_find_lease(VlVm *vm, const char *volume_key);
void vl_vm_set_running(VlVm *vm, gboolean running);
void vl_vm_add_reader(VlVm *vm, VlVolume *volume);
/* A living VM of this host has the volume as a readonly disk. */
gboolean vl_vms_has_reader(VlVms *vms, const char *volume_key);
/* What this host answers about a lease (see challenge.h). */
VlAnswer vl_vms_answer(VlVms *vms, const char *volume_key, const VlIncarnation *holder);

#endif

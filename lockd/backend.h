/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The ops table between the life of a VM (leases.c: take, hold, park, free, all or nothing over all its disks) and the
 * kinds of storage that can guard a volume:
 *
 *     rbd      lease records on the image, sessions, verdicts, fences (take.c, hold.c, free.c, ... over store.h)
 *     sanlock  paxos leases in a lockspace, held by the QEMU process itself
 *     local    lock files of this host, held by virtleased
 *
 * A backend is one file with one of these tables and one line in backend.c; docs/backends.md walks through it. What a
 * backend must keep: a call that does not succeed for sure has failed (fail closed); nothing waits beyond the call's
 * deadline; it never decides about the VM, only about its volumes.
 *
 * Every op gets leases of one VM and of this backend only, with the VM's operation lock held, on a worker thread. Ops
 * may be NULL where it says so.
 */
#ifndef VL_LOCKD_BACKEND_H
#define VL_LOCKD_BACKEND_H

#include <json-glib/json-glib.h>

#include "lockd/daemon.h"

/* What the child must do before it becomes QEMU: register with sanlock (plugin/sanlk.c). */
typedef struct {
    guint connections; /* 0: nothing */
    char *path, *args; /* the program sanlock runs when the lockspace fails */
} VlEnrol;
void vl_enrol_clear(VlEnrol *enrol);

struct VlBackendOps {
    const char *name; /* as the rules in virtleased.conf call it */

    /* Once, before any VM is looked at. Must not wait for storage. NULL: nothing to do. *ret_state is the backend's
     * own, see vl_backend_state(). */
    gboolean (*start)(VlDaemon *daemon, gpointer *ret_state, GError **error);

    /* Spelling to identity. Errors: MISSING, DENIED, STORAGE, CONFIG. */
    VlVolume *(*resolve)(VlDaemon *daemon, const struct vl_volume_spec *spec, gint64 deadline, GError **error);
    void (*volume_free)(VlVolume *volume); /* frees volume->priv; NULL: there is none */
    void (*lease_clear)(VlLease *lease);   /* frees lease->priv, which lets go of what it stands for; NULL: none */

    /* What the child of a VM must do before take(). NULL: nothing. */
    void (*enrol)(VlDaemon *daemon, VlVm *vm, VlEnrol *ret_enrol);

    /* take() may wait a minute or more for a dead owner: others are asked first whether they will refuse anyway. */
    gboolean slow;
    /* FALSE when take() would refuse now because of somebody who lives; changes nothing. Called before the take() of a
     * slow backend for the other volumes of the same VM. NULL: take() is quick. */
    gboolean (*ask)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error);

    /* TAKING -> PARKED, each of them; on failure any number may be PARKED, the caller gives them back. A dead owner is
     * waited for at most `wait_s`. With lease->open_already QEMU has the volume open: the daemon was restarted or the
     * disk hot-plugged. */
    gboolean (*take)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call, GError **error);
    /* CPUs are about to run: makes sure that these PARKED leases still are this process's and nobody else had them
     * since (R1). The caller sets HELD. On failure those that may be stored as HELD are `unwritten`. NULL: they are, as
     * long as they are PARKED. */
    gboolean (*hold)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *token, const VlCall *call,
                     GError **error);
    /* In the background, after CPUs stopped, and after a hold() that failed half-way: writes down that these leases are
     * PARKED under the VM's token, and clears lease->unwritten where that is done. FALSE: come again. NULL: there is
     * nothing to write down. */
    gboolean (*park)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error);
    /* libvirt migrates this VM to another host and its CPUs are stopped: what cannot be handed over where it lies must
     * be let go, once QEMU has closed it (R7). Called again and again while it lasts. NULL: nothing. */
    void (*depart)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);
    /* That migration has failed, the CPUs run on here (HELD). NULL: nothing. */
    void (*stay)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);
    /* FREEING -> FREE for volumes that this VM, perhaps living, lets go. What stays FREEING is done at its exit. */
    gboolean (*free)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error);
    /* FREEING -> FREE, the process is gone (vm->late_exit: nobody saw it). One attempt; the caller comes again. */
    gboolean (*exit)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error);
    /* All of them are FREE now: forget them. NULL: nothing. */
    void (*gone)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);

    /* A migration comes in: leases that the source has become INCOMING, all others go to ret_free to be taken now.
     * NULL: all are taken now. */
    gboolean (*begin_incoming)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free, const VlCall *call,
                               GError **error);
    /* INCOMING -> PARKED with the source's state string (may be NULL). */
    gboolean (*finish_incoming)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *state, const VlCall *call,
                                GError **error);
    /* Appends what the destination's finish_incoming() needs, as ",NAME=..." of [A-Za-z0-9._:/+-]. NULL: nothing. */
    void (*state)(const VlVm *vm, const GPtrArray *leases, GString *state);

    /* QEMU no longer has the volume open. */
    gboolean (*closed)(const VlLease *lease);
    /* Every audit_interval and whenever there is a reason: are these (PARKED, HELD) still ours? Lost ones go to
     * vl_lose() (audit.h). NULL: they are. */
    void (*audit)(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);

    /* virtleasectl show: members of an object about this volume: "place" and "holders" as backend_local.c has them, and
     * its own. status: the strings "state", "detail" (one line for people) and "problem" (NULL: none) about the backend
     * as a whole, and its own (NULL: nothing to say). list: what it tells of a lease besides the common members (NULL:
     * nothing). */
    gboolean (*show)(VlDaemon *daemon, VlVolume *volume, const VlCall *call, JsonBuilder *out, GError **error);
    void (*status)(VlDaemon *daemon, JsonBuilder *out);
    void (*list)(const VlLease *lease, JsonBuilder *out);
    /* virtleasectl cleanup, as sanlock_clean.h describes it. NULL: it keeps nothing that could pile up. */
    gboolean (*clean)(VlDaemon *daemon, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error);
};

/* In the order in which a VM's volumes are taken: harmless ones first, fences last. NULL-terminated. */
extern const VlBackendOps *const vl_backends[];

/* The backend of a volume. */
const VlBackendOps *vl_backend_of(const VlVolume *volume);
/* By name; NULL: there is none. */
const VlBackendOps *vl_backend_named(const char *name);
/* Those of `leases` that are of this backend and in this state (VL_LEASE_STATE_COUNT: in any). Free with
 * g_ptr_array_unref; the leases are borrowed. */
GPtrArray *vl_backend_share(const VlBackendOps *backend, const GPtrArray *leases, VlLeaseState state);

/* Starts all of them. */
gboolean vl_backends_start(VlDaemon *daemon, GError **error);
/* What its start() returned; NULL when it was not started. */
gpointer vl_backend_state(const VlDaemon *daemon, const VlBackendOps *backend);

/* The volume that a spec stands for, by the backend that the rules choose (route.h). NULL without error: by the
 * rules it gets no lease. */
VlVolume *vl_backend_resolve(VlDaemon *daemon, const struct vl_volume_spec *spec, gint64 deadline, GError **error);

/* For backends of files: the process has the file of these numbers open; a block device is (st_rdev, 0). */
gboolean vl_backend_file_open(const VlVm *vm, guint64 dev, guint64 ino);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Files and block devices on shared storage, guarded by the sanlock daemon (design section 6).
 *
 * QEMU itself is registered with sanlock (its child did it, plugin/sanlk.c), with one connection that can only be
 * spoken for, not through: virtleased acquires and releases for the pid. Several connections would be faster for many
 * disks, but a connection that commands can be sent through lets QEMU command the daemon, and an answer that
 * nobody fetched is taken for the answer to the next question.
 *
 *     backend_sanlock.c  the ops: settings, which leases a volume has, enrolling and freeing
 *     sanlock_take.c     taking leases, and looking whether they are still there; sanlock_show.c for people
 *     sanlock_versions.c the versions of leases, kept for a later life of ours
 *     sanlock_move.c     migration: letting go when QEMU has, taking with the version that the source had
 *     sanlock_loss.c     the lockspace or the daemon is lost
 *     sanlock_lease.c    one lease; sanlock_file.c making files
 *     sanlock_space.c    the lockspace; sanlock_hosts.c its hosts
 *     sanlock_call.c     calls with an end; sanlock_words.c what the answers mean
 *
 * Each volume has a lease by its canonical path and, where the domain XML spells it differently, one by that spelling,
 * because that is what libvirt's own plugin on another host goes by. Within this host it is locked as by
 * backend_local too: a hard link or a bind mount is another path and the same file.
 */
#ifndef VL_LOCKD_BACKEND_SANLOCK_H
#define VL_LOCKD_BACKEND_SANLOCK_H

#include "lockd/backend_local.h"
#include "lockd/sanlock_lease.h"

extern const VlBackendOps vl_backend_sanlock;

/* The backend's state; NULL in the daemon: not configured. */
typedef struct {
    VlDaemon *daemon;
    VlSanlockConf conf;
    VlSanlockSpace *space;
    char *dir;  /* versions of leases (sanlock_versions.c) */
    char *tool; /* virtleasectl, for sanlock to run */
} VlSanlock;

/* volume->priv */
typedef struct {
    gboolean is_file; /* FALSE: a <lease> device */
    VlFileId id;
    GPtrArray *refs; /* of VlSanlockRef, the canonical one first */
} VlSanlockVolume;

enum { VL_SANLOCK_REFS_MAX = 2 };
#define VL_SANLOCK_LVER_UNREADABLE ((gint64)-1) /* it had one, but what was written down is damaged */

/* lease->priv; guarded by the VM's operation lock */
typedef struct {
    VlLockfile *local;
    gint64 lver[VL_SANLOCK_REFS_MAX]; /* as we last knew them; 0: not known. Only with it is a lease taken again (R1) */
    guint taken;                      /* so many refs are this process's */
    gboolean let_go;                  /* not on storage any more, on purpose, though PARKED */
    gboolean lock_seen;               /* QEMU was seen to have a write lock on the image */
    gint wait_left;                   /* atomic: s until the dying host it is waited for is dead; 0: not waiting */
} VlSanlockLease;
VlSanlockLease *vl_sanlock_lease_of(VlLease *lease);

VlSanlock *vl_sanlock_of(const VlDaemon *daemon);

/* ---- sanlock_take.c ---- */
/* Takes the refs of a lease that are not taken yet; on failure none that was taken here stays. */
gboolean vl_sanlock_take_refs(VlSanlock *sanlock, VlVm *vm, VlLease *lease, guint wait_s, gboolean handover,
                              const VlCall *call, GError **error);
gboolean vl_sanlock_release_refs(VlSanlock *sanlock, VlVm *vm, VlLease *lease, gint64 deadline, GError **error);
gboolean vl_sanlock_take_local(VlSanlock *sanlock, VlVm *vm, VlLease *lease, const VlCall *call, GError **error);
/* Asks sanlock what the process has and notes the versions. FALSE: not all of them, or no answer. */
gboolean vl_sanlock_verify(VlSanlock *sanlock, VlVm *vm, GPtrArray *leases, gint64 deadline, GError **error);
/* The lease's refs are all in what sanlock says the process has. `note`: the versions there are those we go by now. */
gboolean vl_sanlock_is_held(VlLease *lease, GHashTable *held, gboolean note);
gboolean vl_sanlock_take(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, guint wait_s, const VlCall *call,
                         GError **error);
gboolean vl_sanlock_hold(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *token, const VlCall *call,
                         GError **error);
void vl_sanlock_audit(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);

/* ---- sanlock_show.c ---- */
gboolean vl_sanlock_show(VlDaemon *daemon, VlVolume *volume, const VlCall *call, JsonBuilder *out, GError **error);
void vl_sanlock_status(VlDaemon *daemon, JsonBuilder *out);
void vl_sanlock_list(const VlLease *lease, JsonBuilder *out);

/* ---- sanlock_move.c ---- */
void vl_sanlock_depart(VlDaemon *daemon, VlVm *vm, GPtrArray *leases);
gboolean vl_sanlock_begin_incoming(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GPtrArray *ret_free,
                                   const VlCall *call, GError **error);
gboolean vl_sanlock_finish_incoming(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *state,
                                    const VlCall *call, GError **error);
void vl_sanlock_state(const VlVm *vm, const GPtrArray *leases, GString *state);
/* Whether QEMU shows locks on its images: only of one that did can it be seen when it has let go. */
void vl_sanlock_note_locks(const GPtrArray *leases);

/* ---- sanlock_versions.c ---- */
/* Writes down the versions of all its leases; reads those of one back in a later life of ours (FALSE: it had none). */
gboolean vl_sanlock_save_versions(VlSanlock *sanlock, VlVm *vm, GError **error);
gboolean vl_sanlock_load_versions(VlSanlock *sanlock, VlVm *vm, VlLease *lease);
gboolean vl_sanlock_had_leases(VlSanlock *sanlock, const VlVm *vm);
/* A living VM has given these up. */
void vl_sanlock_drop_versions(VlSanlock *sanlock, VlVm *vm, GPtrArray *leases);
void vl_sanlock_forget_versions(VlSanlock *sanlock, VlVm *vm);

/* ---- sanlock_loss.c ---- */
/* What a VM that had leases and is not registered any more gets: the action for a lost lease, once.
 * In the background: libvirt calls us back meanwhile. */
void vl_sanlock_unprotected(VlDaemon *daemon, VlVm *vm, const char *reason);
/* VlSpaceLostFunc; opaque is the VlSanlock. */
void vl_sanlock_lost(const char *reason, gpointer opaque);
/* sanlock is about to kill this VM because the lockspace fails (killpath): acts as for a lost lease, and spares
 * the process if that paused it. */
gboolean vl_sanlock_failing(VlDaemon *daemon, const char *uuid, GError **error);

#endif

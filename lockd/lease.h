/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One lease of one QEMU process on this host: which volume, in which state, and the record as last
 * known to be stored. What may follow what:
 *
 *     NONE ──▶ TAKING ──▶ PARKED ◀──▶ HELD        TAKING, PARKED, HELD ──▶ LOST
 *               │            │          │          any of them ──▶ FREEING ──▶ FREE
 *               └────────────┴──────────┴────▶ FREEING
 *
 * INCOMING (from TAKING, to PARKED): a migration is coming in, the lease is its source's and we are its heir; no right
 * to run. PARKED excludes everybody else just as HELD does; only HELD lets vCPUs run. LOST: the record names somebody
 * else, or our QEMU's clients are fenced; nothing is granted for it any more.
 */
#ifndef VL_LOCKD_LEASE_H
#define VL_LOCKD_LEASE_H

#include "lockd/record.h"
#include "lockd/store.h"

typedef enum {
    VL_LEASE_NONE,
    VL_LEASE_TAKING,
    VL_LEASE_INCOMING,
    VL_LEASE_PARKED,
    VL_LEASE_HELD,
    VL_LEASE_LOST,
    VL_LEASE_FREEING,
    VL_LEASE_FREE,
    VL_LEASE_STATE_COUNT
} VlLeaseState;

typedef struct VlVm VlVm;

typedef struct {
    VlVm *vm; /* borrowed: a lease lives in its VM */
    VlVolume *volume;
    struct vl_volume_spec spec;
    char *target; /* "vda" */
    gboolean shared;
    gboolean device; /* only a <lease> names it so far: there is no client of QEMU's to record */
    gboolean seen;   /* the status XML has named it; before that, an attach may still be under way */
    /* Written with the VM table's lock held; read by others only with it held. */
    VlLeaseState state;
    gint64 since;       /* unix seconds of the last change of state */
    VlRecord *record;   /* as last known to be stored; NULL before the first look */
    gboolean unindexed; /* kept, and not yet written to the index (keep.h) */
    /* For whoever holds the VM's operation lock. */
    GBytes *raw;           /* the bytes of `record` */
    GPtrArray *baseline;   /* of char *: clients seen on the volume before this QEMU existed, or NULL */
    gboolean open_already; /* QEMU had it open before we came: its client is found by socket, not by novelty */
    gboolean kept;         /* the record named this running QEMU before we came */
    gboolean unwritten;    /* PARKED here; what is stored may still say HELD, or have the next token */
    void *priv;            /* the backend's, of volumes without a record; let go of by its lease_clear */
} VlLease;

VlLease *vl_lease_new(VlVm *vm, VlVolume *volume, const struct vl_volume_spec *spec, const char *target,
                      gboolean shared);
void vl_lease_free(VlLease *lease);
const char *vl_lease_state_name(VlLeaseState state);

/* The one function through which a lease changes state: checks the picture above, logs. */
void vl_lease_set_state(VlLease *lease, VlLeaseState state, const char *reason);
/* Takes over both references: what is stored now. */
void vl_lease_set_record(VlLease *lease, GBytes *raw, VlRecord *record);
/* Our own holder entry in the record, or NULL. */
VlHolder *vl_lease_holder(const VlLease *lease);
/* PARKED, HELD: the record is ours. */
gboolean vl_lease_is_ours(const VlLease *lease);

#endif

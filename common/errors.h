/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VL_COMMON_ERRORS_H
#define VL_COMMON_ERRORS_H

/* Why a request was not granted. The number travels in replies, so values are never reused.
 * Every code but VL_OK means: no lease. */
enum vl_error {
    VL_OK = 0,
    VL_ERR_INTERNAL = 1,       /* a defect of ours */
    VL_ERR_HELD = 2,           /* a living VM (or a takeover under way) holds the volume */
    VL_ERR_FOREIGN = 3,        /* a client that no lease explains uses the image */
    VL_ERR_STORAGE = 4,        /* storage failed or did not answer in time */
    VL_ERR_DENIED = 5,         /* the Ceph user may not do this (caps, key) */
    VL_ERR_MISSING = 6,        /* no such pool, namespace, image or file */
    VL_ERR_RECORD = 7,         /* lease record is garbage or of a future version */
    VL_ERR_STALE = 8,          /* the volume was elsewhere since: this QEMU's memory is stale */
    VL_ERR_NOT_REGISTERED = 9, /* this QEMU process is not known to virtleased */
    VL_ERR_NO_ADDRESS = 10,    /* no client address of this QEMU was found on the image (R3) */
    VL_ERR_TIMEOUT = 11,       /* the deadline of the call passed */
    VL_ERR_CONFIG = 12,        /* bad configuration */
    VL_ERR_PROTOCOL = 13,      /* malformed or unknown message */
    VL_ERR_NOT_PERMITTED = 14, /* the peer may not ask this */
    VL_ERR_FENCE = 15,         /* fencing could not be completed: nobody was let in */
    VL_ERR_CHANGED = 16,       /* somebody else was faster; decide again */
    VL_ERR_CANCELLED = 17,     /* the asking process went away */
    VL_ERR_JOURNAL = 18,       /* local state could not be written */
    VL_ERR_DUP_HOST = 19,      /* two live hosts share one identity */
    VL_ERR_LOST = 20,          /* this host's lease was taken over or fenced */
    VL_ERR_NO_XML = 21,        /* libvirt's status XML of the VM was not found or not readable */
    VL_ERR_DAEMON = 22,        /* virtleased cannot be reached (set by the plugin and the tool) */
    VL_ERR_MANUAL = 23,        /* owner is dead but takeover = manual */
    VL_ERR_UNKNOWN_OWNER = 24, /* owner is silent but not yet proven dead; wait and retry */
    VL_ERR_COUNT
};

/* A short stable word for a code ("held", "storage", ...), for --json and logs. Never NULL. */
const char *vl_error_name(enum vl_error code);

#endif

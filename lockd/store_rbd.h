/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The store of lease records on RBD images (librados, librbd). Everything but the constructor is
 * reached through the ops table of store.h. */
#ifndef VL_LOCKD_STORE_RBD_H
#define VL_LOCKD_STORE_RBD_H

#include "lockd/store.h"

typedef struct {
    char *ceph_conf;    /* default cluster's configuration file; NULL = where librados looks */
    char *ceph_user;    /* without "client."; NULL = "admin" */
    guint op_timeout_s; /* one OSD or monitor operation, one connect; 0 = 5 */
} VlStoreRbdSettings;

/* Connects nowhere yet. Freed by ops->free, after every volume of it. */
VlStore *vl_store_rbd_new(const VlStoreRbdSettings *settings);

#endif

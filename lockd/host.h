/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Who this host is, in leases and sessions. */
#ifndef VL_LOCKD_HOST_H
#define VL_LOCKD_HOST_H

#include <glib.h>

#include "lockd/settings.h"

typedef struct {
    char *id;        /* libvirt's host UUID, or the machine id, or what is configured */
    char *machine;   /* machine id */
    char *name;      /* for people */
    char *boot;      /* boot id */
    GHashTable *ips; /* set of this host's addresses */
} VlHost;

VlHost *vl_host_new(const VlSettings *settings, GError **error);
void vl_host_free(VlHost *host);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlHost, vl_host_free)

#endif

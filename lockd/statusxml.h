/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt's status XML (/run/libvirt/qemu/NAME.xml): what a VM's disks are and what is being done
 * to it, by reading files only. A libvirt call in this place would deadlock: the plugin is called
 * with the domain locked (facts: qemu_domain.c, virDomainObjSave). libxml2 does the parsing, with
 * network access and entity expansion off and sizes bounded.
 */
#ifndef VL_LOCKD_STATUSXML_H
#define VL_LOCKD_STATUSXML_H

#include <glib.h>

#include "common/volume.h"

#define VL_LOCKSPACE_RBD "rbd" /* <lockspace> of a <lease> that names an RBD image */

typedef struct {
    /* FILE paths are as written: the caller resolves them, and finds the krbd ones, with
     * vl_volume_from_path(). */
    struct vl_volume_spec spec;
    char *target;                 /* "vda"; NULL for firmware variables */
    char *format;                 /* "raw", "qcow2"; may be NULL */
    gboolean readonly, shareable; /* a snapshot (<snapshot name=>, IMAGE@SNAP) counts as readonly, a
                                   * mirror never does */
    gboolean device; /* a <lease> device, leased without being a disk: of lockspace "rbd", key POOL[/NS]/IMAGE, or of a
                      * sanlock lockspace (VL_VOLUME_LEASE) */
    gboolean mirror; /* target of a block job (<mirror>), not yet the disk itself */
} VlDisk;

typedef struct {
    char *uuid; /* lower-case canonical text */
    char *name;
    gint64 pid;      /* 0: not yet known to libvirt (the child hook runs) */
    char *state;     /* <domstatus state=>: "running", "paused", "shutdown", "pmsuspended", ... */
    gboolean paused; /* state is "paused" */
    char *reason;    /* <domstatus reason=> */
    char *async_job; /* <job async=>: "start", "migration in", "migration out", ... or NULL */
    char *job_phase;
    char *lockstate;    /* text of <lockstate>, or NULL */
    char *lock_failure; /* <on_lockfailure>, or NULL */
    /* Of VlDisk: every <disk> with a source, each <mirror>'s source after it, and <nvram> of type
     * network. Empty drives and backing chains are left out. What is neither file, block, dir nor
     * RBD is VL_VOLUME_OTHER: "iscsi:NAME", "nbd:", "nvme:", "vhostuser:", and
     * "volume:POOL/VOLUME", whose path libvirt knows but does not print: only the plugin's
     * resources tell it. */
    GPtrArray *disks;
    /* Of VlDisk: what stands below a disk in its <backingStore>s. It gets no lease of its own, but one it had as the
     * disk itself (before a snapshot) is kept: a block commit writes to it again. */
    GPtrArray *backing;
    const GPtrArray *named; /* of VlDisk, borrowed: what libvirt named in its call; NULL: this is not about a call */
} VlDomain;

void vl_disk_free(VlDisk *disk);
void vl_domain_free(VlDomain *domain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlDomain, vl_domain_free)

/* Parses one status file. Errors: NO_XML with the path (absent, not a domstatus, malformed, with a
 * DOCTYPE, a disk that cannot be understood, empty, above 8 MiB). */
VlDomain *vl_statusxml_load(const char *path, GError **error);
VlDomain *vl_statusxml_parse(const char *path, const char *text, gsize len, GError **error);

/* The directory libvirt uses for a connection URI as given to lock drivers: "qemu:///system" ->
 * <run>/libvirt/qemu; "qemu:///session" -> NULL with an error (root only serves system VMs);
 * "qemu:///embed?root=DIR" -> DIR/run/qemu. `run` is "/run" outside tests. */
char *vl_statusxml_dir(const char *uri, const char *run, GError **error);

/* The file of a VM: DIR/NAME.xml if it is of that uuid, else every *.xml of the directory is tried
 * (a VM may have been renamed while running). NULL without error: none has that uuid. NO_XML: the
 * directory cannot be read, or DIR/NAME.xml is there but unusable and no other file is of that
 * uuid. */
VlDomain *vl_statusxml_find(const char *dir, const char *name, const char *uuid, GError **error);

/* All VMs of a directory (unparsable files are logged with g_warning and left out). */
GPtrArray *vl_statusxml_list(const char *dir);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What a VM calls its disks, brought to one form. This is spelling only, no storage is asked: the
 * final identity of an RBD image (cluster fsid, pool id, namespace, image id) is the backend's
 * work, because two names of one image (a rename) or of one cluster (host list, config file) can
 * only be told by asking the cluster. Plain C, safe after fork.
 */
#ifndef VL_COMMON_VOLUME_H
#define VL_COMMON_VOLUME_H

#include <stdbool.h>
#include <stddef.h>

enum vl_volume_kind {
    VL_VOLUME_RBD,   /* librbd network disk or krbd block device */
    VL_VOLUME_FILE,  /* file, block device or directory: path */
    VL_VOLUME_OTHER, /* a network disk no backend knows (iscsi, nbd, ...) */
    VL_VOLUME_LEASE, /* a <lease> device in a sanlock lockspace: space, key, path, offset */
};

/* All strings malloc'ed and owned; NULL where they do not apply. */
struct vl_volume_spec {
    enum vl_volume_kind kind;
    char *pool;      /* RBD */
    char *ns;        /* RBD namespace, "" for the default one */
    char *image;     /* RBD */
    char *conf;      /* RBD: <config file=...>, NULL = the daemon's default */
    char *mon_hosts; /* RBD: "host:port,host:port" sorted, duplicates removed; NULL = none given */
    bool snapshot;   /* RBD: a snapshot of the image, which nobody can write */
    bool krbd;       /* RBD through the kernel client */
    /* krbd: what the kernel says the device is, NULL where it does not tell. Right even where the
     * names are not: an image renamed since it was mapped, one of another cluster. */
    char *fsid, *pool_id, *image_id;
    char *path;           /* FILE: as canonical as the file system allows; OTHER: "protocol:name"; krbd: as
                           * given, for vl_volume_krbd_client(), no part of the name; LEASE: file or device it lies in */
    char *written;        /* FILE: as libvirt spells it, no part of the name */
    char *space, *key;    /* LEASE: lockspace and resource */
    unsigned long offset; /* LEASE: bytes into path */
};

void vl_volume_spec_clear(struct vl_volume_spec *spec);
int vl_volume_spec_copy(const struct vl_volume_spec *from, struct vl_volume_spec *ret_spec);

/* The functions below overwrite *ret_spec, freeing nothing in it, and leave it alone on failure. */

/* "POOL/IMAGE" or "POOL/NS/IMAGE" as in libvirt's <source protocol='rbd' name=...>; an optional
 * "@snapshot" suffix is cut off and sets `snapshot`. -EINVAL for anything else (empty parts, too
 * many slashes, control characters). libvirt splits at the first slash and hands "NS/IMAGE" to QEMU
 * as the image. */
int vl_volume_parse_rbd(const char *name, struct vl_volume_spec *ret_spec);

/* Adds one <host name= port=> (port NULL, "" or "0" = none) keeping mon_hosts sorted and unique;
 * names become lower case, IPv6 literals shortest form in brackets. -EINVAL if it is no host or no
 * port. */
int vl_volume_add_host(struct vl_volume_spec *spec, const char *name, const char *port);

/* An absolute path given by libvirt for a file or block disk, or the path of a <lease>.
 *
 * krbd devices (/dev/rbd/POOL[/NS]/IMAGE, /dev/rbdN, symlinks to them, block nodes of the same
 * number, whole device or partition) become RBD specs by reading `sysfs`/bus/rbd/devices/N; -ENODEV
 * if rbdN is not mapped. A missing /dev/rbd/... link is looked for in sysfs, and taken at its word
 * if no mapped device is called so.
 *
 * Other block devices become a FILE with a name that is the same on every host, whatever the
 * spelling: /dev/mapper/NAME, else the best /dev/disk/by-id link, else as written (its directory
 * resolved). What such links lead to, /dev/dm-3 or /dev/sdb, is another disk on another host.
 *
 * Everything else becomes a FILE with every existing component resolved (realpath), so that two
 * spellings give one path. What does not exist yet keeps its missing components below the resolved
 * parent.
 *
 * -EINVAL: not absolute. Others as realpath() gives them (-ELOOP, -ENOTDIR, -EACCES, ...); -ENOENT
 * only for ".." below a missing directory. `sysfs` is "/sys" outside tests, `dev` is "/dev". */
int vl_volume_from_path(const char *path, const char *sysfs, const char *dev, struct vl_volume_spec *ret_spec);

/* The kernel client's address ("10.0.0.1:0/123", "[::1]:0/123") behind a krbd path. -ENXIO: the
 * path is not (or no longer) a mapped krbd device; -ENODEV: rbdN is not mapped; -ENOTUNIQ: the
 * device link is missing and several mapped devices would be called so. */
int vl_volume_krbd_client(const char *path, const char *sysfs, const char *dev, char **ret_addr);

/* "rbd:POOL/NS/IMAGE", "rbd:POOL/IMAGE", "file:PATH", "iscsi:NAME": malloc'ed, for messages and
 * logs; control characters as \xNN. NULL without memory. */
char *vl_volume_display(const struct vl_volume_spec *spec);

/* Same spelling: equal in every member that spells the volume (krbd and librbd of one name are the
 * same, and an image and its snapshot; a file's canonical path or the one it was written as). */
bool vl_volume_spec_equal(const struct vl_volume_spec *a, const struct vl_volume_spec *b);

#endif

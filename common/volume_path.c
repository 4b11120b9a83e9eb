/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Paths to volumes. A path leads to one of
 *
 *     a krbd device   -> what the kernel says of it in sysfs (drivers/block/rbd.c, rbd_attrs)
 *     a block device  -> a name that is the same on every host: /dev/sdb is not, its by-id link is
 *     anything else   -> all symlinks resolved, missing components kept as they are
 */
#include "common/volume.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/str.h"

#define LINKS_MAX 40 /* as the kernel's MAXSYMLINKS */

static void
close_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}
#define autoclose __attribute__((cleanup(close_dir)))

/* Takes the last component off `path` (which does not exist) and puts it before `tail`, or follows
 * `path` where it is a dangling symlink: that is where the file would appear. */
static int
step_up(char **path, char **tail, unsigned int *links)
{
    for (size_t len = strlen(*path); len > 1 && (*path)[len - 1] == '/'; len--)
        (*path)[len - 1] = '\0';
    char *base = strrchr(*path, '/') + 1;
    if (strcmp(base, "..") == 0)
        return -ENOENT; /* "missing/..": the kernel would not find it either */
    char target[PATH_MAX];
    ssize_t n = readlink(*path, target, sizeof target - 1);
    if (n < 0 && strcmp(base, ".") != 0) {
        char *longer = vl_format("/%s%s", base, *tail);
        if (!longer)
            return -ENOMEM;
        free(*tail);
        *tail = longer;
    }
    *base = '\0';
    if (n < 0)
        return 0;
    target[n] = '\0';
    if ((*links)++ == LINKS_MAX)
        return -ELOOP;
    char *next = vl_format("%s%s", *target == '/' ? "" : *path, target);
    if (!next)
        return -ENOMEM;
    free(*path);
    *path = next;
    return 0;
}

/* realpath() that goes on where the path stops existing: the missing rest is kept as it is. */
static int
resolve(const char *path, char **ret_real)
{
    if (strlen(path) >= PATH_MAX)
        return -ENAMETOOLONG;
    autofree char *here = strdup(path);
    autofree char *tail = strdup("");
    autofree char *real = NULL;
    unsigned int links = 0;
    if (!here || !tail)
        return -ENOMEM;
    while (!(real = realpath(here, NULL))) {
        int r = errno == ENOENT ? step_up(&here, &tail, &links) : -errno;
        if (r < 0)
            return r;
    }
    *ret_real = vl_format("%s%s", !real[1] && *tail ? "" : real, tail);
    return *ret_real ? 0 : -ENOMEM;
}

/* What follows "DIR/" in `path`, NULL if it is not below DIR. */
static const char *
below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && path[len] == '/' ? path + len + 1 : NULL;
}

/* A sysfs attribute without its newline. */
static int
read_attribute(const char *dir, const char *name, char **ret_text)
{
    autofree char *path = vl_format("%s/%s", dir, name);
    if (!path)
        return -ENOMEM;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char buffer[4096]; /* sysfs gives at most a page */
    ssize_t n = read(fd, buffer, sizeof buffer);
    int saved = errno;
    close(fd);
    if (n < 0)
        return -saved;
    if (n > 0 && buffer[n - 1] == '\n')
        n--;
    char *text = strndup(buffer, (size_t)n);
    if (!text)
        return -ENOMEM;
    *ret_text = text;
    return 0;
}

/* Device number of "rbdN" and "rbdNpM" (rbd_dev_id is the N whatever the major number is), or -1.
 */
static int
rbd_number(const char *name)
{
    int number = 0, used = 0;
    if (strncmp(name, "rbd", 3) != 0 || !isdigit((unsigned char)name[3]) || strlen(name) > 24 ||
        sscanf(name, "rbd%9d%n", &number, &used) != 1)
        return -1;
    name += used;
    if (name[0] == 'p' && name[1] && !name[1 + strspn(name + 1, "0123456789")])
        return number;
    return *name ? -1 : number;
}

/* The spec of one mapped device. Attributes a kernel does not have yet (pool_ns before 5.1) count
 * as empty. -ENODEV: there is no such device. */
static int
krbd_spec(const char *dir, struct vl_volume_spec *ret_spec)
{
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD};
    autofree char *snap = NULL;
    const struct {
        const char *name;
        char **text;
        bool needed;
    } attributes[] = {{"pool", &spec.pool, true},          {"name", &spec.image, true},
                      {"pool_ns", &spec.ns, false},        {"current_snap", &snap, false},
                      {"cluster_fsid", &spec.fsid, false}, {"pool_id", &spec.pool_id, false},
                      {"image_id", &spec.image_id, false}};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof attributes / sizeof *attributes; i++) {
        r = read_attribute(dir, attributes[i].name, attributes[i].text);
        if (r == -ENOENT)
            r = attributes[i].needed ? -ENODEV : 0;
    }
    if (r == 0 && !spec.ns && !(spec.ns = strdup("")))
        r = -ENOMEM;
    if (r < 0) {
        vl_volume_spec_clear(&spec);
        return r;
    }
    spec.snapshot = snap && *snap && strcmp(snap, "-") != 0;
    *ret_spec = spec;
    return 0;
}

/* True if udev would call this device DEV/rbd/WANTED (50-rbd.rules, ceph-rbdnamer:
 * POOL[/NS]/IMAGE[@SNAP][-partN]); without the -partN when `exact`. */
static bool
krbd_is_called(const char *dir, const char *wanted, bool exact)
{
    struct vl_volume_spec spec;
    autofree char *snap = NULL;
    if (krbd_spec(dir, &spec) < 0)
        return false;
    if (spec.snapshot)
        (void)read_attribute(dir, "current_snap", &snap);
    autofree char *name = vl_format("%s%s%s/%s%s%s", spec.pool, *spec.ns ? "/" : "", spec.ns, spec.image,
                                    snap ? "@" : "", snap ? snap : "");
    vl_volume_spec_clear(&spec);
    size_t len = name ? strlen(name) : 0;
    if (!name || strncmp(wanted, name, len) != 0)
        return false;
    const char *rest = wanted + len;
    if (exact)
        return !*rest;
    return strncmp(rest, "-part", 5) == 0 && rest[5] && !rest[5 + strspn(rest + 5, "0123456789")];
}

/* Looks for the device that DEV/rbd/WANTED would be, where udev's links are not visible. *ret_dir
 * is its sysfs directory; -ENXIO if none is, -ENOTUNIQ if `unique` and several are. */
static int
krbd_search(const char *sysfs, const char *wanted, bool unique, char **ret_dir)
{
    autofree char *all = vl_format("%s/bus/rbd/devices", sysfs);
    autofree char *found = NULL;
    if (!all)
        return -ENOMEM;
    for (int exact = 1; exact >= 0 && !found; exact--) {
        autoclose DIR *devices = opendir(all);
        struct dirent *entry;
        while (devices && (entry = readdir(devices))) {
            autofree char *dir = vl_format("%s/%s", all, entry->d_name);
            if (!dir)
                return -ENOMEM;
            if (!isdigit((unsigned char)entry->d_name[0]) || !krbd_is_called(dir, wanted, exact))
                continue;
            if (found && unique)
                return -ENOTUNIQ;
            free(found);
            found = dir;
            dir = NULL;
        }
    }
    if (!found)
        return -ENXIO;
    *ret_dir = found;
    found = NULL;
    return 0;
}

/* The sysfs directory of the krbd device a (resolved) path leads to; -ENXIO if it is something
 * else. */
static int
krbd_find(const char *real, const char *real_dev, const char *sysfs, bool unique, char **ret_dir)
{
    const char *name = below(real, real_dev);
    int number = name ? rbd_number(name) : -1;
    struct stat st;
    bool present = stat(real, &st) == 0;
    if (number < 0 && present && S_ISBLK(st.st_mode)) {
        /* A node made elsewhere (a container, libvirt's own /dev): ask the kernel by number. */
        char target[PATH_MAX];
        autofree char *path = vl_format("%s/dev/block/%u:%u", sysfs, major(st.st_rdev), minor(st.st_rdev));
        if (!path)
            return -ENOMEM;
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        const char *base = strrchr(target, '/');
        number = base ? rbd_number(base + 1) : -1;
    }
    if (number >= 0) {
        *ret_dir = vl_format("%s/bus/rbd/devices/%d", sysfs, number);
        return *ret_dir ? 0 : -ENOMEM;
    }
    if (present || !name || strncmp(name, "rbd/", 4) != 0)
        return -ENXIO;
    return krbd_search(sysfs, name + 4, unique, ret_dir);
}

/* How well a link in /dev/disk/by-id names a disk for every host: lower is better, -1 not at all.
 */
static int
by_id_rank(const char *name)
{
    static const char *const kinds[] = {"wwn-",   "nvme-eui.", "nvme-uuid.", "nvme-", "scsi-3",
                                        "scsi-S", "scsi-",     "md-uuid-",   "ata-",  "virtio-"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(name, kinds[i], strlen(kinds[i])) == 0)
            return (int)i;
    return -1;
}

/* The best by-id link to device `base`; NULL if there is none. */
static char *
by_id_link(const char *real_dev, const char *base)
{
    char *best = NULL;
    autofree char *path = vl_format("%s/disk/by-id", real_dev);
    autoclose DIR *dir = path ? opendir(path) : NULL;
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        const char *slash = strrchr(target, '/');
        int rank = by_id_rank(entry->d_name);
        if (rank < 0 || strcmp(slash ? slash + 1 : target, base) != 0)
            continue;
        int old = best ? by_id_rank(best) : INT_MAX;
        if (rank > old || (rank == old && strcmp(entry->d_name, best) >= 0))
            continue;
        free(best);
        best = strdup(entry->d_name);
    }
    return best;
}

/* `real` is /dev/sdb, /dev/dm-3 ...: numbers given in the order of discovery, another one on each
 * host. Device mapper names and by-id links are the same everywhere; without either, what the
 * admin wrote is the best guess (only its directory is resolved). */
static int
block_name(const char *written, const char *base, const char *real_dev, const char *sysfs, char **ret_path)
{
    autofree char *dir = vl_format("%s/block/%s/dm", sysfs, base);
    autofree char *name = NULL;
    if (!dir)
        return -ENOMEM;
    char *stable;
    if (read_attribute(dir, "name", &name) == 0 && *name) {
        stable = vl_format("%s/mapper/%s", real_dev, name);
    } else {
        free(name);
        name = by_id_link(real_dev, base);
        stable = name ? vl_format("%s/disk/by-id/%s", real_dev, name) : NULL;
    }
    if (!stable && !name) {
        const char *last = strrchr(written, '/');
        autofree char *parent = strndup(written, (size_t)(last - written) + 1);
        autofree char *real_parent = parent ? realpath(parent, NULL) : NULL;
        if (!real_parent)
            return parent ? -errno : -ENOMEM;
        stable = vl_format("%s/%s", real_parent[1] ? real_parent : "", last + 1);
    }
    *ret_path = stable;
    return stable ? 0 : -ENOMEM;
}

/* Resolves both; on failure neither is set. */
static int
resolve_both(const char *path, const char *dev, char **ret_real, char **ret_real_dev)
{
    if (!path || path[0] != '/' || dev[0] != '/')
        return -EINVAL;
    char *real = NULL, *real_dev = NULL;
    int r = resolve(path, &real);
    if (r < 0)
        return r;
    r = resolve(dev, &real_dev);
    if (r < 0) {
        free(real);
        return r;
    }
    *ret_real = real;
    *ret_real_dev = real_dev;
    return 0;
}

/* A krbd spec, from its sysfs directory or (not mapped) from the `name` below /dev/rbd. It keeps
 * the path, so that vl_volume_krbd_client() can ask again. */
static int
krbd_from(const char *dir, const char *name, const char *path, struct vl_volume_spec *ret_spec)
{
    struct vl_volume_spec spec;
    int r = dir ? krbd_spec(dir, &spec) : vl_volume_parse_rbd(name, &spec);
    if (r < 0)
        return r;
    spec.krbd = true;
    spec.path = strdup(path);
    if (!spec.path) {
        vl_volume_spec_clear(&spec);
        return -ENOMEM;
    }
    *ret_spec = spec;
    return 0;
}

int
vl_volume_from_path(const char *path, const char *sysfs, const char *dev, struct vl_volume_spec *ret_spec)
{
    autofree char *real = NULL;
    autofree char *real_dev = NULL;
    autofree char *dir = NULL;
    int r = resolve_both(path, dev, &real, &real_dev);
    if (r < 0)
        return r;
    r = krbd_find(real, real_dev, sysfs, false, &dir);
    if (r == 0)
        return krbd_from(dir, NULL, path, ret_spec);
    if (r != -ENXIO)
        return r;
    const char *name = below(real, real_dev);
    if (name && strncmp(name, "rbd/", 4) == 0) {
        r = krbd_from(NULL, name + 4, path, ret_spec); /* not mapped: the name is all there is */
        if (r != -EINVAL)
            return r;
    }
    struct vl_volume_spec spec = {.kind = VL_VOLUME_FILE, .written = strdup(path)};
    if (!spec.written)
        return -ENOMEM;
    if (name && !strchr(name, '/') && access(real, F_OK) == 0) {
        r = block_name(path, name, real_dev, sysfs, &spec.path);
        if (r < 0) {
            free(spec.written);
            return r;
        }
    } else {
        spec.path = real;
        real = NULL;
    }
    *ret_spec = spec;
    return 0;
}

int
vl_volume_krbd_client(const char *path, const char *sysfs, const char *dev, char **ret_addr)
{
    autofree char *real = NULL;
    autofree char *real_dev = NULL;
    autofree char *dir = NULL;
    int r = resolve_both(path, dev, &real, &real_dev);
    if (r < 0)
        return r;
    r = krbd_find(real, real_dev, sysfs, true, &dir);
    if (r < 0)
        return r;
    char *addr = NULL;
    r = read_attribute(dir, "client_addr", &addr);
    if (r == 0 && !*addr) {
        free(addr);
        return -ENODEV;
    }
    if (r == 0)
        *ret_addr = addr;
    return r == -ENOENT ? -ENODEV : r;
}

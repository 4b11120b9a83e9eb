/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h> /* sanlock.h needs it and does not say so */
#include <sanlock.h>
#include <sanlock_admin.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/sanlock_call.h"
#include "lockd/sanlock_words.h"

#define FILE_MODE 0660

typedef struct {
    char *dir, *name, *user, *group;
    guint sector_size, num_hosts, io_timeout;
    VlSanlockStep step; /* out: the one that failed */
    gboolean made;      /* out */
} Make;

static void
make_free(gpointer data)
{
    Make *make = data;
    g_free(make->dir);
    g_free(make->name);
    g_free(make->user);
    g_free(make->group);
    g_free(make);
}

static int
lookup_owner(const Make *make, uid_t *ret_uid, gid_t *ret_gid)
{
    char buffer[16384];
    struct passwd user, *user_found = NULL;
    struct group group, *group_found = NULL;
    *ret_uid = (uid_t)-1;
    *ret_gid = (gid_t)-1;
    if (make->user) {
        if (getpwnam_r(make->user, &user, buffer, sizeof(buffer), &user_found) || !user_found)
            return -ENOENT;
        *ret_uid = user.pw_uid;
    }
    if (make->group) {
        if (getgrnam_r(make->group, &group, buffer, sizeof(buffer), &group_found) || !group_found)
            return -ENOENT;
        *ret_gid = group.gr_gid;
    }
    return 0;
}

/* An empty file of our own, of the full size, that the sanlock daemon can open. */
static int
make_empty(Make *make, char *path)
{
    uid_t uid;
    gid_t gid;
    make->step = VL_SANLOCK_STEP_OWNER;
    int rc = lookup_owner(make, &uid, &gid);
    if (rc < 0)
        return rc;
    make->step = VL_SANLOCK_STEP_CREATE;
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    make->step = VL_SANLOCK_STEP_CHOWN;
    if (fchown(fd, uid, gid) < 0 || fchmod(fd, FILE_MODE) < 0) {
        rc = -errno;
    } else {
        /* Now, so that a full file system is found out here and not by a write in the daemon. */
        make->step = VL_SANLOCK_STEP_ALLOCATE;
        rc = -posix_fallocate(fd, 0, VL_SANLOCK_AREA_BYTES);
    }
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc < 0)
        (void)unlink(path);
    return rc;
}

static int
format_space(const Make *make, const char *path)
{
    struct sanlk_lockspace space = {0};
    memcpy(space.name, VL_SANLOCK_SPACE, sizeof(VL_SANLOCK_SPACE));
    g_strlcpy(space.host_id_disk.path, path, sizeof(space.host_id_disk.path));
    if (make->sector_size)
        space.flags = SANLK_LSF_ALIGN1M | (make->sector_size == 4096 ? SANLK_LSF_SECTOR4K : SANLK_LSF_SECTOR512);
    /* The record of a host that never was there says for how long it must have been silent. */
    return sanlock_write_lockspace(&space, 0, 0, make->io_timeout);
}

static int
format_lease(const Make *make, const char *path)
{
    struct {
        struct sanlk_resource resource;
        struct sanlk_disk disk; /* its disks[0] */
    } lease;
    memset(&lease, 0, sizeof(lease));
    memcpy(lease.resource.lockspace_name, VL_SANLOCK_SPACE, sizeof(VL_SANLOCK_SPACE));
    g_strlcpy(lease.resource.name, make->name, sizeof(lease.resource.name));
    lease.resource.num_disks = 1;
    g_strlcpy(lease.disk.path, path, sizeof(lease.disk.path));
    if (make->sector_size)
        lease.resource.flags =
            SANLK_RES_ALIGN1M | (make->sector_size == 4096 ? SANLK_RES_SECTOR4K : SANLK_RES_SECTOR512);
    /* In both places: sanlock 3.8 takes the argument called max_hosts for num_hosts. */
    return sanlock_write_resource(&lease.resource, (int)make->num_hosts, (int)make->num_hosts, 0);
}

static int
sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

static int
make_run(gpointer data)
{
    Make *make = data;
    g_autofree char *temp = g_build_filename(make->dir, VL_SANLOCK_TEMP_PREFIX "XXXXXX", NULL);
    g_autofree char *path = g_build_filename(make->dir, make->name, NULL);
    int rc = make_empty(make, temp);
    if (rc < 0)
        return rc;
    make->step = VL_SANLOCK_STEP_FORMAT;
    rc = g_str_equal(make->name, VL_SANLOCK_SPACE) ? format_space(make, temp) : format_lease(make, temp);
    if (rc == 0) {
        make->step = VL_SANLOCK_STEP_LINK;
        if (link(temp, path) == 0)
            make->made = TRUE;
        else if (errno != EEXIST)
            rc = -errno;
    }
    (void)unlink(temp);
    if (rc == 0)
        rc = sync_dir(make->dir);
    return rc;
}

static const VlSanlockOp make_op = {make_run, NULL, make_free};

void
vl_sanlock_file_error(GError **error, VlSanlockStep step, int rc, const VlSanlockConf *conf, const char *name)
{
    static const char *const doing[] = {
        [VL_SANLOCK_STEP_OWNER] = "looking up the owner",
        [VL_SANLOCK_STEP_CREATE] = "creating it",
        [VL_SANLOCK_STEP_CHOWN] = "giving it to sanlock",
        [VL_SANLOCK_STEP_ALLOCATE] = "allocating it",
        [VL_SANLOCK_STEP_FORMAT] = "formatting it",
        [VL_SANLOCK_STEP_LINK] = "giving it its name",
        [VL_SANLOCK_STEP_DONE] = "finishing",
    };
    g_autofree char *what = g_strdup_printf("lease file %s/%s: %s", conf->lease_dir, name, doing[step]);
    if (step == VL_SANLOCK_STEP_OWNER)
        vl_set_error(error, VL_ERR_CONFIG, "%s: this host has no user \"%s\" or no group \"%s\"", what,
                     conf->user ? conf->user : "", conf->group ? conf->group : "");
    else if (step == VL_SANLOCK_STEP_CREATE && rc == -ENOENT)
        vl_set_error(error, VL_ERR_MISSING, "%s: the directory does not exist; is the file system mounted?", what);
    else if (rc == -ENOSPC)
        vl_set_error(error, VL_ERR_STORAGE, "%s: the file system is full; a lease needs 1 MiB", what);
    else if ((step == VL_SANLOCK_STEP_CREATE || step == VL_SANLOCK_STEP_CHOWN) && (rc == -EACCES || rc == -EPERM))
        vl_set_error(error, VL_ERR_DENIED,
                     "%s: %s. If this is NFS, the server may be squashing root: export it with no_root_squash", what,
                     g_strerror(-rc));
    else if (step == VL_SANLOCK_STEP_LINK && (rc == -EPERM || rc == -EOPNOTSUPP || rc == -EMLINK))
        vl_set_error(error, VL_ERR_STORAGE, "%s: the file system has no hard links; create it by hand", what);
    else
        vl_sanlock_error(error, VL_SANLOCK_FORMAT, rc, what, NULL);
}

gboolean
vl_sanlock_file_make(const VlSanlockConf *conf, const char *name, gint64 deadline, gboolean *ret_made, GError **error)
{
    Make *make = g_new0(Make, 1);
    *make = (Make){.dir = g_strdup(conf->lease_dir),
                   .name = g_strdup(name),
                   .user = g_strdup(conf->user),
                   .group = g_strdup(conf->group),
                   .sector_size = conf->sector_size,
                   .num_hosts = conf->num_hosts,
                   .io_timeout = conf->io_timeout};
    int rc;
    g_autofree char *what = g_strdup_printf("lease file %s/%s: formatting it", conf->lease_dir, name);
    if (!vl_sanlock_call(&make_op, make, 0, what, deadline, &rc, error))
        return FALSE;
    if (rc < 0)
        vl_sanlock_file_error(error, make->step, rc, conf, name);
    else if (ret_made)
        *ret_made = make->made;
    make_free(make);
    return rc >= 0;
}

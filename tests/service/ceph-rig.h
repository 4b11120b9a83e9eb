/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A live Ceph cluster for tests of the RBD store: a pool and a user of the test's own, and guests
 * (librbd writers with a client of their own, as QEMU's disks are). */
#ifndef VL_TESTS_CEPH_RIG_H
#define VL_TESTS_CEPH_RIG_H

#include <rados/librados.h>
#include <rbd/librbd.h>

#include "lockd/error.h"
#include "lockd/store_rbd.h"

typedef struct {
    rados_t admin;
    rados_ioctx_t io; /* admin's, the test's pool */
    char *dir;
    char *conf; /* a copy with the test users' keyring added */
    char *pool;
    VlStore *store; /* as user RIG_USER: mon and osd 'profile rbd' */
} Rig;

#define RIG_USER      "vltest"      /* 'profile rbd' for the test's pool: what the documentation asks for */
#define RIG_USER_POOR "vltest-poor" /* may read the monitors, nothing else */

/* Ends the program when VL_TEST_CEPH_CONF (and VL_TEST_CEPH_USER, default admin) leads to no
 * cluster. */
Rig *rig_new(void);
void rig_free(Rig *rig);

VlStore *rig_store(Rig *rig, const char *user, guint op_timeout_s);
/* A monitor command as administrator; asserts success. Its output. */
char *rig_mon(Rig *rig, const char *format, ...) G_GNUC_PRINTF(2, 3);
void rig_create_pool(Rig *rig, const char *pool);
/* In the test's pool; ns may be "". Features: layering and exclusive-lock. */
void rig_create_image(Rig *rig, const char *ns, const char *image);
void rig_remove_image(Rig *rig, const char *image);
VlVolume *rig_resolve(Rig *rig, const char *ns, const char *image);

gint64 rig_in(guint ms); /* a deadline */
/* Fails the test unless `error` has that code and contains `text`; frees it. */
void rig_expect(GError **error, enum vl_error code, const char *text);

typedef struct {
    rados_t rados;
    rados_ioctx_t io;
    rbd_image_t image;
    char *addr;
    guint64 client;
} Guest;

Guest *guest_new(Rig *rig, const char *image);
int guest_write(Guest *guest); /* the first takes the exclusive lock */
void guest_free(Guest *guest);

#endif

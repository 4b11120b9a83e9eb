/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/backend.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "lockd/error.h"
#include "lockd/route.h"

extern const VlBackendOps vl_backend_rbd, vl_backend_local, vl_backend_sanlock;

/* A new backend is one line here. */
const VlBackendOps *const vl_backends[] = {
    &vl_backend_local,
#ifdef HAVE_SANLOCK
    &vl_backend_sanlock,
#endif
    &vl_backend_rbd,
    NULL,
};

void
vl_enrol_clear(VlEnrol *enrol)
{
    g_clear_pointer(&enrol->path, g_free);
    g_clear_pointer(&enrol->args, g_free);
    enrol->connections = 0;
}

const VlBackendOps *
vl_backend_of(const VlVolume *volume)
{
    return volume->place ? &vl_backend_rbd : volume->backend;
}

const VlBackendOps *
vl_backend_named(const char *name)
{
    for (guint i = 0; vl_backends[i]; i++)
        if (g_str_equal(vl_backends[i]->name, name))
            return vl_backends[i];
    return NULL;
}

GPtrArray *
vl_backend_share(const VlBackendOps *backend, const GPtrArray *leases, VlLeaseState state)
{
    GPtrArray *share = g_ptr_array_new();
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (vl_backend_of(lease->volume) == backend && (state == VL_LEASE_STATE_COUNT || lease->state == state))
            g_ptr_array_add(share, lease);
    }
    return share;
}

gboolean
vl_backends_start(VlDaemon *daemon, GError **error)
{
    daemon->backends = g_hash_table_new(NULL, NULL);
    for (guint i = 0; vl_backends[i]; i++) {
        gpointer state = NULL;
        if (vl_backends[i]->start && !vl_backends[i]->start(daemon, &state, error))
            return FALSE;
        g_hash_table_insert(daemon->backends, (gpointer)vl_backends[i], state);
    }
    return TRUE;
}

gpointer
vl_backend_state(const VlDaemon *daemon, const VlBackendOps *backend)
{
    return daemon->backends ? g_hash_table_lookup(daemon->backends, backend) : NULL;
}

/* ---- which backend ---- */

static const char *
name_for(VlDaemon *daemon, const struct vl_volume_spec *spec)
{
    struct stat st;
    if (spec->kind == VL_VOLUME_RBD)
        return vl_backend_rbd.name;
    if (spec->kind == VL_VOLUME_LEASE)
        return "sanlock";
    if (spec->kind == VL_VOLUME_OTHER)
        return VL_ROUTE_NONE;
    gboolean block = stat(spec->path, &st) == 0 && S_ISBLK(st.st_mode);
    return vl_route((const char *const *)daemon->settings->volumes, spec->path, block);
}

VlVolume *
vl_backend_resolve(VlDaemon *daemon, const struct vl_volume_spec *spec, gint64 deadline, GError **error)
{
    const char *name = name_for(daemon, spec);
    const VlBackendOps *backend = vl_backend_named(name);
    if (backend)
        return backend->resolve(daemon, spec, deadline, error);
    if (!g_str_equal(name, VL_ROUTE_NONE)) {
        g_autofree char *display = g_strdup_printf("%s", spec->path ? spec->path : spec->space);
        vl_set_error(error, VL_ERR_CONFIG, "%s: this virtleased was built without the %s backend", display, name);
    }
    return NULL;
}

/* ---- open files ---- */

gboolean
vl_backend_file_open(const VlVm *vm, guint64 dev, guint64 ino)
{
    g_autofree char *path = g_strdup_printf("/proc/%" G_GINT64_FORMAT "/fd", vm->who.pid);
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    gboolean found = !dir; /* it cannot be told: a process that is gone is the exit's business */
    while (dir && !found && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        struct stat st;
        if (stat(file, &st) < 0)
            continue;
        found = S_ISBLK(st.st_mode) ? ino == 0 && st.st_rdev == dev : st.st_dev == dev && st.st_ino == ino;
    }
    if (dir)
        g_dir_close(dir);
    return found;
}

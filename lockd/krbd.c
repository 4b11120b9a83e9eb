/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/krbd.h"

#include "lockd/record.h"

GPtrArray *
vl_krbd_clients(const char *sysfs, gboolean shared_only)
{
    GPtrArray *clients = vl_addrs_new();
    g_autoptr(GPtrArray) once = vl_addrs_new();
    g_autofree char *path = g_build_filename(sysfs, "bus/rbd/devices", NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, "client_addr", NULL);
        g_autofree char *addr = NULL;
        if (!g_file_get_contents(file, &addr, NULL, NULL) || !*g_strstrip(addr))
            continue;
        gboolean again = !vl_addrs_add(once, addr);
        if (again || !shared_only)
            vl_addrs_add(clients, addr);
    }
    return clients;
}

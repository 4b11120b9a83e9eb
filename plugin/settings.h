/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * qemu-virtlease.conf. libvirt reads no lock driver's configuration again before it restarts, so
 * neither does this: settings are fixed from the first drvInit on.
 */
#ifndef VL_PLUGIN_SETTINGS_H
#define VL_PLUGIN_SETTINGS_H

struct settings {
    char *socket;
    unsigned int timeout_s;      /* one whole call into the plugin */
    unsigned int connect_wait_s; /* of it, for a daemon that is not there */
};

/* Reads `path` (NULL or missing: defaults). One libvirtd may do this once per driver (QEMU, Xen):
 * every file is checked, the first one's values stay. Returns 0, or -errno with a malloc'ed
 * explanation (NULL when memory ran out). */
int settings_init(const char *path, char **ret_error);

/* Undoes one settings_init(); the last one frees. */
void settings_deinit(void);

/* NULL before settings_init(). Takes no lock, for the forked child's sake. */
const struct settings *settings_get(void);

#endif

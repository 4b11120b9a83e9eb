/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Kernel clients, from a made-up sysfs: three devices, two of them of one client. */
#include <glib/gstdio.h>

#include "lockd/krbd.h"
#include "lockd/record.h"

static void
add_device(const char *sysfs, const char *name, const char *addr)
{
    g_autofree char *dir = g_build_filename(sysfs, "bus/rbd/devices", name, NULL);
    g_autofree char *file = g_build_filename(dir, "client_addr", NULL);
    g_assert_cmpint(g_mkdir_with_parents(dir, 0755), ==, 0);
    g_assert_true(g_file_set_contents(file, addr, -1, NULL));
}

static void
test_clients(void)
{
    g_autofree char *sysfs = g_dir_make_tmp("krbd-XXXXXX", NULL);
    add_device(sysfs, "0", "10.0.0.1:0/111\n");
    add_device(sysfs, "1", "10.0.0.1:0/222\n");
    add_device(sysfs, "2", "10.0.0.1:0/111\n");
    add_device(sysfs, "3", "\n");
    g_autoptr(GPtrArray) all = vl_krbd_clients(sysfs, FALSE);
    g_autoptr(GPtrArray) shared = vl_krbd_clients(sysfs, TRUE);
    g_assert_cmpuint(all->len, ==, 2);
    g_assert_true(vl_addrs_has(all, "10.0.0.1:0/111") && vl_addrs_has(all, "10.0.0.1:0/222"));
    g_assert_cmpuint(shared->len, ==, 1);
    g_assert_true(vl_addrs_has(shared, "10.0.0.1:0/111"));

    g_autofree char *command = g_strdup_printf("rm -r %s", sysfs);
    g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

static void
test_none(void)
{
    g_autoptr(GPtrArray) all = vl_krbd_clients("/nonexistent", FALSE);
    g_assert_cmpuint(all->len, ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/krbd/clients", test_clients);
    g_test_add_func("/krbd/none", test_none);
    return g_test_run();
}

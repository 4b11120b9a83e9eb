/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/fault.h"

#ifdef VL_FAULTS
#include <glib.h>
#include <signal.h>
#include <unistd.h>

#define WAIT_MAX_US (120 * G_USEC_PER_SEC)

void
vl_fault_point(const char *name)
{
    const char *dir = g_getenv("VIRTLEASE_FAULT_DIR");
    if (!dir)
        return;
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return;

    g_autofree char *hit = g_strconcat(path, ".hit", NULL);
    g_message("fault point %s: %s", name, g_strstrip(text));
    if (!g_file_set_contents(hit, name, -1, NULL))
        g_warning("fault point %s: cannot create %s", name, hit);
    if (g_str_equal(text, "exit"))
        _exit(99);
    if (g_str_equal(text, "stop"))
        (void)raise(SIGSTOP);
    gint64 end = g_get_monotonic_time() + WAIT_MAX_US;
    while (g_str_equal(text, "wait") && g_file_test(path, G_FILE_TEST_EXISTS) && g_get_monotonic_time() < end)
        g_usleep(20 * 1000);
    g_message("fault point %s: passed", name);
}
#endif

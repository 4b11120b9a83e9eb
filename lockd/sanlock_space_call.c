/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_space_call.h"

#include <errno.h>
#include <gio/gio.h>
#include <stdint.h> /* sanlock.h needs it and does not say so */
#include <sanlock.h>
#include <sanlock_admin.h>
#include <stdlib.h>
#include <string.h>

#include "lockd/sanlock_call.h"

#define HEALTH_TARGET  G_MAXUINT64 /* one question at a time: a daemon that hangs gets no second one */
#define NAMES_TARGET   (G_MAXUINT64 - 1)
#define STATUS_SECONDS "5"
#define NAME_FORMAT    ".virtlease-host-%" G_GUINT64_FORMAT
#define PLACES         "/usr/sbin:/usr/bin:/sbin:/bin"

typedef struct {
    struct sanlk_lockspace space;
    guint io_timeout;
    char *dir;         /* where the names are; NULL: not asked for */
    VlSpaceSeen *seen; /* out */
    guint n;           /* out */
    char *name;        /* to be published */
} Ask;

static void
ask_free(gpointer data)
{
    Ask *ask = data;
    g_free(ask->dir);
    g_free(ask->seen);
    g_free(ask->name);
    g_free(ask);
}

char *
vl_space_call_path(const VlSanlockConf *conf)
{
    return conf->space ? g_strdup(conf->space) : g_build_filename(conf->lease_dir, VL_SANLOCK_SPACE, NULL);
}

static Ask *
ask_new(const VlSanlockConf *conf)
{
    Ask *ask = g_new0(Ask, 1);
    g_autofree char *path = vl_space_call_path(conf);
    memcpy(ask->space.name, VL_SANLOCK_SPACE, sizeof(VL_SANLOCK_SPACE));
    ask->space.host_id = conf->host_id;
    g_strlcpy(ask->space.host_id_disk.path, path, sizeof(ask->space.host_id_disk.path));
    if (conf->sector_size)
        ask->space.flags = SANLK_LSF_ALIGN1M | (conf->sector_size == 4096 ? SANLK_LSF_SECTOR4K : SANLK_LSF_SECTOR512);
    ask->io_timeout = conf->io_timeout;
    return ask;
}

static gboolean
ask_simple(const VlSanlockConf *conf, const VlSanlockOp *op, const char *what, gint64 deadline, int *ret_rc,
           GError **error)
{
    Ask *ask = ask_new(conf);
    if (!vl_sanlock_call(op, ask, HEALTH_TARGET, what, deadline, ret_rc, error))
        return FALSE;
    ask_free(ask);
    return TRUE;
}

/* The record of host 1, which is written last when a lockspace is formatted. */
static int
read_run(gpointer data)
{
    Ask *ask = data;
    guint32 io_timeout;
    ask->space.host_id = 1;
    int rc = sanlock_read_lockspace(&ask->space, 0, &io_timeout);
    return rc == -ENODEV ? vl_sanlock_why_not_open(ask->space.host_id_disk.path) : rc;
}

gboolean
vl_space_call_read(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, GError **error)
{
    static const VlSanlockOp op = {read_run, NULL, ask_free};
    return ask_simple(conf, &op, "reading the sanlock lockspace", deadline, ret_rc, error);
}

static int
inquire_run(gpointer data)
{
    Ask *ask = data;
    return sanlock_inq_lockspace(&ask->space, 0);
}

gboolean
vl_space_call_inquire(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, GError **error)
{
    static const VlSanlockOp op = {inquire_run, NULL, ask_free};
    return ask_simple(conf, &op, "asking sanlock for the lockspace", deadline, ret_rc, error);
}

static int
add_run(gpointer data)
{
    Ask *ask = data;
    return sanlock_add_lockspace_timeout(&ask->space, 0, ask->io_timeout);
}

gboolean
vl_space_call_add(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, GError **error)
{
    static const VlSanlockOp op = {add_run, NULL, ask_free};
    return ask_simple(conf, &op, "joining the sanlock lockspace", deadline, ret_rc, error);
}

/* ---- hosts ---- */

static VlHostLife
life_of(guint32 flags)
{
    switch (flags & SANLK_HOST_MASK) {
    case SANLK_HOST_FREE:
        return VL_HOST_FREE;
    case SANLK_HOST_LIVE:
    case SANLK_HOST_FAIL:
        return VL_HOST_LIVE;
    case SANLK_HOST_DEAD:
        return VL_HOST_DEAD;
    default:
        return VL_HOST_UNKNOWN;
    }
}

static void
read_name(const char *dir, VlSpaceSeen *seen)
{
    g_autofree char *file = g_strdup_printf("%s/" NAME_FORMAT, dir, seen->id);
    g_autofree char *text = NULL;
    if (!g_file_get_contents(file, &text, NULL, NULL))
        return;
    g_strlcpy(seen->name, g_strstrip(text), sizeof(seen->name));
    g_strcanon(seen->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", '?');
}

static int
hosts_run(gpointer data)
{
    Ask *ask = data;
    struct sanlk_host *hosts = NULL;
    int count = 0;
    int rc = sanlock_get_hosts(ask->space.name, 0, &hosts, &count, 0);
    if (rc == 0 && count > 0) {
        ask->seen = g_new0(VlSpaceSeen, (gsize)count);
        ask->n = (guint)count;
        for (int i = 0; i < count; i++) {
            ask->seen[i] = (VlSpaceSeen){.id = hosts[i].host_id,
                                         .generation = hosts[i].generation,
                                         .timestamp = hosts[i].timestamp,
                                         .io_timeout = hosts[i].io_timeout,
                                         .life = life_of(hosts[i].flags)};
        }
    }
    free(hosts);
    return rc;
}

static const VlSanlockOp hosts_op = {hosts_run, NULL, ask_free};

gboolean
vl_space_call_hosts(const VlSanlockConf *conf, gint64 deadline, int *ret_rc, VlSpaceSeen **ret_seen, guint *ret_n,
                    GError **error)
{
    Ask *ask = ask_new(conf);
    if (!vl_sanlock_call(&hosts_op, ask, HEALTH_TARGET, "asking sanlock for its hosts", deadline, ret_rc, error))
        return FALSE;
    *ret_seen = g_steal_pointer(&ask->seen);
    *ret_n = ask->n;
    ask_free(ask);
    return TRUE;
}

static int
names_run(gpointer data)
{
    Ask *ask = data;
    for (guint i = 0; i < ask->n; i++)
        read_name(ask->dir, &ask->seen[i]);
    return 0;
}

static const VlSanlockOp names_op = {names_run, NULL, ask_free};

void
vl_space_call_names(const VlSanlockConf *conf, VlSpaceSeen *seen, guint n, gint64 deadline)
{
    int rc;
    Ask *ask = ask_new(conf);
    ask->dir = g_strdup(conf->lease_dir);
    ask->seen = g_memdup2(seen, n * sizeof(*seen));
    ask->n = n;
    if (!vl_sanlock_call(&names_op, ask, NAMES_TARGET, "reading the hosts' names", deadline, &rc, NULL))
        return;
    for (guint i = 0; i < n; i++)
        g_strlcpy(seen[i].name, ask->seen[i].name, sizeof(seen[i].name));
    ask_free(ask);
}

/* ---- by other ways ---- */

void
vl_space_call_watchdog(gboolean *ret_watchdog, gboolean *ret_known)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL;
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE);
    g_subprocess_launcher_setenv(launcher, "PATH", PLACES, TRUE);
    *ret_watchdog = *ret_known = FALSE;
    g_autoptr(GSubprocess) process = g_subprocess_launcher_spawn(launcher, &error, "timeout", "-k", "1", STATUS_SECONDS,
                                                                 "sanlock", "client", "status", "-D", NULL);
    if (!process || !g_subprocess_communicate_utf8(process, NULL, NULL, &out, NULL, &error)) {
        g_info("whether sanlock uses a watchdog is not known: %s", error->message);
        return;
    }
    const char *found = out ? strstr(out, "use_watchdog=") : NULL;
    *ret_known = found != NULL;
    *ret_watchdog = found && found[strlen("use_watchdog=")] == '1';
}

static int
publish_run(gpointer data)
{
    Ask *ask = data;
    g_autofree char *file = g_strdup_printf("%s/" NAME_FORMAT, ask->dir, ask->space.host_id);
    g_autofree char *old = NULL;
    if (!g_file_get_contents(file, &old, NULL, NULL) || !g_str_equal(old, ask->name))
        (void)g_file_set_contents(file, ask->name, -1, NULL);
    return 0;
}

static const VlSanlockOp publish_op = {publish_run, NULL, ask_free};

void
vl_space_call_publish_name(const VlSanlockConf *conf)
{
    if (!conf->host_name)
        return;
    int rc;
    Ask *ask = ask_new(conf);
    ask->dir = g_strdup(conf->lease_dir);
    ask->name = g_strdup_printf("%s\n", conf->host_name);
    if (vl_sanlock_call(&publish_op, ask, 0, "publishing this host's name", g_get_monotonic_time() + G_USEC_PER_SEC,
                        &rc, NULL))
        ask_free(ask);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_clean.h"

#include <errno.h>
#include <stdint.h> /* sanlock.h needs it and does not say so */
#include <sanlock.h>
#include <sanlock_admin.h>
#include <sanlock_resource.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/jsonout.h"
#include "lockd/sanlock_call.h"
#include "lockd/sanlock_file.h"
#include "lockd/sanlock_remove.h"
#include "lockd/sanlock_words.h"

#define HOST_PREFIX ".virtlease-host-"
#define DIGITS      32
#define LOOK_S      10.0

VlSanlockNameKind
vl_sanlock_name_kind(const char *name)
{
    if (g_str_equal(name, VL_SANLOCK_SPACE) || g_str_has_prefix(name, HOST_PREFIX))
        return VL_SANLOCK_NAME_OWN;
    if (g_str_has_prefix(name, VL_SANLOCK_TEMP_PREFIX))
        return VL_SANLOCK_NAME_TEMP;
    return strlen(name) == DIGITS && strspn(name, "0123456789abcdef") == DIGITS ? VL_SANLOCK_NAME_LEASE
                                                                                : VL_SANLOCK_NAME_ALIEN;
}

static void
say(JsonBuilder *out, const char *name, const char *result, const char *why)
{
    g_autofree char *shown = g_utf8_make_valid(name, -1);
    json_builder_begin_object(out);
    vl_json_string(out, "file", shown);
    if (result)
        vl_json_string(out, "result", result);
    vl_json_string(out, "why", why);
    json_builder_end_object(out);
}

/* ---- one file, by what the file system says of it ---- */

typedef enum { LOOKS_UNUSED, LOOKS_GONE, LOOKS_USED, LOOKS_UNKNOWN } Looks;

/* Wall clocks, and of two hosts: good enough to leave alone what is new, and nothing is allowed by them. */
static gboolean
is_younger(gint64 time, gint64 seconds)
{
    return time > g_get_real_time() / G_USEC_PER_SEC - seconds;
}

static Looks
look_at(const char *dir, const char *name, const char **ret_why)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    VlSanlockNameKind kind = vl_sanlock_name_kind(name);
    struct stat st;
    *ret_why = NULL;
    if (kind != VL_SANLOCK_NAME_LEASE && kind != VL_SANLOCK_NAME_TEMP) {
        *ret_why = "not the name of a lease";
        return LOOKS_UNKNOWN;
    }
    if (lstat(path, &st) < 0) {
        *ret_why = g_strerror(errno);
        return errno == ENOENT ? LOOKS_GONE : LOOKS_UNKNOWN;
    }
    if (!S_ISREG(st.st_mode)) {
        *ret_why = "not a regular file";
        return LOOKS_UNKNOWN;
    }
    if (kind == VL_SANLOCK_NAME_TEMP && is_younger(MAX(st.st_mtime, st.st_ctime), VL_SANLOCK_TEMP_S)) {
        *ret_why = "a temporary file, less than an hour old"; /* a link changes ctime alone */
        return LOOKS_USED;
    }
    if (kind == VL_SANLOCK_NAME_LEASE && is_younger(st.st_mtime, VL_SANLOCK_QUIET_S)) {
        *ret_why = "used within the last 10 minutes";
        return LOOKS_USED;
    }
    return LOOKS_UNUSED;
}

/* ---- without operands: what there is ---- */

static void
list_name(const char *dir, const char *name, GPtrArray *candidates, JsonBuilder *left)
{
    const char *why;
    if (vl_sanlock_name_kind(name) == VL_SANLOCK_NAME_OWN)
        return;
    Looks looks = look_at(dir, name, &why);
    if (looks == LOOKS_UNUSED)
        g_ptr_array_add(candidates, g_strdup(name));
    else if (looks != LOOKS_GONE)
        say(left, name, looks == LOOKS_USED ? "used" : "unknown", why);
}

static gboolean
list_directory(const char *path, GPtrArray *candidates, JsonBuilder *left, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(GDir) dir = g_dir_open(path, 0, &local);
    if (!dir) {
        vl_set_error(error, VL_ERR_STORAGE, "lease directory: %s", local->message);
        return FALSE;
    }
    for (const char *name = g_dir_read_name(dir); name; name = g_dir_read_name(dir))
        list_name(path, name, candidates, left);
    return TRUE;
}

static gboolean
clean_list(const VlSanlockConf *conf, JsonBuilder *out, GError **error)
{
    g_autoptr(GPtrArray) candidates = g_ptr_array_new_with_free_func(g_free);
    vl_json_string(out, "directory", conf->lease_dir);
    vl_json_begin_list(out, "left");
    gboolean ok = list_directory(conf->lease_dir, candidates, out, error);
    json_builder_end_array(out);
    vl_json_begin_list(out, "candidates");
    for (guint i = 0; i < candidates->len; i++)
        json_builder_add_string_value(out, candidates->pdata[i]);
    json_builder_end_array(out);
    return ok;
}

/* ---- with operands: what becomes of them ---- */

typedef struct {
    struct {
        struct sanlk_resource resource;
        struct sanlk_disk disk; /* its disks[0] */
    } lease;
    struct sanlk_host *hosts; /* out */
    int count;
} Owners;

static void
owners_free(gpointer data)
{
    Owners *owners = data;
    free(owners->hosts);
    g_free(owners);
}

static int
owners_run(gpointer data)
{
    Owners *owners = data;
    int rc = sanlock_read_resource_owners(&owners->lease.resource, 0, &owners->hosts, &owners->count);
    /* sanlock says so whatever keeps it from opening the file */
    return rc == -ENODEV && access(owners->lease.disk.path, F_OK) < 0 ? -errno : rc;
}

static Owners *
owners_read(const VlSanlockConf *conf, const char *name, gint64 deadline, int *ret_rc, GError **error)
{
    static const VlSanlockOp op = {owners_run, NULL, owners_free};
    Owners *owners = g_new0(Owners, 1);
    struct sanlk_resource *resource = &owners->lease.resource;
    memcpy(resource->lockspace_name, VL_SANLOCK_SPACE, sizeof(VL_SANLOCK_SPACE));
    g_strlcpy(resource->name, name, sizeof(resource->name));
    resource->num_disks = 1;
    g_snprintf(owners->lease.disk.path, sizeof(owners->lease.disk.path), "%s/%s", conf->lease_dir, name);
    return vl_sanlock_call(&op, owners, 0, name, deadline, ret_rc, error) ? owners : NULL;
}

/* An owner who lives, in the generation in which it got the lease; NULL: none. Those whom we do not know are for
 * sanlock to judge. */
static char *
living_owner(VlSanlockSpace *space, const Owners *owners)
{
    for (int i = 0; i < owners->count; i++) {
        VlSpaceHost host;
        const struct sanlk_host *owner = &owners->hosts[i];
        if (vl_sanlock_space_host(space, owner->host_id, &host) && host.life == VL_HOST_LIVE &&
            host.generation == owner->generation)
            return vl_sanlock_space_host_text(space, owner->host_id);
    }
    return NULL;
}

/* By what is on storage, so that leases in use are not even asked for. FALSE: it has been answered. Our own are
 * for sanlock to judge: a cleanup that was killed between its two unlinks leaves one that nobody holds. */
static gboolean
is_free(VlSanlockSpace *space, const char *name, gboolean dry, gint64 deadline, JsonBuilder *out)
{
    const VlSanlockConf *conf = vl_sanlock_space_conf(space);
    g_autoptr(GError) error = NULL;
    g_autofree char *owner = NULL;
    int rc = 0;
    Owners *owners = owners_read(conf, name, deadline, &rc, &error);
    if (owners && rc < 0)
        vl_sanlock_error(&error, VL_SANLOCK_READ, rc, name, NULL);
    if (error) {
        say(out, name, rc == -ENOENT ? "gone" : error->code == VL_ERR_RECORD ? "unknown" : "failed", error->message);
    } else {
        gboolean own = owners->count == 1 && owners->hosts[0].host_id == conf->host_id;
        owner = own && !dry ? NULL : living_owner(space, owners);
        g_autofree char *why = owner ? g_strdup_printf("held by %s", owner) : NULL;
        if (owner)
            say(out, name, "used", why);
    }
    if (owners)
        owners_free(owners);
    return !error && !owner;
}

static void
say_acquire(JsonBuilder *out, const char *name, int rc)
{
    enum vl_error code;
    const char *words = vl_sanlock_words(VL_SANLOCK_ACQUIRE, rc, &code);
    g_autoptr(GError) error = NULL;
    vl_sanlock_error(&error, VL_SANLOCK_ACQUIRE, rc, name, NULL);
    if (rc == -ENOENT)
        say(out, name, "gone", NULL);
    else if (code == VL_ERR_HELD || code == VL_ERR_UNKNOWN_OWNER)
        say(out, name, "used", error->message);
    else if (code == VL_ERR_CHANGED)
        say(out, name, "used", words);
    else
        say(out, name, code == VL_ERR_RECORD ? "unknown" : "failed", error->message);
}

static void
say_removed(JsonBuilder *out, const char *name, const VlSanlockRemoved *removed)
{
    g_autofree char *why = NULL;
    switch (removed->step) {
    case VL_SANLOCK_REMOVE_DONE:
        g_message("cleanup: lease file %s removed", name);
        say(out, name, "removed", NULL);
        return;
    case VL_SANLOCK_REMOVE_ACQUIRE:
        say_acquire(out, name, removed->rc);
        return;
    case VL_SANLOCK_REMOVE_CHANGED:
        say(out, name, "used", "removed and made anew at this very moment");
        return;
    case VL_SANLOCK_REMOVE_LINK:
        if (removed->rc == -ENOENT) {
            say(out, name, "gone", NULL);
            return;
        }
        why = g_strdup_printf("cannot be given the second name that removing it needs: %s", g_strerror(-removed->rc));
        break;
    case VL_SANLOCK_REMOVE_OPEN:
    case VL_SANLOCK_REMOVE_UNLINK:
        why = g_strdup_printf("%s: %s", removed->step == VL_SANLOCK_REMOVE_OPEN ? "opening it" : "removing it",
                              g_strerror(-removed->rc));
        break;
    case VL_SANLOCK_REMOVE_DIED:
        why = g_strdup("the process that removes files was killed");
        break;
    }
    say(out, name, "failed", why);
}

typedef struct {
    char *dir;
    guint sector_size;
    char **names;
    VlSanlockRemoved *removed; /* out */
} Work;

static void
work_free(gpointer data)
{
    Work *work = data;
    g_free(work->dir);
    g_strfreev(work->names);
    g_free(work->removed);
    g_free(work);
}

static int
work_run(gpointer data)
{
    Work *work = data;
    int rc;
    work->removed = vl_sanlock_remove(work->dir, work->sector_size, work->names, g_strv_length(work->names), &rc);
    return work->removed ? 0 : rc;
}

static gboolean
remove_all(const VlSanlockConf *conf, const GPtrArray *names, gint64 deadline, JsonBuilder *out, GError **error)
{
    static const VlSanlockOp op = {work_run, NULL, work_free};
    Work *work = g_new0(Work, 1);
    int rc;
    work->dir = g_strdup(conf->lease_dir);
    work->sector_size = conf->sector_size;
    work->names = g_new0(char *, names->len + 1);
    for (guint i = 0; i < names->len; i++)
        work->names[i] = g_strdup(names->pdata[i]);
    if (!vl_sanlock_call(&op, work, 0, "removing lease files", deadline, &rc, error))
        return FALSE;
    if (work->removed)
        for (guint i = 0; i < names->len; i++)
            say_removed(out, names->pdata[i], &work->removed[i]);
    else
        vl_sanlock_error(error, VL_SANLOCK_ACQUIRE, rc, "removing lease files", NULL);
    work_free(work);
    return rc >= 0;
}

/* Nobody has it open, and if somebody did he would find it gone when he links it: his start fails, no more. */
static void
remove_temp(const char *dir, const char *name, gboolean dry, JsonBuilder *out)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    if (dry)
        say(out, name, "unused", "left from a crash");
    else if (unlink(path) == 0)
        say(out, name, "removed", NULL);
    else
        say(out, name, errno == ENOENT ? "gone" : "failed", g_strerror(errno));
}

/* TRUE: one whose lease is free, to be removed by remove_all(). Else it has been dealt with. */
static gboolean
sort_out(VlSanlockSpace *space, const char *name, gboolean dry, const VlCall *call, JsonBuilder *out)
{
    const char *dir = vl_sanlock_space_conf(space)->lease_dir;
    const char *why;
    Looks looks = look_at(dir, name, &why);
    if (looks != LOOKS_UNUSED) {
        say(out, name, looks == LOOKS_GONE ? "gone" : looks == LOOKS_USED ? "used" : "unknown", why);
        return FALSE;
    }
    if (vl_sanlock_name_kind(name) == VL_SANLOCK_NAME_TEMP) {
        remove_temp(dir, name, dry, out);
        return FALSE;
    }
    return is_free(space, name, dry, vl_call_within(call, LOOK_S), out);
}

static gboolean
clean_files(VlSanlockSpace *space, const GPtrArray *names, gboolean dry, const VlCall *call, JsonBuilder *out,
            GError **error)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    gboolean ok = TRUE;
    vl_json_begin_list(out, "files");
    for (guint i = 0; ok && i < names->len; i++) {
        ok = vl_call_check(call, "cleanup", error);
        if (ok && sort_out(space, names->pdata[i], dry, call, out))
            g_ptr_array_add(found, names->pdata[i]);
    }
    if (ok && dry)
        for (guint i = 0; i < found->len; i++)
            say(out, found->pdata[i], "unused", NULL);
    else if (ok && found->len)
        ok = remove_all(vl_sanlock_space_conf(space), found, call->deadline, out, error);
    json_builder_end_array(out);
    return ok;
}

gboolean
vl_sanlock_clean(VlSanlockSpace *space, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    gboolean dry = FALSE;
    for (guint i = 0; i < args->len; i++) {
        const char *arg = args->pdata[i];
        if (g_str_equal(arg, "--dry-run"))
            dry = TRUE;
        else if (strchr(arg, '/')) {
            vl_set_error(error, VL_ERR_PROTOCOL, "\"%s\" is no file name", arg);
            return FALSE;
        } else
            g_ptr_array_add(names, args->pdata[i]);
    }
    if (!vl_sanlock_space_wait(space, call, "cleanup", error))
        return FALSE;
    return names->len ? clean_files(space, names, dry, call, out, error)
                      : clean_list(vl_sanlock_space_conf(space), out, error);
}

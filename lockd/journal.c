/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"

#define BOOTS_MAX    32
#define LOCK_TRIES   50
#define LOCK_POLL_US (20 * 1000)

struct VlJournal {
    char *dir;
    int lock_fd;
    GPtrArray *boots; /* of char *, oldest first */
};

static gboolean
fail(GError **error, const char *path, const char *what, const GError *why)
{
    vl_set_error(error, VL_ERR_JOURNAL,
                 "%s: %s: %s. virtleased keeps its journal there and grants no new lease without it", path, what,
                 why ? why->message : g_strerror(errno));
    return FALSE;
}

/* g_file_set_contents_full syncs the new file before the rename: after a power loss there is the old
 * or the new one. */
static gboolean
write_json(const char *path, JsonBuilder *builder, GError **error)
{
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    g_autofree char *text = json_to_string(root, TRUE);
    g_autoptr(GError) local = NULL;
    if (g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600,
                                 &local))
        return TRUE;
    return fail(error, path, "cannot be written", local);
}

static void
add_string(JsonBuilder *builder, const char *member, const char *value)
{
    if (!value)
        return;
    json_builder_set_member_name(builder, member);
    json_builder_add_string_value(builder, value);
}

static void
add_int(JsonBuilder *builder, const char *member, gint64 value)
{
    json_builder_set_member_name(builder, member);
    json_builder_add_int_value(builder, value);
}

static char *
get_string(JsonObject *object, const char *member)
{
    JsonNode *node = json_object_get_member(object, member);
    return node && JSON_NODE_HOLDS_VALUE(node) ? g_strdup(json_node_get_string(node)) : NULL;
}

static gint64
get_int(JsonObject *object, const char *member, gint64 otherwise)
{
    JsonNode *node = json_object_get_member(object, member);
    return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_int(node) : otherwise;
}

/* ---- boots ---- */

static gboolean
boots_write(VlJournal *journal, GError **error)
{
    g_autofree char *path = g_build_filename(journal->dir, "boots.json", NULL);
    g_autoptr(JsonBuilder) builder = json_builder_new();
    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "boots");
    json_builder_begin_array(builder);
    for (guint i = 0; i < journal->boots->len; i++)
        json_builder_add_string_value(builder, journal->boots->pdata[i]);
    json_builder_end_array(builder);
    json_builder_end_object(builder);
    return write_json(path, builder, error);
}

static void
boots_read(VlJournal *journal)
{
    g_autofree char *path = g_build_filename(journal->dir, "boots.json", NULL);
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) error = NULL;
    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return;
    if (!json_parser_load_from_file(parser, path, &error) || !json_parser_get_root(parser) ||
        !JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser))) {
        g_warning("%s: not readable (%s): earlier boots of this host are not known", path,
                  error ? error->message : "not an object");
        return;
    }
    JsonNode *node = json_object_get_member(json_node_get_object(json_parser_get_root(parser)), "boots");
    JsonArray *boots = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    for (guint i = 0; boots && i < json_array_get_length(boots); i++) {
        JsonNode *item = json_array_get_element(boots, i);
        if (JSON_NODE_HOLDS_VALUE(item) && json_node_get_value_type(item) == G_TYPE_STRING)
            vl_addrs_add(journal->boots, json_node_get_string(item));
    }
}

static gboolean
journal_lock(VlJournal *journal, GError **error)
{
    g_autofree char *path = g_build_filename(journal->dir, "lock", NULL);
    journal->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (journal->lock_fd < 0)
        return fail(error, path, "cannot be opened", NULL);
    /* A predecessor that was just killed has the file open until the last of its threads is gone. */
    for (guint i = 0; i < LOCK_TRIES; i++) {
        if (flock(journal->lock_fd, LOCK_EX | LOCK_NB) == 0)
            return TRUE;
        g_usleep(LOCK_POLL_US);
    }
    vl_set_error(error, VL_ERR_JOURNAL, "%s: another virtleased is running with this state directory", path);
    return FALSE;
}

VlJournal *
vl_journal_open(const char *dir, const char *boot, GError **error)
{
    VlJournal *journal = g_new0(VlJournal, 1);
    g_autofree char *vms = g_build_filename(dir, "vms", NULL);
    journal->dir = g_strdup(dir);
    journal->lock_fd = -1;
    journal->boots = vl_addrs_new();
    if (g_mkdir_with_parents(vms, 0700) < 0) {
        fail(error, vms, "cannot be created", NULL);
        vl_journal_close(journal);
        return NULL;
    }
    if (!journal_lock(journal, error)) {
        vl_journal_close(journal);
        return NULL;
    }
    boots_read(journal);
    gboolean added = vl_addrs_add(journal->boots, boot);
    while (journal->boots->len > BOOTS_MAX)
        g_ptr_array_remove_index(journal->boots, 0);
    if (added && !boots_write(journal, error)) {
        vl_journal_close(journal);
        return NULL;
    }
    return journal;
}

void
vl_journal_close(VlJournal *journal)
{
    if (!journal)
        return;
    if (journal->lock_fd >= 0)
        close(journal->lock_fd);
    g_ptr_array_unref(journal->boots);
    g_free(journal->dir);
    g_free(journal);
}

gboolean
vl_journal_knows_boot(VlJournal *journal, const char *boot)
{
    return vl_addrs_has(journal->boots, boot);
}

/* ---- VMs ---- */

static char *
vm_path(VlJournal *journal, const VlIncarnation *who)
{
    return g_strdup_printf("%s/vms/%s-%" G_GINT64_FORMAT "-%" G_GUINT64_FORMAT ".json", journal->dir, who->uuid,
                           who->pid, who->start);
}

static void
add_spec(JsonBuilder *builder, const struct vl_volume_spec *spec)
{
    json_builder_begin_object(builder);
    add_int(builder, "kind", spec->kind);
    add_string(builder, "pool", spec->pool);
    add_string(builder, "ns", spec->ns);
    add_string(builder, "image", spec->image);
    add_string(builder, "conf", spec->conf);
    add_string(builder, "mon_hosts", spec->mon_hosts);
    add_string(builder, "path", spec->path);
    add_string(builder, "fsid", spec->fsid);
    add_string(builder, "pool_id", spec->pool_id);
    add_string(builder, "image_id", spec->image_id);
    add_int(builder, "krbd", spec->krbd);
    add_string(builder, "written", spec->written);
    add_string(builder, "space", spec->space);
    add_string(builder, "key", spec->key);
    add_int(builder, "offset", (gint64)spec->offset);
    json_builder_end_object(builder);
}

static JsonBuilder *
vm_json(const VlVm *vm)
{
    JsonBuilder *builder = json_builder_new();
    json_builder_begin_object(builder);
    add_string(builder, "host", vm->who.host);
    add_string(builder, "boot", vm->who.boot);
    add_string(builder, "uuid", vm->who.uuid);
    add_int(builder, "pid", vm->who.pid);
    add_int(builder, "start", (gint64)vm->who.start);
    add_string(builder, "name", vm->name);
    add_string(builder, "uri", vm->uri);
    add_int(builder, "action", vm->action);
    json_builder_set_member_name(builder, "volumes");
    json_builder_begin_array(builder);
    for (guint i = 0; i < vm->leases->len; i++)
        add_spec(builder, &((VlLease *)vm->leases->pdata[i])->spec);
    json_builder_end_array(builder);
    json_builder_end_object(builder);
    return builder;
}

/* A VM whose leases all end with this boot leaves nothing that somebody must know of after a power loss: the entry is
 * for a daemon that is restarted, and that reads what the kernel has. */
static gboolean
outlives_boot(const VlVm *vm)
{
    for (guint i = 0; i < vm->leases->len; i++)
        if (((VlLease *)vm->leases->pdata[i])->volume->place)
            return TRUE;
    return FALSE;
}

static gboolean
write_unsynced(const char *path, JsonBuilder *builder, GError **error)
{
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    g_autofree char *text = json_to_string(root, TRUE);
    g_autofree char *fresh = g_strconcat(path, ".new", NULL);
    gsize len = strlen(text);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail(error, fresh, "cannot be written", NULL);
    errno = ENOSPC; /* unless write() knows better */
    gboolean ok = write(fd, text, len) == (ssize_t)len && g_rename(fresh, path) == 0;
    if (!ok)
        fail(error, path, "cannot be written", NULL);
    close(fd);
    return ok;
}

gboolean
vl_journal_write(VlJournal *journal, VlVm *vm, GError **error)
{
    g_autofree char *path = vm_path(journal, &vm->who);
    g_autoptr(JsonBuilder) builder = vm_json(vm);
    return outlives_boot(vm) ? write_json(path, builder, error) : write_unsynced(path, builder, error);
}

gboolean
vl_journal_ensure(VlJournal *journal, VlVm *vm, GError **error)
{
    g_autofree char *path = vm_path(journal, &vm->who);
    g_autofree char *there = NULL;
    g_autoptr(JsonBuilder) builder = vm_json(vm);
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    g_autofree char *text = json_to_string(root, TRUE);
    return (g_file_get_contents(path, &there, NULL, NULL) && g_str_equal(there, text)) ||
           vl_journal_write(journal, vm, error);
}

void
vl_journal_remove(VlJournal *journal, const VlIncarnation *who)
{
    g_autofree char *path = vm_path(journal, who);
    if (g_unlink(path) < 0 && errno != ENOENT)
        g_warning("%s: cannot be removed: %s", path, g_strerror(errno));
}

void
vl_journal_vm_free(VlJournalVm *vm)
{
    vl_incarnation_clear(&vm->who);
    g_free(vm->name);
    g_free(vm->uri);
    g_clear_pointer(&vm->specs, g_ptr_array_unref);
    g_free(vm);
}

static void
spec_free(gpointer spec)
{
    vl_volume_spec_clear(spec);
    g_free(spec);
}

static struct vl_volume_spec *
read_spec(JsonObject *object)
{
    struct vl_volume_spec *spec = g_new0(struct vl_volume_spec, 1);
    spec->kind = (enum vl_volume_kind)get_int(object, "kind", VL_VOLUME_OTHER);
    spec->pool = get_string(object, "pool");
    spec->ns = get_string(object, "ns");
    spec->image = get_string(object, "image");
    spec->conf = get_string(object, "conf");
    spec->mon_hosts = get_string(object, "mon_hosts");
    spec->path = get_string(object, "path");
    spec->fsid = get_string(object, "fsid");
    spec->pool_id = get_string(object, "pool_id");
    spec->image_id = get_string(object, "image_id");
    spec->krbd = get_int(object, "krbd", 0) != 0;
    spec->written = get_string(object, "written");
    spec->space = get_string(object, "space");
    spec->key = get_string(object, "key");
    spec->offset = (unsigned long)get_int(object, "offset", 0);
    return spec;
}

static VlJournalVm *
read_vm(JsonObject *object)
{
    VlJournalVm *vm = g_new0(VlJournalVm, 1);
    vm->specs = g_ptr_array_new_with_free_func(spec_free);
    vm->who.host = get_string(object, "host");
    vm->who.boot = get_string(object, "boot");
    vm->who.uuid = get_string(object, "uuid");
    vm->who.pid = get_int(object, "pid", 0);
    vm->who.start = (guint64)get_int(object, "start", 0);
    vm->name = get_string(object, "name");
    vm->uri = get_string(object, "uri");
    vm->action = (int)get_int(object, "action", 0);
    JsonNode *node = json_object_get_member(object, "volumes");
    JsonArray *volumes = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    for (guint i = 0; volumes && i < json_array_get_length(volumes); i++) {
        JsonNode *item = json_array_get_element(volumes, i);
        if (JSON_NODE_HOLDS_OBJECT(item))
            g_ptr_array_add(vm->specs, read_spec(json_node_get_object(item)));
    }
    if (vm->who.host && vm->who.boot && vm->who.uuid && vm->name && vm->who.pid > 0)
        return vm;
    vl_journal_vm_free(vm);
    return NULL;
}

GPtrArray *
vl_journal_read(VlJournal *journal)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)vl_journal_vm_free);
    g_autofree char *dir = g_build_filename(journal->dir, "vms", NULL);
    g_autoptr(GDir) entries = g_dir_open(dir, 0, NULL);
    const char *name;
    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_autoptr(JsonParser) parser = json_parser_new();
        VlJournalVm *vm = NULL;
        if (!g_str_has_suffix(name, ".json"))
            continue;
        struct stat st;
        if (g_stat(path, &st) == 0 && st.st_size == 0) { /* a power loss came before it was on disk, see above */
            (void)g_unlink(path);
            continue;
        }
        if (json_parser_load_from_file(parser, path, NULL) && json_parser_get_root(parser) &&
            JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser)))
            vm = read_vm(json_node_get_object(json_parser_get_root(parser)));
        if (vm) {
            g_ptr_array_add(list, vm);
        } else {
            g_autofree char *aside = g_strconcat(path, ".broken", NULL);
            g_warning("%s: not understood, set aside as %s; status XML and lease records are used instead", path,
                      aside);
            (void)g_rename(path, aside);
        }
    }
    return list;
}

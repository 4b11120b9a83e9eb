/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Layout read here (libvirt 7.0 to 11.3, virDomainObjFormat in src/conf/domain_conf.c and
 * qemuDomainObjPrivateXMLFormat in src/qemu/qemu_domain.c):
 *
 *     <domstatus state='running' reason='booted' pid='4711'>
 *       <job type='none' async='migration in' phase='prepare' .../>      only while there is one
 *       <lockstate>TEXT</lockstate>                                      only after a Release
 *       <domain type='kvm' id='1'> name, uuid, on_lockfailure, devices/disk ... </domain>
 *     </domstatus>
 */
#include "lockd/statusxml.h"

#include <errno.h>
#include <fcntl.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"

#define STATUS_SIZE_MAX (8 * 1024 * 1024)

void
vl_disk_free(VlDisk *disk)
{
    if (!disk)
        return;
    vl_volume_spec_clear(&disk->spec);
    g_free(disk->target);
    g_free(disk->format);
    g_free(disk);
}

void
vl_domain_free(VlDomain *domain)
{
    if (!domain)
        return;
    g_free(domain->uuid);
    g_free(domain->name);
    g_free(domain->state);
    g_free(domain->reason);
    g_free(domain->async_job);
    g_free(domain->job_phase);
    g_free(domain->lockstate);
    g_free(domain->lock_failure);
    g_clear_pointer(&domain->disks, g_ptr_array_unref);
    g_clear_pointer(&domain->backing, g_ptr_array_unref);
    g_free(domain);
}

static xmlNode *
child(const xmlNode *node, const char *name)
{
    for (xmlNode *i = node ? node->children : NULL; i; i = i->next)
        if (i->type == XML_ELEMENT_NODE && xmlStrEqual(i->name, BAD_CAST name))
            return i;
    return NULL;
}

/* g_malloc'ed attribute value, NULL when absent or empty. */
static char *
attr(const xmlNode *node, const char *name)
{
    xmlChar *value = node ? xmlGetNoNsProp((xmlNode *)node, BAD_CAST name) : NULL;
    char *copy = value && *value ? g_strdup((char *)value) : NULL;
    xmlFree(value);
    return copy;
}

static char *
text_of(const xmlNode *node)
{
    xmlChar *value = node ? xmlNodeGetContent(node) : NULL;
    char *copy = value ? g_strdup((char *)value) : NULL;
    xmlFree(value);
    if (copy && !*copy)
        g_clear_pointer(&copy, g_free);
    return copy;
}

/* The spec's strings are malloc'ed (common/ knows no GLib). */
static char *
plain_copy(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        g_error("out of memory");
    return copy;
}

static gboolean
rbd_source(const xmlNode *source, const char *name, VlDisk *disk, GError **error)
{
    if (vl_volume_parse_rbd(name, &disk->spec) < 0) {
        vl_set_error(error, VL_ERR_NO_XML, "'%s' is not POOL/IMAGE or POOL/NAMESPACE/IMAGE", name);
        return FALSE;
    }
    for (xmlNode *i = source->children; i; i = i->next) {
        if (i->type != XML_ELEMENT_NODE || !xmlStrEqual(i->name, BAD_CAST "host"))
            continue;
        g_autofree char *host = attr(i, "name");
        g_autofree char *port = attr(i, "port");
        if (!host || vl_volume_add_host(&disk->spec, host, port) < 0) {
            vl_set_error(error, VL_ERR_NO_XML, "'%s' port '%s' is not a monitor address", host ? host : "",
                         port ? port : "");
            return FALSE;
        }
    }
    g_autofree char *conf = attr(child(source, "config"), "file");
    if (conf)
        disk->spec.conf = plain_copy(conf);
    if (child(source, "snapshot"))
        disk->spec.snapshot = true;
    /* A snapshot never changes, so it needs no lease, whatever <readonly/> says. */
    disk->readonly = disk->readonly || disk->spec.snapshot;
    return TRUE;
}

static void
set_path(VlDisk *disk, enum vl_volume_kind kind, const char *path)
{
    disk->spec.kind = kind;
    disk->spec.path = plain_copy(path);
}

/* Fills disk->spec from a <source>. Returns 1, 0 when the drive is empty, -1 on error. */
static int
source_spec(const char *type, const xmlNode *source, VlDisk *disk, GError **error)
{
    static const struct {
        const char *type, *attribute;
    } paths[] = {{"file", "file"}, {"block", "dev"}, {"dir", "dir"}};
    for (gsize i = 0; i < G_N_ELEMENTS(paths); i++) {
        if (strcmp(type, paths[i].type) != 0)
            continue;
        g_autofree char *path = attr(source, paths[i].attribute);
        if (!path)
            return 0;
        set_path(disk, VL_VOLUME_FILE, path);
        return 1;
    }
    if (!source)
        return 0;
    gboolean network = strcmp(type, "network") == 0;
    g_autofree char *protocol = network ? attr(source, "protocol") : g_strdup(type);
    g_autofree char *pool = network ? NULL : attr(source, "pool"); /* type='volume' */
    g_autofree char *name = attr(source, network ? "name" : "volume");
    if (g_strcmp0(protocol, "rbd") == 0)
        return rbd_source(source, name ? name : "", disk, error) ? 1 : -1;
    g_autofree char *path =
        g_strdup_printf("%s:%s%s%s", protocol ? protocol : "", pool ? pool : "", pool ? "/" : "", name ? name : "");
    set_path(disk, VL_VOLUME_OTHER, path);
    return 1;
}

/* Adds what `node` (<disk>, <mirror> or <nvram>) names, if it names anything. */
static gboolean
add_disk(VlDomain *domain, const xmlNode *node, const char *format_element, const xmlNode *parent, GError **error)
{
    VlDisk *disk = g_new0(VlDisk, 1);
    g_autofree char *type = attr(node, "type");
    disk->target = attr(child(parent, "target"), "dev");
    disk->format = attr(child(node, format_element), "type");
    disk->mirror = node != parent;
    disk->readonly = !disk->mirror && child(parent, "readonly"); /* the job writes to its target */
    disk->shareable = child(parent, "shareable") != NULL;
    g_autoptr(GError) local = NULL;
    int r = source_spec(type ? type : "file", child(node, "source"), disk, &local);
    if (r > 0) {
        g_ptr_array_add(domain->disks, disk);
        return TRUE;
    }
    if (r < 0)
        vl_set_error(error, VL_ERR_NO_XML, "%s %s: %s", (const char *)node->name, disk->target ? disk->target : "",
                     local->message);
    vl_disk_free(disk);
    return r == 0;
}

/* <lease><lockspace>rbd</lockspace><key>POOL/IMAGE</key><target path='...'/></lease>; other lockspaces are
 * sanlock's. */
static gboolean
add_device_lease(VlDomain *domain, const xmlNode *node, GError **error)
{
    g_autofree char *space = text_of(child(node, "lockspace"));
    g_autofree char *key = text_of(child(node, "key"));
    VlDisk *disk = g_new0(VlDisk, 1);
    disk->device = TRUE;
    g_ptr_array_add(domain->disks, disk);
    if (g_strcmp0(space, VL_LOCKSPACE_RBD) == 0 && key && vl_volume_parse_rbd(key, &disk->spec) == 0)
        return TRUE;
    if (g_strcmp0(space, VL_LOCKSPACE_RBD) == 0) {
        vl_set_error(error, VL_ERR_NO_XML, "lease key '%s' is not POOL/IMAGE or POOL/NAMESPACE/IMAGE", key ? key : "");
        return FALSE;
    }
    const xmlNode *target = child(node, "target");
    g_autofree char *path = attr(target, "path");
    g_autofree char *offset = attr(target, "offset");
    guint64 bytes = 0;
    if (offset && !g_ascii_string_to_unsigned(offset, 10, 0, G_MAXINT64, &bytes, NULL)) {
        vl_set_error(error, VL_ERR_NO_XML, "lease offset '%s' is not a number", offset);
        return FALSE;
    }
    disk->spec.kind = VL_VOLUME_LEASE;
    disk->spec.space = plain_copy(space ? space : "");
    disk->spec.key = plain_copy(key ? key : "");
    disk->spec.path = plain_copy(path ? path : "");
    disk->spec.offset = (unsigned long)bytes;
    return TRUE;
}

/* The chain below a disk. What cannot be understood there is nothing that could have a lease. */
static void
add_backing(VlDomain *domain, const xmlNode *node)
{
    for (node = child(node, "backingStore"); node; node = child(node, "backingStore")) {
        VlDisk *disk = g_new0(VlDisk, 1);
        g_autofree char *type = attr(node, "type");
        if (source_spec(type ? type : "file", child(node, "source"), disk, NULL) > 0)
            g_ptr_array_add(domain->backing, disk);
        else
            vl_disk_free(disk);
    }
}

static gboolean
add_disks(VlDomain *domain, const xmlNode *def, GError **error)
{
    const xmlNode *devices = child(def, "devices");
    for (xmlNode *i = devices ? devices->children : NULL; i; i = i->next) {
        if (i->type == XML_ELEMENT_NODE && xmlStrEqual(i->name, BAD_CAST "lease") &&
            !add_device_lease(domain, i, error))
            return FALSE;
        if (i->type != XML_ELEMENT_NODE || !xmlStrEqual(i->name, BAD_CAST "disk"))
            continue;
        xmlNode *mirror = child(i, "mirror");
        if (!add_disk(domain, i, "driver", i, error) || (mirror && !add_disk(domain, mirror, "format", i, error)))
            return FALSE;
        add_backing(domain, i);
    }
    /* Firmware variables may be an RBD image too, written by QEMU like any disk; libvirt tells lock
     * drivers nothing of it. A plain file there belongs to one host and one VM. */
    xmlNode *nvram = child(child(def, "os"), "nvram");
    g_autofree char *type = attr(nvram, "type");
    if (g_strcmp0(type, "network") == 0)
        return add_disk(domain, nvram, "format", nvram, error);
    return TRUE;
}

static gboolean
parse_pid(const xmlNode *root, gint64 *ret_pid, GError **error)
{
    g_autofree char *text = attr(root, "pid");
    guint64 pid = 0;
    if (text && !g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT32, &pid, NULL)) {
        vl_set_error(error, VL_ERR_NO_XML, "pid '%s' is not a number", text);
        return FALSE;
    }
    *ret_pid = (gint64)pid;
    return TRUE;
}

static VlDomain *
domain_from_root(const xmlNode *root, GError **error)
{
    const xmlNode *def = child(root, "domain");
    if (!xmlStrEqual(root->name, BAD_CAST "domstatus") || !def) {
        vl_set_error(error, VL_ERR_NO_XML, "this is a <%s>, not libvirt's <domstatus> of a VM",
                     (const char *)root->name);
        return NULL;
    }
    g_autoptr(VlDomain) domain = g_new0(VlDomain, 1);
    domain->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vl_disk_free);
    domain->backing = g_ptr_array_new_with_free_func((GDestroyNotify)vl_disk_free);
    g_autofree char *uuid = text_of(child(def, "uuid"));
    domain->name = text_of(child(def, "name"));
    domain->uuid = uuid ? g_ascii_strdown(g_strstrip(uuid), -1) : NULL;
    if (!domain->name || !domain->uuid || !g_uuid_string_is_valid(domain->uuid)) {
        vl_set_error(error, VL_ERR_NO_XML, "the VM has no name or no valid uuid");
        return NULL;
    }
    const xmlNode *job = child(root, "job");
    domain->state = attr(root, "state");
    domain->paused = g_strcmp0(domain->state, "paused") == 0;
    domain->reason = attr(root, "reason");
    domain->async_job = attr(job, "async");
    if (g_strcmp0(domain->async_job, "none") == 0)
        g_clear_pointer(&domain->async_job, g_free);
    domain->job_phase = attr(job, "phase");
    domain->lockstate = text_of(child(root, "lockstate"));
    domain->lock_failure = text_of(child(def, "on_lockfailure"));
    if (!parse_pid(root, &domain->pid, error) || !add_disks(domain, def, error))
        return NULL;
    return g_steal_pointer(&domain);
}

/* libvirt never writes a DOCTYPE; without one there are no entities to expand. */
static void
stop_at_doctype(void *context, const xmlChar *name, const xmlChar *external, const xmlChar *system)
{
    xmlStopParser(context);
}

VlDomain *
vl_statusxml_parse(const char *path, const char *text, gsize len, GError **error)
{
    if (len == 0 || len > STATUS_SIZE_MAX) {
        vl_set_error(error, VL_ERR_NO_XML, "%s: %s", path, len ? "larger than 8 MiB" : "is empty");
        return NULL;
    }
    xmlParserCtxt *context = xmlNewParserCtxt();
    if (!context)
        g_error("out of memory");
    context->sax->internalSubset = stop_at_doctype;
    /* Not XML_PARSE_NOENT, which would expand entities, and not XML_PARSE_HUGE. */
    xmlDoc *doc = xmlCtxtReadMemory(context, text, (int)len, NULL, NULL,
                                    XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
    const xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL;
    VlDomain *domain = NULL;
    if (root) {
        g_autoptr(GError) local = NULL;
        domain = domain_from_root(root, &local);
        if (!domain)
            vl_set_error(error, VL_ERR_NO_XML, "%s: %s", path, local->message);
    } else {
        const xmlError *reason = xmlCtxtGetLastError(context);
        g_autofree char *why = g_strdup(reason && reason->message ? reason->message : "it has a DOCTYPE");
        vl_set_error(error, VL_ERR_NO_XML, "%s: not well-formed XML, line %d: %s", path, reason ? reason->line : 0,
                     g_strdelimit(g_strchomp(why), "\n", ' '));
    }
    xmlFreeDoc(doc);
    xmlFreeParserCtxt(context);
    return domain;
}

/* Reads a regular file of at most STATUS_SIZE_MAX bytes (one more is read, so that the parser's own
 * check sees a file that is too large). */
static char *
read_status(const char *path, gsize *ret_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        errno = EINVAL;
        return NULL;
    }
    gsize size = (gsize)CLAMP(st.st_size, 0, STATUS_SIZE_MAX) + 1, len = 0;
    g_autofree char *text = g_malloc(size);
    ssize_t n = 1;
    while (len < size && n > 0) {
        n = read(fd, text + len, size - len);
        if (n > 0)
            len += (gsize)n;
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    int saved = errno;
    close(fd);
    errno = saved;
    if (n < 0)
        return NULL;
    *ret_len = len;
    return g_steal_pointer(&text);
}

VlDomain *
vl_statusxml_load(const char *path, GError **error)
{
    gsize len = 0;
    g_autofree char *text = read_status(path, &len);
    if (!text) {
        vl_set_error(error, VL_ERR_NO_XML, "cannot read %s: %s", path, g_strerror(errno));
        return NULL;
    }
    return vl_statusxml_parse(path, text, len, error);
}

/* qemu_conf.c, virQEMUDriverConfigNew: stateDir of the three kinds of driver. */
char *
vl_statusxml_dir(const char *uri, const char *run, GError **error)
{
    if (g_strcmp0(uri, "qemu:///system") == 0)
        return g_build_filename(run, "libvirt", "qemu", NULL);
    if (g_strcmp0(uri, "qemu:///session") == 0) {
        vl_set_error(error, VL_ERR_NOT_PERMITTED, "qemu:///session: virtlease serves the system's VMs only");
        return NULL;
    }
    static const char embed[] = "qemu:///embed?";
    if (uri && g_str_has_prefix(uri, embed)) {
        g_autoptr(GHashTable) params = g_uri_parse_params(uri + strlen(embed), -1, "&", G_URI_PARAMS_NONE, NULL);
        const char *root = params ? g_hash_table_lookup(params, "root") : NULL;
        if (root && g_path_is_absolute(root))
            return g_build_filename(root, "run", "qemu", NULL);
    }
    vl_set_error(error, VL_ERR_CONFIG, "connection URI '%s' is not one virtlease knows", uri ? uri : "");
    return NULL;
}

VlDomain *
vl_statusxml_find(const char *dir, const char *name, const char *uuid, GError **error)
{
    g_autoptr(GError) first = NULL;
    if (name && *name && !strchr(name, '/')) {
        g_autofree char *file = g_strconcat(dir, "/", name, ".xml", NULL);
        VlDomain *domain = vl_statusxml_load(file, &first);
        if (domain && g_ascii_strcasecmp(domain->uuid, uuid) == 0)
            return domain;
        if (!domain && !g_file_test(file, G_FILE_TEST_EXISTS))
            g_clear_error(&first);
        vl_domain_free(domain);
    }
    g_autoptr(GError) local = NULL;
    g_autoptr(GDir) handle = g_dir_open(dir, 0, &local);
    if (!handle) {
        vl_set_error(error, VL_ERR_NO_XML, "%s", local->message);
        return NULL;
    }
    const char *entry;
    while ((entry = g_dir_read_name(handle))) {
        if (!g_str_has_suffix(entry, ".xml"))
            continue;
        g_autofree char *file = g_build_filename(dir, entry, NULL);
        VlDomain *domain = vl_statusxml_load(file, NULL);
        if (domain && g_ascii_strcasecmp(domain->uuid, uuid) == 0)
            return domain;
        vl_domain_free(domain);
    }
    /* The VM's own file is there but unusable: that is the reason, not "no such VM". */
    if (first)
        g_propagate_error(error, g_steal_pointer(&first));
    return NULL;
}

GPtrArray *
vl_statusxml_list(const char *dir)
{
    GPtrArray *domains = g_ptr_array_new_with_free_func((GDestroyNotify)vl_domain_free);
    g_autoptr(GError) local = NULL;
    g_autoptr(GDir) handle = g_dir_open(dir, 0, &local);
    if (!handle && !g_error_matches(local, G_FILE_ERROR, G_FILE_ERROR_NOENT))
        g_warning("%s", local->message);
    const char *entry;
    while (handle && (entry = g_dir_read_name(handle))) {
        if (!g_str_has_suffix(entry, ".xml"))
            continue;
        g_autofree char *file = g_build_filename(dir, entry, NULL);
        g_autoptr(GError) error = NULL;
        VlDomain *domain = vl_statusxml_load(file, &error);
        if (domain)
            g_ptr_array_add(domains, domain);
        else if (g_file_test(file, G_FILE_TEST_EXISTS))
            g_warning("%s", error->message);
    }
    return domains;
}

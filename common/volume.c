/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/volume.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/str.h"

static char **
spec_strings(struct vl_volume_spec *spec, size_t i)
{
    char **strings[] = {&spec->pool, &spec->ns,      &spec->image,    &spec->conf,    &spec->mon_hosts, &spec->path,
                        &spec->fsid, &spec->pool_id, &spec->image_id, &spec->written, &spec->space,     &spec->key};
    return i < sizeof strings / sizeof *strings ? strings[i] : NULL;
}

void
vl_volume_spec_clear(struct vl_volume_spec *spec)
{
    char **string;
    for (size_t i = 0; (string = spec_strings(spec, i)); i++)
        free(*string);
    *spec = (struct vl_volume_spec){0};
}

int
vl_volume_spec_copy(const struct vl_volume_spec *from, struct vl_volume_spec *ret_spec)
{
    struct vl_volume_spec source = *from, copy = *from;
    char **string;
    for (size_t i = 0; (string = spec_strings(&copy, i)); i++)
        *string = NULL;
    for (size_t i = 0; (string = spec_strings(&source, i)); i++)
        if (*string && !(*spec_strings(&copy, i) = strdup(*string))) {
            vl_volume_spec_clear(&copy);
            return -ENOMEM;
        }
    *ret_spec = copy;
    return 0;
}

static bool
same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool
is_spelled(const struct vl_volume_spec *spec, const char *path)
{
    return spec->kind == VL_VOLUME_FILE && spec->written && path && strcmp(spec->written, path) == 0;
}

bool
vl_volume_spec_equal(const struct vl_volume_spec *a, const struct vl_volume_spec *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == VL_VOLUME_LEASE)
        return same(a->space, b->space) && same(a->key, b->key) && same(a->path, b->path) && a->offset == b->offset;
    if (a->kind != VL_VOLUME_RBD)
        return same(a->path, b->path) || is_spelled(a, b->path) || is_spelled(b, a->path);
    return same(a->pool, b->pool) && same(a->ns, b->ns) && same(a->image, b->image) && same(a->conf, b->conf) &&
           same(a->mon_hosts, b->mon_hosts);
}

/* Control characters would break a log line in two. */
static char *
printable(const char *prefix, const char *text)
{
    static const char digits[] = "0123456789abcdef";
    char *out = malloc(strlen(prefix) + 4 * strlen(text) + 1);
    if (!out)
        return NULL;
    char *to = stpcpy(out, prefix);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c >= 0x20 && *c != 0x7f) {
            *to++ = (char)*c;
            continue;
        }
        *to++ = '\\';
        *to++ = 'x';
        *to++ = digits[*c >> 4];
        *to++ = digits[*c & 15];
    }
    *to = '\0';
    return out;
}

char *
vl_volume_display(const struct vl_volume_spec *spec)
{
    if (spec->kind == VL_VOLUME_FILE)
        return printable("file:", spec->path ? spec->path : "");
    if (spec->kind == VL_VOLUME_OTHER)
        return printable("", spec->path ? spec->path : "");
    if (spec->kind == VL_VOLUME_LEASE) {
        autofree char *name = vl_format("%s/%s", spec->space ? spec->space : "", spec->key ? spec->key : "");
        return name ? printable("lease:", name) : NULL;
    }
    const char *ns = spec->ns ? spec->ns : "";
    autofree char *name =
        vl_format("%s/%s%s%s", spec->pool ? spec->pool : "", ns, *ns ? "/" : "", spec->image ? spec->image : "");
    return name ? printable("rbd:", name) : NULL;
}

static bool
has_any(const char *text, const char *extra)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7f || strchr(extra, *c))
            return true;
    return false;
}

/* The grammar of librbd's image specs (src/tools/rbd/Utils.cc, extract_spec): only a pool's name
 * may contain '@'. */
int
vl_volume_parse_rbd(const char *name, struct vl_volume_spec *ret_spec)
{
    const char *slash = strchr(name, '/');
    if (!slash || slash == name || has_any(name, ""))
        return -EINVAL;
    const char *image = strrchr(name, '/') + 1;
    const char *at = strchr(image, '@');
    size_t ns_len = image - 1 > slash ? (size_t)(image - 1 - (slash + 1)) : 0;
    size_t image_len = at ? (size_t)(at - image) : strlen(image);
    if (image_len == 0 || (at && (!at[1] || strchr(at + 1, '@'))))
        return -EINVAL;
    if (image - 1 > slash && (ns_len == 0 || memchr(slash + 1, '/', ns_len) || memchr(slash + 1, '@', ns_len)))
        return -EINVAL;
    struct vl_volume_spec spec = {.kind = VL_VOLUME_RBD, .snapshot = at != NULL};
    spec.pool = strndup(name, (size_t)(slash - name));
    spec.ns = strndup(slash + 1, ns_len);
    spec.image = strndup(image, image_len);
    if (!spec.pool || !spec.ns || !spec.image) {
        vl_volume_spec_clear(&spec);
        return -ENOMEM;
    }
    *ret_spec = spec;
    return 0;
}

/* "host", "host:port", "[v6]:port", with one spelling per address. */
static int
host_text(const char *name, const char *port, char **ret_text)
{
    char ip[INET6_ADDRSTRLEN];
    unsigned char bytes[sizeof(struct in6_addr)];
    size_t len = strlen(name);
    bool bracketed = len > 2 && name[0] == '[' && name[len - 1] == ']';
    autofree char *host = strndup(name + bracketed, len - 2 * bracketed);
    if (!host)
        return -ENOMEM;
    if (!*host || has_any(host, " ,[]/"))
        return -EINVAL;
    bool v6 = strchr(host, ':') != NULL;
    for (char *c = host; *c; c++)
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 'a' - 'A') : *c;
    const char *text = host;
    if (inet_pton(AF_INET6, host, bytes) == 1 && inet_ntop(AF_INET6, bytes, ip, sizeof ip))
        text = ip;
    else if (v6 && !strchr(host, '%')) /* a zone needs no normal form, anything else is no address */
        return -EINVAL;
    unsigned long number = 0;
    if (port && *port) {
        char *end;
        number = isdigit((unsigned char)*port) ? strtoul(port, &end, 10) : ULONG_MAX;
        if (number > 65535 || *end)
            return -EINVAL;
    }
    char suffix[8] = "";
    if (number) /* libvirt uses 0 for "not given" */
        snprintf(suffix, sizeof suffix, ":%u", (unsigned int)(number & 0xffff));
    *ret_text = vl_format("%s%s%s%s", v6 ? "[" : "", text, v6 ? "]" : "", suffix);
    return *ret_text ? 0 : -ENOMEM;
}

int
vl_volume_add_host(struct vl_volume_spec *spec, const char *name, const char *port)
{
    autofree char *host = NULL;
    int r = host_text(name, port, &host);
    if (r < 0)
        return r;
    const char *at = spec->mon_hosts ? spec->mon_hosts : "";
    const char *list = at;
    size_t host_len = strlen(host);
    while (*at) { /* to the first member that is not smaller */
        size_t len = strcspn(at, ",");
        int order = strncmp(at, host, len);
        if (order == 0 && len == host_len)
            return 0;
        if (order > 0 || (order == 0 && len > host_len))
            break;
        at += len + (at[len] == ',');
    }
    int before = (int)(at - list);
    char *joined = vl_format("%.*s%s%s%s%s", before, list, !*at && before ? "," : "", host, *at ? "," : "", at);
    if (!joined)
        return -ENOMEM;
    free(spec->mon_hosts);
    spec->mon_hosts = joined;
    return 0;
}

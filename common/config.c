/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config_parser.h"

/* ---- lines ---- */

/* Index of the key named by the next `len` bytes, or -1. */
static int
find_key(const struct config_parser *p, size_t len, const struct vl_conf_key *keys)
{
    int i;

    for (i = 0; keys[i].name; i++) {
        if (strlen(keys[i].name) == len && memcmp(keys[i].name, p->at, len) == 0)
            return i;
    }
    return -1;
}

static int
parse_key(struct config_parser *p, const struct vl_conf_key *keys, struct config_value *values, int *ret_index)
{
    size_t len = vl_conf_word_length(p);
    int shown = (int)(len < 64 ? len : 64);
    int i;

    if (len == 0)
        return vl_conf_fail(p, p->line, "expected a key");
    i = find_key(p, len, keys);
    if (i < 0)
        return vl_conf_fail(p, p->line, "unknown key '%.*s'", shown, p->at);
    if (values[i].line)
        return vl_conf_fail(p, p->line, "key '%.*s' was already set in line %u", shown, p->at, values[i].line);
    p->at += len;
    vl_conf_skip_blanks(p);
    if (!vl_conf_at_char(p, '='))
        return vl_conf_fail(p, p->line, "expected '=' after '%s'", keys[i].name);
    p->at++;
    vl_conf_skip_blanks(p);
    values[i].line = p->line;
    *ret_index = i;
    return 0;
}

static int
parse_all(struct config_parser *p, const struct vl_conf_key *keys, struct config_value *values)
{
    for (vl_conf_skip_space(p); p->at < p->end; vl_conf_skip_space(p)) {
        int i = 0;
        int r = parse_key(p, keys, values, &i);

        if (r == 0)
            r = vl_conf_parse_value(p, &keys[i], &values[i]);
        if (r < 0)
            return r;
        vl_conf_skip_blanks(p);
        if (!vl_conf_at_line_end(p) && *p->at != '#')
            return vl_conf_fail(p, p->line, "unexpected text after the value of '%s'", keys[i].name);
    }
    return 0;
}

static void
apply(const struct vl_conf_key *key, struct config_value *value)
{
    switch (key->type) {
    case VL_CONF_STRING:
        free(*(char **)key->target);
        *(char **)key->target = value->string;
        value->string = NULL;
        break;
    case VL_CONF_UINT:
        *(unsigned int *)key->target = value->number;
        break;
    case VL_CONF_BOOL:
        *(bool *)key->target = value->number;
        break;
    case VL_CONF_ENUM:
        *(int *)key->target = (int)value->number;
        break;
    case VL_CONF_LIST:
        vl_config_list_free(*(char ***)key->target);
        *(char ***)key->target = value->list;
        value->list = NULL;
        break;
    }
}

static int
refuse_nul(struct config_parser *p, const char *nul)
{
    const char *at;

    for (at = p->at; at < nul; at++)
        p->line += *at == '\n';
    return vl_conf_fail(p, p->line, "NUL byte");
}

int
vl_config_parse(const char *path, const char *text, size_t len, const struct vl_conf_key *keys, char **ret_error)
{
    struct config_parser p = {.path = path, .at = text, .end = text, .line = 1, .error = ret_error};
    const char *nul = len > 0 ? memchr(text, '\0', len) : NULL;
    struct config_value *values;
    size_t i, count = 0;
    int r;

    *ret_error = NULL;
    if (len > 0)
        p.end += len; /* text may be NULL when there is none */
    if (nul)
        return refuse_nul(&p, nul);
    while (keys[count].name)
        count++;
    values = calloc(count + 1, sizeof(*values));
    if (!values)
        return -ENOMEM;

    r = parse_all(&p, keys, values);
    for (i = 0; i < count; i++) {
        if (r == 0 && values[i].line)
            apply(&keys[i], &values[i]);
        free(values[i].string);
        vl_config_list_free(values[i].list);
    }
    free(values);
    return r;
}

/* ---- files ---- */

/* strerrordesc_np: strerror() is not thread-safe, and strerror_r() takes libintl's lock, which a
 * forked child of libvirtd may find held forever. */
static int
fail_file(const char *path, int error, const char *reason, char **ret_error)
{
    if (asprintf(ret_error, "%s: %s", path, reason ? reason : strerrordesc_np(error)) < 0)
        *ret_error = NULL;
    return -error;
}

/* Reads up to `size` bytes; their number or -errno. */
static ssize_t
read_up_to(int fd, char *bytes, size_t size)
{
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, bytes + len, size - len);

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            len += (size_t)n;
    }
    return (ssize_t)len;
}

static int
load_fd(int fd, const char *path, const struct vl_conf_key *keys, char **ret_error)
{
    struct stat st;
    ssize_t len;
    char *text;
    int r;

    if (fstat(fd, &st) < 0)
        return fail_file(path, errno, NULL, ret_error);
    if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) /* /dev/null is a fine empty file */
        return fail_file(path, EINVAL, "not a regular file", ret_error);
    text = malloc(VL_CONF_SIZE_MAX + 1);
    if (!text)
        return -ENOMEM;
    len = read_up_to(fd, text, VL_CONF_SIZE_MAX + 1);
    if (len < 0)
        r = fail_file(path, (int)-len, NULL, ret_error);
    else if (len > VL_CONF_SIZE_MAX)
        r = fail_file(path, EFBIG, "larger than 256 KiB", ret_error);
    else
        r = vl_config_parse(path, text, (size_t)len, keys, ret_error);
    free(text);
    return r;
}

int
vl_config_load(const char *path, bool must_exist, const struct vl_conf_key *keys, char **ret_error)
{
    int fd, r;

    *ret_error = NULL;
    /* O_NONBLOCK: a FIFO in place of the file must not hang the caller. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT && !must_exist)
        return 0;
    if (fd < 0)
        return fail_file(path, errno, NULL, ret_error);
    r = load_fd(fd, path, keys, ret_error);
    (void)close(fd);
    return r;
}

void
vl_config_list_free(char **list)
{
    char **item;

    for (item = list; item && *item; item++)
        free(*item);
    free(list);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Configuration files in libvirt's own style, for the plugin and the daemon:
 *
 *     # comment
 *     key = "string"            (\" and \\ are the only escapes; '...' has none)
 *     key = 123
 *     key = [ "a", "b" ]        (lists may span lines)
 *
 * A table names every key that may stand in the file; anything else is refused with
 * "FILE:LINE: reason". libvirt's parser is private to libvirt and GKeyFile knows no line numbers,
 * hence this one. Plain C, no globals, no locale, safe in libvirtd's forked child.
 */
#ifndef VL_COMMON_CONFIG_H
#define VL_COMMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vl_conf_type {
    VL_CONF_STRING, /* char **, malloc'ed, may be ""; the old value is freed: NULL or malloc'ed */
    VL_CONF_UINT,   /* unsigned int *, within min..max */
    VL_CONF_BOOL,   /* bool *; 0 or 1 in the file */
    VL_CONF_ENUM,   /* int *, index into words; the file has one of them as a string */
    VL_CONF_LIST,   /* char ***, NULL-terminated, malloc'ed; the old value is freed likewise */
};

struct vl_conf_key {
    const char *name;
    enum vl_conf_type type;
    void *target;             /* of the type named above; keeps its value when the key is absent */
    unsigned int min, max;    /* VL_CONF_UINT */
    const char *const *words; /* VL_CONF_ENUM, NULL-terminated */
    const char *hint;         /* unit or meaning, for the error message, may be NULL */
    /* For a STRING or each item of a LIST: what is wrong with it ("must be ..."), NULL if nothing.
     */
    const char *(*check)(const char *string);
};

#define VL_CONF_SIZE_MAX (256 * 1024)

/* Reads `path` into the targets of `keys` (ended by a NULL name). A missing file is not an error
 * unless `must_exist`. On failure returns -errno (-EINVAL for bad content), stores a malloc'ed
 * "path:line: reason" (or "path: reason") in *ret_error (NULL on success and when memory ran out)
 * and leaves ALL targets as they were. */
int vl_config_load(const char *path, bool must_exist, const struct vl_conf_key *keys, char **ret_error);

/* The same from memory; `path` is only for messages. */
int vl_config_parse(const char *path, const char *text, size_t len, const struct vl_conf_key *keys, char **ret_error);

void vl_config_list_free(char **list);

#endif

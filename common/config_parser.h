/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Private to config.c (files, lines, keys) and config_value.c (what stands after the '=').
 */
#ifndef VL_COMMON_CONFIG_PARSER_H
#define VL_COMMON_CONFIG_PARSER_H

#include "common/config.h"

/* What the file says about one key; applied to the targets only when the whole file is good. */
struct config_value {
    unsigned int line; /* 0: not set */
    unsigned int number;
    char *string;
    char **list;
};

struct config_parser {
    const char *path;
    const char *at, *end;
    unsigned int line;
    char **error;
};

/* Stores "path:line: ..." and returns -EINVAL. */
__attribute__((format(printf, 3, 4))) int vl_conf_fail(struct config_parser *p, unsigned int line, const char *format,
                                                       ...);

bool vl_conf_at_char(const struct config_parser *p, char c);
bool vl_conf_at_line_end(const struct config_parser *p);
void vl_conf_skip_blanks(struct config_parser *p);
/* Blanks, comments and line ends. */
void vl_conf_skip_space(struct config_parser *p);
/* Of the run of letters, digits, '_' and '-' here. */
size_t vl_conf_word_length(const struct config_parser *p);

/* Leaves p behind the value. */
int vl_conf_parse_value(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value);

#endif

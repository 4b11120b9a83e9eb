/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/config_parser.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
vl_conf_fail(struct config_parser *p, unsigned int line, const char *format, ...)
{
    char *reason = NULL;
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(&reason, format, args);
    va_end(args);
    if (n < 0)
        return -ENOMEM;
    n = asprintf(p->error, "%s:%u: %s", p->path, line, reason);
    free(reason);
    if (n < 0) {
        *p->error = NULL;
        return -ENOMEM;
    }
    return -EINVAL;
}

/* ---- characters: not <ctype.h>, whose answers depend on the locale ---- */

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool
is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
}

static bool
is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

bool
vl_conf_at_char(const struct config_parser *p, char c)
{
    return p->at < p->end && *p->at == c;
}

bool
vl_conf_at_line_end(const struct config_parser *p)
{
    if (p->at == p->end || *p->at == '\n')
        return true;
    return *p->at == '\r' && (p->at + 1 == p->end || p->at[1] == '\n');
}

void
vl_conf_skip_blanks(struct config_parser *p)
{
    while (vl_conf_at_char(p, ' ') || vl_conf_at_char(p, '\t'))
        p->at++;
}

void
vl_conf_skip_space(struct config_parser *p)
{
    for (;;) {
        vl_conf_skip_blanks(p);
        if (vl_conf_at_char(p, '#')) {
            while (!vl_conf_at_line_end(p))
                p->at++;
        }
        if (p->at == p->end || !vl_conf_at_line_end(p))
            return;
        if (*p->at == '\r')
            p->at++;
        if (vl_conf_at_char(p, '\n')) {
            p->at++;
            p->line++;
        }
    }
}

size_t
vl_conf_word_length(const struct config_parser *p)
{
    const char *at = p->at;

    while (at < p->end && is_word(*at))
        at++;
    return (size_t)(at - p->at);
}

/* ---- values ---- */

static int
string_char(struct config_parser *p, char quote, char *ret_c)
{
    if (vl_conf_at_line_end(p))
        return vl_conf_fail(p, p->line, "string has no closing %c", quote);
    if (is_control(*p->at) && *p->at != '\t')
        return vl_conf_fail(p, p->line, "control character 0x%02x in a string", (unsigned char)*p->at);
    if (quote == '"' && *p->at == '\\') {
        p->at++;
        if (!vl_conf_at_char(p, '"') && !vl_conf_at_char(p, '\\'))
            return vl_conf_fail(p, p->line, "only \\\" and \\\\ may follow a backslash in a string");
    }
    *ret_c = *p->at++;
    return 0;
}

/* "..." with escapes, or '...' taken literally as in libvirt's own files. */
static int
parse_string(struct config_parser *p, char **ret_string)
{
    char quote = *p->at++;
    const char *start = p->at;
    char *out, *to;

    while (!vl_conf_at_char(p, quote)) {
        char c;
        int r = string_char(p, quote, &c);
        if (r < 0)
            return r;
    }
    out = to = malloc((size_t)(p->at - start) + 1);
    if (!out)
        return -ENOMEM;
    for (p->at = start; !vl_conf_at_char(p, quote);)
        (void)string_char(p, quote, to++); /* the same bytes passed a moment ago */
    *to = '\0';
    p->at++;
    *ret_string = out;
    return 0;
}

static bool
at_string(const struct config_parser *p)
{
    return vl_conf_at_char(p, '"') || vl_conf_at_char(p, '\'');
}

static int
parse_checked_string(struct config_parser *p, const struct vl_conf_key *key, char **ret_string)
{
    char *string = NULL;
    const char *wrong;
    int r = parse_string(p, &string);

    if (r < 0)
        return r;
    wrong = key->check ? key->check(string) : NULL;
    if (wrong) {
        r = vl_conf_fail(p, p->line, "'%s' %s", key->name, wrong);
        free(string);
        return r;
    }
    *ret_string = string;
    return 0;
}

/* What stands where the value should, for "not ..." in messages. */
static const char *
kind_of_value(const struct config_parser *p)
{
    if (at_string(p))
        return "a string";
    if (vl_conf_at_char(p, '['))
        return "a list";
    if (vl_conf_at_char(p, '-') || (p->at < p->end && is_digit(*p->at)))
        return "a number";
    if (vl_conf_at_line_end(p) || vl_conf_at_char(p, '#'))
        return "nothing";
    return "a bare word";
}

static int
wrong_type(struct config_parser *p, const struct vl_conf_key *key, const char *wanted)
{
    return vl_conf_fail(p, p->line, "'%s' needs %s, not %s", key->name, wanted, kind_of_value(p));
}

static int
out_of_range(struct config_parser *p, const struct vl_conf_key *key)
{
    return vl_conf_fail(p, p->line, "'%s' must be from %u to %u%s%s%s", key->name, key->min, key->max,
                        key->hint ? " (" : "", key->hint ? key->hint : "", key->hint ? ")" : "");
}

/* Decimal only: 010 would be eight to some readers, so a leading zero is refused. */
static int
parse_uint(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value)
{
    size_t i, len = vl_conf_word_length(p);
    uint64_t number = 0;

    if (len == 0 || (!is_digit(*p->at) && *p->at != '-'))
        return wrong_type(p, key, "a number");
    for (i = *p->at == '-' ? 1 : 0; i < len; i++) {
        if (!is_digit(p->at[i]))
            return vl_conf_fail(p, p->line, "'%s': '%.*s' is not a whole decimal number", key->name,
                                (int)(len < 64 ? len : 64), p->at);
        if (number <= UINT32_MAX)
            number = number * 10 + (uint64_t)(p->at[i] - '0');
    }
    if (len > 1 && p->at[0] == '0')
        return vl_conf_fail(p, p->line, "'%s': a number may not begin with 0", key->name);
    if (*p->at == '-' || number < key->min || number > key->max)
        return out_of_range(p, key);
    value->number = (unsigned int)number;
    p->at += len;
    return 0;
}

static int
parse_bool(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value)
{
    if (vl_conf_word_length(p) != 1 || (*p->at != '0' && *p->at != '1'))
        return vl_conf_fail(p, p->line, "'%s' must be 0 or 1", key->name);
    value->number = *p->at == '1';
    p->at++;
    return 0;
}

static int
no_such_word(struct config_parser *p, const struct vl_conf_key *key, const char *word)
{
    char known[512] = "";
    size_t i, used = 0;

    for (i = 0; key->words[i] && used < sizeof(known); i++) {
        int n = snprintf(known + used, sizeof(known) - used, "%s\"%s\"", i > 0 ? ", " : "", key->words[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return vl_conf_fail(p, p->line, "'%s' must be one of %s, not \"%.200s\"", key->name, known, word);
}

static int
parse_enum(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value)
{
    char *word = NULL;
    unsigned int i;
    int r;

    if (!at_string(p))
        return wrong_type(p, key, "a string");
    r = parse_string(p, &word);
    if (r < 0)
        return r;
    for (i = 0; key->words[i] && strcmp(key->words[i], word) != 0; i++)
        ;
    if (key->words[i])
        value->number = i;
    else
        r = no_such_word(p, key, word);
    free(word);
    return r;
}

static int
list_append(char ***list, size_t *len, char *string)
{
    char **grown = realloc(*list, (*len + 2) * sizeof(*grown));

    if (!grown) {
        free(string);
        return -ENOMEM;
    }
    grown[(*len)++] = string;
    grown[*len] = NULL;
    *list = grown;
    return 0;
}

static int
parse_list_item(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value, size_t *len)
{
    char *string = NULL;
    int r;

    if (!at_string(p))
        return wrong_type(p, key, "a list of strings");
    r = parse_checked_string(p, key, &string);
    if (r < 0)
        return r;
    r = list_append(&value->list, len, string);
    if (r < 0)
        return r;
    vl_conf_skip_space(p);
    if (vl_conf_at_char(p, ','))
        p->at++;
    else if (p->at < p->end && *p->at != ']')
        return vl_conf_fail(p, p->line, "expected ',' or ']' in the list of '%s'", key->name);
    vl_conf_skip_space(p);
    return 0;
}

static int
parse_list(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value)
{
    unsigned int first_line = p->line;
    size_t len = 0;

    if (!vl_conf_at_char(p, '['))
        return wrong_type(p, key, "a list of strings");
    value->list = calloc(1, sizeof(*value->list));
    if (!value->list)
        return -ENOMEM;
    p->at++;
    vl_conf_skip_space(p);
    while (!vl_conf_at_char(p, ']')) {
        int r;

        if (p->at == p->end)
            return vl_conf_fail(p, first_line, "the list of '%s' has no closing ]", key->name);
        r = parse_list_item(p, key, value, &len);
        if (r < 0)
            return r;
    }
    p->at++;
    return 0;
}

int
vl_conf_parse_value(struct config_parser *p, const struct vl_conf_key *key, struct config_value *value)
{
    switch (key->type) {
    case VL_CONF_STRING:
        if (!at_string(p))
            return wrong_type(p, key, "a string");
        return parse_checked_string(p, key, &value->string);
    case VL_CONF_UINT:
        return parse_uint(p, key, value);
    case VL_CONF_BOOL:
        return parse_bool(p, key, value);
    case VL_CONF_ENUM:
        return parse_enum(p, key, value);
    case VL_CONF_LIST:
        return parse_list(p, key, value);
    }
    return -EINVAL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/route.h"

#include <stdlib.h>
#include <string.h>

/* The words of a rule, pointing into it: the prefix is all that is between the first and the last blank, so that it
 * may have blanks itself. */
typedef struct {
    const char *type, *prefix, *backend;
    gsize type_len, prefix_len;
} Rule;

static gboolean
parse(const char *text, Rule *rule)
{
    const char *first = strchr(text, ' ');
    const char *last = strrchr(text, ' ');
    if (!first || first == last)
        return FALSE;
    *rule = (Rule){text, first + 1, last + 1, (gsize)(first - text), (gsize)(last - first - 1)};
    return TRUE;
}

static gboolean
is_type(const Rule *rule, const char *type)
{
    return rule->type_len == strlen(type) && strncmp(rule->type, type, rule->type_len) == 0;
}

const char *
vl_route_check(const char *text)
{
    static const char *const backends[] = {"local", "sanlock", VL_ROUTE_NONE};
    Rule rule;
    gboolean known = FALSE;
    if (!parse(text, &rule))
        return "must be \"TYPE PREFIX BACKEND\", for example \"file /srv/nfs sanlock\"";
    if (!is_type(&rule, "file") && !is_type(&rule, "block") && !is_type(&rule, "any"))
        return "must begin with file, block or any";
    if (rule.prefix[0] != '/')
        return "must have an absolute path as its prefix";
    for (gsize i = 0; i < G_N_ELEMENTS(backends); i++)
        known = known || strcmp(rule.backend, backends[i]) == 0;
    return known ? NULL : "must end in a backend: local, sanlock or none";
}

static gboolean
below(const char *path, const char *prefix, gsize len)
{
    while (len > 1 && prefix[len - 1] == '/')
        len--;
    if (len == 1)
        return path[0] == '/';
    return strncmp(path, prefix, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* A prefix may be spelled through a symlink as well; volumes come with their canonical path. */
static gboolean
matches(const Rule *rule, const char *path)
{
    if (below(path, rule->prefix, rule->prefix_len))
        return TRUE;
    g_autofree char *prefix = g_strndup(rule->prefix, rule->prefix_len);
    char *real = realpath(prefix, NULL);
    gboolean found = real && below(path, real, strlen(real));
    free(real);
    return found;
}

const char *
vl_route(const char *const *rules, const char *path, gboolean block)
{
    const char *best = VL_ROUTE_DEFAULT;
    gsize best_rank = 0;
    for (gsize i = 0; rules && rules[i]; i++) {
        Rule rule;
        if (!parse(rules[i], &rule))
            continue;
        gboolean own = is_type(&rule, block ? "block" : "file");
        gsize rank = rule.prefix_len * 2 + (own ? 1 : 0);
        if ((own || is_type(&rule, "any")) && rank > best_rank && matches(&rule, path)) {
            best = rule.backend;
            best_rank = rank;
        }
    }
    return best;
}

gboolean
vl_route_uses(const char *const *rules, const char *backend)
{
    for (gsize i = 0; rules && rules[i]; i++) {
        Rule rule;
        if (parse(rules[i], &rule) && strcmp(rule.backend, backend) == 0)
            return TRUE;
    }
    return FALSE;
}

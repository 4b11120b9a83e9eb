/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Configuration files. How to run: see meson.build here.
 */
#include <stdlib.h>
#include <string.h>

#include "common/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct targets {
    char *string;
    unsigned int number;
    bool flag;
    int mode;
    char **list;
};

static const char *
check_path(const char *path)
{
    return path[0] == '/' ? NULL : "must be an absolute path";
}

static void
check(int condition)
{
    if (!condition)
        abort();
}

static void
check_targets(const struct targets *t, int r, const char *error)
{
    if (r < 0) {
        check(error && strncmp(error, "f:", 2) == 0);
        check(!t->string && t->number == 7 && !t->flag && t->mode == 0 && !t->list);
        return;
    }
    check(!error);
    check(t->number == 7 || (t->number >= 5 && t->number <= 600));
    check(t->mode >= 0 && t->mode <= 1);
    check(!t->string || t->string[0] == '/');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const modes[] = {"log", "pause", NULL};
    struct targets t = {.number = 7};
    const struct vl_conf_key keys[] = {
        {.name = "socket", .type = VL_CONF_STRING, .target = &t.string, .check = check_path},
        {.name = "timeout", .type = VL_CONF_UINT, .target = &t.number, .min = 5, .max = 600},
        {.name = "flag", .type = VL_CONF_BOOL, .target = &t.flag},
        {.name = "mode", .type = VL_CONF_ENUM, .target = &t.mode, .words = modes},
        {.name = "list", .type = VL_CONF_LIST, .target = &t.list},
        {.name = NULL},
    };
    char *error = NULL;
    int r = vl_config_parse("f", (const char *)data, size, keys, &error);

    check_targets(&t, r, error);
    free(error);
    free(t.string);
    vl_config_list_free(t.list);
    return 0;
}

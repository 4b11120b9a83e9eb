/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/config.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const modes[] = {"off", "slow", "fast", NULL};

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

enum { KEYS_MAX = 9 };

static void
fill_keys(struct targets *t, struct vl_conf_key keys[KEYS_MAX])
{
    const struct vl_conf_key all[KEYS_MAX] = {
        {"string", VL_CONF_STRING, &t->string},
        {"number", VL_CONF_UINT, &t->number, .min = 5, .max = 600, .hint = "seconds"},
        {"big", VL_CONF_UINT, &t->number, .max = UINT32_MAX},
        {"flag", VL_CONF_BOOL, &t->flag},
        {"mode", VL_CONF_ENUM, &t->mode, .words = modes},
        {"list", VL_CONF_LIST, &t->list},
        {"paths", VL_CONF_LIST, &t->list, .check = check_path},
        {"path", VL_CONF_STRING, &t->string, .check = check_path},
        {.name = NULL},
    };

    memcpy(keys, all, sizeof(all));
}

static void
targets_init(struct targets *targets)
{
    *targets = (struct targets){.string = strdup("default"), .number = 40, .mode = 1};
    targets->list = calloc(2, sizeof(char *));
    targets->list[0] = strdup("item");
}

static void
targets_clear(struct targets *targets)
{
    free(targets->string);
    vl_config_list_free(targets->list);
}

static void
assert_defaults(const struct targets *targets)
{
    g_assert_cmpstr(targets->string, ==, "default");
    g_assert_cmpuint(targets->number, ==, 40);
    g_assert_false(targets->flag);
    g_assert_cmpint(targets->mode, ==, 1);
    g_assert_cmpstr(targets->list[0], ==, "item");
    g_assert_null(targets->list[1]);
}

static int
parse_bytes(const char *text, size_t len, struct targets *targets, char **error)
{
    struct vl_conf_key keys[KEYS_MAX];
    /* Exactly sized, so that ASan sees a read past the end. */
    g_autofree char *copy = g_memdup2(text, len);

    fill_keys(targets, keys);
    return vl_config_parse("x.conf", copy, len, keys, error);
}

static void
parse_good(const char *text, struct targets *targets)
{
    char *error = NULL;

    targets_init(targets);
    g_assert_cmpint(parse_bytes(text, strlen(text), targets, &error), ==, 0);
    g_assert_cmpstr(error, ==, NULL);
}

static void
assert_refused_bytes(const char *text, size_t len, const char *expected)
{
    struct targets targets;
    char *error = NULL;

    targets_init(&targets);
    g_assert_cmpint(parse_bytes(text, len, &targets, &error), ==, -EINVAL);
    g_assert_cmpstr(error, ==, expected);
    assert_defaults(&targets);
    free(error);
    targets_clear(&targets);
}

static void
assert_refused(const char *text, const char *expected)
{
    /* Good values before the bad one must not be applied. */
    g_autofree char *after = g_strconcat("flag = 1\n", text, NULL);
    g_autofree char *in_line_2 = g_strconcat("x.conf:", expected, NULL);

    assert_refused_bytes(after, strlen(after), in_line_2);
}

/* ---- good files ---- */

static void
test_all_types(void)
{
    struct targets t;

    parse_good("# virtlease\n\n  string = \"a b\" # why\nnumber=600\n\tflag\t=\t1\n"
               "mode = \"fast\"\nlist = [ \"one\", 'two' ]",
               &t);
    g_assert_cmpstr(t.string, ==, "a b");
    g_assert_cmpuint(t.number, ==, 600);
    g_assert_true(t.flag);
    g_assert_cmpint(t.mode, ==, 2);
    g_assert_cmpstr(t.list[0], ==, "one");
    g_assert_cmpstr(t.list[1], ==, "two");
    g_assert_null(t.list[2]);
    targets_clear(&t);
}

static void
test_absent_keys_keep_values(void)
{
    struct targets t;

    parse_good("", &t);
    assert_defaults(&t);
    targets_clear(&t);
    parse_good("\n# nothing but comments\n#", &t);
    assert_defaults(&t);
    targets_clear(&t);
}

static void
assert_string_value(const char *text, const char *expected)
{
    struct targets t;

    parse_good(text, &t);
    g_assert_cmpstr(t.string, ==, expected);
    targets_clear(&t);
}

static void
test_strings(void)
{
    assert_string_value("string = \"\"", "");
    assert_string_value("string = \"a\\\"b\\\\c\"", "a\"b\\c");
    assert_string_value("string = \"ends in \\\\\"", "ends in \\");
    assert_string_value("string = \"# no comment\" # a comment", "# no comment");
    assert_string_value("string = 'as \"is\\'", "as \"is\\");
    assert_string_value("string = \"it's\"", "it's");
    assert_string_value("string = \"tab\there, ümlaut\"", "tab\there, ümlaut");
    assert_string_value("path = \"/x\"", "/x");
}

static void
test_lists(void)
{
    struct targets t;

    parse_good("list = [\n  \"one\", # first\n\n  \"two\" ,\n  \"three\",\n]\nnumber = 7", &t);
    g_assert_cmpuint(g_strv_length(t.list), ==, 3);
    g_assert_cmpstr(t.list[2], ==, "three");
    g_assert_cmpuint(t.number, ==, 7);
    targets_clear(&t);
    parse_good("list = []", &t);
    g_assert_nonnull(t.list);
    g_assert_null(t.list[0]);
    targets_clear(&t);
}

static void
test_crlf(void)
{
    struct targets t;

    parse_good("# DOS\r\nstring = \"x\"\r\nlist = [\r\n\"one\"\r\n]\r\nnumber = 9\r", &t);
    g_assert_cmpstr(t.string, ==, "x");
    g_assert_cmpuint(t.number, ==, 9);
    targets_clear(&t);
    assert_refused("\r\nnope = 1\r\n", "3: unknown key 'nope'");
}

static void
test_numbers(void)
{
    struct targets t;

    parse_good("big = 4294967295", &t);
    g_assert_cmpuint(t.number, ==, UINT32_MAX);
    targets_clear(&t);
    parse_good("big = 0", &t);
    g_assert_cmpuint(t.number, ==, 0);
    targets_clear(&t);
    parse_good("number = 5#five", &t);
    g_assert_cmpuint(t.number, ==, 5);
    targets_clear(&t);
}

/* ---- refusals ---- */

static void
test_keys_refused(void)
{
    assert_refused("x = 1", "2: unknown key 'x'");
    assert_refused("\n# c\nstrin = \"s\"", "4: unknown key 'strin'");
    assert_refused("stringy = \"s\"", "2: unknown key 'stringy'");
    assert_refused("flag = 0", "2: key 'flag' was already set in line 1");
    assert_refused("= 1", "2: expected a key");
    assert_refused("\"string\" = 1", "2: expected a key");
    assert_refused("string \"s\"", "2: expected '=' after 'string'");
    assert_refused("string", "2: expected '=' after 'string'");
    assert_refused("string\n= \"s\"", "2: expected '=' after 'string'");
    assert_refused("string = \"s\" number = 7", "2: unexpected text after the value of 'string'");
    assert_refused("list = [] ]", "2: unexpected text after the value of 'list'");
}

static void
test_strings_refused(void)
{
    assert_refused("string = \"s", "2: string has no closing \"");
    assert_refused("string = \"s\nnumber = 7\"", "2: string has no closing \"");
    assert_refused("string = \"s\\\"", "2: string has no closing \"");
    assert_refused("string = 's", "2: string has no closing '");
    assert_refused("string = \"s\\n\"", "2: only \\\" and \\\\ may follow a backslash in a string");
    assert_refused("string = \"s\\", "2: only \\\" and \\\\ may follow a backslash in a string");
    assert_refused("string = \"s\033\"", "2: control character 0x1b in a string");
    assert_refused("path = \"tmp\"", "2: 'path' must be an absolute path");
    assert_refused("paths = [ \"/x\",\n\"tmp\" ]", "3: 'paths' must be an absolute path");
}

static void
test_numbers_refused(void)
{
    assert_refused("number = 4", "2: 'number' must be from 5 to 600 (seconds)");
    assert_refused("number = 601", "2: 'number' must be from 5 to 600 (seconds)");
    assert_refused("number = -7", "2: 'number' must be from 5 to 600 (seconds)");
    assert_refused("number = 99999999999999999999999999", "2: 'number' must be from 5 to 600 (seconds)");
    assert_refused("big = 4294967296", "2: 'big' must be from 0 to 4294967295");
    assert_refused("number = 010", "2: 'number': a number may not begin with 0");
    assert_refused("number = 7s", "2: 'number': '7s' is not a whole decimal number");
    assert_refused("number = 0x10", "2: 'number': '0x10' is not a whole decimal number");
    assert_refused("number = 7.5", "2: unexpected text after the value of 'number'");
}

static void
test_wrong_type(void)
{
    assert_refused("number = \"7\"", "2: 'number' needs a number, not a string");
    assert_refused("number = [ 7 ]", "2: 'number' needs a number, not a list");
    assert_refused("number = seven", "2: 'number' needs a number, not a bare word");
    assert_refused("number =", "2: 'number' needs a number, not nothing");
    assert_refused("number = # 7", "2: 'number' needs a number, not nothing");
    assert_refused("string = 7", "2: 'string' needs a string, not a number");
    assert_refused("string = word", "2: 'string' needs a string, not a bare word");
    assert_refused("string =\n\"s\"", "2: 'string' needs a string, not nothing");
    assert_refused("list = \"one\"", "2: 'list' needs a list of strings, not a string");
    assert_refused("mode = 1", "2: 'mode' needs a string, not a number");
    assert_refused("mode = \"warp\"", "2: 'mode' must be one of \"off\", \"slow\", \"fast\", not \"warp\"");
    assert_refused_bytes("flag = 2", 8, "x.conf:1: 'flag' must be 0 or 1");
    assert_refused_bytes("flag = 10", 9, "x.conf:1: 'flag' must be 0 or 1");
    assert_refused_bytes("flag = yes", 10, "x.conf:1: 'flag' must be 0 or 1");
    assert_refused_bytes("flag = \"1\"", 10, "x.conf:1: 'flag' must be 0 or 1");
}

static void
test_lists_refused(void)
{
    assert_refused("list = [ \"one\"", "2: the list of 'list' has no closing ]");
    assert_refused("list = [\n\"one\",\n", "2: the list of 'list' has no closing ]");
    assert_refused("list = [ \"one\" \"two\" ]", "2: expected ',' or ']' in the list of 'list'");
    assert_refused("list = [ \"one\",\n 2 ]", "3: 'list' needs a list of strings, not a number");
    assert_refused("list = [ , ]", "2: 'list' needs a list of strings, not a bare word");
    assert_refused("list = [ [ ] ]", "2: 'list' needs a list of strings, not a list");
    assert_refused("list = [ \"one\n\" ]", "2: string has no closing \"");
}

static void
test_nul_bytes(void)
{
    assert_refused_bytes("flag = 1\nstring = \"a\0b\"\n", 23, "x.conf:2: NUL byte");
    assert_refused_bytes("\0", 1, "x.conf:1: NUL byte");
    assert_refused_bytes("flag = 1\n# \0", 12, "x.conf:2: NUL byte");
}

/* No prefix of a good file makes the parser read too far or leak. */
static void
test_truncated_everywhere(void)
{
    static const char text[] = "string = \"a\\\"\\\\b\" # c\r\nnumber = 600\nflag = 1\n"
                               "mode = 'slow'\nlist = [ \"one\", # c\n\"two\" ]\n";
    size_t len;

    for (len = 0; len < sizeof(text); len++) {
        struct targets t;
        char *error = NULL;
        int r;

        targets_init(&t);
        r = parse_bytes(text, len, &t, &error);
        g_assert_true(r == 0 ? !error : error && g_str_has_prefix(error, "x.conf:"));
        free(error);
        targets_clear(&t);
    }
}

/* ---- files ---- */

struct file {
    char *dir, *path;
};

static void
file_new(struct file *file, gconstpointer data)
{
    file->dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    file->path = g_build_filename(file->dir, "x.conf", NULL);
}

static void
file_free(struct file *file, gconstpointer data)
{
    g_unlink(file->path);
    g_assert_cmpint(g_rmdir(file->dir), ==, 0);
    g_free(file->path);
    g_free(file->dir);
}

static void
assert_load(const struct file *file, bool must_exist, int expected, const char *reason)
{
    struct targets t;
    struct vl_conf_key keys[KEYS_MAX];
    g_autofree char *message = reason ? g_strdup_printf("%s%s", file->path, reason) : NULL;
    char *error = NULL;

    targets_init(&t);
    fill_keys(&t, keys);
    g_assert_cmpint(vl_config_load(file->path, must_exist, keys, &error), ==, expected);
    g_assert_cmpstr(error, ==, message);
    if (expected < 0)
        assert_defaults(&t);
    free(error);
    targets_clear(&t);
}

static void
test_missing_file(struct file *file, gconstpointer data)
{
    assert_load(file, false, 0, NULL);
    assert_load(file, true, -ENOENT, ": No such file or directory");
}

static void
test_load(struct file *file, gconstpointer data)
{
    struct targets t;
    struct vl_conf_key keys[KEYS_MAX];
    char *error = NULL;

    g_assert_true(g_file_set_contents(file->path, "string = \"from a file\"\n", -1, NULL));
    targets_init(&t);
    fill_keys(&t, keys);
    g_assert_cmpint(vl_config_load(file->path, true, keys, &error), ==, 0);
    g_assert_cmpstr(t.string, ==, "from a file");
    targets_clear(&t);
    g_assert_true(g_file_set_contents(file->path, "flag = 1\nnope = 1\n", -1, NULL));
    assert_load(file, false, -EINVAL, ":2: unknown key 'nope'");
}

static void
test_file_size(struct file *file, gconstpointer data)
{
    g_autofree char *text = g_strnfill(VL_CONF_SIZE_MAX + 1, ' ');

    g_assert_true(g_file_set_contents(file->path, text, VL_CONF_SIZE_MAX, NULL));
    assert_load(file, true, 0, NULL);
    g_assert_true(g_file_set_contents(file->path, text, VL_CONF_SIZE_MAX + 1, NULL));
    assert_load(file, true, -EFBIG, ": larger than 256 KiB");
}

static void
test_not_a_file(struct file *file, gconstpointer data)
{
    struct file null = {.path = (char *)"/dev/null"};

    g_assert_cmpint(mkfifo(file->path, 0600), ==, 0);
    assert_load(file, false, -EINVAL, ": not a regular file"); /* and does not wait for a writer */
    g_assert_cmpint(g_unlink(file->path), ==, 0);
    g_assert_cmpint(g_mkdir(file->path, 0700), ==, 0);
    assert_load(file, false, -EINVAL, ": not a regular file");
    g_assert_cmpint(g_rmdir(file->path), ==, 0);
    assert_load(&null, true, 0, NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define FILE_TEST(name, function) g_test_add("/config/file/" name, struct file, NULL, file_new, function, file_free)
    g_test_add_func("/config/all-types", test_all_types);
    g_test_add_func("/config/absent-keys", test_absent_keys_keep_values);
    g_test_add_func("/config/strings", test_strings);
    g_test_add_func("/config/lists", test_lists);
    g_test_add_func("/config/crlf", test_crlf);
    g_test_add_func("/config/numbers", test_numbers);
    g_test_add_func("/config/refused/keys", test_keys_refused);
    g_test_add_func("/config/refused/strings", test_strings_refused);
    g_test_add_func("/config/refused/numbers", test_numbers_refused);
    g_test_add_func("/config/refused/types", test_wrong_type);
    g_test_add_func("/config/refused/lists", test_lists_refused);
    g_test_add_func("/config/refused/nul", test_nul_bytes);
    g_test_add_func("/config/truncated-everywhere", test_truncated_everywhere);
    FILE_TEST("missing", test_missing_file);
    FILE_TEST("load", test_load);
    FILE_TEST("size", test_file_size);
    FILE_TEST("not-a-file", test_not_a_file);
    return g_test_run();
}

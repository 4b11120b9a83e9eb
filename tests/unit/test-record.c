/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Lease records as text. What is not fully understood protects its volume by being refused. */
#include <string.h>

#include "lockd/error.h"
#include "lockd/record.h"
#include "tests/unit/world.h"

#define HOLDER                                                                                                         \
    "{\"host\":\"h1\",\"machine\":\"m\",\"name\":\"node-a\",\"boot\":\"b\",\"session\":12,\"uuid\":\"u\",\"vm\":"      \
    "\"web1\","                                                                                                        \
    "\"pid\":4711,\"start\":99,\"state\":\"held\",\"token\":\"t\",\"addrs\":[\"10.0.0.1:0/1\"],\"since\":5}"
#define CLAIM                                                                                                          \
    "{\"id\":\"c\",\"host\":\"h2\",\"name\":\"node-b\",\"session\":3,\"uuid\":\"u2\",\"vm\":\"web2\",\"epoch\":8,"     \
    "\"addrs\":[\"10.0.0.1:0/1\"],\"since\":6}"
#define FENCED "{\"addr\":\"10.0.0.9:0/9\",\"at\":1,\"until\":2,\"wanted\":3}"
#define WHOLE                                                                                                          \
    "{\"version\":1,\"epoch\":7,\"write\":\"w\",\"mode\":\"exclusive\",\"holders\":[" HOLDER "],\"claim\":" CLAIM      \
    ",\"fenced\":[" FENCED "]}"

static VlRecord *
parse_n(const char *text, gsize size, GError **error)
{
    g_autoptr(GBytes) bytes = g_bytes_new(text, size);
    return vl_record_parse("rbd:rbd/vm1", bytes, error);
}

static VlRecord *
parse(const char *text, GError **error)
{
    return parse_n(text, strlen(text), error);
}

static void
assert_refused_n(const char *text, gsize size, const char *pattern)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VlRecord) record = parse_n(text, size, &error);
    if (record)
        g_error("accepted: %.200s", text);
    world_assert_error(error, VL_ERR_RECORD, "rbd:rbd/vm1: *Nobody may lease the volume until it is repaired");
    if (!g_pattern_match_simple(pattern, error->message))
        g_error("%.200s: '%s' is not like '%s'", text, error->message, pattern);
}

static void
assert_refused(const char *text, const char *pattern)
{
    assert_refused_n(text, strlen(text), pattern);
}

/* WHOLE with one thing replaced. */
static char *
with(const char *what, const char *by)
{
    const char *at = strstr(WHOLE, what);
    g_assert_nonnull(at);
    return g_strdup_printf("%.*s%s%s", (int)(at - WHOLE), WHOLE, by, at + strlen(what));
}

static void
test_none(void)
{
    g_autoptr(VlRecord) record = vl_record_parse("x", NULL, NULL);
    g_assert_cmpuint(record->holders->len, ==, 0);
    g_assert_cmpuint(record->epoch, ==, 0);
    g_assert_null(record->claim);
}

static void
assert_whole(const VlRecord *record)
{
    g_assert_cmpuint(record->epoch, ==, 7);
    g_assert_false(record->shared);
    g_assert_cmpuint(record->holders->len, ==, 1);
    const VlHolder *holder = record->holders->pdata[0];
    VlIncarnation who = {(char *)"h1", (char *)"b", (char *)"u", 4711, 99};
    g_assert_true(vl_incarnation_equal(&holder->who, &who));
    g_assert_cmpstr(holder->machine, ==, "m");
    g_assert_cmpstr(holder->host_name, ==, "node-a");
    g_assert_cmpstr(holder->vm, ==, "web1");
    g_assert_cmpstr(holder->token, ==, "t");
    g_assert_cmpuint(holder->session, ==, 12);
    g_assert_true(holder->held);
    g_assert_cmpint(holder->since, ==, 5);
    g_assert_true(vl_addrs_has(holder->addrs, "10.0.0.1:0/1"));
    g_assert_cmpstr(record->claim->id, ==, "c");
    g_assert_cmpstr(record->claim->host, ==, "h2");
    g_assert_cmpstr(record->claim->host_name, ==, "node-b");
    g_assert_cmpuint(record->claim->session, ==, 3);
    g_assert_cmpstr(record->claim->uuid, ==, "u2");
    g_assert_cmpstr(record->claim->vm, ==, "web2");
    g_assert_cmpuint(record->claim->epoch, ==, 8);
    g_assert_cmpuint(record->claim->addrs->len, ==, 1);
    g_assert_cmpuint(record->fenced->len, ==, 1);
    const VlFenced *fenced = record->fenced->pdata[0];
    g_assert_cmpstr(fenced->addr, ==, "10.0.0.9:0/9");
    g_assert_cmpint(fenced->at, ==, 1);
    g_assert_cmpint(fenced->until, ==, 2);
    g_assert_cmpint(fenced->wanted, ==, 3);
}

/* Through text and back, and through a copy, nothing is lost; each writing has an id of its own (R18). */
static void
test_round_trip(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VlRecord) first = parse(WHOLE, &error);
    g_assert_no_error(error);
    assert_whole(first);
    g_assert_cmpstr(first->write, ==, "w");
    g_autoptr(VlRecord) copy = vl_record_copy(first);
    g_autoptr(GBytes) bytes = vl_record_format(copy);
    g_autoptr(GBytes) again = vl_record_format(copy);
    g_assert_false(g_bytes_equal(bytes, again));
    g_autoptr(VlRecord) second = vl_record_parse("x", bytes, &error);
    g_assert_no_error(error);
    assert_whole(second);
    g_assert_cmpstr(second->write, !=, "w");
    g_assert_cmpuint(strlen(second->write), ==, 32);
}

static void
test_shared_parked(void)
{
    g_autofree char *shared = with("exclusive", "shared");
    g_autofree char *parked = with("\"held\"", "\"parked\"");
    g_autoptr(VlRecord) a = parse(shared, NULL);
    g_autoptr(VlRecord) b = parse(parked, NULL);
    g_assert_true(a->shared);
    g_assert_false(((VlHolder *)b->holders->pdata[0])->held);
    g_autoptr(GBytes) bytes = vl_record_format(a);
    g_autoptr(VlRecord) again = vl_record_parse("x", bytes, NULL);
    g_assert_true(again->shared);
}

static void
test_optional(void)
{
    g_autoptr(VlRecord) record =
        parse("{\"version\":1,\"epoch\":0,\"write\":\"\",\"mode\":\"exclusive\",\"holders\":[]}", NULL);
    g_assert_nonnull(record);
    g_assert_null(record->claim);
    g_assert_cmpuint(record->fenced->len, ==, 0);
}

/* Members we do not know, of the same version, are somebody's remarks. */
static void
test_unknown_members(void)
{
    g_autofree char *text = with("\"epoch\":7", "\"epoch\":7,\"note\":{\"a\":[1,2,{}]},\"x\":null");
    g_autofree char *inside = with("\"pid\":4711", "\"pid\":4711,\"numa\":3");
    g_autoptr(VlRecord) record = parse(text, NULL);
    g_autoptr(VlRecord) other = parse(inside, NULL);
    assert_whole(record);
    assert_whole(other);
}

static void
test_version(void)
{
    static const char *const others[] = {"2", "0", "999999999"};
    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autofree char *by = g_strconcat("\"version\":", others[i], NULL);
        g_autofree char *text = with("\"version\":1", by);
        g_autofree char *pattern = g_strdup_printf("*version %s is not understood*", others[i]);
        assert_refused(text, pattern);
    }
    /* One of a later version may have anything in it; what counts is that it is later. */
    assert_refused("{\"version\":2,\"holders\":\"all\"}", "*version 2 *upgrade it*");
    assert_refused("{\"epoch\":1}", "*'version' is not a whole number*");
}

/* Every member: absent, of another type, null. */
static void
test_malformed(void)
{
    static const struct {
        const char *member;
        const char *value;
        const char *want;
        gboolean optional;
    } cases[] = {
        {"\"version\"", "1", "*'version' is not*", FALSE},
        {"\"epoch\"", "7", "*'epoch' is not*", FALSE},
        {"\"write\"", "\"w\"", "*'write' is not*", FALSE},
        {"\"mode\"", "\"exclusive\"", "*'mode' is not*", FALSE},
        {"\"holders\"", "[" HOLDER "]", "*'holders' is not*", FALSE},
        {"\"claim\"", CLAIM, "*'claim' is not*", TRUE},
        {"\"fenced\"", "[" FENCED "]", "*'fenced' is not*", TRUE},
        {"\"host\"", "\"h1\"", "*'host' is not*", FALSE},
        {"\"machine\"", "\"m\"", "*'machine' is not*", FALSE},
        {"\"name\"", "\"node-a\"", "*'name' is not*", FALSE},
        {"\"boot\"", "\"b\"", "*'boot' is not*", FALSE},
        {"\"session\"", "12", "*'session' is not*", FALSE},
        {"\"uuid\"", "\"u\"", "*'uuid' is not*", FALSE},
        {"\"vm\"", "\"web1\"", "*'vm' is not*", FALSE},
        {"\"pid\"", "4711", "*'pid' is not*", FALSE},
        {"\"start\"", "99", "*'start' is not*", FALSE},
        {"\"state\"", "\"held\"", "*'state' is not*", FALSE},
        {"\"token\"", "\"t\"", "*'token' is not*", FALSE},
        {"\"addrs\"", "[\"10.0.0.1:0/1\"]", "*'addrs' is not*", FALSE},
        {"\"since\"", "5", "*'since' is not*", FALSE},
        {"\"id\"", "\"c\"", "*'id' is not*", FALSE},
        {"\"host\"", "\"h2\"", "*'host' is not*", FALSE},
        {"\"name\"", "\"node-b\"", "*'name' is not*", FALSE},
        {"\"session\"", "3", "*'session' is not*", FALSE},
        {"\"uuid\"", "\"u2\"", "*'uuid' is not*", FALSE},
        {"\"vm\"", "\"web2\"", "*'vm' is not*", FALSE},
        {"\"epoch\"", "8", "*'epoch' is not*", FALSE},
        {"\"since\"", "6", "*'since' is not*", FALSE},
        {"\"addr\"", "\"10.0.0.9:0/9\"", "*'addr' is not*", FALSE},
        {"\"at\"", "1", "*'at' is not*", FALSE},
        {"\"until\"", "2", "*'until' is not*", FALSE},
        {"\"wanted\"", "3", "*'wanted' is not*", FALSE},
    };
    static const char *const wrong[] = {"null", "true", "1.5", "{\"x\":[{}]}", "[[]]", "-1", "[7]"};
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *whole = g_strconcat(cases[i].member, ":", cases[i].value, NULL);
        for (guint k = 0; k < G_N_ELEMENTS(wrong); k++) {
            g_autofree char *other = g_strconcat(cases[i].member, ":", wrong[k], NULL);
            g_autofree char *text = with(whole, other);
            gboolean other_object = g_str_has_prefix(wrong[k], "{") && g_str_equal(cases[i].member, "\"claim\"");
            assert_refused(text, other_object ? "*member*is not*" : cases[i].want);
        }
        g_autofree char *absent = with(whole, "\"zzz\":0");
        g_autoptr(VlRecord) record = cases[i].optional ? parse(absent, NULL) : NULL;
        if (cases[i].optional)
            g_assert_nonnull(record);
        else
            assert_refused(absent, cases[i].want);
    }
}

static void
test_words(void)
{
    g_autofree char *mode = with("\"exclusive\"", "\"Exclusive\"");
    g_autofree char *state = with("\"held\"", "\"running\"");
    g_autofree char *huge = with("\"pid\":4711", "\"pid\":99999999999999999999");
    assert_refused(mode, "*'mode' is not \"exclusive\" or \"shared\"*");
    assert_refused(state, "*'state' is not \"held\" or \"parked\"*");
    assert_refused(huge, "*'pid' is not a whole number*");
}

static void
test_garbage(void)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "{",
                                        "}",
                                        "x",
                                        "null",
                                        "[]",
                                        "1",
                                        "\"text\"",
                                        "{\"version\":1",
                                        "\xff\xfe",
                                        "{\"version\":\"\xc3\"}",
                                        "{'version':1}",
                                        "{\"version\":1,}"};
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
        assert_refused(texts[i], "*");
    assert_refused_n("{}\0{}", 5, "*");
    assert_refused_n("\0", 1, "*");
    assert_refused_n(WHOLE, sizeof(WHOLE), "*"); /* with its NUL */
}

/* Nothing may stand around the one object: what is not understood could be what counts. */
static void
test_around(void)
{
    static const char *const around[][2] = {{"var x = ", ""}, {"", WHOLE}, {"", " x"},
                                            {"/* */", ""},    {"", "}"},   {"[", "]"}};
    for (guint i = 0; i < G_N_ELEMENTS(around); i++) {
        g_autofree char *text = g_strconcat(around[i][0], WHOLE, around[i][1], NULL);
        assert_refused(text, "*");
    }
    g_autofree char *spaces = g_strconcat("\n\t ", WHOLE, " \r\n", NULL);
    g_autoptr(VlRecord) record = parse(spaces, NULL);
    assert_whole(record);
}

/* json-glib reads by recursion: text of nothing but brackets would end the daemon. */
static void
test_deep(void)
{
    g_autofree char *open = g_strnfill(120000, '[');
    g_autofree char *shut = g_strnfill(120000, ']');
    g_autofree char *inside = g_strconcat("{\"version\":1,\"x\":", open, shut, "}", NULL);
    g_autofree char *alone = g_strconcat(open, shut, NULL);
    assert_refused(open, "*");
    assert_refused(alone, "*");
    assert_refused(inside, "*");
    /* Brackets inside strings are text. */
    g_autofree char *name = with("\"web1\"", "\"[[[[[[[[[[[[[[[[[[[[[[[[[[{{{{{{{{{{{{{{{{{{{{\\\"[[[\\\\\"");
    g_autoptr(VlRecord) record = parse(name, NULL);
    g_assert_nonnull(record);
}

static void
test_oversize(void)
{
    g_autofree char *blanks = g_strnfill(VL_RECORD_SIZE_MAX, ' ');
    g_autofree char *text = g_strconcat(WHOLE, blanks, NULL);
    assert_refused(text, "*larger than any of ours*");
}

static void
test_find_remove(void)
{
    g_autoptr(VlRecord) record = parse(WHOLE, NULL);
    VlIncarnation who = {(char *)"h1", (char *)"b", (char *)"u", 4711, 99};
    VlIncarnation others[] = {who, who, who, who, who};
    others[0].host = (char *)"h2";
    others[1].boot = (char *)"b2";
    others[2].uuid = (char *)"u2";
    others[3].pid++;
    others[4].start++;
    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        g_assert_null(vl_record_find(record, &others[i]));
        g_assert_false(vl_record_remove(record, &others[i]));
    }
    g_assert_true(vl_record_remove(record, &who));
    g_assert_cmpuint(record->holders->len, ==, 0);
}

static void
test_fences(void)
{
    g_autoptr(VlRecord) record = vl_record_new();
    vl_record_add_fence(record, "a", 10, 100, 200);
    vl_record_add_fence(record, "b", 10, 100, 100);
    vl_record_add_fence(record, "a", 11, 150, 150); /* prolonged; never wanted shorter */
    g_assert_cmpuint(record->fenced->len, ==, 2);
    const VlFenced *first = record->fenced->pdata[0];
    g_assert_cmpint(first->until, ==, 150);
    g_assert_cmpint(first->wanted, ==, 200);
    vl_record_expire_fences(record, 99);
    g_assert_cmpuint(record->fenced->len, ==, 2);
    vl_record_expire_fences(record, 199); /* "a" has lapsed, but is wanted: it must be set again */
    g_assert_cmpuint(record->fenced->len, ==, 1);
    vl_record_expire_fences(record, 200);
    g_assert_cmpuint(record->fenced->len, ==, 0);
}

static void
test_addrs(void)
{
    g_autoptr(GPtrArray) a = vl_addrs_new();
    g_autoptr(GPtrArray) b = vl_addrs_new();
    g_assert_true(vl_addrs_add(a, "1"));
    g_assert_false(vl_addrs_add(a, "1"));
    g_assert_true(vl_addrs_add(a, "2"));
    g_assert_false(vl_addrs_equal(a, b));
    vl_addrs_add(b, "2");
    vl_addrs_add(b, "3");
    g_assert_false(vl_addrs_equal(a, b));
    g_autoptr(GPtrArray) copy = vl_addrs_copy(a);
    g_assert_true(vl_addrs_equal(a, copy));
    g_assert_false(vl_addrs_has(NULL, "1"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/record/none", test_none);
    g_test_add_func("/record/round-trip", test_round_trip);
    g_test_add_func("/record/shared-parked", test_shared_parked);
    g_test_add_func("/record/optional", test_optional);
    g_test_add_func("/record/unknown-members", test_unknown_members);
    g_test_add_func("/record/version", test_version);
    g_test_add_func("/record/malformed", test_malformed);
    g_test_add_func("/record/words", test_words);
    g_test_add_func("/record/garbage", test_garbage);
    g_test_add_func("/record/around", test_around);
    g_test_add_func("/record/deep", test_deep);
    g_test_add_func("/record/oversize", test_oversize);
    g_test_add_func("/record/find-remove", test_find_remove);
    g_test_add_func("/record/fences", test_fences);
    g_test_add_func("/record/addrs", test_addrs);
    return g_test_run();
}

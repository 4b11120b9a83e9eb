/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A host's session object as text. */
#include <string.h>

#include "lockd/error.h"
#include "lockd/identity.h"
#include "tests/unit/world.h"

#define WHOLE                                                                                                          \
    "{\"version\":1,\"host\":\"h\",\"machine\":\"m\",\"name\":\"node-a\",\"boot\":\"b\",\"session\":1790000000123,"    \
    "\"nonce\":\"n\",\"state\":\"live\",\"dead_after\":10,\"grace\":0,\"ips\":[\"10.0.0.1\"],\"krbd\":[\"10.0.0.1:0/"  \
    "5\"]}"

static VlIdentity *
parse(const char *text, GError **error)
{
    g_autoptr(GBytes) bytes = g_bytes_new(text, strlen(text));
    return vl_identity_parse(bytes, error);
}

static void
assert_refused(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VlIdentity) identity = parse(text, &error);
    if (identity)
        g_error("accepted: %s", text);
    world_assert_error(error, VL_ERR_RECORD, "*");
}

static char *
with(const char *what, const char *by)
{
    const char *at = strstr(WHOLE, what);
    g_assert_nonnull(at);
    return g_strdup_printf("%.*s%s%s", (int)(at - WHOLE), WHOLE, by, at + strlen(what));
}

static void
assert_whole(const VlIdentity *identity)
{
    g_assert_cmpstr(identity->host, ==, "h");
    g_assert_cmpstr(identity->machine, ==, "m");
    g_assert_cmpstr(identity->name, ==, "node-a");
    g_assert_cmpstr(identity->boot, ==, "b");
    g_assert_cmpstr(identity->nonce, ==, "n");
    g_assert_cmpuint(identity->session, ==, 1790000000123);
    g_assert_cmpint(identity->mark, ==, VL_SESSION_LIVE);
    g_assert_cmpuint(identity->dead_after, ==, 10);
    g_assert_cmpuint(identity->grace, ==, 0);
    g_assert_cmpuint(identity->ips->len, ==, 1);
    g_assert_true(vl_addrs_has(identity->ips, "10.0.0.1"));
    g_assert_cmpuint(identity->krbd->len, ==, 1);
    g_assert_true(vl_addrs_has(identity->krbd, "10.0.0.1:0/5"));
}

static void
test_round_trip(void)
{
    g_autoptr(VlIdentity) first = parse(WHOLE, NULL);
    assert_whole(first);
    g_autoptr(GBytes) bytes = vl_identity_format(first);
    g_autoptr(GBytes) again = vl_identity_format(first);
    g_assert_true(g_bytes_equal(bytes, again)); /* compared byte for byte by the store */
    g_autoptr(VlIdentity) second = vl_identity_parse(bytes, NULL);
    assert_whole(second);
    static const VlSessionMark marks[] = {VL_SESSION_CLOSED, VL_SESSION_FENCED, VL_SESSION_LIVE};
    for (guint i = 0; i < G_N_ELEMENTS(marks); i++) {
        first->mark = marks[i];
        g_autoptr(GBytes) marked = vl_identity_format(first);
        g_autoptr(VlIdentity) back = vl_identity_parse(marked, NULL);
        g_assert_cmpint(back->mark, ==, marks[i]);
    }
}

static void
test_optional(void)
{
    g_autofree char *text = with(",\"ips\":[\"10.0.0.1\"],\"krbd\":[\"10.0.0.1:0/5\"]", ",\"later\":{\"x\":[]}");
    g_autoptr(VlIdentity) identity = parse(text, NULL);
    g_assert_cmpuint(identity->ips->len, ==, 0);
    g_assert_cmpuint(identity->krbd->len, ==, 0);
}

static void
test_malformed(void)
{
    static const char *const cases[][2] = {
        {"\"version\":1", "\"version\":2"},
        {"\"version\":1", "\"version\":\"1\""},
        {"\"version\":1,", ""},
        {"\"host\":\"h\"", "\"host\":7"},
        {"\"host\":\"h\",", ""},
        {"\"machine\":\"m\"", "\"machine\":null"},
        {"\"name\":\"node-a\"", "\"name\":[]"},
        {"\"boot\":\"b\",", ""},
        {"\"nonce\":\"n\",", ""},
        {"1790000000123", "-1"},
        {"1790000000123", "1.5"},
        {"\"live\"", "\"Live\""},
        {"\"state\":\"live\",", ""},
        {"\"live\"", "1"},
        {"\"dead_after\":10", "\"dead_after\":0"},
        {"\"dead_after\":10", "\"dead_after\":86401"},
        {"\"dead_after\":10,", ""},
        {"\"grace\":0", "\"grace\":-1"},
        {"\"grace\":0", "\"grace\":86401"},
        {"\"grace\":0,", ""},
        /* Half a list of who is never fenced is no list. */
        {"[\"10.0.0.1:0/5\"]", "[\"10.0.0.1:0/5\",7]"},
        {"[\"10.0.0.1:0/5\"]", "\"10.0.0.1:0/5\""},
        {"[\"10.0.0.1\"]", "[null]"},
        {"[\"10.0.0.1\"]", "{}"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = with(cases[i][0], cases[i][1]);
        assert_refused(text);
    }
}

static void
test_garbage(void)
{
    static const char *const texts[] = {
        "", "x", "[]", "null", "{}", "{\"version\":1", "\xff", WHOLE WHOLE, "var x = " WHOLE};
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
        assert_refused(texts[i]);
    g_assert_null(vl_identity_parse(NULL, &error));
    world_assert_error(error, VL_ERR_RECORD, "*");
    g_autofree char *deep = g_strnfill(200000, '[');
    g_autofree char *inside = with("\"ips\":[\"10.0.0.1\"]", deep);
    assert_refused(deep);
    assert_refused(inside);
    g_autofree char *blanks = g_strnfill(1024 * 1024, ' ');
    g_autofree char *large = g_strconcat(WHOLE, blanks, NULL);
    assert_refused(large);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/identity/round-trip", test_round_trip);
    g_test_add_func("/identity/optional", test_optional);
    g_test_add_func("/identity/malformed", test_malformed);
    g_test_add_func("/identity/garbage", test_garbage);
    return g_test_run();
}

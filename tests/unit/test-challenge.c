/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Questions and answers between daemons as text, and what an ack is worth. */
#include <string.h>

#include "lockd/challenge.h"
#include "lockd/error.h"
#include "tests/unit/world.h"

typedef struct {
    const char *host;  /* NULL: the one that was asked */
    const char *nonce; /* NULL: the question's */
    const char *text;  /* instead of all that */
    VlAnswer answer;
    VlQuestion seen;
} Reply;

static GBytes *
on_question(VlPlace *place, const char *host, GBytes *payload, gpointer opaque)
{
    Reply *reply = opaque;
    vl_question_clear(&reply->seen);
    g_assert_true(vl_question_parse(payload, &reply->seen));
    if (reply->text)
        return g_bytes_new(reply->text, strlen(reply->text));
    VlQuestion question = {.nonce = (char *)(reply->nonce ? reply->nonce : reply->seen.nonce)};
    return vl_answer_format(&question, reply->host ? reply->host : host, 12, reply->answer);
}

static VlAnswer
challenge(FakeStore *store, const VlAsk *ask, Reply *reply)
{
    VlAnswer answer;
    g_autoptr(GError) error = NULL;
    VlPlace *place = fake_place(store, "rbd");
    fake_host_answer(store, place, "host-b", reply ? on_question : NULL, reply);
    g_assert_true(vl_challenge(place, "host-b", ask, &answer, &error));
    g_assert_no_error(error);
    if (reply)
        vl_question_clear(&reply->seen);
    return answer;
}

static void
test_answers(void)
{
    FakeStore *store = fake_store_new();
    for (VlAnswer answer = VL_ANSWER_ALIVE; answer <= VL_ANSWER_READER; answer++) {
        Reply reply = {.answer = answer};
        g_assert_cmpint(challenge(store, NULL, &reply), ==, answer);
    }
    g_assert_cmpint(challenge(store, NULL, NULL), ==, VL_ANSWER_NOBODY);
    fake_store_free(store);
}

/* An ack that is not about this question, or not from that host, is none. */
static void
test_not_an_answer(void)
{
    Reply replies[] = {
        {.host = "host-c", .answer = VL_ANSWER_ALIVE},
        {.nonce = "another", .answer = VL_ANSWER_ALIVE},
        {.text = ""},
        {.text = "{}"},
        {.text = "{\"host\":\"host-b\",\"answer\":\"alive\"}"},
        {.text = "[[["},
    };
    FakeStore *store = fake_store_new();
    for (guint i = 0; i < G_N_ELEMENTS(replies); i++)
        g_assert_cmpint(challenge(store, NULL, &replies[i]), ==, VL_ANSWER_NONE);
    fake_store_free(store);
}

static GBytes *
newer_word(VlPlace *place, const char *host, GBytes *payload, gpointer opaque)
{
    VlQuestion question;
    g_assert_true(vl_question_parse(payload, &question));
    char *text = g_strdup_printf("{\"nonce\":\"%s\",\"host\":\"%s\",\"session\":1,\"answer\":\"%s\"}", question.nonce,
                                 host, (const char *)opaque);
    vl_question_clear(&question);
    return g_bytes_new_take(text, strlen(text));
}

/* A newer daemon's word is not understood; that it lives, is. "none" is nobody's word. */
static void
test_newer_word(void)
{
    static const char *const words[] = {"moving", "none", "nobody", ""};
    FakeStore *store = fake_store_new();
    VlPlace *place = fake_place(store, "rbd");
    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        VlAnswer answer;
        fake_host_answer(store, place, "host-b", newer_word, (gpointer)words[i]);
        g_assert_true(vl_challenge(place, "host-b", NULL, &answer, NULL));
        g_assert_cmpint(answer, ==, VL_ANSWER_ALIVE);
    }
    fake_store_free(store);
}

/* Partial replies count, and should two watches ever answer, the one that says more for life. */
static void
test_two_answers(void)
{
    static const VlAnswer pairs[][2] = {{VL_ANSWER_LOST, VL_ANSWER_MINE},
                                        {VL_ANSWER_NOT_MINE, VL_ANSWER_MINE},
                                        {VL_ANSWER_LOST, VL_ANSWER_ALIVE},
                                        {VL_ANSWER_LOST, VL_ANSWER_NOT_MINE}};
    FakeStore *store = fake_store_new();
    for (guint i = 0; i < G_N_ELEMENTS(pairs); i++) {
        for (guint swap = 0; swap < 2; swap++) {
            Reply first = {.answer = pairs[i][swap]}, second = {.answer = pairs[i][!swap]};
            fake_host_answer_too(store, fake_place(store, "rbd"), "host-b", on_question, &second);
            g_assert_cmpint(challenge(store, NULL, &first), ==, pairs[i][1]);
            vl_question_clear(&second.seen);
        }
    }
    fake_store_free(store);
}

static void
test_not_carried(void)
{
    g_autoptr(GError) error = NULL;
    VlAnswer answer;
    FakeStore *store = fake_store_new();
    fake_fault(store, FAKE_CHALLENGE, NULL, 1, 1, FAKE_ERROR, VL_ERR_STORAGE);
    g_assert_false(vl_challenge(fake_place(store, "rbd"), "host-b", NULL, &answer, &error));
    world_assert_error(error, VL_ERR_STORAGE, "*");
    fake_store_free(store);
}

/* What is asked arrives whole, and each question has a nonce of its own. */
static GBytes *
keep_question(VlPlace *place, const char *host, GBytes *payload, gpointer opaque)
{
    GPtrArray *kept = opaque;
    g_ptr_array_add(kept, g_bytes_ref(payload));
    return NULL;
}

static void
test_question(void)
{
    VlAnswer answer;
    VlIncarnation holder = {(char *)"host-b", (char *)"boot", (char *)"uuid \"1\"", 4711, 99};
    VlAsk ask = {"rbd:f/1//abc", &holder, "10.0.0.1:0/5"};
    VlQuestion first, second;
    FakeStore *store = fake_store_new();
    g_autoptr(GPtrArray) kept = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    VlPlace *place = fake_place(store, "rbd");
    fake_host_answer(store, place, "host-b", keep_question, kept);
    g_assert_true(vl_challenge(place, "host-b", &ask, &answer, NULL));
    g_assert_cmpint(answer, ==, VL_ANSWER_NONE);
    g_assert_true(vl_challenge(place, "host-b", NULL, &answer, NULL));
    g_assert_true(vl_question_parse(kept->pdata[0], &first));
    g_assert_true(vl_question_parse(kept->pdata[1], &second));
    g_assert_cmpstr(first.volume, ==, ask.volume);
    g_assert_cmpstr(first.addr, ==, ask.addr);
    g_assert_true(vl_incarnation_equal(&first.holder, &holder));
    g_assert_cmpstr(first.nonce, !=, second.nonce);
    g_assert_null(second.volume);
    g_assert_null(second.holder.uuid);
    vl_question_clear(&first);
    vl_question_clear(&second);
    fake_store_free(store);
}

static void
test_bad_questions(void)
{
    static const char *const texts[] = {"", "x", "[]", "{}", "{\"nonce\":1}", "{\"nonce\":\"a\"}{}"};
    VlQuestion question;
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GBytes) bytes = g_bytes_new(texts[i], strlen(texts[i]));
        g_assert_false(vl_question_parse(bytes, &question));
    }
    g_autofree char *deep = g_strnfill(16000, '[');
    g_autofree char *large = g_strdup_printf("{\"nonce\":\"%s%s\"}", deep, deep);
    g_autoptr(GBytes) deep_bytes = g_bytes_new(deep, strlen(deep));
    g_autoptr(GBytes) large_bytes = g_bytes_new(large, strlen(large));
    g_assert_false(vl_question_parse(deep_bytes, &question));
    g_assert_false(vl_question_parse(large_bytes, &question));
    g_assert_false(vl_question_parse(NULL, &question));
    /* Members of the wrong type count as not asked about. */
    const char *odd = "{\"nonce\":\"a\",\"volume\":7,\"pid\":\"x\",\"uuid\":[]}";
    g_autoptr(GBytes) odd_bytes = g_bytes_new(odd, strlen(odd));
    g_assert_true(vl_question_parse(odd_bytes, &question));
    g_assert_null(question.volume);
    g_assert_null(question.holder.uuid);
    g_assert_cmpint(question.holder.pid, ==, 0);
    vl_question_clear(&question);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/challenge/answers", test_answers);
    g_test_add_func("/challenge/not-an-answer", test_not_an_answer);
    g_test_add_func("/challenge/newer-word", test_newer_word);
    g_test_add_func("/challenge/two-answers", test_two_answers);
    g_test_add_func("/challenge/not-carried", test_not_carried);
    g_test_add_func("/challenge/question", test_question);
    g_test_add_func("/challenge/bad-questions", test_bad_questions);
    return g_test_run();
}

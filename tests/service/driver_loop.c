/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/service/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One thread's share of a measurement. */
struct run {
    const struct op *op;
    unsigned int calls, failed;
    int64_t *times; /* of each call, in microseconds */
    int first_code;
    char *first_error;
};

static void
run_note_failure(struct run *run)
{
    if (run->failed++ > 0)
        return;
    complete_error();
    run->first_code = error_code;
    run->first_error = g_strdup(error_text);
}

static gpointer
run_thread(gpointer data)
{
    struct run *run = data;

    for (unsigned int i = 0; i < run->calls; i++) {
        char *state = NULL;
        int64_t start = now_us();

        if (run_call(run->op, &state) < 0)
            run_note_failure(run);
        run->times[i] = now_us() - start;
        free(state);
    }
    return NULL;
}

static int
compare_times(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static char *
json_string(const char *text)
{
    GString *json = g_string_new("\"");

    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            g_string_append_c(json, '\\');
        if ((unsigned char)*text < 0x20)
            g_string_append_printf(json, "\\u%04x", (unsigned char)*text);
        else
            g_string_append_c(json, *text);
    }
    g_string_append_c(json, '"');
    return g_string_free(json, FALSE);
}

static void
print_json(const struct run *runs, unsigned int threads, int64_t *times, size_t count, int64_t elapsed)
{
    unsigned int failed = 0;
    const struct run *bad = NULL;
    g_autofree char *error = NULL;

    for (unsigned int i = 0; i < threads; i++) {
        failed += runs[i].failed;
        if (!bad && runs[i].failed > 0)
            bad = &runs[i];
    }
    error = json_string(bad ? bad->first_error : "");
    qsort(times, count, sizeof(*times), compare_times);
    printf("{\"threads\": %u, \"calls\": %zu, \"failed\": %u, \"code\": %d, \"error\": %s, "
           "\"elapsed_us\": %lld, \"min_us\": %lld, \"median_us\": %lld, \"p99_us\": %lld, "
           "\"max_us\": %lld}\n",
           threads, count, failed, bad ? bad->first_code : 0, error, (long long)elapsed, (long long)times[0],
           (long long)times[count / 2], (long long)times[count * 99 / 100], (long long)times[count - 1]);
}

static void
measure(unsigned int threads, unsigned int calls, const struct op *op)
{
    g_autofree int64_t *times = g_new0(int64_t, (size_t)threads * calls);
    g_autofree struct run *runs = g_new0(struct run, threads);
    g_autofree GThread **handles = g_new0(GThread *, threads);
    int64_t start = now_us();

    for (unsigned int i = 0; i < threads; i++) {
        runs[i] = (struct run){.op = op, .calls = calls, .times = times + (size_t)i * calls};
        handles[i] = g_thread_new("call", run_thread, &runs[i]);
    }
    for (unsigned int i = 0; i < threads; i++)
        g_thread_join(handles[i]);
    print_json(runs, threads, times, (size_t)threads * calls, now_us() - start);
    for (unsigned int i = 0; i < threads; i++)
        g_free(runs[i].first_error);
}

gboolean
cmd_loop(char **words, int count)
{
    unsigned int calls = count > 2 ? (unsigned int)atoi(words[1]) : 0;
    struct op op;

    if (calls == 0 || !parse_op(words + 2, count - 2, &op))
        return FALSE;
    measure(1, calls, &op);
    return TRUE;
}

gboolean
cmd_threads(char **words, int count)
{
    unsigned int threads = count > 3 ? (unsigned int)atoi(words[1]) : 0;
    unsigned int calls = count > 3 ? (unsigned int)atoi(words[2]) : 0;
    struct op op;

    if (threads == 0 || calls == 0 || !parse_op(words + 3, count - 3, &op))
        return FALSE;
    measure(threads, calls, &op);
    return TRUE;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * vldriver LOCK-DRIVER.so: plays libvirt towards a lock driver, ours or one of libvirt's own.
 * One command per line on stdin (words quoted as in a shell), one line of answer each:
 *
 *     ok MICROSECONDS [KEY=VALUE...]
 *     error CODE MICROSECONDS TEXT     CODE and TEXT as the driver gave them to
 * virReportErrorHelper bad TEXT                         the command makes no sense
 *
 *     init CONFIG|- [VERSION]          deinit
 *     vm UUID NAME ID PID URI|-        what is known about the VM, without calling anything
 *     new UUID NAME ID PID URI|- [started]    the same, then drvNew
 *     disk NAME FLAGS                  known from now on; drvAddResource if there is a manager
 *     lease NAME PATH OFFSET SPACE|-   likewise
 *     resource TYPE NAME               an odd resource, for the live manager only
 *     acquire STATE|-|@ FLAGS ACTION   @ is the state kept from release or inquire
 *     release   release-null   inquire   free
 *     state [NEW|-]                    shows or sets the kept state (libvirt's priv->lockState)
 *     call OP...                       New, AddResource..., OP, Free: what libvirt really does
 *     loop N OP...   threads T N OP... many such calls; prints times as JSON
 *     spawn [--hold] [--action N] PROGRAM ARGS...
 *                                      fork, register as libvirt's qemuProcessHook does, exec;
 *                                      answers pid=, fd= (of drvAcquire), newfds= (left open)
 *     go                               lets the held child exec
 *     wait PID MILLISECONDS            kill PID SIGNAL
 *
 * Children are killed when vldriver ends. Their stdout is our stderr.
 */
#include "tests/service/driver.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct vir_lock_manager manager;
static gboolean have_manager;
static char *lock_state;

/* ---- answers ---- */

void
answer_ok(int64_t us, const char *format, ...)
{
    va_list args;

    printf("ok %lld", (long long)us);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void
answer_error(int code, int64_t us, const char *text)
{
    g_autofree char *line = g_strdelimit(g_strdup(text), "\r\n", ' ');

    printf("error %d %lld %s\n", code, (long long)us, line);
}

static void
answer(int r, int64_t start)
{
    if (r < 0) {
        int64_t us = now_us() - start;

        complete_error();
        answer_error(error_code, us, error_text);
    } else {
        answer_ok(now_us() - start, "%s", "");
    }
}

static void
answer_with_state(int r, int64_t start)
{
    if (r < 0)
        answer(r, start);
    else
        answer_ok(now_us() - start, " state=%s", lock_state ? lock_state : "-");
}

/* ---- commands; FALSE: usage ---- */

static gboolean
cmd_init(char **words, int count)
{
    int64_t start = now_us();

    if (count < 2)
        return FALSE;
    answer(driver->drvInit(count > 2 ? (unsigned int)strtoul(words[2], NULL, 0) : VIR_LOCK_MANAGER_VERSION,
                           g_str_equal(words[1], "-") ? NULL : words[1], 0),
           start);
    return TRUE;
}

static gboolean
cmd_deinit(char **words, int count)
{
    int64_t start = now_us();

    answer(driver->drvDeinit(), start);
    return TRUE;
}

gboolean
parse_op(char **words, int count, struct op *op)
{
    *op = (struct op){.kind = OP_ACQUIRE};
    if (count == 4 && g_str_equal(words[0], "acquire")) {
        op->state = g_str_equal(words[1], "-") ? NULL : words[1];
        if (g_strcmp0(op->state, "@") == 0)
            op->state = lock_state;
        op->flags = (unsigned int)strtoul(words[2], NULL, 0);
        op->action = atoi(words[3]);
        return TRUE;
    }
    if (count != 1)
        return FALSE;
    if (g_str_equal(words[0], "release"))
        op->kind = OP_RELEASE;
    else if (g_str_equal(words[0], "release-null"))
        op->kind = OP_RELEASE_NULL;
    else if (g_str_equal(words[0], "inquire"))
        op->kind = OP_INQUIRE;
    else
        return FALSE;
    return TRUE;
}

static gboolean
parse_uuid(const char *text, unsigned char uuid[VIR_UUID_BUFLEN])
{
    size_t i;

    for (i = 0; i < VIR_UUID_BUFLEN; i++) {
        text += *text == '-';
        if (!g_ascii_isxdigit(text[0]) || !g_ascii_isxdigit(text[1]))
            return FALSE;
        uuid[i] = (unsigned char)(g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]));
        text += 2;
    }
    return *text == '\0';
}

static gboolean
set_vm(char **words, int count)
{
    if (count < 6 || !parse_uuid(words[1], vm.uuid))
        return FALSE;
    g_free(vm.name);
    g_free(vm.uri);
    vm.name = g_strdup(words[2]);
    vm.id = atoi(words[3]);
    vm.pid = atoi(words[4]);
    vm.uri = g_str_equal(words[5], "-") ? NULL : g_strdup(words[5]);
    g_ptr_array_set_size(vm.resources, 0);
    return TRUE;
}

static gboolean
cmd_vm(char **words, int count)
{
    int64_t start = now_us();

    if (!set_vm(words, count))
        return FALSE;
    answer(0, start);
    return TRUE;
}

static gboolean
cmd_new(char **words, int count)
{
    unsigned int flags = 0;
    int64_t start;
    int r;

    if (have_manager || !set_vm(words, count))
        return FALSE;
    if (count > 6 && g_str_equal(words[6], "started"))
        flags |= VIR_LOCK_MANAGER_NEW_STARTED;
    start = now_us();
    r = new_manager(&manager, flags);
    have_manager = r == 0;
    answer(r, start);
    return TRUE;
}

static gboolean
cmd_free(char **words, int count)
{
    int64_t start = now_us();

    if (!have_manager)
        return FALSE;
    driver->drvFree(&manager);
    have_manager = FALSE;
    answer(0, start);
    return TRUE;
}

static void
keep_resource(struct resource *resource)
{
    int64_t start = now_us();

    g_ptr_array_add(vm.resources, resource);
    answer(have_manager ? add_resource(&manager, resource) : 0, start);
}

static gboolean
cmd_disk(char **words, int count)
{
    struct resource *disk;

    if (count != 3)
        return FALSE;
    disk = g_new0(struct resource, 1);
    disk->type = VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK;
    disk->name = g_strdup(words[1]);
    disk->flags = (unsigned int)strtoul(words[2], NULL, 0);
    keep_resource(disk);
    return TRUE;
}

static gboolean
cmd_lease(char **words, int count)
{
    struct resource *lease;

    if (count != 5)
        return FALSE;
    lease = g_new0(struct resource, 1);
    lease->type = VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE;
    lease->name = g_strdup(words[1]);
    lease->path = g_strdup(words[2]);
    lease->offset = strtoull(words[3], NULL, 0);
    lease->space = g_str_equal(words[4], "-") ? NULL : g_strdup(words[4]);
    keep_resource(lease);
    return TRUE;
}

static gboolean
cmd_resource(char **words, int count)
{
    struct resource odd = {.type = 0};
    int64_t start = now_us();

    if (count != 3 || !have_manager)
        return FALSE;
    odd.type = (unsigned int)strtoul(words[1], NULL, 0);
    odd.name = words[2];
    answer(add_resource(&manager, &odd), start);
    return TRUE;
}

static gboolean
cmd_op(char **words, int count)
{
    struct op op;
    int64_t start;

    if (!have_manager || !parse_op(words, count, &op))
        return FALSE;
    start = now_us();
    answer_with_state(run_op(&manager, &op, &lock_state), start);
    return TRUE;
}

static gboolean
cmd_call(char **words, int count)
{
    struct op op;
    int64_t start;

    if (count < 2 || !parse_op(words + 1, count - 1, &op))
        return FALSE;
    start = now_us();
    answer_with_state(run_call(&op, &lock_state), start);
    return TRUE;
}

static gboolean
cmd_state(char **words, int count)
{
    if (count > 1) {
        free(lock_state);
        lock_state = g_str_equal(words[1], "-") ? NULL : strdup(words[1]);
    }
    answer_with_state(0, now_us());
    return TRUE;
}

static const struct {
    const char *name;
    gboolean (*run)(char **words, int count);
} commands[] = {
    {"init", cmd_init},   {"deinit", cmd_deinit}, {"vm", cmd_vm},           {"new", cmd_new},
    {"free", cmd_free},   {"disk", cmd_disk},     {"lease", cmd_lease},     {"resource", cmd_resource},
    {"acquire", cmd_op},  {"release", cmd_op},    {"release-null", cmd_op}, {"inquire", cmd_op},
    {"call", cmd_call},   {"state", cmd_state},   {"loop", cmd_loop},       {"threads", cmd_threads},
    {"spawn", cmd_spawn}, {"go", cmd_go},         {"wait", cmd_wait},       {"kill", cmd_kill},
};

static gboolean
run_command(char **words, int count)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(commands[i].name, words[0])) {
            error_code = 0;
            error_text[0] = '\0';
            return commands[i].run(words, count);
        }
    }
    return FALSE;
}

static void
run_line(const char *line)
{
    g_auto(GStrv) words = NULL;
    g_autoptr(GError) error = NULL;
    int count;

    if (!g_shell_parse_argv(line, &count, &words, &error))
        printf("bad %s\n", error->message);
    else if (!run_command(words, count))
        printf("bad command: %s\n", line);
    fflush(stdout);
}

static gboolean
load_driver(const char *path)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* as libvirt does */

    if (module && init_libvirt(module) == 0)
        driver = dlsym(module, "virLockDriverImpl");
    if (!driver)
        fprintf(stderr, "vldriver: %s\n", dlerror());
    return driver != NULL;
}

int
main(int argc, char **argv)
{
    char *line = NULL;
    size_t size = 0;

    if (argc != 2) {
        fputs("usage: vldriver LOCK-DRIVER.so\n", stderr);
        return 2;
    }
    if (!load_driver(argv[1]))
        return 1;
    vm.resources = g_ptr_array_new_with_free_func(resource_free);
    while (getline(&line, &size, stdin) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0')
            run_line(line);
    }
    free(line);
    free(lock_state);
    g_free(vm.name);
    g_free(vm.uri);
    g_ptr_array_unref(vm.resources);
    return 0;
}

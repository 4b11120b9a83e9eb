/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * virtlease.so through its function table, against a virtleased of this test's own making.
 */
#include "tests/service/driver.h"

#include <dlfcn.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/service/fake-daemon.h"

/* ---- fixture: the plugin with a short timeout, a VM with one disk and one lease ---- */

static void
add_known(unsigned int type, const char *name, unsigned int flags, const char *space)
{
    struct resource *resource = g_new0(struct resource, 1);

    resource->type = type;
    resource->name = g_strdup(name);
    resource->flags = flags;
    if (type == VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE) {
        resource->path = g_strdup("/leases");
        resource->space = g_strdup(space);
        resource->offset = 1048576;
    }
    g_ptr_array_add(vm.resources, resource);
}

static void
setup(struct daemon *daemon, gconstpointer data)
{
    g_autofree char *text = NULL;

    daemon->dir = g_dir_make_tmp("vl-XXXXXX", NULL);
    daemon->socket = g_build_filename(daemon->dir, "socket", NULL);
    daemon->config = g_build_filename(daemon->dir, "qemu-virtlease.conf", NULL);
    daemon->fd = -1;
    text = g_strdup_printf("socket = \"%s\"\ntimeout = 5\nconnect_wait = 1\n", daemon->socket);
    g_assert_true(g_file_set_contents(daemon->config, text, -1, NULL));
    g_assert_cmpint(driver->drvInit(VIR_LOCK_MANAGER_VERSION, daemon->config, 0), ==, 0);

    memcpy(vm.uuid, "0123456789abcdef", VIR_UUID_BUFLEN);
    vm.name = g_strdup("guest");
    vm.uri = g_strdup("qemu:///system");
    vm.id = 3;
    vm.pid = 4711;
    vm.resources = g_ptr_array_new_with_free_func(resource_free);
    add_known(VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE, "key", 0, "space");
    add_known(VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK, "/disk", VIR_LOCK_MANAGER_RESOURCE_SHARED, NULL);
    error_code = 0;
    error_text[0] = '\0';
}

static void
teardown(struct daemon *daemon, gconstpointer data)
{
    g_assert_cmpint(driver->drvDeinit(), ==, 0);
    daemon_stop(daemon);
    g_free(vm.name);
    g_free(vm.uri);
    g_ptr_array_unref(vm.resources);
    vm = (struct vm){.id = -1};
    g_unlink(daemon->socket);
    g_unlink(daemon->config);
    g_assert_cmpint(g_rmdir(daemon->dir), ==, 0);
    g_free(daemon->socket);
    g_free(daemon->config);
    g_free(daemon->dir);
}

static int
call(int kind, const char *state, unsigned int flags, char **lock_state)
{
    struct op op = {.kind = kind, .state = state, .flags = flags, .action = 3};
    char *none = NULL;
    int r = run_call(&op, lock_state ? lock_state : &none);

    free(none);
    return r;
}

static void
assert_error(int code, const char *pattern)
{
    if (!g_pattern_match_simple(pattern, error_text))
        g_error("message is: %s", error_text);
    g_assert_cmpint(error_code, ==, code);
}

/* ---- what arrives ---- */

static char *
field_text(const struct vl_field *field)
{
    switch (field->tag) {
    case VL_TAG_UUID:
    case VL_TAG_NAME:
    case VL_TAG_URI:
    case VL_TAG_STATE:
    case VL_TAG_RES_NAME:
    case VL_TAG_RES_PATH:
    case VL_TAG_RES_SPACE:
        return g_strndup((const char *)field->bytes, field->len);
    default: {
        uint64_t number;

        g_assert_cmpint(vl_field_u64(field, &number), ==, 0);
        return g_strdup_printf("%" G_GUINT64_FORMAT, number);
    }
    }
}

/* "tag=value ..." in the order of arrival, TIMEOUT_MS checked apart. */
static void
append_fields(GString *out, const void *bytes, size_t len)
{
    struct vl_reader reader;
    struct vl_field field;
    int r;

    vl_reader_init(&reader, bytes, len);
    while ((r = vl_reader_next(&reader, &field)) > 0) {
        g_autofree char *text = NULL;

        if (field.tag == VL_TAG_RESOURCE) {
            g_string_append(out, " {");
            append_fields(out, field.bytes, field.len);
            g_string_append(out, " }");
            continue;
        }
        text = field_text(&field);
        if (field.tag == VL_TAG_TIMEOUT_MS) {
            g_assert_cmpint(atoi(text), >, 3000);
            g_assert_cmpint(atoi(text), <=, 5000);
            continue;
        }
        g_string_append_printf(out, " %u=%s", field.tag, text);
    }
    g_assert_cmpint(r, ==, 0);
}

static void
assert_request(const struct daemon *daemon, enum vl_msg_type type, const char *fields)
{
    g_autoptr(GString) seen = g_string_new("");

    append_fields(seen, daemon->body, daemon->frame.length);
    g_assert_cmpuint(daemon->frame.type, ==, type);
    g_assert_cmpstr(seen->str, ==, fields);
}

#define VM_FIELDS " 1=0123456789abcdef 2=guest 4=qemu:///system 3=4711 20=3"
#define RESOURCES " { 9=1 10=0 11=key 12=/leases 13=space 14=1048576 } { 9=0 10=2 11=/disk }"

static void
test_acquire(struct daemon *daemon, gconstpointer data)
{
    daemon_start(daemon);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, 0);
    assert_request(daemon, VL_MSG_ACQUIRE, VM_FIELDS RESOURCES " 5=3");
    g_assert_cmpint(call(OP_ACQUIRE, "a:1", 0, NULL), ==, 0);
    assert_request(daemon, VL_MSG_ACQUIRE, VM_FIELDS RESOURCES " 5=3 6=a:1");
    g_assert_cmpint(call(OP_ACQUIRE, "", 0, NULL), ==, 0);
    assert_request(daemon, VL_MSG_ACQUIRE, VM_FIELDS RESOURCES " 5=3");
}

static void
test_register(struct daemon *daemon, gconstpointer data)
{
    struct vir_lock_manager man;
    int fd = 42;

    daemon_start(daemon);
    g_assert_cmpint(new_manager_with_resources(&man, VIR_LOCK_MANAGER_NEW_STARTED), ==, 0);
    g_assert_cmpint(driver->drvAcquire(
                        &man, NULL, VIR_LOCK_MANAGER_ACQUIRE_REGISTER_ONLY | VIR_LOCK_MANAGER_ACQUIRE_RESTRICT, 0, &fd),
                    ==, 0);
    driver->drvFree(&man);
    g_assert_cmpint(fd, ==, -1);
    assert_request(daemon, VL_MSG_REGISTER, VM_FIELDS RESOURCES " 5=0");
}

static void
test_inactive_vm(struct daemon *daemon, gconstpointer data)
{
    char *state = NULL;

    daemon_start(daemon);
    vm.pid = 0;
    vm.id = -1;
    g_clear_pointer(&vm.uri, g_free);
    g_ptr_array_set_size(vm.resources, 0);
    g_assert_cmpint(call(OP_INQUIRE, NULL, 0, &state), ==, 0);
    g_assert_null(state);
    assert_request(daemon, VL_MSG_INQUIRE, " 1=0123456789abcdef 2=guest 3=0");
}

static void
test_release_twice(struct daemon *daemon, gconstpointer data)
{
    char *state = NULL, *first;

    daemon->state = "vl1:AZaz09._:/=,+-";
    daemon_start(daemon);
    g_assert_cmpint(call(OP_RELEASE, NULL, 0, &state), ==, 0);
    g_assert_cmpstr(state, ==, daemon->state);
    assert_request(daemon, VL_MSG_RELEASE, VM_FIELDS RESOURCES);
    first = state;
    g_assert_cmpint(call(OP_RELEASE, NULL, 0, &state), ==, 0);
    g_assert_true(state == first); /* libvirt overwrites: a new copy would leak the first */

    daemon->state = NULL; /* no word about the state: libvirt keeps what it has */
    g_assert_cmpint(call(OP_RELEASE, NULL, 0, &state), ==, 0);
    g_assert_true(state == first);
    daemon->state = "other";
    g_assert_cmpint(call(OP_RELEASE, NULL, 0, &state), ==, 0);
    g_assert_cmpstr(state, ==, "other");
    free(state);
}

static void
test_release_null(struct daemon *daemon, gconstpointer data)
{
    daemon->state = "ignored";
    daemon_start(daemon);
    g_assert_cmpint(call(OP_RELEASE_NULL, NULL, 0, NULL), ==, 0);
    assert_request(daemon, VL_MSG_DETACHED, VM_FIELDS RESOURCES);
}

static void
test_inquire(struct daemon *daemon, gconstpointer data)
{
    char *state = NULL;

    daemon->state = "token";
    daemon_start(daemon);
    g_assert_cmpint(call(OP_INQUIRE, NULL, 0, &state), ==, 0);
    g_assert_cmpstr(state, ==, "token");
    free(state);
    state = NULL;
    daemon->state = "";
    g_assert_cmpint(call(OP_INQUIRE, NULL, 0, &state), ==, 0);
    g_assert_null(state);
}

/* libvirt would write it unescaped into the status XML. */
static void
test_bad_state(struct daemon *daemon, gconstpointer data)
{
    static const char *const bad[] = {"a<b", "a&b", "a b", "a\"", "a\nb", "ä"};
    char *state = strdup("kept");

    daemon_start(daemon);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        daemon->state = bad[i];
        g_assert_cmpint(call(OP_RELEASE, NULL, 0, &state), ==, -1);
        g_assert_cmpstr(state, ==, "kept");
        assert_error(VIR_ERR_INTERNAL_ERROR, "virtleased on * cannot be understood *");
    }
    free(state);
}

/* ---- refusals ---- */

static void
test_error_codes(struct daemon *daemon, gconstpointer data)
{
    static const struct {
        int code, expected;
    } cases[] = {
        {VL_ERR_HELD, VIR_ERR_RESOURCE_BUSY},          {VL_ERR_FOREIGN, VIR_ERR_RESOURCE_BUSY},
        {VL_ERR_UNKNOWN_OWNER, VIR_ERR_RESOURCE_BUSY}, {VL_ERR_CONFIG, VIR_ERR_CONFIG_UNSUPPORTED},
        {VL_ERR_STALE, VIR_ERR_OPERATION_INVALID},     {VL_ERR_STORAGE, VIR_ERR_OPERATION_FAILED},
        {VL_ERR_FENCE, VIR_ERR_OPERATION_FAILED},      {VL_ERR_INTERNAL, VIR_ERR_INTERNAL_ERROR},
        {VL_ERR_COUNT + 1000, VIR_ERR_INTERNAL_ERROR}, /* of a newer virtleased */
    };

    daemon->text = "rbd:pool/image is held by VM 'x' on host 'y' 100%s";
    daemon->state = "never-handed-out";
    daemon_start(daemon);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *state = NULL;

        daemon->code = (enum vl_error)cases[i].code;
        g_assert_cmpint(call(OP_INQUIRE, NULL, 0, &state), ==, -1);
        g_assert_null(state);
        g_assert_cmpstr(error_text, ==, daemon->text);
        g_assert_cmpint(error_code, ==, cases[i].expected);
    }
    daemon->text = NULL;
    daemon->code = VL_ERR_HELD;
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, -1);
    g_assert_cmpstr(error_text, ==, "held");
}

static void
test_new_refused(struct daemon *daemon, gconstpointer data)
{
    struct vir_lock_manager man = {.driver = NULL};
    struct vir_lock_param params[] = {
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_STRING, .key = "name", .value.str = vm.name},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_DOUBLE, .key = "of the future", .value.d = 0.5},
        {.type = VIR_LOCK_MANAGER_PARAM_TYPE_UUID, .key = "uuid"},
    };

    g_assert_cmpint(driver->drvNew(&man, 0, 2, params, 0), ==, -1);
    assert_error(VIR_ERR_INTERNAL_ERROR, "libvirt named no UUID for the VM 'guest'");
    g_assert_cmpint(driver->drvNew(&man, 1, 3, params, 0), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "* not objects of type 1");
    g_assert_cmpint(driver->drvNew(&man, 0, 3, params, 0x10), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "libvirt uses flags 0x10 of New, *");
    params[0].type = VIR_LOCK_MANAGER_PARAM_TYPE_INT;
    g_assert_cmpint(driver->drvNew(&man, 0, 3, params, 0), ==, -1);
    assert_error(VIR_ERR_INTERNAL_ERROR, "parameter 'name' from libvirt has *");
    g_assert_null(man.privateData);
    params[0].type = VIR_LOCK_MANAGER_PARAM_TYPE_STRING;
    g_assert_cmpint(driver->drvNew(&man, 0, 3, params, 0), ==, 0);
    driver->drvFree(&man);
    driver->drvFree(&man);
}

static void
test_resources_refused(struct daemon *daemon, gconstpointer data)
{
    struct vir_lock_manager man;
    struct resource odd = {.type = 2, .name = (char *)"metadata"};

    g_assert_cmpint(new_manager(&man, 0), ==, 0);
    g_assert_cmpint(add_resource(&man, &odd), ==, 0); /* not ours, ignored */
    odd.type = VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK;
    odd.flags = 8;
    g_assert_cmpint(add_resource(&man, &odd), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "libvirt uses flags 0x8 of a disk, *");
    odd.flags = 0;
    for (int i = 0; i < VL_PROTO_RESOURCES_MAX; i++)
        g_assert_cmpint(add_resource(&man, &odd), ==, 0);
    g_assert_cmpint(add_resource(&man, &odd), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "a VM may have at most 1024 disks and leases");
    driver->drvFree(&man);
}

static void
test_request_too_large(struct daemon *daemon, gconstpointer data)
{
    struct vir_lock_manager man;
    g_autofree char *path = g_strnfill(4000, 'x');
    struct resource disk = {.name = path};

    daemon_start(daemon);
    g_assert_cmpint(new_manager(&man, 0), ==, 0);
    for (int i = 0; i < 70; i++)
        g_assert_cmpint(add_resource(&man, &disk), ==, 0);
    g_assert_cmpint(driver->drvAcquire(&man, NULL, 0, 0, NULL), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "the request to virtleased cannot be made (too many disks, *");
    driver->drvFree(&man);
    g_assert_cmpuint(daemon->connections, ==, 0);
}

/* ---- a daemon in trouble ---- */

static void
test_no_daemon(struct daemon *daemon, gconstpointer data)
{
    g_autofree char *expected =
        g_strdup_printf("virtleased is not answering on %s (No such file or directory): no disk "
                        "lease, so the VM may not run; start virtleased or see its log",
                        daemon->socket);
    int64_t start = vl_now_ms();

    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, -1);
    assert_error(VIR_ERR_OPERATION_FAILED, expected);
    g_assert_cmpint(vl_now_ms() - start, >=, 999); /* connect_wait */
    g_assert_cmpint(vl_now_ms() - start, <, 3000);
    g_assert_cmpint(call(OP_RELEASE_NULL, NULL, 0, NULL), ==, -1);
    assert_error(VIR_ERR_OPERATION_FAILED, "*it was not told that a disk may be detached*");
}

static gpointer
start_later(gpointer daemon)
{
    g_usleep(400 * 1000);
    daemon_start(daemon);
    return NULL;
}

static void
test_daemon_comes_late(struct daemon *daemon, gconstpointer data)
{
    GThread *thread = g_thread_new("late", start_later, daemon);

    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, 0);
    g_thread_join(thread);
}

static void
test_silent_daemon(struct daemon *daemon, gconstpointer data)
{
    int64_t start = vl_now_ms();

    memset(daemon->script, 0, sizeof(daemon->script));
    daemon->script[0] = SAY_NOTHING;
    daemon_start(daemon);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, -1);
    assert_error(VIR_ERR_OPERATION_FAILED, "virtleased on * gave no answer within 5 seconds: no *");
    g_assert_cmpint(vl_now_ms() - start, >=, 4999);
    g_assert_cmpint(vl_now_ms() - start, <, 7000);
}

static void
test_daemon_restarts_in_the_middle(struct daemon *daemon, gconstpointer data)
{
    daemon->script[0] = HANG_UP;
    daemon_start(daemon);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, 0);
    assert_request(daemon, VL_MSG_ACQUIRE, VM_FIELDS RESOURCES " 5=3");
    g_assert_cmpuint(daemon->connections, ==, 2);
}

/* A request that crashes the daemon is not repeated for ever. */
static void
test_daemon_hangs_up(struct daemon *daemon, gconstpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(daemon->script); i++)
        daemon->script[i] = HANG_UP;
    daemon_start(daemon);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, -1);
    assert_error(VIR_ERR_OPERATION_FAILED, "* ended the connection without an answer: *");
    g_assert_cmpuint(daemon->connections, ==, 2);
}

static void
test_answer_before_request(struct daemon *daemon, gconstpointer data)
{
    daemon->script[0] = REFUSE;
    daemon->code = VL_ERR_NOT_PERMITTED;
    daemon->text = "only root may ask";
    daemon_start(daemon);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, -1);
    assert_error(VIR_ERR_OPERATION_FAILED, "only root may ask");
}

static void
test_malformed_answers(struct daemon *daemon, gconstpointer data)
{
    daemon->script[0] = GARBAGE;
    daemon->script[1] = NOT_REPLY;
    daemon->script[2] = NO_CODE;
    daemon_start(daemon);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, -1);
        assert_error(VIR_ERR_INTERNAL_ERROR, "virtleased on * cannot be understood *");
    }
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, 0);
}

/* ---- load ---- */

/* Runs a shell pipeline on the plugin's file and returns what it prints. */
static char *
inspect(const char *command)
{
    g_autofree char *line = g_strdup_printf("sh -c '%s' sh %s", command, g_getenv("VL_PLUGIN"));
    char *out = NULL;
    int status = -1;

    g_assert_true(g_spawn_command_line_sync(line, &out, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    return out;
}

/* It lives in libvirtd's address space: what it exports and brings along is counted. */
static void
test_symbols_and_libraries(struct daemon *daemon, gconstpointer data)
{
    static const char *const allowed[] = {"libc.so.6",   "libsanlock_client.so.1", /* and the sanitizers' own: */
                                          "libasan.so.", "libubsan.so.",           "libtsan.so.", "libm.so.6",
                                          "ld-linux"};
    g_autofree char *symbols = inspect("nm -D --defined-only \"$1\" | cut -d \" \" -f 3");
    g_autofree char *needed = inspect("readelf -d \"$1\" | sed -n \"s/.*(NEEDED).*\\[\\(.*\\)\\]/\\1/p\"");
    g_auto(GStrv) libraries = g_strsplit(g_strchomp(needed), "\n", -1);

    g_assert_cmpstr(symbols, ==, "virLockDriverImpl\n");
    g_assert_true(g_strv_contains((const char *const *)libraries, "libc.so.6"));
    for (char **library = libraries; *library; library++) {
        gboolean known = FALSE;

        for (size_t i = 0; i < G_N_ELEMENTS(allowed); i++)
            known = known || g_str_has_prefix(*library, allowed[i]);
        if (!known)
            g_error("the plugin needs %s", *library);
    }
}

static void
test_init(struct daemon *daemon, gconstpointer data)
{
    g_autofree char *bad = g_build_filename(daemon->dir, "bad.conf", NULL);
    g_autofree char *expected = g_strdup_printf("%s:2: unknown key 'sokcet'", bad);

    g_assert_cmpint(driver->drvInit(999999, NULL, 0), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "this libvirt speaks version 0.999.999 *");
    g_assert_cmpint(driver->drvInit(2000000, NULL, 0), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "this libvirt speaks version 2.0.0 *");
    g_assert_true(g_file_set_contents(bad, "timeout = 5\nsokcet = \"/x\"\n", -1, NULL));
    g_assert_cmpint(driver->drvInit(VIR_LOCK_MANAGER_VERSION, bad, 0), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, expected);
    g_assert_true(g_file_set_contents(bad, "socket = \"x\"\n", -1, NULL));
    g_assert_cmpint(driver->drvInit(VIR_LOCK_MANAGER_VERSION, bad, 0), ==, -1);
    assert_error(VIR_ERR_CONFIG_UNSUPPORTED, "*bad.conf:1: 'socket' must be an absolute path");
    g_unlink(bad);

    /* Again with defaults (another of libvirtd's drivers): the first settings stay. */
    g_assert_cmpint(driver->drvInit(1002003, bad, 0), ==, 0);
    daemon_start(daemon);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, 0);
    g_assert_cmpint(driver->drvDeinit(), ==, 0);
    g_assert_cmpint(call(OP_ACQUIRE, NULL, 0, NULL), ==, 0);
}

static gpointer
call_often(gpointer data)
{
    for (int i = 0; i < 50; i++)
        g_assert_cmpint(call(OP_ACQUIRE, "s", 0, NULL), ==, 0);
    return NULL;
}

static void
test_many_threads(struct daemon *daemon, gconstpointer data)
{
    GThread *threads[16];

    daemon_start(daemon);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("call", call_often, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    g_assert_cmpuint(daemon->connections, ==, 16 * 50);
}

static void
test_example_config(struct daemon *daemon, gconstpointer data)
{
    g_autofree char *path = g_build_filename(g_getenv("VL_SRCDIR"), "examples", "qemu-virtlease.conf", NULL);
    g_autofree char *copy = g_build_filename(daemon->dir, "copy.conf", NULL);
    g_autofree char *text = NULL;
    char *at;

    g_assert_cmpint(driver->drvInit(VIR_LOCK_MANAGER_VERSION, path, 0), ==, 0);
    g_assert_cmpint(driver->drvDeinit(), ==, 0);
    /* Every key in it is commented out with its default: all must be known and valid. */
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (at = text; (at = strstr(at, "\n#")); at += 2)
        if (g_ascii_islower(at[2]))
            at[1] = ' ';
    g_assert_true(g_file_set_contents(copy, text, -1, NULL));
    g_assert_cmpint(driver->drvInit(VIR_LOCK_MANAGER_VERSION, copy, 0), ==, 0);
    g_assert_cmpint(driver->drvDeinit(), ==, 0);
    g_unlink(copy);
}

int
main(int argc, char **argv)
{
    void *module = dlopen(g_getenv("VL_PLUGIN"), RTLD_NOW | RTLD_LOCAL);

    g_test_init(&argc, &argv, NULL);
    driver = module ? dlsym(module, "virLockDriverImpl") : NULL;
    if (!driver)
        g_error("%s", dlerror());
#define TEST(name, function) g_test_add("/plugin/" name, struct daemon, NULL, setup, function, teardown)
    TEST("acquire", test_acquire);
    TEST("register", test_register);
    TEST("inactive-vm", test_inactive_vm);
    TEST("release-twice", test_release_twice);
    TEST("release-null", test_release_null);
    TEST("inquire", test_inquire);
    TEST("bad-state", test_bad_state);
    TEST("error-codes", test_error_codes);
    TEST("new-refused", test_new_refused);
    TEST("resources-refused", test_resources_refused);
    TEST("request-too-large", test_request_too_large);
    TEST("no-daemon", test_no_daemon);
    TEST("daemon-comes-late", test_daemon_comes_late);
    TEST("silent-daemon", test_silent_daemon);
    TEST("restart-in-the-middle", test_daemon_restarts_in_the_middle);
    TEST("hangs-up", test_daemon_hangs_up);
    TEST("answer-before-request", test_answer_before_request);
    TEST("malformed-answers", test_malformed_answers);
    TEST("symbols-and-libraries", test_symbols_and_libraries);
    TEST("init", test_init);
    TEST("many-threads", test_many_threads);
    TEST("example-config", test_example_config);
    return g_test_run();
}

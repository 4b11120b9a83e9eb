/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * virtlease.so, the lock driver that libvirtd or virtqemud loads. It knows nothing about leases: it
 * carries what libvirt says to virtleased and the answer back.
 *
 *     libvirt                                      virtleased
 *     Acquire with REGISTER_ONLY (forked child)    REGISTER
 *     Acquire                                      ACQUIRE
 *     Release with a state                         RELEASE    vCPUs have stopped
 *     Release without                              DETACHED   a disk was perhaps detached
 *     Inquire                                      INQUIRE
 *
 * Rules for everything below drvInit, because libvirt calls from many threads with the VM's mutex
 * held, and from the forked child that becomes QEMU, where a lock of another thread stays locked
 * for ever: no locks, no stdio, no GLib, no libvirt API but its error function; nothing shared but
 * the settings, which do not change; every call ends within settings->timeout_s; no descriptor
 * outlives the call. Nothing here succeeds without virtleased's word.
 */
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"
#include "plugin/call.h"
#include "plugin/libvirt_abi.h"
#include "plugin/report.h"
#include "plugin/sanlk.h"
#include "plugin/settings.h"
#include "plugin/vm.h"

/* ---- load ---- */

static int
drv_init(unsigned int version, const char *config_file, unsigned int flags)
{
    char *error = NULL;
    int r;

    report_init();
    if (version < VIR_LOCK_MANAGER_VERSION ||
        VIR_LOCK_MANAGER_VERSION_MAJOR(version) != VIR_LOCK_MANAGER_VERSION_MAJOR(VIR_LOCK_MANAGER_VERSION)) {
        report_error(VL_ERR_CONFIG,
                     "this libvirt speaks version %u.%u.%u of the lock driver interface, virtlease "
                     "speaks 1.0.0: install the virtlease made for this libvirt",
                     version / 1000000, version / 1000 % 1000, version % 1000);
        return -1;
    }
    r = settings_init(config_file, &error);
    if (r < 0)
        report_error(VL_ERR_CONFIG, "%s", error ? error : "out of memory");
    free(error);
    return r < 0 ? -1 : 0;
}

static int
drv_deinit(void)
{
    settings_deinit();
    return 0;
}

/* ---- the VM of a call ---- */

/* Flags of a libvirt newer than this file might ask for something that must not be ignored. */
static int
refuse_unknown(const char *what, unsigned int flags, unsigned int known)
{
    if ((flags & ~known) == 0)
        return 0;
    report_error(VL_ERR_CONFIG, "libvirt uses flags 0x%x of %s, which this version of virtlease does not know",
                 flags & ~known, what);
    return -1;
}

static int
drv_new(struct vir_lock_manager *man, unsigned int type, size_t nparams, struct vir_lock_param *params,
        unsigned int flags)
{
    man->privateData = NULL;
    if (refuse_unknown("New", flags, VIR_LOCK_MANAGER_NEW_STARTED) < 0)
        return -1;
    if (type != VIR_LOCK_MANAGER_OBJECT_TYPE_DOMAIN) {
        report_error(VL_ERR_CONFIG, "virtlease leases disks of VMs, not objects of type %u", type);
        return -1;
    }
    man->privateData = vm_new(nparams, params);
    return man->privateData ? 0 : -1;
}

static void
drv_free(struct vir_lock_manager *man)
{
    vm_free(man->privateData);
    man->privateData = NULL;
}

static int
drv_add_resource(struct vir_lock_manager *man, unsigned int type, const char *name, size_t nparams,
                 struct vir_lock_param *params, unsigned int flags)
{
    switch (type) {
    case VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK:
        if (refuse_unknown("a disk", flags, VIR_LOCK_MANAGER_RESOURCE_READONLY | VIR_LOCK_MANAGER_RESOURCE_SHARED) < 0)
            return -1;
        return vm_add_disk(man->privateData, name, flags);
    case VIR_LOCK_MANAGER_RESOURCE_TYPE_LEASE:
        if (refuse_unknown("a lease", flags, 0) < 0)
            return -1;
        return vm_add_lease(man->privateData, name, nparams, params);
    default:
        return 0; /* e.g. metadata of libvirt 4.8, which wants locks of its own */
    }
}

/* ---- questions ---- */

static const struct settings *
settings_or_error(void)
{
    const struct settings *settings = settings_get();

    if (!settings)
        report_error(VL_ERR_INTERNAL, "virtlease was called before it was initialised");
    return settings;
}

static void
report_reply(const struct call_reply *reply)
{
    report_error(reply->code, "%s", reply->text ? reply->text : vl_error_name(reply->code));
}

static int
ask(struct vl_msg *request, const char *consequence, char **ret_state)
{
    const struct settings *settings = settings_or_error();
    struct call_reply reply;
    int r = -1;

    if (!settings)
        return -1;
    call_daemon(settings, call_deadline(settings), request, consequence, &reply);
    if (reply.code == VL_OK) {
        r = 0;
        if (ret_state) {
            *ret_state = reply.state;
            reply.state = NULL;
        }
    } else {
        report_reply(&reply);
    }
    call_reply_clear(&reply);
    return r;
}

static void
begin_request(struct vl_msg *request, enum vl_msg_type type, const struct vir_lock_manager *man)
{
    vl_msg_init(request, type, VL_PROTO_REQUEST_MAX);
    vm_describe(man->privateData, request);
}

static const char no_lease[] = "no disk lease, so the VM may not run; start virtleased or see its log";

/* ---- the child that becomes QEMU ---- */

/* What cannot be done as asked is virtleased's mistake, not this host's trouble with sanlock. */
static int
refuse_wish(const struct call_reply *reply)
{
    const char *wrong = NULL;

    if (reply->sanlock_want > VL_SANLOCK_WANT_MAX)
        wrong = "more connections than 8";
    else if (reply->sanlock_path && reply->sanlock_path[0] != '/')
        wrong = "a program without an absolute path";
    else if (reply->sanlock_path && strlen(reply->sanlock_path) > VL_SANLOCK_STRING_MAX)
        wrong = "a program whose path has more than 126 bytes";
    else if (reply->sanlock_args && strlen(reply->sanlock_args) > VL_SANLOCK_STRING_MAX)
        wrong = "arguments of more than 126 bytes";
    else if (reply->sanlock_args && !reply->sanlock_path)
        wrong = "arguments without a program";
    if (!wrong)
        return 0;
    report_error(VL_ERR_PROTOCOL,
                 "virtleased wants the VM to register with sanlock, with %s (are plugin and daemon of "
                 "one version?)",
                 wrong);
    return -1;
}

/* Adds to the request what came of the registration. virtleased decides what a failure means: it
 * knows which volumes need sanlock. Half of the time that is left stays for its answer. */
static void
register_with_sanlock(const struct call_reply *wish, int64_t deadline_ms, struct sanlk *sanlk, struct vl_msg *request)
{
    int64_t now_ms = vl_now_ms();
    int64_t half_ms = now_ms + (deadline_ms - now_ms) / 2;
    char error[SANLK_ERROR_SIZE];

    if (sanlk_register((size_t)wish->sanlock_want, wish->sanlock_path, wish->sanlock_args, half_ms, sanlk, error) < 0)
        vl_msg_add_text(request, VL_TAG_SANLOCK_ERROR, error);
    for (size_t i = 0; i < sanlk->count; i++)
        vl_msg_add_u64(request, VL_TAG_SANLOCK_FD, (uint64_t)sanlk->fds[i]);
}

static int
register_again(const struct settings *settings, int64_t deadline_ms, const struct sanlk *sanlk, struct vl_msg *request)
{
    struct call_reply reply;
    int r = -1;

    call_daemon(settings, deadline_ms, request, no_lease, &reply);
    if (reply.code != VL_OK)
        report_reply(&reply);
    else if (reply.sanlock_want > 0)
        report_error(VL_ERR_PROTOCOL,
                     "virtleased wants the VM to register with sanlock a second time in one start (are "
                     "plugin and daemon of one version?)");
    else if ((r = sanlk_leave_to_qemu(sanlk)) < 0)
        report_error(VL_ERR_INTERNAL, "the connections to sanlock cannot be left to QEMU");
    call_reply_clear(&reply);
    return r < 0 ? -1 : 0;
}

static int
register_child(struct vl_msg *request)
{
    const struct settings *settings = settings_or_error();
    struct sanlk sanlk = {.count = 0};
    struct call_reply reply;
    int64_t deadline_ms;
    int r = -1;

    if (!settings)
        return -1;
    deadline_ms = call_deadline(settings);
    call_daemon(settings, deadline_ms, request, no_lease, &reply);
    if (reply.code != VL_OK) {
        report_reply(&reply);
    } else if (reply.sanlock_want == 0) {
        r = 0;
    } else if (refuse_wish(&reply) == 0) {
        register_with_sanlock(&reply, deadline_ms, &sanlk, request);
        r = register_again(settings, deadline_ms, &sanlk, request);
        if (r < 0)
            sanlk_close(&sanlk);
    }
    call_reply_clear(&reply);
    return r;
}

/* ---- requests ---- */

static int
drv_acquire(struct vir_lock_manager *man, const char *state, unsigned int flags, int action, int *fd)
{
    /* RESTRICT (the VM's process may not ask for more locks) is how virtleased works anyway. */
    const unsigned int known = VIR_LOCK_MANAGER_ACQUIRE_REGISTER_ONLY | VIR_LOCK_MANAGER_ACQUIRE_RESTRICT;
    enum vl_msg_type type = flags & VIR_LOCK_MANAGER_ACQUIRE_REGISTER_ONLY ? VL_MSG_REGISTER : VL_MSG_ACQUIRE;
    struct vl_msg request;
    int r;

    if (fd)
        *fd = -1; /* libvirt does nothing with it: what is open at exec stays open in QEMU */
    if (refuse_unknown("Acquire", flags, known) < 0)
        return -1;
    begin_request(&request, type, man);
    vl_msg_add_u64(&request, VL_TAG_ACTION, action > 0 ? (uint64_t)action : 0);
    if (state && state[0] != '\0')
        vl_msg_add_string(&request, VL_TAG_STATE, state);
    r = type == VL_MSG_REGISTER ? register_child(&request) : ask(&request, no_lease, NULL);
    vl_msg_free(&request);
    return r;
}

/* libvirt releases twice at every suspend and overwrites its copy of the state: hand out the same
 * string only once, or the first leaks; and without an answer leave what libvirt has. */
static void
hand_over_state(char *state, char **target)
{
    if (!state || (*target && strcmp(*target, state) == 0))
        free(state);
    else
        *target = state;
}

static int
drv_release(struct vir_lock_manager *man, char **state, unsigned int flags)
{
    struct vl_msg request;
    char *new_state = NULL;
    int r;

    begin_request(&request, state ? VL_MSG_RELEASE : VL_MSG_DETACHED, man);
    /* libvirt only warns, and the VM stays stopped. */
    r = ask(&request,
            state ? "it was not told that the VM is paused, and will find out once it runs; start "
                    "virtleased or see its log"
                  : "it was not told that a disk may be detached, and will find out once it runs; "
                    "start virtleased or see its log",
            &new_state);
    if (r == 0 && state)
        hand_over_state(new_state, state);
    else
        free(new_state);
    vl_msg_free(&request);
    return r;
}

static int
drv_inquire(struct vir_lock_manager *man, char **state, unsigned int flags)
{
    struct vl_msg request;
    char *new_state = NULL;
    int r;

    begin_request(&request, VL_MSG_INQUIRE, man);
    r = ask(&request,
            "the state of the disk leases is unknown, so the VM may not migrate; start virtleased "
            "or see its log",
            &new_state);
    if (r == 0 && state)
        *state = new_state;
    else
        free(new_state);
    vl_msg_free(&request);
    return r;
}

/* USES_STATE: the string of Inquire and Release travels with a migration to the other host. */
__attribute__((visibility("default"))) extern const struct vir_lock_driver virLockDriverImpl;

const struct vir_lock_driver virLockDriverImpl = {
    .version = VIR_LOCK_MANAGER_VERSION,
    .flags = VIR_LOCK_MANAGER_USES_STATE,
    .drvInit = drv_init,
    .drvDeinit = drv_deinit,
    .drvNew = drv_new,
    .drvFree = drv_free,
    .drvAddResource = drv_add_resource,
    .drvAcquire = drv_acquire,
    .drvRelease = drv_release,
    .drvInquire = drv_inquire,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lockd/ctl.h"
#include "lockd/error.h"
#include "lockd/register.h"
#include "lockd/statusxml.h"

#define TIMEOUT_DEFAULT_MS 40000
#define TIMEOUT_MAX_MS     600000
#define REPLY_ROOM_MS      2000 /* the asker must still be there when the answer comes */
#define ARGS_MAX           16

typedef struct {
    VlRequest vm;
    char *verb;
    GPtrArray *args; /* of char * */
} Decoded;

static void
decoded_clear(Decoded *decoded)
{
    vl_request_clear(&decoded->vm);
    g_free(decoded->verb);
    g_ptr_array_unref(decoded->args);
}

/* ---- decoding ---- */

static int
decode_string(const struct vl_field *field, char **target)
{
    g_clear_pointer(target, free);
    return vl_field_string(field, target);
}

/* An RBD image has no name in libvirt's calls; it is read from the status XML. */
typedef struct {
    uint64_t type, flags, offset;
    char *name, *path, *space;
} Resource;

static VlDisk *
disk_of(const Resource *resource)
{
    VlDisk *disk = g_new0(VlDisk, 1);
    struct vl_volume_spec *spec = &disk->spec;
    disk->readonly = (resource->flags & 1) != 0;
    disk->shareable = (resource->flags & 2) != 0;
    disk->device = resource->type == 1;
    if (!disk->device) {
        spec->kind = VL_VOLUME_FILE;
        spec->path = g_strdup(resource->name);
    } else if (g_strcmp0(resource->space, VL_LOCKSPACE_RBD) != 0 || vl_volume_parse_rbd(resource->name, spec) < 0) {
        spec->kind = VL_VOLUME_LEASE;
        spec->space = g_strdup(resource->space ? resource->space : "");
        spec->key = g_strdup(resource->name);
        spec->path = g_strdup(resource->path ? resource->path : "");
        spec->offset = (unsigned long)resource->offset;
    }
    return disk;
}

static int
decode_resource_field(const struct vl_field *field, Resource *resource)
{
    switch (field->tag) {
    case VL_TAG_RES_TYPE:
        return vl_field_u64(field, &resource->type);
    case VL_TAG_RES_FLAGS:
        return vl_field_u64(field, &resource->flags);
    case VL_TAG_RES_OFFSET:
        return vl_field_u64(field, &resource->offset);
    case VL_TAG_RES_NAME:
        return decode_string(field, &resource->name);
    case VL_TAG_RES_PATH:
        return decode_string(field, &resource->path);
    case VL_TAG_RES_SPACE:
        return decode_string(field, &resource->space);
    default:
        return 0;
    }
}

static int
decode_resource(const struct vl_field *field, VlRequest *request)
{
    struct vl_reader reader;
    struct vl_field inner;
    Resource resource = {0};
    int r;
    vl_reader_init(&reader, field->bytes, field->len);
    while ((r = vl_reader_next(&reader, &inner)) > 0)
        if ((r = decode_resource_field(&inner, &resource)) < 0)
            break;
    if (r == 0 && !resource.name)
        r = -EPROTO;
    if (r == 0)
        g_ptr_array_add(request->disks, disk_of(&resource));
    free(resource.name);
    free(resource.path);
    free(resource.space);
    return r == 0 && ++request->resources > VL_PROTO_RESOURCES_MAX ? -EMSGSIZE : r;
}

static int
decode_number(const struct vl_field *field, gint64 max, gint64 *ret)
{
    uint64_t value;
    int r = vl_field_u64(field, &value);
    if (r == 0 && value > (uint64_t)max)
        r = -ERANGE;
    if (r == 0)
        *ret = (gint64)value;
    return r;
}

static int
decode_descriptor(const struct vl_field *field, GArray *descriptors)
{
    gint64 number = 0;
    int r = descriptors->len >= VL_SANLOCK_WANT_MAX ? -EMSGSIZE : decode_number(field, G_MAXINT32, &number);
    int fd = (int)number;
    if (r == 0)
        g_array_append_val(descriptors, fd);
    return r;
}

static int
decode_uuid(const struct vl_field *field, char **target)
{
    const uint8_t *b = field->bytes;
    if (field->len != 16)
        return -EPROTO;
    g_free(*target);
    *target = g_strdup_printf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
                              b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return 0;
}

static int
decode_arg(const struct vl_field *field, GPtrArray *args)
{
    char *arg = NULL;
    int r = args->len >= ARGS_MAX ? -EMSGSIZE : vl_field_string(field, &arg);
    if (r == 0)
        g_ptr_array_add(args, arg);
    return r;
}

static int
decode_field(const struct vl_field *field, Decoded *decoded)
{
    VlRequest *vm = &decoded->vm;
    gint64 number = 0;
    int r;
    switch (field->tag) {
    case VL_TAG_UUID:
        return decode_uuid(field, &vm->uuid);
    case VL_TAG_NAME:
        return decode_string(field, &vm->name);
    case VL_TAG_URI:
        return decode_string(field, &vm->uri);
    case VL_TAG_STATE:
        return decode_string(field, &vm->state);
    case VL_TAG_VERB:
        return decode_string(field, &decoded->verb);
    case VL_TAG_ARG:
        return decode_arg(field, decoded->args);
    case VL_TAG_RESOURCE:
        return decode_resource(field, vm);
    case VL_TAG_PID:
        return decode_number(field, G_MAXINT32, &vm->pid);
    case VL_TAG_ACTION:
        r = decode_number(field, G_MAXINT32, &number);
        vm->action = (int)number;
        return r;
    case VL_TAG_SANLOCK_FD:
        return decode_descriptor(field, vm->sanlock);
    case VL_TAG_SANLOCK_ERROR:
        return decode_string(field, &vm->sanlock_error);
    case VL_TAG_TIMEOUT_MS:
        r = decode_number(field, TIMEOUT_MAX_MS, &number);
        vm->timeout_ms = (guint)number;
        return r;
    default:
        return 0;
    }
}

static int
decode(const VlIncoming *incoming, Decoded *decoded)
{
    struct vl_reader reader;
    struct vl_field field;
    int r;
    vl_reader_init(&reader, incoming->body, incoming->len);
    while ((r = vl_reader_next(&reader, &field)) > 0)
        if ((r = decode_field(&field, decoded)) < 0)
            return r;
    if (r == 0 && incoming->type != VL_MSG_CTL && (!decoded->vm.uuid || !decoded->vm.name))
        r = -EPROTO;
    if (r == 0 && incoming->type == VL_MSG_CTL && !decoded->verb)
        r = -EPROTO;
    return r;
}

/* ---- running ---- */

static gboolean
run_plugin_call(VlDaemon *daemon, const VlIncoming *incoming, Decoded *decoded, VlCall *call, char **state,
                VlEnrol *enrol, GError **error)
{
    const VlRequest *vm = &decoded->vm;
    switch (incoming->type) {
    case VL_MSG_REGISTER:
        return vl_register(daemon, vm, incoming->peer_pid, call, enrol, error);
    case VL_MSG_ACQUIRE:
        return vl_acquire(daemon, vm, call, error);
    case VL_MSG_RELEASE:
        return vl_release(daemon, vm, call, state, error);
    case VL_MSG_INQUIRE:
        return vl_inquire(daemon, vm, call, state, error);
    case VL_MSG_DETACHED:
        return vl_detached(daemon, vm, call, error);
    default:
        vl_set_error(error, VL_ERR_PROTOCOL, "unknown request type %u; plugin and virtleased are of different versions",
                     incoming->type);
        return FALSE;
    }
}

static const char *
type_name(uint16_t type)
{
    static const char *const names[] = {"?", "reply", "register", "acquire", "release", "inquire", "detached", "ctl"};
    return type < G_N_ELEMENTS(names) ? names[type] : "?";
}

void
vl_request_run(VlDaemon *daemon, const VlIncoming *incoming, struct vl_msg *reply)
{
    Decoded decoded = {.args = g_ptr_array_new_with_free_func(free)};
    g_autoptr(GError) error = NULL;
    g_autofree char *state = NULL;
    g_autofree char *text = NULL;
    VlEnrol enrol = {0};
    gboolean ok = FALSE;
    vl_request_init(&decoded.vm);
    gint64 began = vl_clock_now();
    int r = decode(incoming, &decoded);
    guint timeout = decoded.vm.timeout_ms ? decoded.vm.timeout_ms : TIMEOUT_DEFAULT_MS;
    guint room = MIN(REPLY_ROOM_MS, timeout / 4);
    VlCall call = {.deadline = began + (gint64)(timeout - room) * 1000, .asker = &incoming->fd};

    if (r < 0)
        vl_set_error(&error, VL_ERR_PROTOCOL, "malformed request (%s)", g_strerror(-r));
    else if (incoming->type == VL_MSG_CTL)
        ok = vl_ctl_run(daemon, decoded.verb, decoded.args, &call, &text, &error);
    else
        ok = run_plugin_call(daemon, incoming, &decoded, &call, &state, &enrol, &error);

    vl_msg_init(reply, VL_MSG_REPLY, VL_PROTO_REPLY_MAX);
    vl_msg_add_u64(reply, VL_TAG_ERROR_CODE, ok ? VL_OK : vl_error_code(error));
    if (!ok)
        vl_msg_add_text(reply, VL_TAG_ERROR_TEXT, error->message);
    if (ok && state)
        vl_msg_add_string(reply, VL_TAG_STATE, state);
    if (ok && text)
        vl_msg_add_bytes(reply, VL_TAG_JSON, text, strlen(text));
    if (ok && enrol.connections) {
        vl_msg_add_u64(reply, VL_TAG_SANLOCK_WANT, enrol.connections);
        vl_msg_add_string(reply, VL_TAG_SANLOCK_PATH, enrol.path);
        vl_msg_add_string(reply, VL_TAG_SANLOCK_ARGS, enrol.args);
    }
    vl_enrol_clear(&enrol);
    double ms = (double)(vl_clock_now() - began) / 1000;
    if (!ok)
        g_warning("%s of %s: refused after %.1f ms: %s", type_name(incoming->type),
                  decoded.vm.name ? decoded.vm.name
                  : decoded.verb  ? decoded.verb
                                  : "?",
                  ms, error->message);
    else if (incoming->type != VL_MSG_CTL)
        g_message("%s of VM %s (process %" G_GINT64_FORMAT "): done in %.1f ms", type_name(incoming->type),
                  decoded.vm.name, decoded.vm.pid, ms);
    decoded_clear(&decoded);
}

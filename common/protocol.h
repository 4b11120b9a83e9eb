/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The wire between plugin or virtleasectl and virtleased: one request, one reply, close.
 *
 * A frame is a 16-byte header and a body of fields; all integers little endian:
 *
 *     u32 magic "VLs1"   u16 version   u16 type   u32 body length   u32 zero
 *     field: u16 tag   u16 zero   u32 length   bytes
 *
 * Unknown tags are skipped, so either side may be newer within one version. Every length is bounded
 * before anything is allocated. The code runs in libvirtd and in its forked child: no threads, no
 * locks, no stdio, no GLib; malloc only (glibc's is safe after fork). Functions return 0 or -errno.
 */
#ifndef VL_COMMON_PROTOCOL_H
#define VL_COMMON_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define VL_PROTO_MAGIC         0x31734c56u /* "VLs1" */
#define VL_PROTO_VERSION       1
#define VL_PROTO_HEADER_SIZE   16
#define VL_PROTO_REQUEST_MAX   (256 * 1024)       /* body bytes of a request */
#define VL_PROTO_REPLY_MAX     (16 * 1024 * 1024) /* body bytes of a reply (a long list) */
#define VL_PROTO_STRING_MAX    4096               /* one name, path, uri, state */
#define VL_PROTO_RESOURCES_MAX 1024
#define VL_SANLOCK_WANT_MAX    8
#define VL_SANLOCK_STRING_MAX  126 /* libsanlock_client silently cuts what is longer */
#define VL_DEFAULT_SOCKET      "/run/virtlease/virtleased.sock"

enum vl_msg_type {
    VL_MSG_REPLY = 1,    /* ERROR_CODE, ERROR_TEXT; STATE or JSON as asked; SANLOCK_WANT to REGISTER */
    VL_MSG_REGISTER = 2, /* forked child, before it becomes QEMU; the peer pid is the VM */
    VL_MSG_ACQUIRE = 3,  /* vCPUs are about to run, or something is about to be attached */
    VL_MSG_RELEASE = 4,  /* vCPUs have stopped; reply carries STATE */
    VL_MSG_INQUIRE = 5,  /* reply carries STATE */
    VL_MSG_DETACHED = 6, /* Release without state: something was perhaps detached */
    VL_MSG_CTL = 7,      /* virtleasectl: VERB, ARG...; reply carries JSON */
};

enum vl_tag {
    VL_TAG_UUID = 1,        /* 16 bytes */
    VL_TAG_NAME = 2,        /* string */
    VL_TAG_PID = 3,         /* u64; 0 = the VM does not run (offline migration) */
    VL_TAG_URI = 4,         /* string */
    VL_TAG_ACTION = 5,      /* u64, libvirt's virDomainLockFailureAction */
    VL_TAG_STATE = 6,       /* string, libvirt's lock state */
    VL_TAG_RESOURCE = 7,    /* nested fields, repeated */
    VL_TAG_TIMEOUT_MS = 8,  /* u64: how long the asker will wait for the reply */
    VL_TAG_RES_TYPE = 9,    /* u64: 0 disk, 1 <lease> */
    VL_TAG_RES_FLAGS = 10,  /* u64: 1 readonly, 2 shared */
    VL_TAG_RES_NAME = 11,   /* string: path, or the key of a <lease> */
    VL_TAG_RES_PATH = 12,   /* string: path of a <lease> */
    VL_TAG_RES_SPACE = 13,  /* string: lockspace of a <lease> */
    VL_TAG_RES_OFFSET = 14, /* u64: offset of a <lease> */
    VL_TAG_VERB = 15,       /* string */
    VL_TAG_ARG = 16,        /* string, repeated */
    VL_TAG_ERROR_CODE = 17, /* u64, enum vl_error */
    VL_TAG_ERROR_TEXT = 18, /* string */
    VL_TAG_JSON = 19,       /* bytes, up to VL_PROTO_REPLY_MAX */
    VL_TAG_ID = 20,         /* u64, libvirt's number of the domain; absent when it does not run */
    /* In the OK to a REGISTER: the child is to register with sanlock and to send REGISTER once more. */
    VL_TAG_SANLOCK_WANT = 21, /* u64, 1 to VL_SANLOCK_WANT_MAX: so many connections */
    VL_TAG_SANLOCK_PATH = 22, /* string: killpath program; absent: sanlock sends signals */
    VL_TAG_SANLOCK_ARGS = 23, /* string: its arguments */
    /* In that second REGISTER: either one FD per connection, or ERROR. */
    VL_TAG_SANLOCK_FD = 24,    /* u64, repeated: a descriptor's number in the asking process */
    VL_TAG_SANLOCK_ERROR = 25, /* string: why there is none */
};

/* A message being built: init, add fields, finish, write out, free. A failed allocation or an
 * oversized field is remembered in `error` and reported by vl_msg_finish(). */
struct vl_msg {
    uint8_t *data; /* header included */
    size_t len, cap;
    size_t max; /* body limit */
    int error;  /* first -errno met */
};

void vl_msg_init(struct vl_msg *msg, enum vl_msg_type type, size_t body_max);
void vl_msg_add_bytes(struct vl_msg *msg, enum vl_tag tag, const void *bytes, size_t len);
void vl_msg_add_string(struct vl_msg *msg, enum vl_tag tag, const char *string); /* NULL: nothing */
/* For people (ERROR_TEXT): a longer text is cut to VL_PROTO_STRING_MAX at a character boundary,
 * because an overlong explanation must not turn the reply itself into an error. NULL: nothing. */
void vl_msg_add_text(struct vl_msg *msg, enum vl_tag tag, const char *text);
void vl_msg_add_u64(struct vl_msg *msg, enum vl_tag tag, uint64_t value);
/* Everything added between begin and end is nested in one field. */
size_t vl_msg_begin(struct vl_msg *msg, enum vl_tag tag);
void vl_msg_end(struct vl_msg *msg, size_t mark);
/* Completes the header; returns 0 or the remembered error. After it data/len can be written out. */
int vl_msg_finish(struct vl_msg *msg);
void vl_msg_free(struct vl_msg *msg);

/* A frame header as received. */
struct vl_frame {
    uint16_t version, type;
    uint32_t length; /* of the body */
};

/* Checks the 16 bytes: -EPROTO wrong magic or nonzero reserved word, -EPROTONOSUPPORT other
 * version, -EMSGSIZE length above `body_max`. */
int vl_frame_parse(const uint8_t header[VL_PROTO_HEADER_SIZE], size_t body_max, struct vl_frame *ret_frame);

/* Walks the fields of a body (or of a nested field). Returns 1 with the next field, 0 at the end,
 * -EPROTO when the bytes do not add up. */
struct vl_field {
    uint16_t tag;
    const uint8_t *bytes;
    size_t len;
};
struct vl_reader {
    const uint8_t *bytes;
    size_t len, at;
};
void vl_reader_init(struct vl_reader *reader, const void *bytes, size_t len);
int vl_reader_next(struct vl_reader *reader, struct vl_field *ret_field);
/* -EPROTO unless exactly 8 bytes. */
int vl_field_u64(const struct vl_field *field, uint64_t *ret_value);
/* malloc'ed NUL-terminated copy; -EPROTO if it contains a NUL, -EMSGSIZE above VL_PROTO_STRING_MAX.
 */
int vl_field_string(const struct vl_field *field, char **ret_string);

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t vl_now_ms(void);

/* Blocking I/O on a nonblocking socket until a CLOCK_MONOTONIC deadline in ms; -ETIMEDOUT,
 * -ECONNRESET (peer closed early), other -errno. No SIGPIPE. vl_connect retries ENOENT,
 * ECONNREFUSED and EAGAIN (full backlog) every 100 ms until the deadline (R19: a restarting daemon
 * is waited for) and then returns the last of them; the descriptor is close-on-exec. */
int vl_connect(const char *path, int64_t deadline_ms, int *ret_fd);
int vl_write_all(int fd, const void *bytes, size_t len, int64_t deadline_ms);
int vl_read_all(int fd, void *bytes, size_t len, int64_t deadline_ms);
/* Reads one frame; *ret_body is malloc'ed (at least one byte). */
int vl_read_frame(int fd, size_t body_max, int64_t deadline_ms, struct vl_frame *ret_frame, uint8_t **ret_body);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One question to virtleased, one answer. Runs in libvirtd's threads and in its forked child: no
 * locks, no stdio, no state of its own, and never longer than settings->timeout_s.
 */
#ifndef VL_PLUGIN_CALL_H
#define VL_PLUGIN_CALL_H

#include <stddef.h>

#include "common/errors.h"
#include "common/protocol.h"
#include "plugin/settings.h"

struct call_reply {
    enum vl_error code;
    char *text;  /* explanation when code is not VL_OK; NULL when memory ran out */
    char *state; /* libvirt lock state, or NULL */
    /* What a REGISTER may be answered with; as it came, not judged yet. */
    uint64_t sanlock_want; /* 0: nothing */
    char *sanlock_path, *sanlock_args;
};

/* When a call into the plugin that begins now must have ended. */
int64_t call_deadline(const struct settings *settings);

/* Sends `request` (built but not finished; TIMEOUT_MS is added here and taken out again) and fills
 * *ret_reply, whatever happens. `consequence` ends the message when virtleased gave no answer: what
 * this means to the VM and what the admin can do. */
void call_daemon(const struct settings *settings, int64_t deadline_ms, struct vl_msg *request, const char *consequence,
                 struct call_reply *ret_reply);

/* The body of a reply; 0 or -errno. Apart so that it can be tested and fuzzed. */
int call_parse_reply(const void *body, size_t len, struct call_reply *ret_reply);

void call_reply_clear(struct call_reply *reply);

#endif

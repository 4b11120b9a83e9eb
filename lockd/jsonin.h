/* SPDX-License-Identifier: LGPL-2.1-or-later
 * JSON that others wrote: records and sessions in storage, questions and answers of other hosts. */
#ifndef VL_LOCKD_JSONIN_H
#define VL_LOCKD_JSONIN_H

#include <json-glib/json-glib.h>

/* Exactly one JSON object of at most `max` bytes with only white space around it. Borrowed from `parser`; NULL with
 * *ret_problem (g_malloc'ed, may be NULL) saying what is wrong. */
JsonObject *vl_json_object(JsonParser *parser, const char *text, gsize size, gsize max, char **ret_problem);

#endif

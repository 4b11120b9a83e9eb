/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The guarded part of a session object, as a value: who holds the session and how it stands.
 *
 *   {"version":1,"host":"…","machine":"…","name":"node-a","boot":"…","session":1790000000123,
 *    "nonce":"…","state":"live","dead_after":10,"grace":0,"ips":["10.0.0.1"],"krbd":["10.0.0.1:0/5"]}
 */
#ifndef VL_LOCKD_IDENTITY_H
#define VL_LOCKD_IDENTITY_H

#include <glib.h>

/* live: renewed; closed: ended by the host itself with no lease left; fenced: ended by
 * `virtleasectl fence`, the host may take a new number (R15). */
typedef enum { VL_SESSION_LIVE, VL_SESSION_CLOSED, VL_SESSION_FENCED } VlSessionMark;

typedef struct {
    char *host, *machine, *name, *boot;
    guint64 session; /* grows with every new session of a host in a place */
    char *nonce;     /* random: tells two daemons of one identity apart */
    VlSessionMark mark;
    guint dead_after; /* seconds, the owner's own setting */
    guint grace;      /* seconds of announced silence (planned restart) */
    GPtrArray *ips;   /* of char *: the host's addresses towards storage */
    GPtrArray *krbd;  /* of char *: addresses of shared kernel clients, never fenced (R14) */
} VlIdentity;

VlIdentity *vl_identity_new(void);
void vl_identity_free(VlIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VlIdentity, vl_identity_free)
VlIdentity *vl_identity_parse(GBytes *bytes, GError **error); /* RECORD when not understood */
GBytes *vl_identity_format(const VlIdentity *identity);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * virtleasectl cleanup: lease files that nobody uses leave lease_dir.
 *
 * A file is removed only by a process that holds its lease, so no VM on any host has it, whichever lock manager made it
 * get it. What remains are those who come at the very moment, and what sanlock does with a file by its *name*:
 *
 *  - Somebody has opened the file (sanlock: at each acquire) just before its name went. He must never get the lease of
 *    the nameless inode, while others make a new file and get that. So the inode stays owned by us on disk: it is
 *    never released there. He is refused (-243, owner alive) and must look again by name: no file, make one.
 *  - sanlock releases by name as well. Were the name unlinked and the lease then released, it would write our old
 * ballot into a new file that somebody made meanwhile, and nobody could take that any more (-209 for ever). So the
 *    lease is taken through a second name of the same inode (a hard link that nobody else knows), and that is gone
 *    before the release: sanlock finds nothing to open, forgets the lease and touches no disk.
 *  - The name may stand for another inode by then (removed and made anew by hand). The link pins the inode that the
 * lease is in; the name is removed only if it still is that one. Only a holder of the lease may remove it, so it cannot
 * change between that look and the unlink.
 *  - Creators link a complete file to the name, or fail if there is one (sanlock_file.h): before our unlink they find
 *    ours, and acquire; after it theirs is another inode. libvirt's own plugin likewise (O_EXCL).
 *  - This host dies holding it, the name still there: the lease is free when the host is dead by sanlock's rules. The
 *    name gone: somebody who opened the file before may wait (libvirt's plugin does) until we are dead and then
 *    get the nameless inode's lease; so after the unlink its leader is marked as cleared, and he fails.
 *  - This host freezes between the look and the unlink, others take the lease after sanlock's time, it wakes up and
 *    unlinks. The process that unlinks is the one that is registered with sanlock: like a QEMU it is killed before
 *    that time is over, and where it cannot be (its NFS server does not answer) the watchdog resets the host.
 *  - kill -9 of virtleased: the process goes on to the end of the file at hand, then its socket ends and it exits.
 * Killed itself: before the names went, sanlock releases the lease; between the two names, the file stays owned by this
 *    host, others are refused, and the next cleanup here removes it; afterwards nothing is left to release.
 *  - The lockspace fails: sanlock kills that process, and not virtleased.
 *
 * A file written to within VL_SANLOCK_QUIET_S is left alone (every acquire and release writes): whoever releases may
 * still be at it by name, and VMs that just stopped like to start again. Whoever starts at the very moment is refused
 * for some milliseconds; the acquire of sanlock_lease.h looks again, libvirt's own plugin fails that start.
 */
#ifndef VL_LOCKD_SANLOCK_CLEAN_H
#define VL_LOCKD_SANLOCK_CLEAN_H

#include <json-glib/json-glib.h>

#include "lockd/sanlock_space.h"

#define VL_SANLOCK_QUIET_S 600  /* lease files last written to within this are in use, or were just now */
#define VL_SANLOCK_TEMP_S  3600 /* temporary files that old are left from a crash */

/* What a name in lease_dir may be: the part that looks at the name alone. */
typedef enum {
    VL_SANLOCK_NAME_OWN,   /* the lockspace, names of hosts: never touched, never mentioned */
    VL_SANLOCK_NAME_LEASE, /* 32 hex digits */
    VL_SANLOCK_NAME_TEMP,
    VL_SANLOCK_NAME_ALIEN,
} VlSanlockNameKind;
VlSanlockNameKind vl_sanlock_name_kind(const char *name);

/* ctl verb "cleanup". Without operands: "directory", "candidates" (names) and "left" (objects of "file", "why") of
 * lease_dir, nothing is changed. With operands, at most some ten of those candidates: "files", objects of "file",
 * "result" (removed, unused, gone, used, unknown, failed) and "why". --dry-run: says unused where it would remove. */
gboolean vl_sanlock_clean(VlSanlockSpace *space, GPtrArray *args, const VlCall *call, JsonBuilder *out, GError **error);

#endif

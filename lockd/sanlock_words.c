/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_words.h"

#include <errno.h>
#include <sanlock_rv.h>
#include <string.h>

#define ANY (~0u)
#define IO  (VL_SANLOCK_ACQUIRE | VL_SANLOCK_RELEASE | VL_SANLOCK_JOIN | VL_SANLOCK_FORMAT | VL_SANLOCK_READ)

typedef struct {
    int rc;
    unsigned int verbs; /* in which calls it means this; the first line that fits counts */
    enum vl_error code;
    const char *text;
} Words;

/* "%s" stands for the owner. -EAGAIN and -EBUSY are CHANGED: a moment later they may be gone. */
static const Words table[] = {
    {VL_SANLOCK_DOWN, ANY, VL_ERR_STORAGE, "the sanlock daemon does not run or cannot be reached; start it"},

    /* who has it */
    {SANLK_ACQUIRE_IDLIVE, ANY, VL_ERR_HELD, "held by %s, which is alive"},
    {SANLK_ACQUIRE_OWNED_RETRY, ANY, VL_ERR_UNKNOWN_OWNER, "held by %s, which has stopped renewing"},
    {SANLK_ACQUIRE_OWNED, ANY, VL_ERR_CHANGED, "another host got it a moment earlier"},
    {SANLK_ACQUIRE_OTHER, ANY, VL_ERR_CHANGED, "another host is getting it at this very moment"},
    {SANLK_ACQUIRE_SHRETRY, ANY, VL_ERR_CHANGED, "too many hosts are sharing it at the same moment"},
    {-EEXIST, VL_SANLOCK_ACQUIRE, VL_ERR_HELD, "held by another VM of this host"},
    {-EAGAIN, VL_SANLOCK_ACQUIRE, VL_ERR_CHANGED, "being released, or shared by VMs that run on it"},
    {-EBUSY, VL_SANLOCK_ACQUIRE | VL_SANLOCK_RELEASE | VL_SANLOCK_INQUIRE, VL_ERR_CHANGED,
     "sanlock is busy with this VM, or with the same lease for another one"},
    {-EUCLEAN, VL_SANLOCK_ACQUIRE, VL_ERR_RECORD,
     "kept on this host as an orphan of a program that ended; release it with 'sanlock client release'"},
    {SANLK_ACQUIRE_LVER, ANY, VL_ERR_STALE, "somebody else had it since: the VM's memory here is stale"},

    /* who asks */
    {-ESRCH, ANY, VL_ERR_NOT_REGISTERED, "this QEMU process is not registered with the sanlock daemon"},
    {-ESTALE, ANY, VL_ERR_NOT_REGISTERED, "this QEMU process has ended or closed its connection to sanlock"},
    {-ENOTTY, VL_SANLOCK_ACQUIRE, VL_ERR_NOT_REGISTERED, "this QEMU process ended meanwhile"},
    {-EPERM, VL_SANLOCK_RELEASE, VL_ERR_CHANGED, "this QEMU process does not have it"},

    /* the lockspace */
    {-ENOSPC, VL_SANLOCK_ACQUIRE | VL_SANLOCK_READ, VL_ERR_STORAGE,
     "this host is not in the lockspace: it has not joined yet, or is losing it because its storage does not answer"},
    {SANLK_ACQUIRE_LOCKSPACE, ANY, VL_ERR_STORAGE, "this host is not in the lockspace that the lease belongs to"},
    {SANLK_ACQUIRE_IDDISK, ANY, VL_ERR_STORAGE, "the lockspace file cannot be opened"},
    {-EINPROGRESS, ANY, VL_ERR_STORAGE, "this host is joining the lockspace at the moment"},
    {-EAGAIN, VL_SANLOCK_JOIN, VL_ERR_STORAGE, "this host is still leaving the lockspace"},
    {-EINVAL, VL_SANLOCK_JOIN, VL_ERR_CONFIG,
     "the sanlock daemon is in a lockspace of that name or file already, with another host id or path"},
    {SANLK_HOSTID_BUSY, ANY, VL_ERR_DUP_HOST, "another host uses this host id; give each host its own"},
    {SANLK_WD_ERROR, ANY, VL_ERR_STORAGE, "sanlock cannot reach the watchdog daemon; start wdmd"},
    {SANLK_ADDLS_SIZES, ANY, VL_ERR_CONFIG, "sector size and alignment do not fit together"},
    {SANLK_ADDLS_INVALID_HOSTID, ANY, VL_ERR_CONFIG, "the host id is larger than the lockspace has room for"},
    {SANLK_LEADER_NUMHOSTS, ANY, VL_ERR_CONFIG, "the host id is larger than this lease has room for"},
    {SANLK_RENEW_OWNER, ANY, VL_ERR_DUP_HOST, "another host has taken this host's id"},
    {SANLK_RENEW_DIFF, ANY, VL_ERR_DUP_HOST, "another host writes this host's record in the lockspace"},

    /* what is stored */
    {-EMSGSIZE, ANY, VL_ERR_RECORD, "the file is empty or too short to hold a lease"},
    {SANLK_LEADER_MAGIC, ANY, VL_ERR_RECORD, "the file was never formatted as a sanlock lease"},
    {SANLK_LEADER_VERSION, ANY, VL_ERR_RECORD, "written by another version of sanlock"},
    {SANLK_LEADER_SECTORSIZE, ANY, VL_ERR_RECORD, "formatted for another sector size"},
    {SANLK_LEADER_LOCKSPACE, ANY, VL_ERR_RECORD, "the lease in the file belongs to another lockspace"},
    {SANLK_LEADER_RESOURCE, ANY, VL_ERR_RECORD, "the lease in the file belongs to another volume"},
    {SANLK_LEADER_CHECKSUM, ANY, VL_ERR_RECORD, "the lease in the file is damaged (wrong checksum)"},
    {SANLK_DBLOCK_CHECKSUM, ANY, VL_ERR_RECORD, "a host's record in the lease is damaged (wrong checksum)"},
    {SANLK_DBLOCK_LVER, ANY, VL_ERR_CHANGED, "other hosts are competing for it"},
    {SANLK_DBLOCK_MBAL, ANY, VL_ERR_CHANGED, "other hosts are competing for it"},
    {SANLK_LEADER_DIFF, ANY, VL_ERR_CHANGED, "it changed while it was read"},
    {SANLK_RELEASE_LVER, ANY, VL_ERR_LOST, "somebody else has had it since"},
    {SANLK_RELEASE_OWNER, ANY, VL_ERR_LOST, "somebody else has it"},

    /* storage */
    {SANLK_AIO_TIMEOUT, ANY, VL_ERR_STORAGE, "the storage did not answer sanlock in time"},
    {SANLK_DBLOCK_READ, ANY, VL_ERR_STORAGE, "sanlock cannot read the lease"},
    {SANLK_DBLOCK_WRITE, ANY, VL_ERR_STORAGE, "sanlock cannot write the lease"},
    {SANLK_LEADER_READ, ANY, VL_ERR_STORAGE, "sanlock cannot read the lease"},
    {SANLK_LEADER_WRITE, ANY, VL_ERR_STORAGE, "sanlock cannot write the lease"},
    {-EIO, ANY, VL_ERR_STORAGE, "the storage reports an error"},
    {-ENOSPC, VL_SANLOCK_FORMAT, VL_ERR_STORAGE, "the file system is full"},
    {-EDQUOT, ANY, VL_ERR_STORAGE, "the quota of the file system is used up"},
    {-EROFS, ANY, VL_ERR_STORAGE, "the file system is read-only"},
    {-EINVAL, IO, VL_ERR_STORAGE,
     "the file system refuses direct I/O in sectors of this size; set sanlock_sector_size to 4096 for 4K disks"},
    {-ENOENT, IO, VL_ERR_MISSING, "the file does not exist"},
    {-ENODEV, IO, VL_ERR_MISSING, "sanlock cannot open it: missing, or no permission for the sanlock daemon's user"},
    {-ENOTDIR, IO, VL_ERR_MISSING, "a part of the path is no directory"},
    {-EACCES, IO, VL_ERR_DENIED,
     "the sanlock daemon's user may not open it; sanlock_user and sanlock_group must be those it runs as"},
    {-EPERM, IO, VL_ERR_DENIED, "not permitted"},
    {-ENAMETOOLONG, ANY, VL_ERR_CONFIG, "the path is longer than sanlock allows"},
};

const char *
vl_sanlock_words(VlSanlockVerb verb, int rc, enum vl_error *ret_code)
{
    for (gsize i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].rc == rc && (table[i].verbs & (unsigned int)verb)) {
            *ret_code = table[i].code;
            return table[i].text;
        }
    }
    *ret_code = VL_ERR_STORAGE;
    return "sanlock refuses with an error unknown here";
}

/* Not through printf: the format would not be a literal. */
static char *
put_owner(const char *text, const char *who)
{
    const char *at = strstr(text, "%s");
    if (!at)
        return g_strdup(text);
    return g_strdup_printf("%.*s%s%s", (int)(at - text), text, who ? who : "another host", at + 2);
}

void
vl_sanlock_error(GError **error, VlSanlockVerb verb, int rc, const char *what, const char *who)
{
    enum vl_error code;
    const char *text = vl_sanlock_words(verb, rc, &code);
    g_autofree char *sentence = put_owner(text, who);
    if (rc == VL_SANLOCK_DOWN)
        vl_set_error(error, code, "%s: %s", what, sentence);
    else
        vl_set_error(error, code, "%s: %s (sanlock %d)", what, sentence, rc);
}

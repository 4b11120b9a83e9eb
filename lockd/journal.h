/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What must survive a crash of virtleased: which QEMU processes were registered and for which volumes a
 * lease was sought (written before the first compare-and-swap, R18), and which boots of this host ran
 * virtleased (R8). One small file per VM, replaced by rename, in STATE_DIR; a lock on the directory keeps
 * a second daemon out. Losing it loses no lease: status XMLs and records rebuild it.
 */
#ifndef VL_LOCKD_JOURNAL_H
#define VL_LOCKD_JOURNAL_H

#include <glib.h>

#include "common/volume.h"
#include "lockd/record.h"
#include "lockd/vm.h"

typedef struct VlJournal VlJournal;

/* Creates the directory if needed and adds `boot` to the known boots. JOURNAL when it cannot be written or
 * another daemon has it. */
VlJournal *vl_journal_open(const char *dir, const char *boot, GError **error);
void vl_journal_close(VlJournal *journal);
gboolean vl_journal_knows_boot(VlJournal *journal, const char *boot);

/* One VM as written. */
typedef struct {
    VlIncarnation who;
    char *name, *uri;
    int action;
    GPtrArray *specs; /* of struct vl_volume_spec */
} VlJournalVm;
void vl_journal_vm_free(VlJournalVm *vm);

/* Call with the VM's operation lock held. */
gboolean vl_journal_write(VlJournal *journal, VlVm *vm, GError **error);
/* The same, unless the file says so already: then it was written and synced in an earlier life of this daemon. */
gboolean vl_journal_ensure(VlJournal *journal, VlVm *vm, GError **error);
void vl_journal_remove(VlJournal *journal, const VlIncarnation *who);
GPtrArray *vl_journal_read(VlJournal *journal); /* of VlJournalVm; broken files are logged and set aside */

#endif

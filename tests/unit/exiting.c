/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/exiting.h"

#include "lockd/free.h"

static const char *const own_addrs[] = {A1, A2};

/* web1 runs: recorded as HELD with its client, which watches the image and owns its lock. */
void
exiting_case_begin(Case *c, guint n)
{
    case_begin(c, FALSE, n > 1 ? "vol2" : NULL);
    g_assert_true(case_take(c, 20, 60));
    for (guint i = 0; i < n; i++) {
        VlRecord *record = fake_get(c->store, case_volumes[i]);
        VlHolder *holder = vl_record_find(record, &c->vm->who);
        holder->held = TRUE;
        vl_addrs_add(holder->addrs, own_addrs[i]);
        record->epoch = 7;
        fake_put(c->store, case_volumes[i], record);
        fake_watch(c->store, case_volumes[i], own_addrs[i]);
        fake_own(c->store, case_volumes[i], own_addrs[i]);
    }
    c->vm->ever_held = TRUE;
    fake_counts_reset(c->store);
}

void
exiting_closed(Case *c, const char *volume, const char *addr)
{
    fake_unwatch(c->store, volume, addr);
    fake_own(c->store, volume, NULL);
}

/* Until the daemon has forgotten the VM. */
void
exiting_finish(Case *c)
{
    vl_exit_begin(c->world->daemon, c->vm);
    world_finish_jobs(c->world);
    g_assert_true(c->vm->gone);
    for (guint i = 0; i < c->vm->leases->len; i++)
        g_assert_cmpint(((VlLease *)c->vm->leases->pdata[i])->state, ==, VL_LEASE_FREE);
    g_autofree char *index = fake_index(c->store, c->world->place, "host-a");
    g_assert_cmpstr(index, ==, "");
    g_autoptr(GPtrArray) journal = vl_journal_read(c->world->daemon->journal);
    g_assert_cmpuint(journal->len, ==, 0);
}

void
exiting_assert_fenced(Case *c, const char *volume, const char *addr)
{
    g_autoptr(VlRecord) record = fake_get(c->store, volume);
    g_assert_cmpint(fake_blocklist_get(c->store, addr), >, 0);
    g_assert_cmpuint(record->fenced->len, ==, 1);
    g_assert_cmpstr(((VlFenced *)record->fenced->pdata[0])->addr, ==, addr);
    g_assert_cmpuint(record->epoch, ==, 8);
}

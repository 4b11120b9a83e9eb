/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/hold.h"

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/judge.h"
#include "lockd/procinfo.h"
#include "lockd/rules.h"
#include "lockd/take.h"
#include "lockd/takeover.h"

#define STEP_S          6
#define ADDRESS_WAIT_S  3.0
#define BACK_WAIT_S     5.0 /* for a failed migration's destination to be gone */
#define PARK_ATTEMPTS   5
#define ADDRESS_POLL_US (100 * 1000)

/* ---- addresses ---- */

GPtrArray *
vl_hold_find_addrs(VlVm *vm, const VlLease *lease, const VlLook *look, GError **error)
{
    GPtrArray *addrs = vl_addrs_new();
    if (lease->spec.krbd) {
        char *addr = NULL;
        if (vl_volume_krbd_client(lease->spec.path, "/sys", "/dev", &addr) == 0)
            vl_addrs_add(addrs, addr);
        free(addr);
        return addrs;
    }
    g_autoptr(GHashTable) ips = vl_proc_local_ips((pid_t)vm->who.pid, error);
    for (guint i = 0; ips && look->watchers && i < look->watchers->len; i++) {
        const VlWatcher *watcher = look->watchers->pdata[i];
        g_autofree char *ip = vl_addr_ip(watcher->addr);
        if (ip && g_hash_table_contains(ips, ip) && !(lease->baseline && vl_addrs_has(lease->baseline, watcher->addr)))
            vl_addrs_add(addrs, watcher->addr);
    }
    return addrs;
}

/* The recorded addresses and those on the image now; FALSE when nothing at all is known of this QEMU. */
static gboolean
refresh_addrs(VlVm *vm, VlTake *take, GPtrArray *addrs, GError **error)
{
    if (take->lease->device)
        return TRUE; /* nothing of QEMU's uses it yet */
    gboolean all_known = addrs->len > 0;
    for (guint i = 0; take->look.watchers && i < take->look.watchers->len && all_known; i++) {
        const char *addr = ((VlWatcher *)take->look.watchers->pdata[i])->addr;
        all_known = vl_addrs_has(addrs, addr) || (take->lease->baseline && vl_addrs_has(take->lease->baseline, addr));
    }
    gboolean present = FALSE;
    for (guint i = 0; i < addrs->len && !present; i++)
        present = vl_watchers_have(take->look.watchers, addrs->pdata[i]) || take->lease->spec.krbd;
    if (all_known && present)
        return TRUE; /* the common resume: no look at /proc */
    g_autoptr(GPtrArray) found = vl_hold_find_addrs(vm, take->lease, &take->look, NULL);
    for (guint i = 0; i < found->len; i++)
        vl_addrs_add(addrs, found->pdata[i]);
    if (found->len)
        return TRUE;
    vl_set_error(error, VL_ERR_NO_ADDRESS,
                 "%s: no client of this QEMU (pid %" G_GINT64_FORMAT
                 ") was found among those that watch the image, so it could "
                 "not be fenced later; it may not run. See rbd status, and whether QEMU reaches Ceph from this network "
                 "namespace",
                 take->lease->volume->display, vm->who.pid);
    return FALSE;
}

/* ---- one attempt ---- */

/* After a migration that failed: the destination has the lease, handed over by this very process, and may yet turn out
 * never to have run. Its daemon gives the lease back when that QEMU is gone (R1). */
static gboolean
may_come_back(VlVm *vm, const VlRecord *record)
{
    return vl_rules_is_previous(record, &vm->who) && record->holders->len == 1 &&
           g_str_equal(((VlHolder *)record->holders->pdata[0])->who.uuid, vm->who.uuid);
}

static void
refuse_stale(const VlTake *take, const char *advice, GError **error)
{
    const VlHolder *other = take->record->holders->len ? take->record->holders->pdata[0] : NULL;
    g_autofree char *who = other ? vl_holder_describe(other) : g_strdup("free now");
    vl_set_error(error, VL_ERR_STALE,
                 "%s ran elsewhere since this VM had it (%s): its memory here is stale and it may not go on. %s",
                 take->lease->volume->display, who, advice);
}

/* The destination's host may be dead: then nobody gives the lease back, and we take it back ourselves, fencing that
 * host's clients first, if the image's exclusive lock shows that the VM never wrote there. */
static gboolean
take_back(VlDaemon *daemon, VlVm *vm, VlTake *take, gint64 back_until, const VlCall *call, GError **error)
{
    VlPatience patience = {.wait_s = daemon->settings->takeover_wait, .began = vl_clock_now(), .call = call};
    g_autoptr(GPtrArray) one = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    VlTake *back = vl_take_new(take->lease);
    g_autoptr(GError) local = NULL;
    g_ptr_array_add(one, back);
    if (!vl_take_look(one, VL_LOOK_ALL, vl_call_within(call, STEP_S), error))
        return FALSE;
    if (!may_come_back(vm, back->record)) {
        vl_set_error(error, VL_ERR_CHANGED, "%s: its lease changed hands", take->lease->volume->display);
        return FALSE;
    }
    back->give_back = TRUE;
    back->step = VL_TAKE_BLOCKED;
    g_ptr_array_add(back->blockers, back->record->holders->pdata[0]);
    if (!vl_judge_blockers(daemon, one, &patience, &local)) {
        if (vl_error_code(local) != VL_ERR_HELD) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        if (vl_clock_now() < back_until)
            vl_set_error(error, VL_ERR_CHANGED, "%s: waiting whether the destination of the migration gives it back",
                         take->lease->volume->display);
        else
            refuse_stale(take, "Destroy it here, unless the VM over there never ran and ends: then resume it", error);
        return FALSE;
    }
    if (!vl_takeover(daemon, vm, one, call, error))
        return FALSE;
    g_message("%s: taken back from the dead destination of the migration, where the VM never wrote",
              take->lease->volume->display);
    vl_set_error(error, VL_ERR_CHANGED, "%s: taken back", take->lease->volume->display);
    return FALSE; /* the next attempt finds it ours */
}

static gboolean
record_still_ours(VlDaemon *daemon, VlVm *vm, VlTake *take, gint64 back_until, const VlCall *call, GError **error)
{
    if (vl_record_find(take->record, &vm->who))
        return TRUE;
    if (may_come_back(vm, take->record))
        return take_back(daemon, vm, take, back_until, call, error);
    vl_lease_set_state(take->lease, VL_LEASE_LOST, "the record does not name this process");
    refuse_stale(take, "Destroy it here", error);
    return FALSE;
}

static gboolean
write_held(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, const char *token, GError **error)
{
    guint n = takes->len;
    g_autofree VlLease **leases = g_new0(VlLease *, n);
    g_autofree VlRecord **next = g_new0(VlRecord *, n);
    g_autofree GBytes **expect = g_new0(GBytes *, n);
    gboolean ok = TRUE;
    for (guint i = 0; i < n; i++) {
        VlTake *take = takes->pdata[i];
        leases[i] = take->lease;
        expect[i] = take->lease->raw;
        next[i] = vl_record_copy(take->lease->record);
        VlHolder *holder = vl_record_find(next[i], &vm->who);
        holder->held = TRUE;
        holder->session = vl_sessions_number(daemon->sessions, take->lease->volume->place);
        g_free(holder->token);
        holder->token = g_strdup(token);
        g_ptr_array_set_size(next[i]->heirs, 0); /* the CPUs run on here: a migration to elsewhere has failed */
        for (guint k = 0; k < take->set->len; k++)
            vl_addrs_add(holder->addrs, take->set->pdata[k]);
        take->lease->unwritten = TRUE; /* until all of it is known to be done; see vl_hold_all() */
    }
    ok = vl_cas_ours(leases, next, expect, n, vl_deadline_in(STEP_S), error);
    for (guint i = 0; i < n; i++)
        vl_record_free(next[i]);
    return ok;
}

/* With what is known to be stored, so that a resume is one write and one look at the watchers. */
static gboolean
hold_attempt(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, gboolean reread, gint64 back_until, const char *token,
             const VlCall *call, GError **error)
{
    guint what = VL_LOOK_WATCHERS | (reread ? VL_LOOK_RECORD : 0);
    if (!vl_take_look(takes, what, vl_call_within(call, STEP_S), error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (reread) {
            VlPatience patience = {.wait_s = daemon->settings->takeover_wait, .began = vl_clock_now(), .call = call};
            if (!record_still_ours(daemon, vm, take, back_until, call, error) ||
                !vl_judge_claim(daemon, take, &patience, error))
                return FALSE;
            /* A claim that was judged dead is struck by our write. */
            g_autoptr(VlRecord) struck = vl_record_copy(take->record);
            g_clear_pointer(&struck->claim, vl_claim_free);
            vl_lease_set_record(take->lease, g_bytes_ref(take->look.record), g_steal_pointer(&struck));
        }
        g_clear_pointer(&take->set, g_ptr_array_unref);
        take->set = vl_addrs_copy(vl_lease_holder(take->lease)->addrs);
        if (!refresh_addrs(vm, take, take->set, error))
            return FALSE;
    }
    VL_FAULT("before-hold");
    return write_held(daemon, vm, takes, token, error);
}

static gboolean
hold_takes(VlDaemon *daemon, VlVm *vm, GPtrArray *takes, const char *token, const VlCall *call, GError **error)
{
    gint64 address_until = vl_deadline_in(ADDRESS_WAIT_S);
    gint64 back_until = vl_deadline_in(BACK_WAIT_S);
    gboolean reread = FALSE;
    for (guint i = 0; i < takes->len && !reread; i++)
        reread = !vl_lease_holder(((VlTake *)takes->pdata[i])->lease); /* handed to a migration's destination */
    g_autoptr(GError) last = NULL;
    for (;;) {
        g_autoptr(GError) local = NULL;
        if (!vl_call_check(call, "giving the VM its leases", &local)) {
            g_propagate_error(error, last ? g_steal_pointer(&last) : g_steal_pointer(&local));
            return FALSE;
        }
        if (hold_attempt(daemon, vm, takes, reread, back_until, token, call, &local))
            return TRUE;
        enum vl_error code = vl_error_code(local);
        gboolean wait_for_address = code == VL_ERR_NO_ADDRESS && vl_clock_now() < address_until;
        if (code != VL_ERR_CHANGED && code != VL_ERR_STORAGE && !wait_for_address) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        reread = reread || code == VL_ERR_CHANGED;
        g_clear_error(&last);
        last = g_steal_pointer(&local);
        vl_clock_sleep_until(vl_clock_now() + ADDRESS_POLL_US, call);
    }
}

gboolean
vl_hold_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, const char *token, const VlCall *call, GError **error)
{
    g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < leases->len; i++)
        g_ptr_array_add(takes, vl_take_new(leases->pdata[i]));
    return hold_takes(daemon, vm, takes, token, call, error);
}

/* ---- parking ---- */

/* Its token is that of a resume which was not done. Any other one is not touched (R2): whoever changed it had a reason,
 * and with it this VM is not handed over. */
static gboolean
half_resumed(const VlVm *vm, const VlHolder *holder)
{
    return vm->next_token && g_strcmp0(holder->token, vm->next_token) == 0;
}

/* As it must be stored while the CPUs stand still: PARKED, under the token that libvirt has. */
static void
park_holder(const VlVm *vm, VlHolder *holder)
{
    holder->held = FALSE;
    if (!half_resumed(vm, holder))
        return;
    g_free(holder->token);
    holder->token = g_strdup(vm->token);
}

/* Reads one record and brings it from HELD to PARKED. */
static gboolean
park_one(VlVm *vm, VlLease *lease, GError **error)
{
    for (guint attempt = 0; attempt < PARK_ATTEMPTS; attempt++) {
        g_autoptr(GPtrArray) takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
        VlTake *take = vl_take_new(lease);
        g_ptr_array_add(takes, take);
        g_clear_error(error);
        if (!vl_take_look(takes, VL_LOOK_RECORD, vl_deadline_in(STEP_S), error))
            return FALSE;
        g_autoptr(VlRecord) next = vl_record_copy(take->record);
        VlHolder *holder = vl_record_find(next, &vm->who);
        VlRecord *write = next;
        vl_lease_set_record(lease, take->look.record ? g_bytes_ref(take->look.record) : NULL,
                            g_steal_pointer(&take->record));
        if (!holder || (!holder->held && !half_resumed(vm, holder)))
            return TRUE; /* not ours to write any more, or done */
        if (next->claim) {
            vl_set_error(error, VL_ERR_HELD, "%s: host %s is about to take it over", lease->volume->display,
                         next->claim->host_name);
            return FALSE;
        }
        park_holder(vm, holder);
        if (vl_cas_records(&lease, &write, &lease->raw, 1, vl_deadline_in(STEP_S), error))
            return TRUE;
        if (vl_error_code(*error) != VL_ERR_CHANGED)
            return FALSE;
    }
    return FALSE;
}

/* All disks at once, from what is known to be stored, because a migration's destination waits for it. What this does
 * not get done stays `unwritten`, and park_one() looks into it. */
static void
park_known(VlVm *vm, GPtrArray *leases)
{
    guint n = 0;
    g_autofree VlLease **held = g_new0(VlLease *, leases->len + 1);
    g_autofree VlRecord **next = g_new0(VlRecord *, leases->len + 1);
    g_autofree GBytes **expect = g_new0(GBytes *, leases->len + 1);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        if (!vl_lease_holder(lease) || lease->record->claim)
            continue;
        held[n] = lease;
        expect[n] = lease->raw;
        next[n] = vl_record_copy(lease->record);
        park_holder(vm, vl_record_find(next[n], &vm->who));
        n++;
    }
    (void)vl_cas_ours(held, next, expect, n, vl_deadline_in(STEP_S), NULL);
    for (guint i = 0; i < n; i++) {
        held[i]->unwritten = g_strcmp0(held[i]->record->write, next[i]->write) != 0;
        vl_record_free(next[i]);
    }
}

gboolean
vl_park_records(VlDaemon *daemon, VlVm *vm, GPtrArray *leases, GError **error)
{
    gboolean ok = TRUE;
    park_known(vm, leases);
    for (guint i = 0; i < leases->len; i++) {
        VlLease *lease = leases->pdata[i];
        g_autoptr(GError) local = NULL;
        lease->unwritten = lease->unwritten && !park_one(vm, lease, &local);
        if (!lease->unwritten)
            continue;
        gboolean away = vl_error_code(local) == VL_ERR_STORAGE; /* the others would only wait as long for nothing */
        if (ok)
            g_propagate_error(error, g_steal_pointer(&local));
        ok = FALSE;
        if (away)
            break;
    }
    return ok;
}

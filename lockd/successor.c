/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/successor.h"

#include "lockd/error.h"
#include "lockd/fault.h"
#include "lockd/identity.h"
#include "lockd/rules.h"
#include "lockd/take.h"
#include "lockd/takeover.h"

#define STEP_S   6
#define LOOK_S   2 /* under the VM's operation lock, every second */
#define ANSWER_S 0.5
#define FENCE_S  15
#define BEATS    4 /* a living host renews its session so often in its dead_after */

/* ---- what there is to look at ---- */

/* In memory: ours to act on. The table's lock or the VM's operation lock held. */
static gboolean
is_due(const VlLease *lease)
{
    return lease->state == VL_LEASE_HELD && lease->record && lease->record->previous &&
           vl_record_find(lease->record, &lease->vm->who);
}

/* The source in one place; a VM with disks in several pools has as many. */
typedef struct {
    VlPlace *place;
    char *volume; /* key of one volume there: a verdict is asked about one */
    VlHolder *previous;
    VlVerdict verdict;
} Source;

static void
source_free(gpointer data)
{
    Source *source = data;
    vl_holder_free(source->previous);
    vl_verdict_clear(&source->verdict);
    g_free(source->volume);
    g_free(source);
}

static Source *
source_in(const GPtrArray *sources, const VlPlace *place)
{
    for (guint i = 0; i < sources->len; i++)
        if (((Source *)sources->pdata[i])->place == place)
            return sources->pdata[i];
    return NULL;
}

static GPtrArray *
sources_of(VlVm *vm)
{
    GPtrArray *sources = g_ptr_array_new_with_free_func(source_free);
    vl_vms_lock(vm->vms);
    for (guint i = 0; i < vm->leases->len; i++) {
        const VlLease *lease = vm->leases->pdata[i];
        if (!is_due(lease) || source_in(sources, lease->volume->place))
            continue;
        Source *source = g_new0(Source, 1);
        source->place = lease->volume->place;
        source->volume = g_strdup(lease->volume->key);
        source->previous = vl_holder_copy(lease->record->previous);
        g_ptr_array_add(sources, source);
    }
    vl_vms_unlock(vm->vms);
    return sources;
}

static GPtrArray *
takes_due(VlVm *vm, const GPtrArray *sources)
{
    GPtrArray *takes = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < vm->leases->len && !g_atomic_int_get(&vm->exited); i++) {
        VlLease *lease = vm->leases->pdata[i];
        if (is_due(lease) && (!sources || source_in(sources, lease->volume->place)))
            g_ptr_array_add(takes, vl_take_new(lease));
    }
    return takes;
}

/* As a rule the source has been struck by its own daemon before the first look. What is not as expected is the audit's
 * business. Operation lock held. */
static void
refresh(VlVm *vm)
{
    g_autoptr(GPtrArray) takes = takes_due(vm, NULL);
    if (!vl_take_look(takes, VL_LOOK_RECORD, vl_deadline_in(LOOK_S), NULL))
        return;
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        if (vl_record_find(take->record, &vm->who) && !take->record->claim)
            vl_lease_set_record(take->lease, g_bytes_ref(take->look.record), vl_record_copy(take->record));
        else
            g_atomic_int_set(&vm->audit_soon, 1);
    }
}

/* ---- is its host dead? ---- */

/* One read a second tells that a host lives, as long as its counter moves as often as it should. */
static gboolean
seems_alive(VlVm *vm, const Source *source)
{
    VlSessionObject object = {0};
    if (!source->place->store->ops->session_read(source->place, source->previous->who.host, &object,
                                                 vl_deadline_in(LOOK_S), NULL))
        return TRUE; /* nothing can be told now */
    g_autoptr(VlIdentity) identity = object.present ? vl_identity_parse(object.identity, NULL) : NULL;
    gint64 now = vl_clock_now();
    if (vm->source_counter && object.present && object.counter != vm->source_counter)
        vm->source_moved = now;
    vm->source_counter = object.counter;
    vl_session_object_clear(&object);
    gint64 beat = identity ? (gint64)identity->dead_after * G_USEC_PER_SEC / BEATS : 0;
    return identity && identity->mark == VL_SESSION_LIVE && vm->source_moved &&
           now - vm->source_moved < beat + G_USEC_PER_SEC;
}

/* Dead in all places, or it is alive. */
static gboolean
is_dead(VlDaemon *daemon, VlVm *vm, GPtrArray *sources)
{
    VlCall call = {.deadline = vl_deadline_in(ANSWER_S), .gone = &vm->exited};
    gboolean dead = TRUE;
    for (guint i = 1; i < sources->len; i++) { /* their windows pass at the same time */
        Source *source = sources->pdata[i];
        VlAsk ask = {source->volume, &source->previous->who, NULL};
        vl_verdict_begin(daemon->verdicts, source->place, &ask, source->previous->session, &call);
    }
    for (guint i = 0; i < sources->len; i++) {
        Source *source = sources->pdata[i];
        VlAsk ask = {source->volume, &source->previous->who, NULL};
        call.deadline = vl_deadline_in(ANSWER_S);
        vl_verdict_clear(&source->verdict);
        gboolean known = vl_verdict_get(daemon->verdicts, source->place, &ask, source->previous->session, &call,
                                        &source->verdict, NULL);
        if (known && source->verdict.kind != VL_VERDICT_DEAD)
            vm->source_moved = vl_clock_now();
        dead = dead && known && source->verdict.kind == VL_VERDICT_DEAD;
    }
    return dead;
}

/* Said once: the look is repeated every second. */
static void
tell(VlVm *vm, const Source *source, const char *why)
{
    if (!vm->source_told)
        g_warning("VM %s was migrated from host %s, which has died since; %s. Its writes here may wait for the dead "
                  "host's exclusive lock",
                  vm->name, source->previous->host_name, why);
    vm->source_told = TRUE;
}

static gboolean
may_fence(VlDaemon *daemon, VlVm *vm, const GPtrArray *sources)
{
    for (guint i = 0; i < sources->len; i++) {
        const Source *source = sources->pdata[i];
        if (daemon->settings->takeover == VL_TAKEOVER_MANUAL && !source->verdict.ended) {
            g_autofree char *why =
                g_strdup_printf("takeover = \"manual\": run 'virtleasectl fence %s'", source->previous->host_name);
            tell(vm, source, why);
            return FALSE;
        }
    }
    return TRUE;
}

/* ---- in its place ---- */

static gboolean
confirm(GPtrArray *sources, GError **error)
{
    for (guint i = 0; i < sources->len; i++) {
        const Source *source = sources->pdata[i];
        VlCall call = {.deadline = vl_deadline_in(STEP_S)};
        VlAsk ask = {source->volume, &source->previous->who, NULL};
        if (!vl_verdict_confirm(source->place, &ask, &source->verdict, &call, error))
            return FALSE;
    }
    return TRUE;
}

/* Exactly what previous recorded. An image that its kernel client has open is left alone (R14). */
static gboolean
choose(VlDaemon *daemon, VlVm *vm, VlTake *take, const Source *source)
{
    if (!vl_rules_may_succeed(take->record, &vm->who, source->previous))
        return FALSE;
    g_autoptr(VlIdentity) identity =
        source->verdict.seen.present ? vl_identity_parse(source->verdict.seen.identity, NULL) : NULL;
    if (take->lease->spec.krbd && !identity) {
        tell(vm, source, "its kernel clients are not known, so none is fenced");
        return FALSE;
    }
    for (guint i = 0; identity && i < identity->krbd->len; i++)
        if (vl_addrs_has(take->record->previous->addrs, identity->krbd->pdata[i])) {
            tell(vm, source, "its kernel client served other images as well and is not fenced");
            return FALSE;
        }
    g_ptr_array_add(take->blockers, take->record->previous);
    VlFenceQuestion question = {.record = take->record,
                                .victims = take->blockers,
                                .dead_ips = take->dead_ips,
                                .never = take->never,
                                .own_ips = daemon->host->ips};
    take->set = vl_rules_fence_set(&question);
    return TRUE;
}

static gboolean
fence(VlDaemon *daemon, const GPtrArray *takes, const GPtrArray *sources, GPtrArray *fenced, GError **error)
{
    for (guint i = 0; i < sources->len; i++) {
        VlPlace *place = ((Source *)sources->pdata[i])->place;
        g_autoptr(GPtrArray) all = vl_addrs_new();
        for (guint k = 0; k < takes->len; k++) {
            const VlTake *take = takes->pdata[k];
            for (guint a = 0; take->lease->volume->place == place && a < take->set->len; a++)
                vl_addrs_add(all, take->set->pdata[a]);
        }
        if (!vl_fence_set(daemon, place, all, fenced, vl_deadline_in(FENCE_S), error))
            return FALSE;
    }
    return TRUE;
}

/* Exactly the owner that the last look showed. */
static gboolean
break_lock(const VlTake *take, GError **error)
{
    const VlLockOwner *owner = take->look.owner;
    if (!owner || !owner->managed || !vl_addrs_has(take->set, owner->addr))
        return TRUE;
    g_message("%s: breaking the exclusive lock of %s (%s)", take->lease->volume->display, owner->addr, owner->entity);
    return take->lease->volume->place->store->ops->break_lock(take->lease->volume, owner, vl_deadline_in(STEP_S),
                                                              error);
}

/* Behind the barrier: the records are what they were, and the locks have not come back to the fenced. */
static gboolean
check_again(const GPtrArray *takes, GError **error)
{
    g_autoptr(GPtrArray) again = g_ptr_array_new_with_free_func((GDestroyNotify)vl_take_free);
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        VlTake *now = vl_take_new(take->lease);
        now->set = vl_addrs_copy(take->set);
        g_ptr_array_add(again, now);
    }
    if (!vl_take_look(again, VL_LOOK_RECORD | VL_LOOK_OWNER, vl_deadline_in(STEP_S), error))
        return FALSE;
    for (guint i = 0; i < takes->len; i++) {
        const VlTake *take = takes->pdata[i];
        const VlTake *now = again->pdata[i];
        if (!now->look.record || !g_bytes_equal(now->look.record, take->look.record)) {
            vl_set_error(error, VL_ERR_CHANGED, "%s: its record changed meanwhile", take->lease->volume->display);
            return FALSE;
        }
        if (!break_lock(now, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
strike(const GPtrArray *takes, const GPtrArray *fenced, GError **error)
{
    g_autofree VlLease **leases = g_new0(VlLease *, takes->len);
    g_autofree VlRecord **next = g_new0(VlRecord *, takes->len);
    g_autofree GBytes **expect = g_new0(GBytes *, takes->len);
    for (guint i = 0; i < takes->len; i++) {
        VlTake *take = takes->pdata[i];
        leases[i] = take->lease;
        expect[i] = take->look.record;
        next[i] = vl_record_copy(take->record);
        g_clear_pointer(&next[i]->previous, vl_holder_free);
        vl_fenced_into(next[i], take->set, fenced);
    }
    gboolean ok = vl_cas_ours(leases, next, expect, takes->len, vl_deadline_in(STEP_S), error);
    for (guint i = 0; i < takes->len; i++)
        vl_record_free(next[i]);
    return ok;
}

/* The dead host's index is only a list for people. */
static void
unindex(const GPtrArray *takes, const GPtrArray *sources)
{
    for (guint i = 0; i < takes->len; i++) {
        const VlVolume *volume = ((VlTake *)takes->pdata[i])->lease->volume;
        g_autoptr(GPtrArray) keys = g_ptr_array_new();
        g_ptr_array_add(keys, volume->key);
        (void)volume->place->store->ops->index_del(volume->place, source_in(sources, volume->place)->previous->who.host,
                                                   keys, vl_deadline_in(STEP_S), NULL);
    }
}

static gboolean
succeed(VlDaemon *daemon, VlVm *vm, GPtrArray *sources, GError **error)
{
    g_autoptr(GPtrArray) fenced = g_ptr_array_new_with_free_func((GDestroyNotify)vl_fenced_free);
    g_autoptr(GPtrArray) takes = takes_due(vm, sources);
    VL_FAULT("source-before-fence");
    if (!takes->len || !confirm(sources, error) || !vl_take_look(takes, VL_LOOK_ALL, vl_deadline_in(STEP_S), error))
        return FALSE;
    for (guint i = takes->len; i > 0; i--) {
        VlTake *take = takes->pdata[i - 1];
        if (!choose(daemon, vm, take, source_in(sources, take->lease->volume->place)))
            g_ptr_array_remove_index(takes, i - 1);
    }
    if (!takes->len || g_atomic_int_get(&vm->exited))
        return FALSE;
    for (guint i = 0; i < takes->len; i++)
        if (!break_lock(takes->pdata[i], error))
            return FALSE;
    VL_FAULT("source-after-break");
    if (!fence(daemon, takes, sources, fenced, error))
        return FALSE;
    VL_FAULT("source-after-fence");
    if (!check_again(takes, error) || !strike(takes, fenced, error))
        return FALSE;
    unindex(takes, sources);
    g_message("VM %s: host %s, from which it was migrated, is dead; %u client(s) fenced, %u image(s) free of it",
              vm->name, ((Source *)sources->pdata[0])->previous->host_name, fenced->len, takes->len);
    return TRUE;
}

void
vl_successor_look(VlDaemon *daemon, VlVm *vm)
{
    if (!g_mutex_trylock(&vm->op))
        return; /* a call is at it: the next second will do */
    refresh(vm);
    g_mutex_unlock(&vm->op);
    g_autoptr(GPtrArray) sources = sources_of(vm);
    if (!sources->len || seems_alive(vm, sources->pdata[0]) || !is_dead(daemon, vm, sources) ||
        !may_fence(daemon, vm, sources) || !g_mutex_trylock(&vm->op))
        return;
    g_autoptr(GError) error = NULL;
    if (!succeed(daemon, vm, sources, &error) && error)
        g_warning("VM %s: the dead source of its migration is not fenced yet: %s", vm->name, error->message);
    g_mutex_unlock(&vm->op);
}

/* ---- jobs ---- */

static void
look_job(VlDaemon *daemon, gpointer data)
{
    VlVm *vm = data;
    vl_successor_look(daemon, vm);
    g_atomic_int_set(&vm->source_looked, 0);
}

void
vl_successor_begin(VlDaemon *daemon)
{
    g_autoptr(GPtrArray) vms = vl_vms_all(daemon->vms);
    for (guint i = 0; i < vms->len; i++) {
        VlVm *vm = vms->pdata[i];
        gboolean due = FALSE;
        vl_vms_lock(daemon->vms);
        for (guint k = 0; k < vm->leases->len && !due; k++)
            due = is_due(vm->leases->pdata[k]);
        vl_vms_unlock(daemon->vms);
        if (due && g_atomic_int_compare_and_exchange(&vm->source_looked, 0, 1))
            vl_daemon_run(daemon, look_job, vl_vm_ref(vm), (GDestroyNotify)vl_vm_unref);
    }
}

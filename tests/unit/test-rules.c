/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Decisions as functions of values: who may take, what a grant and a free leave behind, whom a takeover may fence. */
#include "lockd/rules.h"
#include "tests/unit/world.h"

static VlHolder *
holder(const char *host, const char *vm, const char *addr)
{
    VlHolder *made = vl_holder_new();
    made->who = (VlIncarnation){g_strdup(host), g_strdup("boot"), g_strconcat("uuid-", vm, NULL), 100, 5};
    made->machine = g_strdup("m");
    made->host_name = g_strdup(host);
    made->vm = g_strdup(vm);
    made->token = g_strdup("t");
    if (addr)
        vl_addrs_add(made->addrs, addr);
    return made;
}

static void
add_claim(VlRecord *record, const char *addr)
{
    record->claim = g_new0(VlClaim, 1);
    record->claim->id = g_strdup("id");
    record->claim->host = g_strdup("c");
    record->claim->host_name = g_strdup("c");
    record->claim->addrs = vl_addrs_new();
    if (addr)
        vl_addrs_add(record->claim->addrs, addr);
}

static void
assert_take(const VlRecord *record, const VlIncarnation *me, gboolean shared, VlTakeStep want, guint blockers)
{
    g_autoptr(GPtrArray) got = g_ptr_array_new();
    g_assert_cmpint(vl_rules_take(record, me, shared, got), ==, want);
    g_assert_cmpuint(got->len, ==, blockers);
    for (guint i = 0; i < got->len; i++)
        g_assert_false(vl_incarnation_equal(&((VlHolder *)got->pdata[i])->who, me));
}

/* ---- taking ---- */

static void
test_take_exclusive(void)
{
    g_autoptr(VlHolder) me = holder("a", "web1", NULL);
    g_autoptr(VlHolder) before = vl_holder_copy(me);
    g_autoptr(VlRecord) record = vl_record_new();
    before->who.start++; /* our pid again, another process */
    assert_take(record, &me->who, FALSE, VL_TAKE_FREE, 0);
    vl_record_add_fence(record, "10.0.0.1:0/1", 1, 2, 3);
    assert_take(record, &me->who, FALSE, VL_TAKE_FREE, 0);
    g_ptr_array_add(record->holders, vl_holder_copy(before));
    assert_take(record, &me->who, FALSE, VL_TAKE_BLOCKED, 1);
    g_ptr_array_add(record->holders, holder("b", "web1", NULL));
    assert_take(record, &me->who, FALSE, VL_TAKE_BLOCKED, 2);
    g_ptr_array_set_size(record->holders, 0);
    g_ptr_array_add(record->holders, vl_holder_copy(me));
    assert_take(record, &me->who, FALSE, VL_TAKE_OURS, 0);
}

static void
test_take_claimed(void)
{
    g_autoptr(VlHolder) me = holder("a", "web1", NULL);
    g_autoptr(VlRecord) record = vl_record_new();
    add_claim(record, NULL);
    assert_take(record, &me->who, FALSE, VL_TAKE_BLOCKED, 0);
    assert_take(record, &me->who, TRUE, VL_TAKE_BLOCKED, 0);
    /* Somebody thinks we are dead: our own name in the record is no leave to go on. */
    g_ptr_array_add(record->holders, vl_holder_copy(me));
    assert_take(record, &me->who, FALSE, VL_TAKE_BLOCKED, 0);
}

static void
test_take_shared(void)
{
    g_autoptr(VlHolder) me = holder("a", "web1", NULL);
    g_autoptr(VlRecord) record = world_record(holder("b", "web2", NULL), NULL);
    assert_take(record, &me->who, TRUE, VL_TAKE_BLOCKED, 1);
    record->shared = TRUE;
    assert_take(record, &me->who, FALSE, VL_TAKE_BLOCKED, 1);
    assert_take(record, &me->who, TRUE, VL_TAKE_FREE, 0);
    add_claim(record, NULL);
    assert_take(record, &me->who, TRUE, VL_TAKE_BLOCKED, 0);
}

static void
test_granted(void)
{
    g_autoptr(VlHolder) me = holder("a", "web1", NULL);
    g_autoptr(VlRecord) record = world_record(holder("b", "web1", "10.0.0.2:0/1"), holder("c", "web2", NULL), NULL);
    g_autoptr(GPtrArray) victims = g_ptr_array_new();
    add_claim(record, NULL);
    vl_record_add_fence(record, "10.0.0.9:0/1", 1, 2, 3);
    g_ptr_array_add(victims, record->holders->pdata[0]);
    g_autoptr(VlRecord) next = vl_rules_granted(record, me, FALSE, victims);
    g_assert_cmpuint(next->epoch, ==, record->epoch + 1);
    g_assert_null(next->claim);
    g_assert_cmpuint(next->holders->len, ==, 2); /* only who was judged goes */
    g_assert_nonnull(vl_record_find(next, &me->who));
    g_assert_null(vl_record_find(next, &((VlHolder *)record->holders->pdata[0])->who));
    g_assert_cmpuint(next->fenced->len, ==, 1); /* the duty to keep it is inherited (R6) */
    g_assert_cmpuint(record->holders->len, ==, 2);
    g_autoptr(VlRecord) again = vl_rules_granted(next, me, TRUE, NULL);
    g_assert_cmpuint(again->holders->len, ==, 2); /* ourselves only once */
    g_assert_true(again->shared);
}

static void
test_freed(void)
{
    g_autoptr(VlHolder) me = holder("a", "web1", NULL);
    g_autoptr(VlHolder) other = holder("b", "web2", NULL);
    g_autoptr(VlRecord) record = world_record(vl_holder_copy(me), NULL);
    g_assert_null(vl_rules_freed(record, &me->who, 100));
    vl_record_add_fence(record, "10.0.0.9:0/1", 1, 50, 200);
    g_autoptr(VlRecord) fenced = vl_rules_freed(record, &me->who, 199);
    g_assert_cmpuint(fenced->holders->len, ==, 0);
    g_assert_cmpuint(fenced->epoch, ==, record->epoch + 1);
    g_assert_cmpuint(fenced->fenced->len, ==, 1);
    g_assert_null(vl_rules_freed(record, &me->who, 200));
    /* R8: a record that names another incarnation is not changed by our exit. */
    g_autoptr(VlRecord) theirs = vl_rules_freed(record, &other->who, 100);
    g_assert_cmpuint(theirs->epoch, ==, record->epoch);
    g_assert_nonnull(vl_record_find(theirs, &me->who));
    /* A claim is not ours to strike. */
    add_claim(record, NULL);
    g_autoptr(VlRecord) claimed = vl_rules_freed(record, &me->who, 1000);
    g_assert_nonnull(claimed->claim);
}

/* ---- handing over and back ---- */

static void
test_handed_over(void)
{
    g_autoptr(VlHolder) to = holder("b", "web1", NULL);
    g_autoptr(VlHolder) third = holder("c", "web1", NULL);
    g_autoptr(VlRecord) record = world_record(holder("a", "web1", "10.0.0.1:0/1"), NULL);
    VlHolder *from = record->holders->pdata[0];
    from->held = to->held = TRUE;
    g_free(to->token);
    to->token = g_strdup("new");
    record->previous = vl_holder_copy(third); /* of the migration before: final by now */
    g_ptr_array_add(record->heirs, vl_holder_copy(to));
    g_ptr_array_add(record->heirs, vl_holder_copy(third));
    vl_record_add_fence(record, "10.0.0.9:0/1", 1, 2, 3);
    g_autoptr(VlRecord) next = vl_rules_handed_over(record, from, to);
    g_assert_cmpuint(next->epoch, ==, record->epoch + 1);
    g_assert_cmpuint(next->holders->len, ==, 1);
    const VlHolder *now = vl_record_find(next, &to->who);
    g_assert_false(now->held); /* the CPUs run only after the next step */
    g_assert_cmpstr(now->token, ==, "new");
    g_assert_null(vl_record_find_heir(next, &to->who));
    g_assert_nonnull(vl_record_find_heir(next, &third->who));
    g_assert_cmpuint(next->fenced->len, ==, 1);
    g_assert_true(vl_rules_is_previous(next, &from->who));
    g_assert_false(vl_rules_is_previous(next, &third->who));
    g_assert_false(next->previous->held);
    g_assert_true(vl_addrs_has(next->previous->addrs, "10.0.0.1:0/1"));
    g_assert_true(from->held); /* the old record is as it was */
    /* And back: its own token, PARKED, and no way to give it on again. */
    g_autoptr(VlRecord) back = vl_rules_given_back(next, &to->who);
    g_assert_cmpuint(back->epoch, ==, next->epoch + 1);
    g_assert_cmpuint(back->holders->len, ==, 1);
    now = vl_record_find(back, &from->who);
    g_assert_false(now->held);
    g_assert_cmpstr(now->token, ==, "t");
    g_assert_true(vl_addrs_has(now->addrs, "10.0.0.1:0/1"));
    g_assert_null(back->previous);
    g_assert_cmpuint(back->fenced->len, ==, 1);
}

static void
test_is_previous(void)
{
    g_autoptr(VlHolder) from = holder("a", "web1", NULL);
    g_autoptr(VlRecord) record = world_record(holder("b", "web1", NULL), NULL);
    record->previous = vl_holder_copy(from);
    g_assert_true(vl_rules_is_previous(record, &from->who));
    from->who.start++; /* the same number, another process */
    g_assert_false(vl_rules_is_previous(record, &from->who));
}

/* R16 */
static void
test_freed_heirs(void)
{
    g_autoptr(VlHolder) me = holder("a", "web1", NULL);
    g_autoptr(VlHolder) heir = holder("b", "web1", NULL);
    g_autoptr(VlHolder) second = holder("c", "web1", NULL);
    g_autoptr(VlRecord) record = world_record(vl_holder_copy(me), NULL);
    heir->held = TRUE; /* whatever it says of itself */
    g_ptr_array_add(record->heirs, vl_holder_copy(heir));
    g_ptr_array_add(record->heirs, vl_holder_copy(second));
    record->previous = vl_holder_copy(second);
    g_autoptr(VlRecord) inherited = vl_rules_freed(record, &me->who, 100);
    g_assert_cmpuint(inherited->holders->len, ==, 1);
    g_assert_false(vl_record_find(inherited, &heir->who)->held);
    g_assert_cmpuint(inherited->heirs->len, ==, 1);
    g_assert_nonnull(vl_record_find_heir(inherited, &second->who));
    g_assert_cmpuint(inherited->epoch, >, record->epoch);
    g_assert_null(inherited->previous); /* our memory went with us */
    /* An heir that ends changes nothing else. */
    g_autoptr(VlRecord) without = vl_rules_freed(record, &heir->who, 100);
    g_assert_cmpuint(without->epoch, ==, record->epoch);
    g_assert_nonnull(vl_record_find(without, &me->who));
    g_assert_cmpuint(without->heirs->len, ==, 1);
    g_assert_nonnull(without->previous);
    /* One that was to get it back and ends: not any more. */
    g_autoptr(VlRecord) final = vl_rules_freed(record, &second->who, 100);
    g_assert_null(final->previous);
    g_assert_nonnull(vl_record_find(final, &me->who));
    /* While somebody else holds it too, nobody inherits. */
    g_ptr_array_add(record->holders, holder("d", "web2", NULL));
    g_autoptr(VlRecord) shared = vl_rules_freed(record, &me->who, 100);
    g_assert_cmpuint(shared->holders->len, ==, 1);
    g_assert_cmpuint(shared->heirs->len, ==, 2);
}

/* ---- fencing ---- */

typedef struct {
    VlRecord *record;
    GPtrArray *victims, *dead_ips, *never, *watchers;
    GHashTable *own_ips;
    VlLockOwner owner;
    VlFenceQuestion question;
} Case;

/* One dead holder "b" with 10.0.0.2:0/1 recorded, whose session published 10.0.0.2. */
static Case *
case_new(void)
{
    Case *c = g_new0(Case, 1);
    c->record = world_record(holder("b", "web1", "10.0.0.2:0/1"), NULL);
    c->victims = g_ptr_array_new();
    g_ptr_array_add(c->victims, c->record->holders->pdata[0]);
    c->dead_ips = vl_addrs_new();
    vl_addrs_add(c->dead_ips, "10.0.0.2");
    c->never = vl_addrs_new();
    c->watchers = g_ptr_array_new_with_free_func(g_free);
    c->own_ips = g_hash_table_new(g_str_hash, g_str_equal);
    g_hash_table_add(c->own_ips, (char *)"10.0.0.1");
    c->question = (VlFenceQuestion){.record = c->record,
                                    .victims = c->victims,
                                    .dead_ips = c->dead_ips,
                                    .never = c->never,
                                    .own_ips = c->own_ips,
                                    .watchers = c->watchers};
    return c;
}

static void
case_watch(Case *c, const char *addr)
{
    VlWatcher *watcher = g_new0(VlWatcher, 1);
    watcher->addr = (char *)addr;
    g_ptr_array_add(c->watchers, watcher);
}

static void
case_own(Case *c, const char *addr)
{
    c->owner = (VlLockOwner){(char *)"client.1", (char *)"auto 1", (char *)addr, true};
    c->question.owner = &c->owner;
}

static void
case_free(Case *c)
{
    vl_record_free(c->record);
    g_ptr_array_unref(c->victims);
    g_ptr_array_unref(c->dead_ips);
    g_ptr_array_unref(c->never);
    g_ptr_array_unref(c->watchers);
    g_hash_table_unref(c->own_ips);
    g_free(c);
}

static void
assert_set(Case *c, const char *want)
{
    g_autoptr(GPtrArray) set = vl_rules_fence_set(&c->question);
    g_ptr_array_add(set, NULL);
    g_autofree char *text = g_strjoinv(" ", (char **)set->pdata);
    g_assert_cmpstr(text, ==, want);
}

static void
test_fence_recorded(void)
{
    Case *c = case_new();
    assert_set(c, "10.0.0.2:0/1");
    g_ptr_array_set_size(c->victims, 0);
    assert_set(c, "");
    case_free(c);
}

/* A client on the dead holder's IP that it had no time to record. */
static void
test_fence_ip(void)
{
    Case *c = case_new();
    case_watch(c, "10.0.0.2:0/1");
    case_watch(c, "10.0.0.2:0/2");
    case_watch(c, "10.0.0.3:0/3");
    case_watch(c, "10.0.0.20:0/3");
    case_watch(c, "nonsense");
    case_own(c, "10.0.0.2:0/4");
    assert_set(c, "10.0.0.2:0/1 10.0.0.2:0/2 10.0.0.2:0/4");
    case_own(c, "10.0.0.3:0/4");
    assert_set(c, "10.0.0.2:0/1 10.0.0.2:0/2");
    case_free(c);
}

/* Two live sessions share the IP: then it is not in dead_ips, and it proves nothing. */
static void
test_fence_shared_ip(void)
{
    Case *c = case_new();
    g_ptr_array_set_size(c->dead_ips, 0);
    case_watch(c, "10.0.0.2:0/2");
    case_own(c, "10.0.0.2:0/4");
    assert_set(c, "10.0.0.2:0/1");
    case_free(c);
}

/* Two test hosts behind one address: what is on our own IP may be one of our own. */
static void
test_fence_own_ip(void)
{
    Case *c = case_new();
    g_hash_table_add(c->own_ips, (char *)"10.0.0.2");
    case_watch(c, "10.0.0.2:0/2");
    case_own(c, "10.0.0.2:0/4");
    assert_set(c, "10.0.0.2:0/1");
    case_free(c);
}

/* R12: what another holder has recorded is its own, wherever it is. */
static void
test_fence_newer_holder(void)
{
    Case *c = case_new();
    g_ptr_array_add(c->record->holders, holder("b", "web9", "10.0.0.2:0/9"));
    case_watch(c, "10.0.0.2:0/9");
    case_own(c, "10.0.0.2:0/9");
    assert_set(c, "10.0.0.2:0/1");
    /* Also if the dead one recorded it too: on one host two VMs of a shared volume see each other's clients. */
    vl_addrs_add(((VlHolder *)c->victims->pdata[0])->addrs, "10.0.0.2:0/9");
    assert_set(c, "10.0.0.2:0/1");
    /* Or a claimant that died long ago had meant to fence it. */
    add_claim(c->record, "10.0.0.2:0/9");
    assert_set(c, "10.0.0.2:0/1");
    case_free(c);
}

/* R13: with shared leases nothing is concluded from an IP or the lock. */
static void
test_fence_shared_lease(void)
{
    Case *c = case_new();
    c->record->shared = TRUE;
    case_watch(c, "10.0.0.2:0/2");
    case_own(c, "10.0.0.2:0/3");
    assert_set(c, "10.0.0.2:0/1");
    case_free(c);
}

/* R14: a kernel client serves other images as well. */
static void
test_fence_never(void)
{
    Case *c = case_new();
    vl_addrs_add(c->never, "10.0.0.2:0/7");
    vl_addrs_add(c->never, "10.0.0.2:0/1");
    case_watch(c, "10.0.0.2:0/7");
    case_own(c, "10.0.0.2:0/7");
    assert_set(c, "");
    c->question.dead_foreign_owner = TRUE;
    assert_set(c, "");
    case_free(c);
}

static void
test_fence_claim(void)
{
    Case *c = case_new();
    add_claim(c->record, "10.0.0.2:0/5");
    assert_set(c, "10.0.0.2:0/1 10.0.0.2:0/5");
    case_free(c);
}

static void
test_fence_foreign_owner(void)
{
    Case *c = case_new();
    g_ptr_array_set_size(c->victims, 0);
    g_ptr_array_set_size(c->dead_ips, 0);
    case_own(c, "10.9.9.9:0/4");
    assert_set(c, "");
    c->question.dead_foreign_owner = TRUE;
    assert_set(c, "10.9.9.9:0/4");
    case_free(c);
}

static void
test_unexplained(void)
{
    Case *c = case_new();
    case_watch(c, "10.0.0.2:0/1"); /* recorded */
    case_watch(c, "10.0.0.9:0/1"); /* fenced */
    case_watch(c, "10.0.0.8:0/1");
    vl_record_add_fence(c->record, "10.0.0.9:0/1", 1, 2, 3);
    g_autoptr(GPtrArray) rest = vl_rules_unexplained(c->record, c->watchers);
    g_assert_cmpuint(rest->len, ==, 1);
    g_assert_cmpstr(((VlWatcher *)rest->pdata[0])->addr, ==, "10.0.0.8:0/1");
    g_autoptr(GPtrArray) none = vl_rules_unexplained(c->record, NULL);
    g_assert_cmpuint(none->len, ==, 0);
    g_assert_true(vl_watchers_have(c->watchers, "10.0.0.8:0/1"));
    g_assert_false(vl_watchers_have(c->watchers, "10.0.0.8:0/11"));
    case_free(c);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rules/take/exclusive", test_take_exclusive);
    g_test_add_func("/rules/take/claimed", test_take_claimed);
    g_test_add_func("/rules/take/shared", test_take_shared);
    g_test_add_func("/rules/granted", test_granted);
    g_test_add_func("/rules/freed", test_freed);
    g_test_add_func("/rules/freed-heirs", test_freed_heirs);
    g_test_add_func("/rules/handed-over", test_handed_over);
    g_test_add_func("/rules/is-previous", test_is_previous);
    g_test_add_func("/rules/fence/recorded", test_fence_recorded);
    g_test_add_func("/rules/fence/ip", test_fence_ip);
    g_test_add_func("/rules/fence/shared-ip", test_fence_shared_ip);
    g_test_add_func("/rules/fence/own-ip", test_fence_own_ip);
    g_test_add_func("/rules/fence/newer-holder", test_fence_newer_holder);
    g_test_add_func("/rules/fence/shared-lease", test_fence_shared_lease);
    g_test_add_func("/rules/fence/never", test_fence_never);
    g_test_add_func("/rules/fence/claim", test_fence_claim);
    g_test_add_func("/rules/fence/foreign-owner", test_fence_foreign_owner);
    g_test_add_func("/rules/unexplained", test_unexplained);
    return g_test_run();
}

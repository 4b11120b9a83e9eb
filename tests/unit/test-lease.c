/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What may follow what in a lease's life: the picture in lease.h, and nothing else. */
#include "tests/unit/world.h"

/* One line per state: those that may follow. */
static const char *const may_follow[VL_LEASE_STATE_COUNT] = {
    [VL_LEASE_NONE] = "taking freeing free",
    [VL_LEASE_TAKING] = "none incoming parked held lost freeing",
    [VL_LEASE_INCOMING] = "parked lost freeing",
    [VL_LEASE_PARKED] = "held lost freeing",
    [VL_LEASE_HELD] = "parked lost freeing",
    [VL_LEASE_LOST] = "freeing free",
    [VL_LEASE_FREEING] = "free",
    [VL_LEASE_FREE] = "",
};

static gboolean
is_legal(VlLeaseState from, VlLeaseState to)
{
    g_auto(GStrv) words = g_strsplit(may_follow[from], " ", -1);
    return from == to || g_strv_contains((const char *const *)words, vl_lease_state_name(to));
}

static void
test_legal(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlLease *lease = world_lease(world_vm(world, "web1", 0, "vol1", NULL), "vol1");
    for (VlLeaseState from = 0; from < VL_LEASE_STATE_COUNT; from++) {
        for (VlLeaseState to = 0; to < VL_LEASE_STATE_COUNT; to++) {
            if (!is_legal(from, to))
                continue;
            lease->state = from;
            vl_lease_set_state(lease, to, "test");
            g_assert_cmpint(lease->state, ==, to);
        }
    }
    g_assert_true(world_logged(world, "lease vol1 of VM web1: parked -> lost (test)"));
}

/* Each illegal step ends the daemon: better none than one that has lost count. */
static void
test_illegal_step(gconstpointer data)
{
    VlLeaseState from = GPOINTER_TO_UINT(data) / VL_LEASE_STATE_COUNT,
                 to = GPOINTER_TO_UINT(data) % VL_LEASE_STATE_COUNT;
    if (g_test_subprocess()) {
        World *world = world_new(FALSE);
        VlLease *lease = world_lease(world_vm(world, "web1", 0, "vol1", NULL), "vol1");
        lease->state = from;
        vl_lease_set_state(lease, to, "test");
        return;
    }
    g_test_trap_subprocess(NULL, 10 * G_USEC_PER_SEC, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*legal*");
}

static void
test_names(void)
{
    for (VlLeaseState state = 0; state < VL_LEASE_STATE_COUNT; state++)
        g_assert_cmpstr(vl_lease_state_name(state), !=, "?");
    g_assert_cmpstr(vl_lease_state_name(VL_LEASE_STATE_COUNT), ==, "?");
}

static void
test_is_ours(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlLease *lease = world_lease(world_vm(world, "web1", 0, "vol1", NULL), "vol1");
    for (VlLeaseState state = 0; state < VL_LEASE_STATE_COUNT; state++) {
        lease->state = state;
        g_assert_cmpint(vl_lease_is_ours(lease), ==, state == VL_LEASE_PARKED || state == VL_LEASE_HELD);
    }
}

static void
test_holder(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlVm *vm = world_vm(world, "web1", 0, "vol1", NULL);
    VlLease *lease = world_lease(vm, "vol1");
    g_assert_null(vl_lease_holder(lease));
    VlRecord *record = vl_record_new();
    VlHolder *holder = vl_holder_new();
    vl_incarnation_copy(&holder->who, &vm->who);
    g_ptr_array_add(record->holders, holder);
    vl_lease_set_record(lease, g_bytes_new("x", 1), record);
    g_assert_true(vl_lease_holder(lease) == holder);
    holder->who.start++;
    g_assert_null(vl_lease_holder(lease));
    holder->who.start--;
    vl_lease_set_record(lease, NULL, NULL);
    g_assert_null(lease->raw);
}

/* What the host answers when it is challenged about a lease. */
static void
test_answer(void)
{
    g_autoptr(World) world = world_new(FALSE);
    VlVm *vm = world_vm(world, "web1", 0, "vol1", NULL);
    VlLease *lease = world_lease(vm, "vol1");
    const char *key = lease->volume->key;
    VlIncarnation other = vm->who;
    lease->state = VL_LEASE_HELD;
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, key, &vm->who), ==, VL_ANSWER_MINE);
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, "fake:rbd/vol2", &vm->who), ==, VL_ANSWER_NOT_MINE);
    other.pid++;
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, key, &other), ==, VL_ANSWER_NOT_MINE);
    lease->state = VL_LEASE_LOST;
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, key, &vm->who), ==, VL_ANSWER_LOST);
    lease->state = VL_LEASE_FREEING;
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, key, &vm->who), ==, VL_ANSWER_FREEING);
    lease->state = VL_LEASE_HELD;
    vm->exited = 1;
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, key, &vm->who), ==, VL_ANSWER_FREEING);
    vm->exited = 0;
    vm->adopting = TRUE; /* not looked at yet: never "not mine" */
    g_assert_cmpint(vl_vms_answer(world->daemon->vms, "fake:rbd/vol2", &vm->who), ==, VL_ANSWER_ALIVE);
    vm->adopting = FALSE;
}

static void
add_illegal_steps(void)
{
    for (guint step = 0; step < VL_LEASE_STATE_COUNT * VL_LEASE_STATE_COUNT; step++) {
        VlLeaseState from = step / VL_LEASE_STATE_COUNT, to = step % VL_LEASE_STATE_COUNT;
        g_autofree char *path =
            g_strdup_printf("/lease/illegal/%s-%s", vl_lease_state_name(from), vl_lease_state_name(to));
        if (!is_legal(from, to))
            g_test_add_data_func(path, GUINT_TO_POINTER(step), test_illegal_step);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lease/legal", test_legal);
    g_test_add_func("/lease/names", test_names);
    g_test_add_func("/lease/is-ours", test_is_ours);
    g_test_add_func("/lease/holder", test_holder);
    g_test_add_func("/lease/answer", test_answer);
    add_illegal_steps();
    return g_test_run();
}

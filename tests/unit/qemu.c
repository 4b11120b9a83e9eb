/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/qemu.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lockd/hold.h"

static int sockets[3] = {-1, -1, -1};

void
qemu_connect(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    sockets[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(sockets[0], (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(sockets[0], 1), ==, 0);
    g_assert_cmpint(getsockname(sockets[0], (struct sockaddr *)&addr, &len), ==, 0);
    sockets[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(sockets[1], (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    sockets[2] = accept(sockets[0], NULL, NULL);
    g_assert_cmpint(sockets[2], >=, 0);
}

void
qemu_disconnect(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(sockets); i++)
        close(sockets[i]);
}

void
qemu_opens(World *world, VlVm *vm)
{
    for (guint i = 0; i < vm->leases->len; i++)
        fake_watch(world->store, ((VlLease *)vm->leases->pdata[i])->volume->display, QEMU_ADDR);
}

gboolean
qemu_hold(World *world, VlVm *vm, double seconds, GError **error)
{
    VlCall call = {.deadline = vl_deadline_in(seconds), .gone = &vm->exited};
    g_mutex_lock(&vm->op);
    gboolean ok = vl_hold_all(world->daemon, vm, &call, error);
    g_mutex_unlock(&vm->op);
    return ok;
}

static gboolean
is_parked(World *world, gpointer volume)
{
    g_autofree char *state = fake_state(world->store, volume);
    return g_str_has_suffix(state, ":parked");
}

void
qemu_park(World *world, VlVm *vm)
{
    g_mutex_lock(&vm->op);
    vl_park_all(world->daemon, vm);
    g_mutex_unlock(&vm->op);
    for (guint i = 0; i < vm->leases->len; i++)
        world_wait(world, is_parked, ((VlLease *)vm->leases->pdata[i])->volume->display);
}

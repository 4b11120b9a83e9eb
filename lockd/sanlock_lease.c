/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/sanlock_lease.h"

#include <errno.h>
#include <stdint.h> /* sanlock.h needs it and does not say so */
#include <sanlock.h>
#include <sanlock_admin.h>
#include <sanlock_resource.h>
#include <sanlock_rv.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/sanlock_call.h"
#include "lockd/sanlock_file.h"
#include "lockd/sanlock_words.h"

#define RACE_S      3   /* how long a lease may be in somebody's hands for a moment */
#define HALF_MADE_S 3   /* how long a lease file may be short or unformatted: somebody is making it */
#define LOOK_S      5.0 /* one look at who owns a lease */
#define RETRY_MS    100
#define CLEANUP_MS  600 /* how long a cleanup may hold a lease that nobody uses (sanlock_clean.h) */
#define HANDOVER_MS 20
#define SAY_EVERY_S 10
#define MAKE_TRIES  3
#define OWN_GUARD_S 2 /* sanlock's own clock may have seen the owner's last sign later than ours */

typedef struct {
    int pid;
    gboolean shared;
    struct {
        struct sanlk_resource resource;
        struct sanlk_disk disk; /* its disks[0] */
    } lease;
    char *state;               /* out: inquire */
    struct sanlk_host *owners; /* out: owners */
    int count;
} Ask;

G_STATIC_ASSERT(sizeof(struct sanlk_resource) % _Alignof(struct sanlk_disk) == 0);

static void
ask_free(gpointer data)
{
    Ask *ask = data;
    free(ask->state);
    free(ask->owners);
    g_free(ask);
}

char *
vl_sanlock_lease_name(const char *path)
{
    return g_compute_checksum_for_string(G_CHECKSUM_MD5, path, -1);
}

VlSanlockRef *
vl_sanlock_ref_of_path(const VlSanlockConf *conf, const char *path)
{
    VlSanlockRef *ref = g_new0(VlSanlockRef, 1);
    ref->space = g_strdup(VL_SANLOCK_SPACE);
    ref->name = vl_sanlock_lease_name(path);
    ref->file = g_build_filename(conf->lease_dir, ref->name, NULL);
    return ref;
}

void
vl_sanlock_ref_free(VlSanlockRef *ref)
{
    if (!ref)
        return;
    g_free(ref->space);
    g_free(ref->name);
    g_free(ref->file);
    g_free(ref);
}

static gboolean
is_ours(const VlSanlockRef *ref)
{
    return g_str_equal(ref->space, VL_SANLOCK_SPACE);
}

char *
vl_sanlock_ref_id(const VlSanlockRef *ref)
{
    if (!ref->space || is_ours(ref))
        return g_strdup(ref->name);
    g_autofree char *both = g_strconcat(ref->space, ":", ref->name, NULL);
    return g_compute_checksum_for_string(G_CHECKSUM_MD5, both, -1);
}

static Ask *
ask_new(pid_t pid, const VlSanlockRef *ref)
{
    Ask *ask = g_new0(Ask, 1);
    ask->pid = pid;
    struct sanlk_resource *resource = &ask->lease.resource;
    if (ref) {
        g_strlcpy(resource->lockspace_name, ref->space, sizeof(resource->lockspace_name));
        g_strlcpy(resource->name, ref->name, sizeof(resource->name));
        g_strlcpy(ask->lease.disk.path, ref->file, sizeof(ask->lease.disk.path));
        ask->lease.disk.offset = ref->offset;
        resource->num_disks = 1;
    }
    return ask;
}

/* ---- one call each ---- */

static int
acquire_run(gpointer data)
{
    Ask *ask = data;
    struct sanlk_resource *resources[] = {&ask->lease.resource};
    return sanlock_acquire(-1, ask->pid, SANLK_ACQUIRE_OWNER_NOWAIT, 1, resources, NULL);
}

static int
release_run(gpointer data)
{
    Ask *ask = data;
    struct sanlk_resource *resources[] = {&ask->lease.resource};
    return sanlock_release(-1, ask->pid, 0, 1, resources);
}

/* Nobody waits for it any more, so nobody knows that the process has it. */
static void
acquire_late(gpointer data, int rc)
{
    Ask *ask = data;
    if (rc >= 0) {
        g_warning("lease %.48s came too late for process %d and is given back", ask->lease.resource.name, ask->pid);
        (void)release_run(ask);
    }
}

static int
inquire_run(gpointer data)
{
    Ask *ask = data;
    return sanlock_inquire(-1, ask->pid, 0, &ask->count, &ask->state);
}

static int
owners_run(gpointer data)
{
    Ask *ask = data;
    int rc = sanlock_read_resource_owners(&ask->lease.resource, 0, &ask->owners, &ask->count);
    return rc == -ENODEV ? vl_sanlock_why_not_open(ask->lease.disk.path) : rc;
}

static gboolean
acquire_once(const VlSanlockWant *want, gint64 deadline, int *ret_rc, GError **error)
{
    static const VlSanlockOp op = {acquire_run, acquire_late, ask_free};
    Ask *ask = ask_new(want->pid, want->ref);
    if (want->shared)
        ask->lease.resource.flags |= SANLK_RES_SHARED;
    if (want->lver > 0) { /* with 0 sanlock would not compare at all */
        ask->lease.resource.flags |= SANLK_RES_LVER;
        ask->lease.resource.lver = (guint64)want->lver;
    }
    if (!vl_sanlock_call(&op, ask, (guint64)want->pid, want->what, deadline, ret_rc, error))
        return FALSE;
    ask_free(ask);
    return TRUE;
}

gboolean
vl_sanlock_lease_release(VlSanlockSpace *space, pid_t pid, const VlSanlockRef *ref, const char *what, gint64 deadline,
                         GError **error)
{
    static const VlSanlockOp op = {release_run, NULL, ask_free};
    int rc;
    Ask *ask = ask_new(pid, ref);
    if (!vl_sanlock_call(&op, ask, (guint64)pid, what, deadline, &rc, error))
        return FALSE;
    ask_free(ask);
    /* -EPERM (a bare -1): it is not held. -ESRCH: the process is gone, and what it had with it. */
    if (rc >= 0 || rc == -EPERM || rc == -ESRCH || rc == -ESTALE)
        return TRUE;
    vl_sanlock_error(error, VL_SANLOCK_RELEASE, rc, what, NULL);
    return FALSE;
}

static void
add_held(GHashTable *held, const struct sanlk_resource *resource)
{
    gint64 *lver = g_new(gint64, 1);
    *lver = (gint64)resource->lver;
    g_hash_table_replace(
        held, g_strdup_printf("%.*s:%.*s", SANLK_NAME_LEN, resource->lockspace_name, SANLK_NAME_LEN, resource->name),
        lver);
}

gint64
vl_sanlock_lease_lver(GHashTable *held, const VlSanlockRef *ref)
{
    g_autofree char *key = g_strconcat(ref->space, ":", ref->name, NULL);
    const gint64 *lver = g_hash_table_lookup(held, key);
    return lver ? *lver : -1;
}

static GHashTable *
parse_held(char *state, const char *what, GError **error)
{
    GHashTable *held = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    struct sanlk_resource **resources = NULL;
    int count = 0;
    if (!state || !*state)
        return held;
    int rc = sanlock_state_to_args(state, &count, &resources);
    for (int i = 0; rc >= 0 && i < count; i++) {
        add_held(held, resources[i]);
        free(resources[i]);
    }
    free(resources);
    if (rc >= 0)
        return held;
    g_hash_table_unref(held);
    vl_set_error(error, VL_ERR_STORAGE, "%s: sanlock's list of the VM's leases is not understood (%d)", what, rc);
    return NULL;
}

GHashTable *
vl_sanlock_lease_inquire(pid_t pid, const char *what, gint64 deadline, GError **error)
{
    static const VlSanlockOp op = {inquire_run, NULL, ask_free};
    int rc;
    GHashTable *held = NULL;
    Ask *ask = ask_new(pid, NULL);
    if (!vl_sanlock_call(&op, ask, (guint64)pid, what, deadline, &rc, error))
        return NULL;
    if (rc < 0)
        vl_sanlock_error(error, VL_SANLOCK_INQUIRE, rc, what, NULL);
    else
        held = parse_held(ask->state, what, error);
    ask_free(ask);
    return held;
}

/* ---- who has it ---- */

static char *
owner_text(VlSanlockSpace *space, guint64 id)
{
    VlSpaceHost host;
    g_autofree char *name = vl_sanlock_space_host_text(space, id);
    if (!vl_sanlock_space_host(space, id, &host))
        return g_steal_pointer(&name);
    return g_strdup_printf("%s (last sign of life seen %.0f s ago)", name,
                           (double)(vl_clock_now() - host.changed) / G_USEC_PER_SEC);
}

char *
vl_sanlock_lease_owner(VlSanlockSpace *space, const VlSanlockRef *ref, gint64 deadline, guint64 *ret_host,
                       guint64 *ret_lver, GError **error)
{
    static const VlSanlockOp op = {owners_run, NULL, ask_free};
    int rc;
    guint64 id = 0, lver = 0;
    Ask *ask = ask_new(0, ref);
    if (!vl_sanlock_call(&op, ask, 0, ref->file, deadline, &rc, error))
        return NULL;
    if (rc < 0) {
        vl_sanlock_error(error, VL_SANLOCK_READ, rc, ref->file, NULL);
    } else {
        id = ask->count > 0 ? ask->owners[0].host_id : 0;
        lver = ask->lease.resource.lver;
    }
    ask_free(ask);
    if (ret_host)
        *ret_host = id;
    if (ret_lver)
        *ret_lver = lver;
    return id ? owner_text(space, id) : NULL;
}

/* ---- acquiring, with all that may be temporary ---- */

typedef struct {
    VlSanlockSpace *space;
    const VlSanlockWant *want;
    const VlCall *call;
    gint64 began, said;
    gint64 met; /* somebody who has it, for the first time */
    guint made;
} Try;

static void
pause_ms(const Try *try, gint64 ms)
{
    vl_clock_sleep_until(vl_clock_now() + ms * 1000, try->call);
}

/* When sanlock may let others have what the host holds. */
static gint64
dead_at(const VlSpaceHost *host, const VlSanlockConf *conf)
{
    guint io_timeout = host->io_timeout ? host->io_timeout : conf->io_timeout;
    return host->changed + (gint64)(VL_SANLOCK_DEAD_S(io_timeout) + OWN_GUARD_S) * G_USEC_PER_SEC;
}

static void
say_wait(Try *try, const char *owner, gint64 until)
{
    gint64 now = vl_clock_now();
    int left = (int)MAX(0, (until - now) / G_USEC_PER_SEC);
    if (try->want->wait_left)
        g_atomic_int_set(try->want->wait_left, left);
    if (try->said && now < try->said + SAY_EVERY_S * G_USEC_PER_SEC)
        return;
    try->said = now;
    g_message("%s: waiting for %s to be dead by sanlock's rules, %d s left", try->want->what, owner, left);
}

/* Waits without asking the daemon anything, because each question would keep one of its few threads
 * and disks busy: until the owner shows a sign of life, or has had its time, or is another. */
static gboolean
wait_for_owner(Try *try, guint64 id, const VlSpaceHost *seen, const char *owner, GError **error)
{
    gint64 until = dead_at(seen, vl_sanlock_space_conf(try->space));
    for (;;) {
        VlSpaceHost now;
        if (!vl_call_check(try->call, try->want->what, error))
            return FALSE;
        if (!vl_sanlock_space_host(try->space, id, &now) || now.generation != seen->generation ||
            now.life == VL_HOST_FREE || now.life == VL_HOST_DEAD || now.changed != seen->changed ||
            vl_clock_now() >= until)
            return TRUE;
        say_wait(try, owner, until);
        pause_ms(try, 250);
    }
}

static void
refuse_owner(const Try *try, int rc, const char *owner, const VlSpaceHost *seen, GError **error)
{
    const VlSanlockConf *conf = vl_sanlock_space_conf(try->space);
    gint64 left = (dead_at(seen, conf) - vl_clock_now()) / G_USEC_PER_SEC;
    gint64 silent = (vl_clock_now() - seen->changed) / G_USEC_PER_SEC;
    /* A host that has only just joined calls every owner silent until it has seen it renew twice. */
    if (rc == SANLK_ACQUIRE_OWNED_RETRY && silent < 2 * VL_SANLOCK_RENEW_S((gint64)conf->io_timeout)) {
        vl_set_error(error, VL_ERR_HELD, "%s: held by %s (sanlock %d)", try->want->what, owner, rc);
        return;
    }
    if (rc == SANLK_ACQUIRE_IDLIVE) {
        vl_sanlock_error(error, VL_SANLOCK_ACQUIRE, rc, try->want->what, owner);
        return;
    }
    vl_set_error(error, VL_ERR_UNKNOWN_OWNER,
                 "%s: held by %s. sanlock gives it to nobody else before 8 x io_timeout + 60 s without a sign of life: "
                 "start it again in %" G_GINT64_FORMAT " s, or have takeover_wait long enough to wait that long",
                 try->want->what, owner, MAX(1, left));
}

/* Who has it may be a cleanup that will have removed the file in a moment: a start must not fail for that. */
static gboolean
perhaps_cleanup(Try *try)
{
    if (!is_ours(try->want->ref))
        return FALSE;
    if (!try->met)
        try->met = vl_clock_now();
    if (vl_clock_now() >= try->met + CLEANUP_MS * 1000)
        return FALSE;
    pause_ms(try, RETRY_MS / 2 + g_random_int_range(0, RETRY_MS));
    return TRUE;
}

/* The lease has another host's name on it. TRUE: ask again. An owner that crashed just now looks alive
 * until it misses its renewals; waiting for a sign of life is only worth it if the wait could
 * also last until its death. */
static gboolean
meet_owner(Try *try, int rc, GError **error)
{
    guint64 id = 0;
    VlSpaceHost seen = {.changed = vl_clock_now()};
    g_autoptr(GError) ignored = NULL;
    if (rc == SANLK_ACQUIRE_IDLIVE && perhaps_cleanup(try))
        return TRUE;
    g_autofree char *owner =
        vl_sanlock_lease_owner(try->space, try->want->ref, vl_call_within(try->call, LOOK_S), &id, NULL, &ignored);
    if (!owner && !ignored)
        return vl_call_check(try->call, try->want->what, error); /* it has just been released */
    gboolean known = id && vl_sanlock_space_host(try->space, id, &seen);
    /* Our daemon looks at the others each time it renews itself: what it saw last may have been written that much
     * earlier. */
    gint64 late = (VL_SANLOCK_RENEW_S((gint64)vl_sanlock_space_conf(try->space)->io_timeout) + 1) * G_USEC_PER_SEC;
    gboolean proven = known && seen.renewing && seen.changed > try->began + late;
    if (!known || proven || try->want->wait_until < dead_at(&seen, vl_sanlock_space_conf(try->space))) {
        refuse_owner(try, rc, owner ? owner : "another host", &seen, error);
        return FALSE;
    }
    return wait_for_owner(try, id, &seen, owner, error);
}

/* Held on this host: by this very process, from an earlier attempt or an earlier life of ours? *ret_again: ask again.
 */
static gboolean
is_own(Try *try, int rc, gboolean *ret_again, GError **error)
{
    g_autoptr(GHashTable) held =
        vl_sanlock_lease_inquire(try->want->pid, try->want->what, vl_call_within(try->call, LOOK_S), error);
    if (!held)
        return FALSE;
    if (vl_sanlock_lease_lver(held, try->want->ref) >= 0)
        return TRUE;
    *ret_again = perhaps_cleanup(try);
    if (*ret_again)
        return FALSE;
    vl_sanlock_error(error, VL_SANLOCK_ACQUIRE, rc, try->want->what, NULL);
    return FALSE;
}

static gboolean
within(const Try *try, int seconds)
{
    return vl_clock_now() < try->began + seconds * G_USEC_PER_SEC;
}

/* In somebody's hands for a moment, perhaps. */
static gboolean
is_passing(const Try *try, int rc, enum vl_error code)
{
    if ((rc == -EMSGSIZE || rc == SANLK_LEADER_MAGIC) && is_ours(try->want->ref))
        return within(try, HALF_MADE_S);
    if (rc == SANLK_ACQUIRE_IDLIVE && try->want->handover)
        return TRUE;
    return code == VL_ERR_CHANGED && within(try, RACE_S);
}

static void
refuse(const Try *try, int rc, enum vl_error code, GError **error)
{
    gboolean about_file = code == VL_ERR_RECORD || code == VL_ERR_DENIED || code == VL_ERR_MISSING;
    g_autofree char *what = about_file ? g_strdup_printf("%s: lease file %s", try->want->what, try->want->ref->file)
                                       : g_strdup(try->want->what);
    g_autoptr(GError) local = NULL;
    vl_sanlock_error(&local, VL_SANLOCK_ACQUIRE, rc, what, NULL);
    /* Still shared or busy after all the retries: that is somebody who has it. */
    vl_set_error(error, code == VL_ERR_CHANGED ? VL_ERR_HELD : code, "%s", local->message);
}

/* What to do about a refusal. TRUE: ask again. */
static gboolean
answer(Try *try, int rc, GError **error)
{
    enum vl_error code;
    (void)vl_sanlock_words(VL_SANLOCK_ACQUIRE, rc, &code);
    if (rc == -ENOENT && is_ours(try->want->ref) && try->made++ < MAKE_TRIES)
        return vl_sanlock_file_make(vl_sanlock_space_conf(try->space), try->want->ref->name, try->call->deadline, NULL,
                                    error);
    if (is_passing(try, rc, code)) {
        /* A VM that is handed over stands still meanwhile. */
        pause_ms(try, rc == SANLK_ACQUIRE_IDLIVE ? HANDOVER_MS : RETRY_MS / 2 + g_random_int_range(0, RETRY_MS));
        return TRUE;
    }
    if (rc == SANLK_ACQUIRE_IDLIVE || rc == SANLK_ACQUIRE_OWNED_RETRY)
        return meet_owner(try, rc, error);
    refuse(try, rc, code, error);
    return FALSE;
}

gboolean
vl_sanlock_lease_acquire(VlSanlockSpace *space, const VlSanlockWant *want, const VlCall *call, GError **error)
{
    Try try = {.space = space, .want = want, .call = call, .began = vl_clock_now()};
    for (;;) {
        int rc;
        gboolean again = FALSE;
        if (!vl_call_check(call, want->what, error) ||
            (is_ours(want->ref) && !vl_sanlock_space_wait(space, call, want->what, error)) ||
            !acquire_once(want, call->deadline, &rc, error))
            return FALSE;
        if (rc >= 0)
            return TRUE;
        if (rc == -EEXIST && is_own(&try, rc, &again, error))
            return TRUE;
        if (rc == -EEXIST ? !again : !answer(&try, rc, error))
            return FALSE;
    }
}

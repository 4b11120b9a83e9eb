/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Connections: how a cluster is spelled (targets), what it is (its fsid), and the one client we are
 * to it at a time. A blocklisted client never becomes good again, so recovering means a new one.
 */
#include "lockd/store_rbd_priv.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Threads for the blocking calls of one cluster (watcher lists, lock owners, opening images). While
 * one OSD is silent each call to it takes rados_osd_op_timeout; the others need threads meanwhile.
 */
#define OSD_THREADS 32
/* Blocklist commands of one paxos round are committed together, so all must be sent at once. */
#define MON_THREADS 64

/* One try to connect, shared by everybody who waits for it. All members under store->lock. */
typedef struct {
    gint refs;
    SrbdTarget *target;
    bool done;
    SrbdConn *conn;
    GError *error;
} Attempt;

struct SrbdTarget {
    SrbdStore *store;
    char *conf;           /* NULL: the default one */
    char *mon_hosts;      /* NULL: as the configuration says */
    SrbdCluster *cluster; /* once known; under store->lock */
    Attempt *attempt;     /* under store->lock */
};

static void
attempt_unref(gpointer data)
{
    Attempt *attempt = data;
    if (!g_atomic_int_dec_and_test(&attempt->refs))
        return;
    srbd_conn_unref(attempt->conn);
    g_clear_error(&attempt->error);
    g_free(attempt);
}

SrbdConn *
srbd_conn_ref(SrbdConn *conn)
{
    g_atomic_int_inc(&conn->refs);
    return conn;
}

static void
conn_destroy(gpointer data)
{
    SrbdConn *conn = data;
    SrbdStore *store = conn->store;
    rados_shutdown(conn->rados);
    g_mutex_clear(&conn->barrier_lock);
    g_cond_clear(&conn->barrier_cond);
    g_free(conn->fsid);
    g_free(conn);
    g_mutex_lock(&store->lock);
    store->live--;
    g_cond_broadcast(&store->cond);
    g_mutex_unlock(&store->lock);
}

void
srbd_conn_unref(SrbdConn *conn)
{
    /* Possibly on a thread of this very client (an aio callback), which rados_shutdown() would wait
     * for. */
    if (conn && g_atomic_int_dec_and_test(&conn->refs))
        srbd_spawn(conn->store->threads, conn_destroy, conn);
}

static bool
conn_read_conf(SrbdConn *conn, const char *conf, const char *mon_hosts, GError **error)
{
    SrbdStore *store = conn->store;
    const char *path = conf ? conf : store->conf;
    if (path && access(path, R_OK) < 0) {
        int rc = -errno;
        if (!conf && mon_hosts && rc == -ENOENT)
            return true;
        vl_set_error(error, rc == -ENOENT ? VL_ERR_MISSING : VL_ERR_DENIED,
                     "cannot read the Ceph configuration file %s: %s", path, g_strerror(-rc));
        return false;
    }
    int rc = rados_conf_read_file(conn->rados, path);
    if (rc == -ENOENT && !path && mon_hosts)
        return true;
    if (rc < 0) {
        vl_set_error(error, rc == -ENOENT ? VL_ERR_MISSING : VL_ERR_STORAGE,
                     "cannot read the Ceph configuration file %s: %s",
                     path ? path : "(none found in the default places)", g_strerror(-rc));
        return false;
    }
    return true;
}

static bool
conn_configure(SrbdConn *conn, const char *mon_hosts, GError **error)
{
    g_autofree char *timeout = g_strdup_printf("%u", conn->store->op_timeout_s);
    const struct {
        const char *name;
        const char *value;
        bool required;
    } options[] = {
        {"mon_host", mon_hosts, true},
        {"rados_osd_op_timeout", timeout, true},
        {"rados_mon_op_timeout", timeout, true},
        {"client_mount_timeout", timeout, true},
        /* With more ops than this in flight, submitting blocks (Objecter::_throttle_op). */
        {"objecter_inflight_ops", "65536", false},
        {"rbd_cache", "false", false},
        /* librbd must never blocklist on its own account, and with an expiry its command is refused
         * (tracker 54613: neorados sends "expire" as a string). */
        {"rbd_blocklist_on_break_lock", "false", false},
        {"rbd_blocklist_expire_seconds", "0", false},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (!options[i].value)
            continue;
        int rc = rados_conf_set(conn->rados, options[i].name, options[i].value);
        if (rc < 0 && options[i].required) {
            vl_set_error(error, VL_ERR_STORAGE, "cannot set the Ceph option %s = %s: %s", options[i].name,
                         options[i].value, g_strerror(-rc));
            return false;
        }
    }
    return true;
}

static char *
target_describe(const SrbdTarget *target)
{
    const char *conf = target->conf ? target->conf : target->store->conf;
    if (target->mon_hosts)
        return g_strdup_printf("the Ceph cluster at %s", target->mon_hosts);
    if (conf)
        return g_strdup_printf("the Ceph cluster of %s", conf);
    return g_strdup("the default Ceph cluster");
}

static bool
conn_connect(SrbdConn *conn, const SrbdTarget *target, GError **error)
{
    SrbdStore *store = conn->store;
    g_autofree char *where = target_describe(target);
    int rc = rados_connect(conn->rados);
    if (rc == -ENOENT || rc == -EACCES || rc == -EPERM) {
        /* -ENOENT is "no keyring", or no monitor address (MonClient::init, build_initial_monmap).
         */
        vl_set_error(error, VL_ERR_DENIED, "cannot connect to %s as client.%s: %s", where, store->user,
                     rc == -ENOENT ? "no keyring for this user or no monitor address was found"
                                   : "the cluster does not accept its key (wrong, or not in the keyring)");
        return false;
    }
    char fsid[64] = "";
    if (rc >= 0)
        rc = rados_cluster_fsid(conn->rados, fsid, sizeof(fsid));
    if (rc < 0) {
        srbd_error(error, store, rc, "cannot connect to %s as client.%s", where, store->user);
        return false;
    }
    conn->fsid = g_strdup(fsid);
    conn->client = rados_get_instance_id(conn->rados);
    return true;
}

/* Blocks: client_mount_timeout bounds one try, and librados makes up to ten while it fetches the
 * monitors' configuration (MonClient::get_monmap_and_config). */
static SrbdConn *
conn_open(const SrbdTarget *target, GError **error)
{
    SrbdStore *store = target->store;
    g_autofree char *name = g_strconcat("client.", store->user, NULL);
    rados_t rados;
    int rc = rados_create2(&rados, "ceph", name, 0);
    if (rc < 0) {
        srbd_error(error, store, rc, "cannot create a Ceph client named %s", name);
        return NULL;
    }
    g_autoptr(SrbdConn) conn = g_new0(SrbdConn, 1);
    conn->refs = 1;
    conn->store = store;
    conn->rados = rados;
    g_mutex_init(&conn->barrier_lock);
    g_cond_init(&conn->barrier_cond);
    g_mutex_lock(&store->lock);
    store->live++;
    g_mutex_unlock(&store->lock);
    if (!conn_read_conf(conn, target->conf, target->mon_hosts, error) ||
        !conn_configure(conn, target->mon_hosts, error) || !conn_connect(conn, target, error))
        return NULL;
    return g_steal_pointer(&conn);
}

SrbdTarget *
srbd_target_get(SrbdStore *store, const char *conf, const char *mon_hosts)
{
    g_autofree char *key = g_strdup_printf("%s\n%s", conf ? conf : "", mon_hosts ? mon_hosts : "");
    g_mutex_lock(&store->lock);
    SrbdTarget *target = g_hash_table_lookup(store->targets, key);
    if (!target) {
        target = g_new0(SrbdTarget, 1);
        target->store = store;
        target->conf = g_strdup(conf);
        target->mon_hosts = g_strdup(mon_hosts);
        g_hash_table_insert(store->targets, g_steal_pointer(&key), target);
    }
    g_mutex_unlock(&store->lock);
    return target;
}

void
srbd_target_free(gpointer data)
{
    SrbdTarget *target = data;
    g_free(target->conf);
    g_free(target->mon_hosts);
    g_free(target);
}

void
srbd_cluster_free(gpointer data)
{
    SrbdCluster *cluster = data;
    g_thread_pool_free(cluster->osd_pool, FALSE, TRUE);
    g_thread_pool_free(cluster->mon_pool, FALSE, TRUE);
    g_ptr_array_unref(cluster->targets);
    g_free(cluster->fsid);
    g_free(cluster);
}

/* Which cluster a new connection leads to. Under store->lock. */
static SrbdCluster *
cluster_intern(SrbdStore *store, SrbdConn *conn)
{
    SrbdCluster *cluster = g_hash_table_lookup(store->clusters, conn->fsid);
    if (cluster)
        return cluster;
    cluster = g_new0(SrbdCluster, 1);
    cluster->store = store;
    cluster->fsid = g_strdup(conn->fsid);
    cluster->conn = srbd_conn_ref(conn);
    cluster->targets = g_ptr_array_new();
    cluster->osd_pool = srbd_pool_new(OSD_THREADS);
    cluster->mon_pool = srbd_pool_new(MON_THREADS);
    g_hash_table_insert(store->clusters, cluster->fsid, cluster);
    return cluster;
}

/* Under store->lock. */
static void
attempt_finish(Attempt *attempt, SrbdConn *conn, GError *error)
{
    SrbdTarget *target = attempt->target;
    SrbdStore *store = target->store;
    SrbdCluster *known = target->cluster;
    if (conn && known && strcmp(conn->fsid, known->fsid) != 0) {
        g_autofree char *where = target_describe(target);
        vl_set_error(&error, VL_ERR_STORAGE, "%s is now another cluster: fsid %s, it was %s", where, conn->fsid,
                     known->fsid);
        g_clear_pointer(&conn, srbd_conn_unref);
    }
    if (conn) {
        conn->cluster = cluster_intern(store, conn);
        if (!known) {
            target->cluster = conn->cluster;
            g_ptr_array_add(conn->cluster->targets, target);
        }
    }
    attempt->conn = conn;
    attempt->error = error;
    attempt->done = true;
    target->attempt = NULL;
    g_cond_broadcast(&store->cond);
}

static void
attempt_run(gpointer data)
{
    Attempt *attempt = data;
    SrbdStore *store = attempt->target->store;
    GError *error = NULL;
    SrbdConn *conn = conn_open(attempt->target, &error);
    g_mutex_lock(&store->lock);
    attempt_finish(attempt, conn, error);
    store->live--;
    g_mutex_unlock(&store->lock);
    attempt_unref(attempt);
}

/* A client made by an attempt that was not over when this was called. */
static SrbdConn *
target_connect(SrbdTarget *target, gint64 deadline, GError **error)
{
    SrbdStore *store = target->store;
    gint64 since = g_get_monotonic_time();
    SrbdConn *conn = NULL;
    g_mutex_lock(&store->lock);
    Attempt *attempt = target->attempt;
    if (!attempt) {
        attempt = target->attempt = g_new0(Attempt, 1);
        attempt->refs = 1;
        attempt->target = target;
        store->live++;
        srbd_spawn(store->threads, attempt_run, attempt);
    }
    g_atomic_int_inc(&attempt->refs);
    while (!attempt->done && g_cond_wait_until(&store->cond, &store->lock, deadline))
        ;
    bool done = attempt->done;
    if (attempt->conn)
        conn = srbd_conn_ref(attempt->conn);
    else if (done)
        g_propagate_error(error, g_error_copy(attempt->error));
    g_mutex_unlock(&store->lock);
    if (!done) {
        g_autofree char *where = target_describe(target);
        srbd_error(error, store, SRBD_LATE - (int)((g_get_monotonic_time() - since) / 1000),
                   "cannot connect to %s as client.%s", where, store->user);
    }
    attempt_unref(attempt);
    return conn;
}

SrbdCluster *
srbd_target_cluster(SrbdTarget *target, gint64 deadline, GError **error)
{
    SrbdStore *store = target->store;
    g_mutex_lock(&store->lock);
    SrbdCluster *cluster = target->cluster;
    g_mutex_unlock(&store->lock);
    if (cluster)
        return cluster;
    g_autoptr(SrbdConn) conn = target_connect(target, deadline, error);
    return conn ? conn->cluster : NULL;
}

SrbdConn *
srbd_cluster_conn(SrbdCluster *cluster)
{
    g_mutex_lock(&cluster->store->lock);
    SrbdConn *conn = srbd_conn_ref(cluster->conn);
    g_mutex_unlock(&cluster->store->lock);
    return conn;
}

SrbdConn *
srbd_cluster_reconnect(SrbdCluster *cluster, SrbdConn *old, gint64 deadline, GError **error)
{
    SrbdStore *store = cluster->store;
    g_autoptr(SrbdConn) fresh = NULL;
    /* A VM's own configuration file may be gone by now; any other way to the cluster will do. */
    for (guint i = 0; !fresh; i++) {
        g_mutex_lock(&store->lock);
        SrbdTarget *target = i < cluster->targets->len ? cluster->targets->pdata[i] : NULL;
        bool replaced = cluster->conn != old;
        g_mutex_unlock(&store->lock);
        if (replaced)
            return srbd_cluster_conn(cluster);
        if (!target)
            return NULL;
        g_clear_error(error);
        fresh = target_connect(target, deadline, error);
    }
    g_clear_error(error);
    g_autoptr(SrbdConn) dropped = NULL;
    g_mutex_lock(&store->lock);
    if (cluster->conn == old) {
        dropped = old;
        cluster->conn = srbd_conn_ref(fresh);
    }
    SrbdConn *now = srbd_conn_ref(cluster->conn);
    g_mutex_unlock(&store->lock);
    return now;
}

static void
barrier_run(gpointer data)
{
    g_autoptr(SrbdConn) conn = data;
    bool again = true;
    while (again) {
        int rc = rados_wait_for_latest_osdmap(conn->rados);
        g_mutex_lock(&conn->barrier_lock);
        conn->barrier_done = conn->barrier_started;
        conn->barrier_rc = rc;
        again = conn->barrier_wanted > conn->barrier_done;
        if (again)
            conn->barrier_started++;
        else
            conn->barrier_running = false;
        g_cond_broadcast(&conn->barrier_cond);
        g_mutex_unlock(&conn->barrier_lock);
    }
}

int
srbd_conn_barrier(SrbdConn *conn, gint64 deadline)
{
    gint64 since = g_get_monotonic_time();
    bool in_time = true;
    g_mutex_lock(&conn->barrier_lock);
    /* One that already runs may have asked the monitors before our command was committed. */
    guint64 mine = conn->barrier_started + 1;
    conn->barrier_wanted = MAX(conn->barrier_wanted, mine);
    if (!conn->barrier_running) {
        conn->barrier_running = true;
        conn->barrier_started = mine;
        srbd_spawn(conn->store->threads, barrier_run, srbd_conn_ref(conn));
    }
    while (conn->barrier_done < mine && in_time)
        in_time = g_cond_wait_until(&conn->barrier_cond, &conn->barrier_lock, deadline);
    int rc = conn->barrier_done >= mine ? conn->barrier_rc : SRBD_LATE - (int)((g_get_monotonic_time() - since) / 1000);
    g_mutex_unlock(&conn->barrier_lock);
    return rc;
}

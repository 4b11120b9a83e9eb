/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Fencing: the blocklist.
 *
 * "expire" must be a JSON number with a fraction. The monitor's command table says CephFloat, and
 * cmd_getval() of src/common/cmdparse.h refuses both the string "3600.0" (which is what librbd's
 * own neorados sends, tracker 54613) and the integer 3600 with EINVAL. It is printed from an
 * integer because "%f" would put a comma there in half of Europe.
 *
 * Adding an address that is already listed succeeds, prints the new time and changes nothing
 * (OSDMap::apply_incremental inserts without overwriting), so the list is read back.
 */
#include "lockd/store_rbd_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define ADDRESS_MAX 128

typedef struct {
    SrbdJob job;
    char *command;
    char *legacy; /* NULL: none */
    char *out;
    size_t out_len;
} MonJob;

/* A decimal number up to max, all of it, without sign or blanks. */
static bool
parse_number(const char *text, guint64 max, guint64 *ret)
{
    return g_ascii_isdigit(*text) && g_ascii_string_to_unsigned(text, 10, 0, max, ret, NULL);
}

char *
srbd_address_canonical(const char *addr)
{
    char host[ADDRESS_MAX];
    char text[INET6_ADDRSTRLEN];
    unsigned char binary[16];
    guint64 port, nonce;
    const char *colon = strrchr(addr, ':');
    const char *slash = strrchr(addr, '/');
    if (!colon || !slash || slash < colon || (size_t)(colon - addr) >= sizeof(host))
        return NULL;
    g_autofree char *port_text = g_strndup(colon + 1, (gsize)(slash - colon - 1));
    if (!parse_number(port_text, G_MAXUINT16, &port) || !parse_number(slash + 1, G_MAXUINT32, &nonce))
        return NULL;
    g_strlcpy(host, addr, (gsize)(colon - addr) + 1);
    size_t len = strlen(host);
    bool v6 = len > 2 && host[0] == '[' && host[len - 1] == ']';
    if (v6)
        host[len - 1] = '\0';
    int family = v6 ? AF_INET6 : AF_INET;
    if (inet_pton(family, v6 ? host + 1 : host, binary) != 1 || !inet_ntop(family, binary, text, sizeof(text)))
        return NULL;
    return g_strdup_printf(v6 ? "[%s]:%u/%u" : "%s:%u/%u", text, (unsigned)port, (unsigned)nonce);
}

/* A canonical address that is exactly one client: nonce 0 would match every client of the host
 * (OSDMap::is_blocklisted). */
static char *
fenceable_address(const char *addr, GError **error)
{
    g_autofree char *canonical = srbd_address_canonical(addr);
    if (canonical && !g_str_has_suffix(canonical, "/0"))
        return g_steal_pointer(&canonical);
    vl_set_error(error, VL_ERR_FENCE,
                 "will not blocklist '%s': not the address of one client (IP:PORT/NONCE with a nonce "
                 "that is not 0)",
                 addr);
    return NULL;
}

static int
mon_run(SrbdJob *base)
{
    MonJob *job = (MonJob *)base;
    const char *command = job->command;
    int rc = rados_mon_command(base->conn->rados, &command, 1, NULL, 0, &job->out, &job->out_len, NULL, NULL);
    /* Monitors before Pacific know "osd blacklist" only and answer EINVAL to anything unknown. The
     * arguments are known to be good, so it cannot be about them. */
    if (rc == -EINVAL && job->legacy) {
        command = job->legacy;
        rados_buffer_free(g_steal_pointer(&job->out));
        rc = rados_mon_command(base->conn->rados, &command, 1, NULL, 0, &job->out, &job->out_len, NULL, NULL);
    }
    return rc;
}

static void
mon_clear(SrbdJob *base)
{
    MonJob *job = (MonJob *)base;
    rados_buffer_free(job->out);
    g_free(job->command);
    g_free(job->legacy);
}

static MonJob *
mon_start(SrbdWait *wait, SrbdConn *conn, char *command, char *legacy)
{
    MonJob *job = srbd_job_new(sizeof(MonJob), wait, conn, NULL, mon_clear);
    job->command = command;
    job->legacy = legacy;
    srbd_job_run(&job->job, conn->cluster->mon_pool, mon_run);
    return job;
}

static char *
add_command(const char *word, const char *addr, guint64 expire)
{
    return g_strdup_printf("{\"prefix\": \"osd %s\", \"%sop\": \"add\", \"addr\": \"%s\", "
                           "\"expire\": %" G_GUINT64_FORMAT ".0}",
                           word, word, addr, expire);
}

/* "2026-11-22T09:20:21.285533+0530" with the monitor's own offset (utime_t::localtime since
 * Octopus); before, "2026-11-22 09:20:21.285533" without any, which is taken for ours. 0: not a
 * time. */
static gint64
parse_until(const char *text)
{
    g_autoptr(GTimeZone) local = g_time_zone_new_local();
    g_autofree char *iso = g_strdup(text);
    if (strlen(iso) > 10 && iso[10] == ' ')
        iso[10] = 'T';
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(iso, local);
    return time ? g_date_time_to_unix(time) : 0;
}

/* Lines "ADDR TIME". `ls` as JSON ends in a stray "[]", and `osd dump` grows with the cluster.
 * CIDR ranges ("cidr:10.0.0.0:0/24") and anything else that is not one address are left out. */
static GHashTable *
parse_blocklist(const char *text)
{
    GHashTable *list = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        char *space = strchr(g_strstrip(*line), ' ');
        if (!space)
            continue;
        *space = '\0';
        g_autofree char *plain = srbd_address_plain(*line);
        char *addr = srbd_address_canonical(plain);
        gint64 until = parse_until(g_strstrip(space + 1));
        if (addr && until > 0) {
            gint64 *boxed = g_new(gint64, 1);
            *boxed = until;
            g_hash_table_replace(list, addr, boxed);
        } else {
            g_free(addr);
        }
    }
    return list;
}

static GHashTable *
conn_blocklist(SrbdConn *conn, gint64 deadline, GError **error)
{
    SRBD_AUTO_JOB MonJob *job = mon_start(NULL, conn, g_strdup("{\"prefix\": \"osd blocklist ls\"}"),
                                          g_strdup("{\"prefix\": \"osd blacklist ls\"}"));
    int rc = srbd_job_await(&job->job, deadline);
    if (rc < 0) {
        srbd_error(error, conn->store, rc, "reading the blocklist of cluster %s", conn->fsid);
        return NULL;
    }
    g_autofree char *text = g_strndup(job->out ? job->out : "", job->out_len);
    return parse_blocklist(text);
}

GHashTable *
srbd_blocklist(VlPlace *place, gint64 deadline, GError **error)
{
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    return io ? conn_blocklist(io->conn, deadline, error) : NULL;
}

/* True if the monitor took any. */
static bool
add_all(SrbdConn *conn, VlFenceEntry *entries, size_t n, guint64 expire, gint64 deadline)
{
    g_autoptr(SrbdWait) wait = srbd_wait_new();
    g_autofree MonJob **jobs = g_new0(MonJob *, n);
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        g_autofree char *addr = fenceable_address(entries[i].addr, &entries[i].error);
        if (addr)
            jobs[i] =
                mon_start(wait, conn, add_command("blocklist", addr, expire), add_command("blacklist", addr, expire));
    }
    srbd_wait_until(wait, deadline);
    for (size_t i = 0; i < n; i++) {
        int rc = jobs[i] ? srbd_job_result(&jobs[i]->job) : 0;
        any = any || (jobs[i] && rc >= 0);
        if (rc == -EACCES || rc == -EPERM)
            vl_set_error(&entries[i].error, VL_ERR_DENIED,
                         "Ceph user client.%s may not blocklist %s (%s); it needs the capability mon "
                         "'profile rbd'",
                         conn->store->user, entries[i].addr, g_strerror(-rc));
        else if (rc < 0)
            srbd_error(&entries[i].error, conn->store, rc, "blocklisting %s", entries[i].addr);
        srbd_job_unref(jobs[i]);
    }
    return any;
}

/* What the list says of each entry. An entry whose add failed may be listed all the same. */
static bool
read_back(GHashTable *list, VlFenceEntry *entries, size_t n)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        g_autofree char *addr = srbd_address_canonical(entries[i].addr);
        gint64 *until = addr ? g_hash_table_lookup(list, addr) : NULL;
        entries[i].until = until ? *until : 0;
        if (!until && !entries[i].error)
            vl_set_error(&entries[i].error, VL_ERR_FENCE, "%s is not in the blocklist although the monitor took it",
                         entries[i].addr);
        ok = ok && !entries[i].error;
    }
    return ok;
}

static bool
fail_all(VlFenceEntry *entries, size_t n, GError *error)
{
    for (size_t i = 0; i < n; i++) {
        if (!entries[i].error)
            entries[i].error = g_error_copy(error);
    }
    g_error_free(error);
    return n == 0;
}

bool
srbd_fence(VlPlace *place, VlFenceEntry *entries, size_t n, guint64 expire, gint64 deadline)
{
    GError *error = NULL;
    for (size_t i = 0; i < n; i++)
        entries[i].until = 0;
    /* The monitor takes 0 for "expires now", an entry that fences nobody. */
    if (expire == 0) {
        vl_set_error(&error, VL_ERR_FENCE, "will not blocklist for 0 seconds");
        return fail_all(entries, n, error);
    }
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, &error);
    if (!io)
        return fail_all(entries, n, error);
    if (!add_all(io->conn, entries, n, expire, deadline))
        return n == 0;
    g_autoptr(GHashTable) list = conn_blocklist(io->conn, deadline, &error);
    if (!list)
        return fail_all(entries, n, error);
    return read_back(list, entries, n);
}

bool
srbd_barrier(VlPlace *place, gint64 deadline, GError **error)
{
    g_autoptr(SrbdIo) io = srbd_place_io(place, deadline, error);
    if (!io)
        return false;
    int rc = srbd_conn_barrier(io->conn, deadline);
    if (rc < 0)
        srbd_error(error, io->conn->store, rc, "%s: waiting for the newest osdmap", place->display);
    return rc >= 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/daemon.h"

typedef struct {
    VlJobFunc func;
    gpointer data;
    GDestroyNotify free_func;
} Job;

static void
job_run(gpointer data, gpointer opaque)
{
    g_autofree Job *job = data;
    job->func(opaque, job->data);
    if (job->free_func)
        job->free_func(job->data);
}

void
vl_daemon_run(VlDaemon *daemon, VlJobFunc func, gpointer data, GDestroyNotify free_func)
{
    Job *job = g_new0(Job, 1);
    *job = (Job){func, data, free_func};
    g_thread_pool_push(daemon->jobs, job, NULL);
}

VlDaemon *
vl_daemon_new(void)
{
    VlDaemon *daemon = g_new0(VlDaemon, 1);
    daemon->jobs = g_thread_pool_new(job_run, daemon, VL_JOBS_MAX, FALSE, NULL);
    daemon->claims = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_mutex_init(&daemon->claims_lock);
    return daemon;
}

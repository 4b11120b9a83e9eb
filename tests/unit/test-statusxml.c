/* SPDX-License-Identifier: LGPL-2.1-or-later
 * data/status/: child, starting, running, mirror, paused, shutdown are what libvirt 9.0.0 wrote for
 * one VM (shortened; addresses and paths replaced; lockstate put into paused), the rest is by hand.
 */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockd/error.h"
#include "lockd/statusxml.h"

#define VM1_UUID   "3c0a4e1e-9b1b-4d52-8f1e-6a0f0c7d1e01"
#define MIXED_UUID "deadbeef-0000-4000-8000-00000000cafe"

static char *
data(const char *name)
{
    return g_build_filename(g_getenv("VL_SRCDIR"), "tests", "unit", "data", "status", name, NULL);
}

static VlDomain *
load(const char *name)
{
    g_autofree char *path = data(name);
    g_autoptr(GError) error = NULL;
    VlDomain *domain = vl_statusxml_load(path, &error);
    g_assert_no_error(error);
    return domain;
}

static const VlDisk *
disk(const VlDomain *domain, const char *target, gboolean mirror)
{
    for (guint i = 0; i < domain->disks->len; i++) {
        const VlDisk *candidate = g_ptr_array_index(domain->disks, i);
        if (!candidate->device && g_strcmp0(candidate->target, target) == 0 && candidate->mirror == mirror)
            return candidate;
    }
    g_error("no disk %s", target ? target : "without target");
}

static void
assert_disk(const VlDisk *got, const char *display, gboolean readonly, gboolean shareable)
{
    char *text = vl_volume_display(&got->spec);
    g_assert_cmpstr(text, ==, display);
    free(text);
    g_assert_cmpint(got->readonly, ==, readonly);
    g_assert_cmpint(got->shareable, ==, shareable);
}

static void
assert_refused(const char *text, gssize len, const char *pattern)
{
    g_autoptr(GError) error = NULL;
    gint64 start = g_get_monotonic_time();
    gsize size = len < 0 ? strlen(text) : (gsize)len;
    g_assert_null(vl_statusxml_parse("/run/x.xml", text, size, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_NO_XML);
    g_assert_true(g_str_has_prefix(error->message, "/run/x.xml: "));
    g_assert_null(strchr(error->message, '\n'));
    if (!g_pattern_match_simple(pattern, error->message))
        g_error("'%s' is not like '%s'", error->message, pattern);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 500 * 1000);
}

static void
test_child(void)
{
    g_autoptr(VlDomain) domain = load("child.xml");
    g_assert_cmpstr(domain->name, ==, "vm1");
    g_assert_cmpstr(domain->uuid, ==, VM1_UUID);
    g_assert_cmpint(domain->pid, ==, 0);
    g_assert_true(domain->paused);
    g_assert_cmpstr(domain->state, ==, "paused");
    g_assert_cmpstr(domain->reason, ==, "starting up");
    g_assert_cmpstr(domain->async_job, ==, "start");
    g_assert_null(domain->job_phase);
    g_assert_null(domain->lockstate);
    g_assert_cmpstr(domain->lock_failure, ==, "pause");
    g_assert_cmpuint(domain->disks->len, ==, 5); /* the empty CD-ROM has a <source> here */

    const VlDisk *vda = disk(domain, "vda", FALSE);
    assert_disk(vda, "rbd:rbd/vm1-root", FALSE, FALSE);
    g_assert_cmpstr(vda->spec.mon_hosts, ==, "192.0.2.11:6789");
    g_assert_cmpstr(vda->spec.conf, ==, "/etc/ceph/ceph.conf");
    g_assert_cmpstr(vda->spec.ns, ==, "");
    g_assert_cmpstr(vda->format, ==, "raw");
    const VlDisk *vdb = disk(domain, "vdb", FALSE);
    assert_disk(vdb, "rbd:rbd/vm1-data", FALSE, FALSE);
    g_assert_cmpstr(vdb->spec.mon_hosts, ==, "192.0.2.11:6789,192.0.2.12:3300");
    g_assert_null(vdb->spec.conf);
    assert_disk(disk(domain, "vdc", FALSE), "file:/var/lib/libvirt/images/f.qcow2", FALSE, FALSE);
    g_assert_cmpstr(disk(domain, "vdc", FALSE)->format, ==, "qcow2");
    assert_disk(disk(domain, "vdd", FALSE), "file:/var/lib/libvirt/images/f.raw", FALSE, TRUE);
    assert_disk(disk(domain, "vde", FALSE), "rbd:rbd/vm1-root-x", TRUE, FALSE);
    g_assert_true(disk(domain, "vde", FALSE)->spec.snapshot);
}

static void
test_life(void)
{
    g_autoptr(VlDomain) starting = load("starting.xml");
    g_assert_cmpint(starting->pid, ==, 607);
    g_assert_true(starting->paused);
    g_assert_cmpstr(starting->async_job, ==, "start");

    g_autoptr(VlDomain) running = load("running.xml");
    g_assert_cmpint(running->pid, ==, 607);
    g_assert_false(running->paused);
    g_assert_cmpstr(running->state, ==, "running");
    g_assert_cmpstr(running->reason, ==, "booted");
    g_assert_null(running->async_job);
    g_assert_null(running->lockstate);
    g_assert_cmpuint(running->disks->len, ==, 5);

    g_autoptr(VlDomain) paused = load("paused.xml");
    g_assert_true(paused->paused);
    g_assert_cmpstr(paused->reason, ==, "user");
    g_assert_cmpstr(paused->lockstate, ==, "vl1:9f2c/7,a=b+c");

    g_autoptr(VlDomain) shutdown = load("shutdown.xml");
    g_assert_cmpstr(shutdown->state, ==, "shutdown");
    g_assert_false(shutdown->paused);
    g_assert_null(shutdown->async_job); /* "none" */
}

static void
test_incoming(void)
{
    g_autoptr(VlDomain) domain = load("incoming.xml");
    g_assert_cmpint(domain->pid, ==, 0);
    g_assert_cmpstr(domain->async_job, ==, "migration in");
    g_assert_cmpstr(domain->job_phase, ==, "prepare");
    g_assert_cmpstr(domain->lockstate, ==, "vl1:stale/3");
}

static void
test_mirror(void)
{
    g_autoptr(VlDomain) domain = load("mirror.xml");
    g_assert_cmpuint(domain->disks->len, ==, 6);
    assert_disk(disk(domain, "vdd", FALSE), "file:/var/lib/libvirt/images/f.raw", FALSE, TRUE);
    assert_disk(disk(domain, "vdd", TRUE), "file:/var/lib/libvirt/images/copy.raw", FALSE, TRUE);
    g_assert_cmpstr(disk(domain, "vdd", TRUE)->format, ==, "raw");
}

static void
test_disks(void)
{
    g_autoptr(VlDomain) domain = load("disks.xml");
    g_assert_cmpstr(domain->name, ==, "mixed & \"odd\" näme");
    g_assert_cmpstr(domain->uuid, ==, MIXED_UUID);
    g_assert_cmpint(domain->pid, ==, 4194303);
    g_assert_null(domain->lock_failure);
    g_assert_null(domain->async_job);
    g_assert_cmpuint(domain->disks->len, ==, 15); /* one of them a <lease> */

    const VlDisk *vda = disk(domain, "vda", FALSE);
    assert_disk(vda, "rbd:ssd/tenant-a/mixed root", FALSE, FALSE);
    g_assert_cmpstr(vda->spec.mon_hosts, ==, "[2001:db8::1]:3300,[2001:db8::2]:3300,mon-b.example:6789");
    const VlDisk *vdb = disk(domain, "vdb", FALSE);
    assert_disk(vdb, "rbd:rbd/golden", TRUE, FALSE); /* a snapshot, without <readonly/> */
    g_assert_true(vdb->spec.snapshot);
    g_assert_cmpstr(vdb->spec.conf, ==, "/etc/ceph/other.conf");
    g_assert_null(vdb->spec.mon_hosts);
    assert_disk(disk(domain, "sda", FALSE), "rbd:rbd/install.iso", TRUE, FALSE);
    assert_disk(disk(domain, "sdb", FALSE), "rbd:rbd/before", FALSE, TRUE);
    assert_disk(disk(domain, "sdb", TRUE), "rbd:rbd/after", FALSE, TRUE);
    g_assert_cmpstr(disk(domain, "sdb", TRUE)->spec.mon_hosts, ==, "192.0.2.11");
    assert_disk(disk(domain, "vdc", FALSE), "file:/srv/vm images/a&b <c> é.qcow2", FALSE, FALSE);
    assert_disk(disk(domain, "vdd", FALSE), "file:/dev/rbd/rbd/kernel-mapped", FALSE, FALSE);
    assert_disk(disk(domain, "fda", FALSE), "file:/srv/floppy", TRUE, FALSE);
    assert_disk(disk(domain, NULL, FALSE), "rbd:rbd/vars/mixed", FALSE, FALSE);
}

static void
test_other_disks(void)
{
    g_autoptr(VlDomain) domain = load("disks.xml");
    static const struct {
        const char *target, *display;
    } others[] = {{"vde", "volume:default/vol1.img"},
                  {"vdf", "nvme:"},
                  {"vdg", "iscsi:iqn.2013-07.com.example:iscsi-pool/1"},
                  {"vdh", "nbd:"},
                  {"vdi", "vhostuser:"}};
    for (gsize i = 0; i < G_N_ELEMENTS(others); i++) {
        const VlDisk *got = disk(domain, others[i].target, FALSE);
        g_assert_cmpint(got->spec.kind, ==, VL_VOLUME_OTHER);
        assert_disk(got, others[i].display, FALSE, FALSE);
    }
}

static void
test_device_leases(void)
{
    static const char text[] =
        "<domstatus state='running' pid='1'><domain><name>x</name><uuid>" VM1_UUID "</uuid><devices>"
        "<lease><lockspace>rbd</lockspace><key>pool/ns/image</key><target path='/x'/></lease>"
        "<lease><lockspace>cluster</lockspace><key>thing</key></lease>"
        "</devices></domain></domstatus>";
    g_autoptr(GError) error = NULL;
    g_autoptr(VlDomain) domain = vl_statusxml_parse("x", text, strlen(text), &error);
    g_assert_no_error(error);
    g_assert_cmpuint(domain->disks->len, ==, 2);
    const VlDisk *ours = domain->disks->pdata[0];
    const VlDisk *other = domain->disks->pdata[1];
    g_assert_true(ours->device && other->device);
    assert_disk(ours, "rbd:pool/ns/image", FALSE, FALSE);
    g_assert_cmpint(other->spec.kind, ==, VL_VOLUME_LEASE);
    assert_disk(other, "lease:cluster/thing", FALSE, FALSE);
    assert_refused("<domstatus pid='1'><domain><name>x</name><uuid>" VM1_UUID "</uuid><devices>"
                   "<lease><lockspace>rbd</lockspace><key>nopool</key></lease></devices></domain></domstatus>",
                   -1, "*lease key 'nopool'*");
}

#define HEAD               "<domstatus state='running' pid='1'><domain><name>x</name><uuid>" VM1_UUID "</uuid>"
#define TAIL               "</domain></domstatus>"
#define DISK(type, source) HEAD "<devices><disk type='" type "'>" source "<target dev='vda'/></disk></devices>" TAIL

static void
test_refused(void)
{
    assert_refused("", 0, "*is empty");
    assert_refused("   \n", -1, "*not well-formed*");
    assert_refused("plain text", -1, "*not well-formed*line 1*");
    assert_refused("<domain type='kvm'><name>x</name></domain>", -1, "*<domain>*<domstatus>*");
    assert_refused("<domstatus state='running' pid='1'/>", -1, "*<domstatus>*");
    assert_refused("<domstatus><domain><name>x</name></domain></domstatus>", -1, "*uuid*");
    assert_refused("<domstatus><domain><name>x</name><uuid>1-2-3</uuid></domain></domstatus>", -1, "*uuid*");
    assert_refused("<domstatus><domain><uuid>" VM1_UUID "</uuid></domain></domstatus>", -1, "*name*");
    assert_refused("<domstatus pid='-1'><domain><name>x</name><uuid>" VM1_UUID "</uuid>" TAIL, -1, "*pid '-1'*");
    assert_refused("<domstatus pid='12x'><domain><name>x</name><uuid>" VM1_UUID "</uuid>" TAIL, -1, "*pid '12x'*");
    assert_refused("<domstatus pid='99999999999'><domain><name>x</name><uuid>" VM1_UUID "</uuid>" TAIL, -1, "*pid*");
    /* Latin-1 in a document that says it is UTF-8; a NUL in the middle */
    assert_refused(HEAD "<title>\xe9</title>" TAIL, -1, "*not well-formed*");
    static const char nul[] = HEAD "<title>a\0b</title>" TAIL;
    assert_refused(nul, sizeof nul - 1, "*not well-formed*");
    assert_refused(HEAD TAIL "<domstatus/>", -1, "*not well-formed*");
}

static void
test_bad_disks(void)
{
    assert_refused(DISK("network", "<source protocol='rbd' name='nopool'/>"), -1, "*disk vda: 'nopool'*POOL/IMAGE*");
    assert_refused(DISK("network", "<source protocol='rbd'/>"), -1, "*disk vda: ''*");
    assert_refused(DISK("network", "<source protocol='rbd' name='a/b/c/d'/>"), -1, "*vda*");
    assert_refused(DISK("network", "<source protocol='rbd' name='a/b'><host/></source>"), -1, "*monitor address*");
    assert_refused(DISK("network", "<source protocol='rbd' name='a/b'><host name='x' port='-1'/></source>"), -1,
                   "*'x' port '-1'*");
    /* Of the shape of a disk, but nothing anybody could open */
    static const char odd[] = DISK("network", "") "";
    g_autoptr(GError) error = NULL;
    g_autoptr(VlDomain) domain = vl_statusxml_parse("x", odd, sizeof odd - 1, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(domain->disks->len, ==, 0);
}

static void
test_truncated(void)
{
    g_autofree char *path = data("running.xml");
    g_autofree char *text = NULL;
    gsize len = 0;
    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    gsize end = (gsize)(g_strrstr(text, "</domstatus>") - text) + strlen("</domstatus>");
    for (gsize cut = 1; cut < end; cut += cut < 600 ? 7 : 97) {
        g_autoptr(GError) error = NULL;
        g_assert_null(vl_statusxml_parse(path, text, cut, &error));
        g_assert_error(error, VL_ERROR, VL_ERR_NO_XML);
    }
    g_autoptr(VlDomain) whole = vl_statusxml_parse(path, text, end, NULL);
    g_assert_nonnull(whole);
}

static void
test_entities(void)
{
    g_autoptr(GString) bomb = g_string_new("<?xml version='1.0'?>\n<!DOCTYPE domstatus [\n"
                                           "<!ENTITY e0 'hahahahahahahahahahahahahahahaha'>\n");
    for (int i = 1; i < 12; i++) {
        g_string_append_printf(bomb, "<!ENTITY e%d '", i);
        for (int j = 0; j < 10; j++)
            g_string_append_printf(bomb, "&e%d;", i - 1);
        g_string_append(bomb, "'>\n");
    }
    g_string_append(bomb, "]>\n<domstatus state='&e11;' pid='1'><lockstate>&e11;</lockstate>"
                          "<domain><name>&e11;</name><uuid>" VM1_UUID "</uuid>" TAIL);
    assert_refused(bomb->str, -1, "*not well-formed*DOCTYPE*");
    assert_refused("<!DOCTYPE domstatus [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>"
                   "<domstatus><domain><name>&f;</name><uuid>" VM1_UUID "</uuid>" TAIL,
                   -1, "*DOCTYPE*");
    assert_refused("<!DOCTYPE domstatus SYSTEM 'http://192.0.2.1/x.dtd'>" HEAD TAIL, -1, "*DOCTYPE*");
    assert_refused(HEAD "<title>&undeclared;</title>" TAIL, -1, "*not well-formed*");
    /* Nesting is bounded by libxml2 (XML_PARSE_HUGE is off). */
    g_autoptr(GString) deep = g_string_new(HEAD);
    for (int i = 0; i < 100000; i++)
        g_string_append(deep, "<a>");
    assert_refused(deep->str, -1, "*not well-formed*");
}

typedef struct {
    char *dir;
} Fixture;

static void
fixture_set_up(Fixture *fixture, gconstpointer unused)
{
    fixture->dir = g_dir_make_tmp("vl-statusxml-XXXXXX", NULL);
    g_assert_nonnull(fixture->dir);
}

static void
fixture_tear_down(Fixture *fixture, gconstpointer unused)
{
    GDir *dir = g_dir_open(fixture->dir, 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(fixture->dir, name, NULL);
        g_assert_cmpint(g_remove(path), ==, 0);
    }
    g_dir_close(dir);
    g_assert_cmpint(g_rmdir(fixture->dir), ==, 0);
    g_free(fixture->dir);
}

static char *
put(Fixture *fixture, const char *name, const char *text)
{
    char *path = g_build_filename(fixture->dir, name, NULL);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return path;
}

static void
put_copy(Fixture *fixture, const char *from, const char *name)
{
    g_autofree char *path = data(from);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_free(put(fixture, name, text));
}

static void
assert_unloadable(const char *path, const char *pattern)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vl_statusxml_load(path, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_NO_XML);
    g_assert_nonnull(strstr(error->message, path));
    if (!g_pattern_match_simple(pattern, error->message))
        g_error("'%s' is not like '%s'", error->message, pattern);
}

static void
test_files(Fixture *fixture, gconstpointer unused)
{
    g_autofree char *absent = g_build_filename(fixture->dir, "absent.xml", NULL);
    assert_unloadable(absent, "cannot read*No such file*");
    g_autofree char *empty = put(fixture, "empty.xml", "");
    assert_unloadable(empty, "*is empty");
    assert_unloadable(fixture->dir, "cannot read*");
    g_autofree char *fifo = g_build_filename(fixture->dir, "fifo.xml", NULL);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    assert_unloadable(fifo, "cannot read*"); /* and does not wait for a writer */
    g_autofree char *loop = g_build_filename(fixture->dir, "loop.xml", NULL);
    g_assert_cmpint(symlink("loop.xml", loop), ==, 0);
    assert_unloadable(loop, "cannot read*");

    /* 10 MB, sparse and not; a good document of just under the limit is read */
    g_autofree char *sparse = put(fixture, "sparse.xml", HEAD TAIL);
    g_assert_cmpint(truncate(sparse, 10 * 1000 * 1000), ==, 0);
    assert_unloadable(sparse, "*larger than 8 MiB");
    g_autoptr(GString) big = g_string_new(HEAD);
    while (big->len < 8 * 1024 * 1024 - 200)
        g_string_append(big, "<feature policy='require' name='some cpu feature or other'/>\n");
    g_string_append(big, TAIL);
    g_autofree char *fits = put(fixture, "fits.xml", big->str);
    g_autoptr(GError) error = NULL;
    g_autoptr(VlDomain) domain = vl_statusxml_load(fits, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(domain->name, ==, "x");
    while (big->len < 10 * 1000 * 1000)
        g_string_append_c(big, '\n');
    g_autofree char *over = put(fixture, "over.xml", big->str);
    assert_unloadable(over, "*larger than 8 MiB");
}

static void
test_find(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vl_statusxml_find(fixture->dir, "vm1", VM1_UUID, &error));
    g_assert_no_error(error);

    put_copy(fixture, "running.xml", "vm1.xml");
    put_copy(fixture, "disks.xml", "old name.xml");
    put_copy(fixture, "disks.xml", "ignored.xml.new");
    g_free(put(fixture, "broken.xml", "<domstatus"));
    g_autoptr(VlDomain) direct = vl_statusxml_find(fixture->dir, "vm1", VM1_UUID, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(direct->uuid, ==, VM1_UUID);

    /* renamed; upper case; no name; a name that must not leave the directory */
    static const char *const names[] = {"vm-new", "vm1", "broken", NULL, "", "../x", "a/b"};
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *upper = g_ascii_strup(MIXED_UUID, -1);
        g_autoptr(VlDomain) renamed = vl_statusxml_find(fixture->dir, names[i], upper, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(renamed->uuid, ==, MIXED_UUID);
    }
    static const char *const nobody = "11111111-1111-4111-8111-111111111112";
    g_assert_null(vl_statusxml_find(fixture->dir, "vm1", nobody, &error));
    g_assert_no_error(error);
    /* its own file is there but broken: say so */
    g_assert_null(vl_statusxml_find(fixture->dir, "broken", nobody, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_NO_XML);
    g_assert_nonnull(strstr(error->message, "broken.xml: not well-formed"));
    g_clear_error(&error);
    g_autofree char *nowhere = g_build_filename(fixture->dir, "nowhere", NULL);
    g_assert_null(vl_statusxml_find(nowhere, "vm1", VM1_UUID, &error));
    g_assert_error(error, VL_ERROR, VL_ERR_NO_XML);
}

static void
test_list(Fixture *fixture, gconstpointer unused)
{
    g_autofree char *nowhere = g_build_filename(fixture->dir, "nowhere", NULL);
    g_autoptr(GPtrArray) none = vl_statusxml_list(nowhere);
    g_assert_cmpuint(none->len, ==, 0);

    put_copy(fixture, "running.xml", "vm1.xml");
    put_copy(fixture, "disks.xml", "mixed.xml");
    put_copy(fixture, "child.xml", "vm2.xml.new");
    g_free(put(fixture, "vm1.pid", "607"));
    g_free(put(fixture, "broken.xml", "<domstatus"));
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*broken.xml: not well-formed*");
    g_autoptr(GPtrArray) domains = vl_statusxml_list(fixture->dir);
    g_test_assert_expected_messages();
    g_assert_cmpuint(domains->len, ==, 2);
}

static void
test_dir(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *system = vl_statusxml_dir("qemu:///system", "/run", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(system, ==, "/run/libvirt/qemu");
    g_autofree char *embed = vl_statusxml_dir("qemu:///embed?root=/srv/a%20b", "/run", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(embed, ==, "/srv/a b/run/qemu");
    g_assert_null(vl_statusxml_dir("qemu:///session", "/run", &error));
    g_assert_error(error, VL_ERROR, VL_ERR_NOT_PERMITTED);
    g_clear_error(&error);
    static const char *const bad[] = {NULL,
                                      "",
                                      "xen:///system",
                                      "qemu:///system/x",
                                      "qemu:///embed",
                                      "qemu:///embed?",
                                      "qemu:///embed?root=",
                                      "qemu:///embed?root=relative",
                                      "qemu:///embed?root=%zz",
                                      "qemu:///embed?other=/x"};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_null(vl_statusxml_dir(bad[i], "/run", &error));
        g_assert_error(error, VL_ERROR, VL_ERR_CONFIG);
        g_clear_error(&error);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/statusxml/child", test_child);
    g_test_add_func("/statusxml/life", test_life);
    g_test_add_func("/statusxml/incoming", test_incoming);
    g_test_add_func("/statusxml/mirror", test_mirror);
    g_test_add_func("/statusxml/disks", test_disks);
    g_test_add_func("/statusxml/other-disks", test_other_disks);
    g_test_add_func("/statusxml/device-leases", test_device_leases);
    g_test_add_func("/statusxml/refused", test_refused);
    g_test_add_func("/statusxml/bad-disks", test_bad_disks);
    g_test_add_func("/statusxml/truncated", test_truncated);
    g_test_add_func("/statusxml/entities", test_entities);
    g_test_add_func("/statusxml/dir", test_dir);
    g_test_add("/statusxml/files", Fixture, NULL, fixture_set_up, test_files, fixture_tear_down);
    g_test_add("/statusxml/find", Fixture, NULL, fixture_set_up, test_find, fixture_tear_down);
    g_test_add("/statusxml/list", Fixture, NULL, fixture_set_up, test_list, fixture_tear_down);
    return g_test_run();
}

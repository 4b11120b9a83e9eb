/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What virtleasectl prints for people.
 */
#include "lockd/tool_table.h"
#include "lockd/tool_text.h"

#include <string.h>

#define NOW 1790000000 /* 2026-09-21 14:13:20 UTC */

static char *
text_of(ToolText text, const char *json)
{
    g_autofree char *quoted = g_strdelimit(g_strdup(json), "'", '"');
    g_autoptr(JsonNode) root = json_from_string(quoted, NULL);
    GString *out = g_string_new(NULL);

    g_assert_nonnull(root);
    text(json_node_get_object(root), NOW, out);
    return g_string_free(out, FALSE);
}

static void
assert_text(ToolText text, const char *json, const char *expected)
{
    g_autofree char *got = text_of(text, json);

    g_assert_cmpstr(got, ==, expected);
}

static void
assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        g_error("no \"%s\" in:\n%s", part, text);
}

/* ---- table ---- */

static void
test_table(void)
{
    g_autoptr(ToolTable) table = tool_table_new("A", "LONG TITLE", "C", NULL);
    g_autoptr(GString) out = g_string_new(NULL);

    tool_table_add(table, "b\303\274ro", "x", "last", NULL);
    tool_table_add(table, "\346\227\245\346\234\254\350\252\236", "", "", NULL);
    tool_table_print(table, " ", out);
    g_assert_cmpstr(out->str, ==,
                    " A       LONG TITLE  C\n"
                    " b\303\274ro    x           last\n"
                    " \346\227\245\346\234\254\350\252\236  -           -\n");
}

static void
test_printable(void)
{
    static const char *const cases[][2] = {
        {"web 1", "web 1"},      {"b\303\274ro", "b\303\274ro"},      {"\033[2Jgone\n", "\\x1b[2Jgone\\x0a"},
        {"\302\233A", "\\x9bA"}, {"\342\200\256evil", "\\u202eevil"}, {"bad \377 utf-8", "bad \357\277\275 utf-8"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *got = tool_printable(cases[i][0]);
        g_assert_cmpstr(got, ==, cases[i][1]);
    }
}

/* ---- verbs ---- */

static void
test_status(void)
{
    g_autofree char *text =
        text_of(tool_text_status, "{'version':'0.1.0','host_id':'id-a','host_name':'node-a','machine_id':'m',"
                                  "'boot_id':'b','socket':'/s','dead_after':10,'takeover_wait':20,'vms':1,'leases':2,"
                                  "'sessions':["
                                  "{'place':'pool rbd','key':'k','state':'live','session':7,'counter':3,"
                                  "'silent_ms':1240,'problem':null},"
                                  "{'place':'pool ssd','state':'silent','session':8,'silent_ms':125000,"
                                  "'problem':'no answer'},"
                                  "{'place':'pool x','state':'new','session':0,'silent_ms':-1,'problem':null}]}");

    assert_has(text, "Daemon          virtleased 0.1.0 at /s\n");
    assert_has(text, "Host            node-a (id id-a)\n");
    assert_has(text, "1 VM, 2 leases\n");
    assert_has(text, "silent for 10 s");
    assert_has(text, "SESSION IN  STATE   NUMBER  RENEWED\n"
                     "pool rbd    live    7       1.2 s ago\n"
                     "pool ssd    silent  8       2 min ago\n"
                     "pool x      new     0       never\n"
                     "Problem in pool ssd: no answer\n");
}

static void
test_status_idle(void)
{
    g_autofree char *text = text_of(tool_text_status, "{'sessions':[]}");

    assert_has(text, "\nNo session: ");
}

static void
test_list(void)
{
    assert_text(tool_text_list, "{'leases':[]}", "No leases.\n");
    assert_text(tool_text_list,
                "{'leases':["
                "{'volume':'rbd:rbd/web1','key':'k','state':'held','mode':'exclusive','vm':'web1',"
                "'uuid':'u','pid':4711,'host':'node-a','since':1790000000,'epoch':7,'addrs':[]},"
                "{'volume':'rbd:rbd/iso','state':'parked','mode':'shared','vm':'web2','pid':12,"
                "'host':'node-a','since':1789999999},"
                "{'volume':'rbd:rbd/db','state':'indexed','vm':'db','host':'node-b'}]}",
                "VOLUME        STATE          VM    HOST    PID   SINCE\n"
                "rbd:rbd/web1  held           web1  node-a  4711  2026-09-21 14:13:20\n"
                "rbd:rbd/iso   parked,shared  web2  node-a  12    2026-09-21 14:13:19\n"
                "rbd:rbd/db    indexed        db    node-b  -     -\n");
    assert_text(tool_text_list,
                "{'leases':[{'volume':'file:/a','state':'taking','vm':'w','pid':1,'host':'a','wait_s':43}]}",
                "VOLUME   STATE              VM  HOST  PID  SINCE\nfile:/a  taking, 43 s left  w   a     1    -\n");
}

static void
test_show(void)
{
    assert_text(tool_text_show,
                "{'volume':'rbd:rbd/web1','key':'f/2/1','place':'pool rbd','epoch':7,'mode':'exclusive',"
                "'holders':[{'vm':'web1','uuid':'u','host':'node-a','host_id':'id-a','session':12,"
                "'pid':4711,'state':'held','since':1790000000,"
                "'addrs':['10.0.0.1:0/123','10.0.0.1:0/124']}],"
                "'claim':{'host':'node-b','vm':'web1','since':1790000000,'addrs':['10.0.0.1:0/123']},"
                "'fenced':[{'addr':'10.0.0.9:0/1','at':1789999000,'until':1790000100,'wanted':1790000100},"
                "{'addr':'10.0.0.9:0/2','at':1789999000,'until':1790000100,'wanted':1790003600},"
                "{'addr':'10.0.0.9:0/3','at':1789999000,'until':1789999990,'wanted':1790003600},"
                "{'addr':'10.0.0.9:0/4','at':1789999000,'until':1789999990,'wanted':1789999990}],"
                "'watchers':['10.0.0.1:0/123'],"
                "'lock_owner':{'entity':'client.4123','addr':'10.0.0.1:0/123','managed':true},"
                "'exclusive_lock_feature':true}",
                "Volume          rbd:rbd/web1, in pool rbd\n"
                "Key             f/2/1\n"
                "Lease           exclusive, epoch 7\n"
                "Holder          VM web1 (u)\n"
                "                on host node-a (id id-a, session 12), process 4711\n"
                "                held since 2026-09-21 14:13:20\n"
                "                addresses to fence: 10.0.0.1:0/123, 10.0.0.1:0/124\n"
                "Claim           host node-b takes it over for VM web1 since 2026-09-21 14:13:20\n"
                "                and fences: 10.0.0.1:0/123\n"
                "Lock owner      10.0.0.1:0/123 (client.4123)\n"
                "Watchers        10.0.0.1:0/123\n"
                "\n"
                "FENCED ADDRESS  SINCE                UNTIL                NOTE\n"
                "10.0.0.9:0/1    2026-09-21 13:56:40  2026-09-21 14:15:00  -\n"
                "10.0.0.9:0/2    2026-09-21 13:56:40  2026-09-21 14:15:00  lapses earlier than wanted "
                "(2026-09-21 15:13:20)\n"
                "10.0.0.9:0/3    2026-09-21 13:56:40  2026-09-21 14:13:10  LAPSED, wanted until 2026-09-21 "
                "15:13:20: it must be added again\n"
                "10.0.0.9:0/4    2026-09-21 13:56:40  2026-09-21 14:13:10  over\n");
}

static void
test_show_free(void)
{
    assert_text(tool_text_show,
                "{'volume':'rbd:rbd/web1','key':'f/2/1','place':'pool rbd','epoch':8,"
                "'mode':'exclusive','holders':[],'claim':null,'fenced':[],'watchers':[],"
                "'lock_owner':null,'exclusive_lock_feature':false}",
                "Volume          rbd:rbd/web1, in pool rbd\n"
                "Key             f/2/1\n"
                "Lease           free, epoch 8\n"
                "Lock owner      none\n"
                "Watchers        none: no client has the image open\n"
                "Features        exclusive-lock is off: only the recorded addresses can be fenced\n");
}

static void
test_fence(void)
{
    assert_text(tool_text_fence, "{'host':'node-b','host_id':'id-b','leases':[]}",
                "Host node-b (id id-b): its session is ended.\nIt held no lease.\n");
    assert_text(tool_text_fence,
                "{'host':'node-b','host_id':'id-b','leases':[{'volume':'rbd:rbd/db','place':'pool rbd',"
                "'vm':'db','fenced':['10.0.0.2:0/1','10.0.0.2:0/2']},"
                "{'volume':'rbd:rbd/new','vm':'new','fenced':[]}]}",
                "Host node-b (id id-b): its session is ended.\n"
                "These leases are free now:\n"
                "    VOLUME       VM   FENCED ADDRESSES\n"
                "    rbd:rbd/db   db   10.0.0.2:0/1, 10.0.0.2:0/2\n"
                "    rbd:rbd/new  new  -\n");
}

static void
test_release(void)
{
    assert_text(tool_text_release, "{'volume':'rbd:rbd/db','fenced':['10.0.0.2:0/1']}",
                "rbd:rbd/db: its lease is free. Fenced: 10.0.0.2:0/1\n");
    assert_text(tool_text_release, "{'volume':'rbd:rbd/db','fenced':[]}",
                "rbd:rbd/db: its lease is free. Fenced: nothing, as no client address was recorded "
                "or seen\n");
    assert_text(tool_text_release,
                "{'volume':'rbd:rbd/db','watchers':['10.0.0.2:0/1'],'lock_owner':{'entity':'client.4',"
                "'addr':'10.0.0.2:0/1','managed':true},'exclusive_lock_feature':true}",
                "rbd:rbd/db: its lease is free, and nothing was fenced.\n"
                "These clients have it open and can still write: 10.0.0.2:0/1\n"
                "Lock owner      10.0.0.2:0/1 (client.4)\n");
    assert_text(tool_text_release, "{'volume':'rbd:rbd/db','watchers':[],'lock_owner':null}",
                "rbd:rbd/db: its lease is free, and nothing was fenced.\n"
                "No client has it open.\n");
}

static void
test_cleanup(void)
{
    assert_text(tool_text_cleanup,
                "{'directory':'/l','dry_run':false,'looked_at':3,'removed':[{'file':'aa'}],'used':[{'file':'b'},"
                "{'file':'c'}],'unknown':[],'failed':[]}",
                "/l: 1 lease file removed, 2 files in use left alone\n");
    assert_text(tool_text_cleanup,
                "{'directory':'/l','dry_run':true,'removed':[{'file':'aa'},{'file':'bb'}],'used':[],"
                "'unknown':[{'file':'x\\ty','why':'not the name of a lease'}],'failed':[{'file':'cc','why':'busy'}]}",
                "/l: 2 lease files would be removed, 0 files in use left alone\n"
                "\nUNUSED  WHY\naa      -\nbb      -\n"
                "\nNOT UNDERSTOOD, LEFT ALONE  WHY\nx\\x09y                      not the name of a lease\n"
                "\nNOT REMOVED  WHY\ncc           busy\n");
}

/* A daemon of another version: nothing crashes, nothing is printed raw. */
static void
test_strange(void)
{
    static const char *const answers[] = {
        "{}",
        "{'leases':{},'sessions':3,'holders':null,'fenced':'x','watchers':[1,null,{}],'claim':[]}",
        "{'leases':[1,null,[],{}],'sessions':[null,7,{'session':'x','problem':{}}],"
        "'holders':[false,{'addrs':7,'since':'x','pid':1.5}],'fenced':[3,{'until':null}],"
        "'claim':{},'lock_owner':{'managed':1},'version':7,'host':{},'volume':[]}",
        "{'holders':[{'since':9223372036854775807,'vm':'\\u001b[2J'}],'vms':-1}",
    };
    static const ToolText texts[] = {tool_text_status, tool_text_list,    tool_text_show,
                                     tool_text_fence,  tool_text_release, tool_text_cleanup};

    for (guint i = 0; i < G_N_ELEMENTS(answers); i++)
        for (guint k = 0; k < G_N_ELEMENTS(texts); k++) {
            g_autofree char *text = text_of(texts[k], answers[i]);
            g_assert_cmpint(text[0], !=, '\0');
            g_assert_null(strchr(text, '\033'));
        }
}

int
main(int argc, char **argv)
{
    g_setenv("TZ", "UTC", TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/table/columns", test_table);
    g_test_add_func("/table/printable", test_printable);
    g_test_add_func("/text/status", test_status);
    g_test_add_func("/text/status-idle", test_status_idle);
    g_test_add_func("/text/list", test_list);
    g_test_add_func("/text/show", test_show);
    g_test_add_func("/text/show-free", test_show_free);
    g_test_add_func("/text/fence", test_fence);
    g_test_add_func("/text/release", test_release);
    g_test_add_func("/text/cleanup", test_cleanup);
    g_test_add_func("/text/strange", test_strange);
    return g_test_run();
}

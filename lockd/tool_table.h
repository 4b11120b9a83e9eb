/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Text in columns, for a terminal. */
#ifndef VL_LOCKD_TOOL_TABLE_H
#define VL_LOCKD_TOOL_TABLE_H

#include <glib.h>

typedef struct ToolTable ToolTable;

/* Titles of the columns. */
ToolTable *tool_table_new(const char *first, ...) G_GNUC_NULL_TERMINATED;
/* As many cells as there are titles; "" is shown as "-". */
void tool_table_add(ToolTable *table, const char *first, ...) G_GNUC_NULL_TERMINATED;
/* Appends one line for the titles and one for each row, each behind `indent`. */
void tool_table_print(const ToolTable *table, const char *indent, GString *out);
void tool_table_free(ToolTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ToolTable, tool_table_free)

/* Names come from other hosts and guests' owners: what a terminal would obey instead of show is
 * written as \xNN. g_free it. */
char *tool_printable(const char *text);

#endif

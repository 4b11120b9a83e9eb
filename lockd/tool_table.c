/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lockd/tool_table.h"

#include <stdarg.h>

enum { GAP = 2 };

struct ToolTable {
    guint columns;
    GPtrArray *cells; /* of char *, row by row, titles first */
};

char *
tool_printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);
    for (const char *at = valid; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);
        if (g_unichar_isprint(c))
            g_string_append_unichar(out, c);
        else
            g_string_append_printf(out, c < 0x100 ? "\\x%02x" : "\\u%04x", c);
    }
    return g_string_free(out, FALSE);
}

/* In columns of a terminal. */
static guint
width(const char *text)
{
    guint columns = 0;
    for (const char *at = text; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);
        columns += g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
    }
    return columns;
}

static void
add_cells(ToolTable *table, const char *first, va_list args)
{
    for (const char *cell = first; cell; cell = va_arg(args, const char *))
        g_ptr_array_add(table->cells, tool_printable(*cell ? cell : "-"));
}

ToolTable *
tool_table_new(const char *first, ...)
{
    ToolTable *table = g_new0(ToolTable, 1);
    va_list args;
    table->cells = g_ptr_array_new_with_free_func(g_free);
    va_start(args, first);
    add_cells(table, first, args);
    va_end(args);
    table->columns = table->cells->len;
    return table;
}

void
tool_table_add(ToolTable *table, const char *first, ...)
{
    va_list args;
    va_start(args, first);
    add_cells(table, first, args);
    va_end(args);
    g_assert(table->cells->len % table->columns == 0);
}

void
tool_table_print(const ToolTable *table, const char *indent, GString *out)
{
    g_autofree guint *widths = g_new0(guint, table->columns);
    for (guint i = 0; i < table->cells->len; i++)
        widths[i % table->columns] = MAX(widths[i % table->columns], width(table->cells->pdata[i]));
    for (guint i = 0; i < table->cells->len; i++) {
        guint column = i % table->columns;
        const char *cell = table->cells->pdata[i];
        if (column == 0)
            g_string_append(out, indent);
        g_string_append(out, cell);
        if (column + 1 == table->columns)
            g_string_append_c(out, '\n');
        else /* the last one is not padded */
            g_string_append_printf(out, "%*s", (int)(widths[column] - width(cell) + GAP), "");
    }
}

void
tool_table_free(ToolTable *table)
{
    if (!table)
        return;
    g_ptr_array_unref(table->cells);
    g_free(table);
}

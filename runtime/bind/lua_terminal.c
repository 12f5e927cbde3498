// lua_terminal.c - what is written to the terminal: lines of text, and the progress line, which is
// one line on stderr that is written over. Text goes out as io/escape.h shows it.
#include "bind.h"

#include "../io/escape.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void put_escaped(FILE *to, const char *text, size_t n, unsigned keep) {
    dopl_escape v = { .text = text, .n = n, .keep = keep };
    const char *piece;
    size_t length;
    while (dopl_escape_next(&v, &piece, &length)) fwrite(piece, 1, length, to);
}

void dopl_put_text(FILE *to, const char *text, size_t n) {
    put_escaped(to, text, n, DOPL_ESCAPE_KEEP_LINES);
}

int dopl_lua_print(lua_State *L) {
    int n = lua_gettop(L);
    for (int i = 1; i <= n; i++) {
        size_t length;
        const char *text = luaL_tolstring(L, i, &length);
        if (i > 1) putchar('\t');
        dopl_put_text(stdout, text, length);
        lua_pop(L, 1);
    }
    putchar('\n');
    fflush(stdout); // as Lua's own: who reads a pipe sees the line now
    return 0;
}

// core.visible(text [, { lines = true }]): the text as a terminal may get it. Without `lines` line
// feeds and tabs are spelled out, too, for text that must stay on one line.
static int visible(lua_State *L) {
    size_t n, length;
    dopl_escape v = { .text = luaL_checklstring(L, 1, &n) };
    v.n = n;
    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        lua_getfield(L, 2, "lines");
        v.keep = lua_toboolean(L, -1) ? DOPL_ESCAPE_KEEP_LINES : 0;
    }
    luaL_Buffer out;
    const char *piece;
    luaL_buffinit(L, &out);
    while (dopl_escape_next(&v, &piece, &length)) luaL_addlstring(&out, piece, length);
    luaL_pushresult(&out);
    return 1;
}

// core.print_coloured(text): prints a text whose colours are meant; all else is shown as by print
static int print_coloured(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    put_escaped(stdout, text, n, DOPL_ESCAPE_KEEP_LINES | DOPL_ESCAPE_KEEP_COLOURS);
    putchar('\n');
    return 0;
}

// core.terminal(): whether stderr is a terminal, and its width in columns
static int terminal(lua_State *L) {
    struct winsize size;
    bool is_terminal = isatty(STDERR_FILENO);
    lua_pushboolean(L, is_terminal);
    if (!is_terminal || ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 1;
    lua_pushinteger(L, size.ws_col);
    return 2;
}

// core.status(text): replaces the progress line; "" clears it. Nothing where stderr is no terminal.
static int status(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    if (!isatty(STDERR_FILENO)) return 0;
    fputs("\r\033[K", stderr);
    put_escaped(stderr, text, n, 0);
    fflush(stderr);
    return 0;
}

// core.note(text): one line to stderr, for long work whose progress nobody watches
static int note(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    dopl_put_text(stderr, text, n);
    fputc('\n', stderr);
    return 0;
}

static const luaL_Reg functions[] = {
    { "terminal", terminal },
    { "status", status },
    { "note", note },
    { "visible", visible },
    { "print_coloured", print_coloured },
    { NULL, NULL },
};

void dopl_bind_terminal(lua_State *L) {
    luaL_setfuncs(L, functions, 0);
}

// lua_terminal.c - the progress line: one line on stderr that is written over.
#include "bind.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

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
    const char *text = luaL_checkstring(L, 1);
    if (!isatty(STDERR_FILENO)) return 0;
    fprintf(stderr, "\r\033[K%s", text);
    fflush(stderr);
    return 0;
}

// core.note(text): one line to stderr, for long work whose progress nobody watches
static int note(lua_State *L) {
    fprintf(stderr, "%s\n", luaL_checkstring(L, 1));
    return 0;
}

static const luaL_Reg functions[] = {
    { "terminal", terminal },
    { "status", status },
    { "note", note },
    { NULL, NULL },
};

void dopl_bind_terminal(lua_State *L) {
    luaL_setfuncs(L, functions, 0);
}

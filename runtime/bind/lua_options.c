// lua_options.c - options of the command line as data, and names that may be meant.
//
//   core.option_rows: in the order of options.def, those that every recipe has as a parameter:
//     { name, type = "string" | "integer", text }
//   core.early_options: the names of those that stand before the recipe only
//   nearest(word, list) -> the entry of the list that the word stands for | nil
#include "bind.h"
#include "../text/nearest.h"

enum { ANYWHERE, BEFORE };

static void add_row(lua_State *L, const char *name, const char *type, const char *text) {
    lua_createtable(L, 0, 3);
    lua_pushstring(L, name + 2);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, type);
    lua_setfield(L, -2, "type");
    lua_pushstring(L, text);
    lua_setfield(L, -2, "text");
    lua_rawseti(L, -2, luaL_len(L, -2) + 1);
}

static int core_nearest(lua_State *L) {
    const char *word = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    int n = (int)luaL_len(L, 2);
    const char **names = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *names, 0);
    luaL_checkstack(L, 8, "nearest");
    for (int i = 0; i < n; i++) { // the strings stay alive: the table holds them
        if (lua_rawgeti(L, 2, i + 1) != LUA_TSTRING)
            return dopl_raise_text(L, "nearest: name %d is a %s, a string is needed", i + 1,
                                   luaL_typename(L, -1));
        names[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    int found = dopl_nearest(word, names, n);
    if (found < 0)
        lua_pushnil(L);
    else
        lua_pushstring(L, names[found]);
    return 1;
}

void dopl_bind_options(lua_State *L) {
#define STRING "string"
#define ACTION STRING
#define FLAG STRING
#define DEVICE STRING
#define FOLDER STRING
#define INTEGER "integer"
    lua_newtable(L);
#define OPTION(id, long, letter, value, type, place, default, text)                                \
    if (place == ANYWHERE) add_row(L, long, type, text);
#include "../options.def"
    lua_setfield(L, -2, "option_rows");
    lua_newtable(L);
#define OPTION(id, long, letter, value, type, place, default, text)                                \
    if (place == BEFORE && *long) {                                                                \
        lua_pushboolean(L, 1);                                                                     \
        lua_setfield(L, -2, long + 2);                                                             \
    }
#include "../options.def"
    lua_setfield(L, -2, "early_options");
    lua_pushcfunction(L, core_nearest);
    lua_setfield(L, -2, "nearest");
}

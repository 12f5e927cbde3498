// bind.c - opening "dopl.core", the runtime of a Lua state, raising errors where the user can act.
#include "bind.h"
#include "state.h"
#include "../op/gemm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define RUNTIME "dopl.runtime"

static const char runtime_key = 'r'; // its address names the registry slot

dopl_bind_state *dopl_state(lua_State *L) {
    dopl_bind_state *s;
    memcpy(&s, lua_getextraspace(L), sizeof s); // a new coroutine gets a copy
    return s;
}

dopl_rt *dopl_check_rt(lua_State *L) {
    return &dopl_state(L)->rt;
}

// On the main thread, which outlives all that is under way on others.
static void collect_garbage(dopl_rt *rt) {
    dopl_bind_state *s = dopl_state_of(rt);
    bool outer = s->collecting; // then a finalizer is what asks, and Lua does nothing
    s->collecting = true;
    lua_gc(s->main, LUA_GCCOLLECT);
    s->collecting = outer;
}

void dopl_check_between(lua_State *L) {
    if (dopl_state(L)->collecting)
        dopl_raise_text(L, "__gc: called because memory ran out, where it can use no tensor or "
                           "scope; use __close");
}

// Runs last of all finalizers when the state closes, since it was the first object marked for one.
static int runtime_close(lua_State *L) {
    dopl_bind_state *s = lua_touserdata(L, 1);
    s->main = NULL; // what the tape still holds must not touch the registry
    s->rt.collect = NULL;
    dopl_rt_release(&s->rt);
    return 0;
}

static void open_runtime(lua_State *L) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key) == LUA_TUSERDATA) {
        lua_pop(L, 1);
        return;
    }
    lua_pop(L, 1);
    dopl_bind_state *s = lua_newuserdatauv(L, sizeof *s, 0);
    memset(s, 0, sizeof *s);
    dopl_new_type(L, RUNTIME, runtime_close, NULL, NULL);
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
    if (dopl_rt_init(&s->rt) != DOPL_OK) luaL_error(L, "%s", s->rt.error);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    s->main = lua_tothread(L, -1);
    lua_pop(L, 1);
    s->rt.collect = collect_garbage;
    memcpy(lua_getextraspace(L), &s, sizeof s);
}

__attribute__((visibility("default"))) int luaopen_dopl_core(lua_State *L) {
    open_runtime(L);
    lua_newtable(L);
    lua_pushliteral(L, DOPL_VERSION);
    lua_setfield(L, -2, "version");
    lua_createtable(L, 0, 3); // core.versions: what a run's numbers depend on
    lua_pushliteral(L, DOPL_VERSION);
    lua_setfield(L, -2, "dopl");
    lua_pushliteral(L, LUA_RELEASE);
    lua_setfield(L, -2, "lua");
    char onednn[32];
    op_gemm_library(onednn);
    lua_pushstring(L, onednn);
    lua_setfield(L, -2, "onednn");
    lua_setfield(L, -2, "versions");
#define BIND(name) dopl_bind_##name(L);
    DOPL_BINDINGS(BIND)
#undef BIND
    return 1;
}

void dopl_new_type(lua_State *L, const char *name, lua_CFunction gc, lua_CFunction close,
                   const luaL_Reg *methods) {
    luaL_newmetatable(L, name);
    if (gc) {
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
    if (close) {
        lua_pushcfunction(L, close);
        lua_setfield(L, -2, "__close");
    }
    if (methods) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
}

void dopl_own_table(lua_State *L, int index) {
    luaL_checkstack(L, 4, "a copy of a table");
    lua_newtable(L);
    int copy = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, index);) {
        lua_pushvalue(L, -2); // the key stays for lua_next
        lua_insert(L, -2);
        lua_rawset(L, copy);
    }
    lua_replace(L, index);
}

// Whether a chunk is dopl's own Lua library: a user can do nothing at a line of it.
static bool is_library(const char *source) {
    return strstr(source, "lua/dopl/") || strstr(source, "lua/5.4/dopl/");
}

// Pushes "file:line: " of the innermost Lua line outside the library, or of the innermost at all.
static void push_where(lua_State *L) {
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline < 0 || is_library(ar.source)) continue;
        lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
    luaL_where(L, 1);
}

// The end of "file.lua:12: " at the start of a message, where the file is the library's; else NULL.
static const char *after_library_line(const char *message) {
    size_t path = strcspn(message, " \n:");
    const char *s = message + path;
    if (path < 4 || strncmp(s - 4, ".lua", 4) != 0 || *s != ':') return NULL;
    const char *library = strstr(message, "lua/dopl/");
    if (!library) library = strstr(message, "lua/5.4/dopl/");
    if (!library || library > s) return NULL;
    size_t digits = strspn(s + 1, "0123456789");
    return digits && !strncmp(s + 1 + digits, ": ", 2) ? s + digits + 3 : NULL;
}

const char *dopl_blame_recipe(lua_State *L, const char *message) {
    const char *text = after_library_line(message);
    if (!text) return message;
    push_where(L);
    if (after_library_line(lua_pushfstring(L, "%s ", lua_tostring(L, -1)))) return message;
    return lua_pushfstring(L, "%s%s", lua_tostring(L, -2), text);
}

int dopl_raise(lua_State *L, dopl_rt *rt) {
    push_where(L);
    lua_pushstring(L, rt->error);
    lua_concat(L, 2);
    return lua_error(L);
}

int dopl_raise_text(lua_State *L, const char *format, ...) {
    dopl_rt *rt = dopl_check_rt(L);
    va_list args;
    va_start(args, format);
    vsnprintf(rt->error, sizeof rt->error, format, args);
    va_end(args);
    return dopl_raise(L, rt);
}

// lua_sandbox.c - the globals a recipe sees.
//
// Recipes come from strangers. Theirs is an allow list, built name by name from what the libraries
// offer; spec/cli/sandbox_spec.lua walks all that is reachable from a running recipe and compares
// it with its own list. Where Lua's own function would open a door, one written here stands in:
//
//   load, require        source text only; require finds dopl.* and files beside the recipe
//   getmetatable         of tables only, so the metatables of strings and of dopl's objects are
//   shut setmetatable         refuses __gc: finalizers run where no stop can reach them
//   string.gmatch        an iterator that has raised is dead: Lua 5.4.4's would overrun the C stack
//   collectgarbage       "collect", "count", "step"
//   math.random          raises: its numbers would differ from run to run
//
// With --trust, and at the prompt, the libraries are as Lua ships them, but for pcall and
// coroutines.
#include "shell.h"

#include <ctype.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// --- stand-ins
// --------------------------------------------------------------------------------------- Each has
// Lua's own function as upvalue 1 unless it says otherwise.

static int forward(lua_State *L, int n_args) { // calls Lua's own with the arguments on the stack
    lua_settop(L, n_args);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n_args, LUA_MULTRET);
    return lua_gettop(L);
}

static int safe_load(lua_State *L) {
    const char *mode = luaL_optstring(L, 3, "t");
    if (strchr(mode, 't') == NULL)
        return luaL_error(L, "load: mode '%s' given, only source text can be loaded ('t')", mode);
    int n = lua_gettop(L);
    if (n < 3) lua_settop(L, n = 3);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    n = forward(L, n);
    dopl_check_stop(L); // the parser catches errors of a reader function
    return n;
}

static int safe_getmetatable(lua_State *L) {
    luaL_checkany(L, 1);
    if (lua_type(L, 1) == LUA_TTABLE) return forward(L, 1);
    lua_pushnil(L);
    return 1;
}

static int safe_setmetatable(lua_State *L) {
    if (lua_type(L, 2) == LUA_TTABLE) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(L, "setmetatable: __gc is not for recipes; use __close");
    }
    return forward(L, 2);
}

static int gmatch_next(lua_State *L) { // upvalues: Lua's iterator; true while it is in a call
    if (lua_toboolean(L, lua_upvalueindex(2)))
        return luaL_error(L, "gmatch: the iterator has failed before");
    lua_settop(L, 0);
    lua_pushboolean(L, 1);
    lua_replace(L, lua_upvalueindex(2));
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_call(L, 0, LUA_MULTRET);
    lua_pushboolean(L, 0);
    lua_replace(L, lua_upvalueindex(2));
    return lua_gettop(L);
}

static int safe_gmatch(lua_State *L) {
    forward(L, lua_gettop(L));
    lua_settop(L, 1);
    lua_pushboolean(L, 0);
    lua_pushcclosure(L, gmatch_next, 2);
    return 1;
}

static int safe_collectgarbage(lua_State *L) {
    static const char *const allowed[] = { "collect", "count", "step", NULL };
    luaL_checkoption(L, 1, "collect", allowed);
    return forward(L, lua_gettop(L));
}

static int no_random(lua_State *L) {
    return luaL_error(L, "math.random: not for recipes, its numbers differ from run to run; use "
                         "dopl.rng.new(seed, name)");
}

// --- require
// ----------------------------------------------------------------------------------------- upvalue
// 1: directory of dopl's library; 2: directory of the recipe

static void check_module_name(lua_State *L, const char *name) {
    bool empty = true;
    for (const char *c = name; *c; c++) {
        if (*c == '.' ? empty : !(isalnum((unsigned char)*c) || *c == '_' || *c == '-')) {
            empty = true;
            break;
        }
        empty = *c == '.';
    }
    if (empty) luaL_error(L, "require: '%s' given, a module's name is words joined by dots", name);
}

static int safe_require(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE); // index 2
    if (lua_getfield(L, 2, name) != LUA_TNIL) {
        if (lua_touserdata(L, 3) == (void *)&safe_require)
            return luaL_error(L, "require: '%s' requires itself", name);
        return 1;
    }
    check_module_name(L, name);
    bool ours = strcmp(name, "dopl") == 0 || strncmp(name, "dopl.", 5) == 0;
    const char *dir = lua_tostring(L, lua_upvalueindex(ours ? 1 : 2));
    const char *path = luaL_gsub(L, name, ".", "/");
    const char *file = lua_pushfstring(L, "%s/%s.lua", dir, path);
    if (access(file, F_OK) != 0) file = lua_pushfstring(L, "%s/%s/init.lua", dir, path);
    if (access(file, F_OK) != 0)
        return luaL_error(L, "require: no module '%s': neither %s/%s.lua nor %s", name, dir, path,
                          file);
    if (luaL_loadfilex(L, file, "t") != LUA_OK) return lua_error(L);
    lua_pushlightuserdata(L, (void *)&safe_require); // marks it as being loaded
    lua_setfield(L, 2, name);
    lua_pushvalue(L, 1);
    lua_pushstring(L, file);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
        lua_pushnil(L);
        lua_setfield(L, 2, name);
        return lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, 2, name);
    lua_pushstring(L, file);
    return 2;
}

// ---- the allow list

typedef struct {
    const char *name;
    lua_CFunction stand_in; // NULL: Lua's own
} allowed;

static const allowed BASE[] = {
    { "assert", NULL },
    { "collectgarbage", safe_collectgarbage },
    { "error", NULL },
    { "getmetatable", safe_getmetatable },
    { "ipairs", NULL },
    { "load", safe_load },
    { "next", NULL },
    { "pairs", NULL },
    { "pcall", dopl_lua_pcall },
    { "print", dopl_lua_print },
    { "rawequal", NULL },
    { "rawget", NULL },
    { "rawlen", NULL },
    { "rawset", NULL },
    { "select", NULL },
    { "setmetatable", safe_setmetatable },
    { "tonumber", NULL },
    { "tostring", NULL },
    { "type", NULL },
    { "xpcall", dopl_lua_xpcall },
    { "_VERSION", NULL },
    { NULL, NULL },
};

static const allowed STRING[] = {
    { "byte", NULL },
    { "char", NULL },
    { "find", NULL },
    { "format", NULL },
    { "gmatch", safe_gmatch },
    { "gsub", NULL },
    { "len", NULL },
    { "lower", NULL },
    { "match", NULL },
    { "pack", NULL },
    { "packsize", NULL },
    { "rep", NULL },
    { "reverse", NULL },
    { "sub", NULL },
    { "unpack", NULL },
    { "upper", NULL },
    { NULL, NULL },
};

static const allowed TABLE[] = {
    { "concat", NULL }, { "insert", NULL }, { "move", NULL },   { "pack", NULL },
    { "remove", NULL }, { "sort", NULL },   { "unpack", NULL }, { NULL, NULL },
};

static const allowed MATH[] = {
    { "abs", NULL },   { "acos", NULL },       { "asin", NULL }, { "atan", NULL },
    { "ceil", NULL },  { "cos", NULL },        { "deg", NULL },  { "exp", NULL },
    { "floor", NULL }, { "fmod", NULL },       { "huge", NULL }, { "log", NULL },
    { "max", NULL },   { "maxinteger", NULL }, { "min", NULL },  { "mininteger", NULL },
    { "modf", NULL },  { "pi", NULL },         { "rad", NULL },  { "random", no_random },
    { "sin", NULL },   { "sqrt", NULL },       { "tan", NULL },  { "tointeger", NULL },
    { "type", NULL },  { "ult", NULL },        { NULL, NULL },
};

static const allowed UTF8[] = {
    { "char", NULL }, { "charpattern", NULL }, { "codepoint", NULL }, { "codes", NULL },
    { "len", NULL },  { "offset", NULL },      { NULL, NULL },
};

static const allowed COROUTINE[] = {
    { "create", NULL }, { "isyieldable", NULL }, { "running", NULL },
    { "status", NULL }, { "yield", NULL },       { NULL, NULL },
};

static const allowed OS[] = {
    { "clock", NULL }, { "date", NULL }, { "difftime", NULL }, { "time", NULL }, { NULL, NULL },
};

// Copies what is allowed from the table below the top into the one on top.
static void copy_allowed(lua_State *L, const allowed *list) {
    for (; list->name; list++) {
        lua_getfield(L, -2, list->name);
        if (list->stand_in) lua_pushcclosure(L, list->stand_in, 1);
        lua_setfield(L, -2, list->name);
    }
}

// Opens a library and leaves a table with what is allowed of it.
static void push_library(lua_State *L, lua_CFunction open, const allowed *list) {
    lua_pushcfunction(L, open);
    lua_call(L, 0, 1);
    lua_newtable(L);
    copy_allowed(L, list);
    lua_remove(L, -2);
}

static void set_library(lua_State *L, const char *name) { // the table on top; globals below it
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
    lua_setfield(L, -2, name);
}

// ("x"):upper() goes through a table of its own, so that no assignment to `string` reaches it.
static void close_string_metatable(lua_State *L) {
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_getfield(L, -1, "__index"); // all of the library, as luaopen_string left it
    lua_newtable(L);
    copy_allowed(L, STRING);
    lua_setfield(L, -3, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -3, "__metatable");
    lua_pop(L, 3);
}

static void open_sandbox(lua_State *L, const char *root, const char *beside) {
    lua_newtable(L); // the globals to be
    lua_pushcfunction(L, luaopen_base);
    lua_call(L, 0, 1); // fills the table that is the globals now, and drops out of sight below
    lua_pushvalue(L, -2);
    copy_allowed(L, BASE);
    lua_pop(L, 2);
    push_library(L, luaopen_string, STRING);
    set_library(L, "string");
    close_string_metatable(L);
    push_library(L, luaopen_table, TABLE);
    set_library(L, "table");
    push_library(L, luaopen_math, MATH);
    set_library(L, "math");
    push_library(L, luaopen_utf8, UTF8);
    set_library(L, "utf8");
    push_library(L, luaopen_coroutine, COROUTINE);
    dopl_set_coroutine(L);
    set_library(L, "coroutine");
    push_library(L, luaopen_os, OS);
    set_library(L, "os");
    lua_pushstring(L, root);
    lua_pushstring(L, beside);
    lua_pushcclosure(L, safe_require, 2);
    lua_setfield(L, -2, "require");
    lua_pushvalue(L, -1);
    set_library(L, LUA_GNAME);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
}

static void open_trusted(lua_State *L, const char *root, const char *beside) {
    luaL_openlibs(L);
    lua_register(L, "pcall", dopl_lua_pcall);
    lua_register(L, "xpcall", dopl_lua_xpcall);
    lua_register(L, "print", dopl_lua_print);
    lua_getglobal(L, LUA_COLIBNAME);
    dopl_set_coroutine(L);
    lua_getglobal(L, LUA_LOADLIBNAME);
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s/?.lua;%s/?/init.lua;%s", root, root, beside,
                    beside, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 3);
}

// ---- undefined globals

// Whether the code that read the undefined global is dopl's, a recipe's or typed in; with --trust
// other people's libraries may look for globals that are not there. Upvalue 1: trusted, 2: the
// recipe's chunk name, 3: the library's directory.
static int is_strict(lua_State *L) {
    lua_Debug ar;
    if (!lua_toboolean(L, lua_upvalueindex(1)) || !lua_getstack(L, 2, &ar)) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_getinfo(L, "S", &ar);
    const char *recipe = lua_tostring(L, lua_upvalueindex(2));
    const char *root = lua_tostring(L, lua_upvalueindex(3));
    lua_pushboolean(L, strcmp(ar.source, "=[C]") != 0 &&
                           (ar.source[0] != '@' || strcmp(ar.source, recipe) == 0 ||
                            strncmp(ar.source + 1, root, strlen(root)) == 0));
    return 1;
}

static void open_names(lua_State *L, const dopl_shell *shell) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "dopl.util.globals");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "install");
    lua_remove(L, -2);
    lua_pushglobaltable(L);
    lua_pushboolean(L, shell->trusted);
    lua_pushfstring(L, "@%s", shell->recipe ? shell->recipe : "");
    lua_pushstring(L, shell->root);
    lua_pushcclosure(L, is_strict, 3);
    lua_pushboolean(L, !shell->trusted);
    lua_call(L, 3, 0);
}

void dopl_open_globals(lua_State *L, const dopl_shell *shell) {
    const char *beside = ".";
    const char *slash = shell->recipe ? strrchr(shell->recipe, '/') : NULL;
    if (slash) beside = lua_pushlstring(L, shell->recipe, (size_t)(slash - shell->recipe));
    if (*beside == '\0') beside = "/";
    if (shell->trusted)
        open_trusted(L, shell->root, beside);
    else
        open_sandbox(L, shell->root, beside);
    if (slash) lua_pop(L, 1);
    luaL_requiref(L, "dopl.core", luaopen_dopl_core, 0);
    lua_pop(L, 1);
    open_names(L, shell);
}

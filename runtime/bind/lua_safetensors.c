// lua_safetensors.c - dopl.core.safetensors: save and load named tensors.
#include "bytes.h"

#include "../io/safetensors.h"

#include <string.h>

#define FILE_BOX "dopl.safetensors"

// Fields of a loaded table's metatable.
#define ORIGIN_PATH "dopl.path"
#define ORIGIN_UNREAD "dopl.unread"

static int file_close(lua_State *L) {
    dopl_safetensors_release(dopl_check_rt(L), luaL_checkudata(L, 1, FILE_BOX));
    return 0;
}

// A string without a NUL at the top of the stack; it stays anchored in its table.
static const char *plain_string(lua_State *L, int index, const char *what) {
    size_t n;
    if (lua_type(L, index) != LUA_TSTRING)
        dopl_raise_text(L, "safetensors: a %s as %s, a string is needed", luaL_typename(L, index),
                        what);
    const char *text = lua_tolstring(L, index, &n);
    if (strlen(text) != n) dopl_raise_text(L, "safetensors: a NUL byte in %s '%s'", what, text);
    return text;
}

static lua_Integer count(lua_State *L, int index) {
    lua_Integer n = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) n++;
    return n;
}

// save(path, { name = tensor } [, { key = string }])
static int safetensors_save(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    if (lua_isnil(L, 3)) {
        lua_newtable(L);
        lua_replace(L, 3);
    }
    luaL_checktype(L, 3, LUA_TTABLE);
    dopl_own_table(L, 2);
    dopl_own_table(L, 3);
    lua_Integer n = count(L, 2), n_metadata = count(L, 3), i = 0;
    dopl_named_tensor *named = lua_newuserdatauv(L, (size_t)n * sizeof *named, 0);
    dopl_metadata *metadata = lua_newuserdatauv(L, (size_t)n_metadata * sizeof *metadata, 0);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1), i++) {
        named[i].name = plain_string(L, -2, "a tensor's name");
        named[i].tensor = dopl_test_tensor(L, -1);
        if (!named[i].tensor)
            return dopl_raise_text(L, "safetensors: '%s' is a %s, a tensor is needed",
                                   named[i].name, luaL_typename(L, -1));
    }
    i = 0;
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1), i++) {
        metadata[i].key = plain_string(L, -2, "a metadata key");
        metadata[i].value = plain_string(L, -1, "a metadata value");
    }
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_safetensors_write(rt, path, n, named, n_metadata, metadata), 0);
}

static void push_metadata(lua_State *L, const dopl_safetensors *f) {
    const char *key;
    json_t *v;
    lua_newtable(L);
    json_object_foreach(json_object_get(f->header, "__metadata__"), key, v) {
        lua_pushstring(L, key);
        lua_pushlstring(L, json_string_value(v), json_string_length(v));
        lua_rawset(L, -3);
    }
}

// Pushes the open file's box.
static const dopl_safetensors *open_file(lua_State *L, const char *path) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_safetensors *f = lua_newuserdatauv(L, sizeof *f, 0);
    memset(f, 0, sizeof *f);
    luaL_setmetatable(L, FILE_BOX);
    if (dopl_safetensors_open(rt, f, path)) dopl_raise(L, rt);
    return f;
}

// __index of a loaded table: raises if the file has this tensor in a form that load cannot read.
// Upvalue 1: the reasons by name.
static int missing_tensor(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_isnil(L, 2) || lua_rawget(L, lua_upvalueindex(1)) != LUA_TSTRING) return 0;
    return dopl_raise_text(L, "%s", lua_tostring(L, -1));
}

// Gives the table of tensors at -2 a metatable that records the path and the table on top: the
// reasons, by name, why load skipped a tensor. Leaves the stack as it was.
static void push_origin(lua_State *L, const char *path) {
    lua_createtable(L, 0, 4);
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, missing_tensor, 1);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pushstring(L, path);
    lua_setfield(L, -2, ORIGIN_PATH);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, ORIGIN_UNREAD);
    lua_setmetatable(L, -3);
}

static bool is_wanted(lua_State *L, int wanted, const char *name) {
    lua_pushvalue(L, wanted);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    bool yes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return yes;
}

// load(path [, wanted]) -> { name = tensor }, metadata, { name = why it was skipped }
// wanted(name): which tensors to read. Without it load skips what it cannot read, and indexing the
// result with such a name raises the reason.
static int safetensors_load(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    lua_settop(L, 2);
    bool all = lua_isnil(L, 2);
    if (!all) luaL_checktype(L, 2, LUA_TFUNCTION);
    dopl_rt *rt = dopl_check_rt(L);
    const dopl_safetensors *f = open_file(L, path);
    int box = lua_gettop(L), tensors = box + 1, unread = box + 2;
    lua_newtable(L);
    lua_newtable(L);
    for (int64_t i = 0; i < f->n; i++) {
        const char *name = f->entry[i].name;
        if (!all && !is_wanted(L, 2, name)) continue;
        if (all && dopl_safetensors_can_read(rt, f, i) != DOPL_OK) {
            lua_pushstring(L, rt->error);
            lua_setfield(L, unread, name);
            continue;
        }
        dopl_tensor *t = dopl_push_tensor(L);
        if (dopl_safetensors_read(rt, t, f, i)) return dopl_raise(L, rt);
        dopl_settle_tensor(L, t);
        lua_setfield(L, tensors, name);
    }
    push_origin(L, path);
    push_metadata(L, f);
    lua_insert(L, unread);
    lua_pushcfunction(L, file_close); // now rather than at the next collection
    lua_pushvalue(L, box);
    lua_call(L, 1, 0);
    return 3;
}

// origin(tensors) -> the path they were loaded from, { name = why it was skipped }; nothing for
// other tables
static int safetensors_origin(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_getmetatable(L, 1)) return 0;
    lua_pushliteral(L, ORIGIN_PATH);
    if (lua_rawget(L, -2) != LUA_TSTRING) return 0;
    lua_pushliteral(L, ORIGIN_UNREAD);
    lua_rawget(L, -3);
    return 2;
}

// list(path) -> array of { name =, dtype =, shape = } by name, metadata; reads the header only
static int safetensors_list(lua_State *L) {
    const dopl_safetensors *f = open_file(L, dopl_check_path(L, 1));
    lua_createtable(L, (int)f->n, 0);
    for (int64_t i = 0; i < f->n; i++) {
        const dopl_safetensor *e = &f->entry[i];
        lua_createtable(L, 0, 3);
        lua_pushstring(L, e->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, e->type);
        lua_setfield(L, -2, "dtype");
        lua_newtable(L);
        for (int k = 0; k < e->n_dim && k < DOPL_MAX_DIM; k++) {
            lua_pushinteger(L, e->dim[k]);
            lua_rawseti(L, -2, k + 1);
        }
        lua_setfield(L, -2, "shape");
        lua_rawseti(L, -2, i + 1);
    }
    push_metadata(L, f);
    return 2;
}

void dopl_bind_safetensors(lua_State *L) {
    static const luaL_Reg functions[] = {
        { "save", safetensors_save },
        { "load", safetensors_load },
        { "list", safetensors_list },
        { "origin", safetensors_origin },
        { NULL, NULL },
    };
    dopl_new_type(L, FILE_BOX, file_close, NULL, NULL);
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    lua_setfield(L, -2, "safetensors");
}

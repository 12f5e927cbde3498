// lua_io.c - dopl.core.files, dopl.core.hash, dopl.core.getenv, dopl.core.cache_folder,
// dopl.core.clock.
//
// Reading answers nil and a reason, since a missing file is often an answer; everything that writes
// raises, since a result nobody could keep is not to be passed over.
#include "bytes.h"

#include "../core/device.h"
#include "../io/files.h"
#include "../io/hash.h"
#include "../io/roots.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BYTES "dopl.bytes"
#define APPENDER "dopl.appender"
#define LOCK "dopl.lock"
#define ROOTS "dopl.roots"

dopl_bytes *dopl_push_bytes(lua_State *L) {
    dopl_bytes *b = lua_newuserdatauv(L, sizeof *b, 0);
    memset(b, 0, sizeof *b);
    luaL_setmetatable(L, BYTES);
    return b;
}

static int bytes_close(lua_State *L) {
    dopl_bytes_release(dopl_check_rt(L), luaL_checkudata(L, 1, BYTES));
    return 0;
}

void dopl_push_text(lua_State *L, int index) {
    dopl_bytes *b = lua_touserdata(L, index);
    lua_pushlstring(L, b->data ? b->data : "", b->n);
    dopl_bytes_release(dopl_check_rt(L), b);
}

const char *dopl_check_path(lua_State *L, int arg) {
    size_t n;
    const char *path = luaL_checklstring(L, arg, &n);
    if (strlen(path) != n) dopl_raise_text(L, "path: a NUL byte inside '%s'", path);
    return path;
}

// nil and the reason.
static int nil_reason(lua_State *L) {
    lua_pushnil(L);
    lua_pushstring(L, dopl_check_rt(L)->error);
    return 2;
}

// read(path) -> the whole file as a string | nil, reason
static int files_read(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    dopl_bytes *b = dopl_push_bytes(L);
    dopl_status s = dopl_file_read(dopl_check_rt(L), b, path);
    if (s == DOPL_ENOMEM) return dopl_raise(L, dopl_check_rt(L));
    if (s) return nil_reason(L);
    dopl_push_text(L, -1);
    return 1;
}

// upvalues: the box, the offset of the next line
static int next_line(lua_State *L) {
    const dopl_bytes *b = lua_touserdata(L, lua_upvalueindex(1));
    size_t from = (size_t)lua_tointeger(L, lua_upvalueindex(2));
    if (from >= b->n) return 0;
    const char *end = memchr(b->data + from, '\n', b->n - from);
    size_t to = end ? (size_t)(end - b->data) : b->n;
    lua_pushinteger(L, (lua_Integer)to + 1);
    lua_replace(L, lua_upvalueindex(2));
    if (end && to > from && b->data[to - 1] == '\r') to--;
    lua_pushlstring(L, b->data + from, to - from);
    return 1;
}

// lines(path) -> iterator over the lines without their ends
static int files_lines(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    dopl_bytes *b = dopl_push_bytes(L);
    dopl_status s = dopl_file_read(dopl_check_rt(L), b, path);
    if (s) return dopl_raise(L, dopl_check_rt(L));
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, next_line, 2);
    return 1;
}

// write(path, bytes): all or nothing
static int files_write(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    size_t n;
    const char *data = luaL_checklstring(L, 2, &n);
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_file_write(rt, path, data, n), 0);
}

// append(path) -> a handle with :line(text), :write(text), :sync(), :close()
static int files_append(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    dopl_rt *rt = dopl_check_rt(L);
    dopl_appender *a = lua_newuserdatauv(L, sizeof *a, 0);
    a->open = false;
    luaL_setmetatable(L, APPENDER);
    return dopl_result(L, rt, dopl_appender_open(rt, a, path), 1);
}

static int appender_write(lua_State *L) {
    dopl_appender *a = luaL_checkudata(L, 1, APPENDER);
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_appender_put(rt, a, text, n), 0);
}

static int appender_line(lua_State *L) {
    luaL_checkudata(L, 1, APPENDER);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    lua_pushliteral(L, "\n");
    lua_concat(L, 2);
    return appender_write(L);
}

static int appender_sync(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_appender_sync(rt, luaL_checkudata(L, 1, APPENDER)), 0);
}

static int appender_close(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_appender_close(rt, luaL_checkudata(L, 1, APPENDER)), 0);
}

static int appender_gc(lua_State *L) {
    (void)!dopl_appender_close(dopl_check_rt(L), luaL_checkudata(L, 1, APPENDER));
    return 0;
}

// What is said of a holder: nothing, its process, or that there is one.
static int push_holder(lua_State *L, long holder) {
    if (holder == 0) return 0;
    if (holder > 0)
        lua_pushinteger(L, holder);
    else
        lua_pushboolean(L, 1);
    return 1;
}

// lock(path) -> a claim on a folder, released by :close() or with the process | nil, the process
// that has it (or true where that cannot be told), whether that is this one
static int files_lock(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    dopl_rt *rt = dopl_check_rt(L);
    dopl_lock *l = lua_newuserdatauv(L, sizeof *l, 0);
    l->open = false;
    luaL_setmetatable(L, LOCK);
    long holder;
    if (dopl_lock_take(rt, l, path, &holder)) return dopl_raise(L, rt);
    if (holder == 0) return 1;
    lua_pushnil(L);
    push_holder(L, holder);
    lua_pushboolean(L, holder == (long)getpid());
    return 3;
}

static int lock_close(lua_State *L) {
    dopl_lock_release(luaL_checkudata(L, 1, LOCK));
    return 0;
}

// locked(path) -> the process that has a claim on a folder (or true) | nil
static int files_locked(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    long holder;
    if (dopl_lock_holder(rt, dopl_check_path(L, 1), &holder)) return dopl_raise(L, rt);
    return push_holder(L, holder);
}

// exists(path) -> "file" | "directory" | "other" | nil
static int files_exists(lua_State *L) {
    static const char *const name[] = { NULL, "file", "directory", "other" };
    lua_pushstring(L, name[dopl_file_kind_of(dopl_check_path(L, 1))]);
    return 1;
}

// mkdir(path) -> whether the folder is new; parents are made
static int files_mkdir(lua_State *L) {
    bool made;
    dopl_rt *rt = dopl_check_rt(L);
    dopl_status s = dopl_mkdir(rt, dopl_check_path(L, 1), &made);
    lua_pushboolean(L, made);
    return dopl_result(L, rt, s, 1);
}

// list(path) -> sorted names | nil, reason
static int files_list(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    dopl_bytes *b = dopl_push_bytes(L);
    int64_t n;
    if (dopl_list(dopl_check_rt(L), b, &n, path)) return nil_reason(L);
    lua_createtable(L, (int)n, 0);
    const char *name = b->data;
    for (int64_t i = 1; i <= n; i++, name += strlen(name) + 1) {
        lua_pushstring(L, name);
        lua_rawseti(L, -2, i);
    }
    dopl_bytes_release(dopl_check_rt(L), b);
    return 1;
}

// hash(path) -> what core.hash gives for the file's content, its bytes | nil, reason
static int files_hash(lua_State *L) {
    char hex[33];
    int64_t n;
    dopl_status s = dopl_file_hash(dopl_check_rt(L), hex, &n, dopl_check_path(L, 1));
    if (s == DOPL_ENOMEM) return dopl_raise(L, dopl_check_rt(L));
    if (s) return nil_reason(L);
    lua_pushstring(L, hex);
    lua_pushinteger(L, n);
    return 2;
}

// remove(path): a file or an empty folder
static int files_remove(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_remove(rt, dopl_check_path(L, 1)), 0);
}

// resolve(path) -> the absolute path, links followed
static int files_resolve(lua_State *L) {
    char real[PATH_MAX];
    dopl_rt *rt = dopl_check_rt(L);
    const char *path = dopl_check_path(L, 1);
    if (dopl_path_resolve(rt, real, path)) return dopl_raise(L, rt);
    lua_pushstring(L, real);
    return 1;
}

// allow(path): one more folder that may be written to; an error once sealed
static int files_allow(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_roots_allow(rt, dopl_check_path(L, 1)), 0);
}

// seal(): from now on only the allowed folders may be written to
static int files_seal(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_roots_seal(rt), 0);
}

static int roots_gc(lua_State *L) {
    dopl_roots_release(dopl_check_rt(L),
                       lua_touserdata(L, 1)); // the registry holds the list itself
    return 0;
}

// hash(part...) -> 32 hex digits; a part is a string or a tensor (its type, shape and elements)
static int core_hash(lua_State *L) {
    dopl_hash h;
    char hex[33];
    dopl_hash_init(&h);
    for (int i = 1; i <= lua_gettop(L); i++) {
        const dopl_tensor *t = dopl_test_tensor(L, i);
        dopl_tensor here = { 0 };
        if (t) {
            dopl_rt *rt = dopl_check_rt(L);
            if (t->device != DOPL_CPU) {
                if (dopl_tensor_to(rt, &here, t, DOPL_CPU, t->dtype) != DOPL_OK)
                    return dopl_raise(L, rt);
                t = &here;
            }
            int64_t head[2 + DOPL_MAX_DIM] = { t->dtype, t->n_dim };
            memcpy(head + 2, t->dim, (size_t)t->n_dim * sizeof *head);
            dopl_hash_put(&h, head, sizeof head);
            size_t n = (size_t)dopl_tensor_numel(t) * dopl_dtype_bytes(t->dtype);
            dopl_hash_put(&h, n ? dopl_data(t) : "", n);
            dopl_tensor_release(rt, &here);
        } else {
            if (lua_type(L, i) != LUA_TSTRING)
                return dopl_raise_text(L, "hash: a %s, a string or tensor is needed",
                                       luaL_typename(L, i));
            size_t n;
            const char *text = lua_tolstring(L, i, &n);
            dopl_hash_put(&h, text, n);
        }
    }
    dopl_hash_hex(&h, hex);
    lua_pushstring(L, hex);
    return 1;
}

// getenv(name) -> string | nil. Recipes may be a stranger's: only what the library itself needs.
static int core_getenv(lua_State *L) {
    static const char *const known[] = { "NO_COLOR", "COLUMNS", "TERM" };
    const char *name = luaL_checkstring(L, 1);
    bool ok = strncmp(name, "DOPL_", 5) == 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) ok |= strcmp(name, known[i]) == 0;
    if (!ok)
        return dopl_raise_text(L, "getenv: '%s' is not one of the names recipes may read", name);
    lua_pushstring(L, getenv(name));
    return 1;
}

// cache_folder() -> the folder of what is kept between runs | nil
static int core_cache_folder(lua_State *L) {
    char path[PATH_MAX];
    lua_pushstring(L, dopl_cache_folder(path) ? path : NULL);
    return 1;
}

// clock() -> seconds of a clock that never jumps; only differences mean anything
static int core_clock(lua_State *L) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    return 1;
}

static const char roots_key = 'r'; // its address names the registry slot

// The list of roots lives in the registry, freed with the state. It is made before any other box of
// this file can be, and so outlives them.
static void new_roots(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    if (rt->roots) return;
    dopl_roots *roots = lua_newuserdatauv(L, sizeof *roots, 0);
    memset(roots, 0, sizeof *roots);
    luaL_setmetatable(L, ROOTS);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &roots_key);
    rt->roots = roots;
}

void dopl_bind_io(lua_State *L) {
    static const luaL_Reg appender[] = {
        { "write", appender_write },
        { "line", appender_line },
        { "sync", appender_sync },
        { "close", appender_close },
        { NULL, NULL },
    };
    static const luaL_Reg lock[] = { { "close", lock_close }, { NULL, NULL } };
    static const luaL_Reg files[] = {
        { "read", files_read },     { "lines", files_lines },   { "write", files_write },
        { "append", files_append }, { "exists", files_exists }, { "mkdir", files_mkdir },
        { "list", files_list },     { "remove", files_remove }, { "resolve", files_resolve },
        { "allow", files_allow },   { "seal", files_seal },     { "hash", files_hash },
        { "lock", files_lock },     { "locked", files_locked }, { NULL, NULL },
    };
    dopl_new_type(L, BYTES, bytes_close, bytes_close, NULL);
    dopl_new_type(L, APPENDER, appender_gc, appender_gc, appender);
    dopl_new_type(L, LOCK, lock_close, lock_close, lock);
    dopl_new_type(L, ROOTS, roots_gc, roots_gc, NULL);
    lua_pop(L, 4);
    new_roots(L);
    luaL_newlib(L, files);
    lua_setfield(L, -2, "files");
    lua_pushcfunction(L, core_hash);
    lua_setfield(L, -2, "hash");
    lua_pushcfunction(L, core_getenv);
    lua_setfield(L, -2, "getenv");
    lua_pushcfunction(L, core_cache_folder);
    lua_setfield(L, -2, "cache_folder");
    lua_pushcfunction(L, core_clock);
    lua_setfield(L, -2, "clock");
}

// lua_json.c - dopl.core.json: values in and out of JSON text.
//
// null is a sentinel (json.null), because a nil would vanish from its table. An empty array keeps a
// mark, its metatable, so that it does not come out as {}. What is written has its keys sorted: the
// same value gives the same bytes.
#include "bytes.h"

#include "../io/files.h"
#include "../io/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DOCUMENT "dopl.json.document"
#define ARRAY "dopl.json.array"

static char null_key; // json.null is the light userdata of its address

static json_t **push_document(lua_State *L) {
    json_t **doc = lua_newuserdatauv(L, sizeof *doc, 0);
    *doc = NULL;
    luaL_setmetatable(L, DOCUMENT);
    return doc;
}

static int document_close(lua_State *L) {
    json_t **doc = luaL_checkudata(L, 1, DOCUMENT);
    json_decref(*doc); // takes NULL
    *doc = NULL;
    return 0;
}

// Depth is bounded by the parser.
static void push_value(lua_State *L, json_t *v) {
    luaL_checkstack(L, 4, "json");
    switch (json_typeof(v)) {
    case JSON_NULL:
        lua_pushlightuserdata(L, &null_key);
        return;
    case JSON_TRUE:
        lua_pushboolean(L, 1);
        return;
    case JSON_FALSE:
        lua_pushboolean(L, 0);
        return;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(v));
        return;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(v));
        return;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(v), json_string_length(v));
        return;
    case JSON_ARRAY: {
        size_t n = json_array_size(v);
        lua_createtable(L, n > INT32_MAX ? 0 : (int)n, 0);
        for (size_t i = 0; i < n; i++) {
            push_value(L, json_array_get(v, i));
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        if (n == 0) luaL_setmetatable(L, ARRAY);
        return;
    }
    case JSON_OBJECT:
        lua_createtable(L, 0, (int)json_object_size(v));
        for (void *i = json_object_iter(v); i; i = json_object_iter_next(v, i)) {
            lua_pushstring(L, json_object_iter_key(i));
            push_value(L, json_object_iter_value(i));
            lua_rawset(L, -3);
        }
        return;
    }
}

// decode(text [, name]) -> value; errors name the place as name:line:column
static int json_decode_text(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    const char *name = luaL_optstring(L, 2, "json");
    dopl_rt *rt = dopl_check_rt(L);
    json_t **doc = push_document(L);
    if (dopl_json_parse(rt, doc, text, n, name, 1)) return dopl_raise(L, rt);
    push_value(L, *doc);
    json_decref(*doc);
    *doc = NULL;
    return 1;
}

// upvalues: the path, the file's bytes, the offset of the next line, its number, a document
static int next_row(lua_State *L) {
    const char *path = lua_tostring(L, lua_upvalueindex(1));
    const dopl_bytes *b = lua_touserdata(L, lua_upvalueindex(2));
    size_t from = (size_t)lua_tointeger(L, lua_upvalueindex(3));
    lua_Integer line = lua_tointeger(L, lua_upvalueindex(4));
    json_t **doc = lua_touserdata(L, lua_upvalueindex(5));
    dopl_rt *rt = dopl_check_rt(L);
    size_t to;
    for (;; from = to + 1) { // past blank lines
        if (from >= b->n) return 0;
        const char *end = memchr(b->data + from, '\n', b->n - from);
        to = end ? (size_t)(end - b->data) : b->n;
        line++;
        if (strspn(b->data + from, " \t\r") < to - from) break;
    }
    lua_pushinteger(L, (lua_Integer)to + 1);
    lua_replace(L, lua_upvalueindex(3));
    lua_pushinteger(L, line);
    lua_replace(L, lua_upvalueindex(4));
    json_decref(*doc); // of a row whose conversion raised
    *doc = NULL;
    if (dopl_json_parse(rt, doc, b->data + from, to - from, path, (int)line))
        return dopl_raise(L, rt);
    push_value(L, *doc);
    json_decref(*doc);
    *doc = NULL;
    lua_pushinteger(L, line);
    return 2;
}

// lines(path) -> iterator over value, line number of a JSON Lines file; blank lines are skipped
static int json_lines(lua_State *L) {
    const char *path = dopl_check_path(L, 1);
    lua_settop(L, 1);
    dopl_bytes *b = dopl_push_bytes(L);
    dopl_rt *rt = dopl_check_rt(L);
    if (dopl_file_read(rt, b, path)) return dopl_raise(L, rt);
    lua_pushinteger(L, 0);
    lua_pushinteger(L, 0);
    push_document(L);
    lua_pushcclosure(L, next_row, 5);
    return 1;
}

typedef struct {
    lua_State *L;
    dopl_rt *rt;
    dopl_bytes *out; // in a box: raising loses nothing
    int indent;      // spaces a level; 0: one line
    bool nan_is_null;
    int depth;
} encoder;

typedef struct {
    const char *text;
    size_t n;
} key;

static void put(encoder *e, const char *text) {
    if (dopl_bytes_puts(e->rt, e->out, text)) dopl_raise(e->L, e->rt);
}

static void put_string(encoder *e, const char *text, size_t n) {
    if (dopl_json_put_string(e->rt, e->out, text, n)) dopl_raise(e->L, e->rt);
}

static void new_line(encoder *e) {
    if (!e->indent) return;
    put(e, "\n");
    for (int i = 0; i < e->depth * e->indent; i++) put(e, " ");
}

static int by_bytes(const void *a, const void *b) {
    const key *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static void put_value(encoder *e, int index);

// Entries of the table and how many of them have string keys; anything else but 1..n raises.
static lua_Integer count_keys(encoder *e, int index, lua_Integer *n_string) {
    lua_State *L = e->L;
    lua_Integer n = 0, largest = 0;
    *n_string = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), n++) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            ++*n_string;
        } else if (lua_isinteger(L, -2) && lua_tointeger(L, -2) >= 1) {
            if (lua_tointeger(L, -2) > largest) largest = lua_tointeger(L, -2);
        } else {
            dopl_raise_text(L, "json: a %s as a key, a string or 1..n is needed",
                            lua_isnumber(L, -2) ? "number" : luaL_typename(L, -2));
        }
    }
    if (*n_string && *n_string < n)
        dopl_raise_text(L, "json: a table with both string and number keys");
    if (!*n_string && largest != n)
        dopl_raise_text(L, "json: an array with holes (%d of %d entries); json.null fills one",
                        (int)n, (int)largest);
    return n;
}

static void put_array(encoder *e, int index, lua_Integer n) {
    put(e, "[");
    e->depth++;
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1) put(e, e->indent ? "," : ", ");
        new_line(e);
        lua_rawgeti(e->L, index, i);
        put_value(e, lua_gettop(e->L));
        lua_pop(e->L, 1);
    }
    e->depth--;
    new_line(e);
    put(e, "]");
}

static void put_object(encoder *e, int index, lua_Integer n) {
    lua_State *L = e->L;
    key *keys = lua_newuserdatauv(L, (size_t)n * sizeof *keys, 0);
    lua_createtable(L, n < INT32_MAX ? (int)n : 0, 0); // keeps the strings
    int kept = lua_gettop(L);
    lua_Integer i = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), i++) {
        if (i == n || lua_type(L, -2) != LUA_TSTRING) break;
        keys[i].text = lua_tolstring(L, -2, &keys[i].n);
        lua_pushvalue(L, -2);
        lua_rawseti(L, kept, i + 1);
    }
    if (i != n || lua_gettop(L) != kept) // a finalizer ran while memory was made
        dopl_raise_text(L, "json: the table has changed while it was written");
    qsort(keys, (size_t)n, sizeof *keys, by_bytes);
    put(e, "{");
    e->depth++;
    for (i = 0; i < n; i++) {
        if (i > 0) put(e, e->indent ? "," : ", ");
        new_line(e);
        put_string(e, keys[i].text, keys[i].n);
        put(e, ": ");
        lua_pushlstring(L, keys[i].text, keys[i].n);
        lua_rawget(L, index);
        put_value(e, lua_gettop(L));
        lua_pop(L, 1);
    }
    e->depth--;
    new_line(e);
    put(e, "}");
    lua_pop(L, 2);
}

// Whether the table has the mark of json.array.
static bool has_mark(lua_State *L, int index) {
    if (!lua_getmetatable(L, index)) return false;
    luaL_getmetatable(L, ARRAY);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

static void put_table(encoder *e, int index) {
    if (e->depth >= DOPL_JSON_DEPTH)
        dopl_raise_text(e->L, "json: nested more than %d deep, or a table inside itself",
                        DOPL_JSON_DEPTH);
    luaL_checkstack(e->L, 8, "json");
    lua_Integer n_string, n = count_keys(e, index, &n_string);
    if (n == 0) {
        put(e, has_mark(e->L, index) ? "[]" : "{}");
    } else if (n_string) {
        put_object(e, index, n);
    } else {
        put_array(e, index, n);
    }
}

static void put_number(encoder *e, int index) {
    dopl_status s;
    double x = lua_tonumber(e->L, index);
    if (lua_isinteger(e->L, index))
        s = dopl_json_put_integer(e->rt, e->out, lua_tointeger(e->L, index));
    else if (e->nan_is_null && !isfinite(x))
        s = dopl_bytes_puts(e->rt, e->out, "null");
    else
        s = dopl_json_put_real(e->rt, e->out, x);
    if (s) dopl_raise(e->L, e->rt);
}

static void put_value(encoder *e, int index) {
    size_t n;
    const char *text;
    switch (lua_type(e->L, index)) {
    case LUA_TBOOLEAN:
        put(e, lua_toboolean(e->L, index) ? "true" : "false");
        return;
    case LUA_TNUMBER:
        put_number(e, index);
        return;
    case LUA_TSTRING:
        text = lua_tolstring(e->L, index, &n);
        put_string(e, text, n);
        return;
    case LUA_TTABLE:
        put_table(e, index);
        return;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(e->L, index) == &null_key) {
            put(e, "null");
            return;
        }
    }
    dopl_raise_text(e->L, "json: a %s cannot be written", luaL_typename(e->L, index));
}

// encode(value [, { indent = spaces, nan = "null" }]) -> text
static int json_encode_value(lua_State *L) {
    luaL_checkany(L, 1);
    lua_settop(L, 2);
    encoder e = { .L = L, .rt = dopl_check_rt(L) };
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        lua_getfield(L, 2, "indent");
        e.indent = (int)luaL_optinteger(L, -1, 0);
        if (e.indent < 0 || e.indent > 16)
            return dopl_raise_text(L, "json: indent = %d, 0 to 16 is needed", e.indent);
        lua_getfield(L, 2, "nan");
        const char *nan = luaL_optstring(L, -1, "error");
        if (strcmp(nan, "error") != 0 && strcmp(nan, "null") != 0)
            return dopl_raise_text(L, "json: nan = '%s', 'error' or 'null' is needed", nan);
        e.nan_is_null = strcmp(nan, "null") == 0;
        lua_settop(L, 2);
    }
    e.out = dopl_push_bytes(L);
    put_value(&e, 1);
    dopl_push_text(L, 3);
    return 1;
}

// array([t]) -> the table, written as [] when it is empty
static int json_array_mark(lua_State *L) {
    lua_settop(L, 1);
    if (lua_isnil(L, 1)) {
        lua_newtable(L);
        lua_replace(L, 1);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    if (lua_getmetatable(L, 1) && !has_mark(L, 1))
        return dopl_raise_text(L,
                               "json.array: the table has a metatable of its own, and would lose "
                               "it; give a plain table");
    lua_settop(L, 1);
    luaL_setmetatable(L, ARRAY);
    return 1;
}

// is_array(value) -> whether it is a table with the mark that array gives
static int json_test_mark(lua_State *L) {
    lua_pushboolean(L, lua_istable(L, 1) && has_mark(L, 1));
    return 1;
}

void dopl_bind_json(lua_State *L) {
    static const luaL_Reg functions[] = {
        { "decode", json_decode_text }, { "encode", json_encode_value }, { "lines", json_lines },
        { "array", json_array_mark },   { "is_array", json_test_mark },  { NULL, NULL },
    };
    dopl_new_type(L, DOCUMENT, document_close, NULL, NULL);
    dopl_new_type(L, ARRAY, NULL, NULL, NULL);
    lua_pop(L, 2);
    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, &null_key);
    lua_setfield(L, -2, "null");
    lua_setfield(L, -2, "json");
}

// lua_text.c - dopl.core.bpe: the tokenizer as a userdata; dopl.core.rouge: ROUGE-L, its stemmer,
// and text in one form.
//
// lua/dopl/text/init.lua is the public face; it checks options, does the files, and adds the methods
// that need either.
#include "bytes.h"
#include "state.h"

#include "../text/bpe_json.h"
#include "../text/bpe_train.h"
#include "../text/porter.h"
#include "../text/rouge.h"
#include "../text/unicode.h"

#include <string.h>

#define TOKENIZER "dopl.tokenizer"

static dopl_bpe *push_tokenizer(lua_State *L) { // an empty box, already collectable
    dopl_bpe *bpe = lua_newuserdatauv(L, sizeof *bpe, 0);
    memset(bpe, 0, sizeof *bpe);
    luaL_setmetatable(L, TOKENIZER);
    return bpe;
}

static dopl_bpe *check_tokenizer(lua_State *L) {
    dopl_bpe *bpe = luaL_checkudata(L, 1, TOKENIZER);
    if (!bpe->split) dopl_raise_text(L, "tokenizer: it is closed");
    return bpe;
}

static int tokenizer_gc(lua_State *L) {
    dopl_bpe_release(dopl_check_rt(L), luaL_checkudata(L, 1, TOKENIZER));
    return 0;
}

static int tokenizer_close(lua_State *L) { // not from a finalizer while the core encodes with it
    dopl_check_between(L);
    return tokenizer_gc(L);
}

// An array of strings as C sees it, in memory that Lua owns, pushed on the stack. The argument
// becomes a copy that keeps the strings alive.
static dopl_bpe_text *push_texts(lua_State *L, int arg, const char *what, size_t *n) {
    luaL_checktype(L, arg, LUA_TTABLE);
    dopl_own_table(L, arg);
    *n = lua_rawlen(L, arg);
    dopl_bpe_text *text = lua_newuserdatauv(L, *n * sizeof *text + 1, 0);
    for (size_t i = 0; i < *n; i++) {
        if (lua_rawgeti(L, arg, (lua_Integer)i + 1) != LUA_TSTRING)
            dopl_raise_text(L, "train: %s[%d] is a %s, a string is needed", what, (int)i + 1,
                            luaL_typename(L, -1));
        text[i].data = lua_tolstring(L, -1, &text[i].n);
        lua_pop(L, 1);
    }
    return text;
}

// train(texts, vocab_size, pattern, specials, min_count) -> tokenizer
static int text_train(lua_State *L) {
    dopl_bpe_training how = { .min_count = luaL_checkinteger(L, 5) };
    lua_Integer vocab_size = luaL_checkinteger(L, 2);
    size_t n;
    const char *pattern = luaL_checklstring(L, 3, &n);
    lua_settop(L, 5);
    how.vocab_size = vocab_size > 0 ? (size_t)vocab_size : 0;
    how.text = push_texts(L, 1, "texts", &how.n_texts);
    how.special = push_texts(L, 4, "special", &how.n_specials);
    dopl_bpe *bpe = push_tokenizer(L);
    dopl_rt *rt = dopl_check_rt(L);
    dopl_status status = dopl_bpe_init(rt, bpe, pattern, n);
    if (status == DOPL_OK) status = dopl_bpe_train(rt, bpe, &how);
    return dopl_result(L, rt, status, 1);
}

// from_json(string, source) -> tokenizer
static int text_from_json(lua_State *L) {
    size_t n;
    const char *json = luaL_checklstring(L, 1, &n), *source = luaL_checkstring(L, 2);
    dopl_bpe *bpe = push_tokenizer(L);
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_bpe_from_json(rt, bpe, source, json, n), 1);
}

// encode(text, specials) -> array of ids
static int tokenizer_encode(lua_State *L) {
    dopl_bpe *bpe = check_tokenizer(L);
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    dopl_rt *rt = dopl_check_rt(L);
    dopl_status status = dopl_bpe_encode(rt, bpe, text, n, lua_toboolean(L, 3));
    if (status != DOPL_OK) return dopl_raise(L, rt);
    lua_createtable(L, (int)bpe->ids.n, 0);
    for (size_t i = 0; i < bpe->ids.n; i++) {
        lua_pushinteger(L, bpe->ids.data[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

// decode(ids) -> string
static int tokenizer_decode(lua_State *L) {
    dopl_bpe *bpe = check_tokenizer(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    size_t n = lua_rawlen(L, 2);
    int32_t *ids = lua_newuserdatauv(L, n * sizeof *ids + 1, 0);
    for (size_t i = 0; i < n; i++) {
        int whole;
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        lua_Integer id = lua_tointegerx(L, -1, &whole);
        if (!whole)
            return dopl_raise_text(L, "decode: place %d holds a %s, an id is needed", (int)i + 1,
                                   luaL_typename(L, -1));
        if (id < 0)
            return dopl_raise_text(L, "decode: place %d holds %lld, ids go from 0 to %lld",
                                   (int)i + 1, (long long)id, (long long)bpe->n_tokens - 1);
        ids[i] = id > DOPL_BPE_MAX_TOKENS ? DOPL_BPE_MAX_TOKENS : (int32_t)id; // none has that one
        lua_pop(L, 1);
    }
    dopl_rt *rt = dopl_check_rt(L);
    if (dopl_bpe_decode(rt, bpe, ids, n) != DOPL_OK) return dopl_raise(L, rt);
    lua_pushlstring(L, bpe->text.data ? bpe->text.data : "", bpe->text.n);
    return 1;
}

// size() -> number of ids
static int tokenizer_size(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)check_tokenizer(L)->n_tokens);
    return 1;
}

static void push_id(lua_State *L, int32_t id) {
    if (id >= 0)
        lua_pushinteger(L, id);
    else
        lua_pushnil(L);
}

// A method, or `bos` or `eos`: what the file puts before and after a whole text. Upvalue 1:
// methods.
static int tokenizer_index(lua_State *L) {
    const dopl_bpe *bpe = luaL_checkudata(L, 1, TOKENIZER);
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(key, "bos") == 0 || strcmp(key, "eos") == 0) {
        push_id(L, !bpe->split ? -1 : *key == 'b' ? bpe->bos : bpe->eos);
        return 1;
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

// What tokenizer_index gives, for the Tab key. Upvalue 1: methods.
static int tokenizer_names(lua_State *L) {
    static const char *const fields[] = { "bos", "eos" };
    lua_Integer n = 0;
    lua_newtable(L);
    for (; n < 2; n++) {
        lua_pushstring(L, fields[n]);
        lua_rawseti(L, -2, n + 1);
    }
    for (lua_pushnil(L); lua_next(L, lua_upvalueindex(1)); lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        lua_rawseti(L, -4, ++n);
    }
    return 1;
}

// id(token) -> id | nil
static int tokenizer_id(lua_State *L) {
    dopl_bpe *bpe = check_tokenizer(L);
    size_t n;
    const char *token = luaL_checklstring(L, 2, &n);
    push_id(L, dopl_bpe_id(bpe, token, n));
    return 1;
}

// token(id) -> its bytes | nil
static int tokenizer_token(lua_State *L) {
    dopl_bpe *bpe = check_tokenizer(L);
    size_t n;
    const char *bytes = dopl_bpe_token(bpe, luaL_checkinteger(L, 2), &n);
    if (bytes)
        lua_pushlstring(L, bytes, n);
    else
        lua_pushnil(L);
    return 1;
}

// json() -> the tokenizer as the bytes of a tokenizer.json
static int tokenizer_json(lua_State *L) {
    dopl_bpe *bpe = check_tokenizer(L);
    dopl_bytes *out = dopl_push_bytes(L);
    dopl_rt *rt = dopl_check_rt(L);
    if (dopl_bpe_to_json(rt, out, bpe) != DOPL_OK) return dopl_raise(L, rt);
    dopl_push_text(L, -1);
    return 1;
}

static int tokenizer_tostring(lua_State *L) {
    const dopl_bpe *bpe = luaL_checkudata(L, 1, TOKENIZER);
    lua_pushfstring(L, "tokenizer: %I tokens, %I merges, %I added", (LUAI_UACINT)bpe->n_tokens,
                    (LUAI_UACINT)bpe->n_merges,
                    (LUAI_UACINT)(bpe->added[0].ids.n + bpe->added[1].ids.n));
    return 1;
}

// pattern(name) -> the pattern of that name | nil
static int text_pattern(lua_State *L) {
    lua_pushstring(L, dopl_split_named(luaL_checkstring(L, 1)));
    return 1;
}

// rouge.stem(word) -> the stem of the word in lower case
static int text_stem(lua_State *L) {
    size_t n;
    const char *word = luaL_checklstring(L, 1, &n);
    luaL_Buffer out;
    char *s = luaL_buffinitsize(L, &out, n + 1);
    for (size_t i = 0; i < n; i++)
        s[i] = (char)(word[i] >= 'A' && word[i] <= 'Z' ? word[i] - 'A' + 'a' : word[i]);
    luaL_pushresultsize(&out, dopl_porter_stem(s, n));
    return 1;
}

// rouge.fold(text) -> the text in NFC with its case folded
static int text_fold(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    dopl_bytes *out = dopl_push_bytes(L);
    dopl_rt *rt = dopl_check_rt(L);
    if (dopl_text_fold(rt, out, text, n) != DOPL_OK) return dopl_raise(L, rt);
    dopl_push_text(L, -1);
    return 1;
}

// rouge.l(reference, candidate) -> recall, precision, f, "ascii" | "unicode" | nil
static int text_rouge_l(lua_State *L) {
    size_t n_reference, n_candidate;
    const char *reference = luaL_checklstring(L, 1, &n_reference);
    const char *candidate = luaL_checklstring(L, 2, &n_candidate);
    dopl_rt *rt = dopl_check_rt(L);
    dopl_rouge r;
    if (dopl_rouge_l(rt, &r, reference, n_reference, candidate, n_candidate) != DOPL_OK)
        return dopl_raise(L, rt);
    lua_pushnumber(L, r.recall);
    lua_pushnumber(L, r.precision);
    lua_pushnumber(L, r.f);
    lua_pushstring(L, r.words == DOPL_ROUGE_NONE      ? NULL
                      : r.words == DOPL_ROUGE_UNICODE ? "unicode"
                                                      : "ascii");
    return 4;
}

void dopl_bind_text(lua_State *L) {
    static const luaL_Reg methods[] = {
        { "encode", tokenizer_encode }, { "decode", tokenizer_decode },
        { "size", tokenizer_size },     { "id", tokenizer_id },
        { "token", tokenizer_token },   { "json", tokenizer_json },
        { "close", tokenizer_close },   { NULL, NULL },
    };
    static const luaL_Reg bpe[] = {
        { "train", text_train },
        { "from_json", text_from_json },
        { "pattern", text_pattern },
        { NULL, NULL },
    };
    static const luaL_Reg rouge[] = {
        { "stem", text_stem },
        { "l", text_rouge_l },
        { "fold", text_fold },
        { NULL, NULL },
    };
    luaL_newlib(L, rouge);
    lua_setfield(L, -2, "rouge");
    luaL_newlib(L, bpe);
    dopl_new_type(L, TOKENIZER, tokenizer_gc, tokenizer_close, methods);
    lua_pushcfunction(L, tokenizer_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_getfield(L, -1, "__index");
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, "methods"); // where text.lua adds its methods
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, tokenizer_names, 1);
    lua_setfield(L, -3, "__names");
    lua_pushcclosure(L, tokenizer_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_setfield(L, -2, "bpe");
}

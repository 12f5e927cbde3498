// lua_runtime.c - the runtime as Lua sees it: memory, devices, threads, and switches for the specs.
#include "bind.h"
#include "../core/device.h"

static void set_integer(lua_State *L, const char *name, size_t value) {
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

// core.memory(): bytes { live, peak, cached } and blocks of the runtime, bytes { resident,
// resident_peak } of the process since it began; core.memory("cuda"): bytes of the tensors there,
// { live, peak, by_kind = { parameters, gradients, ... }, at_peak }
static int rt_memory(lua_State *L) {
    static const char *const devices[] = { "cpu", "cuda", NULL };
    static const char *const kinds[] = {
#define X(id, name) #name,
        DOPL_MEMORY_KINDS(X)
#undef X
    };
    const dopl_rt *rt = dopl_check_rt(L);
    if (!lua_isnoneornil(L, 1)) {
        const dopl_memory *m = &rt->memory[luaL_checkoption(L, 1, NULL, devices)];
        lua_createtable(L, 0, 4);
        set_integer(L, "live", m->live);
        set_integer(L, "peak", m->peak);
        for (int peak = 0; peak < 2; peak++) {
            lua_createtable(L, 0, DOPL_N_MEMORY);
            for (int k = 0; k < DOPL_N_MEMORY; k++)
                set_integer(L, kinds[k], peak ? m->at_peak[k] : m->by_kind[k]);
            lua_setfield(L, -2, peak ? "at_peak" : "by_kind");
        }
        return 1;
    }
    size_t resident, resident_peak;
    dopl_rt_resident(&resident, &resident_peak);
    lua_createtable(L, 0, 6);
    set_integer(L, "live", rt->bytes_live);
    set_integer(L, "peak", rt->bytes_peak);
    set_integer(L, "cached", dopl_rt_cached(rt));
    set_integer(L, "blocks", (size_t)rt->n_blocks);
    set_integer(L, "resident", resident);
    set_integer(L, "resident_peak", resident_peak);
    return 1;
}

static int rt_reset_peak(lua_State *L) {
    dopl_rt_reset_peak(dopl_check_rt(L));
    return 0;
}

static int rt_trim(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_rt_trim(rt);
    if (rt->backend) rt->backend->trim(rt);
    return 0;
}

// core.device(name): puts new tensors of numbers there ("cpu", "cuda", "cuda:1", "auto") from now
// on. Returns the device in use, "cpu" or "cuda", and what it is.
static int rt_device(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    if (!lua_isnoneornil(L, 1) && dopl_device_choose(rt, luaL_checkstring(L, 1)) != DOPL_OK)
        return dopl_raise(L, rt);
    lua_pushstring(L, dopl_device_name(rt->device));
    lua_pushstring(L, rt->device == DOPL_CPU ? "" : rt->backend->describe(rt));
    return 2;
}

// core.waits(): how often the host has waited for the device, for a number or for all of its work
static int rt_waits(lua_State *L) {
    lua_pushinteger(L, dopl_check_rt(L)->n_waits);
    return 1;
}

// core.launches(): pieces of work sent to the device; how many of them by graphs, which it launches
// as one because they repeat; graphs held
static int rt_launches(lua_State *L) {
    const dopl_rt *rt = dopl_check_rt(L);
    lua_pushinteger(L, rt->n_launched);
    lua_pushinteger(L, rt->n_replayed);
    lua_pushinteger(L, rt->n_graphs);
    return 3;
}

// core.products(): a line on every kind of matrix product that the device has met, in no order:
// shape, types, what comes with it, and the algorithm that does it
static int rt_products(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    char text[256];
    lua_newtable(L);
    for (int64_t i = 0; rt->backend && rt->backend->tell_product(rt, i, text, sizeof text); i++) {
        lua_pushstring(L, text);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

// core.sync(): waits until the device has done what was asked of it
static int rt_sync(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    if (rt->backend && rt->backend->sync(rt) != DOPL_OK) return dopl_raise(L, rt);
    return 0;
}

// core.blocks(): allocations alive; a spec that leaves more than it found has leaked
static int rt_blocks(lua_State *L) {
    lua_pushinteger(L, dopl_check_rt(L)->n_blocks);
    return 1;
}

// core.fail_alloc(n): the n-th allocation from now on fails; 0: none. Returns how many were still
// to go before the failure asked for last: 0 where it has happened.
static int rt_fail_alloc(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    lua_Integer n = luaL_checkinteger(L, 1);
    lua_pushinteger(L, rt->fail_at);
    rt->fail_at = n;
    return 1;
}

// core.poison(on): fill fresh and freed memory with NaN; returns the previous setting
static int rt_poison(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    lua_pushboolean(L, rt->poison);
    rt->poison = lua_toboolean(L, 1);
    return 1;
}

// core.threads(n): sets the number of threads (0: all cores); returns the number in use
static int rt_threads(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    if (!lua_isnoneornil(L, 1)) {
        lua_Integer n = luaL_checkinteger(L, 1);
        if (n < 0 || n > 1024)
            return dopl_raise_text(L, "threads: %lld, needs 0 to 1024", (long long)n);
        dopl_rt_set_threads(rt, (int)n);
    }
    lua_pushinteger(L, rt->n_threads);
    return 1;
}

// core.vocab_chunk(bytes): sets how many bytes of logits exist at a time; returns the previous
// limit
static int rt_vocab_chunk(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    lua_Integer bytes = luaL_checkinteger(L, 1);
    if (bytes < 1)
        return dopl_raise_text(L, "vocab_chunk: %lld bytes, needs at least 1", (long long)bytes);
    lua_pushinteger(L, (lua_Integer)rt->chunk_bytes);
    rt->chunk_bytes = (size_t)bytes;
    return 1;
}

static const luaL_Reg functions[] = {
    { "memory", rt_memory },
    { "reset_peak", rt_reset_peak },
    { "trim", rt_trim },
    { "device", rt_device },
    { "sync", rt_sync },
    { "waits", rt_waits },
    { "products", rt_products },
    { "launches", rt_launches },
    { "blocks", rt_blocks },
    { "fail_alloc", rt_fail_alloc },
    { "poison", rt_poison },
    { "threads", rt_threads },
    { "vocab_chunk", rt_vocab_chunk },
    { NULL, NULL },
};

void dopl_bind_runtime(lua_State *L) {
    luaL_setfuncs(L, functions, 0);
}

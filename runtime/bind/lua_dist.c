// lua_dist.c - core.dist.open(engine, rank, size, rendezvous) -> a world, for lua/dopl/train/dist.lua.
//
//   world:sum { tensor, ... }    world:broadcast({ tensor, ... }, root)    world:close()
#include "state.h"
#include "../dist/dist.h"

#define WORLD "dopl.world"

static dopl_world *check_world(lua_State *L) {
    return luaL_checkudata(L, 1, WORLD);
}

static int world_gc(lua_State *L) {
    dopl_dist_close(dopl_check_rt(L), check_world(L));
    return 0;
}

static int world_close(lua_State *L) { // not from a finalizer in the middle of a collective
    dopl_check_between(L);
    return world_gc(L);
}

static int world_open(lua_State *L) {
    const char *engine = luaL_checkstring(L, 1);
    int rank = (int)luaL_checkinteger(L, 2), size = (int)luaL_checkinteger(L, 3);
    const char *rendezvous = luaL_optstring(L, 4, NULL);
    if (size > 1)
        return dopl_raise_text(L,
                               "dist: a world of %d processes, needs size = 1: training in several "
                               "processes does not work yet (it would multiply gradients by their "
                               "number, and each would write the run's files)",
                               size);
    dopl_world *world = lua_newuserdatauv(L, sizeof *world, 0);
    *world = (dopl_world){ 0 };
    luaL_setmetatable(L, WORLD);
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_dist_open(rt, world, engine, rank, size, rendezvous), 1);
}

// The tensors of the list at argument 2, which becomes a copy that keeps them alive; the array of
// pointers is a userdata on the stack.
static dopl_tensor **read_list(lua_State *L, int *n) {
    luaL_checktype(L, 2, LUA_TTABLE);
    dopl_own_table(L, 2);
    *n = (int)lua_rawlen(L, 2);
    dopl_tensor **list = lua_newuserdatauv(L, sizeof *list * (size_t)(*n + 1), 0);
    for (int i = 0; i < *n; i++) {
        lua_rawgeti(L, 2, i + 1);
        list[i] = dopl_check_tensor(L, lua_gettop(L));
        lua_pop(L, 1);
    }
    return list;
}

static int world_sum(lua_State *L) {
    dopl_world *world = check_world(L);
    dopl_rt *rt = dopl_check_rt(L);
    int n;
    dopl_tensor **list = read_list(L, &n);
    return dopl_result(L, rt, dopl_dist_sum(rt, world, list, n), 0);
}

static int world_broadcast(lua_State *L) {
    dopl_world *world = check_world(L);
    dopl_rt *rt = dopl_check_rt(L);
    int n, root = (int)luaL_optinteger(L, 3, 0);
    dopl_tensor **list = read_list(L, &n);
    return dopl_result(L, rt, dopl_dist_broadcast(rt, world, list, n, root), 0);
}

static int world_rank(lua_State *L) {
    lua_pushinteger(L, check_world(L)->rank);
    return 1;
}

static int world_size(lua_State *L) {
    lua_pushinteger(L, check_world(L)->size);
    return 1;
}

void dopl_bind_dist(lua_State *L) {
    static const luaL_Reg methods[] = {
        { "sum", world_sum },   { "broadcast", world_broadcast }, { "rank", world_rank },
        { "size", world_size }, { "close", world_close },         { NULL, NULL },
    };
    dopl_new_type(L, WORLD, world_gc, world_close, methods);
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, world_open);
    lua_setfield(L, -2, "open");
    lua_setfield(L, -2, "dist");
}

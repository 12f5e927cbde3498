// lua_profile.c - core.profile: where time goes, by operator (core/profile.h;
// lua/dopl/run/profile.lua).
#include "bind.h"
#include "../core/device.h"

#define PROFILE "dopl.profile"

static dopl_profile **check_box(lua_State *L) {
    return luaL_checkudata(L, 1, PROFILE);
}

static void push_row(lua_State *L, const dopl_profile_row *r) {
    static const char *const parts[DOPL_N_PART] = { "forward", "backward", "pass", "launch" };
    lua_createtable(L, 0, 6);
    lua_pushstring(L, r->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, parts[r->part]);
    lua_setfield(L, -2, "part");
    lua_pushstring(L, dopl_device_name(r->device));
    lua_setfield(L, -2, "device");
    lua_pushinteger(L, r->calls);
    lua_setfield(L, -2, "calls");
    lua_pushnumber(L, r->seconds);
    lua_setfield(L, -2, "seconds");
    if (r->within == DOPL_NO_ROW) return;
    lua_pushinteger(L, r->within + 1);
    lua_setfield(L, -2, "within");
}

// p:read(): an array of { name, part, device, calls, seconds, within = index of a launch's operator
// }, and the seconds since it was opened; nothing where it is closed
static int profile_read(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_profile *p = *check_box(L);
    if (!p) return 0;
    double seconds;
    if (dopl_profile_read(rt, p, &seconds) != DOPL_OK) return dopl_raise(L, rt);
    lua_createtable(L, p->n_row, 0);
    for (int i = 0; i < p->n_row; i++) {
        push_row(L, &p->row[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushnumber(L, seconds);
    return 2;
}

static int profile_close(lua_State *L) { // __gc too; may run twice
    dopl_profile **box = check_box(L), *p = *box;
    *box = NULL;
    dopl_profile_free(dopl_check_rt(L), p);
    return 0;
}

// core.profile(): opens the one profile there can be
static int profile_new(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_profile **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, PROFILE);
    if (rt->profile) lua_gc(L, LUA_GCCOLLECT); // one that was lost rather than closed
    return dopl_result(L, rt, dopl_profile_open(rt, box), 1);
}

void dopl_bind_profile(lua_State *L) {
    static const luaL_Reg methods[] = { { "read", profile_read },
                                        { "close", profile_close },
                                        { NULL, NULL } };
    dopl_new_type(L, PROFILE, profile_close, NULL, methods);
    lua_pop(L, 1);
    lua_pushcfunction(L, profile_new);
    lua_setfield(L, -2, "profile");
}

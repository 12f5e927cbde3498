// state.h - what the tensor, operator and tape bindings keep for one Lua state.
#ifndef DOPL_BIND_STATE_H
#define DOPL_BIND_STATE_H

#include "bind.h"

// A tensor userdata. Boxes made while a scope is open are on that scope's list.
typedef struct dopl_box {
    dopl_tensor t;
    struct dopl_scope *scope; // NULL: none; the collector frees it
    struct dopl_box *previous, *next;
} dopl_box;

typedef struct dopl_scope {
    dopl_box *first;
    struct dopl_scope *outer;
    bool open;
} dopl_scope;

typedef struct {
    dopl_rt rt;
    dopl_scope *scope;    // innermost open one
    size_t live_at_sweep; // bytes alive after the last collection that memory asked for
    lua_State *walking;   // the thread whose backward is running: operators in Lua run on it
    lua_State *main;      // NULL once the state is closing
    bool collecting;      // in the middle of something that needs memory
} dopl_bind_state;

dopl_bind_state *dopl_state(lua_State *L);

// Raises in a finalizer that runs while the core is in the middle of something: of what that uses,
// it must release nothing, and add nothing.
void dopl_check_between(lua_State *L);

static inline dopl_bind_state *dopl_state_of(dopl_rt *rt) {
    return (dopl_bind_state *)rt; // rt is its first member
}

void dopl_box_leave(dopl_box *box);                   // takes the box off its scope's list
void dopl_box_join(dopl_box *box, dopl_scope *scope); // NULL: none

#endif

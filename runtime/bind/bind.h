// bind.h - what the binding files share: the runtime of a Lua state, boxes, raising.
//
// Order in every binding: check arguments; push empty boxes; call the core; raise or return.
// Between acquiring in C and storing in a box, no lua_* call that can raise.
#ifndef DOPL_BIND_BIND_H
#define DOPL_BIND_BIND_H

#include "../core/tensor.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>

// Every file that adds to the module "dopl.core", in the order they are opened. dopl_bind_<name> is
// called with the module's table on top of the stack and leaves the stack as it found it.
#define DOPL_BINDINGS(BIND)                                                                        \
    BIND(tensor)                                                                                   \
    BIND(op)                                                                                       \
    BIND(autograd)                                                                                 \
    BIND(runtime)                                                                                  \
    BIND(profile)                                                                                  \
    BIND(terminal)                                                                                 \
    BIND(io)                                                                                       \
    BIND(json)                                                                                     \
    BIND(safetensors)                                                                              \
    BIND(optim)                                                                                    \
    BIND(dist)                                                                                     \
    BIND(text)                                                                                     \
    BIND(options)

#define BIND(name) void dopl_bind_##name(lua_State *L);
DOPL_BINDINGS(BIND)
#undef BIND

int luaopen_dopl_core(lua_State *L);

dopl_rt *dopl_check_rt(lua_State *L); // the runtime of this state; never NULL after luaopen

// Raises rt->error, prefixed with the innermost line that is not in dopl's own Lua library.
int dopl_raise(lua_State *L, dopl_rt *rt);
// Raises with that same prefix: for argument checks whose text the binding makes itself.
int dopl_raise_text(lua_State *L, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A message that blames a line of dopl's Lua library, with the innermost line outside it instead:
// what the user can change. May push; the result lives as long as what is on the stack.
const char *dopl_blame_recipe(lua_State *L, const char *message);

// Returns from a binding: raises on failure, else `n` results.
static inline int dopl_result(lua_State *L, dopl_rt *rt, dopl_status status, int n) {
    return status == DOPL_OK ? n : dopl_raise(L, rt);
}

// Registers the metatable `name` and pushes it. `gc` and `close` become __gc and __close, `methods`
// __index; each may be NULL. It is out of every recipe's reach: a finalizer put there would run in
// the middle of the core.
void dopl_new_type(lua_State *L, const char *name, lua_CFunction gc, lua_CFunction close,
                   const luaL_Reg *methods);

// Replaces the table at `index` by a copy that nothing else can reach. What C counts and then uses,
// or points into, while memory is allocated is such a copy: a finalizer may run at any allocation,
// and change a table that it knows.
void dopl_own_table(lua_State *L, int index);

// Pushes an empty, collectable tensor box; the core fills it. It joins the innermost open scope.
dopl_tensor *dopl_push_tensor(lua_State *L);
dopl_tensor *dopl_check_tensor(lua_State *L, int arg); // raises on another type or a released box
dopl_tensor *dopl_test_tensor(lua_State *L, int arg);  // NULL where it is no live tensor
// Numbers just made in host memory move to where the runtime puts numbers.
void dopl_settle_tensor(lua_State *L, dopl_tensor *t);
// The elements in host memory: the tensor itself, or a copy in a new box on top of the stack.
const dopl_tensor *dopl_host_tensor(lua_State *L, const dopl_tensor *t);

// --- lua_terminal.c ---

// Writes text that a person reads, control characters spelled out.
void dopl_put_text(FILE *to, const char *text, size_t n);
int dopl_lua_print(lua_State *L); // Lua's print, over dopl_put_text

#endif

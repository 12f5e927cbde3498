// lua_autograd.c - backward, scopes, no_grad, and operators written in Lua.
#include "state.h"
#include "../core/tape.h"

#include <stdio.h>
#include <string.h>

#define SCOPE "dopl.scope"
#define NO_GRAD "dopl.no_grad"

// ---- backward

// t:backward(seed): adds the gradients of t (times seed) to the parameters it came from
static int tape_backward(lua_State *L) {
    dopl_bind_state *s = dopl_state(L);
    dopl_tensor *root = dopl_check_tensor(L, 1);
    dopl_tensor *seed = lua_isnoneornil(L, 2) ? NULL : dopl_check_tensor(L, 2);
    lua_State *outer = s->walking;
    s->walking = L;
    dopl_status status = dopl_tape_backward(&s->rt, root, seed);
    s->walking = outer;
    return dopl_result(L, &s->rt, status, 0);
}

// ---- the end of a scope

static void close_scope(dopl_bind_state *s, dopl_scope *scope, bool free_boxes) {
    if (!scope->open) return;
    while (s->scope != scope) close_scope(s, s->scope, free_boxes); // inner ones first
    s->scope = scope->outer;
    scope->open = false;
    while (scope->first) {
        dopl_box *box = scope->first;
        dopl_box_join(box, free_boxes ? NULL : scope->outer);
        if (free_boxes) dopl_tensor_release(&s->rt, &box->t);
    }
    if (free_boxes) dopl_tape_prune(&s->rt);
}

// ---- operators in Lua

typedef struct {
    int function; // in the registry
    char name[44];
} lua_operator;

static void drop_operator(dopl_rt *rt, void *extra) {
    lua_operator *op = extra;
    lua_State *L = dopl_state_of(rt)->main;
    if (L) luaL_unref(L, LUA_REGISTRYINDEX, op->function);
    dopl_rt_free(rt, op);
}

// Protected: calls the function of the node at index 1 with dout, the output and the inputs, adds
// what it returns.
static int run_function(lua_State *L) {
    dopl_node *n = lua_touserdata(L, 1);
    dopl_rt *rt = dopl_check_rt(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ((lua_operator *)n->extra)->function);
    dopl_tensor_detach(dopl_push_tensor(L), &n->dout);
    dopl_tensor_detach(dopl_push_tensor(L), &n->out);
    for (int i = 0; i < n->n_in; i++) dopl_tensor_detach(dopl_push_tensor(L), &n->in[i]);
    lua_call(L, 2 + n->n_in, n->n_in);
    for (int i = 0; i < n->n_in; i++) {
        int at = 2 + i;
        if (!dopl_grad_wants(n, i) || lua_isnil(L, at)) continue;
        dopl_tensor *g = dopl_check_tensor(L, at);
        bool fits = g->dtype == DOPL_F32 || (g->device != DOPL_CPU && g->dtype == n->in[i].dtype);
        if (!dopl_shape_same(g, &n->in[i]) || !fits || g->device != n->in[i].device)
            return dopl_raise_text(L, "%s: backward gave %s %s for input %d, needs f32 %s%s",
                                   n->name, dopl_dtype_name(g->dtype), dopl_shape_str(g).s, i + 1,
                                   dopl_shape_str(&n->in[i]).s,
                                   g->device == n->in[i].device ? "" : " on the input's device");
        if (dopl_grad_share(rt, n, i, g) != DOPL_OK) return dopl_raise(L, rt);
    }
    return 0;
}

// The function may record and walk a tape of its own (checkpoint does), so it gets a fresh one, and
// a scope of its own: what it makes ends with it.
static dopl_status function_backward(dopl_rt *rt, dopl_node *n) {
    dopl_bind_state *s = dopl_state_of(rt);
    lua_State *L = s->walking;
    if (!lua_checkstack(L, 8)) return dopl_fail(rt, DOPL_ENOMEM, "%s: Lua stack", n->name);
    dopl_tape *outer = rt->tape;
    dopl_tape *own;
    DOPL_TRY(dopl_tape_new(rt, &own));
    rt->tape = own;
    dopl_scope scope = { .outer = s->scope, .open = true };
    s->scope = &scope;
    int top = lua_gettop(L);
    lua_pushcfunction(L, run_function);
    lua_pushlightuserdata(L, n);
    dopl_status status = DOPL_OK;
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        const char *text = lua_tostring(L, -1);
        status = rt->stop ? DOPL_ESTOP : DOPL_EARG;
        if (text != rt->error)
            (void)dopl_fail(rt, status, "%s", text ? text : "error in a backward");
    }
    lua_settop(L, top);
    close_scope(s, &scope, true);
    dopl_tape_free(rt, own);
    rt->tape = outer;
    return status;
}

// core.record(name, out, inputs, backward): out, computed from the array of inputs by any means,
// gets a place in the graph. backward(dout, out, inputs...) returns one gradient (or nil) an input;
// the tape keeps out and the inputs for it, as it does for operators of the core. Returns out.
static int tape_record(lua_State *L) {
    dopl_bind_state *s = dopl_state(L);
    dopl_rt *rt = &s->rt;
    luaL_checkstring(L, 1);
    dopl_tensor *out = dopl_check_tensor(L, 2);
    luaL_checktype(L, 3, LUA_TTABLE);
    luaL_checktype(L, 4, LUA_TFUNCTION);
    lua_Integer n_in = (lua_Integer)lua_rawlen(L, 3);
    if (n_in < 1 || n_in > DOPL_MAX_IN)
        return dopl_raise_text(L, "%s: %d inputs, needs 1 to %d", lua_tostring(L, 1), (int)n_in,
                               DOPL_MAX_IN);
    if (out->var)
        return dopl_raise_text(L,
                               "%s: the result is in the graph already; compute it under "
                               "no_grad",
                               lua_tostring(L, 1));
    dopl_tensor *in[DOPL_MAX_IN];
    bool wanted = false;
    for (int i = 0; i < n_in; i++) {
        lua_rawgeti(L, 3, i + 1); // raw: no code runs between the checks and their use
        in[i] = dopl_check_tensor(L, -1);
        wanted |= in[i]->var != NULL;
    }
    lua_pushvalue(L, 2);
    if (!wanted || !rt->grad_enabled) return 1;
    dopl_node *n;
    if (dopl_node_new(rt, &n, (int)n_in) != DOPL_OK) return dopl_raise(L, rt);
    lua_operator *op = NULL;
    dopl_status status = dopl_rt_alloc(rt, &n->extra, sizeof *op);
    if (status == DOPL_OK) {
        op = n->extra;
        op->function = LUA_NOREF;
        snprintf(op->name, sizeof op->name, "%s", lua_tostring(L, 1));
        n->name = op->name;
        n->backward = function_backward;
        n->release_extra = drop_operator;
        for (int i = 0; i < n_in; i++) dopl_tensor_share(&n->in[i], in[i]);
        status = dopl_var_new(rt, &out->var);
    }
    if (status == DOPL_OK) {
        dopl_tensor_share(&n->out, out);
        status = dopl_tape_record(rt, n);
    }
    if (status != DOPL_OK) {
        dopl_node_free(rt, n);
        dopl_var_drop(rt, out->var);
        out->var = NULL;
        return dopl_raise(L, rt);
    }
    lua_pushvalue(L, 4); // the node is the tape's by now: a failure here leaks nothing
    op->function = luaL_ref(L, LUA_REGISTRYINDEX);
    return 1;
}

// ---- no_grad

typedef struct {
    bool before, open;
} grad_switch;

static int no_grad_close(lua_State *L) {
    grad_switch *s = luaL_checkudata(L, 1, NO_GRAD);
    if (s->open) dopl_check_rt(L)->grad_enabled = s->before;
    s->open = false;
    return 0;
}

static int push_switch(lua_State *L, bool on) {
    dopl_rt *rt = dopl_check_rt(L);
    grad_switch *s = lua_newuserdatauv(L, sizeof *s, 0);
    *s = (grad_switch){ .before = rt->grad_enabled, .open = true };
    luaL_setmetatable(L, NO_GRAD);
    rt->grad_enabled = on;
    return 1;
}

// local _ <close> = dopl.no_grad(): operators record nothing until the end of the block
static int no_grad(lua_State *L) {
    return push_switch(L, false);
}

// local _ <close> = core.with_grad(): the opposite, for a recomputation inside no_grad
static int with_grad(lua_State *L) {
    return push_switch(L, true);
}

// ---- scopes

static int scope_close(lua_State *L) {
    dopl_check_between(L);
    close_scope(dopl_state(L), luaL_checkudata(L, 1, SCOPE), true);
    return 0;
}

// A scope that was lost rather than closed hands its tensors to the one around it.
static int scope_gc(lua_State *L) {
    close_scope(dopl_state(L), luaL_checkudata(L, 1, SCOPE), false);
    return 0;
}

// scope:keep(t, ...): takes tensors out of the scope, into the one around it; returns them
static int scope_keep(lua_State *L) {
    dopl_scope *scope = luaL_checkudata(L, 1, SCOPE);
    for (int i = 2; i <= lua_gettop(L); i++) {
        if (lua_isnil(L, i)) continue;
        dopl_box *box = (dopl_box *)dopl_check_tensor(L, i); // the tensor is its first member
        if (box->scope == scope) dopl_box_join(box, scope->outer);
    }
    return lua_gettop(L) - 1;
}

// local scope <close> = dopl.scope(): tensors made until the end of the block are freed there
static int scope_new(lua_State *L) {
    dopl_bind_state *s = dopl_state(L);
    dopl_check_between(L);
    dopl_scope *scope = lua_newuserdatauv(L, sizeof *scope, 0);
    *scope = (dopl_scope){ .outer = s->scope, .open = true };
    luaL_setmetatable(L, SCOPE);
    s->scope = scope;
    return 1;
}

// core.tape_size(): nodes recorded and not yet walked
static int tape_size(lua_State *L) {
    lua_pushinteger(L, dopl_tape_size(dopl_check_rt(L)->tape));
    return 1;
}

// core.grad_enabled(): whether operators record
static int grad_enabled(lua_State *L) {
    lua_pushboolean(L, dopl_check_rt(L)->grad_enabled);
    return 1;
}

static const luaL_Reg functions[] = {
    { "backward", tape_backward },    { "record", tape_record }, { "no_grad", no_grad },
    { "with_grad", with_grad },       { "scope", scope_new },    { "tape_size", tape_size },
    { "grad_enabled", grad_enabled }, { "close", scope_close },  { NULL, NULL },
};

void dopl_bind_autograd(lua_State *L) {
    luaL_setfuncs(L, functions, 0);
    luaL_getmetatable(L, "dopl.tensor");
    lua_getfield(L, -1, "__index");
    lua_pushcfunction(L, tape_backward);
    lua_setfield(L, -2, "backward");
    lua_pop(L, 2);
    static const luaL_Reg scope_methods[] = { { "keep", scope_keep },
                                              { "close", scope_close },
                                              { NULL, NULL } };
    dopl_new_type(L, NO_GRAD, no_grad_close, no_grad_close, NULL);
    dopl_new_type(L, SCOPE, scope_gc, scope_close, scope_methods);
    lua_pop(L, 2);
}

// lua_op.c - every row of ops.def as a Lua function, a method of tensors, and a line of help.
//
// Arguments are the row's inputs, then its attributes, in order; an attribute with a default and an
// optional input may be left out (nil).
#include "state.h"
#include "../op/op.h"

#include <stdlib.h>
#include <string.h>

#define TENSOR "dopl.tensor"

// Reads one `name:type[=value]` of an attribute list. Returns what follows it.
typedef struct {
    char name[24];
    char type;         // 'i' or 'f'
    const char *value; // of the default, NULL: none
} attribute;

static const char *next_attribute(const char *s, attribute *a) {
    while (*s == ' ') s++;
    const char *colon = strchr(s, ':');
    if (!colon) return NULL;
    size_t n = (size_t)(colon - s);
    if (n >= sizeof a->name) n = sizeof a->name - 1;
    memcpy(a->name, s, n);
    a->name[n] = 0;
    a->type = colon[1];
    a->value = colon[2] == '=' ? colon + 3 : NULL;
    const char *end = strchr(colon, ' ');
    return end ? end : colon + strlen(colon);
}

static void read_attribute(lua_State *L, const dopl_op *op, int arg, const attribute *a,
                           dopl_attr *out) {
    if (lua_isnoneornil(L, arg)) {
        if (!a->value) dopl_raise_text(L, "%s: %s is missing", op->name, a->name);
        if (a->type == 'i')
            out->i = strtoll(a->value, NULL, 10);
        else
            out->f = strtod(a->value, NULL);
        return;
    }
    int ok = 0;
    if (lua_type(L, arg) == LUA_TNUMBER) {
        if (a->type == 'i')
            out->i = lua_tointegerx(L, arg, &ok);
        else
            out->f = lua_tonumberx(L, arg, &ok);
    }
    if (!ok) {
        luaL_tolstring(L, arg, NULL);
        dopl_raise_text(L, "%s: %s is %.60s, needs %s", op->name, a->name, lua_tostring(L, -1),
                        a->type == 'i' ? "an integer" : "a number");
    }
}

static void read_inputs(lua_State *L, const dopl_op *op, dopl_op_call *c) {
    for (const char *in = op->in; *in; in++, c->n_in++) {
        int arg = c->n_in + 1;
        bool optional = in[1] == '?';
        in += optional;
        if (optional && lua_isnoneornil(L, arg)) continue;
        c->in[c->n_in] = dopl_test_tensor(L, arg);
        if (c->in[c->n_in]) continue;
        if (luaL_testudata(L, arg, TENSOR))
            dopl_raise_text(L,
                            "%s: input %d has been released (by its scope, or by hand); "
                            "scope:keep(t) takes a tensor out of a scope",
                            op->name, arg);
        dopl_raise_text(L, "%s: input %d is a %s, needs a tensor", op->name, arg,
                        luaL_typename(L, arg));
    }
}

// Runs an operator into the empty box c->out, on top of the stack.
static int apply(lua_State *L, dopl_op_id id, dopl_op_call *c) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_op_apply(rt, id, c), 1);
}

static int call_op(lua_State *L) {
    dopl_op_id id = (dopl_op_id)lua_tointeger(L, lua_upvalueindex(1));
    const dopl_op *op = &dopl_op_table[id];
    dopl_op_call c = { 0 };
    read_inputs(L, op, &c); // may raise: nothing is held yet
    int n_attr = 0, n_arg = lua_gettop(L);
    attribute a;
    for (const char *s = op->attrs; (s = next_attribute(s, &a)); n_attr++)
        read_attribute(L, op, c.n_in + n_attr + 1, &a, &c.attr[n_attr]);
    if (n_arg > c.n_in + n_attr)
        return dopl_raise_text(L, "%s: %d arguments, takes %d", op->name, n_arg, c.n_in + n_attr);
    c.out = dopl_push_tensor(L);
    return apply(L, id, &c);
}

// ---- arithmetic between tensors and numbers

// Calls operator `id` on one tensor and a number.
static int with_number(lua_State *L, dopl_op_id id, int tensor, double k) {
    dopl_op_call c = { .n_in = 1, .in = { dopl_check_tensor(L, tensor) }, .attr = { { .f = k } } };
    c.out = dopl_push_tensor(L);
    return apply(L, id, &c);
}

static int with_tensor(lua_State *L, dopl_op_id id) {
    dopl_op_call c = { .n_in = 2, .in = { dopl_check_tensor(L, 1), dopl_check_tensor(L, 2) } };
    c.out = dopl_push_tensor(L);
    return apply(L, id, &c);
}

static int tensor_add(lua_State *L) {
    if (lua_isnumber(L, 2)) return with_number(L, DOPL_OP_shift, 1, lua_tonumber(L, 2));
    if (lua_isnumber(L, 1)) return with_number(L, DOPL_OP_shift, 2, lua_tonumber(L, 1));
    return with_tensor(L, DOPL_OP_add);
}

static int tensor_mul(lua_State *L) {
    if (lua_isnumber(L, 2)) return with_number(L, DOPL_OP_scale, 1, lua_tonumber(L, 2));
    if (lua_isnumber(L, 1)) return with_number(L, DOPL_OP_scale, 2, lua_tonumber(L, 1));
    return with_tensor(L, DOPL_OP_mul);
}

static int tensor_unm(lua_State *L) {
    return with_number(L, DOPL_OP_scale, 1, -1.0);
}

static int tensor_sub(lua_State *L) {
    if (lua_isnumber(L, 2)) return with_number(L, DOPL_OP_shift, 1, -lua_tonumber(L, 2));
    if (!lua_isnumber(L, 1)) return with_tensor(L, DOPL_OP_sub);
    double k = lua_tonumber(L, 1);
    with_number(L, DOPL_OP_scale, 2, -1.0);
    return with_number(L, DOPL_OP_shift, lua_gettop(L), k);
}

static int tensor_div(lua_State *L) {
    if (lua_isnumber(L, 2)) return with_number(L, DOPL_OP_scale, 1, 1.0 / lua_tonumber(L, 2));
    if (!lua_isnumber(L, 1)) return with_tensor(L, DOPL_OP_div);
    // k / x with k a scalar tensor, which stretches
    dopl_tensor *k = dopl_push_tensor(L);
    dopl_rt *rt = dopl_check_rt(L);
    const dopl_tensor *x = dopl_check_tensor(L, 2);
    if (dopl_tensor_new_on(rt, k, x->device, x->dtype, 0, NULL) != DOPL_OK ||
        dopl_tensor_fill(rt, k, lua_tonumber(L, 1)) != DOPL_OK)
        return dopl_raise(L, rt);
    lua_replace(L, 1);
    return with_tensor(L, DOPL_OP_div);
}

static const luaL_Reg arithmetic[] = {
    { "__add", tensor_add }, { "__sub", tensor_sub }, { "__mul", tensor_mul },
    { "__div", tensor_div }, { "__unm", tensor_unm }, { NULL, NULL },
};

// Pushes the row as data: the specs walk these, dopl.help prints them.
static void push_row(lua_State *L, const dopl_op *op) {
    lua_createtable(L, 0, 6);
    lua_pushstring(L, op->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, op->in);
    lua_setfield(L, -2, "inputs");
    lua_pushstring(L, op->attrs);
    lua_setfield(L, -2, "attributes");
    lua_pushstring(L, op->doc);
    lua_setfield(L, -2, "doc");
    lua_pushboolean(L, op->backward != NULL);
    lua_setfield(L, -2, "differentiable");
}

void dopl_bind_op(lua_State *L) {
    luaL_getmetatable(L, TENSOR);
    luaL_setfuncs(L, arithmetic, 0);
    lua_getfield(L, -1, "__index");
    lua_createtable(L, 0, DOPL_OP_COUNT); // core.ops: name -> function
    lua_createtable(L, DOPL_OP_COUNT, 0); // core.op_rows: in the order of ops.def
    for (int id = 0; id < DOPL_OP_COUNT; id++) {
        const dopl_op *op = &dopl_op_table[id];
        lua_pushinteger(L, id);
        lua_pushcclosure(L, call_op, 1);
        lua_pushvalue(L, -1);
        lua_setfield(L, -5, op->name); // method
        lua_setfield(L, -3, op->name);
        push_row(L, op);
        lua_rawseti(L, -2, id + 1);
    }
    lua_setfield(L, -5, "op_rows");
    lua_setfield(L, -4, "ops");
    lua_pop(L, 2);
}

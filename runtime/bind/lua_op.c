// lua_op.c - every row of ops.def as a Lua function, a method of tensors, and data for help and
// specs.
//
// Arguments are the row's inputs, then its attributes, in order; a last table has attributes by
// name. An attribute with a default and an optional input may be left out (nil). An operator of a
// list takes its tensors one by one, or in a table.
#include "state.h"
#include "../op/op.h"

#include <string.h>

#define TENSOR "dopl.tensor"

// ---- attributes

static void put_number(dopl_attrs *out, const dopl_op_attr *a, double value) {
    memcpy(out->bytes + a->offset, &value, sizeof value);
}

static void put_integer(dopl_attrs *out, const dopl_op_attr *a, int64_t value) {
    int enumerator = (int)value;
    if (a->kind == DOPL_ATTR_NAME)
        memcpy(out->bytes + a->offset, &enumerator, sizeof enumerator);
    else
        memcpy(out->bytes + a->offset, &value, sizeof value);
}

static void put_default(dopl_attrs *out, const dopl_op_attr *a) {
    if (a->kind == DOPL_ATTR_NUMBER)
        put_number(out, a, a->number);
    else
        put_integer(out, a, (int64_t)a->number);
}

// "an integer", "a number", "tanh or erf": pushed, so that it lives as long as the message needs
// it.
static const char *push_needs(lua_State *L, const dopl_op_attr *a) {
    if (a->kind != DOPL_ATTR_NAME)
        return lua_pushstring(L, a->kind == DOPL_ATTR_INTEGER ? "an integer" : "a number");
    lua_pushstring(L, a->names[0]);
    for (int i = 1; a->names[i]; i++) {
        lua_pushstring(L, a->names[i + 1] ? ", " : " or ");
        lua_pushstring(L, a->names[i]);
        lua_concat(L, 3);
    }
    return lua_tostring(L, -1);
}

// Reads the value at `index` of the stack.
static void read_attribute(lua_State *L, const dopl_op *op, int index, const dopl_op_attr *a,
                           dopl_attrs *out) {
    int type = lua_type(L, index), ok = 0;
    if (a->kind == DOPL_ATTR_NAME && type == LUA_TSTRING) {
        const char *given = lua_tostring(L, index);
        for (int i = 0; a->names[i] && !ok; i++) {
            ok = strcmp(a->names[i], given) == 0;
            if (ok) put_integer(out, a, i);
        }
    } else if (a->kind == DOPL_ATTR_INTEGER && type == LUA_TNUMBER) {
        put_integer(out, a, lua_tointegerx(L, index, &ok));
    } else if (a->kind == DOPL_ATTR_NUMBER && type == LUA_TNUMBER) {
        put_number(out, a, lua_tonumberx(L, index, &ok));
    }
    if (ok) return;
    const char *given = luaL_tolstring(L, index, NULL);
    dopl_raise_text(L, "%s: %s is %.60s, needs %s", op->name, a->name, given, push_needs(L, a));
}

static void refuse_option(lua_State *L, const dopl_op *op, int key) {
    luaL_Buffer names;
    luaL_buffinit(L, &names);
    for (const dopl_op_attr *a = op->attrs(); a->name; a++) {
        luaL_addstring(&names, a->name);
        if (a[1].name) luaL_addstring(&names, ", ");
    }
    luaL_pushresult(&names);
    const char *has = lua_tostring(L, -1);
    dopl_raise_text(L, "%s: no attribute '%.60s', has %s", op->name, luaL_tolstring(L, key, NULL),
                    has);
}

// Reads a table of attributes by name. Returns a bit for each that was there.
static unsigned read_options(lua_State *L, const dopl_op *op, int table, dopl_attrs *out) {
    unsigned given = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        int value = lua_gettop(L), key = value - 1, i = 0;
        const dopl_op_attr *a = op->attrs();
        const char *name = lua_type(L, key) == LUA_TSTRING ? lua_tostring(L, key) : "";
        while (a[i].name && strcmp(a[i].name, name) != 0) i++;
        if (!a[i].name) refuse_option(L, op, key);
        read_attribute(L, op, value, &a[i], out);
        given |= 1u << i;
    }
    return given;
}

// Reads the arguments from `first` on, `last` at most, and the table `options`, 0: there is none.
static void read_attributes(lua_State *L, const dopl_op *op, int first, int last, int options,
                            dopl_attrs *out) {
    unsigned given = options ? read_options(L, op, options, out) : 0;
    int arg = first;
    for (const dopl_op_attr *a = op->attrs(); a->name; a++, arg++, given >>= 1) {
        bool by_position = arg <= last && !lua_isnil(L, arg);
        if (by_position && given & 1)
            dopl_raise_text(L, "%s: %s is given twice, by position and by name", op->name, a->name);
        if (by_position)
            read_attribute(L, op, arg, a, out);
        else if (!(given & 1) && !a->optional)
            dopl_raise_text(L, "%s: %s is missing", op->name, a->name);
        else if (!(given & 1))
            put_default(out, a);
    }
    if (last >= arg)
        dopl_raise_text(L, "%s: %d arguments, takes %d", op->name, last + (options != 0), arg - 1);
}

// ---- inputs

static const dopl_tensor *read_input(lua_State *L, const dopl_op *op, int index, int i) {
    const dopl_tensor *t = dopl_test_tensor(L, index);
    if (t) return t;
    if (luaL_testudata(L, index, TENSOR))
        dopl_raise_text(L,
                        "%s: input %d has been released (by its scope, or by hand); "
                        "scope:keep(t) takes a tensor out of a scope",
                        op->name, i);
    dopl_raise_text(L, "%s: input %d is a %s, needs a tensor", op->name, i,
                    luaL_typename(L, index));
    return NULL;
}

// The tensors of an operator of a list: all arguments, or the elements of the first, a table. They
// lie on the stack, which keeps them whatever becomes of the table. Returns the argument after
// them.
static int read_list(lua_State *L, const dopl_op *op, int last, dopl_op_call *c,
                     const dopl_tensor **room) {
    enum { MOST = 1 << 19 }; // half of what Lua's stack holds
    bool table = lua_istable(L, 1);
    lua_Integer n = table ? (lua_Integer)lua_rawlen(L, 1) : last > 0 ? last : 1;
    if (n < 1) dopl_raise_text(L, "%s: an empty list, needs at least one tensor", op->name);
    if (n > MOST) dopl_raise_text(L, "%s: %lld tensors, at most %d", op->name, (long long)n, MOST);
    luaL_checkstack(L, (int)n + 8, op->name);
    int first = table ? lua_gettop(L) + 1 : 1;
    for (lua_Integer i = 1; table && i <= n; i++) lua_rawgeti(L, 1, i);
    if (n > DOPL_MAX_IN) room = lua_newuserdatauv(L, (size_t)n * sizeof *room, 0);
    for (int i = 0; i < n; i++) room[i] = read_input(L, op, first + i, i + 1);
    c->in = room;
    c->n_in = (int)n;
    return table ? 2 : last + 1;
}

// Returns the argument after the inputs.
static int read_inputs(lua_State *L, const dopl_op *op, int last, dopl_op_call *c,
                       const dopl_tensor **room) {
    if (op->in->kind == DOPL_INPUT_LIST) return read_list(L, op, last, c, room);
    for (int i = 0; i < op->n_in; i++) {
        bool left_out = i + 1 > last || lua_isnil(L, i + 1);
        room[i] = left_out && op->in[i].optional ? NULL : read_input(L, op, i + 1, i + 1);
    }
    c->in = room;
    c->n_in = op->n_in;
    return op->n_in + 1;
}

// ---- the call

// Runs an operator into the empty box c->out, on top of the stack.
static int apply(lua_State *L, dopl_op_id id, dopl_op_call *c) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_op_apply(rt, id, c), 1);
}

// Whether argument `last` is a table of attributes: not one in the place of an input.
static bool has_options(lua_State *L, const dopl_op *op, int last) {
    int needed = 0;
    for (int i = 0; i < op->n_in; i++)
        if (!op->in[i].optional) needed = i + 1;
    return last > needed && lua_istable(L, last) && op->attrs()->name;
}

static int call_op(lua_State *L) {
    dopl_op_id id = (dopl_op_id)lua_tointeger(L, lua_upvalueindex(1));
    const dopl_op *op = &dopl_op_table[id];
    const dopl_tensor *room[DOPL_MAX_IN];
    dopl_op_call c = { 0 };
    int last = lua_gettop(L), options = 0;
    if (has_options(L, op, last)) options = last--;
    int next = read_inputs(L, op, last, &c, room); // may raise: nothing is held yet
    read_attributes(L, op, next, last, options, &c.attrs);
    c.out = dopl_push_tensor(L);
    return apply(L, id, &c);
}

// ---- arithmetic between tensors and numbers

// Calls `scale` or `shift` on one tensor and a number.
static int with_number(lua_State *L, dopl_op_id id, int tensor, double k) {
    const dopl_tensor *in[] = { dopl_check_tensor(L, tensor) };
    dopl_op_call c = { .n_in = 1, .in = in };
    if (id == DOPL_OP_scale)
        OP_ATTRS(scale, &c)->k = k;
    else
        OP_ATTRS(shift, &c)->k = k;
    c.out = dopl_push_tensor(L);
    return apply(L, id, &c);
}

static int with_tensor(lua_State *L, dopl_op_id id) {
    const dopl_tensor *in[] = { dopl_check_tensor(L, 1), dopl_check_tensor(L, 2) };
    dopl_op_call c = { .n_in = 2, .in = in };
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

// ---- the rows as data: the specs walk these, dopl.help prints them

static void set_string(lua_State *L, const char *key, const char *value) {
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
}

// { { name, kind, optional }, ... }
static void push_inputs(lua_State *L, const dopl_op *op) {
    static const char *const kinds[] = { "f32", "i32", "weight", "list" };
    lua_createtable(L, op->n_in, 0);
    for (int i = 0; i < op->n_in; i++) {
        lua_createtable(L, 0, 3);
        set_string(L, "name", op->in[i].name);
        set_string(L, "kind", kinds[op->in[i].kind]);
        lua_pushboolean(L, op->in[i].optional);
        lua_setfield(L, -2, "optional");
        lua_rawseti(L, -2, i + 1);
    }
}

static void push_default(lua_State *L, const dopl_op_attr *a) {
    if (a->kind == DOPL_ATTR_NUMBER)
        lua_pushnumber(L, a->number);
    else if (a->kind == DOPL_ATTR_INTEGER)
        lua_pushinteger(L, (lua_Integer)a->number);
    else
        lua_pushstring(L, a->names[(int)a->number]);
}

// { { name, kind, default = nil where it is needed, names = of an enumeration }, ... }
static void push_attributes(lua_State *L, const dopl_op *op) {
    static const char *const kinds[] = { "integer", "number", "name" };
    lua_newtable(L);
    int n = 0;
    for (const dopl_op_attr *a = op->attrs(); a->name; a++) {
        lua_createtable(L, 0, 4);
        set_string(L, "name", a->name);
        set_string(L, "kind", kinds[a->kind]);
        if (a->optional) {
            push_default(L, a);
            lua_setfield(L, -2, "default");
        }
        if (a->names) {
            lua_newtable(L);
            for (int i = 0; a->names[i]; i++) {
                lua_pushstring(L, a->names[i]);
                lua_rawseti(L, -2, i + 1);
            }
            lua_setfield(L, -2, "names");
        }
        lua_rawseti(L, -2, ++n);
    }
}

static void push_row(lua_State *L, const dopl_op *op) {
    lua_createtable(L, 0, 5);
    set_string(L, "name", op->name);
    push_inputs(L, op);
    lua_setfield(L, -2, "inputs");
    push_attributes(L, op);
    lua_setfield(L, -2, "attributes");
    set_string(L, "doc", op->doc);
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

// lua_tensor.c - tensors in Lua: constructors, methods, arithmetic.
//
// A tensor userdata is one reference to a tensor of the core. Arithmetic and every operator whose
// first input is a tensor are methods too (lua_op.c adds those).
//
// Tables are read raw: a metamethod would run a recipe's code while a tensor is half read, and that
// code may release tensors, or answer otherwise the second time.
#include "state.h"
#include "../core/device.h"
#include "../core/rng.h"

#include <math.h>
#include <string.h>

#define TENSOR "dopl.tensor"

// ---- boxes

void dopl_box_leave(dopl_box *box) {
    if (!box->scope) return;
    if (box->previous)
        box->previous->next = box->next;
    else
        box->scope->first = box->next;
    if (box->next) box->next->previous = box->previous;
    box->scope = NULL;
    box->previous = box->next = NULL;
}

void dopl_box_join(dopl_box *box, dopl_scope *scope) {
    dopl_box_leave(box);
    if (!scope) return;
    box->scope = scope;
    box->next = scope->first;
    if (scope->first) scope->first->previous = box;
    scope->first = box;
}

// The collector sees 100 bytes where there may be gigabytes: memory that grew to twice what the
// last sweep left asks for another one.
static void pace_collector(lua_State *L, dopl_bind_state *s) {
    enum { SLACK = 64 << 20 };
    size_t live = s->rt.bytes_live;
    for (int d = 1; d < DOPL_N_DEVICE; d++) live += s->rt.memory[d].live;
    if (live < 2 * s->live_at_sweep + SLACK) return;
    lua_gc(L, LUA_GCCOLLECT);
    live = s->rt.bytes_live;
    for (int d = 1; d < DOPL_N_DEVICE; d++) live += s->rt.memory[d].live;
    s->live_at_sweep = live;
}

dopl_tensor *dopl_push_tensor(lua_State *L) {
    dopl_bind_state *s = dopl_state(L);
    dopl_check_between(L);
    pace_collector(L, s);
    dopl_box *box = lua_newuserdatauv(L, sizeof *box, 0);
    memset(box, 0, sizeof *box);
    luaL_setmetatable(L, TENSOR);
    dopl_box_join(box, s->scope);
    return &box->t;
}

dopl_tensor *dopl_test_tensor(lua_State *L, int arg) {
    dopl_box *box = luaL_testudata(L, arg, TENSOR);
    return box && box->t.storage ? &box->t : NULL;
}

dopl_tensor *dopl_check_tensor(lua_State *L, int arg) {
    dopl_check_between(L);
    dopl_box *box = luaL_testudata(L, arg, TENSOR);
    if (!box) {
        luaL_tolstring(L, arg, NULL);
        dopl_raise_text(L, "argument %d: a tensor is needed, got %s %.60s", arg,
                        luaL_typename(L, arg), lua_tostring(L, -1));
    }
    if (!box->t.storage)
        dopl_raise_text(L,
                        "argument %d: the tensor has been released (by its scope, or by hand); "
                        "scope:keep(t) takes a tensor out of a scope",
                        arg);
    return &box->t;
}

// __gc; may run twice, or on an empty box
static int tensor_release(lua_State *L) {
    dopl_box *box = luaL_checkudata(L, 1, TENSOR);
    dopl_box_leave(box);
    dopl_tensor_release(dopl_check_rt(L), &box->t);
    return 0;
}

static int tensor_close(lua_State *L) {
    dopl_check_between(L);
    return tensor_release(L);
}

// ---- constructors

// Reads dimensions from arguments `first` on, or from one table there. Returns their number.
static int read_dims(lua_State *L, int first, int64_t *dim) {
    int n = 0;
    if (lua_istable(L, first)) {
        lua_Integer len = (lua_Integer)lua_rawlen(L, first);
        if (len > DOPL_MAX_DIM) dopl_raise_text(L, "tensor: %d dimensions, at most 4", (int)len);
        for (; n < len; n++) {
            lua_rawgeti(L, first, n + 1);
            dim[n] = luaL_checkinteger(L, -1);
            lua_pop(L, 1);
        }
        return n;
    }
    for (int arg = first; arg <= lua_gettop(L); arg++) {
        if (n == DOPL_MAX_DIM) dopl_raise_text(L, "tensor: over 4 dimensions");
        dim[n++] = luaL_checkinteger(L, arg);
    }
    return n;
}

static int make(lua_State *L, dopl_tensor *out, dopl_device device, dopl_dtype dtype, int n_dim,
                const int64_t *dim) {
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_tensor_new_on(rt, out, device, dtype, n_dim, dim), 1);
}

void dopl_settle_tensor(lua_State *L, dopl_tensor *t) {
    dopl_rt *rt = dopl_check_rt(L);
    if (t->dtype == DOPL_I32 || t->device == rt->device) return;
    dopl_tensor moved = { 0 };
    if (dopl_tensor_to(rt, &moved, t, rt->device, t->dtype) != DOPL_OK) dopl_raise(L, rt);
    dopl_tensor_release(rt, t);
    *t = moved;
}

const dopl_tensor *dopl_host_tensor(lua_State *L, const dopl_tensor *t) {
    if (t->device == DOPL_CPU) return t;
    dopl_tensor *here = dopl_push_tensor(L);
    dopl_rt *rt = dopl_check_rt(L);
    if (dopl_tensor_to(rt, here, t, DOPL_CPU, t->dtype) != DOPL_OK) dopl_raise(L, rt);
    return here;
}

// dopl.zeros(d1, ...): an f32 tensor of zeros
static int tensor_zeros(lua_State *L) {
    int64_t dim[DOPL_MAX_DIM];
    int n = read_dims(L, 1, dim);
    dopl_tensor *t = dopl_push_tensor(L);
    dopl_rt *rt = dopl_check_rt(L);
    make(L, t, rt->device, DOPL_F32, n, dim);
    return dopl_result(L, rt, dopl_tensor_fill(rt, t, 0), 1);
}

// dopl.full(value, d1, ...)
static int tensor_full(lua_State *L) {
    double value = luaL_checknumber(L, 1);
    int64_t dim[DOPL_MAX_DIM];
    int n = read_dims(L, 2, dim);
    dopl_tensor *t = dopl_push_tensor(L);
    dopl_rt *rt = dopl_check_rt(L);
    make(L, t, rt->device, DOPL_F32, n, dim);
    return dopl_result(L, rt, dopl_tensor_fill(rt, t, value), 1);
}

// dopl.randn(seed, stream, std, d1, ...): normal numbers, a function of seed, stream and position
static int tensor_randn(lua_State *L) {
    uint64_t seed = (uint64_t)luaL_checkinteger(L, 1), stream = (uint64_t)luaL_checkinteger(L, 2);
    double std = luaL_checknumber(L, 3);
    int64_t dim[DOPL_MAX_DIM];
    int n_dim = read_dims(L, 4, dim);
    dopl_tensor *t = dopl_push_tensor(L);
    make(L, t, DOPL_CPU, DOPL_F32, n_dim, dim);
    int64_t n = dopl_tensor_numel(t);
    float *p = dopl_f32(t);
#pragma omp parallel for schedule(static) if (n > 4096)
    for (int64_t i = 0; i < n; i += 4) { // Box-Muller, two pairs from one block
        dopl_random r = dopl_philox(seed, stream, (uint64_t)i / 4);
        for (int64_t j = 0; j < 4 && i + j < n; j++) {
            double u = ((double)r.v[j & 2] + 0.5) * 0x1p-32, v = (double)r.v[(j & 2) + 1] * 0x1p-32;
            double radius = std * sqrt(-2.0 * log(u)), angle = 6.283185307179586 * v;
            p[i + j] = (float)(radius * (j & 1 ? sin(angle) : cos(angle)));
        }
    }
    dopl_settle_tensor(L, t);
    return 1;
}

// Walks nested tables: the shape along first elements.
static int nested_shape(lua_State *L, int arg, int64_t *dim) {
    int n = 0;
    lua_pushvalue(L, arg);
    while (lua_istable(L, -1)) {
        if (n == DOPL_MAX_DIM) dopl_raise_text(L, "tensor: tables nested over 4 deep");
        dim[n++] = (int64_t)lua_rawlen(L, -1);
        lua_rawgeti(L, -1, 1);
        lua_remove(L, -2);
        if (dim[n - 1] == 0) break;
    }
    lua_pop(L, 1);
    return n;
}

static void read_element(lua_State *L, dopl_tensor *t, int64_t at) {
    if (lua_type(L, -1) != LUA_TNUMBER)
        dopl_raise_text(L, "tensor: element %lld is a %s, needs a number", (long long)at + 1,
                        luaL_typename(L, -1));
    if (t->dtype == DOPL_F32) {
        dopl_f32(t)[at] = (float)lua_tonumber(L, -1);
        return;
    }
    int exact;
    lua_Integer v = lua_tointegerx(L, -1, &exact);
    if (!exact || v < INT32_MIN || v > INT32_MAX)
        dopl_raise_text(L, "i32: element %lld is %g, needs a 32-bit integer", (long long)at + 1,
                        (double)lua_tonumber(L, -1));
    dopl_i32(t)[at] = (int32_t)v;
}

// Reads the value on top of the stack into dimensions `level`... of t, from element `at` on.
static int64_t read_nested(lua_State *L, dopl_tensor *t, int level, int64_t at) {
    if (level == t->n_dim || level == DOPL_MAX_DIM) {
        read_element(L, t, at);
        return at + 1;
    }
    if (!lua_istable(L, -1) || (int64_t)lua_rawlen(L, -1) != t->dim[level])
        dopl_raise_text(L, "tensor: ragged table: %lld elements are needed at depth %d",
                        (long long)t->dim[level], level + 1);
    luaL_checkstack(L, 2, "tensor");
    for (int64_t i = 0; i < t->dim[level]; i++) {
        lua_rawgeti(L, -1, i + 1);
        at = read_nested(L, t, level + 1, at);
        lua_pop(L, 1);
    }
    return at;
}

static int from_table(lua_State *L, dopl_dtype dtype) {
    int64_t dim[DOPL_MAX_DIM];
    int n = nested_shape(L, 1, dim);
    dopl_tensor *t = dopl_push_tensor(L);
    make(L, t, DOPL_CPU, dtype, n, dim);
    lua_pushvalue(L, 1);
    read_nested(L, t, 0, 0);
    lua_pop(L, 1);
    dopl_settle_tensor(L, t);
    return 1;
}

// dopl.tensor(number or nested tables): an f32 tensor
static int tensor_f32(lua_State *L) {
    return from_table(L, DOPL_F32);
}

// dopl.i32(number or nested tables): an i32 tensor, for indices, offsets and labels
static int tensor_i32(lua_State *L) {
    return from_table(L, DOPL_I32);
}

// ---- reading

static void push_element(lua_State *L, const dopl_tensor *t, int64_t i) {
    switch (t->dtype) {
    case DOPL_F32:
        lua_pushnumber(L, (lua_Number)dopl_f32(t)[i]);
        return;
    case DOPL_I32:
        lua_pushinteger(L, dopl_i32(t)[i]);
        return;
    case DOPL_U8:
        lua_pushinteger(L, dopl_u8(t)[i]);
        return;
    default: { // bf16: the upper half of an f32
        uint32_t bits = (uint32_t)((uint16_t *)dopl_data(t))[i] << 16;
        float f;
        memcpy(&f, &bits, sizeof f);
        lua_pushnumber(L, (lua_Number)f);
    }
    }
}

// t:item(): the one element, as a number
static int tensor_item(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    if (dopl_tensor_numel(t) != 1)
        return dopl_raise_text(L, "item: a tensor of shape %s, needs one element",
                               dopl_shape_str(t).s);
    push_element(L, dopl_host_tensor(L, t), 0);
    return 1;
}

static int64_t push_nested(lua_State *L, const dopl_tensor *t, int level, int64_t at) {
    if (level == t->n_dim || level == DOPL_MAX_DIM) {
        push_element(L, t, at);
        return at + 1;
    }
    luaL_checkstack(L, 2, "tolist");
    lua_createtable(L, (int)t->dim[level], 0);
    for (int64_t i = 0; i < t->dim[level]; i++) {
        at = push_nested(L, t, level + 1, at);
        lua_rawseti(L, -2, i + 1);
    }
    return at;
}

// t:tolist(): nested tables (a number for a scalar)
static int tensor_tolist(lua_State *L) {
    push_nested(L, dopl_host_tensor(L, dopl_check_tensor(L, 1)), 0, 0);
    return 1;
}

// t:at(i): element i (1-based) of the flattened tensor
static int tensor_at(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    lua_Integer i = luaL_checkinteger(L, 2);
    if (i < 1 || i > dopl_tensor_numel(t))
        return dopl_raise_text(L, "at: element %lld of %lld", (long long)i,
                               (long long)dopl_tensor_numel(t));
    dopl_tensor one = *t; // borrowed: a window of one element
    one.n_dim = 0;
    one.offset += (i - 1) * (int64_t)dopl_dtype_bytes(t->dtype);
    push_element(L, dopl_host_tensor(L, &one), 0);
    return 1;
}

// t:shape(): an array of dimensions; t:shape(i): one of them, negative from the end
static int tensor_shape(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    if (!lua_isnoneornil(L, 2)) {
        lua_Integer i = luaL_checkinteger(L, 2);
        if (i < 0) i += t->n_dim + 1;
        if (i < 1 || i > t->n_dim)
            return dopl_raise_text(L, "shape: dimension %lld of %s", (long long)lua_tointeger(L, 2),
                                   dopl_shape_str(t).s);
        lua_pushinteger(L, t->dim[i - 1]);
        return 1;
    }
    lua_createtable(L, t->n_dim, 0);
    for (int i = 0; i < t->n_dim; i++) {
        lua_pushinteger(L, t->dim[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int tensor_numel(lua_State *L) {
    lua_pushinteger(L, dopl_tensor_numel(dopl_check_tensor(L, 1)));
    return 1;
}

static int tensor_len(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    lua_pushinteger(L, t->n_dim ? t->dim[0] : 0);
    return 1;
}

static int tensor_dtype(lua_State *L) {
    lua_pushstring(L, dopl_dtype_name(dopl_check_tensor(L, 1)->dtype));
    return 1;
}

// t:device(): "cpu" or "cuda"
static int tensor_device(lua_State *L) {
    lua_pushstring(L, dopl_device_name(dopl_check_tensor(L, 1)->device));
    return 1;
}

static int tensor_bytes(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    lua_pushinteger(L, dopl_tensor_numel(t) * (lua_Integer)dopl_dtype_bytes(t->dtype));
    return 1;
}

// t:finite(): whether no element is NaN or infinite
static int tensor_finite(lua_State *L) {
    const dopl_tensor *t = dopl_host_tensor(L, dopl_check_tensor(L, 1));
    int64_t n = dopl_tensor_numel(t);
    bool finite = true;
    for (int64_t i = 0; t->dtype == DOPL_F32 && finite && i < n; i++)
        finite = isfinite(dopl_f32(t)[i]);
    for (int64_t i = 0; t->dtype == DOPL_BF16 && finite && i < n; i++)
        finite = (dopl_bf16(t)[i] & 0x7f80) != 0x7f80; // an exponent of ones: NaN or infinite
    lua_pushboolean(L, finite);
    return 1;
}

// t:dot(u): the inner product of two f32 tensors of one shape, summed in double precision over a
// fixed division of the elements: the number of threads does not show
static int tensor_dot(lua_State *L) {
    enum { PARTS = 64 };
    dopl_tensor *t = dopl_check_tensor(L, 1), *u = dopl_check_tensor(L, 2);
    if (t->dtype != DOPL_F32 || u->dtype != DOPL_F32 || !dopl_shape_same(t, u))
        return dopl_raise_text(L, "dot: %s %s and %s %s, needs two f32 of one shape",
                               dopl_dtype_name(t->dtype), dopl_shape_str(t).s,
                               dopl_dtype_name(u->dtype), dopl_shape_str(u).s);
    if (t->device != u->device)
        return dopl_raise_text(L, "dot: one tensor is on %s, the other on %s",
                               dopl_device_name(t->device), dopl_device_name(u->device));
    if (t->device != DOPL_CPU) {
        dopl_rt *rt = dopl_check_rt(L);
        double product;
        if (rt->backend->dot(rt, &product, t, u) != DOPL_OK) return dopl_raise(L, rt);
        lua_pushnumber(L, product);
        return 1;
    }
    const float *a = dopl_f32(t), *b = dopl_f32(u);
    int64_t n = dopl_tensor_numel(t);
    double part[PARTS];
#pragma omp parallel for schedule(static) if (n > 16384)
    for (int k = 0; k < PARTS; k++) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = n * k / PARTS; i < n * (k + 1) / PARTS; i++) sum += (double)a[i] * b[i];
        part[k] = sum;
    }
    double sum = 0;
    for (int k = 0; k < PARTS; k++) sum += part[k];
    lua_pushnumber(L, sum);
    return 1;
}

// core.is_tensor(value): whether it is a tensor that has not been released
static int is_tensor(lua_State *L) {
    lua_pushboolean(L, dopl_test_tensor(L, 1) != NULL);
    return 1;
}

// Pushes a function of dopl's Lua library.
static void push_library(lua_State *L, const char *module, const char *name) {
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    lua_call(L, 1, 1);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
}

static int inspect(lua_State *L) { // (tensor) -> text, by dopl.inspect
    push_library(L, "dopl.util.inspect", "tensor");
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

// What print shows: type, shape and values. Without dopl.inspect (memory has run out, say) no
// values.
static int tensor_tostring(lua_State *L) {
    dopl_box *box = luaL_checkudata(L, 1, TENSOR);
    if (!box->t.storage) {
        lua_pushliteral(L, "tensor (released)");
        return 1;
    }
    lua_pushcfunction(L, inspect);
    lua_pushvalue(L, 1);
    int status = lua_pcall(L, 1, 1, 0);
    if (status == LUA_OK && lua_type(L, -1) == LUA_TSTRING) return 1;
    if (dopl_check_rt(L)->stop) return lua_error(L);
    lua_pushfstring(L, "tensor %s %s", dopl_dtype_name(box->t.dtype), dopl_shape_str(&box->t).s);
    return 1;
}

// ---- writing

// t:fill(value): in place
static int tensor_fill(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_tensor *t = dopl_check_tensor(L, 1);
    lua_settop(L, 2);
    dopl_status s = dopl_tensor_fill(rt, t, luaL_checknumber(L, 2));
    lua_settop(L, 1);
    return dopl_result(L, rt, s, 1);
}

// t:copy(from): overwrites the elements in place with those of a tensor of the same shape, from any
// device; f32 and bf16 convert, other types must be equal
static int tensor_copy(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_tensor *t = dopl_check_tensor(L, 1), *from = dopl_check_tensor(L, 2);
    lua_settop(L, 1);
    return dopl_result(L, rt, dopl_tensor_copy(rt, t, from), 1);
}

// t:to(where): a copy on a device ("cpu", "cuda") or of a type ("f32", "bf16"), through which
// gradients flow; t itself where it is so already. Indices stay in host memory.
static int tensor_to(lua_State *L) {
    static const char *const targets[] = { "cpu", "cuda", "f32", "bf16", NULL };
    dopl_rt *rt = dopl_check_rt(L);
    const dopl_tensor *t = dopl_check_tensor(L, 1);
    int target = luaL_checkoption(L, 2, NULL, targets);
    dopl_device device = target < 2 ? (dopl_device)target : t->device;
    dopl_dtype dtype = target == 2 ? DOPL_F32 : target == 3 ? DOPL_BF16 : t->dtype;
    lua_settop(L, 1);
    if (device == t->device && dtype == t->dtype) return 1;
    if (device == DOPL_GPU && !rt->backend)
        return dopl_raise_text(L, "to: no device cuda is in use: start with --device cuda");
    return dopl_result(L, rt, dopl_tape_to(rt, dopl_push_tensor(L), t, device, dtype), 1);
}

// t:clone(): a copy with memory of its own, through which gradients flow; t:detach():clone() is one
// outside the gradient graph
static int tensor_clone(lua_State *L) {
    const dopl_tensor *t = dopl_check_tensor(L, 1);
    dopl_tensor *out = dopl_push_tensor(L);
    dopl_rt *rt = dopl_check_rt(L);
    return dopl_result(L, rt, dopl_tape_to(rt, out, t, t->device, t->dtype), 1);
}

// t:detach(): the same memory, outside the gradient graph
static int tensor_detach(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    dopl_tensor_detach(dopl_push_tensor(L), t);
    return 1;
}

// ---- gradients

// t:requires_grad(true): makes t a parameter and returns it. Without argument: whether a gradient
// flows through t.
static int tensor_requires_grad(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_tensor *t = dopl_check_tensor(L, 1);
    if (lua_isnoneornil(L, 2)) {
        lua_pushboolean(L, t->var != NULL);
        return 1;
    }
    bool on = lua_toboolean(L, 2);
    lua_settop(L, 1);
    if (on) return dopl_result(L, rt, dopl_tensor_require_grad(rt, t), 1);
    dopl_var_drop(rt, t->var);
    t->var = NULL;
    return 1;
}

// t:grad(): the gradient as a tensor, or nil
static int tensor_grad(lua_State *L) {
    dopl_tensor *t = dopl_check_tensor(L, 1);
    if (!t->var || !t->var->grad.storage) return 0;
    dopl_tensor_detach(dopl_push_tensor(L), &t->var->grad);
    return 1;
}

// t:set_grad(g): replaces the gradient of a parameter; nil: forgets it
static int tensor_set_grad(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_tensor *t = dopl_check_tensor(L, 1);
    if (!t->var || !t->var->leaf)
        return dopl_raise_text(L,
                               "set_grad: the tensor is no parameter; t:requires_grad(true) of a "
                               "tensor that no operator made is one");
    dopl_tensor *g = lua_isnoneornil(L, 2) ? NULL : dopl_check_tensor(L, 2);
    if (g && (!dopl_shape_same(t, g) || g->dtype != DOPL_F32 || g->device != t->device))
        return dopl_raise_text(L, "set_grad: %s %s on %s, needs f32 %s on %s",
                               dopl_dtype_name(g->dtype), dopl_shape_str(g).s,
                               dopl_device_name(g->device), dopl_shape_str(t).s,
                               dopl_device_name(t->device));
    dopl_tensor fresh = { 0 };
    if (g) dopl_tensor_detach(&fresh, g);
    dopl_tensor_release(rt, &t->var->grad);
    t->var->grad = fresh;
    lua_settop(L, 1);
    return 1;
}

// ---- table

static const luaL_Reg methods[] = {
    { "close", tensor_close },
    { "item", tensor_item },
    { "tolist", tensor_tolist },
    { "at", tensor_at },
    { "shape", tensor_shape },
    { "numel", tensor_numel },
    { "dtype", tensor_dtype },
    { "device", tensor_device },
    { "bytes", tensor_bytes },
    { "finite", tensor_finite },
    { "dot", tensor_dot },
    { "fill", tensor_fill },
    { "copy", tensor_copy },
    { "to", tensor_to },
    { "clone", tensor_clone },
    { "detach", tensor_detach },
    { "requires_grad", tensor_requires_grad },
    { "grad", tensor_grad },
    { "set_grad", tensor_set_grad },
    { NULL, NULL },
};

static const luaL_Reg metamethods[] = {
    { "__gc", tensor_release },
    { "__close", tensor_close },
    { "__tostring", tensor_tostring },
    { "__len", tensor_len },
    { NULL, NULL },
};

static const luaL_Reg constructors[] = {
    { "tensor", tensor_f32 }, { "i32", tensor_i32 },     { "zeros", tensor_zeros },
    { "full", tensor_full },  { "randn", tensor_randn }, { "is_tensor", is_tensor },
    { NULL, NULL },
};

// nearest(methods, name) -> the method that may be meant | nil, by dopl.check
static int nearest(lua_State *L) {
    push_library(L, "dopl.util.check", "nearest");
    lua_pushvalue(L, 2);
    push_library(L, "dopl.util.check", "keys");
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    lua_call(L, 2, 1);
    return 1;
}

// What reading a field gives that is no method: an error, since all there is to read are methods.
static int no_method(lua_State *L) {
    if (lua_type(L, 2) != LUA_TSTRING)
        return dopl_raise_text(L, "tensor: [%s]: t:at(i) and t:tolist() give its values",
                               luaL_tolstring(L, 2, NULL));
    lua_pushcfunction(L, nearest);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    bool found = lua_pcall(L, 2, 1, 0) == LUA_OK; // else the hint is left out
    const char *near = found ? lua_tostring(L, -1) : NULL, *name = lua_tostring(L, 2);
    if (near) return dopl_raise_text(L, "tensor: no method '%s' (did you mean '%s'?)", name, near);
    return dopl_raise_text(L, "tensor: no method '%s'; dopl.help() lists operators", name);
}

void dopl_bind_tensor(lua_State *L) {
    if (luaL_newmetatable(L, TENSOR)) {
        luaL_setfuncs(L, metamethods, 0);
        luaL_newlib(L, methods);
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, no_method);
        lua_setfield(L, -2, "__index");
        lua_setmetatable(L, -2);
        lua_setfield(L, -2, "__index");
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable"); // getmetatable(t) tells nothing
    }
    lua_pop(L, 1);
    luaL_setfuncs(L, constructors, 0);
}

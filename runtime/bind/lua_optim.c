// lua_optim.c - core.optim: programs, plans and what states are stored as, for lua/dopl/optim.
//
//   program { instr = { { "lin2", y, a, b, c, k0, k1, k2 }, ... }, operands = { "f32", "q8", ... },
//             n_reg = , n_scalar = , has_grad = }         places and scalars count from 0
//   plan(programs, { { pass = 1, operands = { tensor | { codes, scales }, ... },
//                      streams = { integer, ... } }, ... })
//   plan:run({ { scalars of pass 1 }, ... }, seed, draw) -> jobs run
//   plan:rerun({ scalars of pass 1 }, times) -> elements gone over; within caches, for a bench
//   plan:norm() -> norm, gradients found
//   encode(tensor, "q8") -> codes, scales    decode(codes, scales, "q8") -> tensor
//   encode(tensor, "bf16") -> tensor, to the nearest; with (..., seed, stream, draw) stochastically
//   decode(tensor, nil, "bf16") -> tensor
//   state(n, "q8") -> what holds a state     isa(["avx2"]) -> the instruction set in use
//   transpose(matrix) -> its transpose       for transforms written in Lua
//   roofline({ tensors }, "ru")              one pass at the memory's own speed, for a bench
#include "state.h"
#include "../core/device.h"
#include "../optim/roofline.h"
#include "../optim/cuda_source.h"
#include "../optim/pass.h"
#include "../optim/transpose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAM "dopl.optim_program"
#define PLAN "dopl.optim_plan"

typedef struct {
    dopl_program *program;
    char *source; // as CUDA, once somebody asked
} program_box;

typedef struct {
    dopl_plan *plan;        // user value 1 is a table of the programs, 2 the memory of `scalars`
    const double **scalars; // [n_pass], of the run under way; made here, since a run makes nothing
} plan_box;

static int program_gc(lua_State *L) {
    program_box *box = luaL_checkudata(L, 1, PROGRAM);
    dopl_rt_free(dopl_check_rt(L), box->program);
    dopl_rt_free(dopl_check_rt(L), box->source);
    box->program = NULL;
    box->source = NULL;
    return 0;
}

static int plan_gc(lua_State *L) {
    plan_box *box = luaL_checkudata(L, 1, PLAN);
    dopl_plan_free(dopl_check_rt(L), box->plan);
    box->plan = NULL;
    return 0;
}

// plan:release(), before the collector would: not from a finalizer while the core works with it
static int plan_release(lua_State *L) {
    dopl_check_between(L);
    return plan_gc(L);
}

static plan_box *check_box(lua_State *L) {
    plan_box *box = luaL_checkudata(L, 1, PLAN);
    if (!box->plan) dopl_raise_text(L, "optimizer: this plan is released");
    return box;
}

static dopl_plan *check_plan(lua_State *L) {
    return check_box(L)->plan;
}

static int int_field(lua_State *L, int table, const char *name) {
    lua_getfield(L, table, name);
    lua_Integer n = luaL_checkinteger(L, -1);
    if (n < 0 || n > INT16_MAX)
        dopl_raise_text(L, "optimizer: %s = %lld, needs 0 to %d", name, (long long)n, INT16_MAX);
    lua_pop(L, 1);
    return (int)n;
}

// Item i of an instruction, a number from 0 to `most`; 0 where it is missing.
static int int_item(lua_State *L, int table, int i, int most) {
    lua_rawgeti(L, table, i);
    lua_Integer n = luaL_optinteger(L, -1, 0);
    if (n < 0 || n > most)
        dopl_raise_text(L, "optimizer program: item %d of an instruction is %lld, needs 0 to %d", i,
                        (long long)n, most);
    lua_pop(L, 1);
    return (int)n;
}

// The instruction table on top of the stack; pops it.
static void read_instr(lua_State *L, dopl_instr *out) {
    int t = lua_gettop(L);
    lua_rawgeti(L, t, 1);
    const char *name = luaL_checkstring(L, -1);
    int op = dopl_prim_find(name);
    if (op < 0) dopl_raise_text(L, "optimizer program: no primitive '%s'", name);
    lua_pop(L, 1);
    out->op = (uint8_t)op;
    out->y = (uint8_t)int_item(L, t, 2, UINT8_MAX);
    for (int j = 0; j < DOPL_MAX_INPUT; j++) out->in[j] = (uint8_t)int_item(L, t, 3 + j, UINT8_MAX);
    for (int j = 0; j < DOPL_MAX_SCALAR; j++)
        out->k[j] = (uint16_t)int_item(L, t, 3 + DOPL_MAX_INPUT + j, UINT16_MAX);
    lua_settop(L, t - 1);
}

static const char *const kinds[] = { "f32", "q8", "u8", "bf16", NULL }; // by dopl_operand_kind

static int program_new(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    dopl_rt *rt = dopl_check_rt(L);
    int n_reg = int_field(L, 1, "n_reg"), n_scalar = int_field(L, 1, "n_scalar");
    lua_getfield(L, 1, "has_grad");
    bool has_grad = lua_toboolean(L, -1);
    lua_getfield(L, 1, "instr");
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_getfield(L, 1, "operands");
    luaL_checktype(L, 4, LUA_TTABLE);
    int n_instr = (int)lua_rawlen(L, 3), n_operand = (int)lua_rawlen(L, 4);
    if (n_operand > DOPL_MAX_OPERAND)
        return dopl_raise_text(L, "optimizer program: %d operands, at most %d: fewer objectives",
                               n_operand, DOPL_MAX_OPERAND);
    program_box *box = lua_newuserdatauv(L, sizeof *box, 0);
    box->program = NULL;
    box->source = NULL;
    luaL_setmetatable(L, PROGRAM);
    dopl_status s = dopl_program_new(rt, &box->program, n_instr);
    if (s != DOPL_OK) return dopl_raise(L, rt);
    dopl_program *p = box->program; // owned by the box: reading may raise
    p->n_reg = n_reg;
    p->n_scalar = n_scalar;
    p->n_operand = n_operand;
    p->has_grad = has_grad;
    for (int i = 0; i < n_operand; i++) {
        lua_rawgeti(L, 4, i + 1);
        p->kind[i] = (uint8_t)luaL_checkoption(L, -1, NULL, kinds);
        lua_pop(L, 1);
    }
    for (int i = 0; i < n_instr; i++) {
        lua_rawgeti(L, 3, i + 1);
        luaL_checktype(L, -1, LUA_TTABLE);
        read_instr(L, &p->instr[i]);
    }
    return dopl_result(L, rt, dopl_program_check(rt, p), 1);
}

// An operand on top of the stack: a tensor, or { codes, scales }; false stands for the gradient.
static void read_operand(lua_State *L, dopl_operand *out) {
    if (lua_istable(L, -1)) {
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        dopl_tensor *codes = dopl_check_tensor(L, lua_gettop(L) - 1);
        dopl_tensor *scales = dopl_check_tensor(L, lua_gettop(L));
        dopl_tensor_share(&out->value, codes);
        dopl_tensor_share(&out->scales, scales);
        lua_pop(L, 2);
    } else if (!lua_isboolean(L, -1)) {
        dopl_tensor_share(&out->value, dopl_check_tensor(L, lua_gettop(L)));
    }
}

static void read_job(lua_State *L, dopl_rt *rt, dopl_plan *plan, int j) {
    int t = lua_gettop(L);
    int pass = int_field(L, t, "pass") - 1;
    if (pass < 0 || pass >= plan->n_pass)
        dopl_raise_text(L, "optimizer plan: no pass %d", pass + 1);
    int n = plan->pass[pass].program->n_operand;
    lua_getfield(L, t, "operands");
    luaL_checktype(L, -1, LUA_TTABLE);
    if ((int)lua_rawlen(L, -1) != n)
        dopl_raise_text(L, "optimizer plan: %d operands, the program has %d",
                        (int)lua_rawlen(L, -1), n);
    if (dopl_plan_set_job(rt, plan, j, pass) != DOPL_OK) dopl_raise(L, rt);
    lua_getfield(L, t, "streams");
    luaL_checktype(L, -1, LUA_TTABLE);
    for (int s = 0; s < n; s++) {
        dopl_operand *operand = &plan->job[j].operand[s];
        lua_rawgeti(L, t + 1, s + 1);
        read_operand(L, operand);
        lua_rawgeti(L, t + 2, s + 1);
        operand->stream = (uint64_t)luaL_checkinteger(L, -1);
        lua_pop(L, 2);
    }
    lua_settop(L, t - 1);
}

// program:cuda_source(): the pass as CUDA C++ (optim/cuda_source.h)
static int program_cuda_source(lua_State *L) {
    program_box *box = luaL_checkudata(L, 1, PROGRAM);
    dopl_rt *rt = dopl_check_rt(L);
    if (!box->source && dopl_program_cuda_source(rt, &box->source, box->program) != DOPL_OK)
        return dopl_raise(L, rt);
    lua_pushstring(L, box->source);
    return 1;
}

// Room for the numbers of a run, of all passes of the plan in the box on top of the stack.
static void make_room_for_scalars(lua_State *L, plan_box *box, int n_scalar) {
    const dopl_plan *plan = box->plan;
    size_t bytes = (size_t)plan->n_pass * sizeof(double *) + (size_t)n_scalar * sizeof(double);
    const double **pointers = lua_newuserdatauv(L, bytes, 0);
    double *number = (double *)(pointers + plan->n_pass);
    for (int p = 0; p < plan->n_pass; p++) {
        pointers[p] = number;
        number += plan->pass[p].program->n_scalar;
    }
    lua_setiuservalue(L, -2, 2);
    box->scalars = pointers;
}

// plan({ program, ... }, { job, ... }, name): the name is what a profile calls its runs
static int plan_new(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TTABLE);
    const char *name = luaL_optstring(L, 3, "optimizer");
    dopl_rt *rt = dopl_check_rt(L);
    int n_pass = (int)lua_rawlen(L, 1), n_job = (int)lua_rawlen(L, 2);
    plan_box *box = lua_newuserdatauv(L, sizeof *box, 2);
    *box = (plan_box){ 0 };
    luaL_setmetatable(L, PLAN);
    dopl_own_table(L, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    if (dopl_plan_new(rt, &box->plan, n_pass, n_job) != DOPL_OK) return dopl_raise(L, rt);
    snprintf(box->plan->name, sizeof box->plan->name, "%s", name);
    int n_scalar = 0;
    for (int p = 0; p < n_pass; p++) {
        lua_rawgeti(L, 1, p + 1);
        program_box *program = luaL_checkudata(L, -1, PROGRAM);
        if (dopl_plan_set_pass(rt, box->plan, p, program->program) != DOPL_OK)
            return dopl_raise(L, rt);
        n_scalar += program->program->n_scalar;
        lua_pop(L, 1);
    }
    make_room_for_scalars(L, box, n_scalar);
    for (int j = 0; j < n_job; j++) {
        lua_rawgeti(L, 2, j + 1);
        luaL_checktype(L, -1, LUA_TTABLE);
        read_job(L, rt, box->plan, j);
    }
    return dopl_result(L, rt, dopl_plan_seal(rt, box->plan), 1);
}

// The numbers of every pass, from the table at 2. Nothing is allocated: no finalizer can release
// the plan meanwhile.
static const double *const *read_scalars(lua_State *L, plan_box *box) {
    const dopl_plan *plan = box->plan;
    luaL_checktype(L, 2, LUA_TTABLE);
    for (int p = 0; p < plan->n_pass; p++) {
        double *k = (double *)box->scalars[p];
        lua_rawgeti(L, 2, p + 1);
        luaL_checktype(L, -1, LUA_TTABLE);
        for (int i = 0; i < plan->pass[p].program->n_scalar; i++) {
            lua_rawgeti(L, -1, i + 1);
            k[i] = luaL_checknumber(L, -1);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    return box->scalars;
}

static int plan_run(lua_State *L) {
    plan_box *box = check_box(L);
    dopl_plan *plan = box->plan;
    dopl_rt *rt = dopl_check_rt(L);
    plan->seed = (uint64_t)luaL_checkinteger(L, 3);
    plan->draw = (uint64_t)luaL_checkinteger(L, 4);
    int n_run = 0;
    if (dopl_plan_run(rt, plan, read_scalars(L, box), &n_run) != DOPL_OK) return dopl_raise(L, rt);
    lua_pushinteger(L, n_run);
    return 1;
}

// plan:rerun({ scalars }, times): arithmetic alone, for bench/optimizer.lua; what the states hold
// becomes meaningless
static int plan_rerun(lua_State *L) {
    plan_box *box = check_box(L);
    dopl_rt *rt = dopl_check_rt(L);
    int times = (int)luaL_checkinteger(L, 3);
    int64_t n_element = 0;
    if (dopl_plan_repeat(rt, box->plan, read_scalars(L, box), times, &n_element) != DOPL_OK)
        return dopl_raise(L, rt);
    lua_pushinteger(L, n_element);
    return 1;
}

static int plan_norm(lua_State *L) {
    dopl_plan *plan = check_plan(L);
    dopl_rt *rt = dopl_check_rt(L);
    double norm = 0;
    int n_found = 0;
    if (dopl_plan_norm(rt, plan, &norm, &n_found) != DOPL_OK) return dopl_raise(L, rt);
    lua_pushnumber(L, norm);
    lua_pushinteger(L, n_found);
    return 2;
}

// plan:device(): where its operands are
static int plan_device(lua_State *L) {
    lua_pushstring(L, dopl_device_name(check_plan(L)->device));
    return 1;
}

// plan:clip(max_norm): the next run clips gradients at this norm, which the device finds by itself
static int plan_clip(lua_State *L) {
    dopl_plan *plan = check_plan(L);
    dopl_rt *rt = dopl_check_rt(L);
    if (plan->device == DOPL_CPU)
        return dopl_raise_text(L, "optimizer plan: clip is for a device; use norm");
    return dopl_result(L, rt, dopl_plan_clip(rt, plan, luaL_checknumber(L, 2)), 0);
}

// plan:clip_norm(): the norm that plan:clip asked for
static int plan_clip_norm(lua_State *L) {
    dopl_plan *plan = check_plan(L);
    dopl_rt *rt = dopl_check_rt(L);
    double norm;
    if (plan->device == DOPL_CPU)
        return dopl_raise_text(L, "optimizer plan: clip_norm is for a device; use norm");
    if (rt->backend->plan_clip_norm(rt, plan, &norm) != DOPL_OK) return dopl_raise(L, rt);
    lua_pushnumber(L, norm);
    return 1;
}

// ---- what states are stored as, on its own

static const dopl_codec *codec_of(int kind) {
    return dopl_codec_get((dopl_codec_id)(kind - DOPL_OPERAND_Q8));
}

// Arguments 3 .. 5: seed, stream, draw; without them, to the nearest.
static int encode_bf16(lua_State *L, dopl_rt *rt, const dopl_tensor *x) {
    bool stochastic = !lua_isnoneornil(L, 3);
    dopl_rounding_key key = { { 0 } };
    if (stochastic)
        key = dopl_rounding_key_of((uint64_t)luaL_checkinteger(L, 3),
                                   (uint64_t)luaL_checkinteger(L, 4),
                                   (uint64_t)luaL_checkinteger(L, 5));
    const float *from = dopl_f32(dopl_host_tensor(L, x));
    dopl_tensor *y = dopl_push_tensor(L);
    if (dopl_tensor_new(rt, y, DOPL_BF16, x->n_dim, x->dim) != DOPL_OK) return dopl_raise(L, rt);
    const dopl_isa *isa = dopl_isa_get();
    uint16_t *to = dopl_bf16(y);
    for (int64_t i = 0, n = dopl_tensor_numel(x); i < n; i += DOPL_TILE) {
        int count = n - i < DOPL_TILE ? (int)(n - i) : DOPL_TILE;
        if (stochastic)
            isa->round_stochastic(to + i, from + i, count, key, (uint32_t)(i / DOPL_TILE));
        else
            isa->round_nearest(to + i, from + i, count);
    }
    dopl_settle_tensor(L, y);
    return 1;
}

static int decode_bf16(lua_State *L, dopl_rt *rt, const dopl_tensor *x) {
    if (x->dtype != DOPL_BF16) return dopl_raise_text(L, "optim.decode: need a bf16 tensor");
    dopl_tensor *y = dopl_push_tensor(L);
    if (dopl_tensor_new_on(rt, y, x->device, DOPL_F32, x->n_dim, x->dim) != DOPL_OK)
        return dopl_raise(L, rt);
    return dopl_result(L, rt, dopl_tensor_copy(rt, y, x), 1);
}

// The codec counts elements in an int.
static int64_t check_count(lua_State *L, const char *what, int64_t n) {
    if (n > INT32_MAX)
        dopl_raise_text(L, "optim.%s: %lld elements, at most %d at a time", what, (long long)n,
                        INT32_MAX);
    return n;
}

static int encode(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_tensor *x = dopl_check_tensor(L, 1);
    int kind = 1 + luaL_checkoption(L, 2, NULL, kinds + 1);
    if (x->dtype != DOPL_F32) return dopl_raise_text(L, "optim.encode: need an f32 tensor");
    if (kind == DOPL_OPERAND_BF16) return encode_bf16(L, rt, x);
    const dopl_codec *codec = codec_of(kind);
    dopl_tensor *codes = dopl_push_tensor(L), *scales = dopl_push_tensor(L);
    int results = lua_gettop(L) - 1;
    int64_t n = check_count(L, "encode", dopl_tensor_numel(x));
    int64_t blocks = (n + DOPL_CODEC_BLOCK - 1) / DOPL_CODEC_BLOCK;
    if (dopl_tensor_new(rt, codes, DOPL_U8, x->n_dim, x->dim) != DOPL_OK ||
        dopl_tensor_new(rt, scales, DOPL_F32, 1, &blocks) != DOPL_OK)
        return dopl_raise(L, rt);
    const float *from = dopl_f32(dopl_host_tensor(L, x));
    dopl_isa_get()->scale(dopl_f32(scales), from, (int)n);
    dopl_isa_get()->encode(codec, dopl_u8(codes), dopl_f32(scales), from, (int)n);
    lua_settop(L, results + 1);
    dopl_settle_tensor(L, codes);
    dopl_settle_tensor(L, scales);
    return 2;
}

static int decode(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    int kind = 1 + luaL_checkoption(L, 3, NULL, kinds + 1);
    dopl_tensor *codes = dopl_check_tensor(L, 1);
    if (kind == DOPL_OPERAND_BF16) return decode_bf16(L, rt, codes);
    dopl_tensor *scales = dopl_check_tensor(L, 2);
    const dopl_codec *codec = codec_of(kind);
    int64_t n = check_count(L, "decode", dopl_tensor_numel(codes));
    int64_t blocks = (n + DOPL_CODEC_BLOCK - 1) / DOPL_CODEC_BLOCK;
    if (codes->dtype != DOPL_U8 || scales->dtype != DOPL_F32 || dopl_tensor_numel(scales) != blocks)
        return dopl_raise_text(L, "optim.decode: need u8 codes and an f32 scale per %d of them",
                               DOPL_CODEC_BLOCK);
    const uint8_t *from = dopl_u8(dopl_host_tensor(L, codes));
    const float *scale = dopl_f32(dopl_host_tensor(L, scales));
    dopl_tensor *x = dopl_push_tensor(L);
    if (dopl_tensor_new(rt, x, DOPL_F32, codes->n_dim, codes->dim) != DOPL_OK)
        return dopl_raise(L, rt);
    dopl_isa_get()->decode(codec, dopl_f32(x), from, scale, (int)n);
    dopl_settle_tensor(L, x);
    return 1;
}

static int codec_table(lua_State *L) {
    int kind = 1 + luaL_checkoption(L, 1, NULL, kinds + 1);
    if (kind == DOPL_OPERAND_BF16) return dopl_raise_text(L, "optim.codec_table: bf16 has none");
    const dopl_codec *codec = codec_of(kind);
    lua_createtable(L, 256, 0);
    for (int c = 0; c < 256; c++) {
        lua_pushnumber(L, codec->value[c]);
        lua_rawseti(L, -2, c + 1);
    }
    return 1;
}

static dopl_status new_state(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int64_t n,
                             double value) {
    DOPL_TRY(dopl_tensor_make(rt, out, dtype, 1, &n));
    dopl_tensor_assign(rt, out, DOPL_MEMORY_STATE);
    return dopl_tensor_fill(rt, out, value);
}

// state(n, "f32"), state(n, "bf16") -> tensor of zeros; state(n, "q8") -> codes, scales that read
// as zeros. A state lives as long as its optimizer, so it joins no scope.
static int state(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    int64_t n = luaL_checkinteger(L, 1);
    int kind = luaL_checkoption(L, 2, NULL, kinds);
    if (n < 0 || n > INT64_MAX - DOPL_CODEC_BLOCK)
        return dopl_raise_text(L, "optim.state: %lld elements", (long long)n);
    dopl_tensor *value = dopl_push_tensor(L);
    dopl_box_leave((dopl_box *)value);
    if (kind == DOPL_OPERAND_F32 || kind == DOPL_OPERAND_BF16) {
        dopl_dtype dtype = kind == DOPL_OPERAND_F32 ? DOPL_F32 : DOPL_BF16;
        if (new_state(rt, value, dtype, n, 0) != DOPL_OK) return dopl_raise(L, rt);
        return 1;
    }
    dopl_tensor *scales = dopl_push_tensor(L);
    dopl_box_leave((dopl_box *)scales);
    int64_t blocks = (n + DOPL_CODEC_BLOCK - 1) / DOPL_CODEC_BLOCK;
    if (new_state(rt, value, DOPL_U8, n, codec_of(kind)->zero_code) ||
        new_state(rt, scales, DOPL_F32, blocks, 0))
        return dopl_raise(L, rt);
    return 2;
}

static int transpose(lua_State *L) {
    dopl_rt *rt = dopl_check_rt(L);
    dopl_tensor *x = dopl_check_tensor(L, 1);
    if (x->dtype != DOPL_F32 || x->n_dim != 2)
        return dopl_raise_text(L, "optim.transpose: %s %s, need an f32 matrix",
                               dopl_dtype_name(x->dtype), dopl_shape_str(x).s);
    dopl_tensor *y = dopl_push_tensor(L);
    int64_t turned[2] = { x->dim[1], x->dim[0] };
    if (dopl_tensor_new_on(rt, y, x->device, DOPL_F32, 2, turned) != DOPL_OK)
        return dopl_raise(L, rt);
    if (x->device != DOPL_CPU) return dopl_result(L, rt, rt->backend->transpose(rt, y, x), 1);
    dopl_transpose(dopl_f32(y), dopl_f32(x), x->dim[0], x->dim[1]);
    return 1;
}

// roofline({ tensor, ... }, "rwu"): one pass at the memory's own speed over tensors with as many
// elements; of each it says whether it is read, written or updated (both)
static int roofline(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    size_t count = 0;
    const char *how = luaL_checklstring(L, 2, &count);
    dopl_stream stream[DOPL_ROOFLINE_STREAMS];
    int64_t n = -1;
    if (count < 1 || count > DOPL_ROOFLINE_STREAMS || lua_rawlen(L, 1) != count)
        return dopl_raise_text(L, "optim.roofline: %d tensors and %d letters, need 1 to %d of each",
                               (int)lua_rawlen(L, 1), (int)count, DOPL_ROOFLINE_STREAMS);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        dopl_tensor *t = dopl_check_tensor(L, lua_gettop(L));
        if (n < 0) n = dopl_tensor_numel(t);
        if (dopl_tensor_numel(t) != n || t->device != DOPL_CPU || t->offset % (int)sizeof(uint32_t))
            return dopl_raise_text(L, "optim.roofline: need tensors of one size on the CPU that "
                                      "begin at whole words");
        if (how[i] != 'r') dopl_tensor_will_change(dopl_check_rt(L), t);
        stream[i] = (dopl_stream){ .data = (char *)dopl_data(t),
                                   .bytes = (int)dopl_dtype_bytes(t->dtype),
                                   .read = how[i] != 'w',
                                   .written = how[i] != 'r' };
        lua_pop(L, 1);
    }
    dopl_roofline_pass(dopl_check_rt(L), stream, (int)count, n);
    return 0;
}

// isa() -> the instruction set in use; isa("avx2") asks for one first, isa("") for the best there
// is. The wish is the environment variable DOPL_ISA, as a user would set it.
static int isa(lua_State *L) {
    const char *wish = luaL_optstring(L, 1, NULL);
    if (wish && *wish)
        setenv("DOPL_ISA", wish, 1);
    else if (wish)
        unsetenv("DOPL_ISA");
    lua_pushstring(L, dopl_isa_get()->name);
    return 1;
}

static void push_primitives(lua_State *L) {
    lua_newtable(L);
    for (int i = 0; i < DOPL_N_PRIM; i++) {
        const dopl_prim *p = &dopl_prim_table[i];
        lua_createtable(L, 0, 3);
        lua_pushinteger(L, p->n_tile);
        lua_setfield(L, -2, "tiles");
        lua_pushinteger(L, p->n_scalar);
        lua_setfield(L, -2, "scalars");
        lua_pushstring(L, p->text);
        lua_setfield(L, -2, "text");
        lua_setfield(L, -2, p->name);
    }
}

void dopl_bind_optim(lua_State *L) {
    static const luaL_Reg functions[] = {
        { "program", program_new },
        { "plan", plan_new },
        { "encode", encode },
        { "decode", decode },
        { "state", state },
        { "roofline", roofline },
        { "codec_table", codec_table },
        { "isa", isa },
        { "transpose", transpose },
        { NULL, NULL },
    };
    static const luaL_Reg program_methods[] = {
        { "cuda_source", program_cuda_source },
        { NULL, NULL },
    };
    static const luaL_Reg plan_methods[] = {
        { "run", plan_run },         { "rerun", plan_rerun }, { "norm", plan_norm },
        { "device", plan_device },   { "clip", plan_clip },   { "clip_norm", plan_clip_norm },
        { "release", plan_release }, { NULL, NULL },
    };
    dopl_new_type(L, PROGRAM, program_gc, NULL, program_methods);
    dopl_new_type(L, PLAN, plan_gc, NULL, plan_methods);
    lua_pop(L, 2);
    luaL_newlib(L, functions);
    push_primitives(L);
    lua_setfield(L, -2, "primitives");
    lua_setfield(L, -2, "optim");
}

// pass.c - the tile interpreter.
//
// For each tile of 256 elements every instruction of the program runs in turn, so whatever one
// writes the next finds in L1, and each byte of theta, gradient and states crosses the memory bus
// once. Threads take chunks of CHUNK tiles from a common counter: chunks are long enough for the
// hardware's prefetchers, short enough that a slow core holds nobody up.
#include "pass.h"
#include "../core/device.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 64, NORM_CHUNK = 16384 };

_Static_assert(DOPL_TILE % DOPL_CODEC_BLOCK == 0, "a tile starts at a block of the codec");

static int64_t ceil_div(int64_t n, int64_t d) {
    return (n + d - 1) / d;
}

// ---- setting up

dopl_status dopl_plan_new(dopl_rt *rt, dopl_plan **out, int n_pass, int n_job) {
    dopl_plan *plan;
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&plan, sizeof *plan));
    dopl_status s =
        dopl_rt_alloc_zero(rt, (void **)&plan->pass, sizeof *plan->pass * (size_t)n_pass);
    if (s == DOPL_OK)
        s = dopl_rt_alloc_zero(rt, (void **)&plan->job, sizeof *plan->job * (size_t)n_job);
    if (s != DOPL_OK) {
        dopl_plan_free(rt, plan);
        return s;
    }
    plan->n_pass = n_pass;
    plan->n_job = n_job;
    *out = plan;
    return DOPL_OK;
}

void dopl_plan_free(dopl_rt *rt, dopl_plan *plan) {
    if (!plan) return;
    if (plan->backend_data) rt->backend->plan_release(rt, plan);
    for (int j = 0; j < plan->n_job; j++) {
        dopl_job *job = &plan->job[j];
        if (!job->operand) continue;
        for (int s = 0; s < job->n_operand; s++) {
            dopl_tensor_release(rt, &job->operand[s].value);
            dopl_tensor_release(rt, &job->operand[s].scales);
        }
        dopl_rt_free(rt, job->operand);
    }
    for (int p = 0; p < plan->n_pass; p++) dopl_rt_free(rt, plan->pass[p].k);
    dopl_rt_free(rt, plan->partial);
    dopl_rt_free(rt, plan->job);
    dopl_rt_free(rt, plan->pass);
    dopl_rt_free(rt, plan);
}

dopl_status dopl_plan_set_pass(dopl_rt *rt, dopl_plan *plan, int pass,
                               const dopl_program *program) {
    plan->pass[pass].program = program;
    return dopl_rt_alloc_zero(rt, (void **)&plan->pass[pass].k,
                              sizeof *plan->pass[pass].k * (size_t)program->n_instr);
}

dopl_status dopl_plan_set_job(dopl_rt *rt, dopl_plan *plan, int job, int pass) {
    dopl_job *j = &plan->job[job];
    j->pass = pass;
    j->n_operand = plan->pass[pass].program->n_operand;
    return dopl_rt_alloc_zero(rt, (void **)&j->operand, sizeof *j->operand * (size_t)j->n_operand);
}

static dopl_status check_operand(dopl_rt *rt, const dopl_operand *o, dopl_operand_kind kind,
                                 dopl_device device, int64_t n) {
    static const dopl_dtype stored[] = { [DOPL_OPERAND_F32] = DOPL_F32,
                                         [DOPL_OPERAND_Q8] = DOPL_U8,
                                         [DOPL_OPERAND_U8] = DOPL_U8,
                                         [DOPL_OPERAND_BF16] = DOPL_BF16 };
    bool packed = stored[kind] == DOPL_U8;
    if (o->value.storage && (o->value.device != device || (packed && o->scales.device != device)))
        return dopl_fail(rt, DOPL_EDEVICE, "optimizer: a state is on %s, its parameter on %s",
                         dopl_device_name(o->value.device), dopl_device_name(device));
    if (!o->value.storage || o->value.dtype != stored[kind] || dopl_tensor_numel(&o->value) != n)
        return dopl_fail(rt, DOPL_ESHAPE, "optimizer: a state is %s %s, need %lld elements of %s",
                         dopl_dtype_name(o->value.dtype), dopl_shape_str(&o->value).s, (long long)n,
                         dopl_dtype_name(stored[kind]));
    if (packed && (!o->scales.storage || o->scales.dtype != DOPL_F32 ||
                   dopl_tensor_numel(&o->scales) != ceil_div(n, DOPL_CODEC_BLOCK)))
        return dopl_fail(rt, DOPL_ESHAPE, "optimizer: scales are %s, need f32, one per %d elements",
                         dopl_shape_str(&o->scales).s, DOPL_CODEC_BLOCK);
    return DOPL_OK;
}

dopl_status dopl_plan_seal(dopl_rt *rt, dopl_plan *plan) {
    if (plan->n_job) plan->device = plan->job[0].operand[0].value.device;
    for (int j = 0; j < plan->n_job; j++) {
        dopl_job *job = &plan->job[j];
        const dopl_program *p = plan->pass[job->pass].program;
        job->n = dopl_tensor_numel(&job->operand[0].value);
        for (int s = 0; s < p->n_operand; s++)
            if (!(p->has_grad && s == 1))
                DOPL_TRY(check_operand(rt, &job->operand[s], p->kind[s], plan->device, job->n));
        plan->n_partial += ceil_div(job->n, NORM_CHUNK);
    }
    return dopl_rt_alloc_zero(rt, (void **)&plan->partial,
                              sizeof(double) * (size_t)plan->n_partial);
}

// ---- running

// Where operand i lies in the next tile, for instruction i to ask for while it computes. Where
// there is no such operand: something that is in the cache already.
static const float *next_tile(const dopl_program *p, const dopl_job *job, int i, int64_t next,
                              const float *near) {
    if (i >= p->n_operand || p->kind[i] != DOPL_OPERAND_F32 || !p->touched[i]) return near;
    return (const float *)job->data[i] + next;
}

// The same for what no primitive asks for: codes, bf16, and any operand whose turn falls on an
// instruction that packs or unpacks.
static void look_ahead(const dopl_program *p, const dopl_job *job, int i, int64_t next) {
    if (!p->touched[i]) return;
    int bytes = dopl_operand_bytes(p->kind[i]);
    const char *from = job->data[i] + next * bytes;
    for (int at = 0; at < DOPL_TILE * bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
}

typedef float tile[DOPL_TILE] __attribute__((aligned(64)));

// Operand s at the tile that starts at `first`.
static void *tile_at(const dopl_program *p, const dopl_job *job, int s, int64_t first) {
    return job->data[s] + first * dopl_operand_bytes(p->kind[s]);
}

static void load(const dopl_isa *isa, const dopl_program *p, const dopl_job *job, int s,
                 int64_t first, float *y, int n) {
    if (p->kind[s] == DOPL_OPERAND_BF16)
        isa->widen(y, tile_at(p, job, s, first), n);
    else
        isa->decode(dopl_codec_get(p->kind[s] - DOPL_OPERAND_Q8), y, tile_at(p, job, s, first),
                    job->scale[s] + first / DOPL_CODEC_BLOCK, n);
}

static void store(const dopl_isa *isa, const dopl_program *p, const dopl_job *job,
                  const dopl_instr *in, int64_t first, float *const *place, int n) {
    int s = in->y - p->n_reg;
    const float *x = place[in->in[0]];
    int64_t block = first / DOPL_CODEC_BLOCK;
    if (in->op == DOPL_PRIM_stochastic16) {
        isa->round_stochastic(tile_at(p, job, s, first), x, n, job->rounding_key[s],
                              (uint32_t)(first / DOPL_TILE));
    } else if (in->op == DOPL_PRIM_store16) {
        isa->round_nearest(tile_at(p, job, s, first), x, n);
    } else {
        if (in == p->instr || in[-1].op != DOPL_PRIM_store8) // the scales of all stores in a row
            for (const dopl_instr *to = in, *end = p->instr + p->n_instr;
                 to < end && to->op == DOPL_PRIM_store8; to++)
                isa->scale(job->scale[to->y - p->n_reg] + block, place[to->in[0]], n);
        isa->encode(dopl_codec_get(p->kind[s] - DOPL_OPERAND_Q8), tile_at(p, job, s, first),
                    job->scale[s] + block, x, n);
    }
}

static void run_tile(const dopl_isa *isa, const dopl_pass *pass, const dopl_job *job, int64_t first,
                     tile *reg) {
    const dopl_program *p = pass->program;
    float *place[DOPL_MAX_REG + DOPL_MAX_OPERAND];
    int n = job->n - first < DOPL_TILE ? (int)(job->n - first) : DOPL_TILE;
    for (int r = 0; r < p->n_reg; r++) place[r] = reg[r];
    for (int s = 0; s < p->n_operand; s++) place[p->n_reg + s] = tile_at(p, job, s, first);
    for (int i = 0; i < p->n_instr; i++) {
        const dopl_instr *in = &p->instr[i];
        bool computes = in->op < DOPL_PRIM_load8;
        if (i < p->n_operand && !(computes && p->kind[i] == DOPL_OPERAND_F32))
            look_ahead(p, job, i, first + n);
        if (computes) {
            float *read[DOPL_MAX_INPUT];
            for (int j = 0; j < DOPL_MAX_INPUT; j++) read[j] = place[in->in[j]];
            isa->prim[in->op](place[in->y], read, pass->k[i], n,
                              next_tile(p, job, i, first + n, place[in->y]));
        } else if (in->op == DOPL_PRIM_load8 || in->op == DOPL_PRIM_load16) {
            load(isa, p, job, in->in[0] - p->n_reg, first, place[in->y], n);
        } else {
            store(isa, p, job, in, first, place, n);
        }
    }
    for (int s = p->n_instr; s < p->n_operand; s++) look_ahead(p, job, s, first + n);
}

// The last job whose first tile is not after `tile_index`.
static int job_of(const dopl_plan *plan, int64_t tile_index) {
    int lo = 0, hi = plan->n_job - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (plan->job[mid].first_tile <= tile_index)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

static void run_chunk(const dopl_isa *isa, const dopl_plan *plan, int64_t begin, int64_t end,
                      tile *reg) {
    int j = job_of(plan, begin);
    for (int64_t t = begin; t < end; t++) {
        while (j + 1 < plan->n_job && plan->job[j + 1].first_tile <= t) j++;
        const dopl_job *job = &plan->job[j];
        run_tile(isa, &plan->pass[job->pass], job, (t - job->first_tile) * DOPL_TILE, reg);
    }
}

static void set_scalars(dopl_plan *plan, const double *const *scalars) {
    for (int p = 0; p < plan->n_pass; p++) {
        const dopl_program *program = plan->pass[p].program;
        for (int i = 0; i < program->n_instr; i++)
            for (int j = 0; j < dopl_prim_table[program->instr[i].op].n_scalar; j++)
                plan->pass[p].k[i][j] = (float)scalars[p][program->instr[i].k[j]];
    }
}

static void run(const dopl_rt *rt, dopl_plan *plan, const double *const *scalars, int *n_run) {
    int64_t n_tile = 0;
    *n_run = 0;
    for (int j = 0; j < plan->n_job; j++) {
        dopl_job *job = &plan->job[j];
        bool runs = dopl_plan_bind(plan, job);
        job->first_tile = n_tile; // a job left out has no tiles: the next starts at the same one
        if (runs) n_tile += ceil_div(job->n, DOPL_TILE);
        *n_run += runs;
    }
    set_scalars(plan, scalars);
    const dopl_isa *isa = dopl_isa_get();
    dopl_codec_get(DOPL_CODEC_Q8); // built by this thread
#pragma omp parallel num_threads(rt->n_threads) if (n_tile > CHUNK)
    {
        tile reg[DOPL_MAX_REG];
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < n_tile; t += CHUNK)
            run_chunk(isa, plan, t, t + CHUNK < n_tile ? t + CHUNK : n_tile, reg);
    }
}

// Parameters and states are about to change: a graph that has kept one of them is out of date.
static void will_change(dopl_rt *rt, const dopl_plan *plan) {
    for (int j = 0; j < plan->n_job; j++) {
        const dopl_job *job = &plan->job[j];
        const dopl_program *p = plan->pass[job->pass].program;
        for (int s = 0; s < p->n_operand; s++)
            if (p->written[s]) dopl_tensor_will_change(rt, &job->operand[s].value);
    }
}

dopl_status dopl_plan_run(dopl_rt *rt, dopl_plan *plan, const double *const *scalars, int *n_run) {
    will_change(rt, plan);
    int outer = dopl_range_enter(rt, plan->name, DOPL_PART_PASS, plan->device);
    dopl_status status = DOPL_OK;
    if (plan->device == DOPL_CPU)
        run(rt, plan, scalars, n_run);
    else
        status = rt->backend->plan_run(rt, plan, scalars, n_run);
    dopl_range_leave(rt, outer);
    return status;
}

dopl_status dopl_plan_repeat(dopl_rt *rt, dopl_plan *plan, const double *const *scalars, int times,
                             int64_t *n_element) {
    enum { TILES = 3 };
    dopl_job *job = plan->n_job ? &plan->job[0] : NULL;
    if (!job || plan->device != DOPL_CPU || !dopl_plan_bind(plan, job) ||
        job->n < TILES * DOPL_TILE)
        return dopl_fail(rt, DOPL_EARG,
                         "optimizer: only a parameter on the CPU, with a gradient and %d elements, "
                         "can be gone over again",
                         TILES * DOPL_TILE);
    will_change(rt, plan);
    set_scalars(plan, scalars);
    const dopl_isa *isa = dopl_isa_get();
    dopl_codec_get(DOPL_CODEC_Q8);
    tile reg[DOPL_MAX_REG];
    for (int i = 0; i < times; i++)
        for (int64_t t = 0; t < TILES; t++)
            run_tile(isa, &plan->pass[job->pass], job, t * DOPL_TILE, reg);
    *n_element = (int64_t)times * TILES * DOPL_TILE;
    return DOPL_OK;
}

// ---- the norm

// Eight sums side by side, joined in a fixed order.
static double sum_squares(const float *x, int64_t n) {
    double sum[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) sum[l] += (double)x[i + l] * x[i + l];
    for (; i < n; i++) sum[i & 7] += (double)x[i] * x[i];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

static void find_norm(const dopl_rt *rt, dopl_plan *plan, double *norm, int *n_found) {
    int64_t n_chunk = 0;
    *n_found = 0;
    for (int j = 0; j < plan->n_job; j++) { // first_tile serves as first chunk here
        dopl_job *job = &plan->job[j];
        bool found = dopl_job_grad(plan, job) && dopl_plan_bind(plan, job);
        job->first_tile = n_chunk;
        if (found) n_chunk += ceil_div(job->n, NORM_CHUNK);
        *n_found += found;
    }
#pragma omp parallel for num_threads(rt->n_threads) schedule(static) if (n_chunk > 4)
    for (int64_t c = 0; c < n_chunk; c++) {
        const dopl_job *job = &plan->job[job_of(plan, c)];
        int64_t at = (c - job->first_tile) * NORM_CHUNK;
        plan->partial[c] = sum_squares((const float *)job->data[1] + at,
                                       job->n - at < NORM_CHUNK ? job->n - at : NORM_CHUNK);
    }
    double sum = 0;
    for (int64_t c = 0; c < n_chunk; c++) sum += plan->partial[c];
    *norm = sqrt(sum);
}

static const char GRADIENT_NORM[] = "gradient norm";

dopl_status dopl_plan_norm(dopl_rt *rt, dopl_plan *plan, double *norm, int *n_found) {
    int outer = dopl_range_enter(rt, GRADIENT_NORM, DOPL_PART_PASS, plan->device);
    dopl_status status = DOPL_OK;
    if (plan->device == DOPL_CPU)
        find_norm(rt, plan, norm, n_found);
    else
        status = rt->backend->plan_norm(rt, plan, norm, n_found);
    dopl_range_leave(rt, outer);
    return status;
}

dopl_status dopl_plan_clip(dopl_rt *rt, dopl_plan *plan, double max_norm) {
    int outer = dopl_range_enter(rt, GRADIENT_NORM, DOPL_PART_PASS, plan->device);
    dopl_status status = rt->backend->plan_clip(rt, plan, max_norm);
    dopl_range_leave(rt, outer);
    return status;
}

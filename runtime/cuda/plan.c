// plan.c - optimizer passes on the device: where operands lie, launches, the norm of gradients.
//
// Each pass is one launch over all of its parameters. What changes from step to step is small: the
// table of addresses (sent only when it differs from the last one) and the scalars (a kernel
// argument). Nothing waits for the device, and what can fail comes before the first launch: a step
// is taken as a whole or not at all.
#include "cuda.h"
#include "../optim/cuda_source.h"
#include "../optim/pass.h"

#include <string.h>

typedef struct {
    void *function; // compiled at the first run
    int blocks;     // at a time on one multiprocessor
    int n_job;      // of this run
    int64_t n_tile;
    size_t first_word; // of its jobs in the table
} pass_state;

typedef struct {
    pass_state *pass;   // [n_pass]
    uint64_t *table;    // every pass's jobs, as the kernels read them
    uint64_t *sent;     // the table on the device
    uint64_t *last;     // what was sent there
    size_t table_words; // room of the three
    dopl_cuda_norm_part *parts, *parts_sent, *parts_last;
    double *partial; // on the device
    int64_t n_part, room_part;
    dopl_cuda_norm *norm; // on the device
    float *scalars;       // of the pass that is launched
    bool clips;           // the next run takes norm->factor
} plan_state;

static int64_t ceil_div(int64_t n, int64_t d) {
    return (n + d - 1) / d;
}

void dopl_cuda_plan_release(dopl_rt *rt, dopl_plan *plan) {
    plan_state *s = plan->backend_data;
    if (!s) return;
    plan->backend_data = NULL;
    dopl_cuda_free(rt, s->sent);
    dopl_cuda_free(rt, s->parts_sent);
    dopl_cuda_free(rt, s->partial);
    dopl_cuda_free(rt, s->norm);
    dopl_rt_free(rt, s->pass);
    dopl_rt_free(rt, s->table);
    dopl_rt_free(rt, s->last);
    dopl_rt_free(rt, s->parts);
    dopl_rt_free(rt, s->parts_last);
    dopl_rt_free(rt, s->scalars);
    dopl_rt_free(rt, s);
}

static dopl_status prepare(dopl_rt *rt, dopl_plan *plan, plan_state *s) {
    for (int j = 0; j < plan->n_job; j++) {
        const dopl_job *job = &plan->job[j];
        s->table_words += (size_t)dopl_cuda_job_words(plan->pass[job->pass].program);
        s->room_part += ceil_div(job->n, DOPL_CUDA_NORM_PART);
    }
    int n_scalar = 1;
    for (int p = 0; p < plan->n_pass; p++)
        if (plan->pass[p].program->n_scalar > n_scalar) n_scalar = plan->pass[p].program->n_scalar;
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s->scalars, sizeof *s->scalars * (size_t)n_scalar));
    size_t table_bytes = s->table_words * sizeof *s->table;
    size_t parts_bytes = (size_t)s->room_part * sizeof *s->parts;
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s->pass, sizeof *s->pass * (size_t)plan->n_pass));
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s->table, table_bytes));
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s->last, table_bytes));
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s->parts, parts_bytes));
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s->parts_last, parts_bytes));
    DOPL_TRY(dopl_cuda_alloc(rt, (void **)&s->sent, table_bytes));
    DOPL_TRY(dopl_cuda_alloc(rt, (void **)&s->parts_sent, parts_bytes));
    DOPL_TRY(dopl_cuda_alloc(rt, (void **)&s->partial, sizeof(double) * (size_t)s->room_part));
    return dopl_cuda_alloc(rt, (void **)&s->norm, sizeof *s->norm);
}

static dopl_status state_of(dopl_rt *rt, dopl_plan *plan, plan_state **out) {
    *out = plan->backend_data;
    if (*out) return DOPL_OK;
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof **out));
    plan->backend_data = *out = memory;
    dopl_status status = prepare(rt, plan, *out);
    if (status != DOPL_OK) dopl_cuda_plan_release(rt, plan);
    return status;
}

static dopl_status compile(dopl_rt *rt, const dopl_program *program, pass_state *s) {
    char *source;
    if (s->n_tile == 0 || s->function) return DOPL_OK;
    DOPL_TRY(dopl_program_cuda_source(rt, &source, program));
    dopl_status status = dopl_cuda_jit_get(rt, source, DOPL_CUDA_THREADS, &s->function, &s->blocks);
    dopl_rt_free(rt, source);
    return status;
}

// Whether 16-byte accesses to f32 operands, 8-byte ones to bf16 and 4-byte ones to codes may be
// made from every tile on: tiles are 256 elements apart, so the first address decides.
static bool is_aligned(const dopl_program *p, const dopl_job *job) {
    for (int s = 0; s < p->n_operand; s++) {
        size_t width = 4 * (size_t)dopl_operand_bytes(p->kind[s]);
        if (p->touched[s] && (uintptr_t)job->data[s] % width) return false;
    }
    return true;
}

static uint64_t *write_job(uint64_t *to, const dopl_program *p, const dopl_job *job,
                           int64_t first_tile) {
    int n = p->n_operand;
    to[0] = (uint64_t)job->n;
    to[1] = (uint64_t)first_tile;
    to[2] = is_aligned(p, job);
    to += DOPL_CUDA_JOB_HEAD;
    for (int s = 0; s < n; s++) {
        bool random = p->kind[s] == DOPL_OPERAND_BF16;
        to[s] = (uint64_t)(uintptr_t)job->data[s];
        to[n + s] = (uint64_t)(uintptr_t)job->scale[s];
        to[2 * n + s] =
            random ? job->rounding_key[s].v[0] | (uint64_t)job->rounding_key[s].v[1] << 32 : 0;
    }
    return to + 3 * n;
}

// Sends `bytes` of `now` unless they are what was sent last.
static dopl_status send(dopl_rt *rt, void *device, void *last, const void *now, size_t bytes) {
    if (bytes == 0 || memcmp(last, now, bytes) == 0) return DOPL_OK;
    DOPL_TRY(dopl_cuda_to_device(rt, device, now, bytes));
    memcpy(last, now, bytes);
    return DOPL_OK;
}

// The table of this run, pass by pass. Returns how many jobs have a gradient, or need none.
static int fill_table(dopl_plan *plan, plan_state *s) {
    uint64_t *to = s->table;
    int n_run = 0;
    for (int p = 0; p < plan->n_pass; p++) {
        pass_state *pass = &s->pass[p];
        pass->first_word = (size_t)(to - s->table);
        pass->n_job = 0;
        pass->n_tile = 0;
        for (int j = 0; j < plan->n_job; j++) {
            dopl_job *job = &plan->job[j];
            if (job->pass != p || job->n == 0 || !dopl_plan_bind(plan, job)) continue;
            to = write_job(to, plan->pass[p].program, job, pass->n_tile);
            pass->n_tile += ceil_div(job->n, DOPL_TILE);
            pass->n_job++;
        }
        n_run += pass->n_job;
    }
    return n_run;
}

static dopl_status launch(dopl_rt *rt, plan_state *s, pass_state *pass, const dopl_program *program,
                          const double *scalars) {
    enum { WARPS = DOPL_CUDA_THREADS / 32 };
    if (pass->n_tile == 0) return DOPL_OK;
    for (int i = 0; i < program->n_scalar; i++) s->scalars[i] = (float)scalars[i];
    int64_t wanted = ceil_div(pass->n_tile, WARPS);
    int64_t most = (int64_t)dopl_cuda_of(rt)->n_sm * pass->blocks;
    const uint64_t *jobs = s->sent + pass->first_word;
    const float *clip = s->clips ? &s->norm->factor : NULL;
    unsigned long long n_tile = (unsigned long long)pass->n_tile;
    void *arguments[] = { &jobs, &pass->n_job, &n_tile, &clip, s->scalars };
    return dopl_cuda_jit_launch(rt, pass->function, (int)(wanted < most ? wanted : most),
                                DOPL_CUDA_THREADS, arguments, "optimizer pass");
}

dopl_status dopl_cuda_plan_run(dopl_rt *rt, dopl_plan *plan, const double *const *scalars,
                               int *n_run) {
    plan_state *s;
    *n_run = 0;
    DOPL_TRY(state_of(rt, plan, &s));
    int n = fill_table(plan, s);
    size_t words = 0;
    for (int p = 0; p < plan->n_pass; p++)
        words += (size_t)s->pass[p].n_job * (size_t)dopl_cuda_job_words(plan->pass[p].program);
    DOPL_TRY(send(rt, s->sent, s->last, s->table, words * sizeof *s->table));
    for (int p = 0; p < plan->n_pass; p++)
        DOPL_TRY(compile(rt, plan->pass[p].program, &s->pass[p]));
    for (int p = 0; p < plan->n_pass; p++)
        DOPL_TRY(launch(rt, s, &s->pass[p], plan->pass[p].program, scalars[p]));
    s->clips = false;
    *n_run = n;
    return DOPL_OK;
}

// ---- the norm

// Queues norm and factor. *n_found: jobs that have a gradient.
static dopl_status queue_norm(dopl_rt *rt, dopl_plan *plan, double max_norm, plan_state **out,
                              int *n_found) {
    plan_state *s;
    DOPL_TRY(state_of(rt, plan, &s));
    *out = s;
    *n_found = 0;
    s->n_part = 0;
    for (int j = 0; j < plan->n_job; j++) {
        const dopl_tensor *grad = dopl_job_grad(plan, &plan->job[j]);
        if (!grad) continue;
        ++*n_found;
        for (int64_t at = 0, n = plan->job[j].n; at < n; at += DOPL_CUDA_NORM_PART)
            s->parts[s->n_part++] = (dopl_cuda_norm_part){
                .x = dopl_f32(grad) + at,
                .n = n - at < DOPL_CUDA_NORM_PART ? n - at : DOPL_CUDA_NORM_PART,
            };
    }
    DOPL_TRY(
        send(rt, s->parts_sent, s->parts_last, s->parts, (size_t)s->n_part * sizeof *s->parts));
    return dopl_cuda_norm_of(rt, s->norm, s->parts_sent, s->n_part, s->partial, max_norm);
}

dopl_status dopl_cuda_plan_clip_norm(dopl_rt *rt, dopl_plan *plan, double *norm) {
    const plan_state *s = plan->backend_data;
    if (!s) return dopl_fail(rt, DOPL_ESTATE, "optimizer: no norm has been asked for");
    return dopl_cuda_to_host(rt, norm, &s->norm->norm, sizeof *norm);
}

dopl_status dopl_cuda_plan_norm(dopl_rt *rt, dopl_plan *plan, double *norm, int *n_found) {
    plan_state *s;
    DOPL_TRY(queue_norm(rt, plan, 1.0, &s, n_found));
    return dopl_cuda_plan_clip_norm(rt, plan, norm);
}

dopl_status dopl_cuda_plan_clip(dopl_rt *rt, dopl_plan *plan, double max_norm) {
    plan_state *s;
    int n_found;
    DOPL_TRY(queue_norm(rt, plan, max_norm, &s, &n_found));
    s->clips = true;
    return DOPL_OK;
}

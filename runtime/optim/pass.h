// pass.h - running programs over every parameter of a step, and the norm of their gradients.
//
// A plan lists jobs: a parameter, its states, and which of the plan's passes (a program with its
// scalars) goes over it. Setting up allocates; running does not. The tiles of all jobs are shared
// out in one parallel region, so many small tensors cost no more than one large one, and no result
// depends on the number of threads.
#ifndef DOPL_OPTIM_PASS_H
#define DOPL_OPTIM_PASS_H

#include "../core/tensor.h"
#include "program.h"

typedef struct {
    dopl_tensor value;  // f32 or bf16 values, or codes (u8); a reference is held
    dopl_tensor scales; // f32, one per block; empty where there are no codes
    uint64_t stream;    // of stochastic rounding: the same for an operand in every plan it is in
} dopl_operand;

typedef struct {
    int pass;  // index into the plan's passes
    int64_t n; // elements
    int n_operand;
    dopl_operand *operand;        // [n_operand]: [0] is theta, [1] the gradient's place
    char *data[DOPL_MAX_OPERAND]; // of this run
    float *scale[DOPL_MAX_OPERAND];
    dopl_rounding_key rounding_key[DOPL_MAX_OPERAND]; // of operands that are rounded stochastically
    int64_t first_tile;                               // of this run: tiles of the jobs before it
} dopl_job;

typedef struct {
    const dopl_program *program; // the plan's owner keeps it alive
    float (*k)[DOPL_MAX_SCALAR]; // [n_instr], of this run
} dopl_pass;

typedef struct dopl_plan {
    dopl_device device; // where every operand is
    void *backend_data; // what its back end keeps for the plan
    int n_pass, n_job;
    dopl_pass *pass;
    dopl_job *job;
    uint64_t seed,
        draw;        // of stochastic rounding: set before a run; a draw is used for one run only
    double *partial; // of the norm, one per chunk of every gradient
    int64_t n_partial;
    char name[48]; // of its rules, for profiles
} dopl_plan;

// The gradient that a pass over the job would read, or NULL: where the program takes none, and
// where the parameter holds none.
static inline const dopl_tensor *dopl_job_grad(const dopl_plan *plan, const dopl_job *job) {
    const dopl_var *var = job->operand[0].value.var;
    if (!plan->pass[job->pass].program->has_grad || !var || !var->grad.storage) return NULL;
    bool fits = var->grad.dtype == DOPL_F32 && var->grad.device == plan->device &&
                dopl_tensor_numel(&var->grad) == job->n;
    return fits ? &var->grad : NULL;
}

// Sets where the data of this run lies. False: no gradient, the job is left out.
static inline bool dopl_plan_bind(const dopl_plan *plan, dopl_job *job) {
    const dopl_program *p = plan->pass[job->pass].program;
    const dopl_tensor *grad = dopl_job_grad(plan, job);
    if (p->has_grad && !grad) return false;
    for (int s = 0; s < p->n_operand; s++) {
        const dopl_operand *o = &job->operand[s];
        job->data[s] = (char *)dopl_data(p->has_grad && s == 1 ? grad : &o->value);
        job->scale[s] = o->scales.storage ? dopl_f32(&o->scales) : NULL;
        if (p->kind[s] == DOPL_OPERAND_BF16)
            job->rounding_key[s] = dopl_rounding_key_of(plan->seed, o->stream, plan->draw);
    }
    return true;
}

DOPL_CHECKED dopl_status dopl_plan_new(dopl_rt *rt, dopl_plan **out, int n_pass, int n_job);
void dopl_plan_free(dopl_rt *rt, dopl_plan *plan); // NULL-safe
// Called once per pass, then once per job with its operands filled in, then seal.
DOPL_CHECKED dopl_status dopl_plan_set_pass(dopl_rt *rt, dopl_plan *plan, int pass,
                                            const dopl_program *program);
DOPL_CHECKED dopl_status dopl_plan_set_job(dopl_rt *rt, dopl_plan *plan, int job, int pass);
DOPL_CHECKED dopl_status dopl_plan_seal(dopl_rt *rt, dopl_plan *plan);

// scalars[pass][i]. A job that takes a gradient and has none is left out, its states untouched.
// n_run: jobs that ran.
DOPL_CHECKED dopl_status dopl_plan_run(dopl_rt *rt, dopl_plan *plan, const double *const *scalars,
                                       int *n_run);
// The arithmetic of a pass alone: this thread runs the program of the first job over the same few
// tiles, `times` times, so that nothing leaves its caches. What is in them becomes meaningless.
// n_element: how many elements it went over.
DOPL_CHECKED dopl_status dopl_plan_repeat(dopl_rt *rt, dopl_plan *plan,
                                          const double *const *scalars, int times,
                                          int64_t *n_element);
// The 2-norm over all gradients, in double. n_found: jobs that have one.
DOPL_CHECKED dopl_status dopl_plan_norm(dopl_rt *rt, dopl_plan *plan, double *norm, int *n_found);
// On a device alone: the next run clips gradients at this norm (core/device.h).
DOPL_CHECKED dopl_status dopl_plan_clip(dopl_rt *rt, dopl_plan *plan, double max_norm);

#endif

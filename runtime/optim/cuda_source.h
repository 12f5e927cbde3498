// cuda_source.h - a pass as CUDA C++: the second target of the rule compiler.
//
// The text depends on the program alone (no pointer, no number of a step), so its hash names the
// compiled kernel for good. What the kernel is launched with:
//
//   dopl_pass(jobs, n_job, n_tile, clip, scalars)  blocks of DOPL_CUDA_THREADS threads, any grid
//     jobs     [n_job] of dopl_cuda_job_words(program) 64-bit words each, in device memory:
//              elements; tiles of the jobs before it; 1 where every pointer allows vector access;
//              then for each operand its address, that of its scales, and its rounding key
//     clip     a float the gradient is multiplied with, or null; NaN: nothing is changed
//     scalars  struct { float k[n_scalar]; } by value
#ifndef DOPL_OPTIM_CUDA_SOURCE_H
#define DOPL_OPTIM_CUDA_SOURCE_H

#include "program.h"

// Small blocks: a pass that needs over 128 registers has 12 warps on a multiprocessor so, not 8.
enum { DOPL_CUDA_THREADS = 128, DOPL_CUDA_JOB_HEAD = 3 };

static inline int dopl_cuda_job_words(const dopl_program *p) {
    return DOPL_CUDA_JOB_HEAD + 3 * p->n_operand;
}

// *out: the text, ended by a NUL; the caller frees it with dopl_rt_free.
DOPL_CHECKED dopl_status dopl_program_cuda_source(dopl_rt *rt, char **out, const dopl_program *p);

#endif

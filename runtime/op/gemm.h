// gemm.h - the matrix product of the machine's library, row-major.
#ifndef DOPL_OP_GEMM_H
#define DOPL_OP_GEMM_H

#include "../core/rt.h"

// C [m, n] = alpha op(A) op(B) + beta C; op(A) is [m, k], op(B) is [k, n], lda.. are row strides in
// elements. Returns 0, or oneDNN's error code for op_gemm_status. Inside a parallel region it runs
// on its own thread; rt is NULL there, and op_gemm_room was asked before the region.
int op_gemm(dopl_rt *rt, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
            int64_t ldc);

// Zero, or oneDNN's code where a product might not find the memory that it needs beside its
// operands.
DOPL_CHECKED int op_gemm_room(dopl_rt *rt);

// The status of such a code, for the operator `name`.
DOPL_CHECKED dopl_status op_gemm_status(dopl_rt *rt, const char *name, int code);

void op_gemm_library(char version[32]); // "2.6.3": the library that is loaded

#endif

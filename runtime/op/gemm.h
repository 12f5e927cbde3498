// gemm.h - the matrix product of the machine's library, row-major.
#ifndef DOPL_OP_GEMM_H
#define DOPL_OP_GEMM_H

#include <stdbool.h>
#include <stdint.h>

// C [m, n] = alpha op(A) op(B) + beta C; op(A) is [m, k], op(B) is [k, n], lda.. are row strides in
// elements. Returns 0, or oneDNN's error code. Inside a parallel region it runs on its own thread.
int op_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
            int64_t ldc);

void op_gemm_library(char version[32]); // "2.6.3": the library that is loaded

#endif

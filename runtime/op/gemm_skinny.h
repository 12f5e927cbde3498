// gemm_skinny.h - the product of a few rows with a transposed matrix, as in decoding.
#ifndef DOPL_OP_GEMM_SKINNY_H
#define DOPL_OP_GEMM_SKINNY_H

#include <stdint.h>

// C [m, n] = A [m, k] B^T + beta C for B [n, k]; lda.. are row strides in elements. Each element of
// C is summed in one order, whatever the number of threads.
void op_gemm_skinny(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                    int64_t ldb, float beta, float *c, int64_t ldc);

#endif

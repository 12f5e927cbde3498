// gemm_skinny.c - y = x W^T for a few rows of x.
//
// The bytes of W are most of the time here. A library's product copies W to a layout of its own
// first, which doubles them; this one reads each row of W once, where it lies, against all rows of
// x, which stay in the cache. So there is nothing that packing W beforehand could save.
#include "gemm_skinny.h"
#include "op.h"
#include "../core/simd.h"

#include <omp.h>

typedef float lanes __attribute__((vector_size(32), aligned(4)));

// What fits the registers of AVX2 together: 12 sums, two pieces of W and one of x.
enum { LANES = 8, ROWS = 6, COLS = 2 };

#define UNROLL _Pragma("GCC unroll 8")

// `rows` and `cols` are constants where it is used.
static inline __attribute__((always_inline)) void block(int rows, int cols, int64_t k,
                                                        const float *a, int64_t lda, const float *b,
                                                        int64_t ldb, float beta, float *c,
                                                        int64_t ldc) {
    lanes sum[ROWS][COLS] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        lanes w[COLS];
        UNROLL for (int j = 0; j < cols; j++) w[j] = *(const lanes *)(b + j * ldb + i);
        UNROLL for (int r = 0; r < rows; r++) {
            lanes x = *(const lanes *)(a + r * lda + i);
            UNROLL for (int j = 0; j < cols; j++) sum[r][j] += x * w[j];
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < cols; j++) {
        float y = 0.0f;
        UNROLL for (int l = 0; l < LANES; l++) y += sum[r][j][l];
        for (int64_t e = i; e < k; e++) y += a[r * lda + e] * b[j * ldb + e];
        c[r * ldc + j] = beta == 0.0f ? y : y + beta * c[r * ldc + j];
    }
}

// All rows against `cols` rows of B, in blocks that differ by a row at most: one of a single row
// would cost nearly as much as one of six.
static inline __attribute__((always_inline)) void all_rows(int cols, int64_t m, int64_t k,
                                                           const float *a, int64_t lda,
                                                           const float *b, int64_t ldb, float beta,
                                                           float *c, int64_t ldc) {
    int64_t rows;
    for (int64_t n_block = (m + ROWS - 1) / ROWS; m > 0; m -= rows, n_block--) {
        rows = (m + n_block - 1) / n_block;
        if (rows == 1) block(1, cols, k, a, lda, b, ldb, beta, c, ldc);
        if (rows == 2) block(2, cols, k, a, lda, b, ldb, beta, c, ldc);
        if (rows == 3) block(3, cols, k, a, lda, b, ldb, beta, c, ldc);
        if (rows == 4) block(4, cols, k, a, lda, b, ldb, beta, c, ldc);
        if (rows == 5) block(5, cols, k, a, lda, b, ldb, beta, c, ldc);
        if (rows == 6) block(6, cols, k, a, lda, b, ldb, beta, c, ldc);
        a += rows * lda;
        c += rows * ldc;
    }
}

DOPL_SIMD static void two_columns(int64_t m, int64_t k, const float *a, int64_t lda, const float *b,
                                  int64_t ldb, float beta, float *c, int64_t ldc) {
    all_rows(2, m, k, a, lda, b, ldb, beta, c, ldc);
}

DOPL_SIMD static void one_column(int64_t m, int64_t k, const float *a, int64_t lda, const float *b,
                                 int64_t ldb, float beta, float *c, int64_t ldc) {
    all_rows(1, m, k, a, lda, b, ldb, beta, c, ldc);
}

void op_gemm_skinny(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                    int64_t ldb, float beta, float *c, int64_t ldc) {
#pragma omp parallel for schedule(static) if (m * n * k > OP_GRAIN && !omp_in_parallel())
    for (int64_t j = 0; j < n; j += COLS) {
        if (n - j >= COLS)
            two_columns(m, k, a, lda, b + j * ldb, ldb, beta, c + j, ldc);
        else
            one_column(m, k, a, lda, b + j * ldb, ldb, beta, c + j, ldc);
    }
}

// gemm.c - oneDNN's sgemm. It is JIT-compiled per CPU, needs no tuning and shares our OpenMP pool.
#include "gemm.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <string.h>

int op_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
            int64_t ldc) {
    if (m == 0 || n == 0) return 0;
    if (k == 0) { // an empty sum, which sgemm would leave unwritten
        for (int64_t i = 0; beta == 0.0f && i < m; i++)
            memset(c + i * ldc, 0, (size_t)n * sizeof *c);
        return 0;
    }
    return (int)dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb,
                           beta, c, ldc);
}

void op_gemm_library(char version[32]) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(version, 32, "%d.%d.%d", v->major, v->minor, v->patch);
}

// row.c - dot product and log-sum-exp of a row.
#include "row.h"
#include "../core/simd.h"

DOPL_SIMD float op_row_dot(const float *a, const float *b, int64_t n) {
    float s = 0.0f;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

DOPL_SIMD float op_row_log_sum_exp(const float *x, int64_t n) {
    float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += dopl_expf(x[i] - top);
    return top + logf(sum);
}

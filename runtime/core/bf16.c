// bf16.c - arrays of bfloat16.
#include "bf16.h"

enum { CHUNK = 1 << 14 }; // elements a thread takes at a time

DOPL_SIMD static void decode(float *restrict y, const uint16_t *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = dopl_float_of_bf16(x[i]);
}

DOPL_SIMD static void encode(uint16_t *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = dopl_bf16_of_float(x[i]);
}

void dopl_bf16_decode(float *restrict y, const uint16_t *restrict x, int64_t n) {
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK) decode(y + i, x + i, n - i < CHUNK ? n - i : CHUNK);
}

void dopl_bf16_encode(uint16_t *restrict y, const float *restrict x, int64_t n) {
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK) encode(y + i, x + i, n - i < CHUNK ? n - i : CHUNK);
}

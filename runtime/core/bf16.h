// bf16.h - bfloat16: the upper half of an f32. Decoding is exact, encoding rounds to nearest even.
#ifndef DOPL_CORE_BF16_H
#define DOPL_CORE_BF16_H

#include "simd.h"

static inline float dopl_float_of_bf16(uint16_t h) {
    return dopl_float_of_bits((int32_t)((uint32_t)h << 16));
}

// A NaN stays a NaN.
static inline uint16_t dopl_bf16_of_float(float x) {
    uint32_t bits = (uint32_t)dopl_bits_of_float(x);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(x == x ? rounded : bits >> 16 | 0x40u);
}

// On all threads; the two do not overlap.
void dopl_bf16_decode(float *restrict y, const uint16_t *restrict x, int64_t n);
void dopl_bf16_encode(uint16_t *restrict y, const float *restrict x, int64_t n);

#endif

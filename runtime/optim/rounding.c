// rounding.c - one loop each, built for three instruction sets. Integer arithmetic all through, so
// every set gives the same bits.
#include "rounding.h"

#define INLINE static inline __attribute__((always_inline))

INLINE void widen(float *restrict y, const uint16_t *restrict x, int n) {
    for (int i = 0; i < n; i++) y[i] = dopl_float_of_bf16(x[i]);
}

INLINE void round_nearest(uint16_t *restrict y, const float *restrict x, int n) {
    for (int i = 0; i < n; i++) y[i] = dopl_bf16_nearest(x[i]);
}

INLINE void round_stochastic(uint16_t *restrict y, const float *restrict x, int n,
                             dopl_rounding_key key, uint32_t tile) {
    enum { HALF = DOPL_TILE / 2 };
    uint32_t first = tile * HALF;
    if (n == DOPL_TILE) {
        for (uint32_t i = 0; i < HALF; i++) {
            uint32_t word = dopl_rounding_bits(key, first + i);
            y[i] = dopl_bf16_rounded(x[i], word & 0xffff);
            y[i + HALF] = dopl_bf16_rounded(x[i + HALF], word >> 16);
        }
        return;
    }
    for (int i = 0; i < n; i++) {
        uint32_t word = dopl_rounding_bits(key, first + (uint32_t)(i % HALF));
        y[i] = dopl_bf16_rounded(x[i], i < HALF ? word & 0xffff : word >> 16);
    }
}

#define BUILD(set, TARGET)                                                                         \
    TARGET void dopl_widen_##set(float *y, const uint16_t *x, int n) {                             \
        if (n == DOPL_TILE)                                                                        \
            widen(y, x, DOPL_TILE);                                                                \
        else                                                                                       \
            widen(y, x, n);                                                                        \
    }                                                                                              \
    TARGET void dopl_round_nearest_##set(uint16_t *y, const float *x, int n) {                     \
        if (n == DOPL_TILE)                                                                        \
            round_nearest(y, x, DOPL_TILE);                                                        \
        else                                                                                       \
            round_nearest(y, x, n);                                                                \
    }                                                                                              \
    TARGET void dopl_round_stochastic_##set(uint16_t *y, const float *x, int n,                    \
                                            dopl_rounding_key key, uint32_t tile) {                \
        round_stochastic(y, x, n, key, tile);                                                      \
    }

BUILD(portable, )
#if defined(__x86_64__)
BUILD(avx2, __attribute__((target("arch=x86-64-v3"))))
BUILD(avx512, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))))
#endif

// rounding.h - bf16 operands of a pass: widening, rounding to the nearest, stochastic rounding.
//
// Stochastic rounding adds 16 random bits below the 16 that stay, so that the mean of many
// roundings is the number itself and updates under the spacing of bf16 are not lost. The bits are a
// pure function of (seed, stream, draw, element): of the run, of which operand of which parameter
// it is, of the step, and of the place in the operand. No state, so threads, instruction sets and
// resuming change no bit, and a device can make the same ones:
//
//     key     = philox(seed, stream, draw), of which v[0] and v[1] count
//     tile t  holds elements 256 t .. 256 t + 255
//     element e of tile t takes half e / 128 (0: the lower) of
//             dopl_rounding_bits(key, 128 t + e % 128)
#ifndef DOPL_OPTIM_ROUNDING_H
#define DOPL_OPTIM_ROUNDING_H

#include "../core/bf16.h"
#include "../core/rng.h"

enum { DOPL_TILE = 256 }; // elements; whole blocks of the codec. 14 tiles are 14 KiB of L1

typedef struct {
    uint32_t v[2];
} dopl_rounding_key;

static inline dopl_rounding_key dopl_rounding_key_of(uint64_t seed, uint64_t stream,
                                                     uint64_t draw) {
    dopl_random r = dopl_philox(seed, stream, draw);
    return (dopl_rounding_key){ { r.v[0], r.v[1] } };
}

// 32 random bits, for two elements. `pair` counts modulo 2^32, so bits repeat after 2^33 elements.
// The mixing is a bijection with a full avalanche (Wellons, "lowbias32"), keyed in two places.
static inline uint32_t dopl_rounding_bits(dopl_rounding_key key, uint32_t pair) {
    uint32_t x = pair ^ key.v[0];
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15 ^ key.v[1]) * 0x846ca68bu;
    return x ^ x >> 16;
}

// bits: 0 .. 65535. A NaN that arithmetic made (a quiet one) stays one.
static inline uint16_t dopl_bf16_rounded(float x, uint32_t bits) {
    return (uint16_t)(((uint32_t)dopl_bits_of_float(x) + (x == x ? bits : 0)) >> 16);
}

// As dopl_bf16_of_float, with the additions that the above has: compilers convert it once, not
// twice.
static inline uint16_t dopl_bf16_nearest(float x) {
    return dopl_bf16_rounded(x, 0x7fff + ((uint32_t)dopl_bits_of_float(x) >> 16 & 1));
}

// n: at most DOPL_TILE. tile: its number in the operand.
typedef void dopl_widen_fn(float *y, const uint16_t *x, int n);
typedef void dopl_round_nearest_fn(uint16_t *y, const float *x,
                                   int n); // to the nearest, ties to even
typedef void dopl_round_stochastic_fn(uint16_t *y, const float *x, int n, dopl_rounding_key key,
                                      uint32_t tile);

#define DOPL_ROUNDING(set)                                                                         \
    dopl_widen_fn dopl_widen_##set;                                                                \
    dopl_round_nearest_fn dopl_round_nearest_##set;                                                \
    dopl_round_stochastic_fn dopl_round_stochastic_##set;
DOPL_ROUNDING(portable)
#if defined(__x86_64__)
DOPL_ROUNDING(avx2)
DOPL_ROUNDING(avx512)
#endif

#endif

// rng.h - counter-based random numbers: Philox4x32-10 (Salmon et al. 2011).
//
// A number is a pure function of (seed, stream, counter): no state, so a mask can be made again in
// the backward, a run can resume, and the count of threads changes nothing.
#ifndef DOPL_CORE_RNG_H
#define DOPL_CORE_RNG_H

#include <stdint.h>

#ifndef DOPL_HOST_DEVICE // kernels draw the same numbers, and mark functions for their compiler
#define DOPL_HOST_DEVICE
#endif

typedef struct {
    uint32_t v[4];
} dopl_random;

DOPL_HOST_DEVICE static inline dopl_random dopl_philox(uint64_t seed, uint64_t stream,
                                                       uint64_t counter) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    dopl_random r = { { c0, c1, c2, c3 } };
    return r;
}

// In [0, 1), 24 bits.
DOPL_HOST_DEVICE static inline float dopl_uniform(uint32_t bits) {
    return (float)(bits >> 8) * 0x1p-24f;
}

#endif

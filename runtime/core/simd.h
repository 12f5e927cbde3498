// simd.h - loops the compiler vectorises, built for three instruction sets and chosen at run time.
//
// A function marked DOPL_SIMD is compiled for AVX-512, AVX2 and plain x86-64; the loader picks. Its
// loops use the branch-free functions below, which inline and vectorise, instead of libm's. Sums
// need `#pragma omp simd reduction`, since the project does not build with -ffast-math.
#ifndef DOPL_CORE_SIMD_H
#define DOPL_CORE_SIMD_H

#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define DOPL_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else // a sanitizer's run time is not up yet when the loader resolves clones
#define DOPL_SIMD
#endif

static inline float dopl_float_of_bits(int32_t bits) {
    union {
        int32_t i;
        float f;
    } u = { .i = bits };
    return u.f;
}

static inline int32_t dopl_bits_of_float(float x) {
    union {
        float f;
        int32_t i;
    } u = { .f = x };
    return u.i;
}

// 2^k for k from -126 to 127; any float for others (of a NaN, say).
static inline float dopl_power_of_2(int32_t k) {
    return dopl_float_of_bits((int32_t)((uint32_t)(k + 127) << 23));
}

// e^x to 2 ulp. Below -87.3 it returns e^-87.3 = 1.2e-38, above 88.7 e^88.7 = 3.3e38: never a zero,
// an infinity or a subnormal. A NaN stays a NaN.
static inline float dopl_expf(float x) {
    float c = x < -87.3f ? -87.3f : x;
    c = c > 88.7f ? 88.7f : c;
    float n = nearbyintf(c * 1.44269504089f);
    float r = fmaf(n, -0.693145752f, c); // ln 2 in two parts, the first exact in 15 bits
    r = fmaf(n, -1.42860677e-6f, r);
    float p = 1.9875691500e-4f; // minimax on [-ln2/2, ln2/2] (Cephes, expf)
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p * r, r, r + 1.0f);
    int32_t k = (int32_t)n, half = k >> 1; // two factors, since 2^128 is no float
    return p * dopl_power_of_2(half) * dopl_power_of_2(k - half);
}

// 1 / (1 + e^-x), to a few ulp for either sign.
static inline float dopl_sigmoidf(float x) {
    return 1.0f / (1.0f + dopl_expf(-x));
}

// tanh to about 1e-7 absolute; the series takes over where the quotient would cancel.
static inline float dopl_tanhf(float x) {
    float a = fabsf(x), e = dopl_expf(-2.0f * a);
    float big = (1.0f - e) / (1.0f + e), s = x * x;
    float small = a * (1.0f + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315))));
    return copysignf(a < 0.1f ? small : big, x);
}

// log x for positive normal x, to 2 ulp (Cephes, logf). Zero gives -87.3, negative numbers
// nonsense.
static inline float dopl_logf(float x) {
    int32_t bits = dopl_bits_of_float(x);
    float e = (float)((bits >> 23) - 126);
    float m = dopl_float_of_bits((bits & 0x007fffff) | 0x3f000000); // [0.5, 1)
    int32_t low = m < 0.707106781f;
    e -= (float)low;
    m = m - 1.0f + (low ? m : 0.0f);
    float z = m * m, p = 7.0376836292e-2f;
    p = fmaf(p, m, -1.1514610310e-1f);
    p = fmaf(p, m, 1.1676998740e-1f);
    p = fmaf(p, m, -1.2420140846e-1f);
    p = fmaf(p, m, 1.4249322787e-1f);
    p = fmaf(p, m, -1.6668057665e-1f);
    p = fmaf(p, m, 2.0000714765e-1f);
    p = fmaf(p, m, -2.4999993993e-1f);
    p = fmaf(p, m, 3.3333331174e-1f);
    p = p * m * z;
    p = fmaf(e, -2.12194440e-4f, p);
    p = fmaf(-0.5f, z, p);
    return fmaf(e, 0.693359375f, m + p);
}

// log(1 + e^-|x|), the part of log-sigmoid that is not linear: in (0, log 2].
static inline float dopl_softplus_tailf(float x) {
    float e = dopl_expf(-fabsf(x));
    float series = e * (1.0f - e * (0.5f - e * (1.0f / 3))); // where 1 + e would round e away
    return e < 1e-3f ? series : dopl_logf(1.0f + e);
}

#endif

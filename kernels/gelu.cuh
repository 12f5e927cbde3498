// gelu.cuh - GELU in its tanh form, x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3), and
// its slope. (1 + tanh u) / 2 is sigmoid(2 u), in fewer instructions: while a bf16 element moves, a
// multiprocessor has time for some 27. And the erf form, by the formula of runtime/op/gelu.h.
#ifndef DOPL_KERNELS_GELU_CUH
#define DOPL_KERNELS_GELU_CUH

#include "elements.cuh"

__device__ __forceinline__ float gelu_gate(float x) {
    return sigmoid(1.595769122f * (x + 0.044715f * x * x * x));
}

__device__ __forceinline__ float gelu_value(float x) {
    return x * gelu_gate(x);
}

__device__ __forceinline__ float gelu_slope(float x) {
    float s = gelu_gate(x), du = 1.595769122f * (1.0f + 3.0f * 0.044715f * x * x);
    return s + x * s * (1.0f - s) * du;
}

// Phi(x) to 1e-7 absolute; bell: e^(-x^2/2).
__device__ __forceinline__ float gelu_phi(float x, float bell) {
    float t = __fdividef(1.0f, 1.0f + 0.231641888f * fabsf(x)), p = 1.061405429f;
    p = fmaf(p, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    float tail = 0.5f * p * t * bell;
    return x < 0.0f ? tail : 1.0f - tail;
}

__device__ __forceinline__ float gelu_erf_value(float x) {
    return x * gelu_phi(x, expf(-0.5f * x * x));
}

__device__ __forceinline__ float gelu_erf_slope(float x) {
    float bell = expf(-0.5f * x * x);
    return gelu_phi(x, bell) + 0.398942280f * x * bell;
}

#endif

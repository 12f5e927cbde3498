// gelu.cuh - GELU in its tanh form, x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3), and
// its slope. (1 + tanh u) / 2 is sigmoid(2 u), in fewer instructions: while a bf16 element moves, a
// multiprocessor has time for some 27.
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

#endif

// gelu.cuh - GELU in its tanh form, x (1 + t) / 2 with t = tanh(sqrt(2/pi) (x + 0.044715 x^3)), and
// its slope.
#ifndef DOPL_KERNELS_GELU_CUH
#define DOPL_KERNELS_GELU_CUH

#include "common.cuh"

__device__ __forceinline__ float gelu_tanh(float x) {
    return tanhf(0.797884561f * (x + 0.044715f * x * x * x));
}

__device__ __forceinline__ float gelu_value(float x) {
    return 0.5f * x * (1.0f + gelu_tanh(x));
}

__device__ __forceinline__ float gelu_slope(float x) {
    float t = gelu_tanh(x);
    float inner = 0.797884561f * (1.0f + 3.0f * 0.044715f * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
}

#endif

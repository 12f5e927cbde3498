// cuda_bf16.h - bfloat16 on the CPU: the type and the conversions that the kernels use.
#ifndef DOPL_EMULATOR_CUDA_BF16_H
#define DOPL_EMULATOR_CUDA_BF16_H

#include <cuda_runtime.h>

struct __nv_bfloat16 {
    unsigned short x;
};
struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 h) {
    return __uint_as_float((unsigned)h.x << 16);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    unsigned bits = __float_as_uint(f);
    if (f != f) return __nv_bfloat16{ 0x7fff };
    return __nv_bfloat16{ (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16) };
}
static inline __nv_bfloat16 __float2bfloat16(float f) {
    return __float2bfloat16_rn(f);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
    return __nv_bfloat162{ __float2bfloat16_rn(a), __float2bfloat16_rn(b) };
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 f) {
    return __floats2bfloat162_rn(f.x, f.y);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 h) {
    return make_float2(__bfloat162float(h.x), __bfloat162float(h.y));
}
static inline float __low2float(__nv_bfloat162 h) {
    return __bfloat162float(h.x);
}
static inline float __high2float(__nv_bfloat162 h) {
    return __bfloat162float(h.y);
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __nv_bfloat162{ a, b };
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) {
    return h.x;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    return __nv_bfloat16{ bits };
}

#endif

// gelu.h - GELU in its tanh form, as GPT-2 and Phi use it: x (1 + t) / 2 with
// t = tanh(sqrt(2/pi) (x + 0.044715 x^3)).
//
// The tanh is nearly all of the work: value and slope both take it as they find it.
#ifndef DOPL_OP_GELU_H
#define DOPL_OP_GELU_H

#include "../core/simd.h"

static inline float gelu_tanh(float x) {
    return dopl_tanhf(0.797884561f * (x + 0.044715f * x * x * x));
}

static inline float gelu_value(float x, float t) {
    return 0.5f * x * (1.0f + t);
}

static inline float gelu_slope(float x, float t) {
    float inner = 0.797884561f * (1.0f + 3.0f * 0.044715f * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
}

#endif

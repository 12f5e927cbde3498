// gelu.h - GELU, x Phi(x) with Phi the standard normal's distribution function (Hendrycks and
// Gimpel 2016), in its two forms.
//
// The tanh form, as GPT-2 and Phi use it, is x (1 + t) / 2 with t = tanh(sqrt(2/pi) (x + 0.044715
// x^3)). The tanh is nearly all of the work: value and slope both take it as they find it. The erf
// form takes Phi as it is: (1 + erf(x / sqrt 2)) / 2.
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

// e^(-x^2/2), 0 where dopl_expf would stop falling.
static inline float gelu_bell(float x) {
    float e = dopl_expf(-0.5f * x * x);
    return fabsf(x) > 13.2f ? 0.0f : e;
}

// Phi(x) to 1e-7 absolute (Abramowitz and Stegun 7.1.26, with z = |x| / sqrt 2 put in). The tail of
// a negative x is computed as itself, not as what is left of 1.
static inline float gelu_phi(float x, float bell) {
    float t = 1.0f / (1.0f + 0.231641888f * fabsf(x)), p = 1.061405429f;
    p = fmaf(p, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    float tail = 0.5f * p * t * bell;
    return x < 0.0f ? tail : 1.0f - tail;
}

static inline float gelu_erf_value(float x) {
    return x * gelu_phi(x, gelu_bell(x));
}

static inline float gelu_erf_slope(float x) {
    float bell = gelu_bell(x);
    return gelu_phi(x, bell) + 0.398942280f * x * bell;
}

#endif

// primitives.c - the vector primitives, built for three instruction sets.
//
// Each row of optim.def is one loop. The compiler vectorises it per target; a product and a sum
// contract to a fused multiply-add where the target has one, so sets differ in the last bit, while
// any one set gives the same bits for any number of threads. Targets are chosen here by table, not
// by the loader, so that DOPL_ISA can name one.
//
// An interpreter alternates between waiting for memory and computing, which the hardware's
// prefetchers alone do not bridge. So every primitive, while it computes, also asks for a few lines
// of the next tile, into L2: L1 has too few ways for two tiles of every operand.
#include "program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STRIP = 64 }; // elements between two looks ahead: four cache lines

#define INLINE static inline __attribute__((always_inline))

// clang-format off
#define PRIM(id, n_in, n_k, expression)                                                            \
    INLINE float id##_one(float a, float b, float c, float d, float e, const float *k) {           \
        const float k0 = k[0], k1 = k[1], k2 = k[2], k3 = k[3], k4 = k[4], k5 = k[5];              \
        (void)b, (void)c, (void)d, (void)e;                                                        \
        (void)k0, (void)k1, (void)k2, (void)k3, (void)k4, (void)k5;                                \
        return expression;                                                                         \
    }                                                                                              \
    INLINE void id##_loop(float *y, float *const *in, const float *scalars, int n,                 \
                          const float *ahead) {                                                    \
        const float *a = in[0], *b = n_in > 1 ? in[1] : a, *c = n_in > 2 ? in[2] : a;              \
        const float *d = n_in > 3 ? in[3] : a, *e = n_in > 4 ? in[4] : a;                          \
        float k[DOPL_MAX_SCALAR] = { 0 };                                                          \
        for (int i = 0; i < n_k; i++) k[i] = scalars[i];                                           \
        int at = 0;                                                                                \
        for (; at + STRIP <= n; at += STRIP) {                                                     \
            for (int i = 0; i < STRIP; i += 16) __builtin_prefetch(ahead + at + i, 0, 2);          \
            _Pragma("GCC ivdep") /* y may be an operand, element by element: no other overlap */   \
            for (int i = at; i < at + STRIP; i++)                                                  \
                y[i] = id##_one(a[i], b[i], c[i], d[i], e[i], k);                                  \
        }                                                                                          \
        for (; at < n; at++) y[at] = id##_one(a[at], b[at], c[at], d[at], e[at], k);               \
    }
#include "optim.def"

#define PORTABLE
#define AVX2 __attribute__((target("arch=x86-64-v3")))
#define AVX512 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))

#define BUILD(set, TARGET, id)                                                                     \
    TARGET static void id##_##set(float *y, float *const *in, const float *k, int n,               \
                                  const float *ahead) {                                            \
        id##_loop(y, in, k, n, ahead);                                                             \
    }
#define PRIM(id, n_in, n_k, expression) BUILD(portable, PORTABLE, id)
#include "optim.def"
#if defined(__x86_64__)
#define PRIM(id, n_in, n_k, expression) BUILD(avx2, AVX2, id)
#include "optim.def"
#define PRIM(id, n_in, n_k, expression) BUILD(avx512, AVX512, id)
#include "optim.def"
#endif

static const dopl_isa portable = {
    .name = "portable", .scale = dopl_scale_portable,
    .encode = dopl_encode_portable, .decode = dopl_decode_portable,
    .widen = dopl_widen_portable,
    .round_nearest = dopl_round_nearest_portable, .round_stochastic = dopl_round_stochastic_portable,
    .prim = {
#define PRIM(id, n_in, n_k, expression) [DOPL_PRIM_##id] = id##_portable,
#include "optim.def"
    },
};
#if defined(__x86_64__)
static const dopl_isa avx2 = {
    .name = "avx2", .scale = dopl_scale_avx2,
    .encode = dopl_encode_avx2, .decode = dopl_decode_avx2,
    .widen = dopl_widen_avx2,
    .round_nearest = dopl_round_nearest_avx2, .round_stochastic = dopl_round_stochastic_avx2,
    .prim = {
#define PRIM(id, n_in, n_k, expression) [DOPL_PRIM_##id] = id##_avx2,
#include "optim.def"
    },
};
static const dopl_isa avx512 = {
    .name = "avx512", .scale = dopl_scale_avx2,
    .encode = dopl_encode_avx2, .decode = dopl_decode_avx2,
    .widen = dopl_widen_avx512,
    .round_nearest = dopl_round_nearest_avx512, .round_stochastic = dopl_round_stochastic_avx512,
    .prim = {
#define PRIM(id, n_in, n_k, expression) [DOPL_PRIM_##id] = id##_avx512,
#include "optim.def"
    },
};
static const dopl_isa avx512_vbmi = { // the same, with byte permutations for the codec
    .name = "avx512", .scale = dopl_scale_avx512,
    .encode = dopl_encode_avx512, .decode = dopl_decode_avx512,
    .widen = dopl_widen_avx512,
    .round_nearest = dopl_round_nearest_avx512, .round_stochastic = dopl_round_stochastic_avx512,
    .prim = {
#define PRIM(id, n_in, n_k, expression) [DOPL_PRIM_##id] = id##_avx512,
#include "optim.def"
    },
};
#endif
// clang-format on

const dopl_isa *dopl_isa_get(void) {
#if defined(__x86_64__)
    const char *wish = getenv("DOPL_ISA");
    bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool has512 = has2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (wish && strcmp(wish, "portable") == 0) return &portable;
    if (has512 && !(wish && strcmp(wish, "avx2") == 0))
        return __builtin_cpu_supports("avx512vbmi") ? &avx512_vbmi : &avx512;
    if (has2) return &avx2;
#endif
    return &portable;
}

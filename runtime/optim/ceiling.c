// ceiling.c - read-modify-write over several streams at once, as fast as a plain loop goes.
#include "ceiling.h"
#include "../core/simd.h"

// One function per number of streams, so that the loop is as simple for the compiler as it can be.
#define PASS(count, ...)                                                                           \
    DOPL_SIMD static void pass##count(float *const *s, int64_t from, int64_t to) {                 \
        const float *g = s[count - 1];                                                             \
        float *a = s[0], *b = s[count > 2 ? 1 : 0], *c = s[count > 3 ? 2 : 0];                     \
        float *d = s[count > 4 ? 3 : 0], *e = s[count > 5 ? 4 : 0], *f = s[count > 6 ? 5 : 0];     \
        float *h = s[count > 7 ? 6 : 0];                                                           \
        (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)h;                             \
        _Pragma("GCC ivdep") for (int64_t i = from; i < to; i++) {                                 \
            const float x = g[i];                                                                  \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    }

PASS(2, a[i] += x)
PASS(3, a[i] += x, b[i] += x)
PASS(4, a[i] += x, b[i] += x, c[i] += x)
PASS(5, a[i] += x, b[i] += x, c[i] += x, d[i] += x)
PASS(6, a[i] += x, b[i] += x, c[i] += x, d[i] += x, e[i] += x)
PASS(7, a[i] += x, b[i] += x, c[i] += x, d[i] += x, e[i] += x, f[i] += x)
PASS(8, a[i] += x, b[i] += x, c[i] += x, d[i] += x, e[i] += x, f[i] += x, h[i] += x)

void dopl_ceiling_pass(const dopl_rt *rt, float *const *stream, int n_stream, int64_t n) {
    static void (*const pass[])(float *const *, int64_t, int64_t) = {
        NULL, NULL, pass2, pass3, pass4, pass5, pass6, pass7, pass8,
    };
    enum { CHUNK = 16384 };
#pragma omp parallel for num_threads(rt->n_threads) schedule(static)
    for (int64_t i = 0; i < n; i += CHUNK) pass[n_stream](stream, i, i + CHUNK < n ? i + CHUNK : n);
}

// rotary.c - rotary position embedding (Su et al. 2021), half-split pairs as Llama and Phi use it:
// column i of a head turns with column i + D/2 by the angle position * base^(-2i/D).
//
// It acts on the first heads*head_dim columns of each row, so that one call turns the queries and
// the keys of a fused qkv row and copies the values. The backward is the rotation by minus the
// angle.
#include "op.h"
#include "../core/simd.h"

#include <string.h>

dopl_status op_rotary_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0], *pos = c->in[1];
    const op_rotary_attrs *a = OP_ATTRS(rotary, c);
    int64_t heads = a->heads, D = a->head_dim;
    if (heads < 1 || D < 2 || D % 2)
        return dopl_fail(rt, DOPL_EARG, "rotary: %lld heads of %lld, need an even head_dim",
                         (long long)heads, (long long)D);
    if (!(a->base > 0))
        return dopl_fail(rt, DOPL_EARG, "rotary: base %g, must be positive", a->base);
    if (x->n_dim != 2 || pos->n_dim != 1 || x->dim[0] != pos->dim[0] || heads > x->dim[1] / D ||
        x->dim[1] > INT32_MAX)
        return dopl_fail(rt, DOPL_ESHAPE,
                         "rotary: x %s and positions %s, need [T, %lld * %lld to 2^31-1] and [T]",
                         dopl_shape_str(x).s, dopl_shape_str(pos).s, (long long)heads,
                         (long long)D);
    return op_out_like(rt, c, 0);
}

DOPL_SIMD static void turn_row(float *restrict y, const float *restrict x, int64_t cols,
                               int64_t heads, int64_t D, const float *restrict cs,
                               const float *restrict sn, float beta) {
    int64_t half = D / 2;
    for (int64_t h = 0; h < heads; h++) {
        const float *a = x + h * D, *b = a + half;
        float *ya = y + h * D, *yb = ya + half;
        for (int64_t i = 0; i < half; i++) {
            float p = a[i] * cs[i] - b[i] * sn[i], q = b[i] * cs[i] + a[i] * sn[i];
            ya[i] = beta == 0.0f ? p : ya[i] + p;
            yb[i] = beta == 0.0f ? q : yb[i] + q;
        }
    }
    for (int64_t i = heads * D; i < cols; i++) y[i] = beta == 0.0f ? x[i] : y[i] + x[i];
}

// Angles of n positions: those of `p`, or where that is NULL 0 .. n-1. Cosines then sines, [n, D/2]
// each.
static dopl_status angles(dopl_rt *rt, const int32_t *p, int64_t n, int64_t D, double base,
                          float **out) {
    int64_t half = D / 2;
    void *memory;
    size_t bytes = (size_t)(2 * n * half) * sizeof **out;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, bytes + (size_t)half * sizeof(double)));
    float *table = memory;
    double *rate = (double *)((char *)memory + bytes); // radians a position
    for (int64_t i = 0; i < half; i++) rate[i] = pow(base, -2.0 * (double)i / (double)D);
#pragma omp parallel for schedule(static) if (n * half > 1024)
    for (int64_t k = 0; k < n; k++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)(p ? p[k] : k) * rate[i];
            table[k * half + i] = (float)cos(angle);
            table[(n + k) * half + i] = (float)sin(angle);
        }
    *out = table;
    return DOPL_OK;
}

static dopl_status turn(dopl_rt *rt, float *y, const float *x, const dopl_tensor *pos, int64_t cols,
                        const op_rotary_attrs *a, float beta, bool back) {
    int64_t T = pos->dim[0], heads = a->heads, D = a->head_dim, half = D / 2, n = 0;
    const int32_t *p = dopl_i32(pos);
    for (int64_t t = 0; t < T; t++) {
        if (p[t] < 0 || p[t] >= 1 << 24)
            return dopl_fail(rt, DOPL_EARG, "rotary: position %d of row %lld, needs 0 to 2^24-1",
                             p[t], (long long)t);
        if (p[t] >= n) n = p[t] + 1;
    }
    bool by_row = T < n; // few rows far on, as in generation: no table of all positions before them
    if (by_row) n = T;
    float *table;
    DOPL_TRY(angles(rt, by_row ? p : NULL, n, D, a->base, &table));
    float *sines = table + n * half;
    if (back)
        for (int64_t i = 0; i < n * half; i++) sines[i] = -sines[i];
#pragma omp parallel for schedule(static) if (T * cols > OP_GRAIN)
    for (int64_t t = 0; t < T; t++) {
        int64_t at = (by_row ? t : p[t]) * half;
        turn_row(y + t * cols, x + t * cols, cols, heads, D, table + at, sines + at, beta);
    }
    dopl_rt_free(rt, table);
    return DOPL_OK;
}

dopl_status op_rotary_cpu(dopl_rt *rt, dopl_op_call *c) {
    return turn(rt, dopl_f32(c->out), dopl_f32(c->in[0]), c->in[1], c->out->dim[1],
                OP_ATTRS(rotary, c), 0.0f, false);
}

dopl_status op_rotary_backward(dopl_rt *rt, dopl_node *n) {
    if (!dopl_grad_wants(n, 0)) return DOPL_OK;
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
    return turn(rt, dopl_f32(dx), dopl_f32(&n->dout), &n->in[1], n->out.dim[1], OP_ATTRS(rotary, n),
                beta, true);
}

// elementwise.c - operators that look at one element of each input at a time.
//
// Unary operators are a table: a formula and its derivative in terms of x, the output y and dy.
// Binary operators broadcast as NumPy does: dimensions are aligned at the last, 1 stretches.
#include "op.h"
#include "gelu.h"
#include "../core/simd.h"

#include <string.h>

// ---- unary

typedef void unary_fn(float *restrict y, const float *restrict x, int64_t n, const void *attrs);
// dx = beta dx + dy * f'(x); reads x or y, whichever its operator keeps
typedef void unary_grad_fn(float *restrict dx, const float *restrict dy, const float *restrict kept,
                           int64_t n, float beta, const void *attrs);

static dopl_status run_unary(const dopl_op_call *c, unary_fn *f) {
    int64_t n = dopl_tensor_numel(c->out);
    float *y = dopl_f32(c->out);
    const float *x = dopl_f32(c->in[0]);
#pragma omp parallel for schedule(static) if (n > OP_GRAIN)
    for (int64_t i = 0; i < n; i += OP_GRAIN)
        f(y + i, x + i, n - i < OP_GRAIN ? n - i : OP_GRAIN, c->attrs.bytes);
    return DOPL_OK;
}

static dopl_status run_unary_grad(dopl_rt *rt, dopl_node *node, unary_grad_fn *f) {
    const dopl_tensor *kept = node->out.storage ? &node->out : &node->in[0];
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, node, 0, &dx, &beta));
    int64_t n = dopl_tensor_numel(dx);
    float *dxp = dopl_f32(dx);
    const float *dyp = dopl_f32(&node->dout), *k = kept->storage ? dopl_f32(kept) : dyp;
#pragma omp parallel for schedule(static) if (n > OP_GRAIN)
    for (int64_t i = 0; i < n; i += OP_GRAIN)
        f(dxp + i, dyp + i, k + i, n - i < OP_GRAIN ? n - i : OP_GRAIN, beta, node->attrs.bytes);
    return DOPL_OK;
}

// A formula of operator `op`, `a` its attributes, as two functions over elements. beta is 0 where
// dx holds garbage, which may be a NaN: it must not be multiplied.
#define FORMULA(id, op, KEPT, F, DF)                                                               \
    DOPL_SIMD static void id##_forward(float *restrict out, const float *restrict in, int64_t n,   \
                                       const void *attrs) {                                        \
        const op_##op##_attrs *a = attrs;                                                          \
        (void)a;                                                                                   \
        for (int64_t i = 0; i < n; i++) {                                                          \
            float x = in[i];                                                                       \
            out[i] = F;                                                                            \
        }                                                                                          \
    }                                                                                              \
    DOPL_SIMD static void id##_grad(float *restrict dx, const float *restrict dout,                \
                                    const float *restrict kept, int64_t n, float beta,             \
                                    const void *attrs) {                                           \
        const op_##op##_attrs *a = attrs;                                                          \
        (void)a;                                                                                   \
        for (int64_t i = 0; i < n; i++) {                                                          \
            float KEPT = kept[i], dy = dout[i], d = DF;                                            \
            (void)KEPT;                                                                            \
            dx[i] = beta == 0.0f ? d : dx[i] + d;                                                  \
        }                                                                                          \
    }

#define UNARY(id, KEPT, F, DF)                                                                     \
    FORMULA(id, id, KEPT, F, DF)                                                                   \
    dopl_status op_##id##_shape(dopl_rt *rt, dopl_op_call *c) {                                    \
        return op_out_like(rt, c, 0);                                                              \
    }                                                                                              \
    dopl_status op_##id##_cpu(dopl_rt *rt, dopl_op_call *c) {                                      \
        (void)rt;                                                                                  \
        return run_unary(c, id##_forward);                                                         \
    }                                                                                              \
    dopl_status op_##id##_backward(dopl_rt *rt, dopl_node *n) {                                    \
        return run_unary_grad(rt, n, id##_grad);                                                   \
    }

static inline float silu_slope(float x) {
    float s = dopl_sigmoidf(x);
    return s * (1.0f + x * (1.0f - s));
}

// dopl_expf stays finite, which an operator must not: an overflow has to show.
static inline float full_expf(float x) {
    float y = dopl_expf(x);
    y = x < -87.3f ? 0.0f : y;
    return x > 88.7f ? INFINITY : y;
}

// The logarithm of 0 is -inf and of a negative number NaN, which dopl_logf leaves out.
static inline float full_logf(float x) {
    float y = x < 1.17549435e-38f ? -INFINITY : dopl_logf(x);
    y = x < 0.0f || x != x ? NAN : y;
    return x == INFINITY ? INFINITY : y;
}

// Comparisons are turned so that a NaN passes through: the NaN guard must see it.
UNARY(scale, y, x *(float)a->k, dy *(float)a->k)
UNARY(shift, y, x + (float)a->k, dy)
UNARY(exp, y, full_expf(x), dy *y)
UNARY(log, x, full_logf(x), dy / x)
UNARY(sqrt, y, sqrtf(x), dy * 0.5f / y)
UNARY(abs, x, fabsf(x), dy *(float)((x > 0.0f) - (x < 0.0f)))
UNARY(square, x, x *x, 2.0f * dy * x)
UNARY(clamp, x, x<(float)a->min ? (float)a->min : x>(float) a->max ? (float)a->max : x,
      x<(float)a->min || x>(float) a->max ? 0.0f : dy)
UNARY(sigmoid, y, dopl_sigmoidf(x), dy *y *(1.0f - y))
UNARY(log_sigmoid, x, (x > 0.0f ? 0.0f : x) - dopl_softplus_tailf(x), dy *dopl_sigmoidf(-x))
UNARY(tanh, y, dopl_tanhf(x), dy *(1.0f - y * y))
UNARY(relu, y, x<0.0f ? 0.0f : x, y> 0.0f ? dy : 0.0f)
UNARY(silu, x, x *dopl_sigmoidf(x), dy *silu_slope(x))
FORMULA(gelu_tanh_form, gelu, x, gelu_value(x, gelu_tanh(x)), dy *gelu_slope(x, gelu_tanh(x)))
FORMULA(gelu_erf_form, gelu, x, gelu_erf_value(x), dy *gelu_erf_slope(x))

dopl_status op_gelu_shape(dopl_rt *rt, dopl_op_call *c) {
    return op_out_like(rt, c, 0);
}

dopl_status op_gelu_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    bool erf = OP_ATTRS(gelu, c)->form == OP_gelu_form_erf;
    return run_unary(c, erf ? gelu_erf_form_forward : gelu_tanh_form_forward);
}

dopl_status op_gelu_backward(dopl_rt *rt, dopl_node *n) {
    bool erf = OP_ATTRS(gelu, n)->form == OP_gelu_form_erf;
    return run_unary_grad(rt, n, erf ? gelu_erf_form_grad : gelu_tanh_form_grad);
}

// ---- binary

// Strides of a and b over the dimensions of the output, 0 where one of them stretches.
typedef struct {
    int64_t outer[DOPL_MAX_DIM - 1]; // sizes of all but the last dimension, padded with 1 in front
    int64_t cols;
    int64_t a[DOPL_MAX_DIM], b[DOPL_MAX_DIM]; // the last entry: stride along a row, 0 or 1
} pairing;

static dopl_status broadcast_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *a = c->in[0], *b = c->in[1];
    int n = a->n_dim > b->n_dim ? a->n_dim : b->n_dim;
    int64_t dim[DOPL_MAX_DIM];
    for (int i = 0; i < n; i++) {
        int ia = i - (n - a->n_dim), ib = i - (n - b->n_dim);
        int64_t da = ia < 0 ? 1 : a->dim[ia], db = ib < 0 ? 1 : b->dim[ib];
        if (da != db && da != 1 && db != 1)
            return dopl_fail(rt, DOPL_ESHAPE, "%s: %s and %s", c->op->name, dopl_shape_str(a).s,
                             dopl_shape_str(b).s);
        dim[i] = da == 1 ? db : da;
    }
    return op_out(rt, c, c->dtype, n, dim);
}

static void strides(int64_t *out, const dopl_tensor *t) {
    int64_t step = 1;
    for (int i = DOPL_MAX_DIM - 1; i >= 0; i--) {
        int k = i - (DOPL_MAX_DIM - t->n_dim);
        int64_t d = k < 0 ? 1 : t->dim[k];
        out[i] = d == 1 ? 0 : step;
        step *= d;
    }
}

static pairing pair(const dopl_tensor *a, const dopl_tensor *b, const dopl_tensor *out) {
    pairing p;
    for (int i = 0; i < DOPL_MAX_DIM - 1; i++) {
        int k = i - (DOPL_MAX_DIM - out->n_dim);
        p.outer[i] = k < 0 ? 1 : out->dim[k];
    }
    p.cols = dopl_tensor_cols(out);
    strides(p.a, a);
    strides(p.b, b);
    if (dopl_shape_same(a, b)) { // one long row, which threads can share
        p.cols = dopl_tensor_numel(out);
        for (int i = 0; i < DOPL_MAX_DIM - 1; i++) p.outer[i] = 1;
        p.a[DOPL_MAX_DIM - 1] = p.b[DOPL_MAX_DIM - 1] = 1;
    }
    return p;
}

static int64_t pair_rows(const pairing *p) {
    return p->outer[0] * p->outer[1] * p->outer[2];
}

static void pair_offsets(const pairing *p, int64_t row, int64_t *a, int64_t *b) {
    int64_t i2 = row % p->outer[2], i1 = row / p->outer[2] % p->outer[1];
    int64_t i0 = row / p->outer[2] / p->outer[1];
    *a = i0 * p->a[0] + i1 * p->a[1] + i2 * p->a[2];
    *b = i0 * p->b[0] + i1 * p->b[1] + i2 * p->b[2];
}

typedef void binary_fn(float *restrict out, const float *a, const float *b, int64_t n, int64_t sa,
                       int64_t sb);

#define BINARY(id, F)                                                                              \
    DOPL_SIMD static void id##_row(float *restrict out, const float *pa, const float *pb,          \
                                   int64_t n, int64_t sa, int64_t sb) {                            \
        if (sa == 1 && sb == 1) {                                                                  \
            for (int64_t i = 0; i < n; i++) {                                                      \
                float a = pa[i], b = pb[i];                                                        \
                out[i] = F;                                                                        \
            }                                                                                      \
        } else {                                                                                   \
            for (int64_t i = 0; i < n; i++) {                                                      \
                float a = pa[i * sa], b = pb[i * sb];                                              \
                out[i] = F;                                                                        \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    dopl_status op_##id##_shape(dopl_rt *rt, dopl_op_call *c) {                                    \
        return broadcast_shape(rt, c);                                                             \
    }                                                                                              \
    dopl_status op_##id##_cpu(dopl_rt *rt, dopl_op_call *c) {                                      \
        (void)rt;                                                                                  \
        run_binary(id##_row, c);                                                                   \
        return DOPL_OK;                                                                            \
    }

static void run_binary(binary_fn *f, const dopl_op_call *c) {
    pairing p = pair(c->in[0], c->in[1], c->out);
    const float *a = dopl_f32(c->in[0]), *b = dopl_f32(c->in[1]);
    float *y = dopl_f32(c->out);
    int64_t rows = pair_rows(&p), sa = p.a[DOPL_MAX_DIM - 1], sb = p.b[DOPL_MAX_DIM - 1];
    int64_t pieces = (p.cols + OP_GRAIN - 1) / OP_GRAIN;
#pragma omp parallel for collapse(2) schedule(static) if (rows * p.cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < pieces; k++) {
            int64_t oa, ob, i = k * OP_GRAIN, n = p.cols - i < OP_GRAIN ? p.cols - i : OP_GRAIN;
            pair_offsets(&p, r, &oa, &ob);
            f(y + r * p.cols + i, a + oa + i * sa, b + ob + i * sb, n, sa, sb);
        }
}

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a *b)
BINARY(div, a / b)

// How much an element of dy adds to the gradient of one side.
typedef enum { BY_ONE, BY_MINUS_ONE, BY_OTHER, BY_RECIPROCAL, BY_QUOTIENT } slope;

static inline float slope_of(slope how, float a, float b) {
    switch (how) {
    case BY_ONE:
        return 1.0f;
    case BY_MINUS_ONE:
        return -1.0f;
    case BY_OTHER:
        return b; // of the side that is asked for; the caller swaps
    case BY_RECIPROCAL:
        return 1.0f / b;
    default:
        return -a / (b * b);
    }
}

// dx[side] = beta dx + dy * slope, summed over the dimensions along which the side was stretched.
static dopl_status binary_grad(dopl_rt *rt, dopl_node *n, int side, slope how) {
    if (!dopl_grad_wants(n, side)) return DOPL_OK;
    bool same = dopl_shape_same(&n->in[side], &n->out);
    if (how == BY_ONE && same) return dopl_grad_share(rt, n, side, &n->dout);
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, side, &dx, &beta));
    if (beta == 0.0f) memset(dopl_data(dx), 0, dx->storage->bytes);
    pairing p = pair(&n->in[0], &n->in[1], &n->out);
    bool reads = how >= BY_OTHER; // the others kept no input
    const float *a = reads ? dopl_f32(&n->in[0]) : NULL, *b = reads ? dopl_f32(&n->in[1]) : NULL;
    const float *dy = dopl_f32(&n->dout);
    int64_t rows = pair_rows(&p), sa = p.a[DOPL_MAX_DIM - 1], sb = p.b[DOPL_MAX_DIM - 1];
    int64_t s = side == 0 ? sa : sb;
    float *d = dopl_f32(dx);
    // One thread: a stretched side is summed into, and large same-shape products are rare in
    // models.
    for (int64_t r = 0; r < rows; r++) {
        int64_t oa, ob;
        pair_offsets(&p, r, &oa, &ob);
        float *row = d + (side == 0 ? oa : ob);
        for (int64_t i = 0; i < p.cols; i++) {
            float va = reads ? a[oa + i * sa] : 0.0f, vb = reads ? b[ob + i * sb] : 0.0f;
            float k = how == BY_OTHER && side == 1 ? va : slope_of(how, va, vb);
            row[i * s] += dy[r * p.cols + i] * k;
        }
    }
    return DOPL_OK;
}

dopl_status op_add_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_ONE));
    return binary_grad(rt, n, 1, BY_ONE);
}

dopl_status op_sub_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_ONE));
    return binary_grad(rt, n, 1, BY_MINUS_ONE);
}

dopl_status op_mul_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_OTHER));
    return binary_grad(rt, n, 1, BY_OTHER);
}

dopl_status op_div_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_RECIPROCAL));
    return binary_grad(rt, n, 1, BY_QUOTIENT);
}

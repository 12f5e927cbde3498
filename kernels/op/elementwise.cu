// elementwise.cu - operators that look at one element of each input at a time.
//
// Unary operators are the table of runtime/op/elementwise.c again: a formula and its derivative in
// terms of x, the output y and dy. Binary ones broadcast; the gradient of a stretched side is a sum
// over the dimensions along which it was stretched, in a fixed order.
#include "../elements.cuh"
#include "../gelu.cuh"
#include "../sums.cuh"

// ---- unary

// What formulas need of attributes, in f32.
struct constants {
    float k, min, max;
    float zero; // in the place of padding: equal launches are equal bytes
};

static constants constants_of(const op_scale_attrs *a) {
    return { (float)a->k, 0.0f, 0.0f, 0.0f };
}

static constants constants_of(const op_shift_attrs *a) {
    return { (float)a->k, 0.0f, 0.0f, 0.0f };
}

static constants constants_of(const op_clamp_attrs *a) {
    return { 0.0f, (float)a->min, (float)a->max, 0.0f };
}

template <class A> static constants constants_of(const A *) {
    return {};
}

template <class R, class T> struct unary_value {
    T *y;       // [n]
    const T *x; // [n]
    constants a;
    template <int N> __device__ void at(int64_t i) const {
        float v[N];
        load_elements<N>(v, x + i);
        for (int k = 0; k < N; k++) v[k] = R::value(v[k], a);
        store_elements<N>(y + i, v);
    }
};

template <class R, class T, class G> struct unary_slope {
    G *dx;              // [n]
    const T *dy, *kept; // [n]; kept: x or y, whichever the formula is in terms of
    float beta;
    constants a;
    template <int N> __device__ void at(int64_t i) const {
        float d[N], v[N];
        load_elements<N>(d, dy + i);
        load_elements<N>(v, kept + i);
        for (int k = 0; k < N; k++) d[k] = R::slope(v[k], d[k], a);
        add_elements<N>(dx + i, d, beta);
    }
};

template <class R> static dopl_status unary(dopl_rt *rt, dopl_op_call *c) {
    DISPATCH(c->dtype, T, {
        unary_value<R, T> f = { data_of<T>(c->out), data_of<T>(c->in[0]), R::of(c) };
        return pointwise<T>(rt, c->op->name, f, dopl_tensor_numel(c->out), aligned(f.y, f.x));
    });
}

template <class R> static dopl_status unary_grad(dopl_rt *rt, dopl_node *n) {
    const dopl_tensor *kept = n->out.storage ? &n->out : n->in[0].storage ? &n->in[0] : &n->dout;
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        unary_slope<R, T, G> f = { data_of<G>(d), data_of<T>(&n->dout), data_of<T>(kept), beta,
                                   R::of(n) };
        return pointwise<T>(rt, n->name, f, dopl_tensor_numel(d), aligned(f.dx, f.dy, f.kept));
    });
}

// A formula of operator `op`.
#define FORMULA(id, op, KEPT, F, DF)                                                               \
    struct id##_rule {                                                                             \
        template <class C> static constants of(const C *call_or_node) {                            \
            return constants_of(OP_ATTRS(op, call_or_node));                                       \
        }                                                                                          \
        static __device__ __forceinline__ float value(float x, constants a) {                      \
            (void)a;                                                                               \
            return F;                                                                              \
        }                                                                                          \
        static __device__ __forceinline__ float slope(float KEPT, float dy, constants a) {         \
            (void)KEPT, (void)a;                                                                   \
            return DF;                                                                             \
        }                                                                                          \
    };

#define UNARY(id, KEPT, F, DF)                                                                     \
    FORMULA(id, id, KEPT, F, DF)                                                                   \
    dopl_status op_##id##_cuda(dopl_rt *rt, dopl_op_call *c) {                                     \
        return unary<id##_rule>(rt, c);                                                            \
    }                                                                                              \
    dopl_status op_##id##_cuda_backward(dopl_rt *rt, dopl_node *n) {                               \
        return unary_grad<id##_rule>(rt, n);                                                       \
    }

__device__ __forceinline__ float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// Comparisons are turned so that a NaN passes through: the NaN guard must see it.
// clang-format off
UNARY(scale, y, x * a.k, dy * a.k)
UNARY(shift, y, x + a.k, dy)
UNARY(exp, y, expf(x), dy * y)
UNARY(log, x, logf(x), dy / x)
UNARY(sqrt, y, sqrtf(x), dy * 0.5f / y)
UNARY(abs, x, fabsf(x), dy * (float)((x > 0.0f) - (x < 0.0f)))
UNARY(square, x, x * x, 2.0f * dy * x)
UNARY(clamp, x, x < a.min ? a.min : x > a.max ? a.max : x, x < a.min || x > a.max ? 0.0f : dy)
UNARY(sigmoid, y, sigmoid(x), dy * y * (1.0f - y))
UNARY(log_sigmoid, x, (x > 0.0f ? 0.0f : x) - log1pf(expf(-fabsf(x))), dy * sigmoid(-x))
UNARY(tanh, y, tanhf(x), dy * (1.0f - y * y))
UNARY(relu, y, x < 0.0f ? 0.0f : x, y > 0.0f ? dy : 0.0f)
UNARY(silu, x, x * sigmoid(x), dy * silu_slope(x))
FORMULA(gelu_tanh_form, gelu, x, gelu_value(x), dy * gelu_slope(x))
FORMULA(gelu_erf_form, gelu, x, gelu_erf_value(x), dy * gelu_erf_slope(x))
// clang-format on

dopl_status op_gelu_cuda(dopl_rt *rt, dopl_op_call *c) {
    if (OP_ATTRS(gelu, c)->form == OP_gelu_form_erf) return unary<gelu_erf_form_rule>(rt, c);
    return unary<gelu_tanh_form_rule>(rt, c);
}

dopl_status op_gelu_cuda_backward(dopl_rt *rt, dopl_node *n) {
    if (OP_ATTRS(gelu, n)->form == OP_gelu_form_erf) return unary_grad<gelu_erf_form_rule>(rt, n);
    return unary_grad<gelu_tanh_form_rule>(rt, n);
}

// ---- binary

// Dimensions of the output, neighbours merged where both sides step through them evenly, padded
// with 1 in front; strides of a and b along them, 0 where one of them stretches.
struct pairing {
    int64_t dim[DOPL_MAX_DIM], a[DOPL_MAX_DIM], b[DOPL_MAX_DIM];
    bool flat; // neither stretches: index i of the output is index i of both
};

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
    int64_t sa[DOPL_MAX_DIM], sb[DOPL_MAX_DIM];
    strides(sa, a);
    strides(sb, b);
    for (int i = 0; i < DOPL_MAX_DIM; i++) {
        p.dim[i] = 1;
        p.a[i] = p.b[i] = 0;
    }
    int at = DOPL_MAX_DIM; // the outermost entry in use
    for (int i = DOPL_MAX_DIM - 1; i >= 0; i--) {
        int k = i - (DOPL_MAX_DIM - out->n_dim);
        int64_t d = k < 0 ? 1 : out->dim[k];
        if (d == 1) continue;
        if (at < DOPL_MAX_DIM && sa[i] == p.a[at] * p.dim[at] && sb[i] == p.b[at] * p.dim[at]) {
            p.dim[at] *= d;
            continue;
        }
        at--;
        p.dim[at] = d;
        p.a[at] = sa[i];
        p.b[at] = sb[i];
    }
    p.flat = dopl_shape_same(a, b);
    return p;
}

// Whether N elements from a multiple of N on lie in one row of the output and are loaded as packs:
// of each side that does not stretch along the row, rows must start at multiples of N.
static bool pairs_pack(const pairing *p, int n) {
    bool ok = p->dim[DOPL_MAX_DIM - 1] % n == 0;
    for (int i = 0; i < DOPL_MAX_DIM - 1; i++)
        ok = ok && (p->a[3] == 0 || p->a[i] % n == 0) && (p->b[3] == 0 || p->b[i] % n == 0);
    return p->flat || ok;
}

// Where element i of the output takes its inputs from.
__device__ __forceinline__ void pair_offsets(const pairing &p, int64_t i, int64_t *a, int64_t *b) {
    *a = *b = i;
    if (p.flat) return;
    *a = *b = 0;
    for (int d = DOPL_MAX_DIM - 1; d >= 0; d--) {
        if (p.dim[d] == 1) break; // so are those further out
        int64_t rest = i / p.dim[d], here = i - rest * p.dim[d];
        *a += here * p.a[d];
        *b += here * p.b[d];
        i = rest;
    }
}

// N elements of one side along a row of the output, or one of it N times.
template <int N, class T>
__device__ __forceinline__ void load_side(float (&v)[N], const T *p, bool stretched) {
    if (stretched) {
        float one = to_float(*p);
        for (int k = 0; k < N; k++) v[k] = one;
    } else {
        load_elements<N>(v, p);
    }
}

template <class R, class T> struct binary_value {
    T *y;           // [n]
    const T *a, *b; // as `p` says
    pairing p;
    template <int N> __device__ void at(int64_t i) const {
        int64_t oa, ob;
        float va[N], vb[N];
        pair_offsets(p, i, &oa, &ob);
        load_side<N>(va, a + oa, !p.flat && p.a[DOPL_MAX_DIM - 1] == 0);
        load_side<N>(vb, b + ob, !p.flat && p.b[DOPL_MAX_DIM - 1] == 0);
        for (int k = 0; k < N; k++) va[k] = R::value(va[k], vb[k]);
        store_elements<N>(y + i, va);
    }
};

template <class R> static dopl_status binary(dopl_rt *rt, dopl_op_call *c) {
    pairing p = pair(c->in[0], c->in[1], c->out);
    DISPATCH(c->dtype, T, {
        binary_value<R, T> f = { data_of<T>(c->out), data_of<T>(c->in[0]), data_of<T>(c->in[1]),
                                 p };
        bool packed = pairs_pack(&p, pack<T>::N) && aligned(f.y, f.a, f.b);
        return pointwise<T>(rt, c->op->name, f, dopl_tensor_numel(c->out), packed);
    });
}

#define BINARY(id, F)                                                                              \
    struct id##_rule {                                                                             \
        static __device__ __forceinline__ float value(float a, float b) { return F; }              \
    };                                                                                             \
    dopl_status op_##id##_cuda(dopl_rt *rt, dopl_op_call *c) {                                     \
        return binary<id##_rule>(rt, c);                                                           \
    }

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a *b)
BINARY(div, a / b)

// How much an element of dy adds to the gradient of one side.
typedef enum { BY_ONE, BY_MINUS_ONE, BY_A, BY_B, BY_RECIPROCAL, BY_QUOTIENT } slope;

__device__ __forceinline__ float slope_of(slope how, float a, float b) {
    switch (how) {
    case BY_ONE:
        return 1.0f;
    case BY_MINUS_ONE:
        return -1.0f;
    case BY_A:
        return a;
    case BY_B:
        return b;
    case BY_RECIPROCAL:
        return 1.0f / b;
    default:
        return -a / (b * b);
    }
}

// dy times the slope, for N elements of a row of the output.
template <class T> struct paired_slope {
    const T *dy;
    const T *a, *b; // nullptr: the slope does not need it
    slope how;
    bool one_a, one_b; // that side stretches along rows
    template <int N> __device__ void at(float (&d)[N], int64_t i, int64_t oa, int64_t ob) const {
        float va[N] = {}, vb[N] = {};
        load_elements<N>(d, dy + i);
        if (a) load_side<N>(va, a + oa, one_a);
        if (b) load_side<N>(vb, b + ob, one_b);
        for (int k = 0; k < N; k++) d[k] *= slope_of(how, va[k], vb[k]);
    }
};

// The gradient of a side that has the shape of the output.
template <class T, class G> struct binary_slope {
    G *dx; // [n]
    paired_slope<T> s;
    pairing p;
    float beta;
    template <int N> __device__ void at(int64_t i) const {
        int64_t oa, ob;
        float d[N];
        pair_offsets(p, i, &oa, &ob);
        s.template at<N>(d, i, oa, ob);
        add_elements<N>(dx + i, d, beta);
    }
};

// Some dimensions of a pairing, in order, with the steps that the output and both sides make.
struct walk {
    int n;
    int64_t dim[DOPL_MAX_DIM], y[DOPL_MAX_DIM], a[DOPL_MAX_DIM], b[DOPL_MAX_DIM];
};

__device__ __forceinline__ void walk_to(const walk &w, int64_t i, int64_t *y, int64_t *a,
                                        int64_t *b) {
    for (int d = w.n - 1; d >= 0; d--) {
        int64_t rest = d ? i / w.dim[d] : 0, here = i - rest * w.dim[d];
        *y += here * w.y[d];
        *a += here * w.a[d];
        *b += here * w.b[d];
        i = rest;
    }
}

// The terms of the gradient of a stretched side: index k along the dimensions it has, r along those
// it does not have.
template <class T> struct stretched_slope {
    paired_slope<T> s;
    walk kept, summed;
    template <int N> __device__ void at(float (&v)[N], int64_t k, int64_t r) const {
        int64_t y = 0, a = 0, b = 0;
        walk_to(kept, k, &y, &a, &b);
        walk_to(summed, r, &y, &a, &b);
        s.template at<N>(v, y, a, b);
    }
};

static int64_t walk_add(walk *w, const pairing *p, int d, int64_t step) {
    w->dim[w->n] = p->dim[d];
    w->y[w->n] = step;
    w->a[w->n] = p->a[d];
    w->b[w->n] = p->b[d];
    w->n++;
    return p->dim[d];
}

template <class T, class G>
static dopl_status stretched_grad(dopl_rt *rt, dopl_node *n, int side, const pairing &p,
                                  const paired_slope<T> &s, G *dx, float beta, bool packed) {
    stretched_slope<T> f = {};
    f.s = s;
    const int64_t *stride = side == 0 ? p.a : p.b;
    int64_t K = 1, R = 1, step = dopl_tensor_numel(&n->out);
    bool along = false; // whether the last dimension is summed
    for (int d = 0; d < DOPL_MAX_DIM; d++) {
        if (p.dim[d] == 1) continue;
        step /= p.dim[d];
        along = stride[d] == 0;
        if (along)
            R *= walk_add(&f.summed, &p, d, step);
        else
            K *= walk_add(&f.kept, &p, d, step);
    }
    if (along) return row_sums<T>(rt, n->name, dx, f, K, R, packed, 1.0f, beta);
    return column_sums<T>(rt, n->name, dx, f, K, R, packed, 1.0f, beta);
}

// dx[side] = beta dx + dy * slope, summed over the dimensions along which the side was stretched.
static dopl_status binary_grad(dopl_rt *rt, dopl_node *n, int side, slope how) {
    if (!dopl_grad_wants(n, side)) return DOPL_OK;
    bool same = dopl_tensor_numel(&n->in[side]) == dopl_tensor_numel(&n->out);
    if (how == BY_ONE && dopl_shape_same(&n->in[side], &n->out))
        return dopl_grad_share(rt, n, side, &n->dout);
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, side, &d, &beta));
    if (dopl_tensor_numel(&n->out) == 0) // a sum of nothing
        return beta == 0.0f ? dopl_tensor_fill(rt, d, 0.0) : DOPL_OK;
    pairing p = pair(&n->in[0], &n->in[1], &n->out);
    bool needs_a = how == BY_A || how == BY_QUOTIENT, needs_b = how >= BY_B;
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        paired_slope<T> s = { data_of<T>(&n->dout),
                              needs_a ? data_of<T>(&n->in[0]) : NULL,
                              needs_b ? data_of<T>(&n->in[1]) : NULL,
                              how,
                              !p.flat && p.a[DOPL_MAX_DIM - 1] == 0,
                              !p.flat && p.b[DOPL_MAX_DIM - 1] == 0 };
        G *dx = data_of<G>(d);
        bool packed = pairs_pack(&p, pack<T>::N) && aligned(s.dy, s.a, s.b);
        if (!same) return stretched_grad<T, G>(rt, n, side, p, s, dx, beta, packed);
        binary_slope<T, G> f = { dx, s, p, beta };
        return pointwise<T>(rt, n->name, f, dopl_tensor_numel(d), packed && aligned(dx));
    });
}

dopl_status op_add_cuda_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_ONE));
    return binary_grad(rt, n, 1, BY_ONE);
}

dopl_status op_sub_cuda_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_ONE));
    return binary_grad(rt, n, 1, BY_MINUS_ONE);
}

dopl_status op_mul_cuda_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_B));
    return binary_grad(rt, n, 1, BY_A);
}

dopl_status op_div_cuda_backward(dopl_rt *rt, dopl_node *n) {
    DOPL_TRY(binary_grad(rt, n, 0, BY_RECIPROCAL));
    return binary_grad(rt, n, 1, BY_QUOTIENT);
}

// shape.c - operators that give the same memory another shape or a smaller window.
//
// They set the output's storage in their shape rule, so nothing is allocated and nothing is
// computed.
#include "op.h"

#include <string.h>

static void window(dopl_op_call *c, int64_t first_element) {
    const dopl_tensor *x = c->in[0];
    c->out->storage = x->storage;
    c->out->storage->refs++;
    c->out->offset = x->offset + first_element * (int64_t)dopl_dtype_bytes(x->dtype);
}

// The gradient of a window: zeros but for dy at `first` (elements).
static dopl_status window_grad(dopl_rt *rt, dopl_node *n, int64_t first) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    if (beta == 0.0f) memset(dopl_data(d), 0, d->storage->bytes);
    float *dx = dopl_f32(d) + first;
    const float *dy = dopl_f32(&n->dout);
    int64_t count = dopl_tensor_numel(&n->out);
    for (int64_t i = 0; i < count; i++) dx[i] += dy[i];
    return DOPL_OK;
}

// ---- slice

static int64_t inner(const dopl_tensor *t) {
    int64_t n = 1;
    for (int i = 1; i < t->n_dim; i++) n *= t->dim[i];
    return n;
}

dopl_status op_slice_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0];
    int64_t first = OP_ATTRS(slice, c)->first, count = OP_ATTRS(slice, c)->count;
    if (x->n_dim < 1 || first < 0 || count < 0 || first > x->dim[0] - count)
        return dopl_fail(rt, DOPL_ESHAPE, "slice: %lld from %lld of %s", (long long)count,
                         (long long)first, dopl_shape_str(x).s);
    int64_t dim[DOPL_MAX_DIM];
    memcpy(dim, x->dim, sizeof dim);
    dim[0] = count;
    DOPL_TRY(op_out(rt, c, x->dtype, x->n_dim, dim));
    window(c, first * inner(x));
    return DOPL_OK;
}

dopl_status op_slice_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt, (void)c;
    return DOPL_OK;
}

dopl_status op_slice_backward(dopl_rt *rt, dopl_node *n) {
    return window_grad(rt, n, OP_ATTRS(slice, n)->first * inner(&n->in[0]));
}

// ---- select

dopl_status op_select_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0];
    int64_t index = OP_ATTRS(select, c)->index;
    if (x->n_dim < 1 || index < 0 || index >= x->dim[0])
        return dopl_fail(rt, DOPL_ESHAPE, "select: index %lld of %s", (long long)index,
                         dopl_shape_str(x).s);
    DOPL_TRY(op_out(rt, c, x->dtype, x->n_dim - 1, x->dim + 1));
    window(c, index * inner(x));
    return DOPL_OK;
}

dopl_status op_select_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt, (void)c;
    return DOPL_OK;
}

dopl_status op_select_backward(dopl_rt *rt, dopl_node *n) {
    return window_grad(rt, n, OP_ATTRS(select, n)->index * inner(&n->in[0]));
}

// ---- view

dopl_status op_view_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0];
    const op_view_attrs *a = OP_ATTRS(view, c);
    int64_t dim[DOPL_MAX_DIM] = { a->d1, a->d2, a->d3, a->d4 };
    int64_t known = 1, numel = dopl_tensor_numel(x);
    int n = 0, open = -1;
    for (; n < DOPL_MAX_DIM && dim[n] != -2; n++) {
        if (dim[n] == -1 && open < 0)
            open = n;
        else if (dim[n] < 0)
            return dopl_fail(rt, DOPL_EARG, "view: dimension %d is %lld, at most one may be -1",
                             n + 1, (long long)dim[n]);
        else if (__builtin_mul_overflow(known, dim[n], &known))
            return dopl_fail(rt, DOPL_ESHAPE, "view: %s as dimensions of %lld and more elements",
                             dopl_shape_str(x).s, (long long)dim[n]);
    }
    if (open >= 0) dim[open] = known ? numel / known : 0;
    if (open >= 0 ? dim[open] * known != numel : known != numel) {
        dopl_tensor asked = { .n_dim = n };
        memcpy(asked.dim, dim, sizeof dim);
        if (open >= 0) asked.dim[open] = -1;
        return dopl_fail(rt, DOPL_ESHAPE, "view: %s as %s", dopl_shape_str(x).s,
                         dopl_shape_str(&asked).s);
    }
    DOPL_TRY(op_out(rt, c, x->dtype, n, dim));
    window(c, 0);
    return DOPL_OK;
}

dopl_status op_view_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt, (void)c;
    return DOPL_OK;
}

dopl_status op_view_backward(dopl_rt *rt, dopl_node *n) {
    return dopl_grad_share(rt, n, 0, &n->dout);
}

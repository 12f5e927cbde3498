// reduce.c - sums, means, softmax over the last dimension, sums by packed sequence.
//
// Sums are accumulated in f64 over fixed blocks, so that the result does not depend on threads.
#include "op.h"
#include "row.h"
#include "../core/simd.h"

#include <string.h>

static double sum_of(const float *x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    return sum;
}

// dx[i] = beta dx[i] + value
static void add_constant(dopl_tensor *dx, float beta, float value) {
    int64_t n = dopl_tensor_numel(dx);
    float *p = dopl_f32(dx);
    for (int64_t i = 0; i < n; i++) p[i] = beta == 0.0f ? value : p[i] + value;
}

// ---- sum, mean

dopl_status op_sum_shape(dopl_rt *rt, dopl_op_call *c) {
    return op_out(rt, c, c->dtype, 0, NULL);
}

dopl_status op_sum_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    *dopl_f32(c->out) = (float)sum_of(dopl_f32(c->in[0]), dopl_tensor_numel(c->in[0]));
    return DOPL_OK;
}

dopl_status op_sum_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
    add_constant(dx, beta, *dopl_f32(&n->dout));
    return DOPL_OK;
}

dopl_status op_mean_shape(dopl_rt *rt, dopl_op_call *c) {
    if (dopl_tensor_numel(c->in[0]) == 0)
        return dopl_fail(rt, DOPL_ESHAPE, "mean: %s has no elements", dopl_shape_str(c->in[0]).s);
    return op_out(rt, c, c->dtype, 0, NULL);
}

dopl_status op_mean_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    int64_t n = dopl_tensor_numel(c->in[0]);
    *dopl_f32(c->out) = (float)(sum_of(dopl_f32(c->in[0]), n) / (double)n);
    return DOPL_OK;
}

dopl_status op_mean_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
    add_constant(dx, beta, *dopl_f32(&n->dout) / (float)dopl_tensor_numel(dx));
    return DOPL_OK;
}

// ---- sum_last

dopl_status op_sum_last_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0];
    if (x->n_dim < 1)
        return dopl_fail(rt, DOPL_ESHAPE, "sum_last: a scalar, needs at least one dimension");
    return op_out(rt, c, c->dtype, x->n_dim - 1, x->dim);
}

dopl_status op_sum_last_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    int64_t rows = dopl_tensor_numel(c->out), cols = dopl_tensor_cols(c->in[0]);
    const float *x = dopl_f32(c->in[0]);
    float *y = dopl_f32(c->out);
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++) y[r] = (float)sum_of(x + r * cols, cols);
    return DOPL_OK;
}

dopl_status op_sum_last_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
    int64_t rows = dopl_tensor_numel(&n->out), cols = dopl_tensor_cols(dx);
    const float *dy = dopl_f32(&n->dout);
    float *p = dopl_f32(dx);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = r * cols; i < (r + 1) * cols; i++)
            p[i] = beta == 0.0f ? dy[r] : p[i] + dy[r];
    return DOPL_OK;
}

// ---- segment_sum

dopl_status op_segment_sum_shape(dopl_rt *rt, dopl_op_call *c) {
    DOPL_TRY(op_want_dims(rt, c, 0, 1));
    DOPL_TRY(op_check_offsets(rt, "segment_sum", c->in[1], c->in[0]->dim[0]));
    return op_out(rt, c, c->dtype, 1, (int64_t[]){ c->in[1]->dim[0] - 1 });
}

dopl_status op_segment_sum_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    const int32_t *o = dopl_i32(c->in[1]);
    for (int64_t b = 0; b < c->out->dim[0]; b++)
        dopl_f32(c->out)[b] = (float)sum_of(dopl_f32(c->in[0]) + o[b], o[b + 1] - o[b]);
    return DOPL_OK;
}

dopl_status op_segment_sum_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *dx;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
    const int32_t *o = dopl_i32(&n->in[1]);
    const float *dy = dopl_f32(&n->dout);
    float *p = dopl_f32(dx);
    for (int64_t b = 0; b < n->out.dim[0]; b++)
        for (int32_t i = o[b]; i < o[b + 1]; i++) p[i] = beta == 0.0f ? dy[b] : p[i] + dy[b];
    return DOPL_OK;
}

// ---- softmax, log_softmax

typedef void row_fn(float *restrict y, const float *restrict x, int64_t n);
typedef void row_grad_fn(float *restrict dx, const float *restrict dy, const float *restrict y,
                         int64_t n, float beta);

DOPL_SIMD static void softmax_row(float *restrict y, const float *restrict x, int64_t n) {
    float lse = op_row_log_sum_exp(x, n);
    for (int64_t i = 0; i < n; i++) y[i] = dopl_expf(x[i] - lse);
}

DOPL_SIMD static void log_softmax_row(float *restrict y, const float *restrict x, int64_t n) {
    float lse = op_row_log_sum_exp(x, n);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] - lse;
}

DOPL_SIMD static void softmax_row_grad(float *restrict dx, const float *restrict dy,
                                       const float *restrict y, int64_t n, float beta) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++) dot += dy[i] * y[i];
    for (int64_t i = 0; i < n; i++) {
        float d = y[i] * (dy[i] - dot);
        dx[i] = beta == 0.0f ? d : dx[i] + d;
    }
}

DOPL_SIMD static void log_softmax_row_grad(float *restrict dx, const float *restrict dy,
                                           const float *restrict y, int64_t n, float beta) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += dy[i];
    for (int64_t i = 0; i < n; i++) {
        float d = dy[i] - dopl_expf(y[i]) * sum;
        dx[i] = beta == 0.0f ? d : dx[i] + d;
    }
}

static dopl_status row_shape(dopl_rt *rt, dopl_op_call *c) {
    if (c->in[0]->n_dim < 1)
        return dopl_fail(rt, DOPL_ESHAPE, "%s: a scalar, needs at least one dimension",
                         c->op->name);
    return op_out_like(rt, c, 0);
}

static void each_row(const dopl_op_call *c, row_fn *f) {
    int64_t rows = dopl_tensor_rows(c->out), cols = dopl_tensor_cols(c->out);
    const float *x = dopl_f32(c->in[0]);
    float *y = dopl_f32(c->out);
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++) f(y + r * cols, x + r * cols, cols);
}

static dopl_status each_row_grad(dopl_rt *rt, dopl_node *n, row_grad_fn *f) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t rows = dopl_tensor_rows(d), cols = dopl_tensor_cols(d);
    float *dx = dopl_f32(d);
    const float *dy = dopl_f32(&n->dout), *y = dopl_f32(&n->out);
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++) f(dx + r * cols, dy + r * cols, y + r * cols, cols, beta);
    return DOPL_OK;
}

dopl_status op_softmax_shape(dopl_rt *rt, dopl_op_call *c) {
    return row_shape(rt, c);
}

dopl_status op_softmax_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    each_row(c, softmax_row);
    return DOPL_OK;
}

dopl_status op_softmax_backward(dopl_rt *rt, dopl_node *n) {
    return each_row_grad(rt, n, softmax_row_grad);
}

dopl_status op_log_softmax_shape(dopl_rt *rt, dopl_op_call *c) {
    return row_shape(rt, c);
}

dopl_status op_log_softmax_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    each_row(c, log_softmax_row);
    return DOPL_OK;
}

dopl_status op_log_softmax_backward(dopl_rt *rt, dopl_node *n) {
    return each_row_grad(rt, n, log_softmax_row_grad);
}

// matmul.c - dense layers, two of them with GELU between, and plain matrix products, on oneDNN.
#include "op.h"
#include "gelu.h"
#include "gemm.h"
#include "weight.h"
#include "../core/simd.h"

#include <string.h>

// ---- linear

dopl_status op_linear_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0], *w = c->in[1], *b = c->in[2];
    if (x->n_dim != 2 || w->n_dim != 2 || x->dim[1] != w->dim[1])
        return dopl_fail(rt, DOPL_ESHAPE, "linear: x %s and weight %s, need [T, C] and [O, C]",
                         dopl_shape_str(x).s, dopl_shape_str(w).s);
    if (b && (b->n_dim != 1 || b->dim[0] != w->dim[0]))
        return dopl_fail(rt, DOPL_ESHAPE, "linear: weight %s and bias %s, need [O, C] and [O]",
                         dopl_shape_str(w).s, dopl_shape_str(b).s);
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ x->dim[0], w->dim[0] });
}

// y [T, O] = x [T, C] w^T + b; b: NULL for none.
static dopl_status layer(dopl_rt *rt, const char *name, int64_t T, const float *x,
                         const dopl_tensor *w, const dopl_tensor *b, float *y) {
    int64_t O = w->dim[0];
    dopl_tensor bias;
    DOPL_TRY(op_weight_f32(rt, &bias, b));
    if (b) {
        const float *from = dopl_f32(&bias);
#pragma omp parallel for schedule(static) if (T * O > OP_GRAIN)
        for (int64_t t = 0; t < T; t++) memcpy(y + t * O, from, (size_t)O * sizeof *y);
    }
    dopl_tensor_release(rt, &bias);
    return op_weight_apply(rt, name, w, T, x, b != NULL, y);
}

dopl_status op_linear_cpu(dopl_rt *rt, dopl_op_call *c) {
    return layer(rt, "linear", c->out->dim[0], dopl_f32(c->in[0]), c->in[1], c->in[2],
                 dopl_f32(c->out));
}

DOPL_SIMD static void add_rows(float *restrict sum, const float *restrict x, int64_t rows,
                               int64_t cols, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++) sum[i] += x[r * ld + i];
}

// sum[i] = beta sum[i] + column sums of x [rows, cols]; threads share the columns.
static void column_sums(float *sum, const float *x, int64_t rows, int64_t cols, float beta) {
    enum { STRIP = 256 };
    if (beta == 0.0f) memset(sum, 0, (size_t)cols * sizeof *sum);
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t i = 0; i < cols; i += STRIP)
        add_rows(sum + i, x + i, rows, cols - i < STRIP ? cols - i : STRIP, cols);
}

// Gradients of a layer's weight, input `weight` of the node, and of its bias, the input after that:
// dW = dy^T x and the column sums of dy, for x [T, C] and dy [T, O].
static dopl_status parameter_grads(dopl_rt *rt, dopl_node *n, int weight, int64_t T, const float *x,
                                   const float *dy) {
    int64_t O = n->in[weight].dim[0], C = n->in[weight].dim[1];
    dopl_tensor *d;
    float beta;
    if (dopl_grad_wants(n, weight)) {
        DOPL_TRY(dopl_grad_into(rt, n, weight, &d, &beta));
        DOPL_TRY(op_gemm_status(
            rt, n->name,
            op_gemm(rt, true, false, O, C, T, 1.0f, dy, O, x, C, beta, dopl_f32(d), C)));
    }
    if (dopl_grad_wants(n, weight + 1)) {
        DOPL_TRY(dopl_grad_into(rt, n, weight + 1, &d, &beta));
        column_sums(dopl_f32(d), dy, T, O, beta);
    }
    return DOPL_OK;
}

// Gradients of a layer whose x, weight and bias are the node's first inputs; dy is [T, O].
static dopl_status layer_grads(dopl_rt *rt, dopl_node *n, int64_t T, const float *dy) {
    dopl_tensor *dx;
    float beta;
    if (dopl_grad_wants(n, 0)) { // dx = dy W
        DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
        DOPL_TRY(op_weight_backward(rt, n->name, &n->in[1], T, dy, beta, dopl_f32(dx)));
    }
    return parameter_grads(rt, n, 1, T, dopl_f32(&n->in[0]), dy);
}

dopl_status op_linear_backward(dopl_rt *rt, dopl_node *n) {
    return layer_grads(rt, n, n->out.dim[0], dopl_f32(&n->dout));
}

// ---- mlp
//
// What goes into GELU is kept for the backward and what comes out is not: the gradient has to look
// at every element of the first again in any case, and one tanh gives it the second too.

dopl_status op_mlp_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0], *in = c->in[1], *out = c->in[3];
    if (x->n_dim != 2 || in->n_dim != 2 || x->dim[1] != in->dim[1])
        return dopl_fail(rt, DOPL_ESHAPE, "mlp: x %s and first weight %s, need [T, C] and [F, C]",
                         dopl_shape_str(x).s, dopl_shape_str(in).s);
    if (out->n_dim != 2 || out->dim[1] != in->dim[0])
        return dopl_fail(rt, DOPL_ESHAPE, "mlp: weights %s and %s, need [F, C] and [O, F]",
                         dopl_shape_str(in).s, dopl_shape_str(out).s);
    for (int i = 1; i <= 3; i += 2) {
        const dopl_tensor *w = c->in[i], *b = c->in[i + 1];
        if (b->n_dim != 1 || b->dim[0] != w->dim[0])
            return dopl_fail(rt, DOPL_ESHAPE, "mlp: weight %s and bias %s, need [%s] and [%c]",
                             dopl_shape_str(w).s, dopl_shape_str(b).s, i == 1 ? "F, C" : "O, F",
                             i == 1 ? 'F' : 'O');
    }
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ x->dim[0], out->dim[0] });
}

DOPL_SIMD static void gelu(float *y, const float *x, int64_t n) { // y may be x
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = gelu_value(x[i], gelu_tanh(x[i]));
}

// x becomes GELU of x, and d the gradient of what x was.
DOPL_SIMD static void gelu_and_grad(float *restrict x, float *restrict d, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float t = gelu_tanh(x[i]);
        d[i] *= gelu_slope(x[i], t);
        x[i] = gelu_value(x[i], t);
    }
}

dopl_status op_mlp_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t T = c->out->dim[0], F = c->in[1]->dim[0], n = T * F;
    if (c->record) DOPL_TRY(op_save(rt, c, 0, 2, (int64_t[]){ T, F }));
    void *room;
    DOPL_TRY(dopl_rt_alloc(rt, &room, (size_t)n * sizeof(float)));
    float *h = room, *pre = c->record ? dopl_f32(&c->saved[0]) : h;
    dopl_status status = layer(rt, "mlp", T, dopl_f32(c->in[0]), c->in[1], c->in[2], pre);
    if (status != DOPL_OK) goto out;
#pragma omp parallel for schedule(static) if (n > OP_GRAIN)
    for (int64_t i = 0; i < n; i += OP_GRAIN)
        gelu(h + i, pre + i, n - i < OP_GRAIN ? n - i : OP_GRAIN);
    status = layer(rt, "mlp", T, h, c->in[3], c->in[4], dopl_f32(c->out));
out:
    dopl_rt_free(rt, room);
    return status;
}

dopl_status op_mlp_backward(dopl_rt *rt, dopl_node *n) {
    int64_t T = n->out.dim[0], F = n->in[1].dim[0], count = T * F;
    const float *dy = dopl_f32(&n->dout);
    float *h = dopl_f32(&n->saved[0]); // from here on; nobody else reads what was kept
    void *room;
    DOPL_TRY(dopl_rt_alloc(rt, &room, (size_t)count * sizeof(float)));
    float *d = room;
    dopl_status status = op_weight_backward(rt, "mlp", &n->in[3], T, dy, 0.0f, d);
    if (status != DOPL_OK) goto out;
#pragma omp parallel for schedule(static) if (count > OP_GRAIN)
    for (int64_t i = 0; i < count; i += OP_GRAIN)
        gelu_and_grad(h + i, d + i, count - i < OP_GRAIN ? count - i : OP_GRAIN);
    status = parameter_grads(rt, n, 3, T, h, dy);
    dopl_tensor_release(rt, &n->saved[0]); // its memory is the other gradients'
    if (status == DOPL_OK) status = layer_grads(rt, n, T, d);
out:
    dopl_rt_free(rt, room);
    return status;
}

// ---- matmul

dopl_status op_matmul_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *a = c->in[0], *b = c->in[1];
    if (a->n_dim != 2 || b->n_dim != 2 || a->dim[1] != b->dim[0])
        return dopl_fail(rt, DOPL_ESHAPE, "matmul: %s and %s, need [M, K] and [K, N]",
                         dopl_shape_str(a).s, dopl_shape_str(b).s);
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ a->dim[0], b->dim[1] });
}

dopl_status op_matmul_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t M = c->out->dim[0], N = c->out->dim[1], K = c->in[0]->dim[1];
    return op_gemm_status(rt, "matmul",
                          op_gemm(rt, false, false, M, N, K, 1.0f, dopl_f32(c->in[0]), K,
                                  dopl_f32(c->in[1]), N, 0.0f, dopl_f32(c->out), N));
}

dopl_status op_matmul_backward(dopl_rt *rt, dopl_node *n) {
    int64_t M = n->out.dim[0], N = n->out.dim[1], K = n->in[0].dim[1];
    const float *dy = dopl_f32(&n->dout);
    dopl_tensor *d;
    float beta;
    if (dopl_grad_wants(n, 0)) { // da = dy b^T
        DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
        DOPL_TRY(op_gemm_status(rt, "matmul",
                                op_gemm(rt, false, true, M, K, N, 1.0f, dy, N, dopl_f32(&n->in[1]),
                                        N, beta, dopl_f32(d), K)));
    }
    if (dopl_grad_wants(n, 1)) { // db = a^T dy
        DOPL_TRY(dopl_grad_into(rt, n, 1, &d, &beta));
        DOPL_TRY(op_gemm_status(rt, "matmul",
                                op_gemm(rt, true, false, K, N, M, 1.0f, dopl_f32(&n->in[0]), K, dy,
                                        N, beta, dopl_f32(d), N)));
    }
    return DOPL_OK;
}

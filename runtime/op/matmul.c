// matmul.c - dense layers and plain matrix products, on oneDNN.
#include "op.h"
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

dopl_status op_linear_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t T = c->out->dim[0], O = c->out->dim[1];
    float *y = dopl_f32(c->out);
    dopl_tensor bias;
    DOPL_TRY(op_weight_f32(rt, &bias, c->in[2]));
    if (c->in[2]) {
        const float *b = dopl_f32(&bias);
#pragma omp parallel for schedule(static) if (T * O > OP_GRAIN)
        for (int64_t t = 0; t < T; t++) memcpy(y + t * O, b, (size_t)O * sizeof *y);
    }
    dopl_tensor_release(rt, &bias);
    return op_weight_apply(rt, "linear", c->in[1], T, dopl_f32(c->in[0]), c->in[2] != NULL, y);
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

dopl_status op_linear_backward(dopl_rt *rt, dopl_node *n) {
    int64_t T = n->out.dim[0], O = n->out.dim[1], C = n->in[0].dim[1];
    const float *dy = dopl_f32(&n->dout);
    dopl_tensor *d;
    float beta;
    if (dopl_grad_wants(n, 0)) { // dx = dy W
        DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
        DOPL_TRY(op_weight_backward(rt, "linear", &n->in[1], T, dy, beta, dopl_f32(d)));
    }
    if (dopl_grad_wants(n, 1)) { // dW = dy^T x
        DOPL_TRY(dopl_grad_into(rt, n, 1, &d, &beta));
        DOPL_TRY(op_gemm_status(rt, "linear",
                                op_gemm(true, false, O, C, T, 1.0f, dy, O, dopl_f32(&n->in[0]), C,
                                        beta, dopl_f32(d), C)));
    }
    if (dopl_grad_wants(n, 2)) {
        DOPL_TRY(dopl_grad_into(rt, n, 2, &d, &beta));
        column_sums(dopl_f32(d), dy, T, O, beta);
    }
    return DOPL_OK;
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
                          op_gemm(false, false, M, N, K, 1.0f, dopl_f32(c->in[0]), K,
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
                                op_gemm(false, true, M, K, N, 1.0f, dy, N, dopl_f32(&n->in[1]), N,
                                        beta, dopl_f32(d), K)));
    }
    if (dopl_grad_wants(n, 1)) { // db = a^T dy
        DOPL_TRY(dopl_grad_into(rt, n, 1, &d, &beta));
        DOPL_TRY(op_gemm_status(rt, "matmul",
                                op_gemm(true, false, K, N, M, 1.0f, dopl_f32(&n->in[0]), K, dy, N,
                                        beta, dopl_f32(d), N)));
    }
    return DOPL_OK;
}

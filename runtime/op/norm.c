// norm.c - RMSNorm and LayerNorm over the last dimension.
//
// The forward saves one or two numbers a row (1/rms; mean and 1/std) and the backward reads x
// again: cheaper than keeping the normalised row. The weight's gradient is summed over SHARES fixed
// shares of the rows, then over the shares in order: the same on any number of threads.
#include "op.h"
#include "weight.h"
#include "../core/simd.h"

#include <string.h>

static dopl_status check_weight(dopl_rt *rt, const dopl_op_call *c, int input, const char *what) {
    const dopl_tensor *x = c->in[0], *w = c->in[input];
    if (!w || (x->n_dim >= 1 && w->n_dim == 1 && w->dim[0] == dopl_tensor_cols(x))) return DOPL_OK;
    return dopl_fail(rt, DOPL_ESHAPE, "%s: x %s and %s %s, need [.., C] and [C]", c->op->name,
                     dopl_shape_str(x).s, what, dopl_shape_str(w).s);
}

enum { SHARES = 16 };

// Room for every share's sums of `n_sum` gradients of length cols, zeroed.
static dopl_status share_sums(dopl_rt *rt, int64_t cols, int n_sum, float **out) {
    void *memory;
    size_t bytes = (size_t)(SHARES * n_sum) * (size_t)cols * sizeof(float);
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, bytes));
    *out = memory;
    return DOPL_OK;
}

// d[i] = beta d[i] + the shares' sums number `which`.
static dopl_status gather_sums(dopl_rt *rt, dopl_node *n, int input, const float *sums, int n_sum,
                               int which) {
    if (!dopl_grad_wants(n, input)) return DOPL_OK;
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, input, &d, &beta));
    int64_t cols = d->dim[0];
    float *p = dopl_f32(d);
    if (beta == 0.0f) memset(p, 0, (size_t)cols * sizeof *p);
    for (int t = 0; t < SHARES; t++)
        for (int64_t i = 0; i < cols; i++) p[i] += sums[(t * n_sum + which) * cols + i];
    return DOPL_OK;
}

// The rows of share `t`, contiguous.
static void share(int64_t rows, int t, int64_t *first, int64_t *last) {
    *first = rows * t / SHARES;
    *last = rows * (t + 1) / SHARES;
}

// ---- rms_norm

dopl_status op_rms_norm_shape(dopl_rt *rt, dopl_op_call *c) {
    DOPL_TRY(check_weight(rt, c, 1, "weight"));
    return op_out_like(rt, c, 0);
}

DOPL_SIMD static float rms_row(float *restrict y, const float *restrict x, const float *restrict w,
                               int64_t n, float eps) {
    float ss = 0.0f;
#pragma omp simd reduction(+ : ss)
    for (int64_t i = 0; i < n; i++) ss += x[i] * x[i];
    float r = 1.0f / sqrtf(ss / (float)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * r * w[i];
    return r;
}

dopl_status op_rms_norm_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t rows = dopl_tensor_rows(c->out), cols = dopl_tensor_cols(c->out);
    const float *x = dopl_f32(c->in[0]);
    float *y = dopl_f32(c->out), *save = NULL, eps = (float)OP_ATTRS(rms_norm, c)->eps;
    dopl_tensor weight;
    if (c->record) {
        DOPL_TRY(op_save(rt, c, 0, 1, &rows));
        save = dopl_f32(&c->saved[0]);
    }
    DOPL_TRY(op_weight_f32(rt, &weight, c->in[1]));
    const float *w = dopl_f32(&weight);
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++) {
        float inv = rms_row(y + r * cols, x + r * cols, w, cols, eps);
        if (save) save[r] = inv;
    }
    dopl_tensor_release(rt, &weight);
    return DOPL_OK;
}

// y = x r w, r = (mean x^2 + eps)^-1/2:  dx = r (dy w) - x r^3 mean(dy w x)
DOPL_SIMD static void rms_row_grad(float *restrict dx, float *restrict dw, const float *restrict dy,
                                   const float *restrict x, const float *restrict w, int64_t n,
                                   float r, float beta) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++) dot += dy[i] * w[i] * x[i];
    float k = dot * r * r * r / (float)n;
    if (dx)
        for (int64_t i = 0; i < n; i++) {
            float d = r * dy[i] * w[i] - x[i] * k;
            dx[i] = beta == 0.0f ? d : dx[i] + d;
        }
    for (int64_t i = 0; i < n; i++) dw[i] += dy[i] * x[i] * r;
}

dopl_status op_rms_norm_backward(dopl_rt *rt, dopl_node *n) {
    int64_t rows = dopl_tensor_rows(&n->out), cols = dopl_tensor_cols(&n->out);
    const float *x = dopl_f32(&n->in[0]), *dy = dopl_f32(&n->dout);
    const float *inv = dopl_f32(&n->saved[0]);
    float *dx = NULL, beta = 0.0f, *sums = NULL;
    if (dopl_grad_wants(n, 0)) {
        dopl_tensor *d;
        DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
        dx = dopl_f32(d);
    }
    dopl_tensor weight;
    DOPL_TRY(op_weight_f32(rt, &weight, &n->in[1]));
    const float *w = dopl_f32(&weight);
    dopl_status status = share_sums(rt, cols, 1, &sums);
    if (status != DOPL_OK) goto out;
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int t = 0; t < SHARES; t++) {
        int64_t first, last;
        share(rows, t, &first, &last);
        for (int64_t r = first; r < last; r++)
            rms_row_grad(dx ? dx + r * cols : NULL, sums + t * cols, dy + r * cols, x + r * cols, w,
                         cols, inv[r], beta);
    }
    status = gather_sums(rt, n, 1, sums, 1, 0);
out:
    dopl_rt_free(rt, sums);
    dopl_tensor_release(rt, &weight);
    return status;
}

// ---- layer_norm

dopl_status op_layer_norm_shape(dopl_rt *rt, dopl_op_call *c) {
    DOPL_TRY(check_weight(rt, c, 1, "weight"));
    DOPL_TRY(check_weight(rt, c, 2, "bias"));
    return op_out_like(rt, c, 0);
}

DOPL_SIMD static void layer_row(float *restrict y, const float *restrict x, const float *restrict w,
                                const float *restrict b, int64_t n, float eps, float *stat) {
    float sum = 0.0f, ss = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    float mean = sum / (float)n;
#pragma omp simd reduction(+ : ss)
    for (int64_t i = 0; i < n; i++) ss += (x[i] - mean) * (x[i] - mean);
    float r = 1.0f / sqrtf(ss / (float)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r * w[i] + (b ? b[i] : 0.0f);
    stat[0] = mean;
    stat[1] = r;
}

dopl_status op_layer_norm_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t rows = dopl_tensor_rows(c->out), cols = dopl_tensor_cols(c->out);
    const float *x = dopl_f32(c->in[0]);
    float *y = dopl_f32(c->out), *save = NULL, eps = (float)OP_ATTRS(layer_norm, c)->eps;
    if (c->record) {
        DOPL_TRY(op_save(rt, c, 0, 2, (int64_t[]){ rows, 2 }));
        save = dopl_f32(&c->saved[0]);
    }
    dopl_tensor weight, bias = { 0 };
    DOPL_TRY(op_weight_f32(rt, &weight, c->in[1]));
    dopl_status status = op_weight_f32(rt, &bias, c->in[2]);
    if (status != DOPL_OK) goto out;
    const float *w = dopl_f32(&weight), *b = c->in[2] ? dopl_f32(&bias) : NULL;
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++) {
        float unused[2];
        layer_row(y + r * cols, x + r * cols, w, b, cols, eps, save ? save + 2 * r : unused);
    }
out:
    dopl_tensor_release(rt, &weight);
    dopl_tensor_release(rt, &bias);
    return status;
}

// With h = (x - mean) r and e = dy w:  dx = r (e - mean(e) - h mean(e h))
DOPL_SIMD static void layer_row_grad(float *restrict dx, float *restrict dw, float *restrict db,
                                     const float *restrict dy, const float *restrict x,
                                     const float *restrict w, int64_t n, const float *stat,
                                     float beta) {
    float mean = stat[0], r = stat[1], se = 0.0f, seh = 0.0f;
#pragma omp simd reduction(+ : se, seh)
    for (int64_t i = 0; i < n; i++) {
        float e = dy[i] * w[i];
        se += e;
        seh += e * (x[i] - mean) * r;
    }
    se /= (float)n;
    seh /= (float)n;
    if (dx)
        for (int64_t i = 0; i < n; i++) {
            float d = r * (dy[i] * w[i] - se - (x[i] - mean) * r * seh);
            dx[i] = beta == 0.0f ? d : dx[i] + d;
        }
    for (int64_t i = 0; i < n; i++) {
        dw[i] += dy[i] * (x[i] - mean) * r;
        db[i] += dy[i];
    }
}

dopl_status op_layer_norm_backward(dopl_rt *rt, dopl_node *n) {
    int64_t rows = dopl_tensor_rows(&n->out), cols = dopl_tensor_cols(&n->out);
    const float *x = dopl_f32(&n->in[0]), *dy = dopl_f32(&n->dout);
    const float *stat = dopl_f32(&n->saved[0]);
    float *dx = NULL, beta = 0.0f, *sums = NULL;
    if (dopl_grad_wants(n, 0)) {
        dopl_tensor *d;
        DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
        dx = dopl_f32(d);
    }
    dopl_tensor weight;
    DOPL_TRY(op_weight_f32(rt, &weight, &n->in[1]));
    const float *w = dopl_f32(&weight);
    dopl_status status = share_sums(rt, cols, 2, &sums);
    if (status != DOPL_OK) goto out;
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int t = 0; t < SHARES; t++) {
        int64_t first, last;
        share(rows, t, &first, &last);
        for (int64_t r = first; r < last; r++)
            layer_row_grad(dx ? dx + r * cols : NULL, sums + 2 * t * cols,
                           sums + (2 * t + 1) * cols, dy + r * cols, x + r * cols, w, cols,
                           stat + 2 * r, beta);
    }
    status = gather_sums(rt, n, 1, sums, 2, 0);
    if (status == DOPL_OK) status = gather_sums(rt, n, 2, sums, 2, 1);
out:
    dopl_rt_free(rt, sums);
    dopl_tensor_release(rt, &weight);
    return status;
}

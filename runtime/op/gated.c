// gated.c - the gated half of a SwiGLU MLP: silu(gate) * up.
//
// Gate and up come as the two halves of each row, so that one matrix product makes both and nothing
// splits them. The backward computes the sigmoid again rather than keep it.
#include "op.h"
#include "../core/simd.h"

dopl_status op_silu_mul_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0];
    if (x->n_dim != 2 || x->dim[1] % 2)
        return dopl_fail(rt, DOPL_ESHAPE, "silu_mul: %s, needs [T, 2F]", dopl_shape_str(x).s);
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ x->dim[0], x->dim[1] / 2 });
}

DOPL_SIMD static void row(float *restrict y, const float *restrict gate, const float *restrict up,
                          int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = gate[i] * dopl_sigmoidf(gate[i]) * up[i];
}

DOPL_SIMD static void row_grad(float *restrict dgate, float *restrict dup, const float *restrict dy,
                               const float *restrict gate, const float *restrict up, int64_t n,
                               float beta) {
    for (int64_t i = 0; i < n; i++) {
        float s = dopl_sigmoidf(gate[i]);
        float dg = dy[i] * up[i] * s * (1.0f + gate[i] * (1.0f - s)), du = dy[i] * gate[i] * s;
        dgate[i] = beta == 0.0f ? dg : dgate[i] + dg;
        dup[i] = beta == 0.0f ? du : dup[i] + du;
    }
}

dopl_status op_silu_mul_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    int64_t T = c->out->dim[0], F = c->out->dim[1];
    const float *x = dopl_f32(c->in[0]);
    float *y = dopl_f32(c->out);
#pragma omp parallel for schedule(static) if (T * F > OP_GRAIN / 4)
    for (int64_t t = 0; t < T; t++) row(y + t * F, x + 2 * t * F, x + (2 * t + 1) * F, F);
    return DOPL_OK;
}

dopl_status op_silu_mul_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t T = n->out.dim[0], F = n->out.dim[1];
    const float *x = dopl_f32(&n->in[0]), *dy = dopl_f32(&n->dout);
    float *dx = dopl_f32(d);
#pragma omp parallel for schedule(static) if (T * F > OP_GRAIN / 4)
    for (int64_t t = 0; t < T; t++)
        row_grad(dx + 2 * t * F, dx + (2 * t + 1) * F, dy + t * F, x + 2 * t * F,
                 x + (2 * t + 1) * F, F, beta);
    return DOPL_OK;
}

// dropout.c - inverted dropout whose mask is a function of (seed, counter, element).
//
// No mask is stored: the backward draws the same numbers again.
#include "op.h"
#include "../core/rng.h"

dopl_status op_dropout_shape(dopl_rt *rt, dopl_op_call *c) {
    double p = OP_ATTRS(dropout, c)->p;
    if (!(p >= 0 && p < 1))
        return dopl_fail(rt, DOPL_EARG, "dropout: p is %g, needs 0 <= p < 1", p);
    return op_out_like(rt, c, 0);
}

// y = beta y + x * mask / (1 - p)
static void drop(float *y, const float *x, int64_t n, const op_dropout_attrs *a, float beta) {
    float p = (float)a->p, keep = 1.0f / (1.0f - p);
    uint64_t seed = (uint64_t)a->seed, stream = (uint64_t)a->counter;
#pragma omp parallel for schedule(static) if (n > OP_GRAIN / 4)
    for (int64_t i = 0; i < n; i += 4) {
        dopl_random r = dopl_philox(seed, stream, (uint64_t)i / 4);
        for (int64_t j = 0; j < 4 && i + j < n; j++) {
            float d = dopl_uniform(r.v[j]) < p ? 0.0f : x[i + j] * keep;
            y[i + j] = beta == 0.0f ? d : y[i + j] + d;
        }
    }
}

dopl_status op_dropout_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    drop(dopl_f32(c->out), dopl_f32(c->in[0]), dopl_tensor_numel(c->out), OP_ATTRS(dropout, c),
         0.0f);
    return DOPL_OK;
}

dopl_status op_dropout_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    drop(dopl_f32(d), dopl_f32(&n->dout), dopl_tensor_numel(d), OP_ATTRS(dropout, n), beta);
    return DOPL_OK;
}

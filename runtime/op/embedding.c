// embedding.c - rows of a table by index.
//
// The gradient of the table adds rows of dy at repeated indices. Threads share the columns, not the
// rows, so each sum has one writer and one order: the result is the same on any number of threads.
#include "op.h"
#include "../core/bf16.h"

#include <string.h>

dopl_status op_embedding_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *table = c->in[0], *index = c->in[1];
    if (table->n_dim != 2 || index->n_dim != 1)
        return dopl_fail(rt, DOPL_ESHAPE, "embedding: table %s and index %s, need [V, C] and [N]",
                         dopl_shape_str(table).s, dopl_shape_str(index).s);
    DOPL_TRY(op_check_index(rt, "embedding", index, table->dim[0]));
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ index->dim[0], table->dim[1] });
}

DOPL_SIMD static void decode_row(float *restrict y, const uint16_t *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = dopl_float_of_bf16(x[i]);
}

dopl_status op_embedding_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    int64_t N = c->out->dim[0], C = c->out->dim[1];
    const dopl_tensor *table = c->in[0];
    const int32_t *index = dopl_i32(c->in[1]);
    float *y = dopl_f32(c->out);
#pragma omp parallel for schedule(static) if (N * C > OP_GRAIN)
    for (int64_t i = 0; i < N; i++) {
        if (table->dtype == DOPL_BF16)
            decode_row(y + i * C, dopl_bf16(table) + index[i] * C, C);
        else
            memcpy(y + i * C, dopl_f32(table) + index[i] * C, (size_t)C * sizeof *y);
    }
    return DOPL_OK;
}

DOPL_SIMD static void add_row(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

dopl_status op_embedding_backward(dopl_rt *rt, dopl_node *n) {
    if (!dopl_grad_wants(n, 0)) return DOPL_OK;
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t N = n->out.dim[0], C = n->out.dim[1];
    float *dt = dopl_f32(d);
    const float *dy = dopl_f32(&n->dout);
    const int32_t *index = dopl_i32(&n->in[1]);
    if (beta == 0.0f) {
        int64_t V = d->dim[0];
#pragma omp parallel for schedule(static) if (V * C > OP_GRAIN)
        for (int64_t v = 0; v < V; v++) memset(dt + v * C, 0, (size_t)C * sizeof *dt);
    }
    enum { STRIP = 128 };
#pragma omp parallel for schedule(static) if (N * C > OP_GRAIN)
    for (int64_t k = 0; k < C; k += STRIP)
        for (int64_t i = 0; i < N; i++)
            add_row(dt + index[i] * C + k, dy + i * C + k, C - k < STRIP ? C - k : STRIP);
    return DOPL_OK;
}

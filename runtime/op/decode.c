// decode.c - operators of generation: choosing a token, and attention over a key/value cache.
//
// A cache is [S, M, 2 kv_heads D]: S slots of M positions, keys then values in a row. Sequences
// keep a slot for life and leave it when they end; nothing is moved.
#include "op.h"
#include "row.h"
#include "../core/rng.h"
#include "../core/simd.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

// ---- argmax

static dopl_status index_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0];
    if (x->n_dim < 1 || dopl_tensor_cols(x) < 1)
        return dopl_fail(rt, DOPL_ESHAPE, "%s: %s, needs a last dimension of at least 1",
                         c->op->name, dopl_shape_str(x).s);
    return op_out(rt, c, DOPL_I32, x->n_dim - 1, x->dim);
}

dopl_status op_argmax_shape(dopl_rt *rt, dopl_op_call *c) {
    return index_shape(rt, c);
}

dopl_status op_argmax_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    int64_t rows = dopl_tensor_rows(c->in[0]), cols = dopl_tensor_cols(c->in[0]);
    const float *x = dopl_f32(c->in[0]);
    int32_t *y = dopl_i32(c->out);
#pragma omp parallel for schedule(static) if (rows * cols > OP_GRAIN)
    for (int64_t r = 0; r < rows; r++) {
        int64_t best = 0;
        for (int64_t i = 1; i < cols; i++)
            if (x[r * cols + i] > x[r * cols + best]) best = i;
        y[r] = (int32_t)best;
    }
    return DOPL_OK;
}

// ---- sample

dopl_status op_sample_shape(dopl_rt *rt, dopl_op_call *c) {
    double temperature = OP_ATTRS(sample, c)->temperature, top_p = OP_ATTRS(sample, c)->top_p;
    if (!(temperature > 0) || !(top_p > 0 && top_p <= 1))
        return dopl_fail(rt, DOPL_EARG,
                         "sample: temperature %g and top_p %g, need above 0 and in (0, 1]",
                         temperature, top_p);
    const dopl_tensor *x = c->in[0], *draws = c->in[1];
    if (x->n_dim != 2 || draws->n_dim != 2 || draws->dim[0] != 2 || draws->dim[1] != x->dim[0])
        return dopl_fail(rt, DOPL_ESHAPE, "sample: logits %s and draws %s, need [N, V] and [2, N]",
                         dopl_shape_str(x).s, dopl_shape_str(draws).s);
    return index_shape(rt, c);
}

typedef struct {
    float p;
    int32_t index;
} candidate;

static int by_probability(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->index - y->index; // a total order: the draw must not depend on the sort
}

static int32_t draw(const float *z, int64_t n, float temperature, float top_p, float uniform,
                    candidate *room) {
    float top = z[0], sum = 0.0f;
    for (int64_t i = 1; i < n; i++) top = z[i] > top ? z[i] : top;
    for (int64_t i = 0; i < n; i++) {
        room[i] = (candidate){ expf((z[i] - top) / temperature), (int32_t)i };
        sum += room[i].p;
    }
    int64_t count = n;
    if (top_p < 1.0f) {
        qsort(room, (size_t)n, sizeof *room, by_probability);
        float kept = 0.0f;
        count = 0;
        do kept += room[count++].p; // at least one, even among NaNs
        while (count < n && kept < top_p * sum);
        sum = kept;
    }
    float at = uniform * sum;
    for (int64_t i = 0; i < count; i++) {
        at -= room[i].p;
        if (at < 0.0f) return room[i].index;
    }
    return room[count - 1].index;
}

dopl_status op_sample_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t rows = dopl_tensor_rows(c->in[0]), cols = dopl_tensor_cols(c->in[0]);
    const float *x = dopl_f32(c->in[0]);
    const int32_t *stream = dopl_i32(c->in[1]), *counter = stream + rows;
    const op_sample_attrs *a = OP_ATTRS(sample, c);
    void *room;
    DOPL_TRY(dopl_rt_alloc(rt, &room, (size_t)rt->n_threads * (size_t)cols * sizeof(candidate)));
#pragma omp parallel for schedule(static) num_threads(rt->n_threads)
    for (int64_t r = 0; r < rows; r++) {
        dopl_random u = dopl_philox((uint64_t)a->seed, (uint64_t)stream[r], (uint64_t)counter[r]);
        dopl_i32(c->out)[r] =
            draw(x + r * cols, cols, (float)a->temperature, (float)a->top_p, dopl_uniform(u.v[0]),
                 (candidate *)room + omp_get_thread_num() * cols);
    }
    dopl_rt_free(rt, room);
    return DOPL_OK;
}

// ---- kv_store: cache [S, M, W], qkv [N, at least W], where [2, N] (slot; position)

static dopl_status check_where(dopl_rt *rt, const dopl_op_call *c, const dopl_tensor *qkv,
                               const dopl_tensor *cache, const dopl_tensor *where) {
    if (cache->n_dim != 3 || qkv->n_dim != 2 || where->n_dim != 2 || where->dim[0] != 2 ||
        where->dim[1] != qkv->dim[0] || qkv->dim[1] < cache->dim[2])
        return dopl_fail(rt, DOPL_ESHAPE,
                         "%s: cache %s, qkv %s and where %s, need [S, M, W], [N, over W], [2, N]",
                         c->op->name, dopl_shape_str(cache).s, dopl_shape_str(qkv).s,
                         dopl_shape_str(where).s);
    const int32_t *slot = dopl_i32(where), *pos = slot + where->dim[1];
    for (int64_t i = 0; i < where->dim[1]; i++)
        if (slot[i] < 0 || slot[i] >= cache->dim[0] || pos[i] < 0 || pos[i] >= cache->dim[1])
            return dopl_fail(rt, DOPL_EARG, "%s: slot %d, position %d of a cache %s", c->op->name,
                             slot[i], pos[i], dopl_shape_str(cache).s);
    return DOPL_OK;
}

dopl_status op_kv_store_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *cache = c->in[0];
    DOPL_TRY(check_where(rt, c, c->in[1], cache, c->in[2]));
    DOPL_TRY(op_out(rt, c, c->dtype, cache->n_dim, cache->dim));
    dopl_tensor_will_change(rt, cache);
    c->out->storage = cache->storage;
    c->out->storage->refs++;
    c->out->offset = cache->offset;
    return DOPL_OK;
}

dopl_status op_kv_store_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    int64_t N = c->in[1]->dim[0], ld = c->in[1]->dim[1], M = c->out->dim[1], W = c->out->dim[2];
    const float *qkv = dopl_f32(c->in[1]);
    const int32_t *slot = dopl_i32(c->in[2]), *pos = slot + N;
    float *cache = dopl_f32(c->out);
    for (int64_t i = 0; i < N; i++)
        memcpy(cache + (slot[i] * M + pos[i]) * W, qkv + (i + 1) * ld - W,
               (size_t)W * sizeof *cache);
    return DOPL_OK;
}

// ---- kv_attention: qkv [N, (heads + 2 kv_heads) D] over cache [S, M, 2 kv_heads D]: [N, heads D]

dopl_status op_kv_attention_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *qkv = c->in[0], *cache = c->in[1];
    int64_t H = OP_ATTRS(kv_attention, c)->heads, K = OP_ATTRS(kv_attention, c)->kv_heads;
    DOPL_TRY(check_where(rt, c, qkv, cache, c->in[2]));
    if (!op_heads_fit(qkv->dim[1], H, K) || qkv->dim[1] % (H + 2 * K) ||
        qkv->dim[1] / (H + 2 * K) * 2 * K != cache->dim[2])
        return dopl_fail(
            rt, DOPL_ESHAPE, "kv_attention: qkv %s and cache %s with %lld heads, %lld kv_heads",
            dopl_shape_str(qkv).s, dopl_shape_str(cache).s, (long long)H, (long long)K);
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ qkv->dim[0], qkv->dim[1] / (H + 2 * K) * H });
}

DOPL_SIMD static void add_scaled(float *restrict y, const float *restrict x, float k, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += k * x[i];
}

// One query over n cached rows of stride W; online softmax, so no room for scores is needed.
static void attend(float *out, const float *q, const float *k, const float *v, int64_t n, int64_t W,
                   int64_t D) {
    float top = -INFINITY, sum = 0.0f, scale = 1.0f / sqrtf((float)D);
    memset(out, 0, (size_t)D * sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        float s = op_row_dot(q, k + i * W, D) * scale;
        if (s > top) {
            float fade = expf(top - s);
            sum *= fade;
            for (int64_t d = 0; d < D; d++) out[d] *= fade;
            top = s;
        }
        float e = expf(s - top);
        sum += e;
        add_scaled(out, v + i * W, e, D);
    }
    for (int64_t d = 0; d < D; d++) out[d] /= sum;
}

dopl_status op_kv_attention_cpu(dopl_rt *rt, dopl_op_call *c) {
    (void)rt;
    const op_kv_attention_attrs *a = OP_ATTRS(kv_attention, c);
    int64_t H = a->heads, K = a->kv_heads, N = c->out->dim[0], D = c->out->dim[1] / H;
    int64_t ld = c->in[0]->dim[1], M = c->in[1]->dim[1], W = c->in[1]->dim[2];
    const float *qkv = dopl_f32(c->in[0]), *cache = dopl_f32(c->in[1]);
    const int32_t *slot = dopl_i32(c->in[2]), *pos = slot + N;
    float *y = dopl_f32(c->out);
#pragma omp parallel for collapse(2) schedule(dynamic, 4)
    for (int64_t i = 0; i < N; i++)
        for (int64_t h = 0; h < H; h++) {
            const float *k = cache + slot[i] * M * W + h / (H / K) * D;
            attend(y + (i * H + h) * D, qkv + i * ld + h * D, k, k + K * D, pos[i] + 1, W, D);
        }
    return DOPL_OK;
}

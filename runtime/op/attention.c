// attention.c - causal self-attention over packed sequences, with grouped key/value heads.
//
// A row of qkv is [heads | kv_heads | kv_heads] blocks of D columns; head h reads the key/value
// head h / (heads / kv_heads). Work is cut by (sequence, head), each a handful of small matrix
// products on one thread, in blocks of BLOCK queries that skip the keys after them. Nothing of size
// T x T exists: a thread holds BLOCK rows of scores, and the backward recomputes them from the
// saved log-sum-exp.
#include "op.h"
#include "row.h"
#include "gemm.h"
#include "../core/simd.h"

#include <omp.h>
#include <string.h>

enum { BLOCK = 64 };

typedef struct {
    int64_t H, K, D, G;    // heads, key/value heads, columns of a head, heads of a group
    int64_t T, ld;         // rows, and their stride in qkv
    int64_t B, longest;    // sequences, and the longest one
    const int32_t *offset; // [B+1]
    float scale;
} plan;

static plan plan_of(const dopl_tensor *qkv, const dopl_tensor *offsets,
                    const op_attention_attrs *a) {
    plan p = { .H = a->heads, .K = a->kv_heads, .T = qkv->dim[0], .ld = qkv->dim[1] };
    p.D = p.ld / (p.H + 2 * p.K);
    p.G = p.H / p.K;
    p.B = offsets->dim[0] - 1;
    p.offset = dopl_i32(offsets);
    for (int64_t b = 0; b < p.B; b++)
        if (p.offset[b + 1] - p.offset[b] > p.longest) p.longest = p.offset[b + 1] - p.offset[b];
    p.scale = 1.0f / sqrtf((float)p.D);
    return p;
}

dopl_status op_attention_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *qkv = c->in[0];
    int64_t H = OP_ATTRS(attention, c)->heads, K = OP_ATTRS(attention, c)->kv_heads;
    if (H < 1 || K < 1 || H % K)
        return dopl_fail(rt, DOPL_EARG, "attention: %lld heads and %lld kv_heads, need a multiple",
                         (long long)H, (long long)K);
    if (qkv->n_dim != 2 || !op_heads_fit(qkv->dim[1], H, K) || qkv->dim[1] % (H + 2 * K))
        return dopl_fail(rt, DOPL_ESHAPE, "attention: qkv %s, needs [T, (%lld + 2*%lld) D]",
                         dopl_shape_str(qkv).s, (long long)H, (long long)K);
    DOPL_TRY(op_check_offsets(rt, "attention", c->in[1], qkv->dim[0]));
    return op_out(rt, c, c->dtype, 2, (int64_t[]){ qkv->dim[0], qkv->dim[1] / (H + 2 * K) * H });
}

// Softmax of the first `n` scores of a row, the rest of `width` set to 0. Returns log-sum-exp.
DOPL_SIMD static float softmax_row(float *restrict s, int64_t n, int64_t width, float scale) {
    float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = s[i] > top ? s[i] : top;
    top *= scale;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        s[i] = dopl_expf(s[i] * scale - top);
        sum += s[i];
    }
    float inv = 1.0f / sum;
    for (int64_t i = 0; i < n; i++) s[i] *= inv;
    for (int64_t i = n; i < width; i++) s[i] = 0.0f;
    return top + logf(sum);
}

static int forward_head(const plan *p, const float *qkv, float *out, float *lse, int64_t b,
                        int64_t h, float *s) {
    int64_t first = p->offset[b], len = p->offset[b + 1] - first, D = p->D, ld = p->ld;
    int64_t ld_out = p->H * D;
    const float *q = qkv + first * ld + h * D;
    const float *k = qkv + first * ld + (p->H + h / p->G) * D, *v = k + p->K * D;
    float *o = out + first * ld_out + h * D;
    for (int64_t r = 0; r < len; r += BLOCK) {
        int64_t rows = len - r < BLOCK ? len - r : BLOCK, keys = r + rows;
        int code =
            op_gemm(NULL, false, true, rows, keys, D, 1.0f, q + r * ld, ld, k, ld, 0.0f, s, keys);
        if (code) return code;
        for (int64_t i = 0; i < rows; i++) {
            float l = softmax_row(s + i * keys, r + i + 1, keys, p->scale);
            if (lse) lse[(first + r + i) * p->H + h] = l;
        }
        code = op_gemm(NULL, false, false, rows, D, keys, 1.0f, s, keys, v, ld, 0.0f,
                       o + r * ld_out, ld_out);
        if (code) return code;
    }
    return 0;
}

// `floats` for each thread, with room for their products beside it.
static dopl_status scratch(dopl_rt *rt, int64_t floats, float **out) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, (size_t)(rt->n_threads * floats) * sizeof **out));
    *out = memory;
    int code = op_gemm_room(rt);
    if (code) dopl_rt_free(rt, memory);
    return op_gemm_status(rt, "attention", code);
}

dopl_status op_attention_cpu(dopl_rt *rt, dopl_op_call *c) {
    plan p = plan_of(c->in[0], c->in[1], OP_ATTRS(attention, c));
    const float *qkv = dopl_f32(c->in[0]);
    float *out = dopl_f32(c->out), *lse = NULL, *s;
    if (c->record) {
        DOPL_TRY(op_save(rt, c, 0, 2, (int64_t[]){ p.T, p.H }));
        lse = dopl_f32(&c->saved[0]);
    }
    int64_t room = BLOCK * p.longest;
    DOPL_TRY(scratch(rt, room, &s));
    int code = 0;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(rt->n_threads)
    for (int64_t b = 0; b < p.B; b++)
        for (int64_t h = 0; h < p.H; h++) {
            int e = forward_head(&p, qkv, out, lse, b, h, s + omp_get_thread_num() * room);
            if (e) {
#pragma omp atomic write
                code = e;
            }
        }
    dopl_rt_free(rt, s);
    return op_gemm_status(rt, "attention", code);
}

// s: raw scores in, probabilities out; ds: gradient of the probabilities in, of the scores out.
DOPL_SIMD static void score_grad_row(float *restrict s, float *restrict ds, int64_t n,
                                     int64_t width, float scale, float lse, float delta) {
    for (int64_t i = 0; i < n; i++) {
        s[i] = dopl_expf(s[i] * scale - lse);
        ds[i] = s[i] * (ds[i] - delta) * scale;
    }
    for (int64_t i = n; i < width; i++) s[i] = ds[i] = 0.0f;
}

// One sequence and one key/value head with all the heads of its group, so that dk and dv have one
// writer. dqkv = beta dqkv + gradient.
static int backward_group(const plan *p, const dopl_node *n, float *dqkv, float beta, int64_t b,
                          int64_t g, float *s) {
    int64_t first = p->offset[b], len = p->offset[b + 1] - first, D = p->D, ld = p->ld;
    int64_t ld_out = p->H * D;
    const float *qkv = dopl_f32(&n->in[0]) + first * ld, *lse = dopl_f32(&n->saved[0]);
    const float *k = qkv + (p->H + g) * D, *v = k + p->K * D;
    float *dk = dqkv + first * ld + (p->H + g) * D, *dv = dk + p->K * D;
    float *ds = s + BLOCK * p->longest;
    for (int64_t i = 0; beta == 0.0f && i < len; i++) {
        memset(dk + i * ld, 0, (size_t)D * sizeof *dk);
        memset(dv + i * ld, 0, (size_t)D * sizeof *dv);
    }
    for (int64_t h = g * p->G; h < (g + 1) * p->G; h++) {
        const float *q = qkv + h * D, *o = dopl_f32(&n->out) + first * ld_out + h * D;
        const float *dout = dopl_f32(&n->dout) + first * ld_out + h * D;
        float *dq = dqkv + first * ld + h * D;
        for (int64_t r = 0; r < len; r += BLOCK) {
            int64_t rows = len - r < BLOCK ? len - r : BLOCK, keys = r + rows;
            const float *dor = dout + r * ld_out;
            int code = op_gemm(NULL, false, true, rows, keys, D, 1.0f, q + r * ld, ld, k, ld, 0.0f,
                               s, keys);
            if (!code)
                code = op_gemm(NULL, false, true, rows, keys, D, 1.0f, dor, ld_out, v, ld, 0.0f, ds,
                               keys);
            if (code) return code;
            for (int64_t i = 0; i < rows; i++)
                score_grad_row(s + i * keys, ds + i * keys, r + i + 1, keys, p->scale,
                               lse[(first + r + i) * p->H + h],
                               op_row_dot(dor + i * ld_out, o + (r + i) * ld_out, D));
            code = op_gemm(NULL, false, false, rows, D, keys, 1.0f, ds, keys, k, ld, beta,
                           dq + r * ld, ld);
            if (!code)
                code = op_gemm(NULL, true, false, keys, D, rows, 1.0f, ds, keys, q + r * ld, ld,
                               1.0f, dk, ld);
            if (!code)
                code = op_gemm(NULL, true, false, keys, D, rows, 1.0f, s, keys, dor, ld_out, 1.0f,
                               dv, ld);
            if (code) return code;
        }
    }
    return 0;
}

dopl_status op_attention_backward(dopl_rt *rt, dopl_node *n) {
    if (!dopl_grad_wants(n, 0)) return DOPL_OK;
    dopl_tensor *d;
    float beta, *s;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    plan p = plan_of(&n->in[0], &n->in[1], OP_ATTRS(attention, n));
    int64_t room = 2 * BLOCK * p.longest;
    DOPL_TRY(scratch(rt, room, &s));
    float *dqkv = dopl_f32(d);
    int code = 0;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(rt->n_threads)
    for (int64_t b = 0; b < p.B; b++)
        for (int64_t g = 0; g < p.K; g++) {
            int e = backward_group(&p, n, dqkv, beta, b, g, s + omp_get_thread_num() * room);
            if (e) {
#pragma omp atomic write
                code = e;
            }
        }
    dopl_rt_free(rt, s);
    return op_gemm_status(rt, "attention", code);
}

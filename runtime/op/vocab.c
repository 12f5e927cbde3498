// vocab.c - the vocabulary head and everything losses read off it, fused.
//
// Logits are computed only for labelled positions, rt->chunk_bytes of them at a time, reduced
// at once to four numbers a row, and never exist for a whole batch. The backward needs softmax
// again: it uses the logits of the last chunk, which are still there, and recomputes the others
// (2 C V of 6 C V operations a row). With the default of 128 MiB, a micro-batch of up to 680
// labelled positions at a vocabulary of 49,152 is one chunk and recomputes nothing.
#include "op.h"
#include "row.h"
#include "gemm.h"
#include "weight.h"
#include "../core/simd.h"

#include <string.h>

// The pieces one pass over the labelled rows works with.
typedef struct {
    const char *name;       // of the operator
    int64_t n, C, V, chunk; // labelled rows, columns of hidden, vocabulary, rows of a chunk
    const float *hidden;
    const dopl_tensor *weight;
    const int32_t *row, *label;
    float *gathered; // [chunk, C]
    float *logits;   // [chunk, V]
} pass;

static int64_t chunk_rows(const dopl_rt *rt, int64_t n, int64_t V) {
    int64_t most = (int64_t)(rt->chunk_bytes / sizeof(float)) / V; // V > 0: check_head
    most = most < 1 ? 1 : most;
    int64_t chunks = (n + most - 1) / most;
    return chunks ? (n + chunks - 1) / chunks : 1; // even chunks
}

static int64_t chunk_at(const pass *p, int64_t first) {
    return p->n - first < p->chunk ? p->n - first : p->chunk;
}

static void gather(const pass *p, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) if (count * p->C > OP_GRAIN)
    for (int64_t i = 0; i < count; i++)
        memcpy(p->gathered + i * p->C, p->hidden + p->row[first + i] * p->C,
               (size_t)p->C * sizeof(float));
}

static dopl_status chunk_logits(dopl_rt *rt, const pass *p, int64_t first, int64_t count) {
    gather(p, first, count);
    return op_weight_apply(rt, p->name, p->weight, count, p->gathered, false, p->logits);
}

static dopl_status alloc_floats(dopl_rt *rt, int64_t n, float **out) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, (size_t)n * sizeof **out));
    *out = memory;
    return DOPL_OK;
}

static dopl_status check_head(dopl_rt *rt, const dopl_op_call *c, int hidden, int weight) {
    const dopl_tensor *h = c->in[hidden], *w = c->in[weight];
    if (h->n_dim == 2 && w->n_dim == 2 && h->dim[1] == w->dim[1] && w->dim[0] > 0) return DOPL_OK;
    return dopl_fail(rt, DOPL_ESHAPE, "%s: hidden %s and weight %s, need [T, C] and [V, C]",
                     c->op->name, dopl_shape_str(h).s, dopl_shape_str(w).s);
}

// ---- vocab

dopl_status op_vocab_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *row = c->in[2], *label = c->in[3];
    double eps = OP_ATTRS(vocab, c)
                     ->eps; // f32 reaches down to 1e-38: an eps close to that would lose digits
    if (!(eps == 0 || (eps >= 1e-30 && eps <= 1)))
        return dopl_fail(rt, DOPL_EARG, "vocab: eps = %g, needs 0, or 1e-30 to 1", eps);
    DOPL_TRY(check_head(rt, c, 0, 1));
    if (row->n_dim != 1 || !dopl_shape_same(row, label))
        return dopl_fail(rt, DOPL_ESHAPE, "vocab: rows %s and labels %s, need [n] and [n]",
                         dopl_shape_str(row).s, dopl_shape_str(label).s);
    DOPL_TRY(op_check_index(rt, "vocab: rows", row, c->in[0]->dim[0]));
    DOPL_TRY(op_check_index(rt, "vocab: labels", label, c->in[1]->dim[0]));
    return op_out(rt, c, DOPL_F32, 2, (int64_t[]){ 4, row->dim[0] });
}

typedef struct {
    float lse, mean, entropy;
} row_stats;

DOPL_SIMD static row_stats reduce_row(const float *z, int64_t V) {
    float top = -INFINITY, sum = 0.0f, total = 0.0f, ez = 0.0f;
#pragma omp simd reduction(max : top)
    for (int64_t v = 0; v < V; v++) top = z[v] > top ? z[v] : top;
#pragma omp simd reduction(+ : sum, total, ez)
    for (int64_t v = 0; v < V; v++) {
        float d = z[v] - top, e = dopl_expf(d);
        sum += e;
        total += d;
        ez += e * d;
    }
    float log_sum = logf(sum); // relative to top
    return (row_stats){ top + log_sum, total / (float)V - log_sum, log_sum - ez / sum };
}

// The mean of log(p + eps) over a row, and in *shares the sum of p / (p + eps), which its gradient
// needs.
DOPL_SIMD static float smoothed_row(const float *z, int64_t V, float lse, float eps,
                                    float *shares) {
    float total = 0.0f, sum = 0.0f;
#pragma omp simd reduction(+ : total, sum)
    for (int64_t v = 0; v < V; v++) {
        float p = dopl_expf(z[v] - lse);
        total += dopl_logf(p + eps);
        sum += p / (p + eps);
    }
    *shares = sum;
    return total / (float)V + 0.0f * sum; // dopl_logf makes a number of a NaN, a quotient does not
}

dopl_status op_vocab_cpu(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *hidden = c->in[0], *weight = c->in[1];
    pass p = { .name = c->op->name,
               .n = c->in[2]->dim[0],
               .C = hidden->dim[1],
               .V = weight->dim[0],
               .hidden = dopl_f32(hidden),
               .weight = weight,
               .row = dopl_i32(c->in[2]),
               .label = dopl_i32(c->in[3]) };
    p.chunk = chunk_rows(rt, p.n, p.V);
    float *out = dopl_f32(c->out);
    // The buffers are the call's saved tensors, so that backward finds the last chunk.
    DOPL_TRY(op_save(rt, c, 0, 2, (int64_t[]){ p.chunk, p.C }));
    DOPL_TRY(op_save(rt, c, 1, 2, (int64_t[]){ p.chunk, p.V }));
    p.gathered = dopl_f32(&c->saved[0]);
    p.logits = dopl_f32(&c->saved[1]);
    float eps = (float)OP_ATTRS(vocab, c)->eps, *shares = NULL;
    if (eps > 0.0f) DOPL_TRY(op_save(rt, c, 2, 1, &p.n));
    if (eps > 0.0f) shares = dopl_f32(&c->saved[2]);
    for (int64_t first = 0; first < p.n; first += p.chunk) {
        int64_t count = chunk_at(&p, first);
        DOPL_TRY(chunk_logits(rt, &p, first, count));
#pragma omp parallel for schedule(static) if (count * p.V > OP_GRAIN)
        for (int64_t i = 0; i < count; i++) {
            const float *z = p.logits + i * p.V;
            row_stats s = reduce_row(z, p.V);
            int64_t at = first + i;
            if (shares) s.mean = smoothed_row(z, p.V, s.lse, eps, &shares[at]);
            out[at] = z[p.label[at]] - s.lse;
            out[p.n + at] = s.lse;
            out[2 * p.n + at] = s.mean;
            out[3 * p.n + at] = s.entropy;
        }
    }
    return DOPL_OK;
}

// z: logits in, their gradient out. u: gradients of log-probability, log-sum-exp, mean
// log-probability and entropy. With p = softmax(z):
//   d logp = 1[v=y] - p,  d lse = p,  d mean = 1/V - p,  d entropy = -p (log p + H)
// With eps > 0, d mean = (p / (p + eps) - p S) / V, where S = `shares` is the sum of p / (p + eps).
DOPL_SIMD static void logits_grad(float *restrict z, int64_t V, int32_t label, const float *u,
                                  float lse, float entropy, float eps, float shares) {
    float flat = u[2] / (float)V, uh = u[3];
    float k = u[1] - u[0] - (eps > 0.0f ? flat * shares : u[2]);
    if (eps > 0.0f)
        for (int64_t v = 0; v < V; v++) {
            float logp = z[v] - lse, q = dopl_expf(logp);
            z[v] = q * (k - uh * (logp + entropy)) + flat * (q / (q + eps));
        }
    else if (uh == 0.0f)
        for (int64_t v = 0; v < V; v++) z[v] = k * dopl_expf(z[v] - lse) + flat;
    else
        for (int64_t v = 0; v < V; v++) {
            float logp = z[v] - lse, q = dopl_expf(logp);
            z[v] = q * (k - uh * (logp + entropy)) + flat;
        }
    z[label] += u[0];
}

// Adds the gradient of a chunk's logits to the weight's and the hidden rows' gradients.
static dopl_status push_logits_grad(dopl_rt *rt, const pass *p, int64_t first, int64_t count,
                                    float *dweight, float weight_beta, float *dhidden) {
    if (dweight)
        DOPL_TRY(op_gemm_status(rt, p->name,
                                op_gemm(rt, true, false, p->V, p->C, count, 1.0f, p->logits, p->V,
                                        p->gathered, p->C, weight_beta, dweight, p->C)));
    if (!dhidden) return DOPL_OK;
    // the gathered rows are no longer needed: their room takes the gradient
    DOPL_TRY(op_weight_backward(rt, p->name, p->weight, count, p->logits, 0.0f, p->gathered));
    for (int64_t i = 0; i < count; i++) { // rows may repeat
        float *to = dhidden + p->row[first + i] * p->C, *from = p->gathered + i * p->C;
        for (int64_t j = 0; j < p->C; j++) to[j] += from[j];
    }
    return DOPL_OK;
}

// Where the gradients of hidden (input 0) and weight (input 1) go; hidden's is ready to be added
// to.
static dopl_status head_grads(dopl_rt *rt, dopl_node *n, float **dhidden, float **dweight,
                              float *weight_beta) {
    dopl_tensor *d;
    float beta;
    *dhidden = *dweight = NULL;
    if (dopl_grad_wants(n, 0)) {
        DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
        *dhidden = dopl_f32(d);
        if (beta == 0.0f) memset(*dhidden, 0, d->storage->bytes);
    }
    if (dopl_grad_wants(n, 1)) {
        DOPL_TRY(dopl_grad_into(rt, n, 1, &d, weight_beta));
        *dweight = dopl_f32(d);
        if (dopl_tensor_numel(&n->out) == 0 && *weight_beta == 0.0f)
            memset(*dweight, 0, d->storage->bytes);
    }
    return DOPL_OK;
}

dopl_status op_vocab_backward(dopl_rt *rt, dopl_node *n) {
    const dopl_tensor *hidden = &n->in[0], *weight = &n->in[1];
    pass p = { .name = n->name,
               .n = n->out.dim[1],
               .C = hidden->dim[1],
               .V = weight->dim[0],
               .chunk = n->saved[1].dim[0],
               .hidden = dopl_f32(hidden),
               .weight = weight,
               .row = dopl_i32(&n->in[2]),
               .label = dopl_i32(&n->in[3]),
               .gathered = dopl_f32(&n->saved[0]),
               .logits = dopl_f32(&n->saved[1]) };
    float *dhidden, *dweight, beta = 0.0f, eps = (float)OP_ATTRS(vocab, n)->eps;
    const float *shares = eps > 0.0f ? dopl_f32(&n->saved[2]) : NULL;
    DOPL_TRY(head_grads(rt, n, &dhidden, &dweight, &beta));
    const float *y = dopl_f32(&n->out), *dy = dopl_f32(&n->dout);
    int64_t last = p.n ? (p.n - 1) / p.chunk * p.chunk : -1;
    for (int64_t first = last; first >= 0; first -= p.chunk) {
        int64_t count = chunk_at(&p, first);
        if (first != last) DOPL_TRY(chunk_logits(rt, &p, first, count));
#pragma omp parallel for schedule(static) if (count * p.V > OP_GRAIN)
        for (int64_t i = 0; i < count; i++) {
            int64_t at = first + i;
            float u[4] = { dy[at], dy[p.n + at], dy[2 * p.n + at], dy[3 * p.n + at] };
            logits_grad(p.logits + i * p.V, p.V, p.label[at], u, y[p.n + at], y[3 * p.n + at], eps,
                        shares ? shares[at] : 0.0f);
        }
        DOPL_TRY(push_logits_grad(rt, &p, first, count, dweight, beta, dhidden));
        beta = 1.0f;
    }
    return DOPL_OK;
}

// ---- vocab_kl

dopl_status op_vocab_kl_shape(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *weight = c->in[1], *row = c->in[2], *ref = c->in[3], *ref_weight = c->in[4];
    DOPL_TRY(check_head(rt, c, 0, 1));
    DOPL_TRY(check_head(rt, c, 3, 4));
    if (row->n_dim != 1 || ref->dim[0] != row->dim[0])
        return dopl_fail(rt, DOPL_ESHAPE,
                         "vocab_kl: rows %s and reference hidden %s, need [n] and [n, C]",
                         dopl_shape_str(row).s, dopl_shape_str(ref).s);
    if (weight->dim[0] != ref_weight->dim[0])
        return dopl_fail(rt, DOPL_ESHAPE, "vocab_kl: weight %s and reference weight %s, need one V",
                         dopl_shape_str(weight).s, dopl_shape_str(ref_weight).s);
    DOPL_TRY(op_check_index(rt, "vocab_kl: rows", row, c->in[0]->dim[0]));
    return op_out(rt, c, DOPL_F32, 1, row->dim);
}

// z becomes p - r, the gradient of KL(r, p) in z; returns the KL. zr: the reference's logits.
DOPL_SIMD static float kl_row(float *restrict z, const float *restrict zr, int64_t V, float lse,
                              float lse_r) {
    float kl = 0.0f;
#pragma omp simd reduction(+ : kl)
    for (int64_t v = 0; v < V; v++) {
        float logp = z[v] - lse, logr = zr[v] - lse_r, r = dopl_expf(logr);
        kl += r * (logr - logp);
        z[v] = dopl_expf(logp) - r;
    }
    return kl;
}

// Logits of a chunk turned into p - r in place; kl [count] may be NULL. ref_logits: [chunk, V]
// room.
static dopl_status kl_chunk(dopl_rt *rt, const pass *p, int64_t first, int64_t count,
                            const dopl_tensor *ref, const dopl_tensor *ref_weight,
                            float *ref_logits, float *kl) {
    DOPL_TRY(chunk_logits(rt, p, first, count));
    DOPL_TRY(op_weight_apply(rt, p->name, ref_weight, count, dopl_f32(ref) + first * ref->dim[1],
                             false, ref_logits));
#pragma omp parallel for schedule(static) if (count * p->V > OP_GRAIN)
    for (int64_t i = 0; i < count; i++) {
        float *z = p->logits + i * p->V, *zr = ref_logits + i * p->V;
        float value =
            kl_row(z, zr, p->V, op_row_log_sum_exp(z, p->V), op_row_log_sum_exp(zr, p->V));
        if (kl) kl[i] = value;
    }
    return DOPL_OK;
}

dopl_status op_vocab_kl_cpu(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *hidden = c->in[0], *weight = c->in[1];
    pass p = { .name = c->op->name,
               .n = c->in[2]->dim[0],
               .C = hidden->dim[1],
               .V = weight->dim[0],
               .hidden = dopl_f32(hidden),
               .weight = weight,
               .row = dopl_i32(c->in[2]) };
    p.chunk = chunk_rows(rt, p.n, 2 * p.V);
    float *out = dopl_f32(c->out), *ref_logits;
    DOPL_TRY(op_save(rt, c, 0, 2, (int64_t[]){ p.chunk, p.C }));
    DOPL_TRY(op_save(rt, c, 1, 2, (int64_t[]){ p.chunk, p.V }));
    p.gathered = dopl_f32(&c->saved[0]);
    p.logits = dopl_f32(&c->saved[1]);
    DOPL_TRY(alloc_floats(rt, p.chunk * p.V, &ref_logits));
    dopl_status status = DOPL_OK;
    for (int64_t first = 0; status == DOPL_OK && first < p.n; first += p.chunk)
        status = kl_chunk(rt, &p, first, chunk_at(&p, first), c->in[3], c->in[4], ref_logits,
                          out + first);
    dopl_rt_free(rt, ref_logits);
    return status;
}

dopl_status op_vocab_kl_backward(dopl_rt *rt, dopl_node *n) {
    const dopl_tensor *hidden = &n->in[0], *weight = &n->in[1];
    if (dopl_grad_wants(n, 3) || dopl_grad_wants(n, 4))
        return dopl_fail(rt, DOPL_ESTATE, "vocab_kl: the reference is frozen; detach it");
    pass p = { .name = n->name,
               .n = n->out.dim[0],
               .C = hidden->dim[1],
               .V = weight->dim[0],
               .chunk = n->saved[1].dim[0],
               .hidden = dopl_f32(hidden),
               .weight = weight,
               .row = dopl_i32(&n->in[2]),
               .gathered = dopl_f32(&n->saved[0]),
               .logits = dopl_f32(&n->saved[1]) };
    float *dhidden, *dweight, *ref_logits, beta = 0.0f;
    DOPL_TRY(head_grads(rt, n, &dhidden, &dweight, &beta));
    DOPL_TRY(alloc_floats(rt, p.chunk * p.V, &ref_logits));
    const float *dy = dopl_f32(&n->dout);
    int64_t last = p.n ? (p.n - 1) / p.chunk * p.chunk : -1;
    dopl_status status = DOPL_OK;
    for (int64_t first = last; status == DOPL_OK && first >= 0; first -= p.chunk) {
        int64_t count = chunk_at(&p, first);
        if (first != last)
            status = kl_chunk(rt, &p, first, count, &n->in[3], &n->in[4], ref_logits, NULL);
#pragma omp parallel for schedule(static) if (count * p.V > OP_GRAIN)
        for (int64_t i = 0; i < count; i++)
            for (int64_t v = 0; v < p.V; v++) p.logits[i * p.V + v] *= dy[first + i];
        if (status == DOPL_OK)
            status = push_logits_grad(rt, &p, first, count, dweight, beta, dhidden);
        beta = 1.0f;
    }
    dopl_rt_free(rt, ref_logits);
    return status;
}

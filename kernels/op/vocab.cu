// vocab.cu - the vocabulary head and everything losses read off it, in chunks of logits.
//
// As on the CPU (runtime/op/vocab.c): logits are made for rt->chunk_bytes of labelled rows at
// a time, in f32 whatever the type of the operands, and reduced at once. Losses weigh the rows by
// what the statistics of all rows say, so the gradient cannot start before backward; there the last
// chunk's logits still stand, and the others are multiplied anew. One kernel reads a chunk for the
// statistics, one turns it into its gradient in place, in the type of the products that follow: a
// bf16 gradient takes the front half of each f32 row. KL keeps the logits of both models and their
// log-sum-exps, so that a chunk computed again needs no second look before its gradient.
//
// Rows of logits are padded to a multiple of 8, so that every row can be read 16 bytes at a time
// whatever the vocabulary. The padding is never read into a result.
#include "vocab.cuh"

// ---- vocab

struct take_stats {
    softmax_sums &s;
    float &total; // of z - origin
    float origin;
    template <int N>
    __device__ __forceinline__ void operator()(int64_t, const float (&z)[N]) const {
        float top = largest(z);
        if (top > s.top) raise_top(s, top, true);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float d = z[i] - s.top, e = __expf(d);
            s.sum += e;
            s.weighted += e * d;
            total += z[i] - origin;
        }
    }
};

// One block a row: log-probability of the label, log-sum-exp, mean log-probability, entropy, in one
// pass over the logits, which bounds it (16 exponentials and 64 bytes in flight for each thread).
// The mean is taken relative to the first logit: a constant in all of them costs no digits.
__global__ void __launch_bounds__(VOCAB_THREADS)
    vocab_stats_kernel(float *__restrict__ out,           // [4, n], from the chunk's first row on
                       const float *__restrict__ logits,  // [count, ld]
                       const int32_t *__restrict__ label, // [count]
                       int64_t n, int64_t V, int64_t ld) {
    const float *z = logits + blockIdx.x * ld;
    softmax_sums s = no_sums();
    float total = 0.0f, origin = z[0];
    for_each_logit<4>(z, V, take_stats{ s, total, origin });
    s = block_sums(s, true);
    total = block_sum(total);
    if (threadIdx.x != 0) return;
    float log_sum = logf(s.sum); // relative to the top
    float *at = out + blockIdx.x;
    at[0] = (z[label[blockIdx.x]] - s.top) - log_sum;
    at[n] = s.top + log_sum;
    at[2 * n] = total / (float)V + ((origin - s.top) - log_sum);
    at[3 * n] = log_sum - s.weighted / s.sum;
}

struct take_smoothed {
    float &total, &shares;
    float lse, eps;
    template <int N>
    __device__ __forceinline__ void operator()(int64_t, const float (&z)[N]) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            float p = __expf(z[i] - lse);
            total += logf(p + eps);
            shares += p / (p + eps);
        }
    }
};

// One block a row, for eps > 0: the mean of log(p + eps) takes the place of the mean
// log-probability. A second pass over the logits, since p needs the log-sum-exp of the first.
__global__ void __launch_bounds__(VOCAB_THREADS)
    vocab_smoothed_kernel(float *__restrict__ out,          // [4, n], from the chunk's first row on
                          float *__restrict__ shares,       // [n], likewise: sums of p / (p + eps)
                          const float *__restrict__ logits, // [count, ld]
                          int64_t n, int64_t V, int64_t ld, float eps) {
    float total = 0.0f, sum = 0.0f;
    take_smoothed take = { total, sum, out[blockIdx.x + n], eps };
    for_each_logit<4>(logits + blockIdx.x * ld, V, take);
    total = block_sum(total);
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    out[blockIdx.x + 2 * n] = total / (float)V;
    shares[blockIdx.x] = sum;
}

extern "C" dopl_status op_vocab_cuda(dopl_rt *rt, dopl_op_call *c) {
    pass p;
    p.n = c->in[2]->dim[0];
    p.ld = padded(c->in[1]->dim[0]);
    if (p.n == 0) return DOPL_OK;
    p.chunk = chunk_rows(rt, p.n, p.ld * (int64_t)sizeof(float));
    int64_t shape[] = { p.chunk, p.ld };
    DOPL_TRY(op_save(rt, c, 0, 2, shape)); // backward finds the last chunk there
    p.logits = data_of<float>(&c->saved[0]);
    float eps = (float)OP_ATTRS(vocab, c)->eps;
    if (eps > 0.0f) DOPL_TRY(op_save(rt, c, 1, 1, &p.n)); // what backward needs of p / (p + eps)
    DOPL_TRY(begin(rt, &p, c->in[0], c->in[1], c->in[2], c->in[3]));
    dopl_status status = DOPL_OK;
    for (int64_t first = 0; status == DOPL_OK && first < p.n; first += p.chunk) {
        int64_t count = chunk_at(&p, first);
        status = chunk_logits(rt, &p, first, count);
        if (status != DOPL_OK) break;
        DOPL_LAUNCH((vocab_stats_kernel), (unsigned)count, VOCAB_THREADS, 0, rt,
                    data_of<float>(c->out) + first, p.logits, p.label + first, p.n, p.V, p.ld);
        if (eps > 0.0f)
            DOPL_LAUNCH((vocab_smoothed_kernel), (unsigned)count, VOCAB_THREADS, 0, rt,
                        data_of<float>(c->out) + first, data_of<float>(&c->saved[1]) + first,
                        p.logits, p.n, p.V, p.ld, eps);
        status = dopl_cuda_launched(rt, "vocab: statistics");
    }
    dopl_cuda_free(rt, p.gathered.data);
    return status;
}

// With p = softmax(z), u the gradients of the four statistics:
//   d logp = 1[v=y] - p,  d lse = p,  d mean = 1/V - p,  d entropy = -p (log p + H)
// With eps > 0, d mean = (p / (p + eps) - p S) / V, where S is the sum of p / (p + eps).
struct stats_gradient {
    float all, flat, of_label, of_entropy, lse, entropy, eps;
    int64_t label;
    template <int N> __device__ __forceinline__ void operator()(int64_t v, float (&x)[N]) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            float logp = x[i] - lse;
            float slope = of_entropy == 0.0f ? all : all - of_entropy * (logp + entropy);
            float p = __expf(logp), share = eps > 0.0f ? p / (p + eps) : 1.0f;
            x[i] = p * slope + flat * share + (v + i == label ? of_label : 0.0f);
        }
    }
};

// One block a row. Bound by bandwidth: 4 bytes in, 4 or 2 out.
template <class T>
__global__ void __launch_bounds__(VOCAB_THREADS)
    vocab_grad_kernel(float *logits,                     // [count, ld]; out: T [count, ld 4/size]
                      const float *__restrict__ y,       // [4, n], from the chunk's first row on
                      const float *__restrict__ dy,      // likewise
                      const float *__restrict__ shares,  // [count]; nullptr where eps is 0
                      const int32_t *__restrict__ label, // [count]
                      int64_t n, int64_t V, int64_t ld, float eps) {
    const float *u = dy + blockIdx.x;
    stats_gradient g;
    g.flat = u[2 * n] / (float)V;
    g.all = u[n] - u[0] - (shares ? g.flat * shares[blockIdx.x] : u[2 * n]);
    g.eps = eps;
    g.of_label = u[0];
    g.of_entropy = u[3 * n];
    g.lse = y[blockIdx.x + n];
    g.entropy = y[blockIdx.x + 3 * n];
    g.label = label[blockIdx.x];
    rewrite_row<T>(logits + blockIdx.x * ld, V, g);
}

extern "C" dopl_status op_vocab_cuda_backward(dopl_rt *rt, dopl_node *n) {
    pass p;
    head_grads g;
    p.n = n->out.dim[1];
    DOPL_TRY(find_grads(rt, n, p.n, &g));
    if (p.n == 0) return DOPL_OK;
    p.chunk = n->saved[0].dim[0];
    p.ld = n->saved[0].dim[1];
    p.logits = data_of<float>(&n->saved[0]);
    float eps = (float)OP_ATTRS(vocab, n)->eps;
    const float *shares = eps > 0.0f ? data_of<float>(&n->saved[1]) : nullptr;
    DOPL_TRY(begin(rt, &p, &n->in[0], &n->in[1], &n->in[2], &n->in[3]));
    const float *y = data_of<float>(&n->out), *dy = data_of<float>(&n->dout);
    dopl_status status = DOPL_OK;
    int64_t last = (p.n - 1) / p.chunk * p.chunk;
    for (int64_t first = last; status == DOPL_OK && first >= 0; first -= p.chunk) {
        int64_t count = chunk_at(&p, first);
        status = first == last ? gather(rt, &p, first, count) : chunk_logits(rt, &p, first, count);
        if (status != DOPL_OK) break;
        DISPATCH(p.hidden->dtype, T, {
            DOPL_LAUNCH((vocab_grad_kernel<T>), (unsigned)count, VOCAB_THREADS, 0, rt, p.logits,
                        y + first, dy + first, shares ? shares + first : nullptr, p.label + first,
                        p.n, p.V, p.ld, eps);
        });
        status = dopl_cuda_launched(rt, "vocab: gradient of logits");
        if (status == DOPL_OK) status = push_logits_grad(rt, &p, first, count, &g);
    }
    dopl_cuda_free(rt, p.gathered.data);
    return status;
}

// ---- vocab_kl

struct take_pair {
    softmax_sums &s, &r; // of the model; of the reference, weighted by (zr - z) - apart
    const float *zr;
    float apart; // zr - z at the row's start: what the two have between them is not summed up
    template <int N>
    __device__ __forceinline__ void operator()(int64_t v, const float (&z)[N]) const {
        float x[N];
        if constexpr (N == 1)
            x[0] = zr[v];
        else
            load_logits<N / LOGITS>(x, zr + v, VOCAB_STRIDE);
        float top = largest(z), top_r = largest(x);
        if (top > s.top) raise_top(s, top, false);
        if (top_r > r.top) raise_top(r, top_r, false);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float e = __expf(x[i] - r.top);
            s.sum += __expf(z[i] - s.top);
            r.sum += e;
            r.weighted += e * ((x[i] - z[i]) - apart);
        }
    }
};

// One block a row: KL(reference, model) = sum of r (log r - log p), and the log-sum-exp of both, in
// one pass over the two rows of logits, which bounds it.
__global__ void __launch_bounds__(VOCAB_THREADS)
    vocab_kl_kernel(float *__restrict__ kl,               // [count]
                    float *__restrict__ lse,              // [2, n], from the chunk's first row on
                    const float *__restrict__ logits,     // [count, ld]
                    const float *__restrict__ ref_logits, // [count, ld]
                    int64_t n, int64_t V, int64_t ld) {
    const float *z = logits + blockIdx.x * ld, *zr = ref_logits + blockIdx.x * ld;
    softmax_sums s = no_sums(), r = no_sums();
    float origin = z[0], origin_r = zr[0];
    for_each_logit<2>(z, V, take_pair{ s, r, zr, origin_r - origin });
    s = block_sums(s, false);
    r = block_sums(r, false);
    if (threadIdx.x != 0) return;
    float log_sum = logf(s.sum), log_sum_r = logf(r.sum);
    kl[blockIdx.x] =
        r.weighted / r.sum + ((s.top - origin) + log_sum) - ((r.top - origin_r) + log_sum_r);
    lse[blockIdx.x] = s.top + log_sum;
    lse[blockIdx.x + n] = r.top + log_sum_r;
}

// d KL = p - r
struct kl_gradient {
    const float *zr;
    float u, lse, lse_r;
    template <int N> __device__ __forceinline__ void operator()(int64_t v, float (&x)[N]) const {
        float r[N];
        load_elements<N>(r, zr + v);
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = u * (__expf(x[i] - lse) - __expf(r[i] - lse_r));
    }
};

// One block a row. Bound by bandwidth: 8 bytes in, 4 or 2 out.
template <class T>
__global__ void __launch_bounds__(VOCAB_THREADS)
    vocab_kl_grad_kernel(float *logits, // [count, ld]; out: T [count, ld 4/size]
                         const float *__restrict__ ref_logits, // [count, ld]
                         const float *__restrict__ lse, // [2, n], from the chunk's first row on
                         const float *__restrict__ dy,  // [count]
                         int64_t n, int64_t V, int64_t ld) {
    kl_gradient g;
    g.zr = ref_logits + blockIdx.x * ld;
    g.u = dy[blockIdx.x];
    g.lse = lse[blockIdx.x];
    g.lse_r = lse[blockIdx.x + n];
    rewrite_row<T>(logits + blockIdx.x * ld, V, g);
}

// Logits of both models for a chunk.
static dopl_status pair_logits(dopl_rt *rt, const pass *p, int64_t first, int64_t count,
                               const dopl_tensor *ref, const dopl_tensor *ref_weight,
                               float *ref_logits) {
    int64_t C = ref->dim[1];
    char *rows =
        static_cast<char *>(dopl_data(ref)) + (size_t)(first * C) * dopl_dtype_bytes(ref->dtype);
    DOPL_TRY(chunk_logits(rt, p, first, count));
    return make_logits(rt, p, ref_logits, matrix_at(rows, ref->dtype, count, C, C), ref_weight);
}

extern "C" dopl_status op_vocab_kl_cuda(dopl_rt *rt, dopl_op_call *c) {
    pass p;
    p.n = c->in[2]->dim[0];
    p.ld = padded(c->in[1]->dim[0]);
    if (p.n == 0) return DOPL_OK;
    p.chunk = chunk_rows(rt, p.n, 2 * p.ld * (int64_t)sizeof(float));
    int64_t shape[] = { p.chunk, p.ld }, shape_lse[] = { 2, p.n };
    DOPL_TRY(op_save(rt, c, 0, 2, shape));
    DOPL_TRY(op_save(rt, c, 1, 2, shape));
    DOPL_TRY(op_save(rt, c, 2, 2, shape_lse));
    p.logits = data_of<float>(&c->saved[0]);
    float *ref_logits = data_of<float>(&c->saved[1]), *lse = data_of<float>(&c->saved[2]);
    DOPL_TRY(begin(rt, &p, c->in[0], c->in[1], c->in[2], nullptr));
    dopl_status status = DOPL_OK;
    for (int64_t first = 0; status == DOPL_OK && first < p.n; first += p.chunk) {
        int64_t count = chunk_at(&p, first);
        status = pair_logits(rt, &p, first, count, c->in[3], c->in[4], ref_logits);
        if (status != DOPL_OK) break;
        DOPL_LAUNCH((vocab_kl_kernel), (unsigned)count, VOCAB_THREADS, 0, rt,
                    data_of<float>(c->out) + first, lse + first, p.logits, ref_logits, p.n, p.V,
                    p.ld);
        status = dopl_cuda_launched(rt, "vocab_kl: divergence");
    }
    dopl_cuda_free(rt, p.gathered.data);
    return status;
}

extern "C" dopl_status op_vocab_kl_cuda_backward(dopl_rt *rt, dopl_node *n) {
    if (dopl_grad_wants(n, 3) || dopl_grad_wants(n, 4))
        return dopl_fail(rt, DOPL_ESTATE, "vocab_kl: the reference is frozen; detach it");
    pass p;
    head_grads g;
    p.n = n->out.dim[0];
    DOPL_TRY(find_grads(rt, n, p.n, &g));
    if (p.n == 0) return DOPL_OK;
    p.chunk = n->saved[0].dim[0];
    p.ld = n->saved[0].dim[1];
    p.logits = data_of<float>(&n->saved[0]);
    float *ref_logits = data_of<float>(&n->saved[1]);
    const float *lse = data_of<float>(&n->saved[2]), *dy = data_of<float>(&n->dout);
    DOPL_TRY(begin(rt, &p, &n->in[0], &n->in[1], &n->in[2], nullptr));
    dopl_status status = DOPL_OK;
    int64_t last = (p.n - 1) / p.chunk * p.chunk;
    for (int64_t first = last; status == DOPL_OK && first >= 0; first -= p.chunk) {
        int64_t count = chunk_at(&p, first);
        status = first == last
                     ? gather(rt, &p, first, count)
                     : pair_logits(rt, &p, first, count, &n->in[3], &n->in[4], ref_logits);
        if (status != DOPL_OK) break;
        DISPATCH(p.hidden->dtype, T, {
            DOPL_LAUNCH((vocab_kl_grad_kernel<T>), (unsigned)count, VOCAB_THREADS, 0, rt, p.logits,
                        ref_logits, lse + first, dy + first, p.n, p.V, p.ld);
        });
        status = dopl_cuda_launched(rt, "vocab_kl: gradient of logits");
        if (status == DOPL_OK) status = push_logits_grad(rt, &p, first, count, &g);
    }
    dopl_cuda_free(rt, p.gathered.data);
    return status;
}

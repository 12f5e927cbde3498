// vocab.cuh - what the two operators of vocab.cu share: chunks of logits, sums of exponentials over
// a row, and the way of a gradient from logits to hidden rows and weights.
#ifndef DOPL_KERNELS_OP_VOCAB_CUH
#define DOPL_KERNELS_OP_VOCAB_CUH

#include "../elements.cuh"
#include "../product.cuh"

#include <cfloat>

// The pieces one pass over the labelled rows works with.
struct pass {
    int64_t n, chunk; // labelled rows, rows of a chunk
    int64_t C, V, ld; // columns of hidden, vocabulary, elements from row to row of logits
    const dopl_tensor *hidden, *weight;
    const int32_t *row, *label; // on the device; label nullptr: none
    matrix gathered;            // [chunk, C], type of hidden
    float *logits;              // [chunk, ld]
};

constexpr int VOCAB_THREADS = 256; // a row's block: 5 and more of them on each multiprocessor
constexpr int LOGITS = 4;          // of 16 bytes

// ---- gathering

// One block a row, E the widest element that rows are made of. Bound by bandwidth; small.
template <class E>
__global__ void gather_rows_kernel(E *__restrict__ out,             // [count, cols]
                                   const E *__restrict__ x,         // [rows, cols]
                                   const int32_t *__restrict__ row, // [count]
                                   int64_t cols) {
    const E *from = x + row[blockIdx.x] * cols;
    E *to = out + (int64_t)blockIdx.x * cols;
    for (int64_t i = threadIdx.x; i < cols; i += VOCAB_THREADS) to[i] = from[i];
}

template <class T> static void launch_gather(dopl_rt *rt, const pass *p, int64_t first, int64_t n) {
    const T *x = data_of<T>(p->hidden);
    T *out = static_cast<T *>(p->gathered.data);
    if (packs(x, p->C))
        DOPL_LAUNCH((gather_rows_kernel<uint4>), (unsigned)n, VOCAB_THREADS, 0, rt,
                    reinterpret_cast<uint4 *>(out), reinterpret_cast<const uint4 *>(x),
                    p->row + first, p->C / pack<T>::N);
    else
        DOPL_LAUNCH((gather_rows_kernel<T>), (unsigned)n, VOCAB_THREADS, 0, rt, out, x,
                    p->row + first, p->C);
}

static dopl_status gather(dopl_rt *rt, const pass *p, int64_t first, int64_t count) {
    DISPATCH(p->hidden->dtype, T, { launch_gather<T>(rt, p, first, count); });
    return dopl_cuda_launched(rt, "vocab: gather");
}

static matrix chunk_of(const matrix &gathered, int64_t count) {
    matrix m = gathered;
    m.rows = count;
    return m;
}

// logits [count, V] = x [count, C] weight^T
static dopl_status make_logits(dopl_rt *rt, const pass *p, float *logits, const matrix &x,
                               const dopl_tensor *weight) {
    return multiply(rt, matrix_at(logits, DOPL_F32, x.rows, p->V, p->ld), x,
                    transposed(matrix_of(weight)), 0.0f);
}

static dopl_status chunk_logits(dopl_rt *rt, const pass *p, int64_t first, int64_t count) {
    DOPL_TRY(gather(rt, p, first, count));
    return make_logits(rt, p, p->logits, chunk_of(p->gathered, count), p->weight);
}

// Rows of a chunk, `row_bytes` of logits each: even chunks, of whole tiles of a product where there
// is room.
static int64_t chunk_rows(const dopl_rt *rt, int64_t n, int64_t row_bytes) {
    enum { TILE = 64 };
    int64_t most = (int64_t)rt->chunk_bytes / row_bytes;
    if (most < 1) most = 1;
    int64_t chunks = ceil_div(n, most);
    if (chunks <= 1) return n;
    int64_t even = ceil_div(n, chunks), whole = ceil_div(even, TILE) * TILE;
    return whole <= most ? whole : even;
}

static int64_t chunk_at(const pass *p, int64_t first) {
    return p->n - first < p->chunk ? p->n - first : p->chunk;
}

// Takes scratch for the gathered rows: free p->gathered.data.
static dopl_status begin(dopl_rt *rt, pass *p, const dopl_tensor *hidden, const dopl_tensor *weight,
                         const dopl_tensor *row, const dopl_tensor *label) {
    p->hidden = hidden;
    p->weight = weight;
    p->C = hidden->dim[1];
    p->V = weight->dim[0];
    p->label = nullptr;
    DOPL_TRY(dopl_cuda_index(rt, row, &p->row));
    if (label) DOPL_TRY(dopl_cuda_index(rt, label, &p->label));
    void *data;
    DOPL_TRY(
        dopl_cuda_alloc(rt, &data, (size_t)(p->chunk * p->C) * dopl_dtype_bytes(hidden->dtype)));
    p->gathered = matrix_at(data, hidden->dtype, p->chunk, p->C, p->C);
    return DOPL_OK;
}

static int64_t padded(int64_t V) {
    return ceil_div(V, 2 * LOGITS) * (2 * LOGITS);
}

// ---- online sums of exponentials

// Sums relative to the largest logit so far, for one thread's share of a row and then for all.
struct softmax_sums {
    float top, sum, weighted; // sum of e^(z - top); the same times a weight
};

__device__ __forceinline__ softmax_sums no_sums() {
    return { -FLT_MAX, 0.0f, 0.0f }; // finite: top - top must not be NaN
}

// Sums relative to `top`. `moves`: the weight is z - top itself and moves along.
__device__ __forceinline__ void raise_top(softmax_sums &s, float top, bool moves) {
    float down = s.top - top, factor = __expf(down);
    s.weighted = factor * (moves ? s.weighted + s.sum * down : s.weighted);
    s.sum *= factor;
    s.top = top;
}

__device__ __forceinline__ softmax_sums block_sums(softmax_sums s, bool moves) {
    raise_top(s, block_max(s.top), moves);
    s.sum = block_sum(s.sum);
    s.weighted = block_sum(s.weighted);
    return s;
}

template <int N> __device__ __forceinline__ float largest(const float (&z)[N]) {
    float top = z[0];
#pragma unroll
    for (int i = 1; i < N; i++) top = fmaxf(top, z[i]);
    return top;
}

template <int PACKS>
__device__ __forceinline__ void load_logits(float (&x)[PACKS * LOGITS], const float *z,
                                            int64_t stride) {
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        pack<float> part = load_pack(z + k * stride);
#pragma unroll
        for (int i = 0; i < LOGITS; i++) x[k * LOGITS + i] = part.x[i];
    }
}

constexpr int64_t VOCAB_STRIDE = VOCAB_THREADS * LOGITS; // from a thread's 16 bytes to its next

// Calls take(v, z) with the logits at v .. v + 3, at VOCAB_STRIDE from there, and so on, PACKS
// times in all: that many loads are in flight for each thread. What is left comes in fours, then
// alone.
template <int PACKS, class Take>
__device__ __forceinline__ void for_each_logit(const float *z, int64_t V, Take take) {
    int64_t v = (int64_t)threadIdx.x * LOGITS;
    for (; v + (PACKS - 1) * VOCAB_STRIDE + LOGITS <= V; v += PACKS * VOCAB_STRIDE) {
        float x[PACKS * LOGITS];
        load_logits<PACKS>(x, z + v, VOCAB_STRIDE);
        take(v, x);
    }
    for (; v + LOGITS <= V; v += VOCAB_STRIDE) {
        float x[LOGITS];
        load_logits<1>(x, z + v, VOCAB_STRIDE);
        take(v, x);
    }
    for (; v < V; v++) {
        float x[1] = { z[v] };
        take(v, x);
    }
}

// ---- the gradient of logits, in place

// Turns a row of f32 logits into T, 8 at a time: change(v, x) replaces x, the logits from v on. A
// bf16 at v lies where the logit at v / 2 was, so a tile is written when all of it has been read;
// everything before it has been, too.
template <class T, class Change>
__device__ __forceinline__ void rewrite_row(float *z, int64_t V, Change change) {
    constexpr int N = 2 * LOGITS;
    T *out = reinterpret_cast<T *>(z);
    for (int64_t base = 0; base < V; base += VOCAB_THREADS * N) {
        int64_t v = base + threadIdx.x * N;
        float x[N];
        if (v < V) {
            load_elements<N>(x, z + v);
            change(v, x);
        }
        if (sizeof(T) < sizeof(float)) __syncthreads();
        if (v >= V) continue;
        store_elements<N>(out + v, x);
    }
}

// ---- the gradient's way back

// out[row[i]] += x[i]; rows may repeat. One block for each i: the first that names a row adds up
// all that name it, in order, and writes; the others have nothing to do. Each looks through the
// whole list, which is short beside a row of the vocabulary.
template <class T, int N>
__global__ void __launch_bounds__(VOCAB_THREADS)
    scatter_rows_kernel(T *__restrict__ out,             // [rows, cols]
                        float *__restrict__ x,           // [count, cols]; overwritten
                        const int32_t *__restrict__ row, // [count]
                        int count, int64_t cols) {
    __shared__ int next;
    int self = blockIdx.x, mine = row[self], earlier = 0;
    for (int j = threadIdx.x; j < self; j += VOCAB_THREADS) earlier |= row[j] == mine;
    if (__syncthreads_or(earlier)) return;
    float *sum = x + self * cols;
    for (int from = self;;) {
        int found = count;
        for (int j = from + 1 + threadIdx.x; j < count && found == count; j += VOCAB_THREADS)
            if (row[j] == mine) found = j;
        if (!__syncthreads_or(found < count)) break;
        if (threadIdx.x == 0) next = count;
        __syncthreads();
        atomicMin(&next, found);
        __syncthreads();
        from = next;
        const float *more = x + from * cols;
#pragma unroll 1 // rows seldom repeat
        for (int64_t i = threadIdx.x * N; i < cols; i += VOCAB_THREADS * N)
#pragma unroll
            for (int k = 0; k < N; k++) sum[i + k] += more[i + k];
    }
    T *to = out + mine * cols;
    for (int64_t i = threadIdx.x * N; i < cols; i += VOCAB_THREADS * N) {
        float v[N];
        load_elements<N>(v, sum + i);
        add_elements<N>(to + i, v, 1.0f);
    }
}

template <class T>
static void launch_scatter(dopl_rt *rt, T *out, float *x, const int32_t *row, int64_t count,
                           int64_t cols) {
    if (packs(out, cols))
        DOPL_LAUNCH((scatter_rows_kernel<T, pack<T>::N>), (unsigned)count, VOCAB_THREADS, 0, rt,
                    out, x, row, (int)count, cols);
    else
        DOPL_LAUNCH((scatter_rows_kernel<T, 1>), (unsigned)count, VOCAB_THREADS, 0, rt, out, x, row,
                    (int)count, cols);
}

// Where the gradients of hidden and weight go; NULL: not wanted.
struct head_grads {
    dopl_tensor *hidden, *weight; // hidden: ready to be added to
    float weight_beta;
};

static dopl_status zero(dopl_rt *rt, const dopl_tensor *t) {
    size_t bytes = (size_t)dopl_tensor_numel(t) * dopl_dtype_bytes(t->dtype);
    return dopl_cuda_set(rt, dopl_data(t), 0, bytes);
}

static dopl_status find_grads(dopl_rt *rt, dopl_node *n, int64_t n_rows, head_grads *g) {
    float beta;
    g->hidden = g->weight = nullptr;
    if (dopl_grad_wants(n, 0)) {
        DOPL_TRY(dopl_grad_into(rt, n, 0, &g->hidden, &beta));
        if (beta == 0.0f) DOPL_TRY(zero(rt, g->hidden));
    }
    if (dopl_grad_wants(n, 1)) {
        DOPL_TRY(dopl_grad_into(rt, n, 1, &g->weight, &g->weight_beta));
        if (n_rows == 0 && g->weight_beta == 0.0f) DOPL_TRY(zero(rt, g->weight));
    }
    return DOPL_OK;
}

// Adds the gradient of a chunk's logits to those of the weight and of the hidden rows.
static dopl_status push_logits_grad(dopl_rt *rt, const pass *p, int64_t first, int64_t count,
                                    head_grads *g) {
    dopl_dtype dtype = p->hidden->dtype;
    int64_t ld = p->ld * (int64_t)(sizeof(float) / dopl_dtype_bytes(dtype));
    matrix dz = matrix_at(p->logits, dtype, count, p->V, ld);
    if (g->weight) {
        DOPL_TRY(multiply(rt, matrix_of(g->weight), transposed(dz), chunk_of(p->gathered, count),
                          g->weight_beta));
        g->weight_beta = 1.0f;
    }
    if (!g->hidden || p->C == 0) return DOPL_OK;
    void *memory;
    DOPL_TRY(dopl_cuda_alloc(rt, &memory, (size_t)(count * p->C) * sizeof(float)));
    float *rows = static_cast<float *>(memory);
    dopl_status status =
        multiply(rt, matrix_at(rows, DOPL_F32, count, p->C, p->C), dz, matrix_of(p->weight), 0.0f);
    if (status == DOPL_OK) {
        DISPATCH(g->hidden->dtype, T, {
            launch_scatter<T>(rt, data_of<T>(g->hidden), rows, p->row + first, count, p->C);
        });
        status = dopl_cuda_launched(rt, "vocab: gradient of hidden");
    }
    dopl_cuda_free(rt, memory);
    return status;
}

#endif

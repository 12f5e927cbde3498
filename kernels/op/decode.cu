// decode.cu - operators of generation: choosing a token, and attention over a key/value cache.
//
// Chosen tokens are indices, which live in host memory: argmax and sample wait for the device. What
// is launched depends on shapes alone, not on positions, so that a captured step can run again.
#include "../common.cuh"
#include "../../runtime/core/rng.h"

// ---- choosing: one row of logits, one block

constexpr int CHOICE_THREADS = 512, CHOICE_WARPS = CHOICE_THREADS / WARP; // at most

static unsigned choice_threads(int64_t cols) {
    int64_t warps = ceil_div(cols, 4 * WARP);
    return (unsigned)(warps < CHOICE_WARPS ? warps : CHOICE_WARPS) * WARP;
}

// Runs `launch(device memory for `rows` indices)` and takes the indices to host memory.
template <class F>
static dopl_status choose(dopl_rt *rt, dopl_op_call *c, const char *name, const F &launch) {
    int64_t rows = dopl_tensor_rows(c->in[0]);
    if (rows == 0) return DOPL_OK;
    void *chosen;
    DOPL_TRY(dopl_cuda_alloc(rt, &chosen, (size_t)rows * sizeof(int32_t)));
    launch(static_cast<int32_t *>(chosen), rows);
    dopl_status status = dopl_cuda_launched(rt, name);
    if (status == DOPL_OK)
        status = dopl_cuda_to_host(rt, dopl_data(c->out), chosen, (size_t)rows * sizeof(int32_t));
    dopl_cuda_free(rt, chosen);
    return status;
}

// f(i, x) for elements of a row, by all threads of the block: 16 bytes at a time from where the row
// first meets a multiple of them, so that a row of any length has many loads under way.
template <class T, class F>
__device__ __forceinline__ void for_row(const T *row, int n, const F &f) {
    constexpr int N = pack<T>::N;
    int head = (int)((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
    if (head > n) head = n;
    int packed = (n - head) / N;
    if ((int)threadIdx.x < head) f((int)threadIdx.x, to_float(row[threadIdx.x]));
#pragma unroll 4
    for (int i = threadIdx.x; i < packed; i += blockDim.x) {
        pack<T> x = load_pack(row + head + i * N);
#pragma unroll
        for (int c = 0; c < N; c++) f(head + i * N + c, to_float(x.x[c]));
    }
    int rest = head + packed * N + threadIdx.x;
    if (rest < n) f(rest, to_float(row[rest]));
}

// The larger of two, the first of equals; NaN is never larger.
__device__ __forceinline__ void keep_larger(float *x, int *at, float y, int y_at) {
    if (y > *x || (y == *x && y_at < *at)) {
        *x = y;
        *at = y_at;
    }
}

// Bound by memory. A row that begins with NaN gives 0: nothing is larger than its first element.
template <class T>
__global__ void __launch_bounds__(CHOICE_THREADS)
    argmax_kernel(int32_t *__restrict__ out, // [rows]
                  const T *__restrict__ in,  // [rows, cols]
                  int64_t cols) {
    __shared__ float best[CHOICE_WARPS];
    __shared__ int best_at[CHOICE_WARPS];
    const T *row = in + blockIdx.x * cols;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float x = -INFINITY;
    int at = INT_MAX;
    for_row(row, (int)cols, [&](int i, float y) { keep_larger(&x, &at, y, i); });
    for (int k = WARP / 2; k; k /= 2)
        keep_larger(&x, &at, __shfl_xor_sync(0xffffffffu, x, k),
                    __shfl_xor_sync(0xffffffffu, at, k));
    if (lane == 0) {
        best[warp] = x;
        best_at[warp] = at;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < (int)blockDim.x / WARP; w++) keep_larger(&x, &at, best[w], best_at[w]);
    float first = to_float(row[0]);
    out[blockIdx.x] = at == INT_MAX || first != first ? 0 : at;
}

extern "C" dopl_status op_argmax_cuda(dopl_rt *rt, dopl_op_call *c) {
    return choose(rt, c, "argmax", [&](int32_t *chosen, int64_t rows) {
        DISPATCH(c->dtype, T, {
            DOPL_LAUNCH((argmax_kernel<T>), (unsigned)rows,
                        choice_threads(dopl_tensor_cols(c->in[0])), 0, rt, chosen,
                        data_of<T>(c->in[0]), dopl_tensor_cols(c->in[0]));
        });
    });
}

// ---- sample
//
// The CPU sorts probabilities and walks down until it has passed a share `uniform` of what top_p
// keeps. The place where a walk stops can be found without sorting: it is at the largest p for
// which the mass of what is at least p exceeds the goal, among equals at the index that the rest of
// the goal reaches. Bits of floats from 0 on are in the order of the floats, so ten passes that
// each try seven bounds find p. Masses are integers, multiples of 2^-31: sums are exact in any
// order. The CPU adds floats one after the other; the two can differ where a draw falls within
// rounding of the border between two tokens. NaN has no mass.

typedef unsigned long long mass;

__device__ __forceinline__ mass mass_of(float p) {
    return (mass)(unsigned)(p * 2147483648.0f);
}

// Sum over the threads before this one; *total: over all.
__device__ __forceinline__ mass block_scan(mass x, mass *total) {
    __shared__ mass part[CHOICE_WARPS];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    mass sum = x;
    for (int k = 1; k < WARP; k *= 2) {
        mass before = __shfl_up_sync(0xffffffffu, sum, k);
        if (lane >= k) sum += before;
    }
    __syncthreads();
    if (lane == WARP - 1) part[warp] = sum;
    __syncthreads();
    mass before = 0;
    *total = 0;
    for (int w = 0; w < (int)blockDim.x / WARP; w++) {
        if (w < warp) before += part[w];
        *total += part[w];
    }
    return before + sum - x;
}

// Sums over the block, to all threads.
template <int N> __device__ __forceinline__ void block_totals(mass (&x)[N]) {
    __shared__ mass part[N][CHOICE_WARPS];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        for (int k = WARP / 2; k; k /= 2) x[i] += __shfl_xor_sync(0xffffffffu, x[i], k);
        if (threadIdx.x % WARP == 0) part[i][threadIdx.x / WARP] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = 0;
        for (int w = 0; w < (int)blockDim.x / WARP; w++) x[i] += part[i][w];
    }
}

// Mass of what has bits of at least `bound`.
__device__ __forceinline__ mass mass_from(const float *p, int n, unsigned bound) {
    mass sum[1] = {};
    for_row(p, n, [&](int, float x) {
        if (__float_as_uint(x) >= bound) sum[0] += mass_of(x);
    });
    block_totals(sum);
    return sum[0];
}

// Bits of the probability at which a walk down from the largest has passed more than `goal`.
// *above: mass of what is larger.
__device__ __forceinline__ unsigned walk_down(const float *p, int n, mass goal, mass *above) {
    constexpr int BOUNDS = 7;
    unsigned low = 0; // the mass from there on exceeds the goal
    for (unsigned step = 1u << 27; step; step /= BOUNDS + 1) {
        mass sum[BOUNDS] = {};
        for_row(p, n, [&](int, float x) {
            unsigned bits = __float_as_uint(x);
            if (bits < low + step) return; // most, after the first pass
            mass m = mass_of(x);
#pragma unroll
            for (int b = 0; b < BOUNDS; b++)
                if (bits >= low + (b + 1) * step) sum[b] += m;
        });
        block_totals(sum);
        unsigned passed = 0;
#pragma unroll
        for (int b = 0; b < BOUNDS; b++) passed += sum[b] > goal;
        low += passed * step;
    }
    *above = mass_from(p, n, low + 1);
    return low;
}

// The index at which a walk in the order of indices has passed more than `goal`: of mass, or, where
// bits are given, of elements that have them.
__device__ __forceinline__ void walk_along(int32_t *out, const float *p, int n, mass goal,
                                           bool by_bits, unsigned bits) {
    for (int from = 0; from < n; from += blockDim.x) {
        int i = from + threadIdx.x;
        mass mine = 0, total;
        if (i < n) mine = by_bits ? __float_as_uint(p[i]) == bits : mass_of(p[i]);
        mass before = block_scan(mine, &total);
        if (goal < total) {
            if (before <= goal && goal < before + mine) *out = i;
            return;
        }
        goal -= total;
    }
}

// Bound by memory traffic of L2: about twenty passes over a row of probabilities.
template <class T>
__global__ void __launch_bounds__(CHOICE_THREADS)
    sample_kernel(int32_t *__restrict__ out,         // [rows]
                  float *__restrict__ room,          // [rows, cols]
                  const T *__restrict__ logits,      // [rows, cols]
                  const int32_t *__restrict__ draws, // [2, rows]: streams, counters
                  int64_t cols, float temperature, float top_p, uint64_t seed) {
    int64_t row = blockIdx.x;
    int n = (int)cols;
    const T *z = logits + row * cols;
    float *p = room + row * cols;
    float top = -INFINITY;
    for_row(z, n, [&](int, float x) { top = fmaxf(top, x); });
    top = block_max(top);
    for_row(z, n, [&](int i, float y) {
        float x = expf((y - top) / temperature);
        p[i] = x >= 0.0f ? x : 0.0f;
    });
    __syncthreads(); // others read them
    mass kept = mass_from(p, n, 0);
    if (kept == 0) { // no finite logit
        if (threadIdx.x == 0) out[row] = 0;
        return;
    }
    dopl_random random = dopl_philox(seed, (uint64_t)draws[row], (uint64_t)draws[gridDim.x + row]);
    double uniform = dopl_uniform(random.v[0]);
    if (top_p >= 1.0f) {
        walk_along(out + row, p, n, (mass)(uniform * (double)kept), false, 0);
        return;
    }
    mass above, limit = (mass)ceil((double)top_p * (double)kept);
    limit = limit > 0 ? limit - 1 : 0; // the smallest set that has the limit passes one less
    unsigned bits = walk_down(p, n, limit, &above);
    mass each = mass_of(__uint_as_float(bits));
    kept = above + ((limit - above) / each + 1) * each;
    mass goal = (mass)(uniform * (double)kept);
    bits = walk_down(p, n, goal, &above);
    walk_along(out + row, p, n, (goal - above) / mass_of(__uint_as_float(bits)), true, bits);
}

extern "C" dopl_status op_sample_cuda(dopl_rt *rt, dopl_op_call *c) {
    const int32_t *draws;
    void *room;
    const op_sample_attrs *a = OP_ATTRS(sample, c);
    int64_t n = dopl_tensor_numel(c->in[0]);
    if (n == 0) return DOPL_OK;
    DOPL_TRY(dopl_cuda_index(rt, c->in[1], &draws));
    DOPL_TRY(dopl_cuda_alloc(rt, &room, (size_t)n * sizeof(float)));
    dopl_status status = choose(rt, c, "sample", [&](int32_t *chosen, int64_t rows) {
        DISPATCH(c->dtype, T, {
            DOPL_LAUNCH((sample_kernel<T>), (unsigned)rows,
                        choice_threads(dopl_tensor_cols(c->in[0])), 0, rt, chosen,
                        static_cast<float *>(room), data_of<T>(c->in[0]), draws,
                        dopl_tensor_cols(c->in[0]), (float)a->temperature, (float)a->top_p,
                        (uint64_t)a->seed);
        });
    });
    dopl_cuda_free(rt, room);
    return status;
}

// ---- kv_store

// A thread copies a pack (or, where rows are not aligned, an element) of a row. Bound by launches.
template <class T, class P>
__global__ void kv_store_kernel(T *__restrict__ cache,             // [S, M, width]
                                const T *__restrict__ qkv,         // [rows, ld]
                                const int32_t *__restrict__ where, // [2, rows]: slots, positions
                                int64_t rows, int64_t ld, int64_t length, int64_t width) {
    constexpr int N = sizeof(P) / sizeof(T);
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t row = i / (width / N), col = i % (width / N) * N;
    if (row >= rows) return;
    int64_t to = (where[row] * length + where[rows + row]) * width + col;
    *reinterpret_cast<P *>(cache + to) =
        *reinterpret_cast<const P *>(qkv + (row + 1) * ld - width + col);
}

template <class T, class P>
static dopl_status store(dopl_rt *rt, dopl_op_call *c, const int32_t *where) {
    int64_t rows = c->in[1]->dim[0], width = c->out->dim[2];
    int64_t threads = rows * width / (int64_t)(sizeof(P) / sizeof(T));
    if (threads == 0) return DOPL_OK;
    DOPL_LAUNCH((kv_store_kernel<T, P>), (unsigned)ceil_div(threads, 256), 256, 0, rt,
                data_of<T>(c->out), data_of<T>(c->in[1]), where, rows, c->in[1]->dim[1],
                c->out->dim[1], width);
    return dopl_cuda_launched(rt, "kv_store");
}

extern "C" dopl_status op_kv_store_cuda(dopl_rt *rt, dopl_op_call *c) {
    const int32_t *where;
    if (c->in[1]->dim[0] == 0) return DOPL_OK;
    DOPL_TRY(dopl_cuda_index(rt, c->in[2], &where));
    DISPATCH(c->dtype, T, {
        bool aligned = packs(data_of<T>(c->out), c->out->dim[2]) &&
                       packs(data_of<T>(c->in[1]), c->in[1]->dim[1]);
        return aligned ? store<T, uint4>(rt, c, where) : store<T, T>(rt, c, where);
    });
}

// ---- kv_attention

typedef struct {
    int64_t rows, ld;      // of qkv
    int64_t length, width; // positions of a slot, and columns of a position
    int heads, kv_heads, group, cols;
    int lanes;   // that share a position: a power of 2, at least a pack each
    int n_split; // blocks that share a row's positions
    int split;   // positions of one
    float scale; // of scores
} kv_plan;

constexpr int KV_THREADS = 128, KV_WARPS = KV_THREADS / WARP;

// A softmax under way over some of the positions, for one head: N columns of the sum of values.
template <int N> struct kv_state {
    float top, sum, y[N];

    // Weights of what is here and of what is to be added, whose largest score is `other`.
    __device__ __forceinline__ void raise(float other, float *mine, float *base) {
        float now = fmaxf(top, other);
        *base = now == -INFINITY ? 0.0f : now; // nothing seen yet, on either side
        *mine = expf(top - *base);
        top = now;
    }
};

// Scores of DEPTH positions, `stride` from one to the next, against one query, whose columns the
// lanes of a group have between them. Positions from `left` on are none. Returns the largest.
template <class T, int DEPTH, int N>
__device__ __forceinline__ float kv_scores(float (&s)[DEPTH], const float (&q)[N],
                                           const pack<T> (&key)[DEPTH], int lanes, int stride,
                                           int left) {
    float x[N], high = -INFINITY;
#pragma unroll
    for (int u = 0; u < DEPTH; u++) {
        s[u] = 0.0f;
        unpack<T>(x, key[u]);
        for (int c = 0; c < N; c++) s[u] += q[c] * x[c];
#pragma unroll // and no branches: the sums of several positions go side by side
        for (int i = WARP / 2; i; i /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, s[u], i);
            s[u] += i < lanes ? other : 0.0f;
        }
        if (u * stride >= left) s[u] = -INFINITY;
        high = fmaxf(high, s[u]);
    }
    return high;
}

// Adds DEPTH positions of those scores to a head's state.
template <class T, int DEPTH, int N>
__device__ __forceinline__ void kv_add(kv_state<N> &state, const float (&s)[DEPTH], float high,
                                       const pack<T> (&value)[DEPTH]) {
    float x[N], fade, base;
    state.raise(high, &fade, &base);
    state.sum *= fade;
    for (int c = 0; c < N; c++) state.y[c] *= fade;
#pragma unroll
    for (int u = 0; u < DEPTH; u++) {
        float weight = expf(s[u] - base);
        state.sum += weight;
        unpack<T>(x, value[u]);
        for (int c = 0; c < N; c++) state.y[c] += weight * x[c];
    }
}

// Merges the states of a warp's groups of lanes, and leaves them in its part of `merged`.
template <int HEADS, int N>
__device__ __forceinline__ void kv_merge_lanes(float *merged, kv_state<N> (&state)[HEADS],
                                               int lanes, int cols) {
    int lane = threadIdx.x % WARP, col = lane % lanes * N;
    for (int i = lanes; i < WARP; i *= 2) {
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float top = __shfl_xor_sync(0xffffffffu, state[h].top, i), fade, base;
            state[h].raise(top, &fade, &base);
            float weight = expf(top - base);
            state[h].sum =
                state[h].sum * fade + __shfl_xor_sync(0xffffffffu, state[h].sum, i) * weight;
            for (int c = 0; c < N; c++)
                state[h].y[c] =
                    state[h].y[c] * fade + __shfl_xor_sync(0xffffffffu, state[h].y[c], i) * weight;
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float *to = merged + (threadIdx.x / WARP * HEADS + h) * (cols + 2);
        if (lane < lanes && col < cols)
            for (int c = 0; c < N; c++) to[col + c] = state[h].y[c];
        if (lane == 0) {
            to[cols] = state[h].top;
            to[cols + 1] = state[h].sum;
        }
    }
}

// Merges the warps' states of heads `first` and on, `n` of them: the result of a row, or where
// others have positions of it too, this block's part.
template <class T, int HEADS>
__device__ __forceinline__ void kv_merge_warps(T *out, float *partial, const float *merged,
                                               int64_t first, int n, const kv_plan &p) {
    for (int i = threadIdx.x; i < HEADS * p.cols; i += KV_THREADS) {
        int h = i / p.cols, c = i % p.cols;
        if (h >= n) continue;
        float top = -INFINITY, sum = 0.0f, y = 0.0f;
        for (int w = 0; w < KV_WARPS; w++)
            top = fmaxf(top, merged[(w * HEADS + h) * (p.cols + 2) + p.cols]);
        for (int w = 0; w < KV_WARPS; w++) {
            const float *from = merged + (w * HEADS + h) * (p.cols + 2);
            float weight = expf(from[p.cols] - top);
            y += from[c] * weight;
            sum += from[p.cols + 1] * weight;
        }
        int64_t at = first + h;
        if (p.n_split == 1) {
            out[at * p.cols + c] = from_float<T>(y / sum);
            continue;
        }
        float *to = partial + (at * p.n_split + blockIdx.y) * (p.cols + 2);
        to[c] = y;
        if (c == 0) {
            to[p.cols] = top;
            to[p.cols + 1] = sum;
        }
    }
}

// Block: a row, a key/value head, up to HEADS heads of its group (which share the loads), and one
// split of the positions. `lanes` lanes have a position between them, a pack of columns each; the
// block's groups of lanes take positions in turn, DEPTH at a time so that as many loads are under
// way. Bound by memory: a position is read once for HEADS heads. States are merged in a fixed
// order.
template <class T, int HEADS>
__global__ void __launch_bounds__(KV_THREADS, HEADS *pack<T>::N < 32 ? 4 : 2)
    kv_attention_kernel(T *__restrict__ out,               // [rows, heads cols], where n_split is 1
                        float *__restrict__ partial,       // else [rows, heads, n_split, cols + 2]
                        const T *__restrict__ qkv,         // [rows, ld]
                        const T *__restrict__ cache,       // [S, length, width]
                        const int32_t *__restrict__ where, // [2, rows]: slots, positions
                        kv_plan p) {
    constexpr int N = pack<T>::N, DEPTH = HEADS * N > 32 ? 2 : 4;
    DOPL_DYNAMIC_SHARED(float, merged); // [KV_WARPS, HEADS, cols + 2]: sums, top, sum
    int blocks = (p.group + HEADS - 1) / HEADS, turn = blockIdx.x % (p.kv_heads * blocks);
    int64_t row = blockIdx.x / (p.kv_heads * blocks);
    int kv_head = turn / blocks, first = turn % blocks * HEADS; // of the group
    int begin = blockIdx.y * p.split, end = where[p.rows + row] + 1;
    if (begin >= end) return;
    if (end > begin + p.split) end = begin + p.split;
    int col = threadIdx.x % WARP % p.lanes * N;
    int stride = KV_THREADS / p.lanes, mine = threadIdx.x / p.lanes;
    const T *k = cache + where[row] * p.length * p.width + (int64_t)kv_head * p.cols + col;
    const T *v = k + (int64_t)p.kv_heads * p.cols;
    const T *queries = qkv + row * p.ld + (int64_t)(kv_head * p.group + first) * p.cols + col;
    float q[HEADS][N];
    kv_state<N> state[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        bool there = first + h < p.group && col < p.cols;
        pack<T> x = there ? load_pack(queries + h * p.cols) : pack<T>();
        for (int c = 0; c < N; c++) {
            q[h][c] = there ? to_float(x.x[c]) * p.scale : 0.0f;
            state[h].y[c] = 0.0f;
        }
        state[h].top = -INFINITY;
        state[h].sum = 0.0f;
    }
    for (int from = begin; from < end; from += stride * DEPTH) {
        pack<T> key[DEPTH], value[DEPTH];
#pragma unroll
        for (int u = 0; u < DEPTH; u++) {
            int64_t at = from + u * stride + mine;
            bool there = at < end && col < p.cols;
            key[u] = load_pack(k + at * p.width, there);
            value[u] = load_pack(v + at * p.width, there);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float s[DEPTH];
            float high = kv_scores<T>(s, q[h], key, p.lanes, stride, end - from - mine);
            kv_add<T>(state[h], s, high, value);
        }
    }
    kv_merge_lanes(merged, state, p.lanes, p.cols);
    __syncthreads();
    kv_merge_warps<T, HEADS>(out, partial, merged,
                             row * p.heads + (int64_t)kv_head * p.group + first, p.group - first,
                             p);
}

// Merges the splits of a row's head. A thread has a column.
template <class T>
__global__ void kv_merge_kernel(T *__restrict__ out,               // [rows, heads cols]
                                const float *__restrict__ partial, // [rows, heads, n_split, ..]
                                const int32_t *__restrict__ where, // [2, rows]
                                kv_plan p) {
    int64_t at = blockIdx.x;
    int n = where[p.rows + at / p.heads] / p.split + 1; // splits that have positions
    const float *from = partial + at * p.n_split * (p.cols + 2);
    float top = -INFINITY, sum = 0.0f;
    for (int i = 0; i < n; i++) top = fmaxf(top, from[i * (p.cols + 2) + p.cols]);
    for (int i = 0; i < n; i++) {
        const float *part = from + i * (p.cols + 2);
        sum += part[p.cols + 1] * expf(part[p.cols] - top);
    }
    for (int c = threadIdx.x; c < p.cols; c += blockDim.x) {
        float y = 0.0f;
        for (int i = 0; i < n; i++) {
            const float *part = from + i * (p.cols + 2);
            y += part[c] * expf(part[p.cols] - top);
        }
        out[at * p.cols + c] = from_float<T>(y / sum);
    }
}

// Heads whose rows are not aligned, or are long. Block: a row and a head; its positions go by in
// chunks of KV_THREADS, a warp to a score, then a thread to a column.
template <class T>
__global__ void __launch_bounds__(KV_THREADS)
    kv_attention_plain_kernel(T *__restrict__ out,               // [rows, heads cols]
                              const T *__restrict__ qkv,         // [rows, ld]
                              const T *__restrict__ cache,       // [S, length, width]
                              const int32_t *__restrict__ where, // [2, rows]
                              kv_plan p) {
    DOPL_DYNAMIC_SHARED(float, y); // [cols]
    __shared__ float scores[KV_THREADS];
    int head = blockIdx.x % p.heads, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64_t row = blockIdx.x / p.heads;
    const T *k = cache + where[row] * p.length * p.width + (int64_t)(head / p.group) * p.cols;
    const T *v = k + (int64_t)p.kv_heads * p.cols;
    const T *q = qkv + row * p.ld + (int64_t)head * p.cols;
    int end = where[p.rows + row] + 1;
    float top = -INFINITY, sum = 0.0f;
    for (int c = threadIdx.x; c < p.cols; c += KV_THREADS) y[c] = 0.0f;
    for (int from = 0; from < end; from += KV_THREADS) {
        int n = end - from < KV_THREADS ? end - from : KV_THREADS;
        for (int i = warp; i < n; i += KV_WARPS) {
            const T *key = k + (int64_t)(from + i) * p.width;
            float s = 0.0f;
            for (int c = lane; c < p.cols; c += WARP) s += to_float(q[c]) * to_float(key[c]);
            s = warp_sum(s) * p.scale;
            if (lane == 0) scores[i] = s;
        }
        __syncthreads();
        float mine = (int)threadIdx.x < n ? scores[threadIdx.x] : -INFINITY;
        float now = fmaxf(top, block_max(mine)), fade = expf(top - now), e = expf(mine - now);
        sum = sum * fade + block_sum(e);
        top = now;
        scores[threadIdx.x] = e;
        __syncthreads();
        for (int c = threadIdx.x; c < p.cols; c += KV_THREADS) {
            float x = y[c] * fade;
            for (int i = 0; i < n; i++)
                x += scores[i] * to_float(v[(int64_t)(from + i) * p.width + c]);
            y[c] = x;
        }
        __syncthreads();
    }
    for (int c = threadIdx.x; c < p.cols; c += KV_THREADS)
        out[(row * p.heads + head) * p.cols + c] = from_float<T>(y[c] / sum);
}

template <class T, int HEADS>
static dopl_status attend(dopl_rt *rt, dopl_op_call *c, const int32_t *where, kv_plan p) {
    int64_t blocks = p.rows * p.kv_heads * ceil_div(p.group, HEADS);
    // enough blocks for every multiprocessor to have two, of 64 positions or more
    int64_t want = ceil_div(2 * dopl_cuda_of(rt)->n_sm, blocks), most = ceil_div(p.length, 64);
    p.n_split = (int)(want < most ? want : most);
    p.split = (int)ceil_div(p.length, p.n_split);
    p.lanes = 1;
    while (p.lanes * pack<T>::N < p.cols) p.lanes *= 2;
    T *out = data_of<T>(c->out);
    void *partial = nullptr;
    if (p.n_split > 1)
        DOPL_TRY(dopl_cuda_alloc(rt, &partial,
                                 (size_t)(p.rows * p.heads * p.n_split) * (size_t)(p.cols + 2) *
                                     sizeof(float)));
    size_t shared = KV_WARPS * HEADS * (size_t)(p.cols + 2) * sizeof(float);
    DOPL_LAUNCH((kv_attention_kernel<T, HEADS>), dim3((unsigned)blocks, (unsigned)p.n_split),
                KV_THREADS, shared, rt, out, static_cast<float *>(partial), data_of<T>(c->in[0]),
                data_of<T>(c->in[1]), where, p);
    dopl_status status = dopl_cuda_launched(rt, "kv_attention");
    if (status == DOPL_OK && p.n_split > 1) {
        DOPL_LAUNCH((kv_merge_kernel<T>), (unsigned)(p.rows * p.heads), KV_THREADS, 0, rt, out,
                    static_cast<const float *>(partial), where, p);
        status = dopl_cuda_launched(rt, "kv_attention");
    }
    dopl_cuda_free(rt, partial);
    return status;
}

template <class T>
static dopl_status attend_plain(dopl_rt *rt, dopl_op_call *c, const int32_t *where,
                                const kv_plan &p) {
    size_t shared = (size_t)p.cols * sizeof(float);
    DOPL_LAUNCH((kv_attention_plain_kernel<T>), (unsigned)(p.rows * p.heads), KV_THREADS, shared,
                rt, data_of<T>(c->out), data_of<T>(c->in[0]), data_of<T>(c->in[1]), where, p);
    return dopl_cuda_launched(rt, "kv_attention");
}

// A block keeps a head's columns in the shared memory that every block has. To ask for more would
// be to set a limit of the kernel's, under which launches of wider heads, still in the queue, would
// fall.
extern "C" dopl_status op_kv_attention_cuda_supports(dopl_rt *rt, const dopl_op_call *c) {
    enum { WIDEST = 11 << 10 };
    int64_t heads = OP_ATTRS(kv_attention, c)->heads, cols = c->out->dim[1] / heads;
    if (cols <= WIDEST) return DOPL_OK;
    return op_unsupported(rt, c, "heads = %lld of %lld columns each: at most %d columns",
                          (long long)heads, (long long)cols, WIDEST);
}

extern "C" dopl_status op_kv_attention_cuda(dopl_rt *rt, dopl_op_call *c) {
    kv_plan p = {};
    p.rows = c->in[0]->dim[0];
    p.ld = c->in[0]->dim[1];
    p.length = c->in[1]->dim[1];
    p.width = c->in[1]->dim[2];
    p.heads = (int)OP_ATTRS(kv_attention, c)->heads;
    p.kv_heads = (int)OP_ATTRS(kv_attention, c)->kv_heads;
    p.group = p.heads / p.kv_heads;
    p.cols = (int)(c->out->dim[1] / p.heads);
    p.scale = 1.0f / sqrtf((float)p.cols);
    if (p.rows == 0) return DOPL_OK;
    const int32_t *where;
    DOPL_TRY(dopl_cuda_index(rt, c->in[2], &where));
    DISPATCH(c->dtype, T, {
        bool aligned = packs(data_of<T>(c->in[0]), p.cols) && packs(data_of<T>(c->in[1]), p.cols);
        if (!aligned || p.cols > WARP * pack<T>::N) return attend_plain<T>(rt, c, where, p);
        if (p.group == 1) return attend<T, 1>(rt, c, where, p);
        if (p.group <= 4) return attend<T, 4>(rt, c, where, p);
        return attend<T, 8>(rt, c, where, p);
    });
}

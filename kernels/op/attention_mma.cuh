// attention_mma.cuh - attention of bf16 heads of up to 128 columns on tensor cores.
//
// D is the width of a head in shared memory, a multiple of 16 at least that of the heads (a
// multiple of 8); columns between are zeros. Rows there are 16 bytes longer than D, which puts the
// 8 rows of a matrix load into different banks. Blocks have 4 warps of 16 rows each; what a row
// needs of the other side comes by asynchronous copies into two buffers, one filled while the other
// is read. Scores and their gradients never leave registers: the fragment a product leaves is,
// rounded to bf16, the left side of the next one (mma.cuh). Exponentials are powers of 2: c = scale
// log2 e.
#ifndef DOPL_KERNELS_OP_ATTENTION_MMA_CUH
#define DOPL_KERNELS_OP_ATTENTION_MMA_CUH

#include "attention.cuh"
#include "../mma.cuh"

constexpr int MMA_THREADS = 4 * WARP;
// Blocks that a multiprocessor should have registers for: left to itself, the compiler spills a few
// of them for one block more.
constexpr int mma_blocks(int width) {
    return width <= 64 ? 3 : 2;
}
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

// Starts the copy of TILE rows, zeros past `rows` and past `cols`.
template <int D>
__device__ __forceinline__ void fetch_tile(bf16 *tile, const bf16 *from, int64_t ld, int rows,
                                           int cols) {
    constexpr int PACKS = D / 8, TURNS = TILE * PACKS / MMA_THREADS;
#pragma unroll 4 // all of a head of 64; more at a time would not fit registers
    for (int turn = 0; turn < TURNS; turn++) {
        int i = turn * MMA_THREADS + threadIdx.x, r = i / PACKS, c = i % PACKS * 8;
        bool valid = r < rows && c < cols;
        copy_async_16(tile + r * (D + 8) + c, valid ? from + r * ld + c : from, valid);
    }
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

template <int N> __device__ __forceinline__ void clear(float (*c)[4]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) c[n][e] = 0.0f;
    }
}

// y += x' B for 16 rows of B from `row` on: x is a fragment, B a tile of D columns.
template <int D>
__device__ __forceinline__ void multiply_rows(float y[D / 8][4], const uint32_t x[4],
                                              const bf16 *tile, int row) {
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        load_b(b, tile, D + 8, row, 16 * n);
        mma_m16n8k16(y[2 * n], x, b[0], b[1]);
        mma_m16n8k16(y[2 * n + 1], x, b[2], b[3]);
    }
}

// Adds (or writes) fragments of 16 rows to d[at + row * ld + col], where the row is below `rows`.
template <int D>
__device__ __forceinline__ void put_fragments(const attention_gradient &d, int64_t at, int64_t ld,
                                              const float x[D / 8][4], int rows, int cols) {
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (8 * n >= cols || g + 8 * h >= rows) continue;
            int64_t to = at + (g + 8 * h) * ld + 8 * n + 2 * t;
            float a = x[n][2 * h], b = x[n][2 * h + 1];
            if (d.f32) {
                float2 *y = reinterpret_cast<float2 *>(static_cast<float *>(d.x) + to);
                float2 old = d.add ? *y : make_float2(0.0f, 0.0f);
                *y = make_float2(old.x + a, old.y + b);
            } else {
                __nv_bfloat162 *y =
                    reinterpret_cast<__nv_bfloat162 *>(static_cast<bf16 *>(d.x) + to);
                float2 old = d.add ? __bfloat1622float2(*y) : make_float2(0.0f, 0.0f);
                *y = __floats2bfloat162_rn(old.x + a, old.y + b);
            }
        }
    }
}

// ---- forward

// One tile of keys for the 16 queries of a warp. `diagonal`: the tile of the queries themselves,
// where a query sees the keys up to its own.
template <int D, bool diagonal>
__device__ __forceinline__ void attend_tile(float o[D / 8][4], float top[2], float sum[2],
                                            const uint32_t q[D / 16][4], const bf16 *ks,
                                            const bf16 *vs, float c) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    float s[TILE / 8][4], high[2] = { -INFINITY, -INFINITY }, fade[2];
    clear<TILE / 8>(s);
#pragma unroll
    for (int n = 0; n < TILE / 16; n++) {
        if (diagonal && n > warp) continue; // keys after all the warp's queries
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t b[4];
            load_b_transposed(b, ks, D + 8, 16 * n, 16 * k);
            mma_m16n8k16(s[2 * n], q[k], b[0], b[1]);
            mma_m16n8k16(s[2 * n + 1], q[k], b[2], b[3]);
        }
    }
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (diagonal && 8 * n + 2 * t + e % 2 > 16 * warp + g + e / 2 * 8) s[n][e] = -INFINITY;
            high[e / 2] = fmaxf(high[e / 2], s[n][e]);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float now = fmaxf(top[h], quad_max(high[h]) * c);
        fade[h] = exp2_fast(top[h] - now);
        top[h] = now;
        sum[h] *= fade[h];
    }
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = exp2_fast(s[n][e] * c - top[e / 2]);
            sum[e / 2] += s[n][e];
        }
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= fade[e / 2];
    }
#pragma unroll
    for (int n = 0; n < TILE / 16; n++) {
        if (diagonal && n > warp) continue;
        uint32_t p[4];
        pack_fragment(p, s[2 * n], s[2 * n + 1]);
        multiply_rows<D>(o, p, vs, 16 * n);
    }
}

// Block: a head's tile of queries; loops over the tiles of keys up to it. Bound by the tensor cores
// at lengths of a few tiles, by the reads of K and V (which the group's heads share in L2) below.
template <int D>
__global__ void __launch_bounds__(MMA_THREADS, mma_blocks(D))
    attention_mma_kernel(bf16 *__restrict__ out,       // [T, heads cols]
                         float *__restrict__ lse,      // [heads, T]; nullptr: not wanted
                         const bf16 *__restrict__ qkv, // [T, ld]
                         attention_plan p) {
    DOPL_DYNAMIC_SHARED(bf16, shared); // two tiles of keys, two of values
    constexpr int SIZE = TILE * (D + 8);
    bf16 *ks = shared, *vs = ks + 2 * SIZE;
    bf16 *qs = ks + SIZE; // on their way to registers, before that room is needed
    const attention_tile tile = p.tile[blockIdx.x / p.heads];
    if (tile.weight == 0) return;
    int head = blockIdx.x % p.heads, last = tile.weight - 1, row = last * TILE;
    const bf16 *base = qkv + tile.first * p.ld;
    const bf16 *k = base + (int64_t)(p.heads + head / p.group) * p.cols;
    const bf16 *v = k + (int64_t)p.kv_heads * p.cols;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t q[D / 16][4];
    float o[D / 8][4], top[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.0f, 0.0f };
    clear<D / 8>(o);
    fetch_tile<D>(qs, base + row * p.ld + (int64_t)head * p.cols, p.ld, tile.len - row, p.cols);
    fetch_tile<D>(ks, k, p.ld, tile.len, p.cols);
    fetch_tile<D>(vs, v, p.ld, tile.len, p.cols);
    copy_async_close();
    for (int j = 0; j <= last; j++) {
        const bf16 *kj = ks + j % 2 * SIZE, *vj = vs + j % 2 * SIZE;
        copy_async_wait<0>();
        __syncthreads(); // and nobody reads the other buffers any more
        if (j == 0) {
#pragma unroll
            for (int n = 0; n < D / 16; n++) load_a(q[n], qs, D + 8, 16 * warp, 16 * n);
            __syncthreads();
        }
        if (j < last) {
            int to = (j + 1) % 2 * SIZE, from = (j + 1) * TILE;
            fetch_tile<D>(ks + to, k + from * p.ld, p.ld, tile.len - from, p.cols);
            fetch_tile<D>(vs + to, v + from * p.ld, p.ld, tile.len - from, p.cols);
            copy_async_close();
        }
        if (j < last)
            attend_tile<D, false>(o, top, sum, q, kj, vj, p.scale * LOG2_E);
        else
            attend_tile<D, true>(o, top, sum, q, kj, vj, p.scale * LOG2_E);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] = quad_sum(sum[h]);
        int at = row + 16 * warp + lane / 4 + 8 * h;
        if (lse && lane % 4 == 0 && at < tile.len)
            lse[head * p.rows + tile.first + at] = (top[h] + log2f(sum[h])) * LN_2;
    }
    float share[2] = { 1.0f / sum[0], 1.0f / sum[1] };
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= share[e / 2];
    }
    int64_t ld = (int64_t)p.heads * p.cols;
    attention_gradient y = { out, false, false };
    row += 16 * warp;
    put_fragments<D>(y, (tile.first + row) * ld + (int64_t)head * p.cols, ld, o, tile.len - row,
                     p.cols);
}

// ---- backward: P = exp(S - lse), dS = P (dO V' - delta) scale

// dq += dS K for one tile of keys and the 16 queries of a warp.
template <int D>
__device__ __forceinline__ void query_gradient(float dq[D / 8][4], const uint32_t q[D / 16][4],
                                               const uint32_t dout[D / 16][4], const bf16 *ks,
                                               const bf16 *vs, const float lse2[2],
                                               const float delta[2], float scale, bool diagonal) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int last = diagonal ? warp : TILE / 16 - 1; // keys after that are after all the warp's queries
#pragma unroll 1                                // more at a time would not fit registers
    for (int n = 0; n <= last; n++) {
        float s[2][4], ds[2][4];
        clear<2>(s);
        clear<2>(ds);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t b[4];
            load_b_transposed(b, ks, D + 8, 16 * n, 16 * k);
            mma_m16n8k16(s[0], q[k], b[0], b[1]);
            mma_m16n8k16(s[1], q[k], b[2], b[3]);
            load_b_transposed(b, vs, D + 8, 16 * n, 16 * k);
            mma_m16n8k16(ds[0], dout[k], b[0], b[1]);
            mma_m16n8k16(ds[1], dout[k], b[2], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float x = exp2_fast(s[i][e] * scale * LOG2_E - lse2[e / 2]);
                ds[i][e] = x * (ds[i][e] - delta[e / 2]) * scale;
                if (diagonal && 16 * n + 8 * i + 2 * t + e % 2 > 16 * warp + g + e / 2 * 8)
                    ds[i][e] = 0.0f;
            }
        }
        uint32_t a[4];
        pack_fragment(a, ds[0], ds[1]);
        multiply_rows<D>(dq, a, ks, 16 * n);
    }
}

// Block: a head's tile of queries; loops over the tiles of keys up to it, as in the forward.
template <int D>
__global__ void __launch_bounds__(MMA_THREADS, mma_blocks(D))
    attention_mma_dq_kernel(attention_gradient dqkv,         // [T, ld]
                            const bf16 *__restrict__ qkv,    // [T, ld]
                            const bf16 *__restrict__ dout,   // [T, heads cols]
                            const float *__restrict__ lse,   // [heads, T]
                            const float *__restrict__ delta, // [heads, T], dout . out
                            attention_plan p) {
    DOPL_DYNAMIC_SHARED(bf16, shared); // two tiles of keys, two of values
    constexpr int SIZE = TILE * (D + 8);
    bf16 *ks = shared, *vs = ks + 2 * SIZE;
    bf16 *qs = ks + SIZE, *ds = vs + SIZE; // on their way to registers
    const attention_tile tile = p.tile[blockIdx.x / p.heads];
    if (tile.weight == 0) return;
    int head = blockIdx.x % p.heads, last = tile.weight - 1, row = last * TILE;
    int64_t ld_out = (int64_t)p.heads * p.cols;
    const bf16 *base = qkv + tile.first * p.ld;
    const bf16 *k = base + (int64_t)(p.heads + head / p.group) * p.cols;
    const bf16 *v = k + (int64_t)p.kv_heads * p.cols;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t q[D / 16][4], dy[D / 16][4];
    float dq[D / 8][4], lse2[2], rest[2];
    clear<D / 8>(dq);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int at = row + 16 * warp + lane / 4 + 8 * h;
        int64_t from = head * p.rows + tile.first + at;
        lse2[h] = at < tile.len ? lse[from] * LOG2_E : 0.0f;
        rest[h] = at < tile.len ? delta[from] : 0.0f;
    }
    fetch_tile<D>(qs, base + row * p.ld + (int64_t)head * p.cols, p.ld, tile.len - row, p.cols);
    fetch_tile<D>(ds, dout + (tile.first + row) * ld_out + (int64_t)head * p.cols, ld_out,
                  tile.len - row, p.cols);
    fetch_tile<D>(ks, k, p.ld, tile.len, p.cols);
    fetch_tile<D>(vs, v, p.ld, tile.len, p.cols);
    copy_async_close();
    for (int j = 0; j <= last; j++) {
        const bf16 *kj = ks + j % 2 * SIZE, *vj = vs + j % 2 * SIZE;
        copy_async_wait<0>();
        __syncthreads();
        if (j == 0) {
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                load_a(q[n], qs, D + 8, 16 * warp, 16 * n);
                load_a(dy[n], ds, D + 8, 16 * warp, 16 * n);
            }
            __syncthreads();
        }
        if (j < last) {
            int to = (j + 1) % 2 * SIZE, from = (j + 1) * TILE;
            fetch_tile<D>(ks + to, k + from * p.ld, p.ld, tile.len - from, p.cols);
            fetch_tile<D>(vs + to, v + from * p.ld, p.ld, tile.len - from, p.cols);
            copy_async_close();
        }
        query_gradient<D>(dq, q, dy, kj, vj, lse2, rest, p.scale, j == last);
    }
    row += 16 * warp;
    put_fragments<D>(dqkv, (tile.first + row) * p.ld + (int64_t)head * p.cols, p.ld, dq,
                     tile.len - row, p.cols);
}

// dk += dS' Q and dv += P' dO for one tile of queries and the 16 keys of a warp. Products are taken
// transposed, keys by queries, so that they are left sides as they come.
template <int D>
__device__ __forceinline__ void
key_gradient(float dk[D / 8][4], float dv[D / 8][4], const bf16 *ks, const bf16 *vs, const bf16 *qs,
             const bf16 *ds, const float *lse, const float *delta, float scale, bool diagonal) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int first = diagonal ? warp : 0; // queries before that are before all the warp's keys
#pragma unroll 1                     // more at a time would not fit registers
    for (int n = first; n < TILE / 16; n++) {
        float s[2][4], dp[2][4];
        clear<2>(s);
        clear<2>(dp);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t a[4], b[4];
            load_a(a, ks, D + 8, 16 * warp, 16 * k);
            load_b_transposed(b, qs, D + 8, 16 * n, 16 * k);
            mma_m16n8k16(s[0], a, b[0], b[1]);
            mma_m16n8k16(s[1], a, b[2], b[3]);
            load_a(a, vs, D + 8, 16 * warp, 16 * k);
            load_b_transposed(b, ds, D + 8, 16 * n, 16 * k);
            mma_m16n8k16(dp[0], a, b[0], b[1]);
            mma_m16n8k16(dp[1], a, b[2], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int column = 16 * n + 8 * i + 2 * t;
            float2 l = *reinterpret_cast<const float2 *>(lse + column);
            float2 r = *reinterpret_cast<const float2 *>(delta + column);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                bool masked = diagonal && column + e % 2 < 16 * warp + g + e / 2 * 8;
                float x = exp2_fast((s[i][e] * scale - (e % 2 ? l.y : l.x)) * LOG2_E);
                s[i][e] = masked ? 0.0f : x;
                dp[i][e] = masked ? 0.0f : x * (dp[i][e] - (e % 2 ? r.y : r.x)) * scale;
            }
        }
        uint32_t a[4];
        pack_fragment(a, s[0], s[1]);
        multiply_rows<D>(dv, a, ds, 16 * n);
        pack_fragment(a, dp[0], dp[1]);
        multiply_rows<D>(dk, a, qs, 16 * n);
    }
}

// Block: a key/value head's tile of keys; loops over the heads of its group and the tiles of
// queries from it on, so that dk and dv have one writer and one order of summation. Queries past
// the end are zeros, and so are their gradients: they add nothing.
template <int D>
__global__ void __launch_bounds__(MMA_THREADS, mma_blocks(D))
    attention_mma_dkv_kernel(attention_gradient dqkv,         // [T, ld]
                             const bf16 *__restrict__ qkv,    // [T, ld]
                             const bf16 *__restrict__ dout,   // [T, heads cols]
                             const float *__restrict__ lse,   // [heads, T]
                             const float *__restrict__ delta, // [heads, T]
                             attention_plan p) {
    DOPL_DYNAMIC_SHARED(bf16, shared); // keys, values, two of queries, of gradients, of numbers
    constexpr int SIZE = TILE * (D + 8);
    bf16 *ks = shared, *vs = ks + SIZE, *qs = vs + SIZE, *ds = qs + 2 * SIZE;
    float *numbers = reinterpret_cast<float *>(ds + 2 * SIZE); // [2][lse, delta][TILE]
    const attention_tile tile = p.tile[blockIdx.x / p.kv_heads];
    if (tile.weight == 0) return;
    int kv_head = blockIdx.x % p.kv_heads;
    int first = (tile.len + TILE - 1) / TILE - tile.weight, row = first * TILE;
    int64_t ld_out = (int64_t)p.heads * p.cols;
    const bf16 *base = qkv + tile.first * p.ld;
    const bf16 *k = base + row * p.ld + (int64_t)(p.heads + kv_head) * p.cols;
    float dk[D / 8][4], dv[D / 8][4];
    clear<D / 8>(dk);
    clear<D / 8>(dv);
    auto fetch_queries = [&](int turn) {
        int head = kv_head * p.group + turn / tile.weight;
        int from = (first + turn % tile.weight) * TILE, rows = tile.len - from;
        int64_t column = (int64_t)head * p.cols;
        fetch_tile<D>(qs + turn % 2 * SIZE, base + from * p.ld + column, p.ld, rows, p.cols);
        fetch_tile<D>(ds + turn % 2 * SIZE, dout + (tile.first + from) * ld_out + column, ld_out,
                      rows, p.cols);
        const float *source = (threadIdx.x < TILE ? lse : delta) + head * p.rows + tile.first;
        int at = threadIdx.x % TILE;
        copy_async_4(numbers + turn % 2 * 2 * TILE + threadIdx.x,
                     at < rows ? source + from + at : source, at < rows);
    };
    static_assert(MMA_THREADS == 2 * TILE, "a thread fetches one number");
    fetch_tile<D>(ks, k, p.ld, tile.len - row, p.cols);
    fetch_tile<D>(vs, k + (int64_t)p.kv_heads * p.cols, p.ld, tile.len - row, p.cols);
    fetch_queries(0);
    copy_async_close();
    int turns = p.group * tile.weight;
    for (int turn = 0; turn < turns; turn++) {
        const bf16 *q = qs + turn % 2 * SIZE, *d = ds + turn % 2 * SIZE;
        const float *l = numbers + turn % 2 * 2 * TILE;
        copy_async_wait<0>();
        __syncthreads();
        if (turn + 1 < turns) {
            fetch_queries(turn + 1);
            copy_async_close();
        }
        key_gradient<D>(dk, dv, ks, vs, q, d, l, l + TILE, p.scale, turn % tile.weight == 0);
    }
    row += 16 * (threadIdx.x / WARP);
    int64_t at = (tile.first + row) * p.ld + (int64_t)(p.heads + kv_head) * p.cols;
    put_fragments<D>(dqkv, at, p.ld, dk, tile.len - row, p.cols);
    put_fragments<D>(dqkv, at + (int64_t)p.kv_heads * p.cols, p.ld, dv, tile.len - row, p.cols);
}

#endif

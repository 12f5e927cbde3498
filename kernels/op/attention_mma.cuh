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
// Blocks that a multiprocessor should have registers for, of a pass over queries and of one over
// keys, which sums twice as much: with one more, the compiler spills a few.
constexpr int query_blocks(int width) {
    return width <= 32 ? 5 : width <= 64 ? 4 : width <= 96 ? 3 : 2;
}
constexpr int key_blocks(int width) {
    return width <= 32 ? 5 : width <= 64 ? 3 : 2;
}
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

// Starts the copy of TILE rows, zeros past `rows` and past `cols`. A thread has one column of
// packs.
template <int D>
__device__ __forceinline__ void fetch_tile(bf16 *tile, const bf16 *from, int ld, int rows,
                                           int cols) {
    constexpr int PACKS = D / 8, STEP = MMA_THREADS / PACKS;
    int first = threadIdx.x / PACKS, c = threadIdx.x % PACKS * 8, at = first * ld + c;
    if (first == STEP) return; // threads left over where a row is 12 packs
    tile += first * (D + 8) + c;
#pragma unroll
    for (int r = 0; r < TILE; r += STEP, at += STEP * ld) {
        if (TILE % STEP && first + r >= TILE) break;
        bool valid = first + r < rows && c < cols;
        copy_async_16(tile + r * (D + 8), from + (valid ? at : 0), valid);
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

// Rows of the upper half of each fragment times the first factor, of the lower half the second.
template <int D>
__device__ __forceinline__ void scale_fragments(float x[D / 8][4], float upper, float lower) {
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) x[n][e] *= e < 2 ? upper : lower;
    }
}

// 16 rows from global memory as left sides, zeros past `rows` and `cols`.
template <int D>
__device__ __forceinline__ void read_fragments(uint32_t x[D / 16][4], const bf16 *from, int64_t ld,
                                               int rows, int cols) {
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = g + i % 2 * 8, c = 16 * n + i / 2 * 8;
            bool there = r < rows && c < cols;
            x[n][i] = there ? *reinterpret_cast<const uint32_t *>(from + r * ld + c + 2 * t) : 0;
        }
    }
}

// Adds (or writes) fragments of 16 rows to d[at + row * ld + col], where the row is below `rows`.
// `room`: of the warp alone, 16 rows of shared memory through which whole rows of bf16 are written,
// 16 bytes at a time.
template <int D>
__device__ __forceinline__ void put_fragments(const attention_gradient &d, int64_t at, int64_t ld,
                                              const float x[D / 8][4], int rows, int cols,
                                              bf16 *room) {
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    bool whole = !d.f32 && !d.add;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float a = x[n][2 * h], b = x[n][2 * h + 1];
            if (whole) {
                *reinterpret_cast<uint32_t *>(room + (g + 8 * h) * (D + 8) + 8 * n + 2 * t) =
                    pack_bf16(a, b);
                continue;
            }
            if (8 * n >= cols || g + 8 * h >= rows) continue;
            int64_t to = at + (g + 8 * h) * ld + 8 * n + 2 * t;
            put_gradient(d, to, a);
            put_gradient(d, to + 1, b);
        }
    }
    if (!whole) return;
    __syncwarp();
    bf16 *y = static_cast<bf16 *>(d.x) + at;
#pragma unroll
    for (int i = 0; i < 16 * D / 8; i += WARP) {
        int r = (i + lane) / (D / 8), c = (i + lane) % (D / 8) * 8;
        if (r < rows && c < cols)
            store_16(y + r * ld + c, *reinterpret_cast<const uint4 *>(room + r * (D + 8) + c));
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
#pragma unroll
        for (int i = 2 * n; i < 2 * n + 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (diagonal && 8 * i + 2 * t + e % 2 > 16 * warp + g + e / 2 * 8)
                    s[i][e] = -INFINITY;
                high[e / 2] = fmaxf(high[e / 2], s[i][e]);
            }
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
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= fade[e / 2];
    }
#pragma unroll
    for (int n = 0; n < TILE / 16; n++) {
        if (diagonal && n > warp) continue;
#pragma unroll
        for (int i = 2 * n; i < 2 * n + 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[i][e] = exp2_fast(s[i][e] * c - top[e / 2]);
                sum[e / 2] += s[i][e];
            }
        }
        uint32_t p[4];
        pack_fragment(p, s[2 * n], s[2 * n + 1]);
        multiply_rows<D>(o, p, vs, 16 * n);
    }
}

// Block: a head's tile of queries; loops over the tiles of keys up to it. Bound by the tensor cores
// at lengths of a few tiles, by the reads of K and V (which the group's heads share in L2) below.
// Warps past the end of the sequence only fetch.
template <int D>
__global__ void __launch_bounds__(MMA_THREADS, query_blocks(D))
    attention_mma_kernel(bf16 *__restrict__ out,       // [T, heads cols]
                         float *__restrict__ lse,      // [heads, T]; nullptr: not wanted
                         const bf16 *__restrict__ qkv, // [T, ld]
                         float c,                      // scale log2 e
                         attention_plan p) {
    DOPL_DYNAMIC_SHARED(bf16, shared); // two tiles of keys, two of values
    constexpr int SIZE = TILE * (D + 8);
    bf16 *here = shared, *next = here + SIZE; // keys; their values are two tiles on
    const attention_tile tile = p.tile[blockIdx.x / p.heads];
    if (tile.weight == 0) return;
    int head = blockIdx.x % p.heads, row = (tile.weight - 1) * TILE;
    const bf16 *base = qkv + tile.first * p.ld;
    const bf16 *k = base + (int64_t)(p.heads + head / p.group) * p.cols;
    const bf16 *v = k + (int64_t)p.kv_heads * p.cols;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, mine = row + 16 * warp;
    uint32_t q[D / 16][4];
    float o[D / 8][4], top[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.0f, 0.0f };
    clear<D / 8>(o);
    fetch_tile<D>(next, base + row * p.ld + (int64_t)head * p.cols, p.ld, tile.len - row, p.cols);
    fetch_tile<D>(here, k, p.ld, tile.len, p.cols);
    fetch_tile<D>(here + 2 * SIZE, v, p.ld, tile.len, p.cols);
    copy_async_close();
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int n = 0; n < D / 16; n++) load_a(q[n], next, D + 8, 16 * warp, 16 * n);
    __syncthreads(); // the room of queries is the second tile's
    for (int from = TILE; from <= row; from += TILE) {
        fetch_tile<D>(next, k + from * p.ld, p.ld, tile.len - from, p.cols);
        fetch_tile<D>(next + 2 * SIZE, v + from * p.ld, p.ld, tile.len - from, p.cols);
        copy_async_close();
        if (mine < tile.len) attend_tile<D, false>(o, top, sum, q, here, here + 2 * SIZE, c);
        copy_async_wait<0>();
        __syncthreads(); // nobody reads this tile any more
        bf16 *read = here;
        here = next;
        next = read;
    }
    if (mine >= tile.len) return;
    attend_tile<D, true>(o, top, sum, q, here, here + 2 * SIZE, c);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] = quad_sum(sum[h]);
        int at = mine + lane / 4 + 8 * h;
        if (lse && lane % 4 == 0 && at < tile.len)
            lse[head * p.rows + tile.first + at] = (top[h] + log2f(sum[h])) * LN_2;
    }
    scale_fragments<D>(o, 1.0f / sum[0], 1.0f / sum[1]);
    int64_t ld = (int64_t)p.heads * p.cols;
    attention_gradient y = { out, false, false };
    put_fragments<D>(y, (tile.first + mine) * ld + (int64_t)head * p.cols, ld, o, tile.len - mine,
                     p.cols, next + 16 * warp * (D + 8));
}

// ---- backward: P = exp(S - lse), dS = P (dO V' - delta); dq and dk are scaled at the end

// s = x X' and d = y Y' for the 16 rows of the tiles X and Y from `row` on.
template <int D>
__device__ __forceinline__ void
both_products(float s[2][4], float d[2][4], const uint32_t x[D / 16][4],
              const uint32_t y[D / 16][4], const bf16 *xs, const bf16 *ys, int row) {
    clear<2>(s);
    clear<2>(d);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t b[4];
        load_b_transposed(b, xs, D + 8, row, 16 * k);
        mma_m16n8k16(s[0], x[k], b[0], b[1]);
        mma_m16n8k16(s[1], x[k], b[2], b[3]);
        load_b_transposed(b, ys, D + 8, row, 16 * k);
        mma_m16n8k16(d[0], y[k], b[0], b[1]);
        mma_m16n8k16(d[1], y[k], b[2], b[3]);
    }
}

// dq += dS K for one tile of keys and the 16 queries of a warp; c and lse2 for powers of 2.
template <int D>
__device__ __forceinline__ void query_gradient(float dq[D / 8][4], const uint32_t q[D / 16][4],
                                               const uint32_t dout[D / 16][4], const bf16 *ks,
                                               const bf16 *vs, const float lse2[2],
                                               const float delta[2], float c, bool diagonal) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int last = diagonal ? warp : TILE / 16 - 1; // keys after that are after all the warp's queries
#pragma unroll 1                                // more at a time would not fit registers
    for (int n = 0; n <= last; n++) {
        float s[2][4], ds[2][4];
        both_products<D>(s, ds, q, dout, ks, vs, 16 * n);
        bool edge = diagonal && n == warp;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                bool masked = edge && 8 * i + 2 * t + e % 2 > g + e / 2 * 8;
                float x = exp2_fast(s[i][e] * c - lse2[e / 2]) * (ds[i][e] - delta[e / 2]);
                ds[i][e] = masked ? 0.0f : x;
            }
        }
        uint32_t a[4];
        pack_fragment(a, ds[0], ds[1]);
        multiply_rows<D>(dq, a, ks, 16 * n);
    }
}

// Sums of dout . out over a warp's 16 rows, of which each lane has elements as a left side.
template <int D>
__device__ __forceinline__ void dot_rows(float sum[2], const uint32_t x[D / 16][4],
                                         const uint32_t y[D / 16][4]) {
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t a = x[n][i], b = y[n][i]; // two bf16 each
            sum[i % 2] += __uint_as_float(a << 16) * __uint_as_float(b << 16);
            sum[i % 2] += __uint_as_float(a & 0xffff0000) * __uint_as_float(b & 0xffff0000);
        }
    }
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);
}

// Block: a head's tile of queries; loops over the tiles of keys up to it, as in the forward. Leaves
// delta for the pass over keys.
template <int D>
__global__ void __launch_bounds__(MMA_THREADS, query_blocks(D))
    attention_mma_dq_kernel(attention_gradient dqkv,       // [T, ld]
                            float *__restrict__ delta,     // [heads, T], dout . out
                            const bf16 *__restrict__ qkv,  // [T, ld]
                            const bf16 *__restrict__ out,  // [T, heads cols]
                            const bf16 *__restrict__ dout, // [T, heads cols]
                            const float *__restrict__ lse, // [heads, T]
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
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, mine = row + 16 * warp;
    uint32_t q[D / 16][4], dy[D / 16][4], y[D / 16][4];
    float dq[D / 8][4], lse2[2], rest[2];
    int64_t column = (int64_t)head * p.cols, here = (tile.first + row) * ld_out + column;
    fetch_tile<D>(qs, base + row * p.ld + column, p.ld, tile.len - row, p.cols);
    fetch_tile<D>(ds, dout + here, ld_out, tile.len - row, p.cols);
    fetch_tile<D>(ks, k, p.ld, tile.len, p.cols);
    fetch_tile<D>(vs, v, p.ld, tile.len, p.cols);
    copy_async_close();
    read_fragments<D>(y, out + here + 16 * warp * ld_out, ld_out, tile.len - mine, p.cols);
    int64_t number = head * p.rows + tile.first + mine + lane / 4; // and 8 from there
#pragma unroll
    for (int h = 0; h < 2; h++)
        lse2[h] = mine + lane / 4 + 8 * h < tile.len ? lse[number + 8 * h] * LOG2_E : 0.0f;
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        load_a(q[n], qs, D + 8, 16 * warp, 16 * n);
        load_a(dy[n], ds, D + 8, 16 * warp, 16 * n);
    }
    dot_rows<D>(rest, dy, y);
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (lane % 4 == 0 && mine + lane / 4 + 8 * h < tile.len) delta[number + 8 * h] = rest[h];
    __syncthreads(); // the room of queries and their gradients is the second tile's
    clear<D / 8>(dq);
    for (int j = 0;; j++) {
        const bf16 *kj = ks + j % 2 * SIZE, *vj = vs + j % 2 * SIZE;
        if (j < last) {
            int to = (j + 1) % 2 * SIZE, from = (j + 1) * TILE;
            fetch_tile<D>(ks + to, k + from * p.ld, p.ld, tile.len - from, p.cols);
            fetch_tile<D>(vs + to, v + from * p.ld, p.ld, tile.len - from, p.cols);
            copy_async_close();
        }
        if (mine < tile.len)
            query_gradient<D>(dq, q, dy, kj, vj, lse2, rest, p.scale * LOG2_E, j == last);
        if (j == last) break;
        copy_async_wait<0>();
        __syncthreads(); // nobody reads this tile any more
    }
    if (mine >= tile.len) return;
    scale_fragments<D>(dq, p.scale, p.scale);
    put_fragments<D>(dqkv, (tile.first + mine) * p.ld + column, p.ld, dq, tile.len - mine, p.cols,
                     ks + (last + 1) % 2 * SIZE + 16 * warp * (D + 8));
}

// dk += dS' Q and dv += P' dO for one tile of queries, of which `rows` are, and the 16 keys of a
// warp. Products are taken transposed, keys by queries, so that they are left sides as they come.
template <int D>
__device__ __forceinline__ void
key_gradient(float dk[D / 8][4], float dv[D / 8][4], const uint32_t k[D / 16][4],
             const uint32_t v[D / 16][4], const bf16 *qs, const bf16 *ds, const float *lse,
             const float *delta, float c, int rows, bool diagonal) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int first = diagonal ? warp : 0; // queries before that are before all the warp's keys
    int end = rows < TILE ? (rows + 15) / 16 : TILE / 16;
#pragma unroll 1 // more at a time would not fit registers
    for (int n = first; n < end; n++) {
        float s[2][4], dp[2][4];
        both_products<D>(s, dp, k, v, qs, ds, 16 * n);
        bool edge = diagonal && n == warp;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int column = 16 * n + 8 * i + 2 * t;
            float2 l = *reinterpret_cast<const float2 *>(lse + column);
            float2 r = *reinterpret_cast<const float2 *>(delta + column);
            l = make_float2(l.x * LOG2_E, l.y * LOG2_E);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                bool masked = edge && 8 * i + 2 * t + e % 2 < g + e / 2 * 8;
                float x = exp2_fast(s[i][e] * c - (e % 2 ? l.y : l.x));
                s[i][e] = masked ? 0.0f : x;
                dp[i][e] = masked ? 0.0f : x * (dp[i][e] - (e % 2 ? r.y : r.x));
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
__global__ void __launch_bounds__(MMA_THREADS, key_blocks(D))
    attention_mma_dkv_kernel(attention_gradient dqkv,         // [T, ld]
                             const bf16 *__restrict__ qkv,    // [T, ld]
                             const bf16 *__restrict__ dout,   // [T, heads cols]
                             const float *__restrict__ lse,   // [heads, T]
                             const float *__restrict__ delta, // [heads, T]
                             attention_plan p) {
    DOPL_DYNAMIC_SHARED(bf16, shared); // two tiles of queries, two of gradients; numbers
    constexpr int SIZE = TILE * (D + 8);
    bf16 *qs = shared, *ds = qs + 2 * SIZE;
    bf16 *ks = qs + SIZE, *vs = ds + SIZE;                     // on their way to registers
    float *numbers = reinterpret_cast<float *>(ds + 2 * SIZE); // [2][lse, delta][TILE]
    const attention_tile tile = p.tile[blockIdx.x / p.kv_heads];
    if (tile.weight == 0) return;
    int kv_head = blockIdx.x % p.kv_heads;
    int first = (tile.len + TILE - 1) / TILE - tile.weight, row = first * TILE;
    int warp = threadIdx.x / WARP, mine = row + 16 * warp;
    int64_t ld_out = (int64_t)p.heads * p.cols;
    const bf16 *base = qkv + tile.first * p.ld;
    int64_t key = row * p.ld + (int64_t)(p.heads + kv_head) * p.cols;
    int64_t value = key + (int64_t)p.kv_heads * p.cols;
    uint32_t k[D / 16][4], v[D / 16][4];
    float dk[D / 8][4], dv[D / 8][4];
    auto fetch_queries = [&](int to, int head, int from) {
        int rows = tile.len - from, at = threadIdx.x % TILE;
        int64_t column = (int64_t)head * p.cols;
        fetch_tile<D>(qs + to * SIZE, base + from * p.ld + column, p.ld, rows, p.cols);
        fetch_tile<D>(ds + to * SIZE, dout + (tile.first + from) * ld_out + column, ld_out, rows,
                      p.cols);
        const float *source = (threadIdx.x < TILE ? lse : delta) + head * p.rows + tile.first;
        copy_async_4(numbers + to * 2 * TILE + threadIdx.x, at < rows ? source + from + at : source,
                     at < rows);
        copy_async_close();
    };
    static_assert(MMA_THREADS == 2 * TILE, "a thread fetches one number");
    int head = kv_head * p.group, from = row, end = head + p.group, here = 0;
    fetch_tile<D>(ks, base + key, p.ld, tile.len - row, p.cols);
    fetch_tile<D>(vs, base + value, p.ld, tile.len - row, p.cols);
    fetch_queries(here, head, from);
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        load_a(k[n], ks, D + 8, 16 * warp, 16 * n);
        load_a(v[n], vs, D + 8, 16 * warp, 16 * n);
    }
    __syncthreads(); // the room of keys and values is for the next queries
    clear<D / 8>(dk);
    clear<D / 8>(dv);
    for (;; here ^= 1) {
        const float *l = numbers + here * 2 * TILE;
        int rows = tile.len - from;
        bool diagonal = from == row;
        from += TILE;
        if (from >= tile.len) {
            from = row;
            head++;
        }
        if (head < end) fetch_queries(here ^ 1, head, from);
        if (mine < tile.len)
            key_gradient<D>(dk, dv, k, v, qs + here * SIZE, ds + here * SIZE, l, l + TILE,
                            p.scale * LOG2_E, rows, diagonal);
        if (head == end) break;
        copy_async_wait<0>();
        __syncthreads(); // nobody reads these any more
    }
    if (mine >= tile.len) return;
    scale_fragments<D>(dk, p.scale, p.scale);
    bf16 *room = qs + (here ^ 1) * SIZE + 16 * warp * (D + 8);
    int64_t at = tile.first * p.ld + 16 * warp * p.ld;
    put_fragments<D>(dqkv, at + key, p.ld, dk, tile.len - mine, p.cols, room);
    __syncwarp(); // the room is read
    put_fragments<D>(dqkv, at + value, p.ld, dv, tile.len - mine, p.cols, room);
}

#endif

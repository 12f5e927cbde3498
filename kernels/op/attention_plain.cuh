// attention_plain.cuh - attention of f32, and of heads of any width, in f32 without tensor cores.
//
// Blocks of 16 x 16 threads; a thread holds 4 x 4 elements of a TILE x TILE product, those of rows
// y, y + 16, y + 32, y + 48. Heads go through shared memory in chunks of TILE columns: a block
// computes one chunk of its output (blockIdx.y) and the scores over all chunks, so that wide heads
// cost more and need no more memory. Bound by arithmetic: a tile is read from L2 for 64 products an
// element. Rows in shared memory are 4 numbers longer than TILE: 16-byte reads of 8 successive rows
// meet different banks.
#ifndef DOPL_KERNELS_OP_ATTENTION_PLAIN_CUH
#define DOPL_KERNELS_OP_ATTENTION_PLAIN_CUH

#include "attention.cuh"

constexpr int PLAIN_THREADS = 256, PLAIN_LD = TILE + 4, PLAIN_SIZE = TILE * PLAIN_LD;

// Copies TILE x TILE elements, zeros past `rows` and `cols` (which may be below 0).
template <class T>
__device__ __forceinline__ void stage(float *tile, const T *from, int64_t ld, int rows, int cols) {
    for (int i = threadIdx.x; i < TILE * TILE; i += PLAIN_THREADS) {
        int r = i / TILE, c = i % TILE;
        tile[r * PLAIN_LD + c] = r < rows && c < cols ? to_float(from[r * ld + c]) : 0.0f;
    }
}

__device__ __forceinline__ void clear(float x[4][4]) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) x[i][j] = 0.0f;
}

__device__ __forceinline__ float4 four(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}

// x += a b' over the first k columns. Element [i][j] is of row y + 16 i, column x + 16 j.
__device__ __forceinline__ void multiply_transposed(float x[4][4], const float *a, const float *b,
                                                    int k) {
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll 1 // more at a time would not fit registers
    for (int c = 0; c < k; c += 4) {
        float4 u[4], v[4];
        for (int i = 0; i < 4; i++) {
            u[i] = four(a + (ty + 16 * i) * PLAIN_LD + c);
            v[i] = four(b + (tx + 16 * i) * PLAIN_LD + c);
        }
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++)
                x[i][j] += u[i].x * v[j].x + u[i].y * v[j].y + u[i].z * v[j].z + u[i].w * v[j].w;
    }
}

// x += a b. Element [i][j] is of row y + 16 i, column 4 x + j.
__device__ __forceinline__ void multiply(float x[4][4], const float *a, const float *b) {
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll 1
    for (int k = 0; k < TILE; k += 4) {
        float4 u[4];
        for (int i = 0; i < 4; i++) u[i] = four(a + (ty + 16 * i) * PLAIN_LD + k);
        for (int m = 0; m < 4; m++) {
            float4 v = four(b + (k + m) * PLAIN_LD + 4 * tx);
            for (int i = 0; i < 4; i++) {
                float w = m == 0 ? u[i].x : m == 1 ? u[i].y : m == 2 ? u[i].z : u[i].w;
                x[i][0] += w * v.x;
                x[i][1] += w * v.y;
                x[i][2] += w * v.z;
                x[i][3] += w * v.w;
            }
        }
    }
}

// x += the product of two tiles of heads, chunk by chunk through the shared a and b.
template <class T>
__device__ __forceinline__ void multiply_heads(float x[4][4], float *a, float *b, const T *left,
                                               int64_t ld_left, int left_rows, const T *right,
                                               int64_t ld_right, int right_rows, int cols) {
    for (int c = 0; c < cols; c += TILE) {
        __syncthreads(); // what a and b hold has been used
        stage(a, left + c, ld_left, left_rows, cols - c);
        stage(b, right + c, ld_right, right_rows, cols - c);
        __syncthreads();
        multiply_transposed(x, a, b, cols - c < TILE ? (cols - c + 3) / 4 * 4 : TILE);
    }
}

// y += p B, where each thread has its elements of p and B is TILE x TILE of a head.
template <class T>
__device__ __forceinline__ void multiply_by_head(float y[4][4], const float p[4][4],
                                                 float *shared_p, float *b, const T *right,
                                                 int64_t ld, int rows, int cols) {
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    __syncthreads();
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) shared_p[(ty + 16 * i) * PLAIN_LD + tx + 16 * j] = p[i][j];
    stage(b, right, ld, rows, cols);
    __syncthreads();
    multiply(y, shared_p, b);
}

// Over the 16 threads that share a row: half a warp.
__device__ __forceinline__ float row_sum(float x) {
    for (int lane = 8; lane; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ __forceinline__ float row_max(float x) {
    for (int lane = 8; lane; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Block: a chunk of the columns of a head's tile of queries.
template <class T>
__global__ void __launch_bounds__(PLAIN_THREADS)
    attention_plain_kernel(T *__restrict__ out,       // [T, heads cols]
                           float *__restrict__ lse,   // [heads, T]; nullptr: not wanted
                           const T *__restrict__ qkv, // [T, ld]
                           attention_plan p) {
    DOPL_DYNAMIC_SHARED(float, a); // queries, keys or values, probabilities
    float *b = a + PLAIN_SIZE, *ps = b + PLAIN_SIZE;
    const attention_tile tile = p.tile[blockIdx.x / p.heads];
    if (tile.weight == 0) return;
    int head = blockIdx.x % p.heads, last = tile.weight - 1, row = last * TILE;
    int chunk = blockIdx.y * TILE, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const T *base = qkv + tile.first * p.ld;
    const T *q = base + row * p.ld + (int64_t)head * p.cols;
    const T *k = base + (int64_t)(p.heads + head / p.group) * p.cols;
    const T *v = k + (int64_t)p.kv_heads * p.cols;
    float o[4][4], top[4], sum[4];
    clear(o);
    for (int i = 0; i < 4; i++) {
        top[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    for (int j = 0; j <= last; j++) {
        int64_t from = (int64_t)j * TILE * p.ld;
        int rows = tile.len - j * TILE;
        float s[4][4];
        clear(s);
        multiply_heads(s, a, b, q, p.ld, tile.len - row, k + from, p.ld, rows, p.cols);
        for (int i = 0; i < 4; i++) {
            float high = -INFINITY, part = 0.0f;
            for (int m = 0; m < 4; m++) {
                bool after = j == last && tx + 16 * m > ty + 16 * i;
                s[i][m] = after ? -INFINITY : s[i][m] * p.scale;
                high = fmaxf(high, s[i][m]);
            }
            float now = fmaxf(top[i], row_max(high)), fade = expf(top[i] - now);
            top[i] = now;
            for (int m = 0; m < 4; m++) {
                s[i][m] = expf(s[i][m] - now);
                part += s[i][m];
                o[i][m] *= fade;
            }
            sum[i] = sum[i] * fade + row_sum(part);
        }
        multiply_by_head(o, s, ps, b, v + from + chunk, p.ld, rows, p.cols - chunk);
    }
    for (int i = 0; i < 4; i++) {
        int at = row + ty + 16 * i;
        if (at >= tile.len) continue;
        int64_t to = (int64_t)(tile.first + at) * p.heads + head;
        if (lse && tx == 0 && chunk == 0)
            lse[head * p.rows + tile.first + at] = top[i] + logf(sum[i]);
        for (int m = 0; m < 4; m++)
            if (chunk + 4 * tx + m < p.cols)
                out[to * p.cols + chunk + 4 * tx + m] = from_float<T>(o[i][m] / sum[i]);
    }
}

__device__ __forceinline__ void put_chunk(const attention_gradient &d, int64_t at, int64_t ld,
                                          const float x[4][4], int rows, int cols) {
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int i = 0; i < 4; i++)
        for (int m = 0; m < 4; m++)
            if (ty + 16 * i < rows && 4 * tx + m < cols)
                put_gradient(d, at + (ty + 16 * i) * ld + 4 * tx + m, x[i][m]);
}

// dq += dS K. Block: a chunk of the columns of a head's tile of queries.
template <class T>
__global__ void __launch_bounds__(PLAIN_THREADS)
    attention_plain_dq_kernel(attention_gradient dqkv,         // [T, ld]
                              const T *__restrict__ qkv,       // [T, ld]
                              const T *__restrict__ dout,      // [T, heads cols]
                              const float *__restrict__ lse,   // [heads, T]
                              const float *__restrict__ delta, // [heads, T], dout . out
                              attention_plan p) {
    DOPL_DYNAMIC_SHARED(float, a);
    float *b = a + PLAIN_SIZE, *ps = b + PLAIN_SIZE;
    const attention_tile tile = p.tile[blockIdx.x / p.heads];
    if (tile.weight == 0) return;
    int head = blockIdx.x % p.heads, last = tile.weight - 1, row = last * TILE;
    int chunk = blockIdx.y * TILE, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int64_t ld_out = (int64_t)p.heads * p.cols, column = (int64_t)head * p.cols;
    const T *base = qkv + tile.first * p.ld;
    const T *q = base + row * p.ld + column, *dy = dout + (tile.first + row) * ld_out + column;
    const T *k = base + (int64_t)(p.heads + head / p.group) * p.cols;
    const T *v = k + (int64_t)p.kv_heads * p.cols;
    float dq[4][4], l[4], rest[4];
    clear(dq);
    for (int i = 0; i < 4; i++) {
        int at = row + ty + 16 * i;
        int64_t from = head * p.rows + tile.first + at;
        l[i] = at < tile.len ? lse[from] : 0.0f;
        rest[i] = at < tile.len ? delta[from] : 0.0f;
    }
    for (int j = 0; j <= last; j++) {
        int64_t from = (int64_t)j * TILE * p.ld;
        int rows = tile.len - j * TILE;
        float s[4][4], ds[4][4];
        clear(s);
        clear(ds);
        multiply_heads(s, a, b, q, p.ld, tile.len - row, k + from, p.ld, rows, p.cols);
        multiply_heads(ds, a, b, dy, ld_out, tile.len - row, v + from, p.ld, rows, p.cols);
        for (int i = 0; i < 4; i++)
            for (int m = 0; m < 4; m++) {
                bool after = j == last && tx + 16 * m > ty + 16 * i;
                float x = expf(s[i][m] * p.scale - l[i]);
                ds[i][m] = after ? 0.0f : x * (ds[i][m] - rest[i]) * p.scale;
            }
        multiply_by_head(dq, ds, ps, b, k + from + chunk, p.ld, rows, p.cols - chunk);
    }
    put_chunk(dqkv, (tile.first + row) * p.ld + column + chunk, p.ld, dq, tile.len - row,
              p.cols - chunk);
}

// dk += dS' Q, dv += P' dO. Block: a chunk of the columns of a key/value head's tile of keys, over
// the heads of the group and the tiles of queries from it on. Queries past the end are masked.
template <class T>
__global__ void __launch_bounds__(PLAIN_THREADS, 1)
    attention_plain_dkv_kernel(attention_gradient dqkv,         // [T, ld]
                               const T *__restrict__ qkv,       // [T, ld]
                               const T *__restrict__ dout,      // [T, heads cols]
                               const float *__restrict__ lse,   // [heads, T]
                               const float *__restrict__ delta, // [heads, T]
                               attention_plan p) {
    DOPL_DYNAMIC_SHARED(float, a);
    float *b = a + PLAIN_SIZE, *ps = b + PLAIN_SIZE;
    const attention_tile tile = p.tile[blockIdx.x / p.kv_heads];
    if (tile.weight == 0) return;
    int kv_head = blockIdx.x % p.kv_heads;
    int n_tiles = (tile.len + TILE - 1) / TILE, first = n_tiles - tile.weight, row = first * TILE;
    int chunk = blockIdx.y * TILE, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int64_t ld_out = (int64_t)p.heads * p.cols;
    const T *base = qkv + tile.first * p.ld;
    const T *k = base + row * p.ld + (int64_t)(p.heads + kv_head) * p.cols;
    const T *v = k + (int64_t)p.kv_heads * p.cols;
    float dk[4][4], dv[4][4];
    clear(dk);
    clear(dv);
    for (int head = kv_head * p.group; head < (kv_head + 1) * p.group; head++)
        for (int j = first; j < n_tiles; j++) {
            int from = j * TILE, rows = tile.len - from;
            int64_t column = (int64_t)head * p.cols, number = head * p.rows + tile.first + from;
            const T *q = base + from * p.ld + column;
            const T *dy = dout + (tile.first + from) * ld_out + column;
            float s[4][4], ds[4][4];
            clear(s);
            clear(ds);
            multiply_heads(s, a, b, k, p.ld, tile.len - row, q, p.ld, rows, p.cols);
            multiply_heads(ds, a, b, v, p.ld, tile.len - row, dy, ld_out, rows, p.cols);
            for (int m = 0; m < 4; m++) {
                int query = tx + 16 * m;
                float l = query < rows ? lse[number + query] : 0.0f;
                float rest = query < rows ? delta[number + query] : 0.0f;
                for (int i = 0; i < 4; i++) {
                    bool masked = query >= rows || (j == first && query < ty + 16 * i);
                    float x = expf(s[i][m] * p.scale - l);
                    s[i][m] = masked ? 0.0f : x;
                    ds[i][m] = masked ? 0.0f : x * (ds[i][m] - rest) * p.scale;
                }
            }
            multiply_by_head(dv, s, ps, b, dy + chunk, ld_out, rows, p.cols - chunk);
            multiply_by_head(dk, ds, ps, b, q + chunk, p.ld, rows, p.cols - chunk);
        }
    int64_t at = (tile.first + row) * p.ld + (int64_t)(p.heads + kv_head) * p.cols + chunk;
    put_chunk(dqkv, at, p.ld, dk, tile.len - row, p.cols - chunk);
    put_chunk(dqkv, at + (int64_t)p.kv_heads * p.cols, p.ld, dv, tile.len - row, p.cols - chunk);
}

#endif

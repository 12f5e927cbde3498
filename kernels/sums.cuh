// sums.cuh - deterministic sums: out[k] = beta out[k] + scale * sum of f(k, r) over r.
//
// The order of additions depends on shapes alone. Where one pass leaves too few blocks to fill the
// device, r is cut into parts whose sums go to scratch memory, [parts, K], and a second kernel adds
// those. Threads lie along r or along k, whichever is consecutive in memory: row_sums, column_sums.
// f is a struct of pointers with a member at<N>(v, k, r), which makes N of them along that one.
#ifndef DOPL_KERNELS_SUMS_CUH
#define DOPL_KERNELS_SUMS_CUH

#include "elements.cuh"
#include "row.cuh"

constexpr int SUM_THREADS = 256;
constexpr int SUM_BLOCKS = 1024; // about what fills the largest device; fixed, for the same result

// out[k] = beta out[k] + scale * sum of partial[p][k] over p, partial rows `stride` apart. A block
// has 32 columns and 32 threads for each: lanes read one row of partial sums together, and the
// reads of the 32 rows are under way at a time.
template <class G>
__global__ void __launch_bounds__(1024)
    partial_sums_kernel(G *__restrict__ out,               // [K]
                        const float *__restrict__ partial, // [parts, stride], the first K of each
                        int64_t K, int64_t stride, int parts, float scale, float beta) {
    __shared__ float sums[WARP][WARP + 1]; // the extra column: a transposed read without conflicts
    int lane = threadIdx.x % WARP, row = threadIdx.x / WARP;
    int64_t k = (int64_t)blockIdx.x * WARP + lane;
    float s = 0.0f;
    if (k < K)
        for (int p = row; p < parts; p += WARP) s += partial[p * stride + k];
    sums[row][lane] = s;
    __syncthreads();
    s = warp_sum(sums[lane][row]); // this warp's column is now `row`
    k = (int64_t)blockIdx.x * WARP + row;
    if (lane == 0 && k < K) add_element(out + k, s * scale, beta);
}

template <class G>
static dopl_status partial_sums(dopl_rt *rt, const char *what, G *out, const float *partial,
                                int64_t K, int64_t stride, int parts, float scale, float beta) {
    if (K == 0) return DOPL_OK;
    DOPL_LAUNCH((partial_sums_kernel<G>), (unsigned)ceil_div(K, WARP), WARP * WARP, 0, rt, out,
                partial, K, stride, parts, scale, beta);
    return dopl_cuda_launched(rt, what);
}

// THREADS threads (a warp or the block) take one part of one k and stride along r together. Bound
// by memory. In f64, as on the CPU: a sum of numbers of either sign is often far smaller than they,
// and there is time for an addition a number.
template <int N, int THREADS, class G, class F>
__global__ void __launch_bounds__(SUM_THREADS) row_sums_kernel(
    G *__restrict__ out,         // [K]
    float *__restrict__ partial, // [gridDim.y, K]; nullptr: one part, straight to out
    const F f, int64_t K, int64_t R, int64_t share, float scale, float beta) {
    int64_t k = ((int64_t)blockIdx.x * SUM_THREADS + threadIdx.x) / THREADS;
    if (k >= K) return; // a whole warp at least
    int64_t first = blockIdx.y * share, last = first + share < R ? first + share : R;
    double s = 0.0;
    for (int64_t r = first + threadIdx.x % THREADS * N; r < last; r += THREADS * N) {
        float v[N];
        f.template at<N>(v, k, r);
        for (int i = 0; i < N; i++) s += (double)v[i];
    }
    float sum = (float)row_sum<THREADS>(s);
    if (threadIdx.x % THREADS) return;
    if (partial)
        partial[blockIdx.y * K + k] = sum;
    else
        add_element(out + k, sum * scale, beta);
}

// A thread takes N consecutive k and walks its part of r: neighbours read neighbouring addresses.
template <int N, class G, class F>
__global__ void __launch_bounds__(SUM_THREADS)
    column_sums_kernel(G *__restrict__ out,         // [K]
                       float *__restrict__ partial, // [gridDim.y, K]; nullptr: one part
                       const F f, int64_t K, int64_t R, int64_t share, float scale, float beta) {
    int64_t k = ((int64_t)blockIdx.x * SUM_THREADS + threadIdx.x) * N;
    if (k >= K) return;
    int64_t first = blockIdx.y * share, last = first + share < R ? first + share : R;
    float s[N] = {};
    for (int64_t r = first; r < last; r++) {
        float v[N];
        f.template at<N>(v, k, r);
        for (int i = 0; i < N; i++) s[i] += v[i];
    }
    if (partial)
        store_elements<N>(partial + blockIdx.y * K + k, s); // K is a multiple of N
    else
        for (int i = 0; i < N; i++) add_element(out + k + i, s[i] * scale, beta);
}

// How many parts to cut R into when `blocks` blocks work on each, none shorter than `least`.
static inline int64_t parts_of(int64_t R, int64_t blocks, int64_t least) {
    int64_t parts = ceil_div(R, least), most = SUM_BLOCKS / blocks;
    if (parts > most) parts = most;
    return parts < 1 ? 1 : parts;
}

// Runs launch(partial, parts), then adds the parts where there is more than one.
template <class G, class L>
static dopl_status in_parts(dopl_rt *rt, const char *what, G *out, int64_t K, int64_t parts,
                            float scale, float beta, L launch) {
    void *partial = NULL;
    if (parts > 1) DOPL_TRY(dopl_cuda_alloc(rt, &partial, (size_t)(parts * K) * sizeof(float)));
    launch(static_cast<float *>(partial));
    dopl_status status = dopl_cuda_launched(rt, what);
    if (status == DOPL_OK && partial)
        status = partial_sums(rt, what, out, static_cast<float *>(partial), K, K, (int)parts, scale,
                              beta);
    dopl_cuda_free(rt, partial);
    return status;
}

// packed: f takes N = pack<T>::N at a time along r, and R is a multiple of it.
template <class T, class G, class F>
static dopl_status row_sums(dopl_rt *rt, const char *what, G *out, const F &f, int64_t K, int64_t R,
                            bool packed, float scale, float beta) {
    constexpr int N = pack<T>::N;
    if (K == 0) return DOPL_OK;
    bool narrow = R <= 1024; // a warp is enough for a row
    int64_t blocks = narrow ? ceil_div(K, SUM_THREADS / WARP) : K;
    int64_t parts = narrow ? 1 : parts_of(R, blocks, 8 * SUM_THREADS);
    int64_t share = ceil_div(ceil_div(R, parts), N) * N;
    dim3 grid((unsigned)blocks, (unsigned)parts);
    return in_parts(rt, what, out, K, parts, scale, beta, [&](float *partial) {
        if (narrow && packed)
            DOPL_LAUNCH((row_sums_kernel<N, WARP, G, F>), grid, SUM_THREADS, 0, rt, out, partial, f,
                        K, R, share, scale, beta);
        else if (narrow)
            DOPL_LAUNCH((row_sums_kernel<1, WARP, G, F>), grid, SUM_THREADS, 0, rt, out, partial, f,
                        K, R, share, scale, beta);
        else if (packed)
            DOPL_LAUNCH((row_sums_kernel<N, SUM_THREADS, G, F>), grid, SUM_THREADS, 0, rt, out,
                        partial, f, K, R, share, scale, beta);
        else
            DOPL_LAUNCH((row_sums_kernel<1, SUM_THREADS, G, F>), grid, SUM_THREADS, 0, rt, out,
                        partial, f, K, R, share, scale, beta);
    });
}

// packed: f takes N = pack<T>::N at a time along k, and K is a multiple of it.
template <class T, class G, class F>
static dopl_status column_sums(dopl_rt *rt, const char *what, G *out, const F &f, int64_t K,
                               int64_t R, bool packed, float scale, float beta) {
    constexpr int N = pack<T>::N;
    if (K == 0) return DOPL_OK;
    int64_t blocks = ceil_div(K, SUM_THREADS * (packed ? N : 1));
    int64_t parts = parts_of(R, blocks, 16), share = ceil_div(R, parts);
    dim3 grid((unsigned)blocks, (unsigned)parts);
    return in_parts(rt, what, out, K, parts, scale, beta, [&](float *partial) {
        if (packed)
            DOPL_LAUNCH((column_sums_kernel<N, G, F>), grid, SUM_THREADS, 0, rt, out, partial, f, K,
                        R, share, scale, beta);
        else
            DOPL_LAUNCH((column_sums_kernel<1, G, F>), grid, SUM_THREADS, 0, rt, out, partial, f, K,
                        R, share, scale, beta);
    });
}

#endif

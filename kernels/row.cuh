// row.cuh - a row of a matrix shared by a warp or a block, held in registers between its uses.
//
// THREADS is 32 (a warp has the row; the block's other warps have other rows) or the block's size.
// Thread t holds packs t, t + THREADS, ...: PACKS of them, those past the row's end unused.
#ifndef DOPL_KERNELS_ROW_CUH
#define DOPL_KERNELS_ROW_CUH

#include "common.cuh"

constexpr int ROW_THREADS = 256; // of a block

template <int THREADS> __device__ __forceinline__ float row_sum(float x) {
    if constexpr (THREADS == WARP)
        return warp_sum(x);
    else
        return block_sum(x);
}

// The same in f64.
template <int THREADS> __device__ __forceinline__ double row_sum(double x) {
    for (int lane = WARP / 2; lane; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    if constexpr (THREADS > WARP) {
        __shared__ double part[THREADS / WARP];
        __syncthreads(); // `part` may still be read by an earlier call
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = x;
        __syncthreads();
        x = 0.0;
        for (int w = 0; w < THREADS / WARP; w++) x += part[w];
    }
    return x;
}

template <int THREADS> __device__ __forceinline__ float row_max(float x) {
    if constexpr (THREADS == WARP)
        return warp_max(x);
    else
        return block_max(x);
}

// First column of pack number p of this thread.
template <class T, int THREADS> __device__ __forceinline__ int pack_column(int p) {
    return (p * THREADS + (int)threadIdx.x % THREADS) * pack<T>::N;
}

template <int THREADS, class T, int PACKS>
__device__ __forceinline__ void load_row(pack<T> (&x)[PACKS], const T *row, int cols) {
    for (int p = 0; p < PACKS; p++) {
        int c = pack_column<T, THREADS>(p);
        if (c < cols) x[p] = load_pack(row + c);
    }
}

// As it lies in memory: for unpack<T>.
template <int THREADS, class T, int PACKS>
__device__ __forceinline__ void load_row(uint4 (&x)[PACKS], const T *row, int cols) {
    for (int p = 0; p < PACKS; p++) {
        int c = pack_column<T, THREADS>(p);
        if (c < cols) x[p] = *reinterpret_cast<const uint4 *>(row + c);
    }
}

// ---- the host's side

// Runs `...` with THREADS and PACKS such that PACKS packs of T in each of THREADS threads hold a
// row of `cols` elements, few packs (FEW) or many (MANY) to a thread; `otherwise` where no row of
// that length, or none that is not aligned, is held in registers.
#define DISPATCH_ROW(T, cols, packed, FEW, MANY, otherwise, ...)                                   \
    do {                                                                                           \
        constexpr int64_t per_ = pack<T>::N;                                                       \
        if (!(packed) || (cols) > per_ * MANY * ROW_THREADS) {                                     \
            otherwise                                                                              \
        } else if ((cols) <= per_ * FEW * WARP) {                                                  \
            constexpr int THREADS = WARP, PACKS = FEW;                                             \
            __VA_ARGS__                                                                            \
        } else if ((cols) <= per_ * MANY * WARP) {                                                 \
            constexpr int THREADS = WARP, PACKS = MANY;                                            \
            __VA_ARGS__                                                                            \
        } else if ((cols) <= per_ * FEW * ROW_THREADS) {                                           \
            constexpr int THREADS = ROW_THREADS, PACKS = FEW;                                      \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            constexpr int THREADS = ROW_THREADS, PACKS = MANY;                                     \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

#endif

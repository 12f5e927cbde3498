// elements.cuh - N elements at a time, and the kernel of every operator that looks at one index of
// its output at a time.
//
// Such an operator is a struct of pointers with a member at<N>(i), which makes elements i .. i+N-1:
// pointwise() runs it over all of them, N to a thread and 16 bytes to an access where every pointer
// allows that, one by one elsewhere.
#ifndef DOPL_KERNELS_ELEMENTS_CUH
#define DOPL_KERNELS_ELEMENTS_CUH

#include "common.cuh"

// Where N elements are whole packs, `p` is a multiple of 16 bytes.
template <int N, class T> __device__ __forceinline__ void load_elements(float (&v)[N], const T *p) {
    if constexpr (N % (int)pack<T>::N == 0) {
        for (int i = 0; i < N; i += pack<T>::N) {
            float part[pack<T>::N];
            unpack<T>(part, *reinterpret_cast<const uint4 *>(p + i));
            for (int k = 0; k < pack<T>::N; k++) v[i + k] = part[k];
        }
    } else {
        for (int i = 0; i < N; i++) v[i] = to_float(p[i]);
    }
}

template <int N, class T>
__device__ __forceinline__ void store_elements(T *p, const float (&v)[N]) {
    if constexpr (N % (int)pack<T>::N == 0) {
        for (int i = 0; i < N; i += pack<T>::N) {
            pack<T> q;
            for (int k = 0; k < pack<T>::N; k++) q.x[k] = from_float<T>(v[i + k]);
            store_pack(p + i, q);
        }
    } else {
        for (int i = 0; i < N; i++) p[i] = from_float<T>(v[i]);
    }
}

// p = beta p + v, beta 0 or 1. Where it is 0, p may hold NaN and is not read.
template <int N, class T>
__device__ __forceinline__ void add_elements(T *p, const float (&v)[N], float beta) {
    float sum[N];
    if (beta == 0.0f) {
        store_elements<N>(p, v);
        return;
    }
    load_elements<N>(sum, p);
    for (int i = 0; i < N; i++) sum[i] += v[i];
    store_elements<N>(p, sum);
}

template <class T> __device__ __forceinline__ void add_element(T *p, float v, float beta) {
    *p = from_float<T>(beta == 0.0f ? v : to_float(*p) + v);
}

// The quotient is good to 2 ulp; a division that is correctly rounded costs a call.
__device__ __forceinline__ float sigmoid(float x) {
    return __fdividef(1.0f, 1.0f + expf(-x));
}

// Bound by memory: a thread has one 16-byte access per operand under way, and 2048 threads on a
// multiprocessor have the 32 KiB that the latency of memory asks for. No loop: blocks are short, so
// the last ones leave no multiprocessor idle for long.
constexpr int POINTWISE_THREADS = 256;

template <int N, class F>
__global__ void __launch_bounds__(POINTWISE_THREADS) pointwise_kernel(const F f, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * POINTWISE_THREADS + threadIdx.x) * N;
    if (i + N <= n)
        f.template at<N>(i);
    else
#pragma unroll 1 // the last few, of one thread
        for (; i < n; i++) f.template at<1>(i);
}

// ---- the host's side

// Whether every address is a multiple of 16 bytes; NULL is.
template <class... P> static inline bool aligned(const P *...p) {
    return ((reinterpret_cast<uintptr_t>(p) | ... | 0) & 15) == 0;
}

// packed: f.at<pack<T>::N>(i) may be called for every i that is a multiple of pack<T>::N.
template <class T, class F>
static dopl_status pointwise(dopl_rt *rt, const char *what, const F &f, int64_t n, bool packed) {
    constexpr int N = pack<T>::N;
    if (n == 0) return DOPL_OK;
    unsigned blocks = (unsigned)ceil_div(n, POINTWISE_THREADS * (packed ? N : 1));
    if (packed)
        DOPL_LAUNCH((pointwise_kernel<N, F>), blocks, POINTWISE_THREADS, 0, rt, f, n);
    else
        DOPL_LAUNCH((pointwise_kernel<1, F>), blocks, POINTWISE_THREADS, 0, rt, f, n);
    return dopl_cuda_launched(rt, what);
}

// Runs `...` with T the type of the values and G that of a gradient: T, or f32 for a parameter's.
#define DISPATCH_GRADIENT(value, gradient, T, G, ...)                                              \
    do {                                                                                           \
        if ((value) == DOPL_F32) {                                                                 \
            typedef float T;                                                                       \
            typedef float G;                                                                       \
            __VA_ARGS__                                                                            \
        } else if ((gradient) == DOPL_F32) {                                                       \
            typedef bf16 T;                                                                        \
            typedef float G;                                                                       \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            typedef bf16 T;                                                                        \
            typedef bf16 G;                                                                        \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

#endif

// common.cuh - what every kernel file uses: launches, element types, 16-byte access, reductions.
//
// Kernels compute in f32 whatever the element type T (float or __nv_bfloat16). The same source is
// compiled by nvcc and, for the specs, by a plain C++ compiler against spec/cuda/emulator, which
// runs each thread of a block as a fiber: what is not C++ stays behind the names of this file.
#ifndef DOPL_KERNELS_COMMON_CUH
#define DOPL_KERNELS_COMMON_CUH

#ifdef __CUDACC__
#define DOPL_HOST_DEVICE __host__ __device__ // what core/rng.h says of its functions
#endif

#include "../runtime/cuda/cuda.h"

#include <cuda_bf16.h>
#include <new>
#include <tuple>

// The block's dynamic shared memory as an array of T, 16-byte aligned.
#ifndef DOPL_EMULATED
#define DOPL_DYNAMIC_SHARED(T, name)                                                               \
    extern __shared__ __align__(16) unsigned char dopl_dynamic_shared[];                           \
    T *name = reinterpret_cast<T *>(dopl_dynamic_shared)
#endif

typedef __nv_bfloat16 bf16;

enum { WARP = 32 };

// ---- elements

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

// 16 bytes of elements: one load or store instruction where the address is a multiple of 16.
template <class T> struct __align__(16) pack {
    enum { N = 16 / sizeof(T) };
    T x[N];
};

// there: otherwise zeros, and nothing is read.
template <class T> __device__ __forceinline__ pack<T> load_pack(const T *p, bool there = true) {
    union {
        uint4 raw;
        pack<T> elements;
    } u;
    u.raw = there ? *reinterpret_cast<const uint4 *>(p) : make_uint4(0, 0, 0, 0);
    return u.elements;
}

// The same as it lies in memory, for what is held a while: elements of a bf16 pack that go through
// a loop, or wait for a load, the compiler keeps one by one, and takes them apart where they
// arrive.
__device__ __forceinline__ void unpack(float (&v)[4], uint4 raw, float) {
    v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
    v[2] = __uint_as_float(raw.z), v[3] = __uint_as_float(raw.w);
}
__device__ __forceinline__ void unpack(float (&v)[8], uint4 raw, bf16) {
    const unsigned pair[] = { raw.x, raw.y, raw.z, raw.w }; // the first the lower half
    for (int i = 0; i < 8; i += 2) {
        v[i] = __uint_as_float(pair[i / 2] << 16);
        v[i + 1] = __uint_as_float(pair[i / 2] & 0xffff0000u);
    }
}
template <class T> __device__ __forceinline__ void unpack(float (&v)[pack<T>::N], uint4 raw) {
    unpack(v, raw, T());
}
// One instruction an element: to_float takes a bf16 out of its word, then widens it.
template <class T> __device__ __forceinline__ void unpack(float (&v)[pack<T>::N], pack<T> x) {
    uint4 raw;
    memcpy(&raw, &x, sizeof raw);
    unpack<T>(v, raw);
}

// As PTX says it: of a plain assignment the compiler makes four stores of 4 bytes where there are
// several in a row. For memory of the device, not a block's shared memory.
__device__ __forceinline__ void store_16(void *p, uint4 x) {
#ifdef DOPL_EMULATED
    *static_cast<uint4 *>(p) = x;
#else
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
#endif
}

template <class T> __device__ __forceinline__ void store_pack(T *p, const pack<T> &v) {
    union U {
        uint4 raw;
        pack<T> elements;
        __device__ U() {}
    } u;
    u.elements = v;
    store_16(p, u.raw);
}

// Whether rows of `cols` elements from `p` on all start at a multiple of 16 bytes.
template <class T> static inline bool packs(const T *p, int64_t cols) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && cols % pack<T>::N == 0;
}

// ---- reductions. Every lane of the warp, or thread of the block, takes part and gets the result.

__device__ __forceinline__ float warp_sum(float x) {
    for (int lane = WARP / 2; lane; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int lane = WARP / 2; lane; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Blocks of whole warps, at most 1024 threads, one-dimensional. In a fixed order: deterministic.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float part[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    __syncthreads(); // `part` may still be read by an earlier call
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_sum(lane < (int)blockDim.x / WARP ? part[lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float x) {
    __shared__ float part[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_max(lane < (int)blockDim.x / WARP ? part[lane] : -INFINITY);
}

// ---- the host's side: launches

// A launch that waits in the queue (runtime/cuda/queue.c).
template <class... P> struct queued_launch {
    void (*kernel)(P...);
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::tuple<P...> arguments;
};

template <class... P> static dopl_status issue_launch(dopl_rt *rt, const void *data) {
    const queued_launch<P...> *l = static_cast<const queued_launch<P...> *>(data);
    cudaStream_t stream = dopl_cuda_stream(rt);
    auto launch = [&](const P &...argument) {
#ifdef DOPL_EMULATED
        return emulator::launch(l->name, l->kernel, l->grid, l->block, l->shared_bytes, stream,
                                argument...);
#else
        void *address[] = { const_cast<void *>(static_cast<const void *>(&argument))... };
        return cudaLaunchKernel(reinterpret_cast<const void *>(l->kernel), l->grid, l->block,
                                address, l->shared_bytes, stream);
#endif
    };
    dopl_cuda_piece_begins(rt, l->name);
    cudaError_t e = std::apply(launch, l->arguments);
    dopl_cuda_piece_ends(rt);
    return dopl_cuda_result(rt, e, l->name);
}

// Zeroes what lies between the fields of an argument, so that equal launches are equal bytes.
template <class A> static inline void clear_padding(A &x) {
#if __has_builtin(__builtin_clear_padding)
    if constexpr (std::is_class<A>::value) __builtin_clear_padding(&x);
#else
    (void)x; // its launches repeat less often
#endif
}

template <class... P, class... A>
static void queue_launch(dopl_rt *rt, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                         size_t shared_bytes, A... arguments) {
    static_assert((std::is_trivially_copyable<P>::value && ...), "compared as bytes");
    (clear_padding(arguments), ...);
    void *place = dopl_cuda_queue_work(rt, issue_launch<P...>, sizeof(queued_launch<P...>));
    new (place) queued_launch<P...>{ kernel, name,         grid,
                                     block,  shared_bytes, std::tuple<P...>(arguments...) };
}

// Launches at once. Only for what the queue itself issues: its turn has come.
template <class... P, class... A>
static dopl_status launch_now(dopl_rt *rt, const char *name, void (*kernel)(P...), dim3 grid,
                              dim3 block, size_t shared_bytes, A... arguments) {
    const queued_launch<P...> l = { kernel, name,         grid,
                                    block,  shared_bytes, std::tuple<P...>(arguments...) };
    return issue_launch<P...>(rt, &l);
}

// DOPL_LAUNCH((kernel<T, 4>), grid, block, shared_bytes, rt, arguments...); dopl_cuda_launched
// next.
#define DOPL_LAUNCH(kernel, grid, block, shared_bytes, rt, ...)                                    \
    queue_launch(rt, #kernel, DOPL_UNPACK kernel, grid, block, shared_bytes, __VA_ARGS__)
#define DOPL_LAUNCH_NOW(kernel, grid, block, shared_bytes, rt, ...)                                \
    launch_now(rt, #kernel, DOPL_UNPACK kernel, grid, block, shared_bytes, __VA_ARGS__)
#define DOPL_UNPACK(...) __VA_ARGS__

// ---- the host's side: tensors

// Runs `...` with T the element type of `dtype`: DISPATCH(c->dtype, T, { launch<T>(); })
#define DISPATCH(dtype, T, ...)                                                                    \
    do {                                                                                           \
        if ((dtype) == DOPL_BF16) {                                                                \
            typedef bf16 T;                                                                        \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            typedef float T;                                                                       \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

template <class T> static inline T *data_of(const dopl_tensor *t) {
    return static_cast<T *>(dopl_data(t));
}

static inline int64_t ceil_div(int64_t n, int64_t d) {
    return (n + d - 1) / d;
}

#endif

// emulated_device.h - the device side of CUDA C++ on the CPU: launches, indices, shuffles, types.
#ifndef DOPL_EMULATOR_DEVICE_H
#define DOPL_EMULATOR_DEVICE_H

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#ifndef DOPL_EMULATED_KERNEL_H // which launches nothing
#include <functional>
#include <string>
#include <vector>
#endif

// ---- the language

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local // so that their bounds are known (block.cpp)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#ifndef __restrict__
#define __restrict__ __restrict
#endif

// ---- vectors

#define VECTORS(T, name)                                                                           \
    struct name##1 {                                                                               \
        T x;                                                                                       \
    };                                                                                             \
    struct __attribute__((aligned(2 * sizeof(T)))) name##2 {                                       \
        T x, y;                                                                                    \
    };                                                                                             \
    struct name##3 {                                                                               \
        T x, y, z;                                                                                 \
    };                                                                                             \
    struct __attribute__((aligned(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)))) name##4 {             \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline name##2 make_##name##2(T x, T y) {                                               \
        return name##2 { x, y };                                                                   \
    }                                                                                              \
    static inline name##3 make_##name##3(T x, T y, T z) {                                          \
        return name##3 { x, y, z };                                                                \
    }                                                                                              \
    static inline name##4 make_##name##4(T x, T y, T z, T w) {                                     \
        return name##4 { x, y, z, w };                                                             \
    }
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(unsigned char, uchar)
VECTORS(unsigned short, ushort)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)
#undef VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// ---- launches and indices

namespace emulator {

struct place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    int lane;
};
extern place *here; // of the fiber that runs

#ifndef DOPL_EMULATED_KERNEL_H
// Queues a run of every thread of the grid, each of which calls `body`; or, from the arguments'
// bytes, runs what nvcc has made of the function (ptx.h).
cudaError_t launch(const char *name, const void *function, dim3 grid, dim3 block,
                   size_t shared_bytes, cudaStream_t stream, std::function<void()> body,
                   std::vector<std::string> arguments);
// Does it, or has the graph do it that is being captured.
cudaError_t submit(cudaStream_t stream, std::function<void()> work);
cudaError_t wait();           // for all that was submitted
void lose(cudaError_t error); // from work that runs: the device is lost, as by a kernel's fault
bool is_capturing();
bool is_idle();
// Ends the program where a kernel is given an address of the host's.
void check_argument(const char *kernel, const void *argument, size_t bytes, bool is_pointer);
template <class P> void check_argument(const char *kernel, P argument) {
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&argument); // which may hold anything
    check_argument(kernel, &argument, sizeof argument, std::is_pointer<P>::value);
#else
    if (std::is_pointer<P>::value) check_argument(kernel, &argument, sizeof argument, true);
#endif
}
template <class... P>
cudaError_t launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                   size_t shared_bytes, cudaStream_t stream, const P &...arguments) {
    (check_argument(name, arguments), ...);
    return launch(name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream,
                  [=] { kernel(arguments...); },
                  { std::string(reinterpret_cast<const char *>(&arguments), sizeof arguments)... });
}
#endif
void *dynamic_shared();
cudaError_t set_shared_limit(const void *function, int bytes);
int blocks_per_sm(int threads, size_t shared_bytes);

// Ends the program: what a GPU would fault at, or answer nonsense for.
void fault(const char *what);

// What a lane gives to others.
struct alignas(16) shuffled {
    unsigned char bytes[16];
};
enum { WARP_LANES = 32 };
const unsigned ALL_LANES = 0xffffffffu;

// All lanes of `mask` give a value. Returns those, by lane; they are there until the next barrier.
const shuffled *gather(unsigned mask, shuffled value);
int block_barrier(int vote, int kind); // kind 0: nothing; 1: or; 2: and; 3: count

// The same functions for kernels compiled at run time (nvrtc.cpp).
struct services {
    place **here;
    const shuffled *(*gather)(unsigned, shuffled);
    int (*block_barrier)(int, int);
};

#ifndef DOPL_EMULATED_KERNEL_H
inline const place &current() {
    return *here;
}
#else
const place &current();
#endif
inline int lane_number() {
    return current().lane;
}

} // namespace emulator

#define threadIdx (emulator::current().thread)
#define blockIdx (emulator::current().block)
#define blockDim (emulator::current().block_dim)
#define gridDim (emulator::current().grid_dim)
enum { warpSize = 32 };

#define DOPL_DYNAMIC_SHARED(T, name) T *name = static_cast<T *>(emulator::dynamic_shared())

template <class F> cudaError_t cudaFuncSetAttribute(F *f, cudaFuncAttribute attribute, int value) {
    return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize
               ? emulator::set_shared_limit((const void *)f, value)
               : cudaSuccess;
}
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, F *, int threads,
                                                          size_t shared_bytes) {
    *n = emulator::blocks_per_sm(threads, shared_bytes);
    return cudaSuccess;
}

// ---- barriers, shuffles, votes

static inline void __syncthreads() {
    emulator::block_barrier(0, 0);
}
static inline int __syncthreads_or(int x) {
    return emulator::block_barrier(x, 1);
}
static inline int __syncthreads_and(int x) {
    return emulator::block_barrier(x, 2);
}
static inline int __syncthreads_count(int x) {
    return emulator::block_barrier(x, 3);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulator::gather(mask, {});
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

namespace emulator {
template <class T> const shuffled *give(unsigned mask, T value) {
    static_assert(sizeof(T) <= sizeof(shuffled) && std::is_trivially_copyable<T>::value, "");
    shuffled given;
    memcpy(&given, &value, sizeof value);
    return gather(mask, given);
}
template <class T> T take(const shuffled *all, int lane) {
    T value;
    memcpy(&value, &all[lane], sizeof value);
    return value;
}
template <class T> T shuffle(unsigned mask, T value, int from) {
    return take<T>(give(mask, value), from & (WARP_LANES - 1));
}
} // namespace emulator

template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    int lane = emulator::lane_number();
    return emulator::shuffle(mask, value, (lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = emulator::lane_number(), from = lane - (int)delta;
    return emulator::shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = emulator::lane_number(), from = lane + (int)delta;
    return emulator::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    int lane = emulator::lane_number(), from = lane ^ with;
    return emulator::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const emulator::shuffled *all = emulator::give(mask, predicate);
    unsigned votes = 0;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1 && emulator::take<int>(all, l)) votes |= 1u << l;
    return votes;
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}
#define REDUCE(name, T, join)                                                                      \
    static inline T name(unsigned mask, T value) {                                                 \
        const emulator::shuffled *all = emulator::give(mask, value);                               \
        bool first = true;                                                                         \
        T a = 0;                                                                                   \
        for (int l = 0; l < 32; l++)                                                               \
            if (mask >> l & 1) {                                                                   \
                T b = emulator::take<T>(all, l);                                                   \
                a = first ? b : (join);                                                            \
                first = false;                                                                     \
            }                                                                                      \
        return a;                                                                                  \
    }
REDUCE(__reduce_add_sync, unsigned, a + b)
REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
REDUCE(__reduce_add_sync, int, a + b)
REDUCE(__reduce_min_sync, int, a < b ? a : b)
REDUCE(__reduce_max_sync, int, a > b ? a : b)
#undef REDUCE

// ---- atomics: fibers give up the processor at barriers only

template <class T, class U> T atomicAdd(T *p, U x) {
    T old = *p;
    *p = old + (T)x;
    return old;
}
template <class T, class U> T atomicMax(T *p, U x) {
    T old = *p;
    *p = old > (T)x ? old : (T)x;
    return old;
}
template <class T, class U> T atomicMin(T *p, U x) {
    T old = *p;
    *p = old < (T)x ? old : (T)x;
    return old;
}
template <class T, class U> T atomicOr(T *p, U x) {
    T old = *p;
    *p = old | (T)x;
    return old;
}
template <class T, class U> T atomicExch(T *p, U x) {
    T old = *p;
    *p = (T)x;
    return old;
}
template <class T, class U, class V> T atomicCAS(T *p, U expected, V x) {
    T old = *p;
    if (old == (T)expected) *p = (T)x;
    return old;
}

// ---- arithmetic

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

template <class T> static inline T __ldg(const T *p) {
    return *p;
}
template <class T> static inline T __ldcs(const T *p) {
    return *p;
}
template <class T> static inline T __ldcg(const T *p) {
    return *p;
}
template <class T> static inline void __stcs(T *p, T x) {
    *p = x;
}
template <class T> static inline void __stcg(T *p, T x) {
    *p = x;
}
namespace emulator {
template <class To, class From> static inline To bits(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "bits");
    memcpy(&y, &x, sizeof y);
    return y;
}
} // namespace emulator
static inline int __float_as_int(float x) {
    return emulator::bits<int>(x);
}
static inline unsigned __float_as_uint(float x) {
    return emulator::bits<unsigned>(x);
}
static inline float __int_as_float(int x) {
    return emulator::bits<float>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulator::bits<float>(x);
}

// CUDA's "Mathematical Functions" allows these to be off by so many units in the last place. Here
// they are off by that much, in other bits.
namespace emulator {
inline float rough(float y, unsigned units) {
    unsigned pattern = bits<unsigned>(y), magnitude = pattern & 0x7fffffffu;
    bool is_plain = magnitude - units < 0x7f800000u - 2 * units; // not 0, infinite or no number
    if (!is_plain || fabsf(y) == 1.0f) return y;                 // where these functions end
    return bits<float>(pattern - units + (pattern * 0x9e3779b1u >> 8) % (2 * units + 1));
}
} // namespace emulator

static inline float rsqrtf(float x) {
    return emulator::rough(1.0f / sqrtf(x), 2);
}
#define expf(x) emulator::rough((expf)(x), 2)
#define logf(x) emulator::rough((logf)(x), 1)
#define log1pf(x) emulator::rough((log1pf)(x), 1)
#define log2f(x) emulator::rough((log2f)(x), 1)
#define exp2f(x) emulator::rough((exp2f)(x), 1) // which is rounded already: 2 in all
#define tanhf(x) emulator::rough((tanhf)(x), 2)
// glibc has declarations of these names
#define __expf(x) emulator::rough((expf)(x), 2 + (unsigned)fabsf(1.173f * fmaxf(x, -100.0f)))
static inline float __fdividef(float a, float b) {
    return emulator::rough(a / b, 2);
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __fsqrt_rn(float a) {
    return sqrtf(a);
}
static inline float __frcp_rn(float a) {
    return 1.0f / a;
}
static inline float __saturatef(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
static inline int __float2int_rn(float x) {
    return (int)nearbyintf(x);
}
static inline int __float2int_rd(float x) {
    return (int)floorf(x);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long all = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++)
        out |= (unsigned)(all >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}

#endif

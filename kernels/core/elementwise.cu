// elementwise.cu - the core's own jobs on arrays: fill, cast, accumulate.
//
// All are bound by memory: a thread takes 16 bytes of the narrower type at a time, so that the
// other side moves 16 or 32, and the grid is as large as the array.
#include "../common.cuh"

constexpr int BLOCK = 256;

static int64_t grid_for(int64_t n, int per_thread) {
    return ceil_div(n, (int64_t)BLOCK * per_thread);
}

// ---- fill

template <class T>
__global__ void fill_kernel(T *__restrict__ y, // [n]
                            T value, int64_t n) {
    constexpr int N = pack<T>::N;
    int64_t at = ((int64_t)blockIdx.x * BLOCK + threadIdx.x) * N;
    pack<T> v;
    for (int i = 0; i < N; i++) v.x[i] = value;
    if (at + N <= n && reinterpret_cast<uintptr_t>(y) % 16 == 0)
        store_pack(y + at, v);
    else
        for (int i = 0; i < N && at + i < n; i++) y[at + i] = value;
}

template <class T> static dopl_status fill(dopl_rt *rt, dopl_tensor *t, T value) {
    int64_t n = dopl_tensor_numel(t);
    if (n == 0) return DOPL_OK;
    DOPL_LAUNCH((fill_kernel<T>), (unsigned)grid_for(n, pack<T>::N), BLOCK, 0, rt, data_of<T>(t),
                value, n);
    return dopl_cuda_launched(rt, "fill");
}

extern "C" dopl_status dopl_cuda_fill(dopl_rt *rt, dopl_tensor *t, double value) {
    if (t->dtype == DOPL_F32) return fill<float>(rt, t, (float)value);
    if (t->dtype == DOPL_BF16) return fill<bf16>(rt, t, __float2bfloat16_rn((float)value));
    if (t->dtype == DOPL_U8) return fill<uint8_t>(rt, t, (uint8_t)(int)value);
    return dopl_fail(rt, DOPL_EDTYPE, "fill: a tensor of %s on cuda", dopl_dtype_name(t->dtype));
}

// ---- cast and accumulate

// y = x, or y += x. Eight elements a thread: 16 bytes of bf16, 32 of f32.
template <class Y, class X, bool ADD>
__global__ void assign_kernel(Y *__restrict__ y,       // [n]
                              const X *__restrict__ x, // [n]
                              int64_t n) {
    constexpr int N = 8;
    int64_t at = ((int64_t)blockIdx.x * BLOCK + threadIdx.x) * N;
    bool aligned =
        reinterpret_cast<uintptr_t>(y) % 16 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
    if (at + N > n || !aligned) {
        for (int64_t i = at; i < at + N && i < n; i++)
            y[i] = from_float<Y>(to_float(x[i]) + (ADD ? to_float(y[i]) : 0.0f));
        return;
    }
    float v[N];
    for (int i = 0; i < N; i += pack<X>::N) {
        pack<X> p = load_pack(x + at + i);
        for (int j = 0; j < pack<X>::N; j++) v[i + j] = to_float(p.x[j]);
    }
    for (int i = 0; i < N; i += pack<Y>::N) {
        pack<Y> p;
        if (ADD) p = load_pack(y + at + i);
        for (int j = 0; j < pack<Y>::N; j++)
            p.x[j] = from_float<Y>(v[i + j] + (ADD ? to_float(p.x[j]) : 0.0f));
        store_pack(y + at + i, p);
    }
}

template <bool ADD>
static dopl_status assign(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x, const char *what) {
    int64_t n = dopl_tensor_numel(y);
    if (n == 0) return DOPL_OK;
    DISPATCH(y->dtype, Y, {
        DISPATCH(x->dtype, X, {
            DOPL_LAUNCH((assign_kernel<Y, X, ADD>), (unsigned)grid_for(n, 8), BLOCK, 0, rt,
                        data_of<Y>(y), data_of<X>(x), n);
        });
    });
    return dopl_cuda_launched(rt, what);
}

extern "C" dopl_status dopl_cuda_cast(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x) {
    return assign<false>(rt, y, x, "cast");
}

extern "C" dopl_status dopl_cuda_accumulate(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x) {
    return assign<true>(rt, y, x, "accumulate");
}

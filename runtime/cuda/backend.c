// backend.c - opening a device, its table of functions, errors.
//
// Kernels report nothing when they are queued, and a fault shows at whatever asks the device next.
// DOPL_SYNC=1 waits after every kernel, so that the one at fault is the one named.
#include "cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST = 80 }; // sm_80: bf16 on tensor cores, cp.async

// ---- errors

dopl_status dopl_cuda_result(dopl_rt *rt, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return DOPL_OK;
    return dopl_fail(rt, DOPL_EDEVICE, "%s: %s (%s)%s", what, cudaGetErrorString(error),
                     cudaGetErrorName(error),
                     dopl_cuda_of(rt)->sync ? "" : "; DOPL_SYNC=1 names the kernel at fault");
}

// ---- opening

dopl_status dopl_cuda_symbols(dopl_rt *rt, const char *library, const dopl_cuda_symbol *wanted,
                              size_t n) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return dopl_fail(rt, DOPL_EDEVICE, "device cuda: %s", dlerror());
    for (size_t i = 0; i < n; i++) {
        void *symbol = dlsym(handle, wanted[i].name);
        if (!symbol)
            return dopl_fail(rt, DOPL_EDEVICE, "device cuda: %s has no %s: too old", library,
                             wanted[i].name);
        memcpy(wanted[i].to, &symbol, sizeof symbol);
    }
    return DOPL_OK;
}

static bool is_set(const char *name) {
    const char *value = getenv(name);
    return value && *value && strcmp(value, "0") != 0;
}

// Why there is no device, in words that say what to do.
static dopl_status no_device(dopl_rt *rt, cudaError_t error) {
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)cudaGetLastError();
    if (driver == 0)
        return dopl_fail(rt, DOPL_EDEVICE, "device cuda: no NVIDIA driver is installed here");
    if (error == cudaErrorInsufficientDriver)
        return dopl_fail(
            rt, DOPL_EDEVICE,
            "device cuda: the driver is for CUDA %d.%d, libdopl_cuda.so was built with "
            "CUDA %d.%d: update the driver, or build with an older CUDA",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (error != cudaSuccess && error != cudaErrorNoDevice)
        return dopl_fail(rt, DOPL_EDEVICE, "device cuda: %s (%s)", cudaGetErrorString(error),
                         cudaGetErrorName(error));
    return dopl_fail(rt, DOPL_EDEVICE, "device cuda: the driver sees no GPU%s%s%s",
                     visible ? " (CUDA_VISIBLE_DEVICES is \"" : "", visible ? visible : "",
                     visible ? "\")" : "");
}

// Of logits that exist at a time: a sixty-fourth of the memory, 2.2 GiB of an H200's, but at least
// 1 GiB. All chunks but one are multiplied anew in the backward, and each reads and writes the
// whole gradient of the head.
static size_t chunk_bytes(size_t memory) {
    const size_t least = (size_t)1 << 30;
    return memory / 64 > least ? memory / 64 : least;
}

static dopl_status choose(dopl_rt *rt) {
    dopl_cuda *cuda = dopl_cuda_of(rt);
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess || n == 0) return no_device(rt, error);
    cuda->ordinal = rt->ordinal;
    if (rt->ordinal >= n)
        return dopl_fail(rt, DOPL_EDEVICE, "device cuda:%d: there %s %d, counted from 0",
                         rt->ordinal, n == 1 ? "is" : "are", n);
    struct cudaDeviceProp about;
    DOPL_TRY(dopl_cuda_result(rt, cudaGetDeviceProperties(&about, cuda->ordinal), "device cuda"));
    cuda->arch = about.major * 10 + about.minor;
    cuda->n_sm = about.multiProcessorCount;
    if (cuda->arch < OLDEST)
        return dopl_fail(rt, DOPL_EDEVICE,
                         "device cuda: %s has compute capability %d.%d, needs 8.0 or newer",
                         about.name, about.major, about.minor);
    rt->chunk_bytes = chunk_bytes(about.totalGlobalMem);
    int runtime = 0;
    DOPL_TRY(dopl_cuda_result(rt, cudaRuntimeGetVersion(&runtime), "device cuda"));
    snprintf(cuda->description, sizeof cuda->description, "%.96s, %.0f GiB, CUDA %d.%d", about.name,
             (double)about.totalGlobalMem / (1 << 30), runtime / 1000, runtime % 1000 / 10);
    return DOPL_OK;
}

static dopl_status open_device(dopl_rt *rt) {
    dopl_cuda *cuda = dopl_cuda_of(rt);
    cuda->sync = is_set("DOPL_SYNC");
    DOPL_TRY(choose(rt));
    DOPL_TRY(dopl_cuda_result(rt, cudaSetDevice(cuda->ordinal), "device cuda"));
    DOPL_TRY(dopl_cuda_result(rt, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
                              "device cuda"));
    DOPL_TRY(dopl_cuda_queue_init(rt, cuda->sync || is_set("DOPL_NVTX")));
    DOPL_TRY(dopl_cuda_pool_init(rt));
    DOPL_TRY(dopl_cuda_staging_init(rt));
    DOPL_TRY(dopl_cuda_gemm_init(rt));
    return dopl_cuda_jit_init(rt);
}

static void close_device(dopl_rt *rt) {
    dopl_cuda *cuda = dopl_cuda_of(rt);
    if (!cuda) return;
    if (cuda->queue && dopl_cuda_flush(rt) == DOPL_OK) (void)cudaStreamSynchronize(cuda->stream);
    dopl_cuda_unwatch(rt);
    dopl_cuda_jit_release(rt);
    dopl_cuda_gemm_release(rt);
    dopl_cuda_staging_release(rt);
    dopl_cuda_pool_release(rt);
    dopl_cuda_queue_release(rt);
    if (cuda->stream) (void)cudaStreamDestroy(cuda->stream);
    dopl_rt_free(rt, cuda);
    rt->backend_data = NULL;
}

// ---- the table

static dopl_status sync_device(dopl_rt *rt) {
    DOPL_TRY(dopl_cuda_flush_to_wait(rt));
    return dopl_cuda_result(rt, cudaStreamSynchronize(dopl_cuda_stream(rt)), "sync");
}

static const char *describe(dopl_rt *rt) {
    return dopl_cuda_of(rt)->description;
}

static const dopl_backend table = {
    .name = "cuda",
    .alloc = dopl_cuda_pool_take,
    .free = dopl_cuda_free,
    .trim = dopl_cuda_pool_trim,
    .to_device = dopl_cuda_to_device,
    .to_host = dopl_cuda_to_host,
    .copy = dopl_cuda_copy,
    .sync = sync_device,
    .fill = dopl_cuda_fill,
    .cast = dopl_cuda_cast,
    .accumulate = dopl_cuda_accumulate,
    .dot = dopl_cuda_dot,
    .transpose = dopl_cuda_transpose,
    .plan_run = dopl_cuda_plan_run,
    .plan_norm = dopl_cuda_plan_norm,
    .plan_clip = dopl_cuda_plan_clip,
    .plan_clip_norm = dopl_cuda_plan_clip_norm,
    .plan_release = dopl_cuda_plan_release,
    .watch = dopl_cuda_watch,
    .unwatch = dopl_cuda_unwatch,
    .read_times = dopl_cuda_read_times,
    .describe = describe,
    .tell_product = dopl_cuda_gemm_tell,
    .close = close_device,
};

__attribute__((visibility("default"))) dopl_status
dopl_backend_open(dopl_rt *rt, const dopl_backend **out, int abi) {
    static dopl_backend with_operators; // by the environment, once
    if (abi != DOPL_BACKEND_ABI)
        return dopl_fail(rt, DOPL_EDEVICE,
                         "device cuda: libdopl_cuda.so is of another build than this program "
                         "(interface %d, not %d): build both again",
                         DOPL_BACKEND_ABI, abi);
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(dopl_cuda)));
    rt->backend_data = memory;
    dopl_status status = open_device(rt);
    if (status != DOPL_OK) {
        close_device(rt);
        return status;
    }
    with_operators = table;
    with_operators.forward = dopl_cuda_all_operators.forward;
    with_operators.supports = dopl_cuda_all_operators.supports;
    with_operators.backward = dopl_cuda_all_operators.backward;
    with_operators.mark = is_set("DOPL_NVTX") ? dopl_cuda_mark() : NULL;
    if (with_operators.mark) rt->ranges = true;
    with_operators.collectives = dopl_cuda_collectives();
    *out = &with_operators;
    return DOPL_OK;
}

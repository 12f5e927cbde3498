// emulator.cpp - CUDA's runtime functions: the stream, graphs, events, copies.
//
// Work is done some pieces at a time, which saves opening and closing memory for each; with
// DOPL_EMULATOR_LATE=1 when the host waits for it, and no sooner, as a GPU that is far behind
// would: what the host reads, overwrites or frees too early shows. DOPL_EMULATOR_FAULT=TEXT has
// kernels fault whose names contain it. As on a GPU, every later call then fails with that error.
#include "block.h"
#include "memory.h"
#include <cuda_runtime.h>

#include <deque>
#include <map>
#include <vector>

namespace emulator {

other_run *run_otherwise;

static cudaError_t last_error;
static cudaError_t lost; // for good: what a kernel's fault leaves behind
static std::map<const void *, int> &shared_limits() {
    static std::map<const void *, int> limits;
    return limits;
}

// DOPL_EMULATOR_IDLE=1: kernels and products are asked for and not done.
bool is_idle() {
    static const char *text = getenv("DOPL_EMULATOR_IDLE");
    return text && strcmp(text, "1") == 0;
}

static bool is_faulty(const char *name) {
    static const char *text = getenv("DOPL_EMULATOR_FAULT");
    return text && *text && strstr(name, text);
}

cudaError_t launch(const char *name, const void *function, dim3 grid, dim3 block,
                   size_t shared_bytes, cudaStream_t stream, std::function<void()> body,
                   std::vector<std::string> arguments) {
    size_t n = (size_t)block.x * block.y * block.z;
    auto limit = shared_limits().find(function);
    size_t most = limit == shared_limits().end() ? 48 << 10 : (size_t)limit->second;
    if (n == 0 || n > MAX_THREADS || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || shared_bytes > most)
        return last_error = cudaErrorInvalidConfiguration;
    if (is_faulty(name)) return submit(stream, [] { lose(cudaErrorIllegalAddress); });
    if (is_idle()) return submit(stream, [] {});
    if (run_otherwise)
        return submit(stream, [=, arguments = std::move(arguments)] {
            run_otherwise(function, grid, block, shared_bytes, arguments);
        });
    return submit(stream, [=, body = std::move(body)] {
        run_grid(name, function, grid, block, shared_bytes, body);
    });
}

cudaError_t set_shared_limit(const void *function, int bytes) {
    if (bytes > SHARED_LIMIT) return last_error = cudaErrorInvalidValue;
    shared_limits()[function] = bytes;
    return cudaSuccess;
}

// ---- graphs: what was submitted while one was captured

} // namespace emulator

struct CUgraph_st {
    std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};
struct CUevent_st {
    uint64_t after; // pieces of work before it
};

namespace emulator {

static CUgraph_st *capture; // the one that is being made

bool is_capturing() {
    return capture != nullptr;
}

// ---- the stream: there is one

static std::deque<std::function<void()>> late; // work that nobody has waited for
static uint64_t n_submitted, n_done;
enum { AT_A_TIME = 64 };

static bool is_late() {
    static const char *text = getenv("DOPL_EMULATOR_LATE");
    return text && strcmp(text, "1") == 0;
}

// What a call returns that has nothing else to say.
static cudaError_t so_far() {
    if (lost != cudaSuccess) last_error = lost;
    return lost;
}

// Does the first n pieces of work there ever were.
static cudaError_t wait_for(uint64_t n) {
    if (n_done >= n) return so_far();
    reach open;
    while (n_done < n) {
        std::function<void()> work = std::move(late.front());
        late.pop_front();
        n_done++;
        if (lost == cudaSuccess) work();
    }
    return so_far();
}

cudaError_t wait() {
    return wait_for(n_submitted);
}

void lose(cudaError_t error) {
    lost = error;
}

cudaError_t submit(cudaStream_t, std::function<void()> work) {
    if (so_far() != cudaSuccess) return lost;
    if (capture) {
        capture->work.push_back(std::move(work));
        return cudaSuccess;
    }
    late.push_back(std::move(work));
    n_submitted++;
    if (n_submitted - n_done >= AT_A_TIME && !is_late()) wait();
    return cudaSuccess; // what came of it is for the next call to say
}

// What may not be asked of a stream that is captured.
static void not_captured(const char *what) {
    if (!capture) return;
    fprintf(stderr, "emulator: %s: asked for while a graph is captured\n", what);
    abort();
}

int blocks_per_sm(int threads, size_t shared_bytes) {
    int by_threads = 2048 / (threads > 0 ? threads : 1);
    int by_shared = shared_bytes ? (int)(SHARED_LIMIT / shared_bytes) : 32;
    return by_threads < by_shared ? by_threads : by_shared;
}

} // namespace emulator

// ---- the runtime's functions

using emulator::last_error;

static cudaError_t result(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

extern "C" {

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorNotSupported:
        return "cudaErrorNotSupported";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress:
        return "cudaErrorMisalignedAddress";
    default:
        return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorNotSupported:
        return "operation not supported";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorMisalignedAddress:
        return "misaligned address";
    default:
        return "unknown error";
    }
}

cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = emulator::lost;
    return error;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = emulator::SHARED_LIMIT;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = 4; // few, so that loops over a grid take more than one turn
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
    }
    return result(cudaErrorInvalidValue);
}

// What cudaMalloc may hand out: DOPL_EMULATOR_MEMORY bytes (1 GiB where that is not set), so that
// specs can run out of it.
static size_t memory_total() {
    const char *text = getenv("DOPL_EMULATOR_MEMORY");
    return text ? strtoull(text, nullptr, 10) : (size_t)1 << 30;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int) {
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "emulated GPU");
    out->totalGlobalMem = memory_total();
    out->sharedMemPerBlock = 48 << 10;
    out->sharedMemPerBlockOptin = emulator::SHARED_LIMIT;
    const char *arch = getenv("DOPL_EMULATOR_ARCH"); // 100: compute capability 10.0
    out->major = arch && *arch ? atoi(arch) / 10 : 9;
    out->minor = arch && *arch ? atoi(arch) % 10 : 0;
    out->multiProcessorCount = emulator::is_sparse() ? 132 : 4;
    out->warpSize = 32;
    out->regsPerBlock = 65536;
    out->maxThreadsPerMultiProcessor = 2048;
    out->l2CacheSize = 50 << 20;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    return emulator::wait();
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = memory_total();
    size_t used = emulator::bytes_taken();
    *free_bytes = *total > used ? *total - used : 0;
    return cudaSuccess;
}

static bool is_room(size_t bytes) {
    return emulator::bytes_taken() + bytes <= memory_total();
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    emulator::not_captured("memory");
    *out = nullptr;
    if (emulator::so_far() != cudaSuccess) return emulator::lost;
    if (bytes == 0) return cudaSuccess;
    if (!is_room(bytes)) emulator::wait(); // for what is to be freed
    if (is_room(bytes)) *out = emulator::take(bytes);
    return *out ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *data) {
    emulator::not_captured("cudaFree");
    if (!data) return cudaSuccess;
    emulator::wait();
    return emulator::give(data) ? emulator::so_far() : result(cudaErrorInvalidValue);
}

cudaError_t cudaMallocAsync(void **out, size_t bytes, cudaStream_t) {
    return cudaMalloc(out, bytes);
}

cudaError_t cudaFreeAsync(void *data, cudaStream_t stream) {
    emulator::not_captured("cudaFreeAsync");
    if (!data) return cudaSuccess;
    if (!emulator::is_block(data)) return result(cudaErrorInvalidValue);
    return emulator::submit(stream, [=] {
        if (!emulator::give(data)) last_error = cudaErrorInvalidValue;
    });
}

static char a_pool; // keeps nothing

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *out, int) {
    *out = reinterpret_cast<cudaMemPool_t>(&a_pool);
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, enum cudaMemPoolAttr, void *) {
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    if (emulator::so_far() != cudaSuccess) return emulator::lost;
    return posix_memalign(out, 256, bytes ? bytes : 1) ? result(cudaErrorMemoryAllocation)
                                                       : cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    return cudaMallocHost(out, bytes);
}

cudaError_t cudaFreeHost(void *data) {
    emulator::wait();
    free(data);
    return emulator::so_far();
}

// f(offset, bytes) for all of them; of memory without bounds (memory.h), for both ends.
static void for_bytes(size_t bytes, const std::function<void(size_t, size_t)> &f) {
    const size_t END = 1 << 20;
    if (!emulator::is_sparse() || bytes <= 2 * END) return f(0, bytes);
    f(0, END);
    f(bytes - END, END);
}

static void copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    enum { TABLE = 1 << 20 }; // of addresses: no more bytes
    const char *who = "a copy";
    if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
        emulator::must_be_device(who, to, bytes);
    else
        emulator::must_be_host(who, to, bytes);
    if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
        emulator::must_be_device(who, from, bytes);
    else
        emulator::must_be_host(who, from, bytes);
    if (kind == cudaMemcpyHostToDevice && bytes <= TABLE)
        emulator::must_hold_no_host_address(who, from, bytes);
    for_bytes(bytes, [=](size_t at, size_t n) {
        memmove(static_cast<char *>(to) + at, static_cast<const char *>(from) + at, n);
    });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? emulator::wait() : error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return emulator::submit(stream, [=] { copy(to, from, bytes, kind); });
}

cudaError_t cudaMemsetAsync(void *data, int value, size_t bytes, cudaStream_t stream) {
    return emulator::submit(stream, [=] {
        emulator::must_be_device("a filling", data, bytes);
        for_bytes(bytes,
                  [=](size_t at, size_t n) { memset(static_cast<char *>(data) + at, value, n); });
    });
}

static char a_handle;

cudaError_t cudaStreamCreate(cudaStream_t *out) {
    *out = reinterpret_cast<cudaStream_t>(&a_handle);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    return cudaStreamCreate(out);
}

cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    emulator::not_captured("cudaStreamSynchronize");
    return emulator::wait();
}

// DOPL_EMULATOR_CAPTURE=0: a device that captures nothing; 3: not the first three times.
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    if (emulator::so_far() != cudaSuccess) return emulator::lost;
    static int n;
    const char *text = getenv("DOPL_EMULATOR_CAPTURE");
    if (text && (strcmp(text, "0") == 0 || n++ < atoi(text))) return result(cudaErrorNotSupported);
    emulator::not_captured("cudaStreamBeginCapture");
    emulator::capture = new CUgraph_st;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *out) {
    *out = emulator::capture;
    emulator::capture = nullptr;
    return *out ? cudaSuccess : result(cudaErrorInvalidValue);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, enum cudaStreamCaptureStatus *status) {
    *status = emulator::capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return emulator::so_far();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    *out = new CUgraphExec_st{ graph->work };
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    emulator::not_captured("cudaGraphLaunch");
    for (const auto &work : graph->work) emulator::submit(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    *out = new CUevent_st{ 0 };
    return emulator::so_far();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
    return cudaEventCreate(out);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return emulator::so_far();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    emulator::not_captured("cudaEventRecord");
    event->after = emulator::n_submitted;
    return emulator::so_far();
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (emulator::so_far() != cudaSuccess) return emulator::lost;
    return emulator::n_done < event->after ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    emulator::not_captured("cudaEventSynchronize");
    return emulator::wait_for(event->after);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 1.0f;
    return cudaSuccess;
}

} // extern "C"

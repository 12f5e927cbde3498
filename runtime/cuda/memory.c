// memory.c - memory of the device: the pool, what a failure says, copies of indices.
//
// The pool is the driver's own (cudaMallocAsync), kept from giving anything back: after the first
// steps an allocation is bookkeeping in the driver's user space, stream-ordered, with no call to
// the operating system and no wait. A cache of ours over cudaMalloc would save that bookkeeping's
// microsecond, but sequences are packed, so sizes change from batch to batch, and blocks kept by
// size would lie idle while others are short; the driver maps the pages of any free blocks to one
// new address instead. Everything is queued on one stream, so a block freed by the host can be
// handed out again at once.
//
// What tensors hold is counted by the core. Scratch is counted here, in a list, since the pool does
// not tell the size of a block; few blocks of scratch are out at a time, and the last out is the
// first back.
#include "cuda.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    void *data;
    size_t bytes;
} scratch;

struct dopl_cuda_pool {
    cudaMemPool_t driver;
    scratch *out;
    int n_out, capacity;
};

enum { FIRST_CAPACITY = 32 };

static struct dopl_cuda_pool *pool_of(const dopl_rt *rt) {
    return dopl_cuda_of(rt)->pool;
}

dopl_status dopl_cuda_pool_init(dopl_rt *rt) {
    dopl_cuda *cuda = dopl_cuda_of(rt);
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof *cuda->pool));
    cuda->pool = memory;
    cuda->pool->capacity = FIRST_CAPACITY;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, FIRST_CAPACITY * sizeof *cuda->pool->out));
    cuda->pool->out = memory;
    cudaMemPool_t *driver = &cuda->pool->driver;
    DOPL_TRY(dopl_cuda_result(rt, cudaDeviceGetDefaultMemPool(driver, cuda->ordinal),
                              "the device's memory pool"));
    uint64_t keep = UINT64_MAX; // bytes that stay cached when the stream is waited for
    return dopl_cuda_result(
        rt, cudaMemPoolSetAttribute(*driver, cudaMemPoolAttrReleaseThreshold, &keep),
        "the device's memory pool");
}

void dopl_cuda_pool_release(dopl_rt *rt) {
    struct dopl_cuda_pool *pool = pool_of(rt);
    if (!pool) return;
    if (pool->driver) dopl_cuda_pool_trim(rt);
    dopl_rt_free(rt, pool->out);
    dopl_rt_free(rt, pool);
    dopl_cuda_of(rt)->pool = NULL;
}

void dopl_cuda_pool_trim(dopl_rt *rt) {
    // what work that is still queued will free can be given back only after it
    if (cudaStreamSynchronize(dopl_cuda_stream(rt)) == cudaSuccess)
        (void)cudaMemPoolTrimTo(pool_of(rt)->driver, 0);
}

// ---- out of memory

typedef struct {
    char s[16];
} size_text;

static size_text size_str(size_t bytes) {
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    size_text text;
    double x = (double)bytes;
    int unit = 0;
    for (; x >= 1000 && unit < 4; unit++) x /= 1024;
    snprintf(text.s, sizeof text.s, unit && x < 10 ? "%.1f %s" : "%.0f %s", x, units[unit]);
    return text;
}

// What would make room, by what holds most of it with `bytes` more of what is being made.
static const char *advice(const dopl_rt *rt, size_t bytes) {
    static const char *const by_kind[DOPL_N_MEMORY] = {
        [DOPL_MEMORY_OTHER] = "let go of copies the recipe holds, or close its scopes sooner",
        [DOPL_MEMORY_PARAMETER] = "load the weights in bf16",
        [DOPL_MEMORY_GRADIENT] = "train fewer of the weights",
        [DOPL_MEMORY_STATE] = "keep states in 8 bits, or fewer of them",
        [DOPL_MEMORY_ACTIVATION] = "take fewer tokens at a time and accumulate over more batches",
        [DOPL_MEMORY_SCRATCH] = "take fewer tokens at a time",
    };
    size_t most = 0;
    const char *text = by_kind[rt->kind];
    for (int k = 0; k < DOPL_N_MEMORY; k++) {
        size_t held = rt->memory[DOPL_CUDA].by_kind[k] + (k == (int)rt->kind ? bytes : 0);
        if (held <= most) continue;
        most = held;
        text = by_kind[k];
    }
    return text;
}

static dopl_status out_of_memory(dopl_rt *rt, size_t bytes) {
    static const char *const names[] = {
#define X(id, name) #name,
        DOPL_MEMORY_KINDS(X)
#undef X
    };
    const dopl_memory *m = &rt->memory[DOPL_CUDA];
    char held[256] = "";
    size_t at = 0;
    for (int k = 0; k < DOPL_N_MEMORY; k++)
        if (m->by_kind[k])
            at += (size_t)snprintf(held + at, sizeof held - at, "%s%s %s", at ? ", " : " (",
                                   names[k], size_str(m->by_kind[k]).s);
    size_t unused = 0, total = 0;
    if (cudaMemGetInfo(&unused, &total) != cudaSuccess) (void)cudaGetLastError();
    return dopl_fail(
        rt, DOPL_ENOMEM,
        "out of memory on cuda: %s asked, %s of %s free; dopl holds %s%s%s; what would "
        "help: %s (--plan tells before a run)",
        size_str(bytes).s, size_str(unused).s, size_str(total).s, size_str(m->live).s, held,
        at ? ")" : "", advice(rt, bytes));
}

// ---- taking and giving back

dopl_status dopl_cuda_pool_take(dopl_rt *rt, void **out, size_t bytes) {
    cudaStream_t stream = dopl_cuda_stream(rt);
    *out = NULL;
    if (rt->fail_at > 0 && --rt->fail_at == 0)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory on cuda: %zu bytes asked (simulated)",
                         bytes);
    size_t whole = bytes ? bytes : 1; // an address even for nothing
    cudaError_t error = cudaMallocAsync(out, whole, stream);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        dopl_cuda_pool_trim(rt);
        error = cudaMallocAsync(out, whole, stream);
    }
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return out_of_memory(rt, bytes);
    }
    DOPL_TRY(dopl_cuda_result(rt, error, "allocation"));
    rt->n_blocks++;
    if (!rt->poison) return DOPL_OK;
    dopl_status status =
        dopl_cuda_result(rt, cudaMemsetAsync(*out, 0xff, whole, stream), "filling with NaN");
    if (status != DOPL_OK) {
        dopl_cuda_pool_give(rt, *out);
        *out = NULL;
    }
    return status;
}

void dopl_cuda_pool_give(dopl_rt *rt, void *data) {
    if (!data) return;
    rt->n_blocks--;
    // an error is an earlier kernel's fault: whoever waits for the device next reports it
    (void)cudaFreeAsync(data, dopl_cuda_stream(rt));
}

// ---- scratch

dopl_status dopl_cuda_alloc(dopl_rt *rt, void **out, size_t bytes) {
    struct dopl_cuda_pool *pool = pool_of(rt);
    if (pool->n_out == pool->capacity) {
        void *grown = pool->out;
        DOPL_TRY(dopl_rt_realloc(rt, &grown, 2 * (size_t)pool->capacity * sizeof *pool->out));
        pool->out = grown;
        pool->capacity *= 2;
    }
    DOPL_TRY(dopl_cuda_pool_take(rt, out, bytes));
    pool->out[pool->n_out++] = (scratch){ *out, bytes };
    dopl_memory_count(rt, DOPL_CUDA, DOPL_MEMORY_SCRATCH, (int64_t)bytes);
    return DOPL_OK;
}

void dopl_cuda_free(dopl_rt *rt, void *data) {
    struct dopl_cuda_pool *pool = pool_of(rt);
    if (!data) return;
    int i = pool->n_out - 1;
    while (i > 0 && pool->out[i].data != data) i--;
    dopl_memory_count(rt, DOPL_CUDA, DOPL_MEMORY_SCRATCH, -(int64_t)pool->out[i].bytes);
    memmove(&pool->out[i], &pool->out[i + 1], (size_t)(--pool->n_out - i) * sizeof *pool->out);
    dopl_cuda_pool_give(rt, data);
}

dopl_status dopl_cuda_tensor(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int n_dim,
                             const int64_t *dim) {
    dopl_memory_kind kind = rt->kind;
    rt->kind = DOPL_MEMORY_SCRATCH;
    dopl_status status = dopl_tensor_new_on(rt, out, DOPL_CUDA, dtype, n_dim, dim);
    rt->kind = kind;
    return status;
}

// ---- indices

dopl_status dopl_cuda_index(dopl_rt *rt, const dopl_tensor *t, const int32_t **out) {
    dopl_storage *s = t->storage;
    if (!s->mirror) {
        void *mirror;
        DOPL_TRY(dopl_cuda_pool_take(rt, &mirror, s->bytes));
        dopl_status status = dopl_cuda_to_device(rt, mirror, s->data, s->bytes);
        if (status != DOPL_OK) {
            dopl_cuda_pool_give(rt, mirror);
            return status;
        }
        s->mirror = mirror;
        dopl_memory_count(rt, DOPL_CUDA, DOPL_MEMORY_OTHER, (int64_t)s->bytes);
    }
    *out = (const int32_t *)((const char *)s->mirror + t->offset);
    return DOPL_OK;
}

// memory.c - memory of the device: the pool, what a failure says, copies of indices.
//
// Two levels. Blocks given back are kept by size, and one of the same size is handed out again: the
// next step finds what the last one had, at the same addresses, which is what lets a CUDA graph
// launch it (queue.c), and at no cost. Sequences are packed, so batches differ in their tokens, and
// with them what a step makes: that has eight sizes an octave, and takes the next where none of its
// own is kept. Below is the driver's pool (cudaMallocAsync), told to give nothing back by itself
// while there is enough: where kept blocks do not fit they go there, oldest first, for the driver
// to map their pages to one new address. Kept and used blocks together never are more than was once
// used at a time, and SLACK.
//
// Everything is queued on one stream, so a block that the host gives back can be used again at
// once; it may leave for the driver only when the launches that use it have been sent off.
#include "cuda.h"

#include <stdio.h>
#include <string.h>

enum {
    GRAIN = 512,       // sizes are multiples of it
    SLACK = 32 << 20,  // bytes kept above the peak
    BUCKETS = 1 << 12, // of each of the two indices
    FIRST_CAPACITY = 1 << 8,
    NONE = -1,
};

typedef struct {
    void *data;
    size_t bytes, asked;
    int next_by_data; // in its bucket; of places that are free: the next such place
    int next_by_size; // kept blocks in their bucket, by address
    int older, newer; // kept blocks, by when they were given back
    bool is_scratch;
} block;

struct dopl_cuda_pool {
    cudaMemPool_t driver;
    bool direct; // keeps nothing, so that tools see every use of what was given back
    block *block;
    int n_block, capacity, unused; // places taken at least once; the first that is free
    int by_data[BUCKETS], by_size[BUCKETS];
    int oldest, newest;
    size_t used, kept, peak; // bytes; most that were used
};

static struct dopl_cuda_pool *pool_of(const dopl_rt *rt) {
    return dopl_cuda_of(rt)->pool;
}

dopl_status dopl_cuda_pool_init(dopl_rt *rt) {
    dopl_cuda *cuda = dopl_cuda_of(rt);
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof *cuda->pool));
    struct dopl_cuda_pool *pool = cuda->pool = memory;
    pool->direct = cuda->sync;
    pool->capacity = FIRST_CAPACITY;
    pool->unused = pool->oldest = pool->newest = NONE;
    for (int i = 0; i < BUCKETS; i++) pool->by_data[i] = pool->by_size[i] = NONE;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, FIRST_CAPACITY * sizeof *pool->block));
    pool->block = memory;
    DOPL_TRY(dopl_cuda_result(rt, cudaDeviceGetDefaultMemPool(&pool->driver, cuda->ordinal),
                              "the device's memory pool"));
    size_t unused = 0, total = 0;
    DOPL_TRY(dopl_cuda_result(rt, cudaMemGetInfo(&unused, &total), "the device's memory"));
    // Bytes that stay cached when the stream is waited for: not the last of them, which the driver
    // needs when a kernel of ours or of cuBLAS's is first launched.
    uint64_t keep = unused - unused / 32;
    return dopl_cuda_result(
        rt, cudaMemPoolSetAttribute(pool->driver, cudaMemPoolAttrReleaseThreshold, &keep),
        "the device's memory pool");
}

// ---- the table of blocks

static int bucket_of_data(const void *data) {
    return (int)(((uintptr_t)data / GRAIN * 0x9e3779b97f4a7c15u) >> 52);
}

static int bucket_of_size(size_t bytes) {
    return (int)((bytes / GRAIN * 0x9e3779b97f4a7c15u) >> 52);
}

_Static_assert(BUCKETS == 1 << (64 - 52), "what the two above give");

// A free place in the table, not yet in any list.
static dopl_status new_place(dopl_rt *rt, struct dopl_cuda_pool *pool, int *out) {
    if (pool->unused != NONE) {
        *out = pool->unused;
        pool->unused = pool->block[*out].next_by_data;
        return DOPL_OK;
    }
    if (pool->n_block == pool->capacity) {
        void *grown = pool->block;
        DOPL_TRY(dopl_rt_realloc(rt, &grown, 2 * (size_t)pool->capacity * sizeof *pool->block));
        pool->block = grown;
        pool->capacity *= 2;
    }
    *out = pool->n_block++;
    return DOPL_OK;
}

static void free_place(struct dopl_cuda_pool *pool, int i) {
    pool->block[i].next_by_data = pool->unused;
    pool->unused = i;
}

static int find_block(const struct dopl_cuda_pool *pool, const void *data) {
    int i = pool->by_data[bucket_of_data(data)];
    while (pool->block[i].data != data) i = pool->block[i].next_by_data;
    return i;
}

static void keep(struct dopl_cuda_pool *pool, int i) {
    block *b = &pool->block[i];
    int *link = &pool->by_size[bucket_of_size(b->bytes)];
    while (*link != NONE && pool->block[*link].data < b->data)
        link = &pool->block[*link].next_by_size;
    b->next_by_size = *link;
    *link = i;
    b->older = pool->newest;
    b->newer = NONE;
    if (pool->newest != NONE) pool->block[pool->newest].newer = i;
    pool->newest = i;
    if (pool->oldest == NONE) pool->oldest = i;
    pool->used -= b->bytes;
    pool->kept += b->bytes;
}

static void unkeep(struct dopl_cuda_pool *pool, int i) {
    block *b = &pool->block[i];
    int *link = &pool->by_size[bucket_of_size(b->bytes)];
    while (*link != i) link = &pool->block[*link].next_by_size;
    *link = b->next_by_size;
    *(b->older == NONE ? &pool->oldest : &pool->block[b->older].newer) = b->newer;
    *(b->newer == NONE ? &pool->newest : &pool->block[b->newer].older) = b->older;
    pool->kept -= b->bytes;
}

// A kept block of that size, that at the lowest address: whatever the order they came back in, a
// step that asks for the same gets the same. NONE: there is none.
static int take_kept(struct dopl_cuda_pool *pool, size_t bytes) {
    int i = pool->by_size[bucket_of_size(bytes)];
    while (i != NONE && pool->block[i].bytes != bytes) i = pool->block[i].next_by_size;
    if (i != NONE) unkeep(pool, i);
    return i;
}

// To the driver. The block is in no list of kept ones. An error is an earlier kernel's fault:
// whoever waits for the device next reports it.
static void give_to_driver(dopl_rt *rt, struct dopl_cuda_pool *pool, int i) {
    int *link = &pool->by_data[bucket_of_data(pool->block[i].data)];
    while (*link != i) link = &pool->block[*link].next_by_data;
    *link = pool->block[i].next_by_data;
    (void)cudaFreeAsync(pool->block[i].data, dopl_cuda_stream(rt));
    free_place(pool, i);
}

// Lets kept blocks go, oldest first, until at most `bytes` are kept.
static dopl_status keep_at_most(dopl_rt *rt, struct dopl_cuda_pool *pool, size_t bytes) {
    if (pool->kept <= bytes) return DOPL_OK;
    DOPL_TRY(dopl_cuda_flush(rt));
    while (pool->kept > bytes) {
        int i = pool->oldest;
        unkeep(pool, i);
        give_to_driver(rt, pool, i);
    }
    return DOPL_OK;
}

void dopl_cuda_pool_trim(dopl_rt *rt) {
    // what work that is still queued will free can be given back only after it
    if (keep_at_most(rt, pool_of(rt), 0) != DOPL_OK ||
        cudaStreamSynchronize(dopl_cuda_stream(rt)) != cudaSuccess)
        return;
    dopl_cuda_forget_graphs(rt);
    (void)cudaMemPoolTrimTo(pool_of(rt)->driver, 0);
}

void dopl_cuda_pool_release(dopl_rt *rt) {
    struct dopl_cuda_pool *pool = pool_of(rt);
    if (!pool) return;
    if (pool->driver) dopl_cuda_pool_trim(rt);
    dopl_rt_free(rt, pool->block);
    dopl_rt_free(rt, pool);
    dopl_cuda_of(rt)->pool = NULL;
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
        size_t held = rt->memory[DOPL_GPU].by_kind[k] + (k == (int)rt->kind ? bytes : 0);
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
    const dopl_memory *m = &rt->memory[DOPL_GPU];
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

// The size of a block of so many bytes; one even for nothing, which needs an address.
static size_t size_of(const struct dopl_cuda_pool *pool, size_t bytes, bool varies) {
    size_t unit = GRAIN;
    if (pool->direct) return bytes ? bytes : 1; // for tools to see what goes beyond
    while (varies && bytes > 16 * unit) unit *= 2;
    return (bytes + unit - (bytes > 0)) / unit * unit;
}

// A block that is used from now on: a kept one, or one of the driver's.
static dopl_status take(dopl_rt *rt, struct dopl_cuda_pool *pool, size_t bytes, bool varies,
                        int *out) {
    size_t whole = size_of(pool, bytes, varies);
    *out = take_kept(pool, whole);
    if (*out == NONE && varies) *out = take_kept(pool, size_of(pool, whole + 1, true));
    if (*out == NONE) {
        size_t used = pool->used + whole, most = (used > pool->peak ? used : pool->peak) + SLACK;
        DOPL_TRY(keep_at_most(rt, pool, most - used));
        DOPL_TRY(new_place(rt, pool, out));
        block *b = &pool->block[*out];
        *b = (block){ .bytes = whole };
        cudaStream_t stream = dopl_cuda_stream(rt);
        cudaError_t error = cudaMallocAsync(&b->data, whole, stream);
        if (error == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError();
            dopl_cuda_pool_trim(rt);
            b->bytes = size_of(pool, bytes, false); // no more than it takes
            error = cudaMallocAsync(&b->data, b->bytes, stream);
        }
        if (error != cudaSuccess) free_place(pool, *out);
        if (error == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError();
            return out_of_memory(rt, bytes);
        }
        DOPL_TRY(dopl_cuda_result(rt, error, "allocation"));
        int *first = &pool->by_data[bucket_of_data(b->data)];
        b->next_by_data = *first;
        *first = *out;
    }
    pool->used += pool->block[*out].bytes;
    if (pool->used > pool->peak) pool->peak = pool->used;
    pool->block[*out].asked = bytes;
    return DOPL_OK;
}

static dopl_status take_for(dopl_rt *rt, void **out, size_t bytes, bool is_scratch) {
    struct dopl_cuda_pool *pool = pool_of(rt);
    bool varies =
        is_scratch || rt->kind == DOPL_MEMORY_ACTIVATION || rt->kind == DOPL_MEMORY_SCRATCH;
    int i;
    *out = NULL;
    if (rt->fail_at > 0 && --rt->fail_at == 0)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory on cuda: %zu bytes asked (simulated)",
                         bytes);
    dopl_status status = take(rt, pool, bytes, varies, &i);
    if (status == DOPL_ENOMEM && rt->collect) {
        rt->collect(rt);
        status = take(rt, pool, bytes, varies, &i);
    }
    DOPL_TRY(status);
    rt->n_blocks++;
    pool->block[i].is_scratch = is_scratch;
    if (is_scratch) dopl_memory_count(rt, DOPL_GPU, DOPL_MEMORY_SCRATCH, (int64_t)bytes);
    *out = pool->block[i].data;
    if (!rt->poison) return DOPL_OK;
    status = dopl_cuda_set(rt, *out, 0xff, pool->block[i].bytes);
    if (status != DOPL_OK) {
        dopl_cuda_free(rt, *out);
        *out = NULL;
    }
    return status;
}

dopl_status dopl_cuda_pool_take(dopl_rt *rt, void **out, size_t bytes) {
    return take_for(rt, out, bytes, false);
}

dopl_status dopl_cuda_alloc(dopl_rt *rt, void **out, size_t bytes) {
    return take_for(rt, out, bytes, true);
}

void dopl_cuda_free(dopl_rt *rt, void *data) {
    struct dopl_cuda_pool *pool = pool_of(rt);
    if (!data) return;
    int i = find_block(pool, data);
    if (pool->block[i].is_scratch)
        dopl_memory_count(rt, DOPL_GPU, DOPL_MEMORY_SCRATCH, -(int64_t)pool->block[i].asked);
    rt->n_blocks--;
    keep(pool, i);
    if (!pool->direct) return;
    dopl_cuda_send(rt);
    unkeep(pool, i);
    give_to_driver(rt, pool, i);
}

dopl_status dopl_cuda_tensor(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int n_dim,
                             const int64_t *dim) {
    dopl_memory_kind kind = rt->kind;
    rt->kind = DOPL_MEMORY_SCRATCH;
    dopl_status status = dopl_tensor_new_on(rt, out, DOPL_GPU, dtype, n_dim, dim);
    rt->kind = kind;
    return status;
}

// ---- indices

// A copy that the core counts and frees (core/tensor.c).
static dopl_status send_copy(dopl_rt *rt, void **out, const void *from, size_t bytes) {
    void *copy;
    DOPL_TRY(dopl_cuda_pool_take(rt, &copy, bytes));
    dopl_status status = dopl_cuda_to_device(rt, copy, from, bytes);
    if (status != DOPL_OK) {
        dopl_cuda_free(rt, copy);
        return status;
    }
    *out = copy;
    dopl_memory_count(rt, DOPL_GPU, DOPL_MEMORY_OTHER, (int64_t)bytes);
    return DOPL_OK;
}

dopl_status dopl_cuda_index(dopl_rt *rt, const dopl_tensor *t, const int32_t **out) {
    dopl_storage *s = t->storage;
    if (!s->mirror) DOPL_TRY(send_copy(rt, &s->mirror, s->data, s->bytes));
    *out = (const int32_t *)((const char *)s->mirror + t->offset);
    return DOPL_OK;
}

dopl_status dopl_cuda_table(dopl_rt *rt, const dopl_tensor *t, dopl_table_fn *make, size_t bytes,
                            const void **out) {
    dopl_storage *s = t->storage;
    int64_t n = dopl_tensor_numel(t);
    if (!s->derived.data || s->derived.make != make || s->derived.bytes != bytes ||
        s->derived.offset != t->offset || s->derived.n != n) {
        void *table, *copy;
        DOPL_TRY(dopl_rt_alloc(rt, &table, bytes));
        make(table, bytes, t);
        dopl_status status = send_copy(rt, &copy, table, bytes);
        dopl_rt_free(rt, table);
        if (status != DOPL_OK) return status;
        if (s->derived.data) { // another table, or of other indices in the same storage
            dopl_cuda_free(rt, s->derived.data);
            dopl_memory_count(rt, DOPL_GPU, DOPL_MEMORY_OTHER, -(int64_t)s->derived.bytes);
        }
        s->derived.data = copy;
        s->derived.make = make;
        s->derived.bytes = bytes;
        s->derived.offset = t->offset;
        s->derived.n = n;
    }
    *out = s->derived.data;
    return DOPL_OK;
}

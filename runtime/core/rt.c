// rt.c - errors and the pooled allocator.
//
// A training step asks for the same few hundred sizes over and over. Handing pages back to the
// kernel between them costs up to a quarter of a step in page faults, so freed blocks are kept in
// free lists by size class: eight classes to an octave, at most 12.5% above what was asked, and the
// part above is never touched. Each block carries a 64-byte header, which keeps the user pointer
// aligned to a cache line and lets free() know the class without being told.
#include "rt.h"
#include "device.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, STEPS = 8, N_CLASS = STEPS * 44 };

typedef struct block {
    size_t bytes;       // as asked
    size_t capacity;    // of the class, without the header
    struct block *next; // in its free list
    int size_class;
} block;

_Static_assert(sizeof(block) <= ALIGN, "the header must fit in front of an aligned block");

struct dopl_pool {
    block *free[N_CLASS];
};

dopl_status dopl_fail(dopl_rt *rt, dopl_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(rt->error, sizeof rt->error, format, args);
    va_end(args);
    return status;
}

dopl_status dopl_rt_init(dopl_rt *rt) {
    memset(rt, 0, sizeof *rt);
    rt->pool = calloc(1, sizeof *rt->pool);
    if (!rt->pool) return dopl_fail(rt, DOPL_ENOMEM, "runtime: no memory for the allocator");
    rt->grad_enabled = true;
    rt->vocab_chunk_bytes = (size_t)128 << 20;
#ifndef NDEBUG
    rt->poison = true;
#endif
    dopl_rt_find_limits(rt);
    dopl_rt_set_threads(rt, 0);
    return dopl_tape_new(rt, &rt->tape);
}

void dopl_rt_release(dopl_rt *rt) {
    dopl_tape_free(rt, rt->tape);
    rt->tape = NULL;
    dopl_device_close(rt);
    if (!rt->pool) return;
    dopl_rt_trim(rt);
    free(rt->pool);
    rt->pool = NULL;
}

// The class of `bytes` and the capacity of that class: STEPS linear steps in each power of two.
static int size_class(size_t bytes, size_t *capacity) {
    size_t units = (bytes + ALIGN - 1) / ALIGN;
    if (units < STEPS) units = units ? units : 1;
    if (units <= STEPS) {
        *capacity = units * ALIGN;
        return (int)units - 1;
    }
    int octave = 63 - __builtin_clzll(units - 1) - 3; // 2^(octave+3) <= units-1
    size_t step = (size_t)1 << octave;
    size_t n = (units + step - 1) / step; // STEPS+1 .. 2*STEPS
    *capacity = n * step * ALIGN;
    return octave * STEPS + (int)n - 1;
}

static void poison(void *data, size_t bytes) {
    memset(data, 0xff, bytes); // an all-ones float is a NaN, an all-ones int -1
}

// A block of class k, kept or the system's; NULL: neither has one.
static block *take(dopl_rt *rt, size_t bytes, int k, size_t capacity) {
    if (rt->bytes_limit && rt->bytes_live + bytes > rt->bytes_limit) return NULL;
    block *b = rt->pool->free[k];
    if (b) {
        rt->pool->free[k] = b->next;
        rt->bytes_cached -= b->capacity;
        return b;
    }
    b = aligned_alloc(ALIGN, ALIGN + capacity);
    if (!b) {
        dopl_rt_trim(rt);
        b = aligned_alloc(ALIGN, ALIGN + capacity);
    }
    if (!b) return NULL;
    b->capacity = capacity;
    b->size_class = k;
    return b;
}

dopl_status dopl_rt_alloc(dopl_rt *rt, void **out, size_t bytes) {
    *out = NULL;
    if (rt->fail_at > 0 && --rt->fail_at == 0)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked (simulated)", bytes);
    size_t capacity = 0;
    if (bytes > (size_t)1 << 46)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked", bytes);
    int k = size_class(bytes, &capacity);
    block *b = take(rt, bytes, k, capacity);
    if (!b && rt->collect) {
        rt->collect(rt);
        b = take(rt, bytes, k, capacity);
    }
    if (!b && rt->bytes_limit)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked, %zu of %zu in use",
                         bytes, rt->bytes_live, rt->bytes_limit);
    if (!b)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked, %zu in use", bytes,
                         rt->bytes_live);
    b->bytes = bytes;
    b->next = NULL;
    rt->bytes_live += bytes;
    rt->bytes_allocated += bytes;
    if (rt->bytes_live > rt->bytes_peak) rt->bytes_peak = rt->bytes_live;
    rt->n_blocks++;
    *out = (char *)b + ALIGN;
    if (rt->poison) poison(*out, bytes);
    return DOPL_OK;
}

dopl_status dopl_rt_alloc_zero(dopl_rt *rt, void **out, size_t bytes) {
    DOPL_TRY(dopl_rt_alloc(rt, out, bytes));
    memset(*out, 0, bytes);
    return DOPL_OK;
}

dopl_status dopl_rt_realloc(dopl_rt *rt, void **data, size_t bytes) {
    void *fresh;
    if (*data) {
        block *b = (block *)((char *)*data - ALIGN);
        if (bytes <= b->capacity && bytes > b->capacity / 4) {
            rt->bytes_live += bytes - b->bytes;
            if (rt->bytes_live > rt->bytes_peak) rt->bytes_peak = rt->bytes_live;
            b->bytes = bytes;
            return DOPL_OK;
        }
        DOPL_TRY(dopl_rt_alloc(rt, &fresh, bytes));
        memcpy(fresh, *data, bytes < b->bytes ? bytes : b->bytes);
        dopl_rt_free(rt, *data);
    } else {
        DOPL_TRY(dopl_rt_alloc(rt, &fresh, bytes));
    }
    *data = fresh;
    return DOPL_OK;
}

void dopl_rt_free(dopl_rt *rt, void *data) {
    if (!data) return;
    block *b = (block *)((char *)data - ALIGN);
    if (rt->poison) poison(data, b->bytes);
    rt->bytes_live -= b->bytes;
    rt->bytes_cached += b->capacity;
    rt->n_blocks--;
    b->next = rt->pool->free[b->size_class];
    rt->pool->free[b->size_class] = b;
}

void dopl_rt_trim(dopl_rt *rt) {
    for (int k = 0; k < N_CLASS; k++) {
        while (rt->pool->free[k]) {
            block *b = rt->pool->free[k];
            rt->pool->free[k] = b->next;
            rt->bytes_cached -= b->capacity;
            free(b);
        }
    }
}

void dopl_rt_reset_peak(dopl_rt *rt) {
    rt->bytes_peak = rt->bytes_live;
    for (int d = 0; d < DOPL_N_DEVICE; d++) {
        dopl_memory *m = &rt->memory[d];
        m->peak = m->live;
        memcpy(m->at_peak, m->by_kind, sizeof m->at_peak);
    }
}

// Signals are for the thread that runs Lua. A worker may be inside a matrix product that uses its
// stack register for something else, and has no stack where a handler could run.
static void shield_workers(void) {
#pragma omp parallel
    if (omp_get_thread_num() != 0) {
        static const int of_others[] = { SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGCHLD, SIGWINCH };
        sigset_t blocked;
        sigemptyset(&blocked);
        for (size_t i = 0; i < sizeof of_others / sizeof *of_others; i++)
            sigaddset(&blocked, of_others[i]);
        pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    }
}

void dopl_rt_set_threads(dopl_rt *rt, int n_threads) {
    int wanted = n_threads >= 1 ? n_threads : omp_get_num_procs();
    int running = rt->n_threads > 1 ? rt->n_threads : 1;
    if (wanted > running) wanted = running + dopl_rt_startable_threads(wanted - running);
    rt->n_threads = wanted;
    omp_set_num_threads(rt->n_threads);
    shield_workers();
}

// rt.c - errors, memory with its counters and limits (pool.c has the blocks), threads.
#include "rt.h"
#include "device.h"
#include "pool.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

dopl_status dopl_fail(dopl_rt *rt, dopl_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(rt->error, sizeof rt->error, format, args);
    va_end(args);
    return status;
}

dopl_status dopl_rt_init(dopl_rt *rt) {
    memset(rt, 0, sizeof *rt);
    rt->pool = dopl_pool_new();
    if (!rt->pool) return dopl_fail(rt, DOPL_ENOMEM, "runtime: no memory for the allocator");
    rt->grad_enabled = true;
    rt->chunk_bytes = (size_t)128 << 20;
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
    dopl_pool_free(rt->pool);
    rt->pool = NULL;
}

static void poison(void *data, size_t bytes) {
    memset(data, 0xff, bytes); // an all-ones float is a NaN, an all-ones int -1
}

// NULL: the limit or the system leaves no room.
static void *take(dopl_rt *rt, size_t bytes) {
    if (rt->bytes_limit && rt->bytes_live + bytes > rt->bytes_limit) return NULL;
    void *data = dopl_pool_take(rt->pool, bytes);
    if (data) return data;
    dopl_rt_trim(rt);
    return dopl_pool_take(rt->pool, bytes);
}

dopl_status dopl_rt_alloc(dopl_rt *rt, void **out, size_t bytes) {
    *out = NULL;
    if (rt->fail_at > 0 && --rt->fail_at == 0)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked (simulated)", bytes);
    if (bytes > (size_t)1 << 46)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked", bytes);
    void *data = take(rt, bytes);
    if (!data && rt->collect) {
        rt->collect(rt);
        data = take(rt, bytes);
    }
    if (!data && rt->bytes_limit)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked, %zu of %zu in use",
                         bytes, rt->bytes_live, rt->bytes_limit);
    if (!data)
        return dopl_fail(rt, DOPL_ENOMEM, "out of memory: %zu bytes asked, %zu in use", bytes,
                         rt->bytes_live);
    rt->bytes_live += bytes;
    rt->bytes_allocated += bytes;
    if (rt->bytes_live > rt->bytes_peak) rt->bytes_peak = rt->bytes_live;
    rt->n_blocks++;
    *out = data;
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
        size_t old = dopl_pool_bytes(*data);
        if (dopl_pool_resize(*data, bytes)) {
            rt->bytes_live += bytes - old;
            if (rt->bytes_live > rt->bytes_peak) rt->bytes_peak = rt->bytes_live;
            return DOPL_OK;
        }
        DOPL_TRY(dopl_rt_alloc(rt, &fresh, bytes));
        memcpy(fresh, *data, bytes < old ? bytes : old);
        dopl_rt_free(rt, *data);
    } else {
        DOPL_TRY(dopl_rt_alloc(rt, &fresh, bytes));
    }
    *data = fresh;
    return DOPL_OK;
}

void dopl_rt_free(dopl_rt *rt, void *data) {
    if (!data) return;
    size_t bytes = dopl_pool_bytes(data);
    if (rt->poison) poison(data, bytes);
    rt->bytes_live -= bytes;
    rt->n_blocks--;
    dopl_pool_give(rt->pool, data);
}

void dopl_rt_trim(dopl_rt *rt) {
    dopl_pool_trim(rt->pool);
}

size_t dopl_rt_cached(const dopl_rt *rt) {
    return dopl_pool_cached(rt->pool);
}

// A line of /proc/self/status, "VmRSS:   1234 kB".
static void read_kib(const char *line, const char *name, size_t *bytes) {
    size_t n = strlen(name);
    if (strncmp(line, name, n) == 0) *bytes = (size_t)strtoull(line + n, NULL, 10) << 10;
}

void dopl_rt_resident(size_t *now, size_t *peak) {
    char line[256];
    *now = *peak = 0;
    FILE *status = fopen("/proc/self/status", "re");
    if (!status) return;
    while (fgets(line, sizeof line, status)) {
        read_kib(line, "VmRSS:", now);
        read_kib(line, "VmHWM:", peak);
    }
    fclose(status);
    if (*peak < *now) *peak = *now;
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

// limits.c - whether memory and threads could be had, for libraries that do not survive their
// absence.
//
// oneDNN dereferences what it failed to allocate while it compiles a kernel, and throws through C;
// libgomp ends the process where a thread cannot start. So both are asked for before.
#include "rt.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

static bool memory_limited(void) {
    static const int kind[] = { RLIMIT_AS, RLIMIT_DATA };
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++) {
        struct rlimit limit;
        if (!getrlimit(kind[i], &limit) && limit.rlim_cur != RLIM_INFINITY) return true;
    }
    FILE *file = fopen("/proc/sys/vm/overcommit_memory", "r");
    if (!file) return false;
    int mode = fgetc(file);
    fclose(file);
    return mode == '2';
}

void dopl_rt_find_limits(dopl_rt *rt) {
    rt->memory_limited = memory_limited();
    // The C library reserves 64 MiB of addresses for each thread that allocates, whenever it first
    // does: where they count, threads share.
    if (rt->memory_limited) mallopt(M_ARENA_MAX, 1);
}

static bool mappable(size_t bytes) {
    void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return false;
    munmap(room, bytes);
    return true;
}

bool dopl_rt_has_room(dopl_rt *rt, size_t bytes) {
    if (!rt->memory_limited || mappable(bytes)) return true;
    dopl_rt_trim(rt);
    if (mappable(bytes)) return true;
    if (rt->collect) rt->collect(rt);
    dopl_rt_trim(rt);
    return mappable(bytes);
}

static void *wait_for_gate(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

int dopl_rt_startable_threads(int n) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *thread = n > 0 ? malloc((size_t)n * sizeof *thread) : NULL;
    int started = 0;
    pthread_mutex_lock(&gate); // all of them exist at the same time
    while (thread && started < n && !pthread_create(&thread[started], NULL, wait_for_gate, &gate))
        started++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < started; i++) pthread_join(thread[i], NULL);
    free(thread);
    return started;
}

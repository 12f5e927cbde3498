// rt.h - the runtime context: error text, memory, threads, the stop flag.
//
// One dopl_rt per Lua state. Everything that could be a global lives here. A function that can fail
// takes `dopl_rt *rt` first and returns a dopl_status; the text of the last failure is rt->error.
// Only the calling thread records errors; OpenMP workers return codes.
#ifndef DOPL_CORE_RT_H
#define DOPL_CORE_RT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    DOPL_OK,
    DOPL_EARG,    // a value outside what the function takes
    DOPL_ESHAPE,  // shapes that do not fit
    DOPL_EDTYPE,  // an element type the function does not take
    DOPL_ENOMEM,  // out of memory; the caller may free and try again
    DOPL_EIO,     // the operating system refused: path and reason are in the text
    DOPL_EFORMAT, // bytes that are not what they claim to be: file and place are in the text
    DOPL_ESTATE,  // the right call at the wrong time
    DOPL_EDEVICE, // the device refused
    DOPL_ESTOP,   // the user asked to stop
} dopl_status;

#define DOPL_CHECKED __attribute__((warn_unused_result))

// Runs the statement's status up to the caller.
#define DOPL_TRY(call)                                                                             \
    do {                                                                                           \
        dopl_status status_ = (call);                                                              \
        if (status_ != DOPL_OK) return status_;                                                    \
    } while (0)

// Where a tensor lives (device.h).
typedef enum { DOPL_CPU, DOPL_GPU, DOPL_N_DEVICE } dopl_device;

// What memory is for: the one list. A report of memory has a line for each.
#define DOPL_MEMORY_KINDS(X)                                                                       \
    X(OTHER, other)            /* made by a recipe: batches, caches, copies */                     \
    X(PARAMETER, parameters)   /* leaves of the gradient graph */                                  \
    X(GRADIENT, gradients)     /* of parameters */                                                 \
    X(STATE, states)           /* of optimizers */                                                 \
    X(ACTIVATION, activations) /* results of operators, what backward keeps, their gradients */    \
    X(SCRATCH, scratch)        /* gone before the operator returns */

typedef enum {
#define X(id, name) DOPL_MEMORY_##id,
    DOPL_MEMORY_KINDS(X)
#undef X
        DOPL_N_MEMORY
} dopl_memory_kind;

// Bytes of tensors on one device.
typedef struct {
    size_t live, peak;
    size_t by_kind[DOPL_N_MEMORY]; // now
    size_t at_peak[DOPL_N_MEMORY]; // when `live` was `peak`
} dopl_memory;

struct dopl_backend;
typedef struct dopl_tape dopl_tape;
typedef struct dopl_pool dopl_pool;
typedef struct dopl_roots dopl_roots;

typedef struct dopl_rt {
    char error[1024]; // text of the last failure, without a trailing newline
    dopl_pool *pool;
    size_t bytes_live;      // handed out and not freed
    size_t bytes_peak;      // largest bytes_live since dopl_rt_reset_peak
    size_t bytes_allocated; // total ever handed out: the bindings pace the collector with it
    size_t bytes_limit;     // 0: none
    bool memory_limited;    // allocations can fail: the process has a limit (limits.c)
    int64_t n_blocks;       // blocks handed out and not freed; the specs' leak count
    int64_t fail_at;        // the allocation, counted from now, that fails; 0: none (for specs)
    bool poison;            // fill fresh and freed memory with NaN
    size_t chunk_bytes;     // most that an operator which works in chunks makes at a time
    int n_threads;
    dopl_device device;                 // where new tensors of numbers go
    int ordinal;                        // which of its kind, counted from 0
    const struct dopl_backend *backend; // of the device that is not the CPU; NULL until it is used
    void *backend_data;                 // the back end's own
    int64_t n_waits;                    // times the host has waited for the device
    int64_t n_launched, n_replayed;     // pieces of work sent to it; those of them by a graph
    int n_graphs;                       // held
    bool ranges;                        // somebody wants to know of them (core/profile.h)
    struct dopl_profile *profile;       // the one that is open, or NULL
    dopl_memory memory[DOPL_N_DEVICE];  // of tensors
    dopl_memory_kind kind;              // what memory of new tensors is for
    bool grad_enabled;                  // operators record on the tape
    dopl_tape *tape;                    // the one being recorded on
    dopl_roots *roots;                  // where files may be written (io/roots.h); NULL: anywhere
    volatile sig_atomic_t stop;
    // Where memory runs out it is called, and what was asked is asked for once more: frees what
    // only garbage holds. NULL: there is no garbage.
    void (*collect)(struct dopl_rt *rt);
} dopl_rt;

DOPL_CHECKED dopl_status dopl_rt_init(dopl_rt *rt);
void dopl_rt_release(dopl_rt *rt); // idempotent

// Records "what: given, needed" and returns `status`, so that failing is one statement.
dopl_status dopl_fail(dopl_rt *rt, dopl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

// 64-byte aligned, contents undefined (NaN where rt->poison). bytes = 0 gives a valid pointer.
DOPL_CHECKED dopl_status dopl_rt_alloc(dopl_rt *rt, void **out, size_t bytes);
DOPL_CHECKED dopl_status dopl_rt_alloc_zero(dopl_rt *rt, void **out, size_t bytes);
// Grows or shrinks, keeping the first min(old, new) bytes. *block may be NULL.
DOPL_CHECKED dopl_status dopl_rt_realloc(dopl_rt *rt, void **block, size_t bytes);
void dopl_rt_free(dopl_rt *rt, void *block); // NULL-safe
void dopl_rt_trim(dopl_rt *rt);              // gives cached memory back to the system
size_t dopl_rt_cached(const dopl_rt *rt);    // freed bytes that are kept for reuse
// Bytes of this process that are in memory, now and at most, all libraries' with them; 0 where the
// system does not tell.
void dopl_rt_resident(size_t *now, size_t *peak);
void dopl_rt_reset_peak(dopl_rt *rt); // of memory on every device

// n < 1: all cores this process may use; fewer where the system starts fewer.
void dopl_rt_set_threads(dopl_rt *rt, int n_threads);

// For libraries that must not run out of memory (limits.c). Sets rt->memory_limited.
void dopl_rt_find_limits(dopl_rt *rt);
// Whether `bytes` could be had now, after freeing what is cached or garbage. True without a limit.
DOPL_CHECKED bool dopl_rt_has_room(dopl_rt *rt, size_t bytes);
int dopl_rt_startable_threads(int n); // how many of n threads can be started at the same time

#endif

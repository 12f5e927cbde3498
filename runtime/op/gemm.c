// gemm.c - matrix products by oneDNN. It is JIT-compiled per CPU and shares our OpenMP pool.
//
// oneDNN has two ways to multiply. Its sgemm packs both operands first, which costs little unless
// the right one is transposed, as weights are in the forward pass. The matmul primitive is a
// twentieth to a third faster there, the most where rows are long (the second layer of feed-forward
// networks).
#include "gemm.h"
#include "gemm_skinny.h"
#include "onednn.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <threads.h>

// Bytes that a product may take beside its operands: kernels when they are first compiled, packed
// operands on each thread. Seen were 6 MiB and 2 MiB a thread.
enum { ROOM = 16 << 20, ROOM_OF_THREAD = 4 << 20 };

// A primitive is compiled once for each shape, in 0.2 ms; its kernels then stay in oneDNN's cache.
// A step has a handful of shapes, and the next batch has others.
enum { CACHED_PRIMITIVES = 64 };

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static dnnl_status_t started;

static void start(void) {
    started = dnnl_engine_create(&engine, dnnl_cpu, 0);
    if (!started) started = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    if (!started) started = dnnl_set_primitive_cache_capacity(CACHED_PRIMITIVES);
}

// What one product holds; every part may be missing.
typedef struct {
    onednn_layout layout[3]; // of A, B and C
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t after;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t arg[3];
} matmul;

static dnnl_status_t describe(onednn_layout *layout, bool transposed, int64_t rows, int64_t cols,
                              int64_t ld) {
    return onednn_describe(layout, rows, cols, transposed ? 1 : ld, transposed ? ld : 1);
}

static size_t usual_room(const dopl_rt *rt) {
    return ROOM + (size_t)rt->n_threads * ROOM_OF_THREAD;
}

int op_gemm_room(dopl_rt *rt) {
    return dopl_rt_has_room(rt, usual_room(rt)) ? dnnl_success : dnnl_out_of_memory;
}

// The scratch space of a primitive, which oneDNN does not miss until it writes there.
static dnnl_status_t scratch_room(dopl_rt *rt, const matmul *p) {
    int64_t bytes = 0;
    dnnl_status_t s =
        dnnl_primitive_desc_query(p->description, dnnl_query_memory_consumption_s64, 0, &bytes);
    if (s || bytes <= 0) return s;
    return dopl_rt_has_room(rt, ROOM + (size_t)bytes) ? dnnl_success : dnnl_out_of_memory;
}

static dnnl_status_t make_primitive(dopl_rt *rt, matmul *p, float beta) {
    dnnl_status_t s = dnnl_primitive_attr_create(&p->attr);
    if (!s && beta != 0.0f) {
        s = dnnl_post_ops_create(&p->after);
        if (!s) s = onednn_append_sum(p->after, beta);
        if (!s) s = dnnl_primitive_attr_set_post_ops(p->attr, p->after);
    }
    if (!s) s = onednn_matmul(&p->description, engine, p->layout, p->attr);
    if (!s) s = scratch_room(rt, p);
    if (!s) s = dnnl_primitive_create(&p->primitive, p->description);
    return s;
}

static dnnl_status_t run(matmul *p, void *const data[3]) {
    static const int role[3] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST };
    dnnl_status_t s = dnnl_success;
    for (int i = 0; !s && i < 3; i++) {
        p->arg[i].arg = role[i];
        s = onednn_memory(&p->arg[i].memory, &p->layout[i], engine, data[i]);
    }
    if (!s) s = dnnl_primitive_execute(p->primitive, stream, 3, p->arg);
    return s ? s : dnnl_stream_wait(stream);
}

static void release(matmul *p) {
    for (int i = 0; i < 3; i++) {
        if (p->arg[i].memory) dnnl_memory_destroy(p->arg[i].memory);
        onednn_layout_release(&p->layout[i]);
    }
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    if (p->description) dnnl_primitive_desc_destroy(p->description);
    if (p->after) dnnl_post_ops_destroy(p->after);
    if (p->attr) dnnl_primitive_attr_destroy(p->attr);
}

// Rows from which the primitive is the fastest: with AVX-512 it has kernels for few rows, with less
// it is sgemm, which is slow for them.
static int64_t rows_for_a_primitive(void) {
    bool wide =
        (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
    return wide ? 4 : 16;
}

// Whether the primitive is worth its 10 microseconds; inside a parallel region it is not used.
static bool worth_a_primitive(bool trans_b, int64_t m, int64_t n, int64_t k) {
    return trans_b && m >= rows_for_a_primitive() && n >= 16 && k >= 16 && m * n * k >= 1 << 20 &&
           !omp_in_parallel();
}

// Whether our own loop is the fastest; for one row sgemm has one that is.
static bool are_few_rows(bool trans_a, bool trans_b, int64_t m) {
    return !trans_a && trans_b && m > 1 && m < 16;
}

int op_gemm(dopl_rt *rt, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
            int64_t ldc) {
    if (m == 0 || n == 0) return 0;
    if (k == 0) { // an empty sum, which sgemm would leave unwritten
        for (int64_t i = 0; beta == 0.0f && i < m; i++)
            memset(c + i * ldc, 0, (size_t)n * sizeof *c);
        return 0;
    }
    bool primitive = alpha == 1.0f && worth_a_primitive(trans_b, m, n, k);
    if (!primitive && alpha == 1.0f && are_few_rows(trans_a, trans_b, m)) {
        op_gemm_skinny(m, n, k, a, lda, b, ldb, beta, c, ldc);
        return 0;
    }
    dnnl_status_t s = rt ? (dnnl_status_t)op_gemm_room(rt) : dnnl_success;
    if (s) return (int)s;
    if (!primitive)
        return (int)dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b,
                               ldb, beta, c, ldc);
    static once_flag once = ONCE_FLAG_INIT;
    call_once(&once, start);
    matmul p = { 0 };
    s = started;
    if (!s) s = describe(&p.layout[0], trans_a, m, k, lda);
    if (!s) s = describe(&p.layout[1], trans_b, k, n, ldb);
    if (!s) s = describe(&p.layout[2], false, m, n, ldc);
    if (!s) s = make_primitive(rt, &p, beta);
    if (!s) s = run(&p, (void *[]){ (void *)a, (void *)b, c });
    release(&p);
    return (int)s;
}

static const char *words(int code) {
    switch (code) {
    case dnnl_invalid_arguments:
        return "invalid arguments";
    case dnnl_unimplemented:
        return "not implemented for these shapes on this CPU";
    case dnnl_runtime_error:
        return "a kernel could not be made or run";
    default:
        return "an unknown error";
    }
}

dopl_status op_gemm_status(dopl_rt *rt, const char *name, int code) {
    if (!code) return DOPL_OK;
    if (code == dnnl_out_of_memory)
        return dopl_fail(
            rt, DOPL_ENOMEM,
            "%s: out of memory: oneDNN needs room for kernels and packed operands "
            "(%zu MiB or more), tensors hold %zu MiB; smaller batches or fewer threads "
            "need less",
            name, usual_room(rt) >> 20, rt->bytes_live >> 20);
    return dopl_fail(rt, DOPL_EDEVICE, "%s: oneDNN: %s (its status %d)", name, words(code), code);
}

void op_gemm_library(char version[32]) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(version, 32, "%d.%d.%d", v->major, v->minor, v->patch);
}

// cuda.h - what the files of the CUDA back end share: context, errors, memory, launches.
//
// Everything is queued on one stream in the order of the calls. Kernels' entry points (kernels/)
// are C++ behind C names: op_<name>_cuda and op_<name>_cuda_backward, one pair for each row of
// ops.def.
#ifndef DOPL_CUDA_CUDA_H
#define DOPL_CUDA_CUDA_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "../core/device.h"
#include "../op/op.h"

typedef struct dopl_cuda {
    int ordinal; // of the device
    int n_sm;
    int arch; // 90 for sm_90
    cudaStream_t stream;
    bool sync; // DOPL_SYNC=1: wait after every kernel, to name the one that fails
    struct dopl_cuda_queue *queue; // launches on their way; queue.c
    struct dopl_cuda_pool *pool;   // memory.c
    struct dopl_cuda_staging
        *staging;                    // pinned memory on the way to and from the device; transfer.c
    struct dopl_cuda_gemm *gemm;     // handle and the algorithms found so far; gemm_find.c
    struct dopl_cuda_jit *jit;       // compiled optimizer passes; jit.c
    struct dopl_cuda_events *events; // of a profile, while one is open; events.c
    char description[160];
} dopl_cuda;

static inline dopl_cuda *dopl_cuda_of(const dopl_rt *rt) {
    return (dopl_cuda *)rt->backend_data;
}
static inline cudaStream_t dopl_cuda_stream(const dopl_rt *rt) {
    return dopl_cuda_of(rt)->stream;
}

// Turns a CUDA error into a status: "what: CUDA's words". cudaSuccess is DOPL_OK.
DOPL_CHECKED dopl_status dopl_cuda_result(dopl_rt *rt, cudaError_t error, const char *what);

// Work goes to the stream in batches, by a CUDA graph where a batch repeats (queue.c). `issue` will
// be called with a copy of what the caller writes into the zeroed bytes returned, 16-byte aligned:
// everything it depends on must lie there. Then the caller asks dopl_cuda_launched.
typedef dopl_status dopl_cuda_issue_fn(dopl_rt *rt, const void *data);
void *dopl_cuda_queue_work(dopl_rt *rt, dopl_cuda_issue_fn *issue, size_t bytes);
// Whether all is well so far; with DOPL_SYNC=1, whether the work ran.
DOPL_CHECKED dopl_status dopl_cuda_launched(dopl_rt *rt, const char *what);
// Sends off what waits: before work that goes straight to the stream, and before memory leaves.
DOPL_CHECKED dopl_status dopl_cuda_flush(dopl_rt *rt);
DOPL_CHECKED dopl_status dopl_cuda_flush_to_wait(dopl_rt *rt); // the caller then waits
void dopl_cuda_send(dopl_rt *rt); // dopl_cuda_launched tells what came of it
// Bytes of device memory: set to `value`, moved to where they do not overlap.
DOPL_CHECKED dopl_status dopl_cuda_set(dopl_rt *rt, void *to, int value, size_t bytes);
DOPL_CHECKED dopl_status dopl_cuda_move(dopl_rt *rt, void *to, const void *from, size_t bytes);
void dopl_cuda_forget_graphs(dopl_rt *rt); // which hold kilobytes of the device for each launch
DOPL_CHECKED dopl_status dopl_cuda_queue_init(dopl_rt *rt, bool direct); // fills cuda->queue
void dopl_cuda_queue_release(dopl_rt *rt);                               // idempotent
void dopl_cuda_queue_one_by_one(dopl_rt *rt, bool on);                   // no batches, no graphs

// Around each piece of work where it goes to the stream: a profile's clock. name: NULL for the one
// that name_next gave. events.c.
void dopl_cuda_event_begin(dopl_rt *rt, const char *name);
void dopl_cuda_event_end(dopl_rt *rt);
void dopl_cuda_name_next(dopl_rt *rt, const char *name);
static inline bool dopl_cuda_timed(const dopl_rt *rt) {
    return dopl_cuda_of(rt)->events != NULL;
}
static inline void dopl_cuda_piece_begins(dopl_rt *rt, const char *name) {
    if (dopl_cuda_timed(rt)) dopl_cuda_event_begin(rt, name);
}
static inline void dopl_cuda_piece_ends(dopl_rt *rt) {
    if (dopl_cuda_timed(rt)) dopl_cuda_event_end(rt);
}
DOPL_CHECKED dopl_status dopl_cuda_watch(dopl_rt *rt); // these three: core/device.h
void dopl_cuda_unwatch(dopl_rt *rt);
DOPL_CHECKED dopl_status dopl_cuda_read_times(dopl_rt *rt);

// Functions of a shared library that is opened while the program runs. to: the address of a pointer
// to each. The library stays open.
typedef struct {
    const char *name;
    void *to;
} dopl_cuda_symbol;
DOPL_CHECKED dopl_status dopl_cuda_symbols(dopl_rt *rt, const char *library,
                                           const dopl_cuda_symbol *wanted, size_t n);

// Memory from the pool, counted as scratch; of pool_take, the core counts the bytes. free:
// NULL-safe; what is reused is used by later work on the same stream only.
DOPL_CHECKED dopl_status dopl_cuda_alloc(dopl_rt *rt, void **out, size_t bytes);
DOPL_CHECKED dopl_status dopl_cuda_pool_take(dopl_rt *rt, void **out, size_t bytes);
void dopl_cuda_free(dopl_rt *rt, void *data);
void dopl_cuda_pool_trim(dopl_rt *rt);
DOPL_CHECKED dopl_status dopl_cuda_pool_init(dopl_rt *rt); // fills cuda->pool
void dopl_cuda_pool_release(dopl_rt *rt);                  // idempotent

// Between the device and any host memory. to_device returns when `from` may change; to_host waits.
DOPL_CHECKED dopl_status dopl_cuda_to_device(dopl_rt *rt, void *to, const void *from, size_t bytes);
DOPL_CHECKED dopl_status dopl_cuda_to_host(dopl_rt *rt, void *to, const void *from, size_t bytes);
DOPL_CHECKED dopl_status dopl_cuda_copy(dopl_rt *rt, void *to, const void *from, size_t bytes);
DOPL_CHECKED dopl_status dopl_cuda_staging_init(dopl_rt *rt); // fills cuda->staging
void dopl_cuda_staging_release(dopl_rt *rt);                  // idempotent

// The device's copy of an index tensor (i32, in host memory), made on first use.
DOPL_CHECKED dopl_status dopl_cuda_index(dopl_rt *rt, const dopl_tensor *t, const int32_t **out);
// `bytes` that `make` writes, from an index tensor alone: made once, and kept on the device as long
// as the indices stay and no other table is asked for.
DOPL_CHECKED dopl_status dopl_cuda_table(dopl_rt *rt, const dopl_tensor *t, dopl_table_fn *make,
                                         size_t bytes, const void **out);

// A new tensor on the device, for temporaries of a backward.
DOPL_CHECKED dopl_status dopl_cuda_tensor(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype,
                                          int n_dim, const int64_t *dim);

// What a product does with GELU (tanh form), element by element, before it writes z:
// y = gelu(z), and y = z times GELU's slope at `pre`.
typedef enum { DOPL_CUDA_NO_GELU, DOPL_CUDA_GELU, DOPL_CUDA_GELU_SLOPE } dopl_cuda_gelu;

// y = alpha * op(a) op(b) + beta * y, row major, f32 accumulation: y [m, n], op(a) [m, k],
// op(b) [k, n]. Types: a and b alike, f32 or bf16; y f32 or bf16. ld: elements from row to row.
typedef struct {
    dopl_dtype type, y_type; // of a and b; of y
    bool a_transposed, b_transposed;
    int64_t m, n, k, lda, ldb, ldy;
    const void *a, *b;
    void *y;
    float alpha, beta;
    const void *bias; // [n], type of y; NULL: none. Added to every row
    void *bias_grad;  // [m], type of y; NULL: none. Gets the row sums of op(a); beside nothing else
    dopl_cuda_gelu gelu; // of the product with its bias; beta is 0 then
    void *pre; // [m, n], type and ld of y. With GELU it gets z, NULL: not wanted; with the slope it
               // is read
} dopl_cuda_product;
// Every product gets a result: where the library has none, from our own kernel.
DOPL_CHECKED dopl_status dopl_cuda_gemm(dopl_rt *rt, const dopl_cuda_product *p);
// Whether the library can do it as one: neither row sums nor GELU come with every product, and two
// steps are faster there than our own kernel.
DOPL_CHECKED dopl_status dopl_cuda_gemm_fits(dopl_rt *rt, const dopl_cuda_product *p, bool *fits);
bool dopl_cuda_gemm_tell(dopl_rt *rt, int64_t i, char *text, size_t bytes); // core/device.h
DOPL_CHECKED dopl_status dopl_cuda_gemm_init(dopl_rt *rt);                  // fills cuda->gemm
void dopl_cuda_gemm_release(dopl_rt *rt);                                   // idempotent
// The product by our own kernel (kernels/core/product.cu), launched at once: for gemm.c alone.
DOPL_CHECKED dopl_status dopl_cuda_plain_product(dopl_rt *rt, const dopl_cuda_product *p);

// The core's elementwise jobs (core/device.h), in kernels/core.
DOPL_CHECKED dopl_status dopl_cuda_fill(dopl_rt *rt, dopl_tensor *t, double value);
DOPL_CHECKED dopl_status dopl_cuda_cast(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x);
DOPL_CHECKED dopl_status dopl_cuda_accumulate(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x);
DOPL_CHECKED dopl_status dopl_cuda_dot(dopl_rt *rt, double *out, const dopl_tensor *a,
                                       const dopl_tensor *b);
DOPL_CHECKED dopl_status dopl_cuda_transpose(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x);

// Optimizer passes (optim/pass.h), compiled while the program runs; jit.c.
DOPL_CHECKED dopl_status dopl_cuda_plan_run(dopl_rt *rt, struct dopl_plan *plan,
                                            const double *const *scalars, int *n_run);
DOPL_CHECKED dopl_status dopl_cuda_plan_norm(dopl_rt *rt, struct dopl_plan *plan, double *norm,
                                             int *n_found);
DOPL_CHECKED dopl_status dopl_cuda_plan_clip(dopl_rt *rt, struct dopl_plan *plan, double max_norm);
DOPL_CHECKED dopl_status dopl_cuda_plan_clip_norm(dopl_rt *rt, struct dopl_plan *plan,
                                                  double *norm);
void dopl_cuda_plan_release(dopl_rt *rt, struct dopl_plan *plan);
DOPL_CHECKED dopl_status dopl_cuda_jit_init(dopl_rt *rt); // fills cuda->jit
void dopl_cuda_jit_release(dopl_rt *rt);                  // idempotent
// The kernel of a source text, compiled now, or found in memory or in the folder of kernels that
// earlier runs compiled. *blocks: of `threads` that one multiprocessor holds at a time.
DOPL_CHECKED dopl_status dopl_cuda_jit_get(dopl_rt *rt, const char *source, int threads,
                                           void **function, int *blocks);
DOPL_CHECKED dopl_status dopl_cuda_jit_launch(dopl_rt *rt, void *function, int grid, int block,
                                              void **arguments, const char *what);

// Norm of gradients, in kernels/optim/norm.cu. parts: [n_part] of { address, elements }, at most
// DOPL_CUDA_NORM_PART each, in device memory; partial: [n_part]; out: { norm, factor }, the factor
// being min(1, max_norm / (norm + 1e-6)) or NaN. All sums in double, in a fixed order.
enum { DOPL_CUDA_NORM_PART = 1 << 15 };
typedef struct {
    const float *x;
    int64_t n;
} dopl_cuda_norm_part;
typedef struct {
    double norm;
    float factor, unused;
} dopl_cuda_norm;
DOPL_CHECKED dopl_status dopl_cuda_norm_of(dopl_rt *rt, dopl_cuda_norm *out,
                                           const dopl_cuda_norm_part *parts, int64_t n_part,
                                           double *partial, double max_norm);

const struct dopl_dist_engine *dopl_cuda_collectives(void); // nccl.c; NULL: built without NCCL

// The operators by dopl_op_id, and what names ranges in a profiler's timeline. ranges.c.
typedef dopl_status dopl_cuda_forward_fn(dopl_rt *rt, dopl_op_call *c);
typedef dopl_status dopl_cuda_supports_fn(dopl_rt *rt, const dopl_op_call *c);
typedef struct {
    dopl_cuda_forward_fn *forward[DOPL_OP_COUNT];
    dopl_backward_fn *backward[DOPL_OP_COUNT];      // NULL: no gradient
    dopl_cuda_supports_fn *supports[DOPL_OP_COUNT]; // NULL: all that the shape rule takes
} dopl_cuda_operators;
extern const dopl_cuda_operators dopl_cuda_all_operators;
typedef void dopl_cuda_mark_fn(const char *name, dopl_part part);
dopl_cuda_mark_fn *dopl_cuda_mark(void); // NULL: built without NVTX

#define BACKWARD(id) dopl_status op_##id##_cuda_backward(dopl_rt *rt, dopl_node *n);
#define NO_BACKWARD(id)
#define OP(id, inputs, attributes, kept, grad, text)                                               \
    dopl_status op_##id##_cuda(dopl_rt *rt, dopl_op_call *c);                                      \
    grad(id)
#include "../op/ops.def"
#undef BACKWARD
#undef NO_BACKWARD
// Those that have no kernel for some attributes.
dopl_cuda_supports_fn op_attention_cuda_supports, op_kv_attention_cuda_supports;

#ifdef __cplusplus
}
#endif
#endif

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
    struct dopl_cuda_pool *pool;
    struct dopl_cuda_gemm *gemm; // handle and the algorithms found so far; gemm.c
    struct dopl_cuda_jit *jit;   // compiled optimizer passes; jit.c
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
// After a launch: whether it was accepted; with DOPL_SYNC=1, whether it ran.
DOPL_CHECKED dopl_status dopl_cuda_launched(dopl_rt *rt, const char *what);

// Memory from the pool, counted as scratch. free: NULL-safe; what is reused is used by later work
// on the same stream only.
DOPL_CHECKED dopl_status dopl_cuda_alloc(dopl_rt *rt, void **out, size_t bytes);
void dopl_cuda_free(dopl_rt *rt, void *data);

// The device's copy of an index tensor (i32, in host memory), made on first use.
DOPL_CHECKED dopl_status dopl_cuda_index(dopl_rt *rt, const dopl_tensor *t, const int32_t **out);

// A new tensor on the device, for temporaries of a backward.
DOPL_CHECKED dopl_status dopl_cuda_tensor(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype,
                                          int n_dim, const int64_t *dim);

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
    void *bias_grad;  // [m], type of y; NULL: none. Gets the row sums of op(a); not beside a bias
} dopl_cuda_product;
DOPL_CHECKED dopl_status dopl_cuda_gemm(dopl_rt *rt, const dopl_cuda_product *p);
// Whether the library can do it as one: not every shape and type has its row sums beside it.
DOPL_CHECKED dopl_status dopl_cuda_gemm_fits(dopl_rt *rt, const dopl_cuda_product *p, bool *fits);
DOPL_CHECKED dopl_status dopl_cuda_gemm_init(dopl_rt *rt); // fills cuda->gemm
void dopl_cuda_gemm_release(dopl_rt *rt);                  // idempotent

#define BACKWARD(id) dopl_status op_##id##_cuda_backward(dopl_rt *rt, dopl_node *n);
#define NO_BACKWARD(id)
#define OP(id, inputs, attributes, kept, grad, text)                                               \
    dopl_status op_##id##_cuda(dopl_rt *rt, dopl_op_call *c);                                      \
    grad(id)
#include "../op/ops.def"
#undef BACKWARD
#undef NO_BACKWARD

#ifdef __cplusplus
}
#endif
#endif

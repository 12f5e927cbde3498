// gemm.h - what gemm.c and gemm_find.c share: a product in cuBLAS's words, and its algorithm.
#ifndef DOPL_CUDA_GEMM_H
#define DOPL_CUDA_GEMM_H

#include "cuda.h"

#include <cublasLt.h>

enum {
    DOPL_GEMM_WORKSPACE = 32 << 20, // bytes an algorithm may ask for: what NVIDIA advises for sm_90
    DOPL_GEMM_CANDIDATES = 8,       // that the heuristic is asked for
    DOPL_GEMM_KINDS = 1024,         // remembered; a power of two
};

// What decides on an algorithm. Compared as bytes.
typedef struct {
    int64_t m, n, k; // of the rounded product, or where `exact` is 1 of this very one
    uint8_t type, y_type, a_transposed, b_transposed, bias, bias_grad;
    uint8_t gelu, pre, exact;
    // log2 of bytes that rows start at a multiple of
    uint8_t align_a, align_b, align_y, align_bias, align_pre;
    uint8_t unused[2];
} dopl_gemm_kind;

typedef struct {
    bool used;
    bool none;    // cuBLAS has no algorithm
    bool refused; // it named some, and refused each when it was to run
    dopl_gemm_kind kind;
    int64_t shape[6]; // m, n, k, lda, ldb, ldy that the algorithm is known to take
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    float ms; // of the product that it was timed with; 0: it was not
} dopl_gemm_choice;

struct dopl_cuda_gemm {
    cublasLtHandle_t handle;
    bool timing, tf32;
    bool has_exact; // whether there is a choice for one shape alone
    dopl_gemm_choice table[DOPL_GEMM_KINDS];
};

// A product as cuBLAS sees it.
typedef struct {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, y; // of p->b, p->a, p->y
} dopl_gemm_request;

typedef struct {
    char s[160];
} dopl_gemm_text;

// gemm.c
DOPL_CHECKED dopl_status dopl_gemm_request_init(dopl_rt *rt, dopl_gemm_request *r,
                                                const dopl_cuda_product *p);
cublasStatus_t dopl_gemm_multiply(const dopl_cuda *cuda, const dopl_gemm_request *r,
                                  const dopl_cuda_product *p, void *y,
                                  const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes);
DOPL_CHECKED dopl_status dopl_gemm_result(dopl_rt *rt, cublasStatus_t status,
                                          const dopl_cuda_product *p);

// gemm_find.c
dopl_gemm_text dopl_gemm_describe_kind(const dopl_gemm_kind *k);
dopl_gemm_text dopl_gemm_describe(const dopl_cuda_product *p);
// *out lies in the table: until the next product is looked for, or one is refused.
DOPL_CHECKED dopl_status dopl_gemm_find(dopl_rt *rt, const dopl_gemm_request *r,
                                        const dopl_cuda_product *p, const dopl_gemm_choice **out);
// What the heuristic names for this very product, best guess first. *n: at most
// DOPL_GEMM_CANDIDATES, which `found` has places for; 0 where cuBLAS has nothing that will do.
DOPL_CHECKED dopl_status dopl_gemm_candidates(dopl_rt *rt, const dopl_gemm_request *r,
                                              const dopl_cuda_product *p,
                                              cublasLtMatmulHeuristicResult_t *found, int *n);
// From now on the product is made by `instead`; NULL: by our own kernel.
void dopl_gemm_was_refused(dopl_rt *rt, const dopl_cuda_product *p,
                           const cublasLtMatmulHeuristicResult_t *instead);

#endif

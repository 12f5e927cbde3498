// product.cuh - matrices of tensors and of scratch memory, as operands of dopl_cuda_gemm.
#ifndef DOPL_KERNELS_PRODUCT_CUH
#define DOPL_KERNELS_PRODUCT_CUH

#include "common.cuh"

struct matrix {
    void *data;
    dopl_dtype dtype;
    int64_t rows, cols, ld; // as stored; ld: elements from row to row
    bool transposed;        // stands for its transpose
};

static inline matrix matrix_at(void *data, dopl_dtype dtype, int64_t rows, int64_t cols,
                               int64_t ld) {
    matrix m = { data, dtype, rows, cols, ld, false };
    return m;
}

static inline matrix matrix_of(const dopl_tensor *t) { // [rows, cols]
    return matrix_at(dopl_data(t), t->dtype, t->dim[0], t->dim[1], t->dim[1]);
}

static inline matrix transposed(matrix m) {
    m.transposed = !m.transposed;
    return m;
}

// y = a b + beta y
static inline dopl_cuda_product product_of(const matrix &y, const matrix &a, const matrix &b,
                                           float beta) {
    dopl_cuda_product p = {};
    p.type = a.dtype;
    p.y_type = y.dtype;
    p.a_transposed = a.transposed;
    p.b_transposed = b.transposed;
    p.m = y.rows;
    p.n = y.cols;
    p.k = a.transposed ? a.rows : a.cols;
    p.lda = a.ld;
    p.ldb = b.ld;
    p.ldy = y.ld;
    p.a = a.data;
    p.b = b.data;
    p.y = y.data;
    p.alpha = 1.0f;
    p.beta = beta;
    return p;
}

DOPL_CHECKED static inline dopl_status multiply(dopl_rt *rt, const matrix &y, const matrix &a,
                                                const matrix &b, float beta) {
    dopl_cuda_product p = product_of(y, a, b, beta);
    return dopl_cuda_gemm(rt, &p);
}

#endif

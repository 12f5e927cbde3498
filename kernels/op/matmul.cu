// matmul.cu - dense layers and plain matrix products, on cuBLASLt.
#include "../product.cuh"
#include "../sums.cuh"

// ---- linear

extern "C" dopl_status op_linear_cuda(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *bias = c->in[2];
    dopl_cuda_product p =
        product_of(matrix_of(c->out), matrix_of(c->in[0]), transposed(matrix_of(c->in[1])), 0.0f);
    if (bias) p.bias = dopl_data(bias);
    return dopl_cuda_gemm(rt, &p);
}

template <class T> struct rows_of {
    const T *x; // [R, K]
    int64_t K;
    template <int N> __device__ __forceinline__ void at(float (&v)[N], int64_t k, int64_t r) const {
        load_elements<N>(v, x + r * K + k);
    }
};

// db = beta db + column sums of dy: reads dy once more, and is bound by that.
static dopl_status linear_bias_grad(dopl_rt *rt, const dopl_tensor *db, const dopl_tensor *dy,
                                    float beta) {
    int64_t T = dy->dim[0], O = dy->dim[1];
    DISPATCH_GRADIENT(dy->dtype, db->dtype, E, G, {
        rows_of<E> f = { data_of<E>(dy), O };
        return column_sums<E>(rt, "linear: gradient of the bias", data_of<G>(db), f, O, T,
                              packs(f.x, O), 1.0f, beta);
    });
    return DOPL_OK;
}

// dW = dy^T x and db, the column sums of dy, in one product where cuBLAS can.
static dopl_status linear_parameter_grads(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *dw, *db = NULL;
    float beta, bias_beta = 0.0f;
    if (dopl_grad_wants(n, 2)) DOPL_TRY(dopl_grad_into(rt, n, 2, &db, &bias_beta));
    if (dopl_grad_wants(n, 1)) {
        DOPL_TRY(dopl_grad_into(rt, n, 1, &dw, &beta));
        dopl_cuda_product p =
            product_of(matrix_of(dw), transposed(matrix_of(&n->dout)), matrix_of(&n->in[0]), beta);
        if (db && bias_beta == 0.0f && db->dtype == dw->dtype) {
            bool fits;
            p.bias_grad = dopl_data(db);
            DOPL_TRY(dopl_cuda_gemm_fits(rt, &p, &fits));
            if (fits)
                db = NULL;
            else
                p.bias_grad = NULL;
        }
        DOPL_TRY(dopl_cuda_gemm(rt, &p));
    }
    return db ? linear_bias_grad(rt, db, &n->dout, bias_beta) : DOPL_OK;
}

extern "C" dopl_status op_linear_cuda_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *dx;
    float beta;
    if (dopl_grad_wants(n, 0)) { // dx = dy W
        DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
        DOPL_TRY(multiply(rt, matrix_of(dx), matrix_of(&n->dout), matrix_of(&n->in[1]), beta));
    }
    return linear_parameter_grads(rt, n);
}

// ---- matmul

extern "C" dopl_status op_matmul_cuda(dopl_rt *rt, dopl_op_call *c) {
    return multiply(rt, matrix_of(c->out), matrix_of(c->in[0]), matrix_of(c->in[1]), 0.0f);
}

extern "C" dopl_status op_matmul_cuda_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *d;
    float beta;
    if (dopl_grad_wants(n, 0)) { // da = dy b^T
        DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
        DOPL_TRY(multiply(rt, matrix_of(d), matrix_of(&n->dout), transposed(matrix_of(&n->in[1])),
                          beta));
    }
    if (dopl_grad_wants(n, 1)) { // db = a^T dy
        DOPL_TRY(dopl_grad_into(rt, n, 1, &d, &beta));
        DOPL_TRY(multiply(rt, matrix_of(d), transposed(matrix_of(&n->in[0])), matrix_of(&n->dout),
                          beta));
    }
    return DOPL_OK;
}

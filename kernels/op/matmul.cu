// matmul.cu - dense layers, two of them with GELU between, and plain matrix products, on cuBLASLt.
#include "../gelu.cuh"
#include "../product.cuh"
#include "../sums.cuh"

// ---- linear

constexpr int FEW = 4, FEW_THREADS = 256; // rows: a step that generates for few sequences

// A warp has a column of the output, or two that share what they read of x, and with it whole rows
// of the weight. Bound by reading those once: a lane has 8 loads of 16 bytes under way, a warp 4
// KiB, so that 6 warps on a multiprocessor are enough. x comes from L1.
template <class T, int ROWS>
__global__ void __launch_bounds__(FEW_THREADS, 2)
    linear_few_kernel(T *__restrict__ out,          // [rows, O]
                      const T *__restrict__ x,      // [rows, C], rows <= ROWS
                      const T *__restrict__ weight, // [O, C]
                      const T *__restrict__ bias,   // [O]; nullptr: none
                      int rows, int64_t O, int64_t C) {
    constexpr int N = pack<T>::N, COLUMNS = ROWS == 1 ? 1 : 2, DEPTH = 8 / COLUMNS;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64_t column = ((int64_t)blockIdx.x * (FEW_THREADS / WARP) + warp) * COLUMNS;
    if (column >= O) return;
    int64_t second = column + 1 < O ? C : 0; // what is read for a column past the last is not used
    const T *w = weight + column * C;
    float sum[ROWS][COLUMNS] = {};
    for (int64_t c = lane * N; c < C; c += DEPTH * WARP * N) {
        pack<T> a[DEPTH][COLUMNS];
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
#pragma unroll
            for (int o = 0; o < COLUMNS; o++)
                if (c + d * WARP * N < C) a[d][o] = load_pack(w + o * second + c + d * WARP * N);
        }
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (c + d * WARP * N >= C) break;
            float u[COLUMNS][N], v[N];
#pragma unroll
            for (int o = 0; o < COLUMNS; o++) unpack<T>(u[o], a[d][o]);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (r >= rows) break;
                unpack<T>(v, load_pack(x + r * C + c + d * WARP * N));
#pragma unroll
                for (int o = 0; o < COLUMNS; o++) {
#pragma unroll
                    for (int i = 0; i < N; i++) sum[r][o] += u[o][i] * v[i];
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int o = 0; o < COLUMNS; o++) {
            float y = warp_sum(sum[r][o]);
            if (lane != 0 || r >= rows || column + o >= O) continue;
            out[r * O + column + o] = from_float<T>(bias ? y + to_float(bias[column + o]) : y);
        }
    }
}

template <class T, int ROWS> static dopl_status linear_few(dopl_rt *rt, const dopl_op_call *c) {
    const dopl_tensor *x = c->in[0], *bias = c->in[2];
    int64_t O = c->out->dim[1], columns = FEW_THREADS / WARP * (ROWS == 1 ? 1 : 2);
    DOPL_LAUNCH((linear_few_kernel<T, ROWS>), (unsigned)ceil_div(O, columns), FEW_THREADS, 0, rt,
                data_of<T>(c->out), data_of<T>(x), data_of<T>(c->in[1]),
                static_cast<const T *>(bias ? data_of<T>(bias) : nullptr), (int)x->dim[0], O,
                x->dim[1]);
    return dopl_cuda_launched(rt, "linear");
}

extern "C" dopl_status op_linear_cuda(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *x = c->in[0], *weight = c->in[1], *bias = c->in[2];
    if (x->dim[0] > 0 && x->dim[0] <= FEW && c->out->dim[1] > 0)
        DISPATCH(c->dtype, T, {
            if (packs(data_of<T>(x), x->dim[1]) && packs(data_of<T>(weight), x->dim[1]))
                return x->dim[0] == 1 ? linear_few<T, 1>(rt, c) : linear_few<T, FEW>(rt, c);
        });
    dopl_cuda_product p =
        product_of(matrix_of(c->out), matrix_of(x), transposed(matrix_of(weight)), 0.0f);
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
static dopl_status bias_grad(dopl_rt *rt, const char *what, const dopl_tensor *db,
                             const dopl_tensor *dy, float beta) {
    int64_t T = dy->dim[0], O = dy->dim[1];
    DISPATCH_GRADIENT(dy->dtype, db->dtype, E, G, {
        rows_of<E> f = { data_of<E>(dy), O };
        return column_sums<E>(rt, what, data_of<G>(db), f, O, T, packs(f.x, O), 1.0f, beta);
    });
    return DOPL_OK;
}

// Gradients of a layer's weight, input `weight` of the node, and of its bias, the input after that:
// dW = dy^T x and db, the column sums of dy, in one product where cuBLAS can.
static dopl_status parameter_grads(dopl_rt *rt, dopl_node *n, int weight, const dopl_tensor *x,
                                   const dopl_tensor *dy) {
    dopl_tensor *dw, *db = NULL;
    float beta, bias_beta = 0.0f;
    if (dopl_grad_wants(n, weight + 1))
        DOPL_TRY(dopl_grad_into(rt, n, weight + 1, &db, &bias_beta));
    if (dopl_grad_wants(n, weight)) {
        DOPL_TRY(dopl_grad_into(rt, n, weight, &dw, &beta));
        dopl_cuda_product p =
            product_of(matrix_of(dw), transposed(matrix_of(dy)), matrix_of(x), beta);
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
    return db ? bias_grad(rt, n->name, db, dy, bias_beta) : DOPL_OK;
}

// Gradients of a layer whose x, weight and bias are the node's first inputs.
static dopl_status layer_grads(dopl_rt *rt, dopl_node *n, const dopl_tensor *dy) {
    dopl_tensor *dx;
    float beta;
    if (dopl_grad_wants(n, 0)) { // dx = dy W
        DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
        DOPL_TRY(multiply(rt, matrix_of(dx), matrix_of(dy), matrix_of(&n->in[1]), beta));
    }
    return parameter_grads(rt, n, 1, &n->in[0], dy);
}

extern "C" dopl_status op_linear_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return layer_grads(rt, n, &n->dout);
}

// ---- mlp
//
// GELU is part of the product before it, and its slope of the product that makes its gradient,
// where cuBLAS can; elsewhere kernels follow those. What goes into GELU and what comes out are both
// kept: to make the second again would cost the pass over memory that the first saves.

template <class T> struct gelu_values {
    T *y;       // [n], may be x
    const T *x; // [n]
    template <int N> __device__ void at(int64_t i) const {
        float v[N];
        load_elements<N>(v, x + i);
        for (int k = 0; k < N; k++) v[k] = gelu_value(v[k]);
        store_elements<N>(y + i, v);
    }
};

template <class T> struct gelu_slopes {
    T *d;         // [n], times the slope at pre
    const T *pre; // [n]
    template <int N> __device__ void at(int64_t i) const {
        float v[N], p[N];
        load_elements<N>(v, d + i);
        load_elements<N>(p, pre + i);
        for (int k = 0; k < N; k++) v[k] *= gelu_slope(p[k]);
        store_elements<N>(d + i, v);
    }
};

// h = gelu(x w^T + b); pre, NULL: not wanted, gets what GELU is taken of.
static dopl_status gelu_layer(dopl_rt *rt, const dopl_tensor *h, const dopl_tensor *pre,
                              dopl_op_call *c) {
    dopl_cuda_product p =
        product_of(matrix_of(h), matrix_of(c->in[0]), transposed(matrix_of(c->in[1])), 0.0f);
    p.bias = dopl_data(c->in[2]);
    p.gelu = DOPL_CUDA_GELU;
    p.pre = pre ? dopl_data(pre) : NULL;
    bool fits;
    DOPL_TRY(dopl_cuda_gemm_fits(rt, &p, &fits));
    if (fits) return dopl_cuda_gemm(rt, &p);
    p.gelu = DOPL_CUDA_NO_GELU;
    if (pre) p.y = p.pre;
    p.pre = NULL;
    DOPL_TRY(dopl_cuda_gemm(rt, &p));
    DISPATCH(h->dtype, T, {
        gelu_values<T> f = { data_of<T>(h), static_cast<const T *>(p.y) };
        return pointwise<T>(rt, "mlp: GELU", f, dopl_tensor_numel(h), aligned(f.y, f.x));
    });
    return DOPL_OK;
}

// dpre = (dy W) times GELU's slope at pre, for the second layer's W.
static dopl_status gelu_layer_grad(dopl_rt *rt, const dopl_tensor *dpre, dopl_node *n) {
    const dopl_tensor *pre = &n->saved[0];
    dopl_cuda_product p =
        product_of(matrix_of(dpre), matrix_of(&n->dout), matrix_of(&n->in[3]), 0.0f);
    p.gelu = DOPL_CUDA_GELU_SLOPE;
    p.pre = dopl_data(pre);
    bool fits;
    DOPL_TRY(dopl_cuda_gemm_fits(rt, &p, &fits));
    if (fits) return dopl_cuda_gemm(rt, &p);
    p.gelu = DOPL_CUDA_NO_GELU;
    p.pre = NULL;
    DOPL_TRY(dopl_cuda_gemm(rt, &p));
    DISPATCH(dpre->dtype, T, {
        gelu_slopes<T> f = { data_of<T>(dpre), data_of<T>(pre) };
        return pointwise<T>(rt, "mlp: slope of GELU", f, dopl_tensor_numel(dpre),
                            aligned(f.d, f.pre));
    });
    return DOPL_OK;
}

extern "C" dopl_status op_mlp_cuda(dopl_rt *rt, dopl_op_call *c) {
    dopl_tensor *pre = &c->saved[0], *h = &c->saved[1];
    int64_t dim[] = { c->out->dim[0], c->in[1]->dim[0] };
    if (c->record) DOPL_TRY(dopl_tensor_new_on(rt, pre, DOPL_GPU, c->dtype, 2, dim));
    DOPL_TRY(dopl_tensor_new_on(rt, h, DOPL_GPU, c->dtype, 2, dim));
    DOPL_TRY(gelu_layer(rt, h, c->record ? pre : NULL, c));
    dopl_cuda_product p =
        product_of(matrix_of(c->out), matrix_of(h), transposed(matrix_of(c->in[3])), 0.0f);
    p.bias = dopl_data(c->in[4]);
    return dopl_cuda_gemm(rt, &p);
}

extern "C" dopl_status op_mlp_cuda_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor dpre = {};
    DOPL_TRY(parameter_grads(rt, n, 3, &n->saved[1], &n->dout));
    dopl_tensor_release(rt, &n->saved[1]); // memory for what follows
    DOPL_TRY(dopl_cuda_tensor(rt, &dpre, n->dout.dtype, 2, n->saved[0].dim));
    dopl_status status = gelu_layer_grad(rt, &dpre, n);
    dopl_tensor_release(rt, &n->saved[0]);
    if (status == DOPL_OK) status = layer_grads(rt, n, &dpre);
    dopl_tensor_release(rt, &dpre);
    return status;
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

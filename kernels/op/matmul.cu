// matmul.cu - dense layers and plain matrix products, on cuBLASLt.
#include "../product.cuh"

// ---- sums of columns: the gradient of a bias
//
// A bias gradient reads dy once more, [T, O], and is bound by that. Where cuBLAS can, it is made
// beside the weight's gradient, which reads dy anyway; here is the way for all other cases. Rows
// are cut into slices of a fixed number, so that the order of the sum depends on the shape alone.

constexpr int SUM_WARPS = 8;
constexpr int SLICE_ROWS = 256; // 2048 columns of 8192 rows make 256 blocks

// Slices' sums. A lane has N columns next to each other (16 bytes of a row, or one element where
// rows are not aligned), the warps of a block take turns at the rows of its slice, and their sums
// are added in the order of the warps. A warp reads up to 512 contiguous bytes of a row.
template <class T, int N>
__global__ void __launch_bounds__(SUM_WARPS *WARP)
    column_sums_slice_kernel(float *__restrict__ part,   // [slices, cols]
                             const T *__restrict__ x,    // [rows, cols]
                             int64_t rows, int64_t cols) // grid: cols / (WARP * N), slices
{
    __shared__ float of_warp[SUM_WARPS][WARP * N];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64_t first_col = (int64_t)blockIdx.x * WARP * N, col = first_col + lane * N;
    int64_t first = (int64_t)blockIdx.y * SLICE_ROWS;
    int64_t end = first + SLICE_ROWS < rows ? first + SLICE_ROWS : rows;
    float sum[N] = {};
    if (col < cols) {
#pragma unroll 4
        for (int64_t r = first + warp; r < end; r += SUM_WARPS) {
            if constexpr (N == 1) {
                sum[0] += to_float(x[r * cols + col]);
            } else {
                pack<T> v = load_pack(x + r * cols + col);
#pragma unroll
                for (int i = 0; i < N; i++) sum[i] += to_float(v.x[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) of_warp[warp][lane * N + i] = sum[i];
    __syncthreads();
    for (int c = threadIdx.x; c < WARP * N && first_col + c < cols; c += SUM_WARPS * WARP) {
        float total = 0.0f;
        for (int w = 0; w < SUM_WARPS; w++) total += of_warp[w][c];
        part[(int64_t)blockIdx.y * cols + first_col + c] = total;
    }
}

constexpr int TOTAL_THREADS = 128;

// One thread a column: 1/SLICE_ROWS of the work.
template <class U>
__global__ void column_sums_total_kernel(U *__restrict__ sum,            // [cols]
                                         const float *__restrict__ part, // [slices, cols]
                                         int64_t slices, int64_t cols, float beta) {
    int64_t col = (int64_t)blockIdx.x * TOTAL_THREADS + threadIdx.x;
    if (col >= cols) return;
    float total = beta == 0.0f ? 0.0f : to_float(sum[col]);
    for (int64_t s = 0; s < slices; s++) total += part[s * cols + col];
    sum[col] = from_float<U>(total);
}

template <class T>
static void launch_slices(dopl_rt *rt, float *part, const T *x, int64_t rows, int64_t cols) {
    constexpr int N = pack<T>::N;
    unsigned slices = (unsigned)ceil_div(rows, SLICE_ROWS), threads = SUM_WARPS * WARP;
    if (packs(x, cols))
        DOPL_LAUNCH((column_sums_slice_kernel<T, N>),
                    dim3((unsigned)ceil_div(cols, WARP * N), slices), threads, 0,
                    dopl_cuda_stream(rt), part, x, rows, cols);
    else
        DOPL_LAUNCH((column_sums_slice_kernel<T, 1>), dim3((unsigned)ceil_div(cols, WARP), slices),
                    threads, 0, dopl_cuda_stream(rt), part, x, rows, cols);
}

// sum = beta sum + column sums of x
static dopl_status column_sums(dopl_rt *rt, const dopl_tensor *sum, const dopl_tensor *x,
                               float beta) {
    int64_t rows = x->dim[0], cols = x->dim[1], slices = ceil_div(rows, SLICE_ROWS);
    if (cols == 0) return DOPL_OK;
    void *memory;
    DOPL_TRY(dopl_cuda_alloc(rt, &memory, (size_t)(slices * cols) * sizeof(float)));
    float *part = static_cast<float *>(memory);
    if (rows) DISPATCH(x->dtype, T, { launch_slices(rt, part, data_of<T>(x), rows, cols); });
    unsigned blocks = (unsigned)ceil_div(cols, TOTAL_THREADS);
    DISPATCH(sum->dtype, U, {
        DOPL_LAUNCH((column_sums_total_kernel<U>), blocks, TOTAL_THREADS, 0, dopl_cuda_stream(rt),
                    data_of<U>(sum), part, slices, cols, beta);
    });
    dopl_cuda_free(rt, memory);
    return dopl_cuda_launched(rt, "linear: gradient of the bias");
}

// ---- linear

extern "C" dopl_status op_linear_cuda(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *bias = c->in[2];
    dopl_cuda_product p =
        product_of(matrix_of(c->out), matrix_of(c->in[0]), transposed(matrix_of(c->in[1])), 0.0f);
    if (bias) p.bias = dopl_data(bias);
    return dopl_cuda_gemm(rt, &p);
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
    return db ? column_sums(rt, db, &n->dout, bias_beta) : DOPL_OK;
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

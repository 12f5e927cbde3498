// product.cu - a matrix product in every detail of dopl_cuda_product, for those that cuBLAS has no
// algorithm for or refuses (runtime/cuda/gemm.c).
//
// It asks nothing of addresses and rows but that elements are aligned, and adds in f32 in one
// order. It uses no tensor cores: it is there to be right, not fast.
#include "../gelu.cuh"

constexpr int SIDE = 64, DEPTH = 16, PRODUCT_THREADS = 256;
constexpr int TILE_LD = SIDE + 4; // 16-byte reads of a row stay aligned

template <class T, class Y> struct plain_product {
    Y *y;                  // [m, n], rows ldy apart
    const T *a, *b;        // op(a) [m, k], op(b) [k, n]
    int64_t m, n, k, ldy;  //
    int64_t a_row, a_step; // elements from row to row of op(a), and from term to term
    int64_t b_column, b_step;
    const Y *bias; // [n]; nullptr: none
    Y *row_sums;   // [m]; nullptr: none
    Y *pre;        // [m, n], rows ldy apart; nullptr: none
    float alpha, beta;
    dopl_cuda_gelu gelu;
};

// SIDE rows (or columns) of DEPTH terms into shared memory, zeros past the matrix. Neighbouring
// threads read neighbouring elements, whichever way the matrix lies.
template <class T>
__device__ __forceinline__ void stage(float (*tile)[TILE_LD], // [DEPTH][SIDE]
                                      const T *from, int64_t stride, int64_t step, int64_t rows,
                                      int64_t terms) {
    bool along_terms = step == 1;
    for (int i = threadIdx.x; i < SIDE * DEPTH; i += PRODUCT_THREADS) {
        int row = along_terms ? i / DEPTH : i % SIDE, term = along_terms ? i % DEPTH : i / SIDE;
        bool there = row < rows && term < terms;
        tile[term][row] = there ? to_float(from[row * stride + term * step]) : 0.0f;
    }
}

template <class T, class Y>
__device__ __forceinline__ void finish(const plain_product<T, Y> &p, int64_t row, int64_t column,
                                       float sum) {
    int64_t at = row * p.ldy + column;
    float z = p.alpha * sum;
    if (p.beta != 0.0f) z += p.beta * to_float(p.y[at]);
    if (p.bias) z += to_float(p.bias[column]);
    if (p.gelu == DOPL_CUDA_GELU) {
        if (p.pre) p.pre[at] = from_float<Y>(z);
        z = gelu_value(z);
    } else if (p.gelu == DOPL_CUDA_GELU_SLOPE) {
        z *= gelu_slope(to_float(p.pre[at]));
    }
    p.y[at] = from_float<Y>(z);
}

// A block makes SIDE x SIDE elements of y, a thread 4 x 4 of them. Bound by reads of shared memory:
// two of 16 bytes for 16 products.
template <class T, class Y>
__global__ void __launch_bounds__(PRODUCT_THREADS) product_kernel(const plain_product<T, Y> p) {
    __shared__ __align__(16) float a[DEPTH][TILE_LD], b[DEPTH][TILE_LD];
    int64_t across = (p.n + SIDE - 1) / SIDE;
    int64_t row = blockIdx.x / across * SIDE, column = blockIdx.x % across * SIDE;
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[4][4] = {}, of_row[4] = {};
    for (int64_t k = 0; k < p.k; k += DEPTH) {
        __syncthreads(); // what a and b hold has been used
        stage(a, p.a + row * p.a_row + k * p.a_step, p.a_row, p.a_step, p.m - row, p.k - k);
        stage(b, p.b + column * p.b_column + k * p.b_step, p.b_column, p.b_step, p.n - column,
              p.k - k);
        __syncthreads();
#pragma unroll
        for (int term = 0; term < DEPTH; term++) {
            float4 u = *reinterpret_cast<const float4 *>(&a[term][4 * ty]);
            float4 v = *reinterpret_cast<const float4 *>(&b[term][4 * tx]);
            const float left[] = { u.x, u.y, u.z, u.w }, right[] = { v.x, v.y, v.z, v.w };
            for (int i = 0; i < 4; i++) {
                of_row[i] += left[i];
                for (int j = 0; j < 4; j++) sum[i][j] += left[i] * right[j];
            }
        }
    }
    for (int i = 0; i < 4; i++) {
        int64_t r = row + 4 * ty + i;
        if (r >= p.m) break;
        if (p.row_sums && column == 0 && tx == 0) p.row_sums[r] = from_float<Y>(of_row[i]);
        for (int j = 0; j < 4; j++) {
            int64_t c = column + 4 * tx + j;
            if (c < p.n) finish(p, r, c, sum[i][j]);
        }
    }
}

template <class T, class Y> static dopl_status launch(dopl_rt *rt, const dopl_cuda_product *p) {
    plain_product<T, Y> q = {};
    q.y = static_cast<Y *>(p->y);
    q.a = static_cast<const T *>(p->a);
    q.b = static_cast<const T *>(p->b);
    q.m = p->m;
    q.n = p->n;
    q.k = p->k;
    q.ldy = p->ldy;
    q.a_row = p->a_transposed ? 1 : p->lda;
    q.a_step = p->a_transposed ? p->lda : 1;
    q.b_column = p->b_transposed ? p->ldb : 1;
    q.b_step = p->b_transposed ? 1 : p->ldb;
    q.bias = static_cast<const Y *>(p->bias);
    q.row_sums = static_cast<Y *>(p->bias_grad);
    q.pre = static_cast<Y *>(p->pre);
    q.alpha = p->alpha;
    q.beta = p->beta;
    q.gelu = p->gelu;
    int64_t blocks = ceil_div(p->m, SIDE) * ceil_div(p->n, SIDE);
    return DOPL_LAUNCH_NOW((product_kernel<T, Y>), (unsigned)blocks, PRODUCT_THREADS, 0, rt, q);
}

extern "C" dopl_status dopl_cuda_plain_product(dopl_rt *rt, const dopl_cuda_product *p) {
    DISPATCH(p->type, T, { DISPATCH(p->y_type, Y, { return launch<T, Y>(rt, p); }); });
    return DOPL_OK;
}

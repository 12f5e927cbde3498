// transpose.cu - a matrix's transpose.
#include "../common.cuh"

constexpr int SIDE = 32, ROWS = 8;

// A block takes a square of SIDE x SIDE by way of shared memory, so that reads and writes are both
// along rows; SIDE x ROWS threads, each SIDE / ROWS elements. The column beside the square keeps
// the reads of its columns on different banks. Bound by memory.
template <class T>
__global__ void transpose_kernel(T *__restrict__ y,       // [cols, rows]
                                 const T *__restrict__ x, // [rows, cols]
                                 int64_t rows, int64_t cols, int64_t squares_across) {
    __shared__ T square[SIDE][SIDE + 1];
    int64_t r0 = blockIdx.x / squares_across * SIDE, c0 = blockIdx.x % squares_across * SIDE;
    for (int i = threadIdx.y; i < SIDE; i += ROWS)
        if (r0 + i < rows && c0 + threadIdx.x < cols)
            square[i][threadIdx.x] = x[(r0 + i) * cols + c0 + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < SIDE; i += ROWS)
        if (c0 + i < cols && r0 + threadIdx.x < rows)
            y[(c0 + i) * rows + r0 + threadIdx.x] = square[threadIdx.x][i];
}

// y has the shape [cols, rows], x [rows, cols]; one type, f32 or bf16.
extern "C" dopl_status dopl_cuda_transpose(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x) {
    int64_t rows = dopl_tensor_rows(x), cols = dopl_tensor_cols(x);
    if (rows == 0 || cols == 0) return DOPL_OK;
    int64_t across = ceil_div(cols, SIDE), squares = across * ceil_div(rows, SIDE);
    DISPATCH(x->dtype, T, {
        DOPL_LAUNCH((transpose_kernel<T>), (unsigned)squares, dim3(SIDE, ROWS), 0, rt,
                    data_of<T>(y), data_of<T>(x), rows, cols, across);
    });
    return dopl_cuda_launched(rt, "transpose");
}

// dot.cu - the inner product of two tensors, in double precision.
//
// The elements are divided over a number of blocks that depends on nothing but their number, and
// every sum is taken in a fixed order: the same on every device.
#include "../row.cuh"

constexpr int BLOCK = 256, PARTS = 512;

// Block k sums elements k * span .. (k + 1) * span - 1, neighbouring threads neighbouring elements.
// Bound by memory for long arrays.
template <class A, class B>
__global__ void dot_kernel(double *__restrict__ part, // [gridDim.x]
                           const A *__restrict__ a,   // [n]
                           const B *__restrict__ b,   // [n]
                           int64_t n, int64_t span) {
    int64_t first = blockIdx.x * span, end = first + span < n ? first + span : n;
    double sum = 0;
    for (int64_t i = first + threadIdx.x; i < end; i += BLOCK)
        sum += (double)to_float(a[i]) * (double)to_float(b[i]);
    sum = row_sum<BLOCK>(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

// One block. y[0] = the sum of the parts.
__global__ void sum_parts_kernel(double *__restrict__ y,          // [1]
                                 const double *__restrict__ part, // [n]
                                 int n) {
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += BLOCK) sum += part[i];
    sum = row_sum<BLOCK>(sum);
    if (threadIdx.x == 0) y[0] = sum;
}

extern "C" dopl_status dopl_cuda_dot(dopl_rt *rt, double *out, const dopl_tensor *a,
                                     const dopl_tensor *b) {
    int64_t n = dopl_tensor_numel(a);
    *out = 0;
    if (n == 0) return DOPL_OK;
    int64_t span = ceil_div(ceil_div(n, PARTS), BLOCK) * BLOCK;
    int n_part = (int)ceil_div(n, span);
    void *memory;
    DOPL_TRY(dopl_cuda_alloc(rt, &memory, sizeof(double) * (size_t)(n_part + 1)));
    double *part = static_cast<double *>(memory), *sum = part + n_part;
    DISPATCH(a->dtype, A, {
        DISPATCH(b->dtype, B, {
            DOPL_LAUNCH((dot_kernel<A, B>), (unsigned)n_part, BLOCK, 0, rt, part, data_of<A>(a),
                        data_of<B>(b), n, span);
        });
    });
    dopl_status status = dopl_cuda_launched(rt, "dot");
    if (status == DOPL_OK) {
        DOPL_LAUNCH((sum_parts_kernel), 1, BLOCK, 0, rt, sum, part, n_part);
        status = dopl_cuda_launched(rt, "dot");
    }
    if (status == DOPL_OK) status = dopl_cuda_to_host(rt, out, sum, sizeof *out);
    dopl_cuda_free(rt, memory);
    return status;
}

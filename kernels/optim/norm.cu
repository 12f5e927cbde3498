// norm.cu - the global norm of gradients, and the factor that clips it, without the host.
#include "../row.cuh"

static constexpr int THREADS = 256;

// One block a part. Each thread adds every 256th element in double precision: one fused
// multiply-add for four bytes read, so it is bound by memory wherever doubles run at 1/64 of the
// rate or better.
__global__ void __launch_bounds__(THREADS)
    square_sum_kernel(double *__restrict__ partial, // [gridDim.x]
                      const dopl_cuda_norm_part *__restrict__ parts) {
    dopl_cuda_norm_part part = parts[blockIdx.x];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < part.n; i += THREADS) {
        double x = part.x[i];
        sum += x * x;
    }
    sum = row_sum<THREADS>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block.
__global__ void __launch_bounds__(THREADS)
    norm_kernel(dopl_cuda_norm *__restrict__ out, const double *__restrict__ partial, int64_t n,
                double max_norm) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += partial[i];
    sum = row_sum<THREADS>(sum);
    if (threadIdx.x != 0) return;
    double norm = sqrt(sum), factor = max_norm / (norm + 1e-6); // torch's clip_grad_norm_
    bool finite = norm == norm && norm <= 1.7976931348623157e308;
    out->norm = norm;
    out->factor = finite ? (float)(factor < 1.0 ? factor : 1.0) : __int_as_float(0x7fc00000);
}

extern "C" dopl_status dopl_cuda_norm_of(dopl_rt *rt, dopl_cuda_norm *out,
                                         const dopl_cuda_norm_part *parts, int64_t n_part,
                                         double *partial, double max_norm) {
    if (n_part > 0)
        DOPL_LAUNCH((square_sum_kernel), (unsigned)n_part, THREADS, 0, rt, partial, parts);
    DOPL_LAUNCH((norm_kernel), 1, THREADS, 0, rt, out, partial, n_part, max_norm);
    return dopl_cuda_launched(rt, "gradient norm");
}

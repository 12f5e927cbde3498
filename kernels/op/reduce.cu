// reduce.cu - sums, means, sums by packed sequence, softmax over the last dimension.
#include "../elements.cuh"
#include "../row.cuh"
#include "../sums.cuh"

// ---- sum, mean, sum_last

template <class T> struct element_of_row {
    const T *x; // [rows, cols]
    int64_t cols;
    template <int N> __device__ void at(float (&v)[N], int64_t row, int64_t c) const {
        load_elements<N>(v, x + row * cols + c);
    }
};

// y[row] = scale * sum of x[row]
static dopl_status sum_rows(dopl_rt *rt, dopl_op_call *c, int64_t rows, int64_t cols, float scale) {
    DISPATCH(c->dtype, T, {
        element_of_row<T> f = { data_of<T>(c->in[0]), cols };
        return row_sums<T>(rt, c->op->name, data_of<T>(c->out), f, rows, cols, packs(f.x, cols),
                           scale, 0.0f);
    });
}

// dx[row] = beta dx + scale dy[row]
template <class T, class G> struct row_slope {
    G *dx;       // [rows, cols]
    const T *dy; // [rows]
    int64_t cols;
    float scale, beta;
    template <int N> __device__ void at(int64_t i) const {
        float v[N], d = scale * to_float(dy[i / cols]);
        for (int k = 0; k < N; k++) v[k] = d;
        add_elements<N>(dx + i, v, beta);
    }
};

static dopl_status spread_rows(dopl_rt *rt, dopl_node *n, int64_t cols, float scale) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        row_slope<T, G> f = { data_of<G>(d), data_of<T>(&n->dout), cols, scale, beta };
        bool packed = cols % pack<T>::N == 0 && aligned(f.dx); // a pack lies in one row
        return pointwise<T>(rt, n->name, f, dopl_tensor_numel(d), packed);
    });
}

dopl_status op_sum_cuda(dopl_rt *rt, dopl_op_call *c) {
    return sum_rows(rt, c, 1, dopl_tensor_numel(c->in[0]), 1.0f);
}

dopl_status op_sum_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return spread_rows(rt, n, dopl_tensor_numel(&n->in[0]), 1.0f);
}

dopl_status op_mean_cuda(dopl_rt *rt, dopl_op_call *c) {
    int64_t numel = dopl_tensor_numel(c->in[0]);
    return sum_rows(rt, c, 1, numel, 1.0f / (float)numel);
}

dopl_status op_mean_cuda_backward(dopl_rt *rt, dopl_node *n) {
    int64_t numel = dopl_tensor_numel(&n->in[0]);
    return spread_rows(rt, n, numel, 1.0f / (float)numel);
}

dopl_status op_sum_last_cuda(dopl_rt *rt, dopl_op_call *c) {
    return sum_rows(rt, c, dopl_tensor_numel(c->out), dopl_tensor_cols(c->in[0]), 1.0f);
}

dopl_status op_sum_last_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return spread_rows(rt, n, dopl_tensor_cols(&n->in[0]), 1.0f);
}

// ---- segment_sum: a block has a sequence; a batch has tens of them, of some hundred numbers

constexpr int SEGMENT_THREADS = 128;

template <class T>
__global__ void __launch_bounds__(SEGMENT_THREADS)
    segment_sum_kernel(T *__restrict__ y,                  // [B]
                       const T *__restrict__ x,            // [n]
                       const int32_t *__restrict__ offset) // [B + 1]
{
    int64_t b = blockIdx.x;
    float s = 0.0f;
    for (int i = offset[b] + threadIdx.x; i < offset[b + 1]; i += SEGMENT_THREADS)
        s += to_float(x[i]);
    s = block_sum(s);
    if (threadIdx.x == 0) y[b] = from_float<T>(s);
}

template <class T, class G>
__global__ void __launch_bounds__(SEGMENT_THREADS)
    segment_spread_kernel(G *__restrict__ dx,       // [n], beta dx + its sequence's dy
                          const T *__restrict__ dy, // [B]
                          const int32_t *__restrict__ offset, float beta) {
    int64_t b = blockIdx.x;
    for (int i = offset[b] + threadIdx.x; i < offset[b + 1]; i += SEGMENT_THREADS)
        add_element(dx + i, to_float(dy[b]), beta);
}

dopl_status op_segment_sum_cuda(dopl_rt *rt, dopl_op_call *c) {
    int64_t B = c->out->dim[0];
    if (B == 0) return DOPL_OK;
    const int32_t *offset;
    DOPL_TRY(dopl_cuda_index(rt, c->in[1], &offset));
    DISPATCH(c->dtype, T, {
        DOPL_LAUNCH((segment_sum_kernel<T>), (unsigned)B, SEGMENT_THREADS, 0, rt,
                    data_of<T>(c->out), data_of<T>(c->in[0]), offset);
    });
    return dopl_cuda_launched(rt, "segment_sum");
}

dopl_status op_segment_sum_cuda_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t B = n->out.dim[0];
    if (B == 0) return DOPL_OK;
    const int32_t *offset;
    DOPL_TRY(dopl_cuda_index(rt, &n->in[1], &offset));
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        DOPL_LAUNCH((segment_spread_kernel<T, G>), (unsigned)B, SEGMENT_THREADS, 0, rt,
                    data_of<G>(d), data_of<T>(&n->dout), offset, beta);
    });
    return dopl_cuda_launched(rt, "segment_sum backward");
}

// ---- softmax, log_softmax: LOG says which
//
// The gradient of a logarithm needs e^y, and e to the power of a bf16 is good to 2 % alone: where a
// backward will come, the forward saves it in f32 too.

// What an element becomes, from the row's largest, the inverse of its sum of exponentials and that
// sum's logarithm.
template <bool LOG>
__device__ __forceinline__ float share_of(float x, float top, float inverse, float log_sum) {
    if constexpr (LOG)
        return x - (top + log_sum);
    else
        return expf(x - top) * inverse;
}

// A warp or a block has a row, in registers: each byte moves once.
template <class T, int PACKS, int THREADS, bool LOG>
__global__ void __launch_bounds__(ROW_THREADS)
    softmax_kernel(T *__restrict__ y,         // [rows, cols]
                   float *__restrict__ exact, // the same in f32, nullptr: not wanted
                   const T *__restrict__ x,   // [rows, cols]
                   int64_t rows, int cols) {
    constexpr int N = pack<T>::N;
    int64_t row = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) / THREADS;
    if (row >= rows) return; // a whole warp
    pack<T> v[PACKS];
    load_row<THREADS>(v, x + row * cols, cols);
    float top = -INFINITY, sum = 0.0f;
    for (int p = 0; p < PACKS; p++)
        if (pack_column<T, THREADS>(p) < cols)
            for (int i = 0; i < N; i++) top = fmaxf(top, to_float(v[p].x[i]));
    top = row_max<THREADS>(top);
    for (int p = 0; p < PACKS; p++)
        if (pack_column<T, THREADS>(p) < cols)
            for (int i = 0; i < N; i++) sum += expf(to_float(v[p].x[i]) - top);
    sum = row_sum<THREADS>(sum);
    float inverse = __fdividef(1.0f, sum), log_sum = logf(sum);
    for (int p = 0; p < PACKS; p++) {
        int c = pack_column<T, THREADS>(p);
        if (c >= cols) continue;
        float out[N];
        for (int i = 0; i < N; i++)
            out[i] = share_of<LOG>(to_float(v[p].x[i]), top, inverse, log_sum);
        store_elements<N>(y + row * cols + c, out);
        if (exact) store_elements<N>(exact + row * cols + c, out);
    }
}

// Any row: a block reads it three times, from the caches after the first.
template <class T, bool LOG>
__global__ void __launch_bounds__(ROW_THREADS)
    softmax_looped_kernel(T *__restrict__ y, float *__restrict__ exact, const T *__restrict__ x,
                          int64_t cols) {
    const T *v = x + blockIdx.x * cols;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) top = fmaxf(top, to_float(v[c]));
    top = block_max(top);
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) sum += expf(to_float(v[c]) - top);
    sum = block_sum(sum);
    float inverse = __fdividef(1.0f, sum), log_sum = logf(sum);
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) {
        float out = share_of<LOG>(to_float(v[c]), top, inverse, log_sum);
        y[blockIdx.x * cols + c] = from_float<T>(out);
        if (exact) exact[blockIdx.x * cols + c] = out;
    }
}

template <bool LOG> static dopl_status softmax(dopl_rt *rt, dopl_op_call *c) {
    int64_t rows = dopl_tensor_rows(c->out), cols = dopl_tensor_cols(c->out);
    if (rows * cols == 0) return DOPL_OK;
    float *exact = NULL;
    if (LOG && c->record && c->dtype == DOPL_BF16) {
        DOPL_TRY(op_save(rt, c, 0, c->out->n_dim, c->out->dim));
        exact = data_of<float>(&c->saved[0]);
    }
    DISPATCH(c->dtype, T, {
        T *y = data_of<T>(c->out);
        const T *x = data_of<T>(c->in[0]);
        DISPATCH_ROW(
            T, cols, packs(x, cols) && aligned(y), 2, 8,
            {
                DOPL_LAUNCH((softmax_looped_kernel<T, LOG>), (unsigned)rows, ROW_THREADS, 0, rt, y,
                            exact, x, cols);
            },
            {
                DOPL_LAUNCH((softmax_kernel<T, PACKS, THREADS, LOG>),
                            (unsigned)ceil_div(rows, ROW_THREADS / THREADS), ROW_THREADS, 0, rt, y,
                            exact, x, rows, (int)cols);
            });
    });
    return dopl_cuda_launched(rt, c->op->name);
}

// Softmax: dx = y (dy - sum of dy y). Its logarithm: dx = dy - e^y sum of dy.
template <bool LOG> __device__ __forceinline__ float term_of(float dy, float y) {
    return LOG ? dy : dy * y;
}
template <bool LOG> __device__ __forceinline__ float slope_of(float dy, float y, float sum) {
    if constexpr (LOG)
        return dy - expf(y) * sum;
    else
        return y * (dy - sum);
}

template <class T, int PACKS, int THREADS, bool LOG>
__global__ void __launch_bounds__(ROW_THREADS)
    softmax_grad_kernel(T *__restrict__ dx,       // [rows, cols]
                        const T *__restrict__ dy, // [rows, cols]
                        const T *__restrict__ y,  // [rows, cols]
                        int64_t rows, int cols, float beta) {
    constexpr int N = pack<T>::N;
    int64_t row = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) / THREADS;
    if (row >= rows) return; // a whole warp
    pack<T> vdy[PACKS], vy[PACKS];
    load_row<THREADS>(vdy, dy + row * cols, cols);
    load_row<THREADS>(vy, y + row * cols, cols);
    float sum = 0.0f;
    for (int p = 0; p < PACKS; p++)
        if (pack_column<T, THREADS>(p) < cols)
            for (int i = 0; i < N; i++)
                sum += term_of<LOG>(to_float(vdy[p].x[i]), to_float(vy[p].x[i]));
    sum = row_sum<THREADS>(sum);
    for (int p = 0; p < PACKS; p++) {
        int c = pack_column<T, THREADS>(p);
        if (c >= cols) continue;
        float out[N];
        for (int i = 0; i < N; i++)
            out[i] = slope_of<LOG>(to_float(vdy[p].x[i]), to_float(vy[p].x[i]), sum);
        add_elements<N>(dx + row * cols + c, out, beta);
    }
}

// Any row, and any types.
template <class T, class Y, class G, bool LOG>
__global__ void __launch_bounds__(ROW_THREADS)
    softmax_grad_looped_kernel(G *__restrict__ dx, const T *__restrict__ dy,
                               const Y *__restrict__ y, int64_t cols, float beta) {
    const T *vdy = dy + blockIdx.x * cols;
    const Y *vy = y + blockIdx.x * cols;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS)
        sum += term_of<LOG>(to_float(vdy[c]), to_float(vy[c]));
    sum = block_sum(sum);
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS)
        add_element(dx + blockIdx.x * cols + c,
                    slope_of<LOG>(to_float(vdy[c]), to_float(vy[c]), sum), beta);
}

template <bool LOG, class T, class Y, class G>
static void launch_softmax_grad(dopl_rt *rt, G *dx, const T *dy, const Y *y, int64_t rows,
                                int64_t cols, float beta) {
    if constexpr (sizeof(T) == sizeof(G) && sizeof(T) == sizeof(Y)) {
        DISPATCH_ROW(
            T, cols, packs(y, cols) && aligned(dx, dy), 1, 4,
            {
                DOPL_LAUNCH((softmax_grad_looped_kernel<T, Y, G, LOG>), (unsigned)rows, ROW_THREADS,
                            0, rt, dx, dy, y, cols, beta);
            },
            {
                DOPL_LAUNCH((softmax_grad_kernel<T, PACKS, THREADS, LOG>),
                            (unsigned)ceil_div(rows, ROW_THREADS / THREADS), ROW_THREADS, 0, rt, dx,
                            dy, y, rows, (int)cols, beta);
            });
    } else {
        DOPL_LAUNCH((softmax_grad_looped_kernel<T, Y, G, LOG>), (unsigned)rows, ROW_THREADS, 0, rt,
                    dx, dy, y, cols, beta);
    }
}

template <bool LOG> static dopl_status softmax_grad(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t rows = dopl_tensor_rows(d), cols = dopl_tensor_cols(d);
    if (rows * cols == 0) return DOPL_OK;
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        G *dx = data_of<G>(d);
        const T *dy = data_of<T>(&n->dout);
        if (LOG && n->saved[0].storage)
            launch_softmax_grad<LOG>(rt, dx, dy, data_of<float>(&n->saved[0]), rows, cols, beta);
        else
            launch_softmax_grad<LOG>(rt, dx, dy, data_of<T>(&n->out), rows, cols, beta);
    });
    return dopl_cuda_launched(rt, n->name);
}

dopl_status op_softmax_cuda(dopl_rt *rt, dopl_op_call *c) {
    return softmax<false>(rt, c);
}

dopl_status op_softmax_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return softmax_grad<false>(rt, n);
}

dopl_status op_log_softmax_cuda(dopl_rt *rt, dopl_op_call *c) {
    return softmax<true>(rt, c);
}

dopl_status op_log_softmax_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return softmax_grad<true>(rt, n);
}

// norm.cu - RMSNorm and LayerNorm over the last dimension. The two differ in CENTRED: whether the
// mean is subtracted first, and a bias added after.
//
// The forward saves one or two numbers a row (1/rms; mean and 1/std) and the backward reads x
// again. Rows whose length allows it stay in registers between reading and writing, so that each
// byte moves once. The weights' gradients are summed by each block over its share of the rows, in
// registers, then over the shares in order (partial_sums).
#include "../row.cuh"
#include "../sums.cuh"

constexpr int NORM_SHARES = 512; // of the rows, in the backward: 4 blocks on each of 128 processors
constexpr int NORM_LEAST = 8;    // rows of a share: its sums are to be little beside its rows

// ---- forward

// Numbers of a row from the sum of squares (of differences from the mean).
__device__ __forceinline__ float inverse_root(float ss, int64_t cols, float eps) {
    return rsqrtf(ss / (float)cols + eps);
}

// A warp or a block has a row; PACKS 16-byte reads of a thread are under way at a time, which is
// what hides the latency of memory, and no thread waits for another block.
template <class T, int PACKS, int THREADS, bool CENTRED>
__global__ void __launch_bounds__(ROW_THREADS, 2)
    norm_kernel(T *__restrict__ y,          // [rows, cols]
                float *__restrict__ stat,   // [rows, CENTRED ? 2 : 1], nullptr: not wanted
                const T *__restrict__ x,    // [rows, cols]
                const T *__restrict__ w,    // [cols]
                const T *__restrict__ bias, // [cols], nullptr: none
                int64_t rows, int cols, float eps) {
    constexpr int N = pack<T>::N;
    int64_t row = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) / THREADS;
    if (row >= rows) return; // a whole warp
    pack<T> v[PACKS];
    load_row<THREADS>(v, x + row * cols, cols);
    float mean = 0.0f, ss = 0.0f;
    if constexpr (CENTRED) {
        for (int p = 0; p < PACKS; p++)
            if (pack_column<T, THREADS>(p) < cols)
                for (int i = 0; i < N; i++) mean += to_float(v[p].x[i]);
        mean = row_sum<THREADS>(mean) / (float)cols;
    }
    for (int p = 0; p < PACKS; p++)
        if (pack_column<T, THREADS>(p) < cols)
            for (int i = 0; i < N; i++) {
                float d = to_float(v[p].x[i]) - mean;
                ss += d * d;
            }
    float r = inverse_root(row_sum<THREADS>(ss), cols, eps);
    for (int p = 0; p < PACKS; p++) {
        int c = pack_column<T, THREADS>(p);
        if (c >= cols) continue;
        float out[N], b[N] = {};
        load_elements<N>(out, w + c);
        if (CENTRED && bias) load_elements<N>(b, bias + c);
        for (int i = 0; i < N; i++) out[i] = (to_float(v[p].x[i]) - mean) * r * out[i] + b[i];
        store_elements<N>(y + row * cols + c, out);
    }
    if (!stat || threadIdx.x % THREADS) return;
    if constexpr (CENTRED) {
        stat[2 * row] = mean;
        stat[2 * row + 1] = r;
    } else {
        stat[row] = r;
    }
}

// Any row: a block reads it once for each sum and once more to write, from the caches in the end.
template <class T, bool CENTRED>
__global__ void __launch_bounds__(ROW_THREADS)
    norm_looped_kernel(T *__restrict__ y, float *__restrict__ stat, const T *__restrict__ x,
                       const T *__restrict__ w, const T *__restrict__ bias, int64_t cols,
                       float eps) {
    int64_t row = blockIdx.x;
    const T *v = x + row * cols;
    float mean = 0.0f, ss = 0.0f;
    if constexpr (CENTRED) {
        for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) mean += to_float(v[c]);
        mean = block_sum(mean) / (float)cols;
    }
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) {
        float d = to_float(v[c]) - mean;
        ss += d * d;
    }
    float r = inverse_root(block_sum(ss), cols, eps);
    for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS)
        y[row * cols + c] = from_float<T>((to_float(v[c]) - mean) * r * to_float(w[c]) +
                                          (CENTRED && bias ? to_float(bias[c]) : 0.0f));
    if (!stat || threadIdx.x) return;
    if constexpr (CENTRED) {
        stat[2 * row] = mean;
        stat[2 * row + 1] = r;
    } else {
        stat[row] = r;
    }
}

template <bool CENTRED> static dopl_status norm(dopl_rt *rt, dopl_op_call *c, double epsilon) {
    int64_t rows = dopl_tensor_rows(c->out), cols = dopl_tensor_cols(c->out);
    float eps = (float)epsilon, *stat = NULL;
    if (c->record) {
        int64_t dim[] = { rows, CENTRED ? 2 : 1 };
        DOPL_TRY(op_save(rt, c, 0, 2, dim));
        stat = data_of<float>(&c->saved[0]);
    }
    if (rows * cols == 0) return DOPL_OK;
    DISPATCH(c->dtype, T, {
        T *y = data_of<T>(c->out);
        const T *x = data_of<T>(c->in[0]), *w = data_of<T>(c->in[1]);
        const T *bias = CENTRED && c->in[2] ? data_of<T>(c->in[2]) : NULL;
        bool packed = packs(x, cols) && aligned(y, w, bias);
        DISPATCH_ROW(
            T, cols, packed, 2, 8,
            {
                DOPL_LAUNCH((norm_looped_kernel<T, CENTRED>), (unsigned)rows, ROW_THREADS, 0, rt, y,
                            stat, x, w, bias, cols, eps);
            },
            {
                DOPL_LAUNCH((norm_kernel<T, PACKS, THREADS, CENTRED>),
                            (unsigned)ceil_div(rows, ROW_THREADS / THREADS), ROW_THREADS, 0, rt, y,
                            stat, x, w, bias, rows, (int)cols, eps);
            });
    });
    return dopl_cuda_launched(rt, c->op->name);
}

dopl_status op_rms_norm_cuda(dopl_rt *rt, dopl_op_call *c) {
    return norm<false>(rt, c, OP_ATTRS(rms_norm, c)->eps);
}

dopl_status op_layer_norm_cuda(dopl_rt *rt, dopl_op_call *c) {
    return norm<true>(rt, c, OP_ATTRS(layer_norm, c)->eps);
}

// ---- backward. With h = (x - mean) r and e = dy w:
//
//     dx = r (e - mean(e) - h mean(e h)),  dw = sum of dy h,  dbias = sum of dy
//
// where RMSNorm has no mean of x and no mean(e).

// Adds up the sums of a block's warps, one warp after the other, and leaves them to the first, for
// which it is true.
template <int SUMS, int COUNT>
__device__ __forceinline__ bool add_warps(float (&sums)[SUMS][COUNT]) {
    __shared__ float total[SUMS * COUNT * WARP];
    for (int turn = 0; turn < ROW_THREADS / WARP; turn++) {
        if ((int)threadIdx.x / WARP == turn)
            for (int s = 0; s < SUMS; s++)
                for (int k = 0; k < COUNT; k++) {
                    float *t = total + (s * COUNT + k) * WARP + threadIdx.x % WARP;
                    *t = turn ? *t + sums[s][k] : sums[s][k];
                }
        __syncthreads();
    }
    if (threadIdx.x >= WARP) return false;
    for (int s = 0; s < SUMS; s++)
        for (int k = 0; k < COUNT; k++) sums[s][k] = total[(s * COUNT + k) * WARP + threadIdx.x];
    return true;
}

// Writes a thread's sums to their columns of the block's rows of `partial`.
template <class T, int PACKS, int THREADS, int SUMS>
__device__ __forceinline__ void
store_sums(float *partial, const float (&sums)[SUMS][PACKS * pack<T>::N], int cols) {
    constexpr int N = pack<T>::N;
    for (int s = 0; s < SUMS; s++)
        for (int p = 0; p < PACKS; p++) {
            int c = pack_column<T, THREADS>(p);
            if (c >= cols) continue;
            float of_pack[N];
            for (int i = 0; i < N; i++) of_pack[i] = sums[s][p * N + i];
            store_elements<N>(partial + s * cols + c, of_pack);
        }
}

// A block has `share` rows from blockIdx.x * share on, its warps turn by turn where a row is a
// warp's. A thread has the same columns of each: the weights and their gradients stay in registers,
// and the next row is on its way while the sums of this one are made. Bound by memory.
template <class T, int PACKS, int THREADS, bool CENTRED>
__global__ void __launch_bounds__(ROW_THREADS, 4 / PACKS)
    norm_grad_kernel(T *__restrict__ dx,          // [rows, cols], nullptr: not wanted
                     float *__restrict__ partial, // [gridDim.x, CENTRED ? 2 : 1, cols], or nullptr
                     const T *__restrict__ dy,    // [rows, cols]
                     const T *__restrict__ x,     // [rows, cols]
                     const T *__restrict__ w,     // [cols]
                     const float *__restrict__ stat, // [rows, CENTRED ? 2 : 1]
                     int64_t rows, int cols, int64_t share, float beta) {
    constexpr int N = pack<T>::N, SUMS = CENTRED ? 2 : 1, STEP = ROW_THREADS / THREADS;
    int64_t row = blockIdx.x * share + threadIdx.x / THREADS, last = (blockIdx.x + 1) * share;
    if (last > rows) last = rows;
    float sums[SUMS][PACKS * N] = {}, next_mean = 0.0f, next_r = 0.0f;
    float inverse_cols = 1.0f / (float)cols;
    uint4 next_x[PACKS], next_dy[PACKS], vw[PACKS];
    load_row<THREADS>(vw, w, cols);
    auto fetch = [&](int64_t from) {
        load_row<THREADS>(next_x, x + from * cols, cols);
        load_row<THREADS>(next_dy, dy + from * cols, cols);
        if (CENTRED) next_mean = stat[2 * from];
        next_r = stat[SUMS * from + SUMS - 1];
    };
    if (row < last) fetch(row);
    for (; row < last; row += STEP) {
        uint4 vx[PACKS], vdy[PACKS];
        for (int p = 0; p < PACKS; p++) {
            vx[p] = next_x[p];
            vdy[p] = next_dy[p];
        }
        float mean = next_mean, r = next_r, se = 0.0f, seh = 0.0f;
        if (row + STEP < last) fetch(row + STEP);
        for (int p = 0; p < PACKS; p++) {
            if (pack_column<T, THREADS>(p) >= cols) continue;
            float h[N], d[N], e[N];
            unpack<T>(h, vx[p]);
            unpack<T>(d, vdy[p]);
            unpack<T>(e, vw[p]);
            for (int i = 0; i < N; i++) {
                h[i] = (h[i] - mean) * r;
                e[i] *= d[i];
                se += e[i];
                seh += e[i] * h[i];
                sums[0][p * N + i] += d[i] * h[i];
                if constexpr (CENTRED) sums[1][p * N + i] += d[i];
            }
        }
        if (!dx) continue;
        se = CENTRED ? row_sum<THREADS>(se) * inverse_cols : 0.0f;
        seh = row_sum<THREADS>(seh) * inverse_cols;
        for (int p = 0; p < PACKS; p++) {
            int c = pack_column<T, THREADS>(p);
            if (c >= cols) continue;
            float h[N], d[N], out[N];
            unpack<T>(h, vx[p]);
            unpack<T>(d, vdy[p]);
            unpack<T>(out, vw[p]);
            for (int i = 0; i < N; i++) {
                h[i] = (h[i] - mean) * r;
                out[i] = r * (d[i] * out[i] - se - h[i] * seh);
            }
            add_elements<N>(dx + row * cols + c, out, beta);
        }
    }
    if (!partial) return;
    if constexpr (THREADS == WARP) {
        if (!add_warps<SUMS, PACKS * N>(sums)) return;
    }
    store_sums<T, PACKS, THREADS>(partial + (int64_t)blockIdx.x * SUMS * cols, sums, cols);
}

// Any row, and gradients of another type than x: a block reads each row of its share twice. Its
// sums lie in its rows of `partial`, where each column has one thread.
template <class T, class G, bool CENTRED>
__global__ void __launch_bounds__(ROW_THREADS)
    norm_grad_looped_kernel(G *__restrict__ dx, float *__restrict__ partial,
                            const T *__restrict__ dy, const T *__restrict__ x,
                            const T *__restrict__ w, const float *__restrict__ stat, int64_t rows,
                            int64_t cols, int64_t share, float beta) {
    constexpr int SUMS = CENTRED ? 2 : 1;
    int64_t first = blockIdx.x * share, last = first + share < rows ? first + share : rows;
    if (partial) {
        partial += (int64_t)blockIdx.x * SUMS * cols;
        for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS)
            for (int s = 0; s < SUMS; s++) partial[s * cols + c] = 0.0f;
    }
    for (int64_t row = first; row < last; row++) {
        const T *vx = x + row * cols, *vdy = dy + row * cols;
        float mean = CENTRED ? stat[2 * row] : 0.0f, r = stat[SUMS * row + SUMS - 1];
        float se = 0.0f, seh = 0.0f;
        for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) {
            float d = to_float(vdy[c]), h = (to_float(vx[c]) - mean) * r;
            float e = d * to_float(w[c]);
            se += e;
            seh += e * h;
            if (!partial) continue;
            partial[c] += d * h;
            if (CENTRED) partial[cols + c] += d;
        }
        if (!dx) continue;
        se = CENTRED ? block_sum(se) / (float)cols : 0.0f;
        seh = block_sum(seh) / (float)cols;
        for (int64_t c = threadIdx.x; c < cols; c += ROW_THREADS) {
            float h = (to_float(vx[c]) - mean) * r;
            add_element(dx + row * cols + c, r * (to_float(vdy[c]) * to_float(w[c]) - se - h * seh),
                        beta);
        }
    }
}

// The weight's gradient (input 1, sums number 0) and the bias's (input 2, sums number 1).
static dopl_status gather_sums(dopl_rt *rt, dopl_node *n, const float *partial, int n_sum,
                               int64_t cols, int parts) {
    for (int which = 0; which < n_sum; which++) {
        int input = 1 + which;
        if (!dopl_grad_wants(n, input)) continue;
        dopl_tensor *d;
        float beta;
        DOPL_TRY(dopl_grad_into(rt, n, input, &d, &beta));
        DISPATCH(d->dtype, G, {
            DOPL_TRY(partial_sums(rt, n->name, data_of<G>(d), partial + which * cols, cols,
                                  n_sum * cols, parts, 1.0f, beta));
        });
    }
    return DOPL_OK;
}

template <class T, class G, bool CENTRED>
static dopl_status launch_grad(dopl_rt *rt, dopl_node *n, const dopl_tensor *d, float beta,
                               float *partial, int parts, int64_t share) {
    int64_t rows = dopl_tensor_rows(&n->out), cols = dopl_tensor_cols(&n->out);
    G *dx = d ? data_of<G>(d) : NULL;
    const T *dy = data_of<T>(&n->dout), *x = data_of<T>(&n->in[0]), *w = data_of<T>(&n->in[1]);
    const float *stat = data_of<float>(&n->saved[0]);
    if constexpr (sizeof(T) == sizeof(G)) {
        bool packed = packs(x, cols) && aligned(dx, dy, w);
        constexpr int64_t once = pack<T>::N * ROW_THREADS; // columns, a pack in every thread
        if (packed && cols > once && cols <= 2 * once) { // with 4 packs few threads would be there
            DOPL_LAUNCH((norm_grad_kernel<T, 2, ROW_THREADS, CENTRED>), parts, ROW_THREADS, 0, rt,
                        dx, partial, dy, x, w, stat, rows, (int)cols, share, beta);
            return dopl_cuda_launched(rt, n->name);
        }
        DISPATCH_ROW(
            T, cols, packed, 1, 4,
            {
                DOPL_LAUNCH((norm_grad_looped_kernel<T, G, CENTRED>), parts, ROW_THREADS, 0, rt, dx,
                            partial, dy, x, w, stat, rows, cols, share, beta);
            },
            {
                DOPL_LAUNCH((norm_grad_kernel<T, PACKS, THREADS, CENTRED>), parts, ROW_THREADS, 0,
                            rt, dx, partial, dy, x, w, stat, rows, (int)cols, share, beta);
            });
    } else {
        DOPL_LAUNCH((norm_grad_looped_kernel<T, G, CENTRED>), parts, ROW_THREADS, 0, rt, dx,
                    partial, dy, x, w, stat, rows, cols, share, beta);
    }
    return dopl_cuda_launched(rt, n->name);
}

template <bool CENTRED> static dopl_status norm_grad(dopl_rt *rt, dopl_node *n) {
    constexpr int SUMS = CENTRED ? 2 : 1;
    int64_t rows = dopl_tensor_rows(&n->out), cols = dopl_tensor_cols(&n->out);
    dopl_tensor *d = NULL;
    float beta = 0.0f;
    if (dopl_grad_wants(n, 0)) DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t parts = ceil_div(rows, NORM_LEAST);
    if (parts > NORM_SHARES) parts = NORM_SHARES;
    int64_t share = parts ? ceil_div(rows, parts) : 0;
    if (share) parts = ceil_div(rows, share); // none is empty
    void *partial = NULL;
    if (dopl_grad_wants(n, 1) || (CENTRED && dopl_grad_wants(n, 2)))
        DOPL_TRY(dopl_cuda_alloc(rt, &partial, (size_t)(parts * SUMS * cols) * sizeof(float)));
    dopl_status status = DOPL_OK;
    if (rows * cols > 0)
        DISPATCH_GRADIENT(n->dout.dtype, d ? d->dtype : n->dout.dtype, T, G, {
            status = launch_grad<T, G, CENTRED>(rt, n, d, beta, static_cast<float *>(partial),
                                                (int)parts, share);
        });
    if (status == DOPL_OK && partial)
        status = gather_sums(rt, n, static_cast<const float *>(partial), SUMS, cols, (int)parts);
    dopl_cuda_free(rt, partial);
    return status;
}

dopl_status op_rms_norm_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return norm_grad<false>(rt, n);
}

dopl_status op_layer_norm_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return norm_grad<true>(rt, n);
}

// attention.cu - causal self-attention over packed sequences, with grouped key/value heads.
//
// Two ways: bf16 heads of up to 128 columns on tensor cores (attention_mma.cuh), all else in f32
// (attention_plain.cuh). Nothing of size T x T exists. The forward saves the log-sum-exp of every
// row of scores; the backward recomputes probabilities from it in two passes, over queries for dq
// and over keys for dk and dv, so that each gradient has one writer and no atomics.
//
// What is launched depends on shapes alone, not on where sequences begin: a captured step can run
// again with other offsets. Hence the list of tiles is made on the device, as long as it can get;
// the backward finds it saved beside the log-sum-exp.
#include "attention_mma.cuh"
#include "attention_plain.cuh"

// ---- the list of tiles (attention.cuh)

enum { WEIGHTS = 64 }; // heavier tiles are not told apart

// One block; threads take sequences. A counting sort: atomics on integers decide the order within a
// weight, which no result depends on.
__global__ void attention_tiles_kernel(attention_tile *__restrict__ list, int64_t n_list,
                                       const int32_t *__restrict__ offset, // [n_sequences + 1]
                                       int64_t n_sequences) {
    __shared__ int count[WEIGHTS], next[WEIGHTS], total;
    if (threadIdx.x < WEIGHTS) count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t b = threadIdx.x; b < n_sequences; b += blockDim.x) {
        int n = (offset[b + 1] - offset[b] + TILE - 1) / TILE;
        for (int w = 1; w <= n; w++) atomicAdd(&count[(w < WEIGHTS ? w : WEIGHTS) - 1], 1);
    }
    __syncthreads();
    if (threadIdx.x < WEIGHTS) {
        int heavier = 0;
        for (int w = threadIdx.x + 1; w < WEIGHTS; w++) heavier += count[w];
        next[threadIdx.x] = heavier;
        if (threadIdx.x == 0) total = heavier + count[0];
    }
    __syncthreads();
    for (int64_t b = threadIdx.x; b < n_sequences; b += blockDim.x) {
        int first = offset[b], len = offset[b + 1] - first, n = (len + TILE - 1) / TILE;
        for (int w = 1; w <= n; w++) {
            attention_tile t = { first, len, w, 0 };
            list[atomicAdd(&next[(w < WEIGHTS ? w : WEIGHTS) - 1], 1)] = t;
        }
    }
    for (int64_t i = total + threadIdx.x; i < n_list; i += blockDim.x) list[i].weight = 0;
}

static int64_t list_length(int64_t rows, int64_t n_sequences) {
    return rows / TILE + (n_sequences < rows ? n_sequences : rows); // a short tile a sequence
}

// ---- delta = dout . out

// 8 lanes for each row of a head, 16 bytes at a time where `packed`. Bound by memory.
template <class T>
__global__ void attention_delta_kernel(float *__restrict__ delta,  // [heads, T]
                                       const T *__restrict__ dout, // [T, heads cols]
                                       const T *__restrict__ out,  // [T, heads cols]
                                       int64_t rows, int heads, int cols, bool packed) {
    int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 8;
    int lane = threadIdx.x % 8;
    float sum = 0.0f;
    if (at < rows * heads) {
        const T *x = dout + at * cols, *y = out + at * cols;
        if (packed) {
            for (int c = lane * pack<T>::N; c < cols; c += 8 * pack<T>::N) {
                pack<T> a = load_pack(x + c), b = load_pack(y + c);
                for (int i = 0; i < pack<T>::N; i++) sum += to_float(a.x[i]) * to_float(b.x[i]);
            }
        } else {
            for (int c = lane; c < cols; c += 8) sum += to_float(x[c]) * to_float(y[c]);
        }
    }
    for (int k = 4; k; k /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, k);
    if (lane == 0 && at < rows * heads) delta[at % heads * rows + at / heads] = sum;
}

// ---- the host's side

typedef struct {
    attention_plan plan;
    int64_t n_tiles; // of the list
    bool on_tensor_cores;
} attention_work;

// Whether heads fit fragments, and the tiles of the pass that needs most what a block may have: all
// widths do on sm_80 and sm_90, not the largest on their smaller siblings.
static bool fits_tensor_cores(const dopl_rt *rt, const dopl_tensor *qkv, int cols) {
    if (qkv->dtype != DOPL_BF16 || cols > 128 || !packs(data_of<bf16>(qkv), cols)) return false;
    int limit = 0;
    cudaError_t error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                               dopl_cuda_of(rt)->ordinal);
    int64_t width = ceil_div(cols, 32) * 32;
    return error == cudaSuccess && 4 * TILE * (width + 8) * 2 + 4 * TILE * 4 <= limit;
}

// All but the list of tiles.
static dopl_status prepare(dopl_rt *rt, attention_work *work, const dopl_tensor *qkv,
                           const dopl_tensor *offsets, const dopl_attr *attr) {
    attention_plan p = {};
    p.rows = qkv->dim[0];
    p.ld = qkv->dim[1];
    p.heads = (int)attr[0].i;
    p.kv_heads = (int)attr[1].i;
    p.group = p.heads / p.kv_heads;
    p.cols = (int)(p.ld / (p.heads + 2 * p.kv_heads));
    p.scale = 1.0f / sqrtf((float)p.cols);
    work->n_tiles = list_length(p.rows, offsets->dim[0] - 1);
    if (work->n_tiles * p.heads > INT32_MAX)
        return dopl_fail(rt, DOPL_ESHAPE, "attention: qkv %s has more rows than one launch takes",
                         dopl_shape_str(qkv).s);
    work->on_tensor_cores = fits_tensor_cores(rt, qkv, p.cols);
    work->plan = p;
    return DOPL_OK;
}

// Launches with more dynamic shared memory than a kernel gets unasked. Runs a failure up.
#define LAUNCH_WITH(kernel, grid, block, shared_bytes, ...)                                        \
    do {                                                                                           \
        DOPL_TRY(dopl_cuda_result(                                                                 \
            rt,                                                                                    \
            cudaFuncSetAttribute(DOPL_UNPACK kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,  \
                                 (int)(shared_bytes)),                                             \
            "attention"));                                                                         \
        DOPL_LAUNCH(kernel, grid, block, shared_bytes, rt, __VA_ARGS__);                           \
        DOPL_TRY(dopl_cuda_launched(rt, "attention"));                                             \
    } while (0)

// Runs `...` with D the width of `cols` on tensor cores.
#define DISPATCH_WIDTH(cols, D, ...)                                                               \
    do {                                                                                           \
        if ((cols) <= 32) {                                                                        \
            constexpr int D = 32;                                                                  \
            __VA_ARGS__                                                                            \
        } else if ((cols) <= 64) {                                                                 \
            constexpr int D = 64;                                                                  \
            __VA_ARGS__                                                                            \
        } else if ((cols) <= 96) {                                                                 \
            constexpr int D = 96;                                                                  \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            constexpr int D = 128;                                                                 \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

constexpr size_t PLAIN_SHARED = 3 * PLAIN_SIZE * sizeof(float);

static dopl_status forward(dopl_rt *rt, dopl_op_call *c, attention_work *w, attention_tile *list,
                           float *lse) {
    w->plan.tile = list;
    const attention_plan &p = w->plan;
    const int32_t *offset;
    DOPL_TRY(dopl_cuda_index(rt, c->in[1], &offset));
    DOPL_LAUNCH((attention_tiles_kernel), 1, 256, 0, rt, list, w->n_tiles, offset,
                c->in[1]->dim[0] - 1);
    DOPL_TRY(dopl_cuda_launched(rt, "attention"));
    unsigned blocks = (unsigned)(w->n_tiles * p.heads);
    if (w->on_tensor_cores) {
        DISPATCH_WIDTH(p.cols, D, {
            LAUNCH_WITH((attention_mma_kernel<D>), blocks, MMA_THREADS,
                        4 * TILE * (D + 8) * sizeof(bf16), data_of<bf16>(c->out), lse,
                        data_of<bf16>(c->in[0]), p);
        });
    } else {
        dim3 grid(blocks, (unsigned)ceil_div(p.cols, TILE));
        DISPATCH(c->dtype, T, {
            LAUNCH_WITH((attention_plain_kernel<T>), grid, PLAIN_THREADS, PLAIN_SHARED,
                        data_of<T>(c->out), lse, data_of<T>(c->in[0]), p);
        });
    }
    return DOPL_OK;
}

extern "C" dopl_status op_attention_cuda(dopl_rt *rt, dopl_op_call *c) {
    attention_work work;
    DOPL_TRY(prepare(rt, &work, c->in[0], c->in[1], c->attr));
    int64_t rows[] = { c->attr[0].i, c->in[0]->dim[0] }, tiles[] = { work.n_tiles, 4 };
    if (c->record) {
        DOPL_TRY(op_save(rt, c, 0, 2, rows));
        DOPL_TRY(op_save(rt, c, 1, 2, tiles)); // attention_tile, of the same size
    }
    if (work.n_tiles == 0) return DOPL_OK;
    if (c->record)
        return forward(rt, c, &work, data_of<attention_tile>(&c->saved[1]),
                       data_of<float>(&c->saved[0]));
    void *list;
    DOPL_TRY(dopl_cuda_alloc(rt, &list, (size_t)work.n_tiles * sizeof(attention_tile)));
    dopl_status status = forward(rt, c, &work, static_cast<attention_tile *>(list), nullptr);
    dopl_cuda_free(rt, list);
    return status;
}

template <class T>
static dopl_status backward_plain(dopl_rt *rt, const attention_work *w, dopl_node *n,
                                  const attention_gradient &d, float *delta) {
    const attention_plan &p = w->plan;
    const T *qkv = data_of<T>(&n->in[0]), *dout = data_of<T>(&n->dout);
    const T *out = data_of<T>(&n->out);
    const float *lse = data_of<float>(&n->saved[0]);
    DOPL_LAUNCH((attention_delta_kernel<T>), (unsigned)ceil_div(p.rows * p.heads, 32), 256, 0, rt,
                delta, dout, out, p.rows, p.heads, p.cols,
                packs(dout, p.cols) && packs(out, p.cols));
    DOPL_TRY(dopl_cuda_launched(rt, "attention"));
    unsigned chunks = (unsigned)ceil_div(p.cols, TILE);
    LAUNCH_WITH((attention_plain_dq_kernel<T>), dim3((unsigned)(w->n_tiles * p.heads), chunks),
                PLAIN_THREADS, PLAIN_SHARED, d, qkv, dout, lse, delta, p);
    LAUNCH_WITH((attention_plain_dkv_kernel<T>), dim3((unsigned)(w->n_tiles * p.kv_heads), chunks),
                PLAIN_THREADS, PLAIN_SHARED, d, qkv, dout, lse, delta, p);
    return DOPL_OK;
}

template <int D>
static dopl_status backward_mma(dopl_rt *rt, const attention_work *w, dopl_node *n,
                                const attention_gradient &d, float *delta) {
    const attention_plan &p = w->plan;
    const bf16 *qkv = data_of<bf16>(&n->in[0]), *dout = data_of<bf16>(&n->dout);
    const float *lse = data_of<float>(&n->saved[0]);
    size_t tiles = 4 * TILE * (D + 8) * sizeof(bf16);
    LAUNCH_WITH((attention_mma_dq_kernel<D>), (unsigned)(w->n_tiles * p.heads), MMA_THREADS, tiles,
                d, delta, qkv, data_of<bf16>(&n->out), dout, lse, p);
    LAUNCH_WITH((attention_mma_dkv_kernel<D>), (unsigned)(w->n_tiles * p.kv_heads), MMA_THREADS,
                tiles + 4 * TILE * sizeof(float), d, qkv, dout, lse, delta, p);
    return DOPL_OK;
}

static dopl_status backward(dopl_rt *rt, const attention_work *w, dopl_node *n,
                            const attention_gradient &d, float *delta) {
    const attention_plan &p = w->plan;
    bool aligned = packs(data_of<bf16>(&n->dout), p.cols) && packs(data_of<bf16>(&n->out), p.cols);
    if (w->on_tensor_cores && aligned && reinterpret_cast<uintptr_t>(d.x) % 16 == 0)
        DISPATCH_WIDTH(p.cols, D, { return backward_mma<D>(rt, w, n, d, delta); });
    DISPATCH(n->out.dtype, T, { return backward_plain<T>(rt, w, n, d, delta); });
}

extern "C" dopl_status op_attention_cuda_backward(dopl_rt *rt, dopl_node *n) {
    if (!dopl_grad_wants(n, 0)) return DOPL_OK;
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    attention_gradient g = { dopl_data(d), d->dtype == DOPL_F32, beta != 0.0f };
    attention_work work;
    DOPL_TRY(prepare(rt, &work, &n->in[0], &n->in[1], n->attr));
    if (work.n_tiles == 0) return DOPL_OK;
    work.plan.tile = data_of<attention_tile>(&n->saved[1]);
    void *delta;
    DOPL_TRY(
        dopl_cuda_alloc(rt, &delta, (size_t)(work.plan.rows * work.plan.heads) * sizeof(float)));
    dopl_status status = backward(rt, &work, n, g, static_cast<float *>(delta));
    dopl_cuda_free(rt, delta);
    return status;
}

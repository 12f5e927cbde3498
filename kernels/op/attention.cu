// attention.cu - causal self-attention over packed sequences, with grouped key/value heads.
//
// Two ways: bf16 heads of up to 128 columns on tensor cores (attention_mma.cuh), all else in f32
// (attention_plain.cuh). Nothing of size T x T exists. The forward saves the log-sum-exp of every
// row of scores; the backward recomputes probabilities from it in two passes, over queries for dq
// and over keys for dk and dv, so that each gradient has one writer and no atomics.
//
// What is launched depends on shapes alone, not on where sequences begin: a captured step can run
// again with other offsets. The list of tiles is made once for a batch, with all its layers and
// its backward, and kept beside the offsets.
#include "attention_mma.cuh"
#include "attention_plain.cuh"

#include <algorithm>

// ---- the list of tiles (attention.cuh)

static void list_tiles(void *table, size_t bytes, const dopl_tensor *offsets) {
    attention_tile *list = static_cast<attention_tile *>(table);
    const int32_t *offset = dopl_i32(offsets);
    size_t n = 0;
    memset(table, 0, bytes); // what is left over has nothing to do
    for (int64_t b = 0; b < offsets->dim[0] - 1; b++) {
        int first = offset[b], len = offset[b + 1] - first;
        for (int w = (len + TILE - 1) / TILE; w; w--) list[n++] = { first, len, w, 0 };
    }
    std::sort(list, list + n, [](const attention_tile &a, const attention_tile &b) {
        return a.weight != b.weight ? a.weight > b.weight : a.first < b.first;
    });
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

static dopl_status prepare(dopl_rt *rt, attention_work *work, const dopl_tensor *qkv,
                           const dopl_tensor *offsets, const op_attention_attrs *a) {
    attention_plan p = {};
    p.rows = qkv->dim[0];
    p.ld = qkv->dim[1];
    p.heads = (int)a->heads;
    p.kv_heads = (int)a->kv_heads;
    p.group = p.heads / p.kv_heads;
    p.cols = (int)(p.ld / (p.heads + 2 * p.kv_heads));
    p.scale = 1.0f / sqrtf((float)p.cols);
    work->n_tiles = list_length(p.rows, offsets->dim[0] - 1);
    work->on_tensor_cores = fits_tensor_cores(rt, qkv, p.cols);
    work->plan = p;
    if (work->n_tiles == 0) return DOPL_OK;
    const void *list;
    DOPL_TRY(dopl_cuda_table(rt, offsets, list_tiles,
                             (size_t)work->n_tiles * sizeof(attention_tile), &list));
    work->plan.tile = static_cast<const attention_tile *>(list);
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

static dopl_status forward(dopl_rt *rt, dopl_op_call *c, const attention_work *w, float *lse) {
    const attention_plan &p = w->plan;
    unsigned blocks = (unsigned)(w->n_tiles * p.heads);
    if (w->on_tensor_cores) {
        DISPATCH_WIDTH(p.cols, D, {
            LAUNCH_WITH((attention_mma_kernel<D>), blocks, MMA_THREADS,
                        4 * TILE * (D + 8) * sizeof(bf16), data_of<bf16>(c->out), lse,
                        data_of<bf16>(c->in[0]), p.scale * LOG2_E, p);
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

// One launch has a block for each head and tile.
extern "C" dopl_status op_attention_cuda_supports(dopl_rt *rt, const dopl_op_call *c) {
    int64_t heads = OP_ATTRS(attention, c)->heads;
    int64_t n_tiles = list_length(c->in[0]->dim[0], c->in[1]->dim[0] - 1);
    if (n_tiles <= INT32_MAX / heads) return DOPL_OK;
    return op_unsupported(rt, c, "heads = %lld with qkv %s: one launch takes at most %lld rows",
                          (long long)heads, dopl_shape_str(c->in[0]).s,
                          (long long)(INT32_MAX / heads * TILE));
}

extern "C" dopl_status op_attention_cuda(dopl_rt *rt, dopl_op_call *c) {
    attention_work work;
    const op_attention_attrs *a = OP_ATTRS(attention, c);
    DOPL_TRY(prepare(rt, &work, c->in[0], c->in[1], a));
    int64_t rows[] = { a->heads, c->in[0]->dim[0] };
    if (c->record) DOPL_TRY(op_save(rt, c, 0, 2, rows));
    if (work.n_tiles == 0) return DOPL_OK;
    return forward(rt, c, &work, c->record ? data_of<float>(&c->saved[0]) : nullptr);
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
    DOPL_TRY(prepare(rt, &work, &n->in[0], &n->in[1], OP_ATTRS(attention, n)));
    if (work.n_tiles == 0) return DOPL_OK;
    void *delta;
    DOPL_TRY(
        dopl_cuda_alloc(rt, &delta, (size_t)(work.plan.rows * work.plan.heads) * sizeof(float)));
    dopl_status status = backward(rt, &work, n, g, static_cast<float *>(delta));
    dopl_cuda_free(rt, delta);
    return status;
}

// embedding.cu - rows of a table by index.
//
// The gradient of the table adds rows of dy at repeated indices, in a fixed order and without
// atomics: a stable order of the tokens by index is found on the device, so that the host, which
// has the indices too, has nothing to compute or to upload between the kernels of a backward and a
// step can be replayed as a graph. Each token's place in that order is counted, N comparisons for
// each of N tokens: 6 us of a large device for 8192 tokens, where the products of that step take
// 100 ms.
#include "../elements.cuh"

// Element i of the output is column i % C of row i / C.
template <class T> struct embedding_value {
    T *y;                 // [n, C]
    const T *table;       // [V, C]
    const int32_t *index; // [n]
    int64_t C;
    template <int N> __device__ void at(int64_t i) const {
        float v[N];
        int64_t row = i / C;
        load_elements<N>(v, table + index[row] * C + (i - row * C));
        store_elements<N>(y + i, v);
    }
};

dopl_status op_embedding_cuda(dopl_rt *rt, dopl_op_call *c) {
    int64_t n = dopl_tensor_numel(c->out), C = c->out->dim[1];
    if (n == 0) return DOPL_OK;
    const int32_t *index;
    DOPL_TRY(dopl_cuda_index(rt, c->in[1], &index));
    DISPATCH(c->dtype, T, {
        embedding_value<T> f = { data_of<T>(c->out), data_of<T>(c->in[0]), index, C };
        return pointwise<T>(rt, "embedding", f, n, packs(f.table, C) && aligned(f.y));
    });
}

// order[place] = token, tokens sorted by index and, where that is the same, by number. A token's
// place is how many come before it. A block places 32 tokens, one to a lane; its warps take shares
// of each tile of indices in shared memory and add up their counts. Bound by instructions: one
// comparison and one addition for each pair.
constexpr int PLACE_THREADS = 256, PLACE_TILE = 1024;

__global__ void __launch_bounds__(PLACE_THREADS)
    place_kernel(int32_t *__restrict__ order,       // [n]
                 const int32_t *__restrict__ index, // [n]
                 int n) {
    constexpr int WARPS = PLACE_THREADS / WARP, SHARE = PLACE_TILE / WARPS;
    __shared__ __align__(16) int32_t tile[PLACE_TILE];
    __shared__ int count[WARPS][WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, base = (int)blockIdx.x * WARP;
    int token = base + lane, mine = token < n ? index[token] : 0, before = 0;
    for (int first = 0; first < n; first += PLACE_TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < PLACE_TILE; i += PLACE_THREADS)
            tile[i] = first + i < n ? index[first + i] : INT32_MAX; // comes before nobody
        __syncthreads();
        int from = first + warp * SHARE; // of the whole
        const int4 *share = reinterpret_cast<const int4 *>(tile + warp * SHARE);
        // Of tokens before this one equal indices count too: x <= mine is x < mine + 1. Indices are
        // below those of a table's rows, so that mine + 1 is no overflow.
        if (from + SHARE <= base || from >= base + WARP) {
            int limit = mine + (from < token);
            for (int i = 0; i < SHARE / 4; i++) {
                int4 x = share[i];
                before += (x.x < limit) + (x.y < limit) + (x.z < limit) + (x.w < limit);
            }
        } else { // some of the 32 tokens are in this share
            for (int i = 0; i < SHARE; i++)
                before += tile[warp * SHARE + i] < mine + (from + i < token);
        }
    }
    count[warp][lane] = before;
    __syncthreads();
    if (warp > 0 || token >= n) return;
    for (int w = 1; w < WARPS; w++) before += count[w][lane];
    order[before] = token;
}

// dtable[index] += the rows of dy with that index, in the order of tokens. The block at the first
// place of an index has its row, a thread N columns of it. Bound by memory, but for an index that
// many tokens share: its rows are read four at a time.
constexpr int GATHER_THREADS = 256;

template <int N, class T, class G>
__global__ void __launch_bounds__(GATHER_THREADS)
    gather_rows_kernel(G *__restrict__ dtable,            // [V, C]
                       const T *__restrict__ dy,          // [n, C]
                       const int32_t *__restrict__ index, // [n]
                       const int32_t *__restrict__ order, // [n]
                       int n, int64_t C) {
    int place = blockIdx.x, v = index[order[place]];
    if (place > 0 && index[order[place - 1]] == v) return;
    int last = place + 1; // one past the last place of v, by bisection: v may fill the batch
    for (int beyond = n; last < beyond;) {
        int middle = last + (beyond - last) / 2;
        if (index[order[middle]] == v)
            last = middle + 1;
        else
            beyond = middle;
    }
    for (int64_t c = (int64_t)threadIdx.x * N; c < C; c += GATHER_THREADS * N) {
        float sum[N] = {};
        int p = place;
        for (; p + 4 <= last; p += 4) {
            float x[4][N];
            for (int k = 0; k < 4; k++) load_elements<N>(x[k], dy + order[p + k] * C + c);
            for (int k = 0; k < 4; k++)
                for (int i = 0; i < N; i++) sum[i] += x[k][i];
        }
        for (; p < last; p++) {
            float x[N];
            load_elements<N>(x, dy + order[p] * C + c);
            for (int i = 0; i < N; i++) sum[i] += x[i];
        }
        add_elements<N>(dtable + v * C + c, sum, 1.0f);
    }
}

template <class T, class G>
static dopl_status gather_rows(dopl_rt *rt, G *dtable, const T *dy, const int32_t *index,
                               const int32_t *order, int n, int64_t C) {
    constexpr int N = pack<T>::N;
    if (packs(dy, C) && packs(dtable, C))
        DOPL_LAUNCH((gather_rows_kernel<N, T, G>), n, GATHER_THREADS, 0, rt, dtable, dy, index,
                    order, n, C);
    else
        DOPL_LAUNCH((gather_rows_kernel<1, T, G>), n, GATHER_THREADS, 0, rt, dtable, dy, index,
                    order, n, C);
    return dopl_cuda_launched(rt, "embedding backward");
}

dopl_status op_embedding_cuda_backward(dopl_rt *rt, dopl_node *node) {
    if (!dopl_grad_wants(node, 0)) return DOPL_OK;
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, node, 0, &d, &beta));
    if (beta == 0.0f) DOPL_TRY(dopl_tensor_fill(rt, d, 0.0));
    int64_t n = node->out.dim[0], C = node->out.dim[1];
    if (n * C == 0) return DOPL_OK;
    const int32_t *index;
    void *order;
    DOPL_TRY(dopl_cuda_index(rt, &node->in[1], &index));
    DOPL_TRY(dopl_cuda_alloc(rt, &order, (size_t)n * sizeof(int32_t)));
    DOPL_LAUNCH((place_kernel), (unsigned)ceil_div(n, WARP), PLACE_THREADS, 0, rt,
                static_cast<int32_t *>(order), index, (int)n);
    dopl_status status = dopl_cuda_launched(rt, "embedding backward: places");
    if (status == DOPL_OK)
        DISPATCH_GRADIENT(node->dout.dtype, d->dtype, T, G, {
            status = gather_rows<T, G>(rt, data_of<G>(d), data_of<T>(&node->dout), index,
                                       static_cast<const int32_t *>(order), (int)n, C);
        });
    dopl_cuda_free(rt, order);
    return status;
}

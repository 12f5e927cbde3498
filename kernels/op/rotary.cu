// rotary.cu - rotary position embedding on the first heads*head_dim columns of each row; the others
// are copied. The backward is the rotation by minus the angle.
#include "../elements.cuh"

#include <cmath>

// The turns (of 2 pi) that each of up to STRIP pairs makes from one position to the next. They
// travel as an argument of the kernel; a head of more than 2 STRIP columns takes several launches.
constexpr int STRIP = 256;
struct frequencies {
    double turns[STRIP];
};

// Cosine and sine of 2 pi `turns`. What is left after whole quarters is exact in f64, so that the
// angle has the rounding of f32 at any position; polynomials on [-pi/4, pi/4] (Cephes, sinf, cosf).
__device__ __forceinline__ void cosine_sine(double turns, float *cosine, float *sine) {
    double quarters = rint(4.0 * turns);
    float a = (float)((4.0 * turns - quarters) * 1.57079632679489662), z = a * a;
    float s = -1.9515295891e-4f, c = 2.443315711809948e-5f;
    s = fmaf(s, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f);
    s = fmaf(s * z, a, a);
    c = fmaf(c, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f);
    c = fmaf(c * z, z, fmaf(-0.5f, z, 1.0f));
    int quadrant = (int)((long long)quarters & 3);
    *cosine = quadrant & 1 ? s : c;
    *sine = quadrant & 1 ? c : s;
    if (quadrant == 1 || quadrant == 2) *cosine = -*cosine;
    if (quadrant & 2) *sine = -*sine;
}

// A block has a row: it makes the row's cosines and sines once, in shared memory, then a thread
// turns N pairs of one head, or copies N of the columns after the heads. Bound by memory.
template <int N, class T, class G>
__global__ void rotary_kernel(G *__restrict__ y,                    // [T, cols], beta y + turned x
                              const T *__restrict__ x,              // [T, cols]
                              const int32_t *__restrict__ position, // [T]
                              int64_t cols, int heads, int half,    // half: pairs of a head
                              int first, int n_pair,                // those of this launch
                              float sign, float beta, const frequencies f) {
    __shared__ __align__(16) float cosines[STRIP], sines[STRIP];
    int64_t row = blockIdx.x;
    for (int i = threadIdx.x; i < n_pair; i += blockDim.x) {
        cosine_sine((double)position[row] * f.turns[i], &cosines[i], &sines[i]);
        sines[i] *= sign;
    }
    __syncthreads();
    x += row * cols;
    y += row * cols;
    int per_head = n_pair / N, turning = heads * per_head;
    int64_t rest = (int64_t)heads * 2 * half; // the first column to copy
    int64_t items = turning + (first == 0 ? (cols - rest) / N : 0);
    for (int64_t k = threadIdx.x; k < items; k += blockDim.x) {
        float a[N], b[N], cosine[N], sine[N];
        if (k >= turning) {
            int64_t c = rest + (k - turning) * N;
            load_elements<N>(a, x + c);
            add_elements<N>(y + c, a, beta);
            continue;
        }
        int head = (int)k / per_head, i = ((int)k - head * per_head) * N;
        int64_t c = (int64_t)head * 2 * half + first + i;
        load_elements<N>(a, x + c);
        load_elements<N>(b, x + c + half);
        load_elements<N>(cosine, cosines + i);
        load_elements<N>(sine, sines + i);
        for (int j = 0; j < N; j++) {
            float p = a[j], q = b[j];
            a[j] = p * cosine[j] - q * sine[j];
            b[j] = q * cosine[j] + p * sine[j];
        }
        add_elements<N>(y + c, a, beta);
        add_elements<N>(y + c + half, b, beta);
    }
}

template <class T, class G>
static dopl_status turn(dopl_rt *rt, const char *what, G *y, const T *x, const int32_t *position,
                        int64_t rows, int64_t cols, const op_rotary_attrs *a, float sign,
                        float beta) {
    constexpr int N = pack<T>::N;
    int heads = (int)a->heads, half = (int)(a->head_dim / 2);
    bool packed = packs(x, cols) && aligned(y) && half % N == 0;
    for (int first = 0; first < half; first += STRIP) {
        int n_pair = half - first < STRIP ? half - first : STRIP;
        frequencies f = {}; // all of it: equal launches are equal bytes
        for (int i = 0; i < n_pair; i++)
            f.turns[i] =
                std::pow(a->base, -(double)(first + i) / (double)half) / 6.28318530717958648;
        int64_t items = (cols - (int64_t)heads * (2 * half - n_pair)) / (packed ? N : 1);
        int threads = items >= 256 ? 256 : items > 128 ? 128 : 64;
        if (packed)
            DOPL_LAUNCH((rotary_kernel<N, T, G>), (unsigned)rows, threads, 0, rt, y, x, position,
                        cols, heads, half, first, n_pair, sign, beta, f);
        else
            DOPL_LAUNCH((rotary_kernel<1, T, G>), (unsigned)rows, threads, 0, rt, y, x, position,
                        cols, heads, half, first, n_pair, sign, beta, f);
        DOPL_TRY(dopl_cuda_launched(rt, what));
    }
    return DOPL_OK;
}

dopl_status op_rotary_cuda(dopl_rt *rt, dopl_op_call *c) {
    const int32_t *p = dopl_i32(c->in[1]), *position;
    int64_t rows = c->out->dim[0], cols = c->out->dim[1];
    for (int64_t t = 0; t < rows; t++)
        if (p[t] < 0 || p[t] >= 1 << 24)
            return dopl_fail(rt, DOPL_EARG, "rotary: position %d of row %lld, needs 0 to 2^24-1",
                             p[t], (long long)t);
    if (rows == 0) return DOPL_OK;
    DOPL_TRY(dopl_cuda_index(rt, c->in[1], &position));
    DISPATCH(c->dtype, T, {
        return turn(rt, "rotary", data_of<T>(c->out), data_of<T>(c->in[0]), position, rows, cols,
                    OP_ATTRS(rotary, c), 1.0f, 0.0f);
    });
}

dopl_status op_rotary_cuda_backward(dopl_rt *rt, dopl_node *n) {
    if (!dopl_grad_wants(n, 0)) return DOPL_OK;
    dopl_tensor *d;
    float beta;
    const int32_t *position;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t rows = n->out.dim[0], cols = n->out.dim[1];
    if (rows == 0) return DOPL_OK;
    DOPL_TRY(dopl_cuda_index(rt, &n->in[1], &position));
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        return turn(rt, "rotary backward", data_of<G>(d), data_of<T>(&n->dout), position, rows,
                    cols, OP_ATTRS(rotary, n), -1.0f, beta);
    });
}

// dropout.cu - inverted dropout: the mask of runtime/op/dropout.c, bit for bit.
#include "../elements.cuh"
#include "../../runtime/core/rng.h"

// A draw gives the numbers of four elements. Bound by memory, though not by much: ten rounds for
// four elements are half of what a multiprocessor can compute while they pass.
template <class T, class G> struct drop {
    G *y;       // [n], beta y + x mask / (1 - p)
    const T *x; // [n]
    float p, keep, beta;
    uint64_t seed, stream;
    template <int N> __device__ void at(int64_t i) const {
        float v[N];
        load_elements<N>(v, x + i);
        if constexpr (N % 4 == 0) {
            for (int k = 0; k < N; k += 4) {
                dopl_random r = dopl_philox(seed, stream, (uint64_t)(i + k) / 4);
                for (int j = 0; j < 4; j++) v[k + j] = dropped(r.v[j], v[k + j]);
            }
        } else {
            for (int k = 0; k < N; k++) {
                dopl_random r = dopl_philox(seed, stream, (uint64_t)(i + k) / 4);
                int j = (int)((i + k) % 4); // no index into r, which would put it in memory
                uint32_t low = j & 1 ? r.v[1] : r.v[0], high = j & 1 ? r.v[3] : r.v[2];
                v[k] = dropped(j & 2 ? high : low, v[k]);
            }
        }
        add_elements<N>(y + i, v, beta);
    }
    __device__ float dropped(uint32_t bits, float v) const {
        return dopl_uniform(bits) < p ? 0.0f : v * keep;
    }
};

template <class T, class G>
static dopl_status run(dopl_rt *rt, const char *what, const dopl_tensor *y, const dopl_tensor *x,
                       const op_dropout_attrs *a, float beta) {
    drop<T, G> f = {};
    f.y = data_of<G>(y);
    f.x = data_of<T>(x);
    f.p = (float)a->p;
    f.keep = 1.0f / (1.0f - f.p);
    f.beta = beta;
    f.seed = (uint64_t)a->seed;
    f.stream = (uint64_t)a->counter;
    return pointwise<T>(rt, what, f, dopl_tensor_numel(y), aligned(f.y, f.x));
}

dopl_status op_dropout_cuda(dopl_rt *rt, dopl_op_call *c) {
    DISPATCH(c->dtype, T,
             { return run<T, T>(rt, "dropout", c->out, c->in[0], OP_ATTRS(dropout, c), 0.0f); });
}

dopl_status op_dropout_cuda_backward(dopl_rt *rt, dopl_node *n) {
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        return run<T, G>(rt, "dropout backward", d, &n->dout, OP_ATTRS(dropout, n), beta);
    });
}

// gated.cu - the gated half of a SwiGLU MLP: silu(gate) * up.
#include "../elements.cuh"

// Element i of the output is column i % F of row i / F: the gate is F columns wide and up follows.
template <class T> struct silu_mul_value {
    T *y;       // [rows, F]
    const T *x; // [rows, 2 F]
    int64_t F;
    template <int N> __device__ void at(int64_t i) const {
        float gate[N], up[N];
        int64_t from = i + i / F * F;
        load_elements<N>(gate, x + from);
        load_elements<N>(up, x + from + F);
        for (int k = 0; k < N; k++) up[k] *= gate[k] * sigmoid(gate[k]);
        store_elements<N>(y + i, up);
    }
};

template <class T, class G> struct silu_mul_slope {
    G *dx;       // [rows, 2 F]
    const T *dy; // [rows, F]
    const T *x;  // [rows, 2 F]
    int64_t F;
    float beta;
    template <int N> __device__ void at(int64_t i) const {
        float gate[N], up[N], d[N];
        int64_t from = i + i / F * F;
        load_elements<N>(gate, x + from);
        load_elements<N>(up, x + from + F);
        load_elements<N>(d, dy + i);
        for (int k = 0; k < N; k++) {
            float g = gate[k], s = sigmoid(g);
            gate[k] = d[k] * up[k] * s * (1.0f + g * (1.0f - s));
            up[k] = d[k] * g * s;
        }
        add_elements<N>(dx + from, gate, beta);
        add_elements<N>(dx + from + F, up, beta);
    }
};

dopl_status op_silu_mul_cuda(dopl_rt *rt, dopl_op_call *c) {
    int64_t F = c->out->dim[1];
    DISPATCH(c->dtype, T, {
        silu_mul_value<T> f = { data_of<T>(c->out), data_of<T>(c->in[0]), F };
        bool packed = F % pack<T>::N == 0 && aligned(f.y, f.x);
        return pointwise<T>(rt, "silu_mul", f, dopl_tensor_numel(c->out), packed);
    });
}

dopl_status op_silu_mul_cuda_backward(dopl_rt *rt, dopl_node *n) {
    int64_t F = n->out.dim[1];
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        silu_mul_slope<T, G> f = { data_of<G>(d), data_of<T>(&n->dout), data_of<T>(&n->in[0]), F,
                                   beta };
        bool packed = F % pack<T>::N == 0 && aligned(f.dx, f.dy, f.x);
        return pointwise<T>(rt, "silu_mul backward", f, dopl_tensor_numel(&n->out), packed);
    });
}

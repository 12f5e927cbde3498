// shape.cu - operators that give the same memory another shape or a smaller window: nothing to
// compute on the way forward.
#include "../elements.cuh"

// beta 0: the whole of dx, zeros outside of the window. beta 1: the window alone, dx begins there.
template <class T, class G> struct window_slope {
    G *dx;
    const T *dy; // [count], window first .. first + count - 1 of dx
    int64_t first, count;
    float beta;
    template <int N> __device__ void at(int64_t i) const {
        float d[N] = {};
        if (i >= first && i < first + count) load_elements<N>(d, dy + (i - first));
        add_elements<N>(dx + i, d, beta);
    }
};

// dx of a window that begins at index `first` of the first dimension.
static dopl_status window_grad(dopl_rt *rt, dopl_node *n, int64_t first) {
    const dopl_tensor *x = &n->in[0];
    dopl_tensor *d;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, 0, &d, &beta));
    int64_t count = dopl_tensor_numel(&n->out);
    for (int i = 1; i < x->n_dim; i++) first *= x->dim[i];
    DISPATCH_GRADIENT(n->dout.dtype, d->dtype, T, G, {
        window_slope<T, G> f = { data_of<G>(d), data_of<T>(&n->dout), first, count, beta };
        int64_t numel = dopl_tensor_numel(d);
        if (beta != 0.0f) {
            f.dx += first;
            f.first = 0;
            numel = count;
        }
        bool whole = f.first % pack<T>::N == 0 && (count % pack<T>::N == 0 || numel == count);
        return pointwise<T>(rt, n->name, f, numel, whole && aligned(f.dx, f.dy));
    });
}

dopl_status op_slice_cuda(dopl_rt *rt, dopl_op_call *c) {
    (void)rt, (void)c;
    return DOPL_OK;
}

dopl_status op_slice_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return window_grad(rt, n, OP_ATTRS(slice, n)->first);
}

dopl_status op_select_cuda(dopl_rt *rt, dopl_op_call *c) {
    (void)rt, (void)c;
    return DOPL_OK;
}

dopl_status op_select_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return window_grad(rt, n, OP_ATTRS(select, n)->index);
}

dopl_status op_view_cuda(dopl_rt *rt, dopl_op_call *c) {
    (void)rt, (void)c;
    return DOPL_OK;
}

dopl_status op_view_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return dopl_grad_share(rt, n, 0, &n->dout);
}

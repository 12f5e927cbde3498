// concat.c - tensors of one type end to end along the first dimension.
//
// Copies are the core's, which knows every device: a back end has nothing to add
// (kernels/op/concat.cu calls these functions).
#include "op.h"
#include "../core/device.h"

// `count` rows of `whole` from row `first` on, borrowed.
static dopl_tensor window(const dopl_tensor *whole, int64_t first, int64_t count) {
    dopl_tensor rows = *whole;
    rows.dim[0] = first;
    rows.offset += dopl_tensor_numel(&rows) * (int64_t)dopl_dtype_bytes(rows.dtype);
    rows.dim[0] = count;
    return rows;
}

dopl_status op_concat_shape(dopl_rt *rt, dopl_op_call *c) {
    dopl_tensor whole = *c->in[0];
    int64_t rows = 0;
    if (whole.n_dim == 0)
        return dopl_fail(rt, DOPL_ESHAPE, "concat: input 1 is a scalar, needs a first dimension");
    for (int i = 0; i < c->n_in; i++) {
        const dopl_tensor *t = c->in[i];
        bool fits = t->n_dim == whole.n_dim && t->dtype == whole.dtype;
        for (int d = 1; fits && d < t->n_dim; d++) fits = t->dim[d] == whole.dim[d];
        if (!fits)
            return dopl_fail(rt, DOPL_ESHAPE, "concat: input %d is %s %s, the first %s %s", i + 1,
                             dopl_dtype_name(t->dtype), dopl_shape_str(t).s,
                             dopl_dtype_name(whole.dtype), dopl_shape_str(&whole).s);
        rows += t->dim[0];
    }
    whole.dim[0] = rows;
    return op_out(rt, c, whole.dtype, whole.n_dim, whole.dim);
}

dopl_status op_concat_cpu(dopl_rt *rt, dopl_op_call *c) {
    int64_t first = 0;
    for (int i = 0; i < c->n_in; i++) {
        dopl_tensor rows = window(c->out, first, c->in[i]->dim[0]);
        DOPL_TRY(dopl_tensor_copy(rt, &rows, c->in[i]));
        first += c->in[i]->dim[0];
    }
    return DOPL_OK;
}

// Each part's gradient is a copy, so that it begins where memory of its own does, as kernels that
// read 16 bytes at a time like it; and what is left of the whole's is freed.
dopl_status op_concat_backward(dopl_rt *rt, dopl_node *n) {
    int64_t first = n->out.dim[0];
    for (int i = n->n_in - 1; i >= 0; i--) {
        first -= n->in[i].dim[0];
        dopl_tensor rows = window(&n->dout, first, n->in[i].dim[0]);
        if (dopl_grad_wants(n, i)) DOPL_TRY(dopl_grad_add(rt, n, i, &rows));
    }
    return DOPL_OK;
}

// rules.c - what shape rules and kernels of many operators share.
#include "op.h"
#include "../core/device.h"

#include <stdarg.h>
#include <stdio.h>

dopl_status op_out(dopl_rt *rt, dopl_op_call *c, dopl_dtype dtype, int n_dim, const int64_t *dim) {
    return dopl_tensor_shape(rt, c->out, dtype, n_dim, dim);
}

dopl_status op_out_like(dopl_rt *rt, dopl_op_call *c, int input) {
    const dopl_tensor *t = c->in[input];
    return dopl_tensor_shape(rt, c->out, c->dtype, t->n_dim, t->dim);
}

dopl_status op_want_dims(dopl_rt *rt, const dopl_op_call *c, int input, int n_dim) {
    if (c->in[input]->n_dim == n_dim) return DOPL_OK;
    return dopl_fail(rt, DOPL_ESHAPE, "%s: input %d is %s, needs %d dimension%s", c->op->name,
                     input + 1, dopl_shape_str(c->in[input]).s, n_dim, n_dim == 1 ? "" : "s");
}

bool op_heads_fit(int64_t cols, int64_t H, int64_t K) {
    return H >= 1 && K >= 1 && H % K == 0 && cols <= INT32_MAX && H <= cols && K <= (cols - H) / 2;
}

dopl_status op_unsupported(dopl_rt *rt, const dopl_op_call *c, const char *format, ...) {
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return dopl_fail(rt, DOPL_EDEVICE, "%s: device %s does not support %s", c->op->name,
                     dopl_device_name(c->device), what);
}

dopl_status op_save(dopl_rt *rt, dopl_op_call *c, int i, int n_dim, const int64_t *dim) {
    return dopl_tensor_new_on(rt, &c->saved[i], c->device, DOPL_F32, n_dim, dim);
}

dopl_status op_check_offsets(dopl_rt *rt, const char *name, const dopl_tensor *offsets,
                             int64_t total) {
    int64_t n = dopl_tensor_numel(offsets);
    const int32_t *o = dopl_i32(offsets);
    if (offsets->n_dim != 1 || n < 1 || o[0] != 0 || o[n - 1] != total)
        return dopl_fail(
            rt, DOPL_ESHAPE, "%s: offsets %s from %d to %d, need 1 dimension, 0 to %lld", name,
            dopl_shape_str(offsets).s, n ? o[0] : -1, n ? o[n - 1] : -1, (long long)total);
    for (int64_t b = 1; b < n; b++)
        if (o[b] < o[b - 1])
            return dopl_fail(rt, DOPL_EARG, "%s: offset %lld is %d, after %d; they must not fall",
                             name, (long long)b, o[b], o[b - 1]);
    return DOPL_OK;
}

dopl_status op_check_index(dopl_rt *rt, const char *name, const dopl_tensor *index, int64_t limit) {
    int64_t n = dopl_tensor_numel(index);
    const int32_t *p = dopl_i32(index);
    for (int64_t i = 0; i < n; i++)
        if (p[i] < 0 || p[i] >= limit)
            return dopl_fail(rt, DOPL_EARG, "%s: index %d at %lld, needs 0 to %lld", name, p[i],
                             (long long)i, (long long)limit - 1);
    return DOPL_OK;
}

// tensor.c - storage, shapes, reference counts.
#include "device.h"
#include "bf16.h"

#include <stdio.h>
#include <string.h>

const char *dopl_dtype_name(dopl_dtype dtype) {
    static const char *const names[] = {
#define X(id, name, type) #name,
        DOPL_DTYPES(X)
#undef X
    };
    return names[dtype];
}

size_t dopl_dtype_bytes(dopl_dtype dtype) {
    static const size_t bytes[] = {
#define X(id, name, type) sizeof(type),
        DOPL_DTYPES(X)
#undef X
    };
    return bytes[dtype];
}

dopl_shape_text dopl_shape_str(const dopl_tensor *t) {
    dopl_shape_text text;
    size_t n = 0;
    n += (size_t)snprintf(text.s, sizeof text.s, "[");
    for (int i = 0; i < t->n_dim; i++)
        n += (size_t)snprintf(text.s + n, sizeof text.s - n, i ? ", %lld" : "%lld",
                              (long long)t->dim[i]);
    snprintf(text.s + n, sizeof text.s - n, "]");
    return text;
}

bool dopl_shape_same(const dopl_tensor *a, const dopl_tensor *b) {
    return a->n_dim == b->n_dim && memcmp(a->dim, b->dim, sizeof *a->dim * (size_t)a->n_dim) == 0;
}

int64_t dopl_tensor_numel(const dopl_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++) n *= t->dim[i];
    return n;
}

int64_t dopl_tensor_cols(const dopl_tensor *t) {
    return t->n_dim ? t->dim[t->n_dim - 1] : 1;
}

int64_t dopl_tensor_rows(const dopl_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t->n_dim; i++) n *= t->dim[i];
    return n;
}

dopl_status dopl_tensor_shape(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int n_dim,
                              const int64_t *dim) {
    memset(out, 0, sizeof *out);
    if (n_dim < 0 || n_dim > DOPL_MAX_DIM)
        return dopl_fail(rt, DOPL_ESHAPE, "tensor: %d dimensions, at most %d", n_dim, DOPL_MAX_DIM);
    int64_t bound = 1; // on products of any dimensions, so of those around a 0 too
    for (int i = 0; i < n_dim; i++) {
        if (dim[i] < 0)
            return dopl_fail(rt, DOPL_ESHAPE, "tensor: dimension %d is %lld, must not be negative",
                             i + 1, (long long)dim[i]);
        if (dim[i] > 0 && dim[i] > (INT64_C(1) << 44) / bound)
            return dopl_fail(rt, DOPL_ESHAPE, "tensor: too many elements in dimension %d (%lld)",
                             i + 1, (long long)dim[i]);
        if (dim[i] > 0) bound *= dim[i];
    }
    out->dtype = dtype;
    out->n_dim = n_dim;
    for (int i = 0; i < n_dim; i++) out->dim[i] = dim[i];
    return DOPL_OK;
}

void dopl_memory_count(dopl_rt *rt, dopl_device device, dopl_memory_kind kind, int64_t bytes) {
    dopl_memory *m = &rt->memory[device];
    m->live += (size_t)bytes;
    m->by_kind[kind] += (size_t)bytes;
    if (m->live <= m->peak) return;
    m->peak = m->live;
    memcpy(m->at_peak, m->by_kind, sizeof m->at_peak);
}

static void account(dopl_rt *rt, const dopl_storage *s) {
    dopl_memory_count(rt, s->device, s->kind, (int64_t)s->bytes);
}

static void discount(dopl_rt *rt, const dopl_storage *s) {
    dopl_memory_count(rt, s->device, s->kind, -(int64_t)s->bytes);
}

// What the back end has made of indices, counted where it lies.
static void drop(dopl_rt *rt, void **data, size_t bytes) {
    if (!*data || !rt->backend) return;
    rt->backend->free(rt, *data);
    *data = NULL;
    dopl_memory_count(rt, DOPL_GPU, DOPL_MEMORY_OTHER, -(int64_t)bytes);
}

static void drop_mirror(dopl_rt *rt, dopl_storage *s) {
    drop(rt, &s->mirror, s->bytes);
    drop(rt, &s->derived.data, s->derived.bytes);
}

dopl_status dopl_tensor_alloc(dopl_rt *rt, dopl_tensor *t) {
    dopl_storage *s;
    void *memory;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, sizeof *s));
    s = memory;
    *s = (dopl_storage){ .refs = 1, .device = t->device, .kind = rt->kind };
    s->bytes = (size_t)dopl_tensor_numel(t) * dopl_dtype_bytes(t->dtype);
    dopl_status status = s->device == DOPL_CPU ? dopl_rt_alloc(rt, &s->data, s->bytes)
                                               : rt->backend->alloc(rt, &s->data, s->bytes);
    if (status != DOPL_OK) {
        dopl_rt_free(rt, s);
        return status;
    }
    account(rt, s);
    t->storage = s;
    t->offset = 0;
    return DOPL_OK;
}

static void free_storage(dopl_rt *rt, dopl_storage *s) {
    discount(rt, s);
    if (s->device == DOPL_CPU)
        dopl_rt_free(rt, s->data);
    else if (rt->backend)
        rt->backend->free(rt, s->data);
    drop_mirror(rt, s);
    dopl_rt_free(rt, s);
}

dopl_status dopl_tensor_new_on(dopl_rt *rt, dopl_tensor *out, dopl_device device, dopl_dtype dtype,
                               int n_dim, const int64_t *dim) {
    DOPL_TRY(dopl_tensor_shape(rt, out, dtype, n_dim, dim));
    out->device = device;
    return dopl_tensor_alloc(rt, out);
}

dopl_status dopl_tensor_new(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int n_dim,
                            const int64_t *dim) {
    return dopl_tensor_new_on(rt, out, DOPL_CPU, dtype, n_dim, dim);
}

dopl_status dopl_tensor_make(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int n_dim,
                             const int64_t *dim) {
    dopl_device device = dtype == DOPL_I32 ? DOPL_CPU : rt->device;
    return dopl_tensor_new_on(rt, out, device, dtype, n_dim, dim);
}

void dopl_tensor_will_change(dopl_rt *rt, const dopl_tensor *t) {
    if (t->storage->version < UINT32_MAX) t->storage->version++;
    drop_mirror(rt, t->storage);
}

void dopl_tensor_assign(dopl_rt *rt, dopl_tensor *t, dopl_memory_kind kind) {
    discount(rt, t->storage);
    t->storage->kind = kind;
    account(rt, t->storage);
}

void dopl_tensor_share(dopl_tensor *out, const dopl_tensor *t) {
    *out = *t;
    if (out->storage) out->storage->refs++;
    if (out->var) out->var->refs++;
}

void dopl_tensor_detach(dopl_tensor *out, const dopl_tensor *t) {
    *out = *t;
    out->var = NULL;
    if (out->storage) out->storage->refs++;
}

void dopl_tensor_drop_data(dopl_rt *rt, dopl_tensor *t) {
    dopl_storage *s = t->storage;
    t->storage = NULL;
    if (s && --s->refs == 0) free_storage(rt, s);
}

void dopl_tensor_release(dopl_rt *rt, dopl_tensor *t) {
    dopl_tensor_drop_data(rt, t);
    dopl_var_drop(rt, t->var);
    memset(t, 0, sizeof *t);
}

dopl_status dopl_tensor_fill(dopl_rt *rt, dopl_tensor *t, double value) {
    int64_t n = dopl_tensor_numel(t);
    double least = t->dtype == DOPL_I32 ? INT32_MIN : 0,
           most = t->dtype == DOPL_I32 ? INT32_MAX : 255;
    bool whole = value >= least && value <= most && value == (double)(int64_t)value;
    if (!dopl_dtype_is_number(t->dtype) && !whole)
        return dopl_fail(rt, DOPL_EARG, "fill: %g into %s, needs an integer of %g to %g", value,
                         dopl_dtype_name(t->dtype), least, most);
    dopl_tensor_will_change(rt, t);
    if (t->device != DOPL_CPU) return rt->backend->fill(rt, t, value);
    switch (t->dtype) {
    case DOPL_F32:
        for (int64_t i = 0; i < n; i++) dopl_f32(t)[i] = (float)value;
        return DOPL_OK;
    case DOPL_I32:
        for (int64_t i = 0; i < n; i++) dopl_i32(t)[i] = (int32_t)value;
        return DOPL_OK;
    case DOPL_U8:
        memset(dopl_data(t), (int)value, (size_t)n);
        return DOPL_OK;
    case DOPL_BF16:
        for (int64_t i = 0; i < n; i++) dopl_bf16(t)[i] = dopl_bf16_of_float((float)value);
        return DOPL_OK;
    default:
        return dopl_fail(rt, DOPL_EDTYPE, "fill: an unknown type");
    }
}

dopl_status dopl_var_new(dopl_rt *rt, dopl_var **out) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof **out));
    *out = memory;
    (*out)->refs = 1;
    return DOPL_OK;
}

void dopl_var_drop(dopl_rt *rt, dopl_var *var) {
    if (!var || --var->refs > 0) return;
    dopl_tensor_release(rt, &var->grad);
    dopl_rt_free(rt, var);
}

dopl_status dopl_tensor_require_grad(dopl_rt *rt, dopl_tensor *t) {
    if (t->dtype != DOPL_F32 && t->dtype != DOPL_BF16)
        return dopl_fail(rt, DOPL_EDTYPE, "requires_grad: a %s tensor, needs f32 or bf16",
                         dopl_dtype_name(t->dtype));
    if (t->var && !t->var->leaf)
        return dopl_fail(rt, DOPL_ESTATE, "requires_grad: the result of an operator; detach it");
    if (t->var) return DOPL_OK;
    DOPL_TRY(dopl_var_new(rt, &t->var));
    t->var->leaf = true;
    dopl_tensor_assign(rt, t, DOPL_MEMORY_PARAMETER);
    return DOPL_OK;
}

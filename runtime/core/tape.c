// tape.c - recording, the backward walk, gradient accumulation.
//
// Order is the only structure: a node's inputs were produced by earlier nodes, so walking from the
// end meets every consumer of a value before its producer, and the value's gradient is complete
// when its node comes up. Nodes that the root does not reach (a second loss on the same tape, say)
// stay until their own backward, or until nothing can reach their result.
//
// Gradients are shared, not copied, where an operator passes its gradient through (a residual add):
// two vars then hold the same storage, and whoever accumulates into a storage that is held
// elsewhere makes a private copy first.
#include "device.h"
#include "simd.h"

#include <string.h>

struct dopl_tape {
    dopl_node **node;
    int64_t n, capacity;
};

enum { FIRST_CAPACITY = 64 };

dopl_status dopl_tape_new(dopl_rt *rt, dopl_tape **out) {
    void *memory, *nodes;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, sizeof **out));
    dopl_tape *tape = memory;
    dopl_status status = dopl_rt_alloc(rt, &nodes, FIRST_CAPACITY * sizeof *tape->node);
    if (status != DOPL_OK) {
        dopl_rt_free(rt, tape);
        return status;
    }
    *tape = (dopl_tape){ .node = nodes, .capacity = FIRST_CAPACITY };
    *out = tape;
    return DOPL_OK;
}

dopl_status dopl_node_new(dopl_rt *rt, dopl_node **out, int n_in) {
    void *memory;
    dopl_node *n;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof *n + (size_t)n_in * sizeof *n->in));
    *out = n = memory;
    n->n_in = n_in;
    n->in = (dopl_tensor *)(n + 1);
    return DOPL_OK;
}

void dopl_node_free(dopl_rt *rt, dopl_node *n) {
    // whoever still holds the value finds no way back through it
    if (n->out.var) n->out.var->recorded = false;
    for (int i = 0; i < n->n_in; i++) dopl_tensor_release(rt, &n->in[i]);
    for (int i = 0; i < DOPL_MAX_SAVED; i++) dopl_tensor_release(rt, &n->saved[i]);
    dopl_tensor_release(rt, &n->out);
    dopl_tensor_release(rt, &n->dout);
    if (n->release_extra) n->release_extra(rt, n->extra);
    dopl_rt_free(rt, n);
}

void dopl_tape_free(dopl_rt *rt, dopl_tape *tape) {
    if (!tape) return;
    while (tape->n) dopl_node_free(rt, tape->node[--tape->n]);
    dopl_rt_free(rt, tape->node);
    dopl_rt_free(rt, tape);
}

int64_t dopl_tape_size(const dopl_tape *tape) {
    return tape->n;
}

static void mark_version(dopl_tensor *t) {
    if (t->storage) t->version = t->storage->version;
}

dopl_status dopl_tape_record(dopl_rt *rt, dopl_node *n) {
    dopl_tape *tape = rt->tape;
    if (tape->n == tape->capacity) {
        int64_t capacity = 2 * tape->capacity;
        void *grown = tape->node;
        DOPL_TRY(dopl_rt_realloc(rt, &grown, (size_t)capacity * sizeof *tape->node));
        tape->node = grown;
        tape->capacity = capacity;
    }
    tape->node[tape->n++] = n;
    for (int i = 0; i < n->n_in; i++) mark_version(&n->in[i]);
    mark_version(&n->out);
    n->out.var->recorded = true;
    return DOPL_OK;
}

bool dopl_grad_wants(const dopl_node *n, int i) {
    return i < n->n_in && n->in[i].var != NULL;
}

DOPL_SIMD static void add_in_place(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

enum { CHUNK = 1 << 16 }; // elements a thread takes at a time

static dopl_status accumulate(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x) {
    if (y->device != DOPL_CPU) return rt->backend->accumulate(rt, y, x);
    int64_t n = dopl_tensor_numel(y);
    float *yp = dopl_f32(y);
    const float *xp = dopl_f32(x);
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK)
        add_in_place(yp + i, xp + i, n - i < CHUNK ? n - i : CHUNK);
    return DOPL_OK;
}

// The type of a gradient: a parameter's is f32, since it adds up over many samples, and so is every
// gradient on the CPU; elsewhere others have the type of their values.
static dopl_dtype grad_dtype(const dopl_tensor *t) {
    return t->var->leaf || t->device == DOPL_CPU ? DOPL_F32 : t->dtype;
}

// A storage for the gradient of `t` that nobody else holds, contents undefined.
static dopl_status fresh_grad(dopl_rt *rt, const dopl_tensor *t, dopl_tensor *out) {
    dopl_memory_kind kind = rt->kind;
    rt->kind = t->var->leaf ? DOPL_MEMORY_GRADIENT : DOPL_MEMORY_ACTIVATION;
    dopl_status status = dopl_tensor_new_on(rt, out, t->device, grad_dtype(t), t->n_dim, t->dim);
    rt->kind = kind;
    return status;
}

dopl_status dopl_grad_into(dopl_rt *rt, dopl_node *n, int i, dopl_tensor **dx, float *beta) {
    dopl_tensor *grad = &n->in[i].var->grad;
    *dx = grad;
    *beta = grad->storage ? 1.0f : 0.0f;
    if (!grad->storage) return fresh_grad(rt, &n->in[i], grad);
    if (grad->storage->refs == 1) return DOPL_OK;
    dopl_tensor own;
    DOPL_TRY(fresh_grad(rt, &n->in[i], &own));
    dopl_status status = dopl_tensor_copy(rt, &own, grad);
    dopl_tensor_release(rt, status == DOPL_OK ? grad : &own);
    if (status == DOPL_OK) *grad = own;
    return status;
}

dopl_status dopl_grad_add(dopl_rt *rt, dopl_node *n, int i, const dopl_tensor *g) {
    dopl_tensor *grad;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, n, i, &grad, &beta));
    return beta == 0.0f ? dopl_tensor_copy(rt, grad, g) : accumulate(rt, grad, g);
}

dopl_status dopl_grad_share(dopl_rt *rt, dopl_node *n, int i, const dopl_tensor *g) {
    dopl_tensor *grad = &n->in[i].var->grad;
    dopl_tensor like = *g; // a view's gradient has the shape of what was viewed; borrowed
    like.n_dim = n->in[i].n_dim;
    memcpy(like.dim, n->in[i].dim, sizeof like.dim);
    if (grad->storage || g->dtype != grad_dtype(&n->in[i])) return dopl_grad_add(rt, n, i, &like);
    dopl_tensor_detach(grad, &like);
    return DOPL_OK;
}

static dopl_status to_backward(dopl_rt *rt, dopl_node *n) {
    const dopl_tensor *t = &n->in[0];
    if (!dopl_grad_wants(n, 0)) return DOPL_OK;
    if (n->dout.device == t->device) return dopl_grad_share(rt, n, 0, &n->dout);
    dopl_tensor there = { 0 };
    DOPL_TRY(dopl_tensor_to(rt, &there, &n->dout, t->device, grad_dtype(t)));
    dopl_status status = dopl_grad_share(rt, n, 0, &there);
    dopl_tensor_release(rt, &there);
    return status;
}

// Records that `out`, which is new, is a copy of `t`. Backward reads no data.
static dopl_status record_to(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *t) {
    dopl_node *n;
    DOPL_TRY(dopl_node_new(rt, &n, 1));
    n->name = "to";
    n->backward = to_backward;
    dopl_status status = dopl_var_new(rt, &out->var);
    if (status == DOPL_OK) {
        dopl_tensor_share(&n->in[0], t);
        dopl_tensor_drop_data(rt, &n->in[0]);
        dopl_tensor_share(&n->out, out);
        dopl_tensor_drop_data(rt, &n->out);
        status = dopl_tape_record(rt, n);
    }
    if (status != DOPL_OK) dopl_node_free(rt, n);
    return status;
}

dopl_status dopl_tape_to(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *t, dopl_device device,
                         dopl_dtype dtype) {
    DOPL_TRY(dopl_tensor_to(rt, out, t, device, dtype));
    if (!t->var || !rt->grad_enabled) return DOPL_OK;
    dopl_status status = record_to(rt, out, t);
    if (status != DOPL_OK) dopl_tensor_release(rt, out);
    return status;
}

static dopl_status seed_root(dopl_rt *rt, const dopl_tensor *root, const dopl_tensor *seed) {
    if (!root->var || (!root->var->recorded && !root->var->leaf))
        return dopl_fail(rt, DOPL_ESTATE,
                         "backward: nothing recorded leads to this value (no input requires a "
                         "gradient, recording was off, or backward has consumed it already)");
    if (!seed && dopl_tensor_numel(root) != 1)
        return dopl_fail(rt, DOPL_ESHAPE,
                         "backward: a value of shape %s needs a gradient of that shape",
                         dopl_shape_str(root).s);
    if (seed && (!dopl_shape_same(root, seed) || seed->dtype != grad_dtype(root) ||
                 seed->device != root->device))
        return dopl_fail(rt, DOPL_ESHAPE, "backward: a value of shape %s and a gradient %s %s",
                         dopl_shape_str(root).s, dopl_dtype_name(seed->dtype),
                         dopl_shape_str(seed).s);
    dopl_tensor borrowed = *root; // never released
    dopl_node at_root = { .n_in = 1, .in = &borrowed };
    if (seed) return dopl_grad_share(rt, &at_root, 0, seed);
    dopl_tensor *grad;
    float beta;
    DOPL_TRY(dopl_grad_into(rt, &at_root, 0, &grad, &beta));
    if (beta == 0.0f) return dopl_tensor_fill(rt, grad, 1.0);
    dopl_tensor one; // a second backward through a leaf that is the root
    DOPL_TRY(dopl_tensor_new_on(rt, &one, grad->device, DOPL_F32, grad->n_dim, grad->dim));
    dopl_status status = dopl_tensor_fill(rt, &one, 1.0);
    if (status == DOPL_OK) status = accumulate(rt, grad, &one);
    dopl_tensor_release(rt, &one);
    return status;
}

// A backward trusts what its operator has checked (indices above all) and what it has computed, so
// data that was kept for it must be as it was.
static bool has_changed(const dopl_tensor *t) {
    const dopl_storage *s = t->storage;
    return s && (s->version != t->version || s->version == UINT32_MAX);
}

static dopl_status check_kept(dopl_rt *rt, const dopl_node *n) {
    for (int i = 0; i < n->n_in; i++)
        if (has_changed(&n->in[i]))
            return dopl_fail(rt, DOPL_ESTATE,
                             "backward: input %d of %s (%s %s) was changed in place after the "
                             "forward; give %s a copy of it: t:detach():clone()",
                             i + 1, n->name, dopl_dtype_name(n->in[i].dtype),
                             dopl_shape_str(&n->in[i]).s, n->name);
    if (!has_changed(&n->out)) return DOPL_OK;
    return dopl_fail(rt, DOPL_ESTATE,
                     "backward: the output of %s (%s %s) was changed in place after the forward; "
                     "change a copy of it: t:detach():clone()",
                     n->name, dopl_dtype_name(n->out.dtype), dopl_shape_str(&n->out).s);
}

// Runs the backward of one node that the root reaches. An input whose own node is gone would take
// its gradient and hand nothing on: two losses over one forward pass are added before backward.
static dopl_status consume(dopl_rt *rt, dopl_node *n) {
    for (int i = 0; i < n->n_in; i++) {
        const dopl_var *var = n->in[i].var;
        if (var && !var->leaf && !var->recorded)
            return dopl_fail(rt, DOPL_ESTATE,
                             "backward: input %d of %s was consumed by an earlier backward; add "
                             "losses that share a forward pass, or run it again",
                             i + 1, n->name);
    }
    DOPL_TRY(check_kept(rt, n));
    n->dout = n->out.var->grad;
    memset(&n->out.var->grad, 0, sizeof n->out.var->grad);
    int outer = dopl_range_enter(rt, n->name, DOPL_PART_BACKWARD, n->out.device);
    dopl_status status = n->backward(rt, n);
    dopl_range_leave(rt, outer);
    return status;
}

static void close_gaps(dopl_tape *tape) {
    int64_t kept = 0;
    for (int64_t k = 0; k < tape->n; k++)
        if (tape->node[k]) tape->node[kept++] = tape->node[k];
    tape->n = kept;
}

dopl_status dopl_tape_backward(dopl_rt *rt, const dopl_tensor *root, const dopl_tensor *seed) {
    dopl_tape *tape = rt->tape;
    DOPL_TRY(seed_root(rt, root, seed));
    dopl_status status = DOPL_OK;
    for (int64_t k = tape->n - 1; k >= 0; k--) {
        dopl_node *n = tape->node[k];
        bool reached = n->out.var->grad.storage != NULL;
        if (!reached && n->out.var->refs > 1) continue;
        if (reached && status == DOPL_OK)
            status = rt->stop ? dopl_fail(rt, DOPL_ESTOP, "stopped") : consume(rt, n);
        dopl_tensor_release(rt, &n->out.var->grad); // after a failure: what was left to hand down
        tape->node[k] = NULL;
        dopl_node_free(rt, n);
    }
    close_gaps(tape);
    return status;
}

void dopl_tape_prune(dopl_rt *rt) {
    dopl_tape *tape = rt->tape;
    for (int64_t k = tape->n - 1; k >= 0; k--) {
        if (tape->node[k]->out.var->refs > 1) continue;
        dopl_node_free(rt, tape->node[k]);
        tape->node[k] = NULL;
    }
    close_gaps(tape);
}

// op.c - the operator table, dispatch and recording.
#include "op.h"
#include "../core/device.h"

#include <string.h>

#define BACKWARD(id) op_##id##_backward
#define NO_BACKWARD(id) NULL
#define OP(id, inputs, attributes, kept, grad, text)                                               \
    [DOPL_OP_##id] = { .name = #id,                                                                \
                       .in = inputs,                                                               \
                       .attrs = attributes,                                                        \
                       .keep = kept,                                                               \
                       .doc = text,                                                                \
                       .shape = op_##id##_shape,                                                   \
                       .cpu = op_##id##_cpu,                                                       \
                       .backward = grad(id) },
const dopl_op dopl_op_table[DOPL_OP_COUNT] = {
#include "ops.def"
};

static dopl_status check_inputs(dopl_rt *rt, const dopl_op_call *c) {
    const char *want = c->op->in;
    for (int i = 0; *want; i++, want++) {
        dopl_dtype dtype = *want == 'i' ? DOPL_I32 : DOPL_F32;
        bool weight = *want == 'w';
        bool optional = want[1] == '?';
        want += optional;
        const dopl_tensor *t = i < c->n_in ? c->in[i] : NULL;
        if (!t && optional) continue;
        if (!t) return dopl_fail(rt, DOPL_EARG, "%s: input %d is missing", c->op->name, i + 1);
        if (!t->storage)
            return dopl_fail(rt, DOPL_ESTATE, "%s: input %d has been released", c->op->name, i + 1);
        bool may_be_bf16 = dtype == DOPL_F32 && (weight || t->device != DOPL_CPU);
        if (t->dtype != dtype && !(may_be_bf16 && t->dtype == DOPL_BF16))
            return dopl_fail(rt, DOPL_EDTYPE, "%s: input %d is %s %s, needs %s%s", c->op->name,
                             i + 1, dopl_dtype_name(t->dtype), dopl_shape_str(t).s,
                             dopl_dtype_name(dtype), may_be_bf16 ? " or bf16" : "");
    }
    return DOPL_OK;
}

// The device of the numbers among the inputs. An operator takes them all from there; on a device
// other than the CPU they have one type too, which is the type it computes in and answers.
static dopl_status find_device(dopl_rt *rt, dopl_op_call *c) {
    const dopl_tensor *first = NULL;
    for (int i = 0; i < c->n_in; i++) {
        const dopl_tensor *t = c->in[i];
        if (!t || t->dtype == DOPL_I32) continue;
        if (!first) first = t;
        if (t->device != first->device)
            return dopl_fail(rt, DOPL_EDEVICE, "%s: input %d is on %s, an earlier one on %s",
                             c->op->name, i + 1, dopl_device_name(t->device),
                             dopl_device_name(first->device));
        if (t->device != DOPL_CPU && t->dtype != first->dtype)
            return dopl_fail(rt, DOPL_EDTYPE, "%s: input %d is %s, an earlier one %s", c->op->name,
                             i + 1, dopl_dtype_name(t->dtype), dopl_dtype_name(first->dtype));
    }
    c->device = first ? first->device : DOPL_CPU;
    c->dtype = c->device == DOPL_CPU ? DOPL_F32 : first->dtype;
    return DOPL_OK;
}

static bool wants_grad(const dopl_rt *rt, const dopl_op_call *c) {
    if (!rt->grad_enabled || !c->op->backward) return false;
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i] && c->in[i]->var) return true;
    return false;
}

static dopl_status record(dopl_rt *rt, dopl_op_call *c) {
    dopl_node n = { .name = c->op->name, .backward = c->op->backward, .n_in = c->n_in };
    if (c->device != DOPL_CPU) n.backward = rt->backend->backward[c->op - dopl_op_table];
    DOPL_TRY(dopl_var_new(rt, &c->out->var));
    for (int i = 0; i < c->n_in; i++) {
        if (!c->in[i]) continue;
        dopl_tensor_share(&n.in[i], c->in[i]);
        if (!strchr(c->op->keep, '0' + i)) dopl_tensor_drop_data(rt, &n.in[i]);
    }
    dopl_tensor_share(&n.out, c->out);
    if (!strchr(c->op->keep, 'y')) dopl_tensor_drop_data(rt, &n.out);
    memcpy(n.attr, c->attr, sizeof n.attr);
    for (int i = 0; i < DOPL_MAX_SAVED; i++) {
        n.saved[i] = c->saved[i];
        memset(&c->saved[i], 0, sizeof c->saved[i]);
    }
    dopl_status status = dopl_tape_record(rt, &n);
    if (status != DOPL_OK) dopl_node_release(rt, &n);
    return status;
}

dopl_status dopl_op_apply(dopl_rt *rt, dopl_op_id id, dopl_op_call *c) {
    c->op = &dopl_op_table[id];
    memset(c->saved, 0, sizeof c->saved);
    if (rt->stop) return dopl_fail(rt, DOPL_ESTOP, "stopped");
    DOPL_TRY(check_inputs(rt, c));
    DOPL_TRY(find_device(rt, c));
    int outer = dopl_range_enter(rt, c->op->name, DOPL_PART_FORWARD, c->device);
    dopl_memory_kind kind = rt->kind;
    rt->kind = DOPL_MEMORY_ACTIVATION;
    dopl_status status = c->op->shape(rt, c);
    if (status != DOPL_OK) goto out;
    c->out->device = c->out->dtype == DOPL_I32 ? DOPL_CPU : c->device;
    if (!c->out->storage) {
        status = dopl_tensor_alloc(rt, c->out);
        if (status != DOPL_OK) goto out;
    }
    c->record = wants_grad(rt, c);
    status = c->device == DOPL_CPU ? c->op->cpu(rt, c) : rt->backend->forward[id](rt, c);
    if (status == DOPL_OK && c->record) status = record(rt, c);
out:
    rt->kind = kind;
    for (int i = 0; i < DOPL_MAX_SAVED; i++) dopl_tensor_release(rt, &c->saved[i]);
    if (status != DOPL_OK) dopl_tensor_release(rt, c->out);
    dopl_range_leave(rt, outer);
    return status;
}

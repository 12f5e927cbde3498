// op.c - the operator table, dispatch and recording.
#include "op.h"
#include "../core/device.h"

#include <stddef.h>
#include <string.h>

// ---- the table

#define ENUM(id, values) static const char *const id##_names[] = { values NULL };
#define VALUE(id, name) #name,
#include "ops.def"

// Each table of inputs ends with an empty one.
#define F(id, ...) { .name = #id, .kind = DOPL_INPUT_F32, .optional = sizeof #__VA_ARGS__ > 1 },
#define I(id, ...) { .name = #id, .kind = DOPL_INPUT_I32, .optional = sizeof #__VA_ARGS__ > 1 },
#define W(id, ...) { .name = #id, .kind = DOPL_INPUT_WEIGHT, .optional = sizeof #__VA_ARGS__ > 1 },
#define LIST(id) { .name = #id, .kind = DOPL_INPUT_LIST },
#define OP(id, inputs, ...)                                                                        \
    static const dopl_op_input id##_inputs[] = { inputs{ 0 } };                                    \
    _Static_assert(sizeof id##_inputs / sizeof *id##_inputs <= DOPL_MAX_IN + 1, "inputs of " #id);
#include "ops.def"

// Functions, since the attributes of a row do not know whose they are: `self` tells them.
#define ATTR(id, type, ...)                                                                        \
    { .name = #id, .kind = type, .offset = offsetof(self, id), __VA_ARGS__ },
#define INT(id, ...)                                                                               \
    ATTR(id, DOPL_ATTR_INTEGER, __VA_OPT__(.optional = true, .number = __VA_ARGS__))
#define NUMBER(id, ...)                                                                            \
    ATTR(id, DOPL_ATTR_NUMBER, __VA_OPT__(.optional = true, .number = __VA_ARGS__))
#define NAME(id, enumeration, ...)                                                                 \
    ATTR(id, DOPL_ATTR_NAME, .names = enumeration##_names,                                         \
         __VA_OPT__(.optional = true, .number = OP_##enumeration##_##__VA_ARGS__))
#define NONE
#define OP(id, inputs, attributes, ...)                                                            \
    static const dopl_op_attr *id##_attributes(void) {                                             \
        typedef op_##id##_attrs self;                                                              \
        static const dopl_op_attr attribute[] = { attributes{ 0 } };                               \
        _Static_assert(sizeof(self) <= DOPL_ATTR_BYTES, "room for the attributes of " #id);        \
        return attribute;                                                                          \
    }
#include "ops.def"

#define BACKWARD(id) op_##id##_backward
#define NO_BACKWARD(id) NULL
#define OP(id, inputs, attributes, kept, grad, text)                                               \
    [DOPL_OP_##id] = { .name = #id,                                                                \
                       .keep = kept,                                                               \
                       .doc = text,                                                                \
                       .in = id##_inputs,                                                          \
                       .n_in = sizeof id##_inputs / sizeof *id##_inputs - 1,                       \
                       .attrs = id##_attributes,                                                   \
                       .shape = op_##id##_shape,                                                   \
                       .cpu = op_##id##_cpu,                                                       \
                       .backward = grad(id) },
const dopl_op dopl_op_table[DOPL_OP_COUNT] = {
#include "ops.def"
};

// ---- one call

static dopl_status check_inputs(dopl_rt *rt, const dopl_op_call *c) {
    const dopl_op_input *want = c->op->in;
    bool list = want->kind == DOPL_INPUT_LIST;
    for (int i = 0; i < (list ? c->n_in : c->op->n_in); i++, want += !list) {
        const dopl_tensor *t = i < c->n_in ? c->in[i] : NULL;
        if (!t && want->optional) continue;
        if (!t) return dopl_fail(rt, DOPL_EARG, "%s: input %d is missing", c->op->name, i + 1);
        if (!t->storage)
            return dopl_fail(rt, DOPL_ESTATE, "%s: input %d has been released", c->op->name, i + 1);
        dopl_dtype dtype = want->kind == DOPL_INPUT_I32 ? DOPL_I32 : DOPL_F32;
        bool may_be_bf16 =
            dtype == DOPL_F32 && (want->kind == DOPL_INPUT_WEIGHT || t->device != DOPL_CPU);
        if (!list && t->dtype != dtype && !(may_be_bf16 && t->dtype == DOPL_BF16))
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

static bool keeps_input(const dopl_op *op, int i) { // at most 10: those of a list are not kept
    return i < 10 && strchr(op->keep, '0' + i);
}

static dopl_status record(dopl_rt *rt, dopl_op_call *c) {
    dopl_node *n;
    DOPL_TRY(dopl_node_new(rt, &n, c->n_in));
    n->name = c->op->name;
    n->backward = c->op->backward;
    if (c->device != DOPL_CPU) n->backward = rt->backend->backward[c->op - dopl_op_table];
    n->attrs = c->attrs;
    dopl_status status = dopl_var_new(rt, &c->out->var);
    if (status == DOPL_OK) {
        for (int i = 0; i < c->n_in; i++) {
            if (!c->in[i]) continue;
            dopl_tensor_share(&n->in[i], c->in[i]);
            if (!keeps_input(c->op, i)) dopl_tensor_drop_data(rt, &n->in[i]);
        }
        dopl_tensor_share(&n->out, c->out);
        if (!strchr(c->op->keep, 'y')) dopl_tensor_drop_data(rt, &n->out);
        memcpy(n->saved, c->saved, sizeof n->saved);
        memset(c->saved, 0, sizeof c->saved);
        status = dopl_tape_record(rt, n);
    }
    if (status != DOPL_OK) dopl_node_free(rt, n);
    return status;
}

// Shapes, and on a device whether it has a kernel for what is asked.
static dopl_status plan_output(dopl_rt *rt, dopl_op_id id, dopl_op_call *c) {
    DOPL_TRY(c->op->shape(rt, c));
    c->out->device = c->out->dtype == DOPL_I32 ? DOPL_CPU : c->device;
    if (c->device != DOPL_CPU && rt->backend->supports[id])
        DOPL_TRY(rt->backend->supports[id](rt, c));
    return c->out->storage ? DOPL_OK : dopl_tensor_alloc(rt, c->out);
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
    dopl_status status = plan_output(rt, id, c);
    if (status != DOPL_OK) goto out;
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

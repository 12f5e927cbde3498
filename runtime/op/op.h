// op.h - operators: one table, one way in.
//
// An operator `foo` is a row of ops.def and up to three functions:
//   op_foo_shape     checks shapes, sets type and shape of c->out (or makes it share storage)
//   op_foo_cpu       fills c->out, and c->saved where c->record says that backward will come
//   op_foo_backward  adds to the gradients of the inputs (tape.h)
// A back end for another device has the last two of its own (core/device.h).
// dopl_op_apply does the rest: types, allocation, recording.
#ifndef DOPL_OP_OP_H
#define DOPL_OP_OP_H

#include "../core/tape.h"

typedef struct dopl_op dopl_op;

typedef struct dopl_op_call {
    const dopl_op *op;  // set by dopl_op_apply
    dopl_device device; // likewise: where the numbers among the inputs are, and the output will be
    dopl_dtype dtype;   // likewise: what operators compute in: f32; on a device, the inputs' type
    int n_in;
    const dopl_tensor *in[DOPL_MAX_IN]; // NULL: an optional input left out
    dopl_attr attr[DOPL_MAX_ATTR];
    dopl_tensor *out; // the caller's empty tensor
    bool record;      // backward will want c->saved
    dopl_tensor saved[DOPL_MAX_SAVED];
} dopl_op_call;

struct dopl_op {
    const char *name, *in, *attrs, *keep, *doc;
    dopl_status (*shape)(dopl_rt *rt, dopl_op_call *c);
    dopl_status (*cpu)(dopl_rt *rt, dopl_op_call *c);
    dopl_backward_fn *backward; // NULL: no gradient
};

typedef enum {
#define OP(id, ...) DOPL_OP_##id,
#include "ops.def"
    DOPL_OP_COUNT
} dopl_op_id;

extern const dopl_op dopl_op_table[DOPL_OP_COUNT];

// Runs one operator. On failure c->out stays empty.
DOPL_CHECKED dopl_status dopl_op_apply(dopl_rt *rt, dopl_op_id id, dopl_op_call *c);

#define BACKWARD(id) dopl_status op_##id##_backward(dopl_rt *rt, dopl_node *n);
#define NO_BACKWARD(id)
#define OP(id, inputs, attributes, kept, grad, text)                                               \
    dopl_status op_##id##_shape(dopl_rt *rt, dopl_op_call *c);                                     \
    dopl_status op_##id##_cpu(dopl_rt *rt, dopl_op_call *c);                                       \
    grad(id)
#include "ops.def"
#undef BACKWARD
#undef NO_BACKWARD

// For operator files: shape rules that many share, and what kernels need.
DOPL_CHECKED dopl_status op_out(dopl_rt *rt, dopl_op_call *c, dopl_dtype dtype, int n_dim,
                                const int64_t *dim);
DOPL_CHECKED dopl_status op_out_like(dopl_rt *rt, dopl_op_call *c, int input);
DOPL_CHECKED dopl_status op_want_dims(dopl_rt *rt, const dopl_op_call *c, int input, int n_dim);
DOPL_CHECKED dopl_status op_check_offsets(dopl_rt *rt, const char *name, const dopl_tensor *offsets,
                                          int64_t total);
DOPL_CHECKED dopl_status op_check_index(dopl_rt *rt, const char *name, const dopl_tensor *index,
                                        int64_t limit);
// Whether a row of `cols` has a column and more for each of H heads, a multiple of the K heads of
// keys and of values. Without that, H + 2 K and products with a head's columns may overflow, those
// in the ints of a device too.
bool op_heads_fit(int64_t cols, int64_t H, int64_t K);
// Allocates c->saved[i].
DOPL_CHECKED dopl_status op_save(dopl_rt *rt, dopl_op_call *c, int i, int n_dim,
                                 const int64_t *dim);

enum { OP_GRAIN = 1 << 14 }; // elements below which a second thread costs more than it gives

#endif

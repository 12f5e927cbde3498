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
    const dopl_tensor *const *in; // [n_in], NULL: an optional input left out
    dopl_attrs attrs;             // OP_ATTRS gives them their names
    dopl_tensor *out;             // the caller's empty tensor
    bool record;                  // backward will want c->saved
    dopl_tensor saved[DOPL_MAX_SAVED];
} dopl_op_call;

// What an input may be: f32; i32; a weight, f32 or bf16; a list, any number of tensors of one type.
typedef enum { DOPL_INPUT_F32, DOPL_INPUT_I32, DOPL_INPUT_WEIGHT, DOPL_INPUT_LIST } dopl_input_kind;

typedef struct {
    const char *name;
    dopl_input_kind kind;
    bool optional; // may be left out
} dopl_op_input;

typedef enum { DOPL_ATTR_INTEGER, DOPL_ATTR_NUMBER, DOPL_ATTR_NAME } dopl_attr_kind;

// One attribute of an operator, a field of its struct: an int64_t, a double, or an enumeration.
typedef struct {
    const char *name; // NULL: the table ends here
    dopl_attr_kind kind;
    size_t offset;            // in the struct, bytes
    bool optional;            // may be left out, and then is the default
    double number;            // the default: a number, an integer, an enumerator
    const char *const *names; // an enumeration's, by enumerator, ended by NULL
} dopl_op_attr;

struct dopl_op {
    const char *name, *keep, *doc;
    const dopl_op_input *in; // [n_in]
    int n_in;
    const dopl_op_attr *(*attrs)(void); // the table of attributes
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

// An enumeration: op_gelu_form with OP_gelu_form_tanh, OP_gelu_form_erf.
#define ENUM(id, values) typedef enum { values } op_##id;
#define VALUE(id, name) OP_##id##_##name,
#include "ops.def"

// The attributes of each operator: op_attention_attrs { int64_t heads, kv_heads; }.
#define INT(name, ...) int64_t name;
#define NUMBER(name, ...) double name;
#define NAME(name, enumeration, ...) op_##enumeration name;
#define NONE char none;
#define OP(id, inputs, attributes, ...)                                                            \
    typedef struct op_##id##_attrs {                                                               \
        attributes                                                                                 \
    } op_##id##_attrs;
#include "ops.def"

// Those of a call or of a node, to be read by name: OP_ATTRS(attention, c)->heads.
#define OP_ATTRS(id, holder) ((op_##id##_attrs *)(holder)->attrs.bytes)

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
// What a back end answers to attributes or types that it has no kernel for (core/device.h).
// `format` names the attribute, what it is and what it may be. Fails with "attention: device cuda
// does not support heads = ...".
DOPL_CHECKED dopl_status op_unsupported(dopl_rt *rt, const dopl_op_call *c, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Allocates c->saved[i].
DOPL_CHECKED dopl_status op_save(dopl_rt *rt, dopl_op_call *c, int i, int n_dim,
                                 const int64_t *dim);

enum { OP_GRAIN = 1 << 14 }; // elements below which a second thread costs more than it gives

#endif

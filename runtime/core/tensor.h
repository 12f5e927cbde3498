// tensor.h - dense typed arrays over reference-counted storage.
//
// A dopl_tensor is a small value: shape, type, a window into a storage, and, where a gradient
// flows, a dopl_var. It is always contiguous, outermost dimension first. Copying the struct copies
// no reference: use dopl_tensor_share. An all-zero struct is an empty tensor, safe to release.
#ifndef DOPL_CORE_TENSOR_H
#define DOPL_CORE_TENSOR_H

#include "rt.h"

// Element types: name, C type, bytes. The one list.
#define DOPL_DTYPES(X)                                                                             \
    X(F32, f32, float)                                                                             \
    X(I32, i32, int32_t)                                                                           \
    X(U8, u8, uint8_t)                                                                             \
    X(BF16, bf16, uint16_t)

typedef enum {
#define X(id, name, type) DOPL_##id,
    DOPL_DTYPES(X)
#undef X
        DOPL_N_DTYPE
} dopl_dtype;

enum { DOPL_MAX_DIM = 4 };

typedef struct dopl_tensor dopl_tensor;
// Writes a table of `bytes` that index tensor t alone decides.
typedef void dopl_table_fn(void *table, size_t bytes, const dopl_tensor *t);

typedef struct dopl_storage {
    int refs;
    uint32_t version; // counts writes in place and stays at UINT32_MAX, so it never comes back
    dopl_device device;
    dopl_memory_kind kind;
    size_t bytes;
    void *data;
    void *mirror; // of indices: the back end's copy, NULL until it is needed
    struct {      // what it made of some of them beside that
        void *data;
        dopl_table_fn *make; // what it was made by, ...
        size_t bytes;
        int64_t offset, n; // ... and of which indices
    } derived;
} dopl_storage;

typedef struct dopl_var dopl_var;

struct dopl_tensor {
    dopl_storage *storage; // NULL: shape only, or empty
    int64_t offset;        // bytes into the storage
    dopl_dtype dtype;
    dopl_device device;        // where the storage is, or will be
    int n_dim;                 // 0: a scalar
    uint32_t version;          // of the storage when a node on the tape took it; else meaningless
    int64_t dim[DOPL_MAX_DIM]; // elements, outermost first
    dopl_var *var;             // NULL: no gradient flows here
};

// The identity of a value in the gradient graph. Shared by every tensor struct that names the
// value.
struct dopl_var {
    int refs;
    bool leaf;        // a parameter: its gradient accumulates until it is zeroed
    bool recorded;    // a node on the tape produces it
    dopl_tensor grad; // storage NULL: none yet
};

typedef struct {
    char s[96];
} dopl_shape_text;

const char *dopl_dtype_name(dopl_dtype dtype);
size_t dopl_dtype_bytes(dopl_dtype dtype);
static inline bool dopl_dtype_is_number(dopl_dtype dtype) { // not indices or codes
    return dtype == DOPL_F32 || dtype == DOPL_BF16;
}
dopl_shape_text dopl_shape_str(const dopl_tensor *t); // "[2, 3]"
bool dopl_shape_same(const dopl_tensor *a, const dopl_tensor *b);
int64_t dopl_tensor_numel(const dopl_tensor *t);
int64_t dopl_tensor_rows(const dopl_tensor *t); // product of all dimensions but the last
int64_t dopl_tensor_cols(const dopl_tensor *t); // the last dimension; 1 for a scalar

// Sets type and shape of an empty tensor in host memory; no storage yet. Set `device` before
// allocating where it is to lie elsewhere.
DOPL_CHECKED dopl_status dopl_tensor_shape(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype,
                                           int n_dim, const int64_t *dim);
DOPL_CHECKED dopl_status dopl_tensor_alloc(dopl_rt *rt, dopl_tensor *t); // storage for the shape
DOPL_CHECKED dopl_status dopl_tensor_new(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype, int n_dim,
                                         const int64_t *dim);
DOPL_CHECKED dopl_status dopl_tensor_new_on(dopl_rt *rt, dopl_tensor *out, dopl_device device,
                                            dopl_dtype dtype, int n_dim, const int64_t *dim);
// Where the runtime puts new tensors of that type: rt->device, or the host for indices.
DOPL_CHECKED dopl_status dopl_tensor_make(dopl_rt *rt, dopl_tensor *out, dopl_dtype dtype,
                                          int n_dim, const int64_t *dim);
void dopl_tensor_share(dopl_tensor *out, const dopl_tensor *t);  // another reference to all of it
void dopl_tensor_detach(dopl_tensor *out, const dopl_tensor *t); // the same data, no gradient
void dopl_tensor_release(dopl_rt *rt, dopl_tensor *t);           // idempotent
void dopl_tensor_drop_data(dopl_rt *rt, dopl_tensor *t);         // keeps shape and var
DOPL_CHECKED dopl_status dopl_tensor_fill(dopl_rt *rt, dopl_tensor *t, double value);

// Makes `t`, f32 or bf16, a leaf whose gradient accumulates, in f32.
DOPL_CHECKED dopl_status dopl_tensor_require_grad(dopl_rt *rt, dopl_tensor *t);
DOPL_CHECKED dopl_status dopl_var_new(dopl_rt *rt, dopl_var **out);
void dopl_var_drop(dopl_rt *rt, dopl_var *var); // NULL-safe

// Called before anything writes to a tensor that a recipe can hold: the storage's version goes up,
// and what a back end remembers of indices is dropped.
void dopl_tensor_will_change(dopl_rt *rt, const dopl_tensor *t);
// Counts bytes that a tensor does not: a back end's own. Taken off with a negative number.
void dopl_memory_count(dopl_rt *rt, dopl_device device, dopl_memory_kind kind, int64_t bytes);
// Counts memory of the tensor as `kind` from now on.
void dopl_tensor_assign(dopl_rt *rt, dopl_tensor *t, dopl_memory_kind kind);

// An address on the tensor's device; the typed ones below are for tensors in host memory.
static inline void *dopl_data(const dopl_tensor *t) {
    return (char *)t->storage->data + t->offset;
}
static inline float *dopl_f32(const dopl_tensor *t) {
    return (float *)dopl_data(t);
}
static inline int32_t *dopl_i32(const dopl_tensor *t) {
    return (int32_t *)dopl_data(t);
}
static inline uint8_t *dopl_u8(const dopl_tensor *t) {
    return (uint8_t *)dopl_data(t);
}
static inline uint16_t *dopl_bf16(const dopl_tensor *t) {
    return (uint16_t *)dopl_data(t);
}

#endif

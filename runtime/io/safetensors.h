// safetensors.h - named tensors in one file, as Hugging Face defines it.
//
//     u64 header bytes | JSON: name -> { dtype, shape, data_offsets } | the elements, little endian
//
// Reading trusts nothing: lengths, types, shapes and offsets are checked against each other and
// against the file before a byte is allocated for a tensor.
#ifndef DOPL_IO_SAFETENSORS_H
#define DOPL_IO_SAFETENSORS_H

#include "../core/tensor.h"
#include "files.h"

#include <jansson.h>

typedef struct {
    const char *name; // lives as long as the file struct
    const char *type; // as the file names it: "F32"
    dopl_dtype dtype; // DOPL_N_DTYPE: none of ours; an error only when it is loaded
    bool half;        // F16: widened to f32 as it is read
    int n_dim;        // may exceed DOPL_MAX_DIM: an error only when it is loaded
    int64_t dim[DOPL_MAX_DIM];
    uint64_t begin, end; // bytes from the end of the header
} dopl_safetensor;

// An open file. An all-zero struct is closed and safe to release.
typedef struct {
    bool open;
    int fd;
    char path[PATH_MAX];
    json_t *header;
    uint64_t data_start;
    int64_t n;
    dopl_safetensor *entry; // by name
} dopl_safetensors;

DOPL_CHECKED dopl_status dopl_safetensors_open(dopl_rt *rt, dopl_safetensors *f, const char *path);
void dopl_safetensors_release(dopl_rt *rt, dopl_safetensors *f); // idempotent
// Why entry `i` cannot be read: its type, or how many dimensions it has.
DOPL_CHECKED dopl_status dopl_safetensors_can_read(dopl_rt *rt, const dopl_safetensors *f,
                                                   int64_t i);
// Reads entry `i` into the empty tensor `out`.
DOPL_CHECKED dopl_status dopl_safetensors_read(dopl_rt *rt, dopl_tensor *out,
                                               const dopl_safetensors *f, int64_t i);

typedef struct {
    const char *name;
    const dopl_tensor *tensor;
} dopl_named_tensor;

typedef struct {
    const char *key, *value;
} dopl_metadata;

// All or nothing, like every file. Sorts `named` by name and `metadata` by key: the same tensors
// give the same bytes. Names are unique.
DOPL_CHECKED dopl_status dopl_safetensors_write(dopl_rt *rt, const char *path, int64_t n,
                                                dopl_named_tensor *named, int64_t n_metadata,
                                                dopl_metadata *metadata);

#endif

// safetensors.c - named tensors in one file.
#include "safetensors.h"
#include "../core/device.h"
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the elements of a safetensors file are little endian and are read as they lie"
#endif

enum { MAX_HEADER = 100000000 }; // the reference implementation's limit, in bytes

// The types of the format and what they become here. A file may use newer ones; a tensor of such a
// type has a name and a place and cannot be read.
static const struct {
    const char *name;
    dopl_dtype dtype;
    int bytes;
} types[] = {
    { "F32", DOPL_F32, 4 },      { "I32", DOPL_I32, 4 },         { "U8", DOPL_U8, 1 },
    { "BF16", DOPL_BF16, 2 },    { "F16", DOPL_F32, 2 },         { "F64", DOPL_N_DTYPE, 8 },
    { "I64", DOPL_N_DTYPE, 8 },  { "U64", DOPL_N_DTYPE, 8 },     { "U32", DOPL_N_DTYPE, 4 },
    { "I16", DOPL_N_DTYPE, 2 },  { "U16", DOPL_N_DTYPE, 2 },     { "I8", DOPL_N_DTYPE, 1 },
    { "BOOL", DOPL_N_DTYPE, 1 }, { "F8_E4M3", DOPL_N_DTYPE, 1 }, { "F8_E5M2", DOPL_N_DTYPE, 1 },
};

static const char *type_name(dopl_dtype dtype) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].dtype == dtype) return types[i].name;
    return NULL;
}

static bool read_all(int fd, void *data, size_t n, uint64_t at) {
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(fd, (char *)data + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k == 0) errno = EIO; // the file shrank under us
        if (k <= 0) return false;
        done += (size_t)k;
    }
    return true;
}

static dopl_status bad(dopl_rt *rt, const dopl_safetensors *f, const char *name, const char *why) {
    return dopl_fail(rt, DOPL_EFORMAT, "%s: tensor '%.100s': %s", f->path, name, why);
}

// Elements of "shape" into *n; false where one is no dimension or the product is absurd.
static bool read_shape(dopl_safetensor *e, json_t *shape, uint64_t *n) {
    *n = 1;
    e->n_dim = (int)json_array_size(shape);
    for (int k = 0; k < e->n_dim; k++) {
        json_t *v = json_array_get(shape, (size_t)k);
        if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
        uint64_t dim = (uint64_t)json_integer_value(v);
        if (k < DOPL_MAX_DIM) e->dim[k] = (int64_t)dim;
        if (__builtin_mul_overflow(*n, dim, n) || *n > (uint64_t)1 << 48) return false;
    }
    return true;
}

static dopl_status read_entry(dopl_rt *rt, const dopl_safetensors *f, dopl_safetensor *e, json_t *v,
                              uint64_t data_bytes) {
    json_t *type = json_object_get(v, "dtype"), *shape = json_object_get(v, "shape");
    json_t *offsets = json_object_get(v, "data_offsets");
    if (!json_is_string(type) || !json_is_array(shape) || !json_is_array(offsets) ||
        json_object_size(v) != 3)
        return bad(rt, f, e->name, "needs exactly dtype, shape and data_offsets");
    e->type = json_string_value(type);
    uint64_t bytes = 0, n;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, e->type) != 0) continue;
        e->dtype = types[i].dtype;
        e->half = strcmp(e->type, "F16") == 0;
        bytes = (uint64_t)types[i].bytes;
    }
    if (json_array_size(shape) > 64 || !read_shape(e, shape, &n))
        return bad(rt, f, e->name, "an impossible shape");
    json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return bad(rt, f, e->name, "data_offsets are no range");
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    if (e->end > data_bytes)
        return bad(rt, f, e->name, "its elements end after the file does (is the file whole?)");
    if (bytes && e->end - e->begin != n * bytes)
        return bad(rt, f, e->name, "data_offsets do not span dtype and shape");
    return DOPL_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const dopl_safetensor *)a)->name, ((const dopl_safetensor *)b)->name);
}

static int by_begin(const void *a, const void *b) {
    const dopl_safetensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static dopl_status read_entries(dopl_rt *rt, dopl_safetensors *f, uint64_t data_bytes) {
    void *block;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &block, json_object_size(f->header) * sizeof *f->entry));
    f->entry = block;
    const char *name;
    json_t *v;
    json_object_foreach(f->header, name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        dopl_safetensor *e = &f->entry[f->n];
        *e = (dopl_safetensor){ .name = name, .dtype = DOPL_N_DTYPE };
        if (!json_is_object(v)) return bad(rt, f, name, "no object");
        DOPL_TRY(read_entry(rt, f, e, v, data_bytes));
        f->n++;
    }
    qsort(f->entry, (size_t)f->n, sizeof *f->entry, by_begin);
    uint64_t at = 0;
    for (int64_t i = 0; i < f->n; i++) {
        if (f->entry[i].begin < at) return bad(rt, f, f->entry[i].name, "overlaps another tensor");
        if (f->entry[i].begin > at)
            return bad(rt, f, f->entry[i].name, "unused bytes before its elements");
        at = f->entry[i].end;
    }
    if (at != data_bytes)
        return dopl_fail(rt, DOPL_EFORMAT, "%s: %llu bytes after the last tensor", f->path,
                         (unsigned long long)(data_bytes - at));
    qsort(f->entry, (size_t)f->n, sizeof *f->entry, by_name);
    return DOPL_OK;
}

static dopl_status check_metadata(dopl_rt *rt, const dopl_safetensors *f) {
    json_t *metadata = json_object_get(f->header, "__metadata__"), *v;
    const char *key;
    bool ok = !metadata || json_is_object(metadata);
    json_object_foreach(metadata, key, v) ok = ok && json_is_string(v);
    if (ok) return DOPL_OK;
    return dopl_fail(rt, DOPL_EFORMAT, "%s: __metadata__ needs strings", f->path);
}

static dopl_status read_header(dopl_rt *rt, dopl_safetensors *f) {
    struct stat st;
    if (fstat(f->fd, &st) < 0) return dopl_fail_errno(rt, "read", f->path);
    if (!S_ISREG(st.st_mode)) return dopl_fail(rt, DOPL_EIO, "read %s: not a file", f->path);
    uint64_t size = (uint64_t)st.st_size;
    uint64_t n;
    if (size < sizeof n)
        return dopl_fail(rt, DOPL_EFORMAT, "%s: %llu bytes, too short for a safetensors file",
                         f->path, (unsigned long long)size);
    if (!read_all(f->fd, &n, sizeof n, 0)) return dopl_fail_errno(rt, "read", f->path);
    if (n > MAX_HEADER)
        return dopl_fail(rt, DOPL_EFORMAT,
                         "%s: a header of %llu bytes, at most %d (no safetensors?)", f->path,
                         (unsigned long long)n, MAX_HEADER);
    if (n > size - sizeof n)
        return dopl_fail(rt, DOPL_EFORMAT, "%s: the header says %llu bytes, the file has %llu",
                         f->path, (unsigned long long)n, (unsigned long long)(size - sizeof n));
    void *text;
    DOPL_TRY(dopl_rt_alloc(rt, &text, (size_t)n));
    dopl_status s = DOPL_OK;
    if (!read_all(f->fd, text, (size_t)n, sizeof n)) s = dopl_fail_errno(rt, "read", f->path);
    if (!s) s = dopl_json_parse(rt, &f->header, text, (size_t)n, f->path, 1);
    dopl_rt_free(rt, text);
    DOPL_TRY(s);
    if (!json_is_object(f->header))
        return dopl_fail(rt, DOPL_EFORMAT, "%s: the header is no object", f->path);
    DOPL_TRY(check_metadata(rt, f));
    f->data_start = sizeof n + n;
    return read_entries(rt, f, size - f->data_start);
}

dopl_status dopl_safetensors_open(dopl_rt *rt, dopl_safetensors *f, const char *path) {
    memset(f, 0, sizeof *f);
    if (strlen(path) >= sizeof f->path) return dopl_fail(rt, DOPL_EARG, "path: too long");
    strcpy(f->path, path);
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0) return dopl_fail_errno(rt, "read", path);
    f->open = true;
    dopl_status s = read_header(rt, f);
    if (s) dopl_safetensors_release(rt, f);
    return s;
}

void dopl_safetensors_release(dopl_rt *rt, dopl_safetensors *f) {
    if (!f->open) return;
    close(f->fd);
    json_decref(f->header);
    dopl_rt_free(rt, f->entry);
    memset(f, 0, sizeof *f);
}

// IEEE half precision to f32: every half is a float, so nothing rounds.
static float widen(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    uint32_t bits;
    float x;
    if (exponent == 0) {
        x = (float)fraction * 0x1p-24f;
        return sign ? -x : x;
    }
    bits = sign | fraction << 13 | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23);
    memcpy(&x, &bits, sizeof x);
    return x;
}

dopl_status dopl_safetensors_can_read(dopl_rt *rt, const dopl_safetensors *f, int64_t i) {
    const dopl_safetensor *e = &f->entry[i];
    if (e->dtype == DOPL_N_DTYPE)
        return dopl_fail(rt, DOPL_EDTYPE, "%s: tensor '%.100s': %.40s is not supported", f->path,
                         e->name, e->type);
    if (e->n_dim > DOPL_MAX_DIM)
        return dopl_fail(rt, DOPL_ESHAPE, "%s: tensor '%.100s': %d dimensions, at most %d", f->path,
                         e->name, e->n_dim, DOPL_MAX_DIM);
    return DOPL_OK;
}

dopl_status dopl_safetensors_read(dopl_rt *rt, dopl_tensor *out, const dopl_safetensors *f,
                                  int64_t i) {
    const dopl_safetensor *e = &f->entry[i];
    DOPL_TRY(dopl_safetensors_can_read(rt, f, i));
    DOPL_TRY(dopl_tensor_new(rt, out, e->dtype, e->n_dim, e->dim));
    size_t bytes = (size_t)(e->end - e->begin);
    // Halves are read into the upper part of their floats' place and widened from the front.
    char *data = dopl_data(out);
    char *to = e->half ? data + bytes : data;
    if (!read_all(f->fd, to, bytes, f->data_start + e->begin)) {
        dopl_tensor_release(rt, out);
        return dopl_fail_errno(rt, "read", f->path);
    }
    for (size_t k = 0; e->half && k < bytes / 2; k++) {
        uint16_t h;
        memcpy(&h, to + 2 * k, sizeof h);
        float x = widen(h);
        memcpy(data + 4 * k, &x, sizeof x);
    }
    return DOPL_OK;
}

static int named_by_name(const void *a, const void *b) {
    return strcmp(((const dopl_named_tensor *)a)->name, ((const dopl_named_tensor *)b)->name);
}

static int metadata_by_key(const void *a, const void *b) {
    return strcmp(((const dopl_metadata *)a)->key, ((const dopl_metadata *)b)->key);
}

static size_t tensor_bytes(const dopl_tensor *t) {
    return (size_t)dopl_tensor_numel(t) * dopl_dtype_bytes(t->dtype);
}

static dopl_status put_metadata(dopl_rt *rt, dopl_bytes *out, int64_t n, dopl_metadata *metadata) {
    if (n == 0) return DOPL_OK;
    DOPL_TRY(dopl_bytes_puts(rt, out, "\"__metadata__\":{"));
    for (int64_t i = 0; i < n; i++) {
        const dopl_metadata *m = &metadata[i];
        if (i) DOPL_TRY(dopl_bytes_puts(rt, out, ","));
        DOPL_TRY(dopl_json_put_string(rt, out, m->key, strlen(m->key)));
        DOPL_TRY(dopl_bytes_puts(rt, out, ":"));
        DOPL_TRY(dopl_json_put_string(rt, out, m->value, strlen(m->value)));
    }
    return dopl_bytes_puts(rt, out, "}");
}

static dopl_status put_entry(dopl_rt *rt, dopl_bytes *out, const dopl_named_tensor *e,
                             uint64_t begin) {
    const dopl_tensor *t = e->tensor;
    const char *type = type_name(t->dtype);
    if (!type)
        return dopl_fail(rt, DOPL_EDTYPE, "safetensors: tensor '%.100s': %s cannot be written",
                         e->name, dopl_dtype_name(t->dtype));
    DOPL_TRY(dopl_json_put_string(rt, out, e->name, strlen(e->name)));
    DOPL_TRY(dopl_bytes_format(rt, out, ":{\"dtype\":\"%s\",\"shape\":[", type));
    for (int k = 0; k < t->n_dim; k++)
        DOPL_TRY(dopl_bytes_format(rt, out, "%s%lld", k ? "," : "", (long long)t->dim[k]));
    return dopl_bytes_format(rt, out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                             (unsigned long long)(begin + tensor_bytes(t)));
}

// The length, the JSON, and blanks up to a multiple of 8 so that the elements lie aligned.
static dopl_status put_header(dopl_rt *rt, dopl_bytes *out, int64_t n,
                              const dopl_named_tensor *named, int64_t n_metadata,
                              dopl_metadata *metadata) {
    uint64_t length = 0, at = 0;
    DOPL_TRY(dopl_bytes_put(rt, out, &length, sizeof length)); // filled in below
    DOPL_TRY(dopl_bytes_puts(rt, out, "{"));
    DOPL_TRY(put_metadata(rt, out, n_metadata, metadata));
    for (int64_t i = 0; i < n; i++) {
        if (i || n_metadata) DOPL_TRY(dopl_bytes_puts(rt, out, ","));
        DOPL_TRY(put_entry(rt, out, &named[i], at));
        at += tensor_bytes(named[i].tensor);
    }
    DOPL_TRY(dopl_bytes_puts(rt, out, "}"));
    while (out->n % 8) DOPL_TRY(dopl_bytes_puts(rt, out, " "));
    length = out->n - sizeof length;
    if (length > MAX_HEADER)
        return dopl_fail(rt, DOPL_EARG, "safetensors: a header of %llu bytes, at most %d",
                         (unsigned long long)length, MAX_HEADER);
    memcpy(out->data, &length, sizeof length);
    return DOPL_OK;
}

// Elements on another device pass through a copy in host memory, one tensor at a time.
static dopl_status put_elements(dopl_rt *rt, dopl_writer *w, const dopl_tensor *t, size_t bytes) {
    if (t->device == DOPL_CPU) return dopl_writer_put(rt, w, dopl_data(t), bytes);
    dopl_tensor here = { 0 };
    DOPL_TRY(dopl_tensor_to(rt, &here, t, DOPL_CPU, t->dtype));
    dopl_status s = dopl_writer_put(rt, w, dopl_data(&here), bytes);
    dopl_tensor_release(rt, &here);
    return s;
}

dopl_status dopl_safetensors_write(dopl_rt *rt, const char *path, int64_t n,
                                   dopl_named_tensor *named, int64_t n_metadata,
                                   dopl_metadata *metadata) {
    if (n) qsort(named, (size_t)n, sizeof *named, named_by_name);
    if (n_metadata) qsort(metadata, (size_t)n_metadata, sizeof *metadata, metadata_by_key);
    for (int64_t i = 0; i < n; i++)
        if (strcmp(named[i].name, "__metadata__") == 0)
            return dopl_fail(rt, DOPL_EARG, "safetensors: no tensor can be named __metadata__");
    dopl_writer w;
    dopl_bytes header = { 0 };
    DOPL_TRY(dopl_writer_open(rt, &w, path));
    dopl_status s = put_header(rt, &header, n, named, n_metadata, metadata);
    if (!s) s = dopl_writer_put(rt, &w, header.data, header.n);
    for (int64_t i = 0; i < n && !s; i++) {
        size_t bytes = tensor_bytes(named[i].tensor);
        if (bytes) s = put_elements(rt, &w, named[i].tensor, bytes);
    }
    if (!s) s = dopl_writer_commit(rt, &w);
    dopl_writer_release(&w);
    dopl_bytes_release(rt, &header);
    return s;
}

// weight.c - products with a weight stored as f32 or bf16.
#include "weight.h"
#include "gemm.h"
#include "op.h"
#include "../core/bf16.h"

#include <string.h>

// Elements of a decoded strip: 4 MiB. Larger ones are read back from memory, smaller ones add to dx
// more often.
enum { STRIP = 1 << 20 };

dopl_status op_weight_f32(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *w) {
    *out = (dopl_tensor){ 0 };
    if (!w) return DOPL_OK;
    if (w->dtype == DOPL_F32) {
        dopl_tensor_detach(out, w);
        return DOPL_OK;
    }
    DOPL_TRY(dopl_tensor_new(rt, out, DOPL_F32, w->n_dim, w->dim));
    dopl_bf16_decode(dopl_f32(out), dopl_bf16(w), dopl_tensor_numel(w));
    return DOPL_OK;
}

// Rows of a strip of `w` [O, C].
static int64_t strip_rows(const dopl_tensor *w) {
    int64_t O = w->dim[0], C = w->dim[1];
    int64_t most = C ? STRIP / C : O;
    if (w->dtype == DOPL_F32 || O <= most) return O ? O : 1;
    int64_t strips = most ? (O + most - 1) / most : O;
    return (O + strips - 1) / strips; // even strips
}

static dopl_status strip_room(dopl_rt *rt, const dopl_tensor *w, void **room) {
    *room = NULL;
    if (w->dtype == DOPL_F32) return DOPL_OK;
    return dopl_rt_alloc(rt, room, (size_t)(strip_rows(w) * w->dim[1]) * sizeof(float));
}

// Rows `first` .. `first + rows - 1` as floats.
static const float *strip(const dopl_tensor *w, int64_t first, int64_t rows, void *room) {
    int64_t C = w->dim[1];
    if (w->dtype == DOPL_F32) return dopl_f32(w) + first * C;
    dopl_bf16_decode(room, dopl_bf16(w) + first * C, rows * C);
    return room;
}

DOPL_SIMD static void add(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

// Columns `first` .. `first + cols - 1` of y [T, O] = (or +=) x [T, cols].
static void put_columns(float *y, const float *x, int64_t T, int64_t O, int64_t first, int64_t cols,
                        bool adds) {
#pragma omp parallel for schedule(static) if (T * cols > OP_GRAIN)
    for (int64_t t = 0; t < T; t++) {
        if (adds)
            add(y + t * O + first, x + t * cols, cols);
        else
            memcpy(y + t * O + first, x + t * cols, (size_t)cols * sizeof *y);
    }
}

// A strip's product gets room of its own: oneDNN is a third slower where it writes a part of longer
// rows.
static dopl_status apply_strips(dopl_rt *rt, const char *name, const dopl_tensor *w, int64_t T,
                                const float *x, bool adds, float *y) {
    int64_t O = w->dim[0], C = w->dim[1], most = strip_rows(w);
    void *room, *part;
    int code = 0;
    DOPL_TRY(strip_room(rt, w, &room));
    dopl_status status = dopl_rt_alloc(rt, &part, (size_t)(T * most) * sizeof *y);
    if (status != DOPL_OK) goto out;
    for (int64_t o = 0; !code && o < O; o += most) {
        int64_t rows = O - o < most ? O - o : most;
        code = op_gemm(rt, false, true, T, rows, C, 1.0f, x, C, strip(w, o, rows, room), C, 0.0f,
                       part, rows);
        if (!code) put_columns(y, part, T, O, o, rows, adds);
    }
    dopl_rt_free(rt, part);
    status = op_gemm_status(rt, name, code);
out:
    dopl_rt_free(rt, room);
    return status;
}

dopl_status op_weight_apply(dopl_rt *rt, const char *name, const dopl_tensor *w, int64_t T,
                            const float *x, bool adds, float *y) {
    int64_t O = w->dim[0], C = w->dim[1];
    if (strip_rows(w) < O) return apply_strips(rt, name, w, T, x, adds, y);
    void *room;
    DOPL_TRY(strip_room(rt, w, &room));
    int code = op_gemm(rt, false, true, T, O, C, 1.0f, x, C, strip(w, 0, O, room), C,
                       adds ? 1.0f : 0.0f, y, O);
    dopl_rt_free(rt, room);
    return op_gemm_status(rt, name, code);
}

dopl_status op_weight_backward(dopl_rt *rt, const char *name, const dopl_tensor *w, int64_t T,
                               const float *dy, float beta, float *dx) {
    int64_t O = w->dim[0], C = w->dim[1], most = strip_rows(w), o = 0;
    void *room;
    int code = 0;
    DOPL_TRY(strip_room(rt, w, &room));
    do { // once even without rows: dx has to be written
        int64_t rows = O - o < most ? O - o : most;
        code = op_gemm(rt, false, false, T, C, rows, 1.0f, dy + o, O, strip(w, o, rows, room), C,
                       o ? 1.0f : beta, dx, C);
        o += most;
    } while (!code && o < O);
    dopl_rt_free(rt, room);
    return op_gemm_status(rt, name, code);
}

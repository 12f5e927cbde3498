// weight.h - products with a weight stored as f32 or bf16.
//
// Floats multiply floats: a bf16 weight is decoded a strip of rows at a time, right before the
// strip's product and again in the backward. What is decoded stays small, however large the weight.
#ifndef DOPL_OP_WEIGHT_H
#define DOPL_OP_WEIGHT_H

#include "../core/tensor.h"

// y [T, O] = x [T, C] w^T; `adds`: y += that
DOPL_CHECKED dopl_status op_weight_apply(dopl_rt *rt, const char *name, const dopl_tensor *w,
                                         int64_t T, const float *x, bool adds, float *y);
// dx [T, C] = dy [T, O] w + beta dx
DOPL_CHECKED dopl_status op_weight_backward(dopl_rt *rt, const char *name, const dopl_tensor *w,
                                            int64_t T, const float *dy, float beta, float *dx);
// `out`, for the caller to release: a small weight as f32, sharing its memory where it is that
// already. Of NULL: an empty tensor.
DOPL_CHECKED dopl_status op_weight_f32(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *w);

#endif

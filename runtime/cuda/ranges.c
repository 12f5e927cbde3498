// ranges.c - the tables of operators; with DOPL_NVTX=1, each in a range that a profiler shows.
#include "cuda.h"

#define BACKWARD(id) [DOPL_OP_##id] = op_##id##_cuda_backward,
#define NO_BACKWARD(id)
const dopl_cuda_operators dopl_cuda_plain_operators = {
    .forward = {
#define OP(id, inputs, attributes, kept, grad, text) [DOPL_OP_##id] = op_##id##_cuda,
#include "../op/ops.def"
    },
    .backward = {
#define OP(id, inputs, attributes, kept, grad, text) grad(id)
#include "../op/ops.def"
    },
};
#undef BACKWARD
#undef NO_BACKWARD

#if !defined(DOPL_EMULATED) && __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

#define BACKWARD(id)                                                                               \
    static dopl_status id##_backward(dopl_rt *rt, dopl_node *n) {                                  \
        nvtxRangePushA(#id " backward");                                                           \
        dopl_status status = op_##id##_cuda_backward(rt, n);                                       \
        nvtxRangePop();                                                                            \
        return status;                                                                             \
    }
#define NO_BACKWARD(id)
#define OP(id, inputs, attributes, kept, grad, text)                                               \
    static dopl_status id##_forward(dopl_rt *rt, dopl_op_call *c) {                                \
        nvtxRangePushA(#id);                                                                       \
        dopl_status status = op_##id##_cuda(rt, c);                                                \
        nvtxRangePop();                                                                            \
        return status;                                                                             \
    }                                                                                              \
    grad(id)
#include "../op/ops.def"
#undef BACKWARD

#define BACKWARD(id) [DOPL_OP_##id] = id##_backward,
const dopl_cuda_operators *dopl_cuda_named_operators(void) {
    static const dopl_cuda_operators named = {
        .forward = {
#define OP(id, inputs, attributes, kept, grad, text) [DOPL_OP_##id] = id##_forward,
#include "../op/ops.def"
        },
        .backward = {
#define OP(id, inputs, attributes, kept, grad, text) grad(id)
#include "../op/ops.def"
        },
    };
    return &named;
}

#else

const dopl_cuda_operators *dopl_cuda_named_operators(void) {
    return NULL;
}

#endif

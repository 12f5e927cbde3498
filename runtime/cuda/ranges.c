// ranges.c - the tables of operators; with DOPL_NVTX=1, a range around each that a profiler shows.
#include "cuda.h"

#define BACKWARD(id) [DOPL_OP_##id] = op_##id##_cuda_backward,
#define NO_BACKWARD(id)
const dopl_cuda_operators dopl_cuda_all_operators = {
    .forward = {
#define OP(id, inputs, attributes, kept, grad, text) [DOPL_OP_##id] = op_##id##_cuda,
#include "../op/ops.def"
    },
    .backward = {
#define OP(id, inputs, attributes, kept, grad, text) grad(id)
#include "../op/ops.def"
    },
    .supports = { [DOPL_OP_attention] = op_attention_cuda_supports,
                  [DOPL_OP_kv_attention] = op_kv_attention_cuda_supports },
};

#if !defined(DOPL_EMULATED) && __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>

static void mark(const char *name, dopl_part part) {
    static const char *const after[DOPL_N_PART] = { "", " backward", " pass", "" };
    char text[128];
    if (!name) {
        nvtxRangePop();
        return;
    }
    snprintf(text, sizeof text, "%s%s", name, after[part]);
    nvtxRangePushA(text);
}

dopl_cuda_mark_fn *dopl_cuda_mark(void) {
    return mark;
}

#else

dopl_cuda_mark_fn *dopl_cuda_mark(void) {
    return NULL;
}

#endif

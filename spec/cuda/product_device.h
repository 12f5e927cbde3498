// product_device.h - as much of a device as gemm.c needs, for specs that link it and no other file
// of the back end but the queue.
#ifndef DOPL_SPEC_CUDA_PRODUCT_DEVICE_H
#define DOPL_SPEC_CUDA_PRODUCT_DEVICE_H

#include "../../runtime/cuda/cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct {
    dopl_rt rt;
    dopl_cuda cuda;
} device;

static inline void open_device(device *d) {
    memset(d, 0, sizeof *d);
    assert_int_equal(dopl_rt_init(&d->rt), DOPL_OK);
    d->rt.backend_data = &d->cuda;
    d->cuda.arch = 90;
    assert_int_equal(dopl_cuda_queue_init(&d->rt, true), DOPL_OK);
    assert_int_equal(dopl_cuda_gemm_init(&d->rt), DOPL_OK);
}

static inline void close_device(device *d) {
    dopl_cuda_gemm_release(&d->rt);
    dopl_cuda_gemm_release(&d->rt); // which may be asked for twice
    dopl_cuda_queue_release(&d->rt);
    dopl_rt_release(&d->rt);
}

dopl_status dopl_cuda_result(dopl_rt *rt, cudaError_t error, const char *what) {
    return error == cudaSuccess ? DOPL_OK : dopl_fail(rt, DOPL_EDEVICE, "%s", what);
}

#endif

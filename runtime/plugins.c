// plugins.c - the back ends that `--device` can name beside the CPU (core/device.h).
#include "core/device.h"

const dopl_plugin dopl_gpu_plugin = {
    .name = "cuda",
    .file = "libdopl_cuda.so",
    .variable = "DOPL_CUDA_PLUGIN",
    .missing = "build it where nvcc is found (docs/cuda.md)",
};

// emulated_kernel.h - the start of every kernel that nvrtc.cpp compiles: the emulator's functions,
// reached through a table that loading fills in.
#ifndef DOPL_EMULATED_KERNEL_H
#define DOPL_EMULATED_KERNEL_H

#include <cuda_runtime.h>

extern "C" { // in braces: a definition
__attribute__((visibility("default"))) emulator::services dopl_emulated_services_of_kernel;
}

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#define threadIdx ((*dopl_emulated_services_of_kernel.here)->thread)
#define blockIdx ((*dopl_emulated_services_of_kernel.here)->block)
#define blockDim ((*dopl_emulated_services_of_kernel.here)->block_dim)
#define gridDim ((*dopl_emulated_services_of_kernel.here)->grid_dim)

namespace emulator {
inline void gather(unsigned mask, const void *value, size_t bytes, void *all) {
    dopl_emulated_services_of_kernel.gather(mask, value, bytes, all);
}
inline void warp_barrier(unsigned mask) {
    dopl_emulated_services_of_kernel.warp_barrier(mask);
}
inline int block_barrier(int value, int kind) {
    return dopl_emulated_services_of_kernel.block_barrier(value, kind);
}
inline int lane() {
    return dopl_emulated_services_of_kernel.lane();
}
} // namespace emulator

#endif

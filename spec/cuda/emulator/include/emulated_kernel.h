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
inline const shuffled *gather(unsigned mask, shuffled given) {
    return dopl_emulated_services_of_kernel.gather(mask, given);
}
inline int block_barrier(int vote, int kind) {
    return dopl_emulated_services_of_kernel.block_barrier(vote, kind);
}
inline int lane_number() {
    return dopl_emulated_services_of_kernel.lane_number();
}
} // namespace emulator

#endif

// emulated_kernel.h - the start of every kernel that nvrtc.cpp compiles: the emulator's functions,
// reached through a table that loading fills in.
#ifndef DOPL_EMULATED_KERNEL_H
#define DOPL_EMULATED_KERNEL_H

#include <cuda_runtime.h>

extern "C" { // in braces: a definition
__attribute__((visibility("default"))) emulator::services dopl_emulated_services_of_kernel;
}

namespace emulator {
inline const place &current() {
    return **dopl_emulated_services_of_kernel.here;
}
inline const shuffled *gather(unsigned mask, shuffled value) {
    return dopl_emulated_services_of_kernel.gather(mask, value);
}
inline int block_barrier(int vote, int kind) {
    return dopl_emulated_services_of_kernel.block_barrier(vote, kind);
}
} // namespace emulator

// Roots as passes ask for them (runtime/cuda/jit.c).
#define sqrtf(x) emulator::rough((sqrtf)(x), 2)

#endif

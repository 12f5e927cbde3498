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
// Roots as passes ask for them (runtime/cuda/jit.c), and as a GPU makes them then: up to two units
// in the last place off.
inline float rough_root(float x) {
    float y = sqrtf(x);
    uint32_t bits = __float_as_uint(y);
    bool is_plain = bits - 2 < 0x7f000000u; // not 0, infinite or no number
    return is_plain ? __uint_as_float(bits >> 3 & 1 ? bits + 2 : bits - 2) : y;
}
} // namespace emulator

#define sqrtf emulator::rough_root

#endif

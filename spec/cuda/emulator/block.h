// block.h - running a kernel's blocks (block.cpp).
#ifndef DOPL_EMULATOR_BLOCK_H
#define DOPL_EMULATOR_BLOCK_H

#include <cuda_runtime.h>

namespace emulator {

enum { MAX_THREADS = 1024, SHARED_LIMIT = 163 << 10 }; // a block's on sm_80, which has less

// Runs `body` for every thread of every block.
void run_grid(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body);

} // namespace emulator

#endif

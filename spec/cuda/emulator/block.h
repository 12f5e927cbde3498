// block.h - running a kernel's blocks (block.cpp).
#ifndef DOPL_EMULATOR_BLOCK_H
#define DOPL_EMULATOR_BLOCK_H

#include <cuda_runtime.h>

#include <vector>

namespace emulator {

enum { MAX_THREADS = 1024, SHARED_LIMIT = 163 << 10 }; // a block's on sm_80, which has less

// Runs `body` for every thread of every block.
void run_grid(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body);

// What runs a kernel in place of that, from its arguments' bytes (../ptx); nullptr: nothing does.
typedef void other_run(const void *function, dim3 grid, dim3 block, size_t shared_bytes,
                       const std::vector<std::string> &arguments);
extern other_run *run_otherwise;

// 0 .. n - 1; of memory without bounds (memory.h) those at either end.
std::vector<unsigned> ends(unsigned n);
// The same in the order of a seed, that of DOPL_EMULATOR_ORDER.
std::vector<unsigned> arrange(unsigned n, unsigned seed);
unsigned order_seed();

} // namespace emulator

#endif

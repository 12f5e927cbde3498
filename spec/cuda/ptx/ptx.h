// ptx.h - runs what nvcc makes of a kernel, its PTX, in place of what the C++ compiler does.
#ifndef DOPL_EMULATOR_PTX_H
#define DOPL_EMULATOR_PTX_H

#include <cuda_runtime.h>

#include <string>
#include <vector>

namespace emulator {
namespace ptx {

bool is_asked_for(); // DOPL_EMULATOR_PTX names a folder of files
// A kernel of a module that was compiled at run time, as a function. nullptr: there is none.
const void *add(const std::string &module, const std::string &name);
void drop(const void *function);
std::vector<size_t> parameters(const void *function); // bytes of each

// By the real NVRTC, to PTX (nvrtc.cpp). False: it could not, as the log says.
bool compile(const std::string &source, int n, const char *const *options, std::string &image,
             std::string &log);

} // namespace ptx
} // namespace emulator

#endif

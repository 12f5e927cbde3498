// nvrtc.cpp - optimizer passes compiled by the real NVRTC, which needs no GPU, to PTX.
#include "ptx.h"

#include <dlfcn.h>

namespace emulator {
namespace ptx {

// Found where nvcc was, when the plug-in was built.
static void *library() {
    static void *opened;
    for (const char *name : { "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so" })
        if (!opened) opened = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!opened) {
        fprintf(stderr, "emulator: %s\n", dlerror());
        abort();
    }
    return opened;
}

template <class... P> static int call(const char *name, P... arguments) {
    auto function = reinterpret_cast<int (*)(P...)>(dlsym(library(), name));
    return function ? function(arguments...) : -1;
}

bool compile(const std::string &source, int n, const char *const *options, std::string &image,
             std::string &log) {
    void *program = nullptr;
    size_t bytes = 0;
    if (call("nvrtcCreateProgram", &program, source.c_str(), "dopl_pass.cu", 0,
             (const char *const *)nullptr, (const char *const *)nullptr))
        return false;
    bool done = call("nvrtcCompileProgram", program, n, options) == 0;
    if (call("nvrtcGetProgramLogSize", program, &bytes) == 0) {
        log.resize(bytes);
        call("nvrtcGetProgramLog", program, &log[0]);
        log.resize(strlen(log.c_str()));
    }
    done = done && call("nvrtcGetPTXSize", program, &bytes) == 0;
    if (done) {
        image.resize(bytes);
        done = call("nvrtcGetPTX", program, &image[0]) == 0;
    }
    call("nvrtcDestroyProgram", &program);
    return done;
}

} // namespace ptx
} // namespace emulator

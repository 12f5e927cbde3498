// nvrtc.cpp - run-time compilation by the machine's C++ compiler, and loading what it made.
//
// A "cubin" is a shared object behind its length. It includes emulated_device.h and takes the
// emulator's functions from a table that loading fills in: the plug-in hides its symbols.
#include <cuda.h>
#include <cuda_runtime.h>
#include <nvrtc.h>
#include "../ptx/ptx.h"

#include <dlfcn.h>
#include <string>
#include <unistd.h>

struct dopl_emulated_program {
    std::string source, log, image;
};

struct CUmod_st {
    void *library, *code; // on the device
    const void *ptx;      // the kernel, where that is run (ptx.h)
};

static std::string read_file(const std::string &path) {
    std::string text;
    if (FILE *f = fopen(path.c_str(), "rb")) {
        char buffer[1 << 16];
        for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;) text.append(buffer, n);
        fclose(f);
    }
    return text;
}

static bool write_file(const std::string &path, const std::string &text) {
    FILE *f = fopen(path.c_str(), "wb");
    if (!f) return false;
    bool whole = fwrite(text.data(), 1, text.size(), f) == text.size();
    return fclose(f) == 0 && whole;
}

static std::string folder() {
    static std::string path;
    if (path.empty()) {
        char name[] = "/tmp/dopl-emulated-XXXXXX";
        path = mkdtemp(name) ? name : "/tmp";
        atexit([] { (void)rmdir(path.c_str()); });
    }
    return path;
}

static const char head[] = "#include <emulated_kernel.h>\n";

// Calls the kernel with arguments as cuLaunchKernel gets them: addresses of the values.
static const char tail[] =
    "\nextern \"C\" void dopl_emulated_call(void **a) {\n"
    "    dopl_pass(*(const u64 **)a[0], *(int *)a[1], *(u64 *)a[2], *(const float **)a[3],\n"
    "              *(scalars *)a[4]);\n"
    "}\n";

static const int known_archs[] = { 80, 90 }; // a GPU may be newer: DOPL_EMULATOR_ARCH

static bool knows(const std::string &option) {
    for (int arch : known_archs)
        for (const char *kind : { "sm", "compute" })
            if (option == std::string("--gpu-architecture=") + kind + "_" + std::to_string(arch))
                return true;
    return false;
}

extern "C" {

const char *nvrtcGetErrorString(nvrtcResult error) {
    return error == NVRTC_SUCCESS ? "NVRTC_SUCCESS" : "NVRTC_ERROR_COMPILATION";
}

// By the headers' text, since kernels in a cache are of this version: one that was compiled against
// others would find its functions elsewhere in the table.
nvrtcResult nvrtcVersion(int *major, int *minor) {
    std::string text = DOPL_EMULATOR_OPTIONS;
    for (const char *name : { "cuda_runtime.h", "emulated_device.h", "emulated_kernel.h" })
        text += read_file(std::string(DOPL_EMULATOR_INCLUDE "/") + name);
    if (emulator::ptx::is_asked_for()) text += "PTX";
    uint64_t hash = std::hash<std::string>{}(text);
    *major = (int)(hash >> 32 & INT_MAX);
    *minor = (int)(hash & INT_MAX);
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCreateProgram(nvrtcProgram *out, const char *source, const char *, int,
                               const char *const *, const char *const *) {
    *out = new dopl_emulated_program{ source, "", "" };
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program) {
    delete *program;
    *program = nullptr;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetNumSupportedArchs(int *n) {
    *n = sizeof known_archs / sizeof *known_archs;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetSupportedArchs(int *out) {
    memcpy(out, known_archs, sizeof known_archs);
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int n, const char *const *options) {
    if (n == 0 || !knows(options[0])) {
        program->log = "invalid value for --gpu-architecture";
        return NVRTC_ERROR_INVALID_OPTION;
    }
    if (emulator::ptx::is_asked_for())
        return emulator::ptx::compile(program->source, n, options, program->image, program->log)
                   ? NVRTC_SUCCESS
                   : NVRTC_ERROR_COMPILATION;
    std::string base = folder() + "/kernel", source = base + ".cpp", object = base + ".so",
                log = base + ".log";
    const char *compiler = getenv("CXX");
    std::string command = std::string(compiler && *compiler ? compiler : "c++") +
                          " -std=c++17 -O1 -mfma -fPIC -shared -w " DOPL_EMULATOR_OPTIONS
                          " -I '" DOPL_EMULATOR_INCLUDE "' -o " +
                          object + " " + source + " > " + log + " 2>&1";
    bool done = write_file(source, head + program->source + tail) && system(command.c_str()) == 0;
    program->log = read_file(log);
    if (done) program->image = read_file(object);
    unlink(source.c_str());
    unlink(object.c_str());
    unlink(log.c_str());
    return done ? NVRTC_SUCCESS : NVRTC_ERROR_COMPILATION;
}

nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t *bytes) {
    *bytes = program->log.size() + 1;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char *log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t *bytes) {
    *bytes = sizeof(uint64_t) + program->image.size();
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char *image) {
    uint64_t n = program->image.size();
    memcpy(image, &n, sizeof n);
    memcpy(image + sizeof n, program->image.data(), program->image.size());
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetPTXSize(nvrtcProgram program, size_t *bytes) {
    return nvrtcGetCUBINSize(program, bytes);
}

nvrtcResult nvrtcGetPTX(nvrtcProgram program, char *image) {
    return nvrtcGetCUBIN(program, image);
}

// The library of an image, or its PTX.
static CUresult load(CUmod_st *module, const char *image, size_t n) {
    static int count;
    if (emulator::ptx::is_asked_for()) {
        module->ptx = emulator::ptx::add(std::string(image, n), "dopl_pass");
        return module->ptx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
    }
    std::string path = folder() + "/module" + std::to_string(count++) + ".so";
    if (!write_file(path, std::string(image, n))) return CUDA_ERROR_INVALID_IMAGE;
    void *library = module->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    unlink(path.c_str());
    if (!library) return CUDA_ERROR_INVALID_IMAGE;
    auto *services =
        static_cast<emulator::services *>(dlsym(library, "dopl_emulated_services_of_kernel"));
    if (!services) return CUDA_ERROR_INVALID_IMAGE;
    *services = { &emulator::here, emulator::gather, emulator::block_barrier };
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *out, const void *image) {
    uint64_t n;
    memcpy(&n, image, sizeof n);
    auto *module = new CUmod_st{};
    CUresult error = load(module, static_cast<const char *>(image) + sizeof n, n);
    const size_t code_bytes = 1 << 20; // as a driver takes it, whatever the kernel
    if (error == CUDA_SUCCESS && cudaMalloc(&module->code, code_bytes) != cudaSuccess)
        error = CUDA_ERROR_OUT_OF_MEMORY;
    if (error == CUDA_SUCCESS)
        *out = module;
    else
        cuModuleUnload(module);
    return error;
}

CUresult cuModuleUnload(CUmodule module) {
    emulator::wait();
    cudaFree(module->code);
    if (module->library) dlclose(module->library);
    if (module->ptx) emulator::ptx::drop(module->ptx);
    delete module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *) {
    void *function = module->ptx ? const_cast<void *>(module->ptx)
                                 : dlsym(module->library, "dopl_emulated_call");
    *out = static_cast<CUfunction>(function);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction, int threads,
                                                     size_t shared_bytes) {
    *out = emulator::blocks_per_sm(threads, shared_bytes);
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                        CUstream stream, void **arguments, void **) {
    auto call = reinterpret_cast<void (*)(void **)>(function);
    if (emulator::is_capturing()) return CUDA_ERROR_LAUNCH_FAILED;
    for (int i : { 0, 3 }) // those of dopl_pass that are pointers
        emulator::check_argument("compiled kernel", arguments[i], sizeof(void *), true);
    std::vector<std::string> values;
    if (emulator::ptx::is_asked_for()) {
        for (size_t bytes : emulator::ptx::parameters(function))
            values.emplace_back(static_cast<char *>(arguments[values.size()]), bytes);
    }
    cudaError_t error = emulator::launch(
        "compiled kernel", reinterpret_cast<const void *>(function), dim3(grid_x, grid_y, grid_z),
        dim3(block_x, block_y, block_z), shared_bytes, stream, [=] { call(arguments); }, values);
    emulator::wait();                    // arguments are not copied
    return static_cast<CUresult>(error); // the same numbers
}

} // extern "C"

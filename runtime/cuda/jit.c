// jit.c - kernels compiled while the program runs.
//
// NVRTC compiles a source for this device's architecture to machine code, which is kept in memory
// and in a folder (cubin/ in the cache), named by a hash of source, options, architecture
// and NVRTC's version. For a GPU newer than this NVRTC it compiles to PTX, which the driver takes
// from there. A first compilation takes some hundred milliseconds; afterwards a kernel is a file of
// some ten kilobytes to read, behind a hash of itself: the driver takes no length, and would read
// beyond the end of half a file. The driver's functions are looked up at run time: libcuda.so is
// the driver's, and a machine without one must still be told so in words.
#include "cuda.h"
#include "../io/files.h"
#include "../io/hash.h"
#include "../io/roots.h"

#include <cuda.h>
#include <nvrtc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char key[33];
    CUmodule module;
    CUfunction function;
    int blocks;
} kernel;

struct dopl_cuda_jit {
    kernel *kernel;
    int n, capacity;
    CUresult (*load)(CUmodule *out, const void *image);
    CUresult (*unload)(CUmodule module);
    CUresult (*find)(CUfunction *out, CUmodule module, const char *name);
    CUresult (*occupancy)(int *out, CUfunction function, int threads, size_t shared_bytes);
    CUresult (*launch)(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                       unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                       CUstream stream, void **arguments, void **extra);
};

// The driver's errors have the runtime's numbers.
static dopl_status result(dopl_rt *rt, CUresult error, const char *what) {
    return dopl_cuda_result(rt, (cudaError_t)error, what);
}

// ---- the driver

static dopl_status find_driver(dopl_rt *rt, struct dopl_cuda_jit *jit) {
#ifdef DOPL_EMULATED
    (void)rt;
    jit->load = cuModuleLoadData;
    jit->unload = cuModuleUnload;
    jit->find = cuModuleGetFunction;
    jit->occupancy = cuOccupancyMaxActiveBlocksPerMultiprocessor;
    jit->launch = cuLaunchKernel;
#else
    const dopl_cuda_symbol wanted[] = {
        { "cuModuleLoadData", &jit->load },
        { "cuModuleUnload", &jit->unload },
        { "cuModuleGetFunction", &jit->find },
        { "cuOccupancyMaxActiveBlocksPerMultiprocessor", &jit->occupancy },
        { "cuLaunchKernel", &jit->launch },
    };
    DOPL_TRY(dopl_cuda_symbols(rt, "libcuda.so.1", wanted, sizeof wanted / sizeof *wanted));
#endif
    return DOPL_OK;
}

dopl_status dopl_cuda_jit_init(dopl_rt *rt) {
    enum { FIRST_CAPACITY = 16 };
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(struct dopl_cuda_jit)));
    struct dopl_cuda_jit *jit = dopl_cuda_of(rt)->jit = memory;
    jit->capacity = FIRST_CAPACITY;
    DOPL_TRY(dopl_rt_alloc(rt, (void **)&jit->kernel, FIRST_CAPACITY * sizeof *jit->kernel));
    return find_driver(rt, jit);
}

void dopl_cuda_jit_release(dopl_rt *rt) {
    struct dopl_cuda_jit *jit = dopl_cuda_of(rt)->jit;
    if (!jit) return;
    for (int i = 0; i < jit->n; i++) jit->unload(jit->kernel[i].module);
    dopl_rt_free(rt, jit->kernel);
    dopl_rt_free(rt, jit);
    dopl_cuda_of(rt)->jit = NULL;
}

// ---- the folder of compiled kernels

// False: there is no folder for a cache; kernels are compiled by every run.
static bool cubin_path(char path[PATH_MAX], const char *key) {
    if (!dopl_cache_folder(path)) return false;
    size_t n = strlen(path);
    int used = snprintf(path + n, PATH_MAX - n, "/cubin%s%s", key ? "/" : "", key ? key : "");
    return n + (size_t)used < PATH_MAX;
}

enum { HASH = 32 }; // bytes before an image in its file: the image's hash, in hexadecimal

static void hash_of(char out[HASH + 1], const char *image, size_t n) {
    dopl_hash h;
    dopl_hash_init(&h);
    dopl_hash_put(&h, image, n);
    dopl_hash_hex(&h, out);
}

// Whether `file` is whole; then the image lies behind its hash.
static bool is_whole(const dopl_bytes *file) {
    char hash[HASH + 1];
    if (file->n <= HASH) return false;
    hash_of(hash, file->data + HASH, file->n - HASH);
    return memcmp(hash, file->data, HASH) == 0;
}

// A kernel that cannot be kept is compiled again next time: no reason to stop, nor to speak.
static void keep(dopl_rt *rt, const char *key, const dopl_bytes *file) {
    char path[PATH_MAX], before[sizeof rt->error];
    memcpy(before, rt->error, sizeof before);
    if (cubin_path(path, NULL) && dopl_mkdir(rt, path, NULL) == DOPL_OK && cubin_path(path, key) &&
        dopl_file_write(rt, path, file->data, file->n) == DOPL_OK)
        return;
    memcpy(rt->error, before, sizeof before);
}

// ---- compiling

// Roots and quotients good to 1 and 2 ulp: rounded correctly they cost a branch each, past which
// ptxas moves nothing. The codec, whose codes are the CPU's, asks for what it needs by name.
static const char *const compile_options[] = { "--std=c++17", "--device-as-default-execution-space",
                                               "--prec-div=false", "--prec-sqrt=false" };
enum { N_COMPILE_OPTION = sizeof compile_options / sizeof *compile_options };

static void key_of(const dopl_rt *rt, char key[33], const char *source) {
    int version[2] = { 0, 0 };
    nvrtcVersion(&version[0], &version[1]);
    dopl_hash h;
    dopl_hash_init(&h);
    dopl_hash_put(&h, source, strlen(source));
    for (int i = 0; i < N_COMPILE_OPTION; i++)
        dopl_hash_put(&h, compile_options[i], strlen(compile_options[i]));
    dopl_hash_put(&h, &dopl_cuda_of(rt)->arch, sizeof(int));
    dopl_hash_put(&h, version, sizeof version);
    dopl_hash_hex(&h, key);
}

// The first lines of NVRTC's log, as a failure.
static dopl_status compile_failed(dopl_rt *rt, nvrtcProgram program, nvrtcResult error) {
    char *log = NULL;
    size_t n = 0;
    if (nvrtcGetProgramLogSize(program, &n) == NVRTC_SUCCESS &&
        dopl_rt_alloc(rt, (void **)&log, n + 1) == DOPL_OK) {
        log[0] = log[n] = '\0';
        nvrtcGetProgramLog(program, log);
    }
    dopl_status status = dopl_fail(rt, DOPL_EDEVICE, "optimizer pass: NVRTC: %s: %.600s",
                                   nvrtcGetErrorString(error), log ? log : "");
    dopl_rt_free(rt, log);
    return status;
}

// This GPU's architecture, or the newest before it that NVRTC knows; 0: none.
static int nearest_arch(int wanted) {
    enum { ROOM = 64 };
    int n = 0, known[ROOM], best = 0;
    if (nvrtcGetNumSupportedArchs(&n) != NVRTC_SUCCESS || n > ROOM ||
        nvrtcGetSupportedArchs(known) != NVRTC_SUCCESS)
        return wanted;
    for (int i = 0; i < n; i++)
        if (known[i] <= wanted && known[i] > best) best = known[i];
    return best;
}

static nvrtcResult image_bytes(nvrtcProgram program, bool ptx, size_t *n) {
    return ptx ? nvrtcGetPTXSize(program, n) : nvrtcGetCUBINSize(program, n);
}

static nvrtcResult get_image(nvrtcProgram program, bool ptx, char *to) {
    return ptx ? nvrtcGetPTX(program, to) : nvrtcGetCUBIN(program, to);
}

// *out: the image behind its hash, as in its file.
static dopl_status compile(dopl_rt *rt, const char *source, dopl_bytes *out) {
    int known = nearest_arch(dopl_cuda_of(rt)->arch);
    bool ptx = known != dopl_cuda_of(rt)->arch;
    char arch[40];
    snprintf(arch, sizeof arch, "--gpu-architecture=%s_%d", ptx ? "compute" : "sm", known);
    const char *options[1 + N_COMPILE_OPTION] = { arch };
    memcpy(options + 1, compile_options, sizeof compile_options);
    nvrtcProgram program;
    nvrtcResult e = nvrtcCreateProgram(&program, source, "dopl_pass.cu", 0, NULL, NULL);
    if (e != NVRTC_SUCCESS)
        return dopl_fail(rt, DOPL_EDEVICE, "optimizer pass: NVRTC: %s", nvrtcGetErrorString(e));
    e = nvrtcCompileProgram(program, 1 + N_COMPILE_OPTION, options);
    size_t n = 0;
    if (e == NVRTC_SUCCESS) e = image_bytes(program, ptx, &n);
    dopl_status status =
        e == NVRTC_SUCCESS ? dopl_bytes_reserve(rt, out, HASH + n) : compile_failed(rt, program, e);
    if (status == DOPL_OK && (e = get_image(program, ptx, out->data + HASH)) != NVRTC_SUCCESS)
        status = compile_failed(rt, program, e);
    nvrtcDestroyProgram(&program);
    if (status != DOPL_OK) return status;
    char hash[HASH + 1];
    hash_of(hash, out->data + HASH, n);
    memcpy(out->data, hash, HASH);
    out->n = HASH + n;
    return status;
}

// Into the driver. Where it has no memory for that, what the pool keeps makes room.
static CUresult load_image(dopl_rt *rt, kernel *k, const char *image) {
    struct dopl_cuda_jit *jit = dopl_cuda_of(rt)->jit;
    CUresult error = jit->load(&k->module, image);
    if ((cudaError_t)error != cudaErrorMemoryAllocation) return error;
    dopl_cuda_pool_trim(rt);
    return jit->load(&k->module, image);
}

// The image from the folder, or compiled. A file that is damaged, or that the driver does not take,
// is compiled anew.
static dopl_status load(dopl_rt *rt, const char *source, kernel *k) {
    struct dopl_cuda_jit *jit = dopl_cuda_of(rt)->jit;
    char path[PATH_MAX];
    dopl_bytes file = { 0 };
    bool kept = cubin_path(path, k->key) && dopl_file_kind_of(path) == DOPL_FILE &&
                dopl_file_read(rt, &file, path) == DOPL_OK && is_whole(&file) &&
                load_image(rt, k, file.data + HASH) == CUDA_SUCCESS;
    dopl_status status = DOPL_OK;
    if (!kept) {
        dopl_bytes_release(rt, &file);
        status = compile(rt, source, &file);
        if (status == DOPL_OK)
            status = result(rt, load_image(rt, k, file.data + HASH), "optimizer pass: loading");
        if (status == DOPL_OK) keep(rt, k->key, &file);
    }
    dopl_bytes_release(rt, &file);
    if (status != DOPL_OK) return status;
    status =
        result(rt, jit->find(&k->function, k->module, "dopl_pass"), "optimizer pass: dopl_pass");
    if (status != DOPL_OK) jit->unload(k->module);
    return status;
}

dopl_status dopl_cuda_jit_get(dopl_rt *rt, const char *source, int threads, void **function,
                              int *blocks) {
    struct dopl_cuda_jit *jit = dopl_cuda_of(rt)->jit;
    kernel made = { .blocks = 1 };
    key_of(rt, made.key, source);
    for (int i = 0; i < jit->n; i++) {
        if (strcmp(jit->kernel[i].key, made.key) != 0) continue;
        *function = jit->kernel[i].function;
        *blocks = jit->kernel[i].blocks;
        return DOPL_OK;
    }
    if (jit->n == jit->capacity) {
        int capacity = 2 * jit->capacity;
        void *grown = jit->kernel;
        DOPL_TRY(dopl_rt_realloc(rt, &grown, (size_t)capacity * sizeof *jit->kernel));
        jit->kernel = grown;
        jit->capacity = capacity;
    }
    DOPL_TRY(load(rt, source, &made));
    jit->occupancy(&made.blocks, made.function, threads, 0);
    if (made.blocks < 1) made.blocks = 1;
    jit->kernel[jit->n++] = made;
    *function = made.function;
    *blocks = made.blocks;
    return DOPL_OK;
}

dopl_status dopl_cuda_jit_launch(dopl_rt *rt, void *function, int grid, int block, void **arguments,
                                 const char *what) {
    const dopl_cuda *cuda = dopl_cuda_of(rt);
    DOPL_TRY(dopl_cuda_flush(rt)); // with its step's scalars: no two are alike
    dopl_cuda_piece_begins(rt, what);
    CUresult e = cuda->jit->launch((CUfunction)function, (unsigned)grid, 1, 1, (unsigned)block, 1,
                                   1, 0, cuda->stream, arguments, NULL);
    dopl_cuda_piece_ends(rt);
    DOPL_TRY(result(rt, e, what));
    rt->n_launched++;
    return dopl_cuda_launched(rt, what);
}

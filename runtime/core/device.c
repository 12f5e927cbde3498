// device.c - opening a back end, and moving tensors between devices.
#include "device.h"
#include "bf16.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *dopl_device_name(dopl_device device) {
    return device == DOPL_CPU ? "cpu" : dopl_gpu_plugin.name;
}

// ---- the plug-in

// Fills `path` with the plug-in's file: the one the environment names, or the one beside the core
// library (an installation) or in the folder above it (a build folder). False: there is none.
static bool find_plugin(char path[PATH_MAX]) {
    static const char *const beside[] = { ".", ".." };
    const char *named = getenv(dopl_gpu_plugin.variable);
    if (named && *named) {
        snprintf(path, PATH_MAX, "%s", named);
        return true;
    }
    Dl_info info;
    char self[PATH_MAX];
    if (!dladdr((void *)dopl_device_name, &info) || !realpath(info.dli_fname, self)) return false;
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        int n = snprintf(path, PATH_MAX, "%s/%s/%s", self, beside[i], dopl_gpu_plugin.file);
        if (n < PATH_MAX && access(path, R_OK) == 0) return true;
    }
    return false;
}

static dopl_status open_backend(dopl_rt *rt) {
    char path[PATH_MAX];
    const char *name = dopl_gpu_plugin.name;
    if (!find_plugin(path))
        return dopl_fail(rt, DOPL_EDEVICE, "device %s: this dopl has no %s: %s", name,
                         dopl_gpu_plugin.file, dopl_gpu_plugin.missing);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return dopl_fail(rt, DOPL_EDEVICE, "device %s: %s", name, dlerror());
    union { // a function pointer out of an object pointer, as POSIX wants it
        void *object;
        dopl_backend_open_fn *function;
    } open = { .object = dlsym(library, "dopl_backend_open") };
    dopl_status status = DOPL_EDEVICE;
    if (!open.object)
        dopl_fail(rt, status, "device %s: %s is no dopl plug-in", name, path);
    else
        status = open.function(rt, &rt->backend, DOPL_BACKEND_ABI);
    if (status != DOPL_OK) rt->backend = NULL;
    if (status == DOPL_OK && rt->profile) status = rt->backend->watch(rt);
    return status; // the library stays, whatever came of it: drivers do not unload cleanly
}

dopl_status dopl_device_use(dopl_rt *rt, dopl_device device) {
    if (device != DOPL_CPU && !rt->backend) DOPL_TRY(open_backend(rt));
    rt->device = device;
    return DOPL_OK;
}

// Reads "cpu", NAME or NAME:N, of the plug-in. *ordinal: N, or -1 where none is given.
static bool read_name(const char *name, dopl_device *device, int *ordinal) {
    *ordinal = -1;
    *device = DOPL_CPU;
    if (!strcmp(name, "cpu")) return true;
    *device = DOPL_GPU;
    size_t n = strlen(dopl_gpu_plugin.name);
    if (strncmp(name, dopl_gpu_plugin.name, n) != 0) return false;
    if (!name[n]) return true;
    *ordinal = 0;
    const char *digit = name + n + 1;
    if (name[n] != ':' || !*digit) return false;
    for (; *digit >= '0' && *digit <= '9' && *ordinal < 1000; digit++)
        *ordinal = 10 * *ordinal + *digit - '0';
    return !*digit;
}

bool dopl_device_named(const char *name) {
    dopl_device device;
    int ordinal;
    return !strcmp(name, "auto") || read_name(name, &device, &ordinal);
}

dopl_status dopl_device_choose(dopl_rt *rt, const char *name) {
    dopl_device device;
    int ordinal;
    if (!strcmp(name, "auto")) {
        dopl_status status = dopl_device_use(rt, DOPL_GPU);
        return status == DOPL_EDEVICE ? dopl_device_use(rt, DOPL_CPU) : status;
    }
    if (!read_name(name, &device, &ordinal))
        return dopl_fail(rt, DOPL_EARG, "device: '%.40s' given, cpu, %s, %s:N or auto needed", name,
                         dopl_gpu_plugin.name, dopl_gpu_plugin.name);
    if (ordinal >= 0 && rt->backend && ordinal != rt->ordinal)
        return dopl_fail(rt, DOPL_EDEVICE, "device %s: %s:%d is in use, and a process uses one",
                         name, dopl_gpu_plugin.name, rt->ordinal);
    if (ordinal >= 0) rt->ordinal = ordinal;
    return dopl_device_use(rt, device);
}

void dopl_device_close(dopl_rt *rt) {
    if (rt->backend) rt->backend->close(rt);
    rt->backend = NULL;
    rt->device = DOPL_CPU;
}

// ---- moving

dopl_status dopl_tensor_read(dopl_rt *rt, const dopl_tensor *t, int64_t first, int64_t count,
                             void *out) {
    size_t size = dopl_dtype_bytes(t->dtype), bytes = size * (size_t)count;
    const char *from = (const char *)dopl_data(t) + size * (size_t)first;
    if (t->device != DOPL_CPU) return rt->backend->to_host(rt, out, from, bytes);
    memcpy(out, from, bytes);
    return DOPL_OK;
}

dopl_status dopl_tensor_write(dopl_rt *rt, dopl_tensor *t, const void *from) {
    size_t bytes = (size_t)dopl_tensor_numel(t) * dopl_dtype_bytes(t->dtype);
    dopl_tensor_will_change(rt, t);
    if (t->device != DOPL_CPU) return rt->backend->to_device(rt, dopl_data(t), from, bytes);
    memcpy(dopl_data(t), from, bytes);
    return DOPL_OK;
}

static void cast_host(dopl_tensor *y, const dopl_tensor *x) {
    int64_t n = dopl_tensor_numel(x);
    if (x->dtype == DOPL_F32)
        dopl_bf16_encode(dopl_data(y), dopl_f32(x), n);
    else
        dopl_bf16_decode(dopl_f32(y), dopl_data(x), n);
}

dopl_status dopl_tensor_copy(dopl_rt *rt, dopl_tensor *to, const dopl_tensor *from) {
    size_t bytes = (size_t)dopl_tensor_numel(to) * dopl_dtype_bytes(to->dtype);
    bool same = to->dtype == from->dtype;
    if (!dopl_shape_same(to, from) ||
        (!same && !(dopl_dtype_is_number(to->dtype) && dopl_dtype_is_number(from->dtype))))
        return dopl_fail(rt, DOPL_ESHAPE, "copy: %s %s into %s %s", dopl_dtype_name(from->dtype),
                         dopl_shape_str(from).s, dopl_dtype_name(to->dtype), dopl_shape_str(to).s);
    dopl_tensor_will_change(rt, to);
    if (to->device != from->device) {
        dopl_tensor here = { 0 }; // the type changes on the side that `from` is on
        const dopl_tensor *moved = from;
        if (!same) {
            DOPL_TRY(dopl_tensor_to(rt, &here, from, from->device, to->dtype));
            moved = &here;
        }
        dopl_status status = to->device == DOPL_CPU
                                 ? rt->backend->to_host(rt, dopl_data(to), dopl_data(moved), bytes)
                                 : dopl_tensor_write(rt, to, dopl_data(moved));
        dopl_tensor_release(rt, &here);
        return status;
    }
    if (to->device != DOPL_CPU)
        return same ? rt->backend->copy(rt, dopl_data(to), dopl_data(from), bytes)
                    : rt->backend->cast(rt, to, from);
    if (same)
        memmove(dopl_data(to), dopl_data(from), bytes);
    else
        cast_host(to, from);
    return DOPL_OK;
}

dopl_status dopl_tensor_to(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *t, dopl_device device,
                           dopl_dtype dtype) {
    if (device != DOPL_CPU && dtype == DOPL_I32)
        return dopl_fail(rt, DOPL_EDTYPE, "to: indices stay in host memory, whatever the device");
    DOPL_TRY(dopl_tensor_new_on(rt, out, device, dtype, t->n_dim, t->dim));
    dopl_status status = dopl_tensor_copy(rt, out, t);
    if (status != DOPL_OK) dopl_tensor_release(rt, out);
    return status;
}

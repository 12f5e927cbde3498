// device.h - where tensors live, and the back end that computes there.
//
// Numbers (f32, bf16, u8) live where the runtime was told to put them; indices (i32) always live in
// host memory, so that shape rules can check them without waiting for a device. A back end keeps a
// copy of an index tensor next to its storage (dopl_storage.mirror), made when it is first used.
//
// A back end is a plug-in: a shared object that links the core library and is opened when a device
// is asked for. It fills one dopl_backend; nothing else of it is visible to the runtime.
#ifndef DOPL_CORE_DEVICE_H
#define DOPL_CORE_DEVICE_H

#include "profile.h"
#include "tape.h"

struct dopl_op_call;
struct dopl_plan;
struct dopl_dist_engine;

// Functions follow the core's rules: a status, the text in rt->error. Work is queued in the order
// of the calls; only `to_host`, `sync`, `norm` and `dot` wait for it.
typedef struct dopl_backend {
    const char *name;

    // Memory of the device, from a pool. contents undefined (NaN where rt->poison).
    dopl_status (*alloc)(dopl_rt *rt, void **out, size_t bytes);
    void (*free)(dopl_rt *rt, void *data); // NULL-safe; reused only by work queued later
    void (*trim)(dopl_rt *rt);             // gives cached memory back
    dopl_status (*to_device)(dopl_rt *rt, void *to, const void *from, size_t bytes);
    dopl_status (*to_host)(dopl_rt *rt, void *to, const void *from, size_t bytes);
    dopl_status (*copy)(dopl_rt *rt, void *to, const void *from, size_t bytes); // may overlap
    dopl_status (*sync)(dopl_rt *rt);

    // Elementwise jobs of the core. Tensors are on the device; f32 and bf16 mix.
    dopl_status (*fill)(dopl_rt *rt, dopl_tensor *t, double value);
    dopl_status (*cast)(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x);       // y = x
    dopl_status (*accumulate)(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x); // y += x
    dopl_status (*dot)(dopl_rt *rt, double *out, const dopl_tensor *a, const dopl_tensor *b);
    dopl_status (*transpose)(dopl_rt *rt, dopl_tensor *y, const dopl_tensor *x);

    // Operators, by dopl_op_id. backward[id] is NULL where there is none. supports[id], asked after
    // the operator's shape rule, fails with op_unsupported (op/op.h) where there is no kernel for
    // such attributes or types; NULL: there is one for all.
    dopl_status (*const *supports)(dopl_rt *rt, const struct dopl_op_call *c);
    dopl_status (*const *forward)(dopl_rt *rt, struct dopl_op_call *c);
    dopl_backward_fn *const *backward;

    // Optimizer passes: see optim/pass.h.
    dopl_status (*plan_run)(dopl_rt *rt, struct dopl_plan *plan, const double *const *scalars,
                            int *n_run);
    dopl_status (*plan_norm)(dopl_rt *rt, struct dopl_plan *plan, double *norm, int *n_found);
    // The next run scales gradients by min(1, max_norm / norm), without waiting for the norm; where
    // that is not finite it changes nothing. clip_norm tells the norm afterwards, and waits.
    dopl_status (*plan_clip)(dopl_rt *rt, struct dopl_plan *plan, double max_norm);
    dopl_status (*plan_clip_norm)(dopl_rt *rt, struct dopl_plan *plan, double *norm);
    void (*plan_release)(dopl_rt *rt, struct dopl_plan *plan); // what the back end kept for it

    // For profiles (core/profile.h). watch: waits for what was queued, then times every piece of
    // work until unwatch. read_times: adds what was timed to the rows of rt->profile, and waits.
    // mark: tells a profiler outside where a range begins, or, name NULL, that the innermost ends;
    // NULL where there is none.
    dopl_status (*watch)(dopl_rt *rt);
    void (*unwatch)(dopl_rt *rt);
    dopl_status (*read_times)(dopl_rt *rt);
    void (*mark)(const char *name, dopl_part part);

    const struct dopl_dist_engine *collectives; // dist/dist.h; NULL: built without

    const char *(*describe)(dopl_rt *rt); // "NVIDIA H200, 139 GiB"
    // A line on the i-th kind of matrix product met so far, from 0; false: there are no more.
    bool (*tell_product)(dopl_rt *rt, int64_t i, char *text, size_t bytes);
    void (*close)(dopl_rt *rt);
} dopl_backend;

// Of what the runtime and a plug-in must agree on: bump it when a struct they share changes; where
// its size does, the number changes by itself.
enum {
    DOPL_BACKEND_ABI = 4 + 64 * (sizeof(dopl_rt) + sizeof(dopl_backend) + 3 * sizeof(dopl_node) +
                                 5 * sizeof(dopl_storage))
};

// What a plug-in exports as "dopl_backend_open": fills rt->backend_data and returns its table.
typedef dopl_status dopl_backend_open_fn(dopl_rt *rt, const dopl_backend **out, int abi);

// A back end as users know it. plugins.c, above the core, has the one there is for DOPL_GPU.
typedef struct {
    const char *name;     // of its device, in options and messages
    const char *file;     // of the plug-in, beside the core library or in the folder above it
    const char *variable; // of the environment, that names another file
    const char *missing;  // what to do where there is no such file
} dopl_plugin;
extern const dopl_plugin dopl_gpu_plugin;

const char *dopl_device_name(dopl_device device); // "cpu", or that of the plug-in

// Makes `device` the place where new tensors of numbers go, opening its back end first: that of
// device number rt->ordinal.
DOPL_CHECKED dopl_status dopl_device_use(dopl_rt *rt, dopl_device device);
void dopl_device_close(dopl_rt *rt); // idempotent; no tensor may be left there

// The same by name: "cpu", NAME, NAME:1 (the second), or "auto": the plug-in's where it opens, else
// the CPU.
DOPL_CHECKED dopl_status dopl_device_choose(dopl_rt *rt, const char *name);
bool dopl_device_named(const char *name); // whether it is such a name

// Elements first .. first + count - 1 of `t`, wherever it lives, into host memory.
DOPL_CHECKED dopl_status dopl_tensor_read(dopl_rt *rt, const dopl_tensor *t, int64_t first,
                                          int64_t count, void *out);
// All elements of `t` from host memory.
DOPL_CHECKED dopl_status dopl_tensor_write(dopl_rt *rt, dopl_tensor *t, const void *from);
// `to` gets the elements of `from`; same shape; types and devices may differ (f32 and bf16 mix).
DOPL_CHECKED dopl_status dopl_tensor_copy(dopl_rt *rt, dopl_tensor *to, const dopl_tensor *from);
// `out`: the same elements as `t` on `device`, in memory of its own.
DOPL_CHECKED dopl_status dopl_tensor_to(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *t,
                                        dopl_device device, dopl_dtype dtype);

#endif

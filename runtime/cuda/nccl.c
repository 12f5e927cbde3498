// nccl.c - collectives over NCCL.
//
// The library is opened when a world is: a machine without it runs everything else. Collectives are
// queued on the back end's stream, between the kernels before and after them.
#include "cuda.h"
#include "../dist/dist.h"

#if __has_include(<nccl.h>)
#include <nccl.h>

#include <string.h>

static struct {
    ncclResult_t (*get_id)(ncclUniqueId *out);
    ncclResult_t (*join)(ncclComm_t *out, int size, ncclUniqueId id, int rank);
    ncclResult_t (*leave)(ncclComm_t comm);
    ncclResult_t (*group_start)(void);
    ncclResult_t (*group_end)(void);
    ncclResult_t (*all_reduce)(const void *from, void *to, size_t n, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
    ncclResult_t (*broadcast)(const void *from, void *to, size_t n, ncclDataType_t type, int root,
                              ncclComm_t comm, cudaStream_t stream);
    const char *(*describe)(ncclResult_t error);
    bool open;
} nccl; // functions of a shared library: the same for every runtime in the process

static dopl_status open_library(dopl_rt *rt) {
    if (nccl.open) return DOPL_OK;
#ifdef DOPL_EMULATED
    (void)rt;
    nccl.get_id = ncclGetUniqueId;
    nccl.join = ncclCommInitRank;
    nccl.leave = ncclCommDestroy;
    nccl.group_start = ncclGroupStart;
    nccl.group_end = ncclGroupEnd;
    nccl.all_reduce = ncclAllReduce;
    nccl.broadcast = ncclBroadcast;
    nccl.describe = ncclGetErrorString;
#else
    const dopl_cuda_symbol wanted[] = {
        { "ncclGetUniqueId", &nccl.get_id },  { "ncclCommInitRank", &nccl.join },
        { "ncclCommDestroy", &nccl.leave },   { "ncclGroupStart", &nccl.group_start },
        { "ncclGroupEnd", &nccl.group_end },  { "ncclAllReduce", &nccl.all_reduce },
        { "ncclBroadcast", &nccl.broadcast }, { "ncclGetErrorString", &nccl.describe },
    };
    DOPL_TRY(dopl_cuda_symbols(rt, "libnccl.so.2", wanted, sizeof wanted / sizeof *wanted));
#endif
    nccl.open = true;
    return DOPL_OK;
}

static dopl_status result(dopl_rt *rt, ncclResult_t error, const char *what) {
    if (error == ncclSuccess) return DOPL_OK;
    return dopl_fail(rt, DOPL_EDEVICE, "dist: %s: %s", what, nccl.describe(error));
}

static dopl_status make_id(dopl_rt *rt, char out[DOPL_WORLD_ID_BYTES]) {
    ncclUniqueId id;
    _Static_assert(sizeof id == DOPL_WORLD_ID_BYTES, "NCCL's id");
    DOPL_TRY(open_library(rt));
    DOPL_TRY(result(rt, nccl.get_id(&id), "an id"));
    memcpy(out, &id, sizeof id);
    return DOPL_OK;
}

static dopl_status join(dopl_rt *rt, dopl_world *world, const char from[DOPL_WORLD_ID_BYTES]) {
    ncclUniqueId id;
    ncclComm_t comm;
    memcpy(&id, from, sizeof id);
    DOPL_TRY(open_library(rt));
    DOPL_TRY(result(rt, nccl.join(&comm, world->size, id, world->rank), "joining the world"));
    world->state = comm;
    return DOPL_OK;
}

static void leave(dopl_rt *rt, dopl_world *world) {
    if (world->state && rt->backend_data) {
        (void)rt->backend->sync(rt); // its last collective
        nccl.leave(world->state);
    }
    world->state = NULL;
}

static ncclDataType_t type_of(const dopl_tensor *t) {
    enum { BFLOAT16 = 9 }; // ncclBfloat16, which older headers of NCCL's show to C++ alone
    return t->dtype == DOPL_BF16 ? (ncclDataType_t)BFLOAT16 : ncclFloat32;
}

static dopl_status check_device(dopl_rt *rt, dopl_tensor *const *tensor, int n) {
    for (int i = 0; i < n; i++)
        if (tensor[i]->device != DOPL_GPU)
            return dopl_fail(rt, DOPL_EDEVICE, "dist: tensor %d is on the CPU, nccl needs cuda",
                             i + 1);
    return DOPL_OK;
}

// Runs one collective on each tensor as one group.
typedef ncclResult_t each_fn(const dopl_world *world, const dopl_tensor *t, int root,
                             cudaStream_t stream);

static dopl_status run_group(dopl_rt *rt, const dopl_world *world, dopl_tensor *const *tensor,
                             int n, int root, each_fn *each, const char *what) {
    DOPL_TRY(check_device(rt, tensor, n));
    DOPL_TRY(dopl_cuda_flush(rt));
    DOPL_TRY(result(rt, nccl.group_start(), what));
    dopl_cuda_piece_begins(rt, what);
    ncclResult_t first = ncclSuccess;
    for (int i = 0; i < n && first == ncclSuccess; i++)
        first = each(world, tensor[i], root, dopl_cuda_stream(rt));
    ncclResult_t end = nccl.group_end(); // a group that began must end
    dopl_cuda_piece_ends(rt);
    return result(rt, first != ncclSuccess ? first : end, what);
}

static ncclResult_t sum_one(const dopl_world *world, const dopl_tensor *t, int root,
                            cudaStream_t stream) {
    (void)root;
    return nccl.all_reduce(dopl_data(t), dopl_data(t), (size_t)dopl_tensor_numel(t), type_of(t),
                           ncclSum, world->state, stream);
}

static ncclResult_t broadcast_one(const dopl_world *world, const dopl_tensor *t, int root,
                                  cudaStream_t stream) {
    return nccl.broadcast(dopl_data(t), dopl_data(t), (size_t)dopl_tensor_numel(t), type_of(t),
                          root, world->state, stream);
}

static dopl_status sum(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n) {
    return run_group(rt, world, tensor, n, 0, sum_one, "sum");
}

static dopl_status broadcast(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n,
                             int root) {
    return run_group(rt, world, tensor, n, root, broadcast_one, "broadcast");
}

static const dopl_dist_engine engine = {
    .name = "nccl",
    .make_id = make_id,
    .join = join,
    .leave = leave,
    .sum = sum,
    .broadcast = broadcast,
};

const dopl_dist_engine *dopl_cuda_collectives(void) {
    return &engine;
}

#else // no header where this was built

const dopl_dist_engine *dopl_cuda_collectives(void) {
    return NULL;
}

#endif

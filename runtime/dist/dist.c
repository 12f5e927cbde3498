// dist.c - opening a world, and the world of one.
#include "dist.h"
#include "../core/device.h"
#include "../io/files.h"

#include <string.h>
#include <time.h>

// ---- a world of one

static dopl_status local_join(dopl_rt *rt, dopl_world *world, const char *id) {
    (void)id;
    if (world->size == 1) return DOPL_OK;
    return dopl_fail(rt, DOPL_EARG, "dist: engine local is a world of 1 process, not of %d",
                     world->size);
}

static void local_leave(dopl_rt *rt, dopl_world *world) {
    (void)rt, (void)world;
}

static dopl_status local_sum(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n) {
    (void)rt, (void)world, (void)tensor, (void)n;
    return DOPL_OK;
}

static dopl_status local_broadcast(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor,
                                   int n, int root) {
    (void)root;
    return local_sum(rt, world, tensor, n);
}

static const dopl_dist_engine local = {
    .name = "local",
    .join = local_join,
    .leave = local_leave,
    .sum = local_sum,
    .broadcast = local_broadcast,
};

// ---- opening

static dopl_status find_engine(dopl_rt *rt, const char *name, const dopl_dist_engine **out) {
    *out = strcmp(name, "local") == 0 ? &local : NULL;
    if (*out) return DOPL_OK;
    if (strcmp(name, "nccl") != 0)
        return dopl_fail(rt, DOPL_EARG, "dist: no engine '%.40s', there are local and nccl", name);
    if (!rt->backend) return dopl_fail(rt, DOPL_ESTATE, "dist: engine nccl needs --device cuda");
    *out = rt->backend->collectives;
    if (*out) return DOPL_OK;
    return dopl_fail(rt, DOPL_EDEVICE, "dist: this dopl was built without NCCL");
}

// What rank 0 wrote into the file, within a minute: the others may have started first.
static dopl_status read_id(dopl_rt *rt, char id[DOPL_WORLD_ID_BYTES], const char *path) {
    enum { TRIES = 600 };
    const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };
    for (int i = 0; i < TRIES && !rt->stop; i++) {
        dopl_bytes bytes = { 0 };
        if (dopl_file_kind_of(path) == DOPL_FILE) {
            DOPL_TRY(dopl_file_read(rt, &bytes, path));
            bool whole = bytes.n == DOPL_WORLD_ID_BYTES;
            if (whole) memcpy(id, bytes.data, DOPL_WORLD_ID_BYTES);
            dopl_bytes_release(rt, &bytes);
            if (whole) return DOPL_OK;
        }
        nanosleep(&pause, NULL);
    }
    if (rt->stop) return dopl_fail(rt, DOPL_ESTOP, "stopped");
    return dopl_fail(rt, DOPL_EIO, "dist: rank 0 has left no id in %s for a minute", path);
}

static dopl_status exchange_id(dopl_rt *rt, const dopl_world *world, char id[DOPL_WORLD_ID_BYTES],
                               const char *rendezvous) {
    if (!world->engine->make_id) return DOPL_OK;
    if (world->rank != 0) return read_id(rt, id, rendezvous);
    DOPL_TRY(world->engine->make_id(rt, id));
    return world->size > 1 ? dopl_file_write(rt, rendezvous, id, DOPL_WORLD_ID_BYTES) : DOPL_OK;
}

// Every process has read it by now, and a later world that uses the same file must not.
static void forget_id(dopl_rt *rt, const char *rendezvous) {
    char before[sizeof rt->error];
    memcpy(before, rt->error, sizeof before);
    if (dopl_remove(rt, rendezvous) != DOPL_OK) memcpy(rt->error, before, sizeof before);
}

dopl_status dopl_dist_open(dopl_rt *rt, dopl_world *world, const char *engine, int rank, int size,
                           const char *rendezvous) {
    char id[DOPL_WORLD_ID_BYTES] = { 0 };
    dopl_world made = { .rank = rank, .size = size };
    memset(world, 0, sizeof *world);
    if (size < 1 || rank < 0 || rank >= size)
        return dopl_fail(rt, DOPL_EARG, "dist: rank %d in a world of %d, needs 0 to %d", rank, size,
                         size - 1);
    if (size > 1 && !rendezvous)
        return dopl_fail(rt, DOPL_EARG,
                         "dist: a world of %d needs a rendezvous: a file that every "
                         "process sees",
                         size);
    DOPL_TRY(find_engine(rt, engine, &made.engine));
    DOPL_TRY(exchange_id(rt, &made, id, rendezvous));
    dopl_status status = made.engine->join(rt, &made, id);
    if (made.engine->make_id && rank == 0 && size > 1) forget_id(rt, rendezvous);
    if (status == DOPL_OK) *world = made;
    return status;
}

void dopl_dist_close(dopl_rt *rt, dopl_world *world) {
    if (world->engine) world->engine->leave(rt, world);
    memset(world, 0, sizeof *world);
}

// ---- collectives

static dopl_status check(dopl_rt *rt, const dopl_world *world, dopl_tensor *const *tensor, int n) {
    if (!world->engine) return dopl_fail(rt, DOPL_ESTATE, "dist: no world is open");
    for (int i = 0; i < n; i++)
        if (tensor[i]->dtype != DOPL_F32 && tensor[i]->dtype != DOPL_BF16)
            return dopl_fail(rt, DOPL_EDTYPE, "dist: tensor %d is %s, needs f32 or bf16", i + 1,
                             dopl_dtype_name(tensor[i]->dtype));
    return DOPL_OK;
}

dopl_status dopl_dist_sum(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n) {
    DOPL_TRY(check(rt, world, tensor, n));
    return world->engine->sum(rt, world, tensor, n);
}

dopl_status dopl_dist_broadcast(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n,
                                int root) {
    DOPL_TRY(check(rt, world, tensor, n));
    if (root < 0 || root >= world->size)
        return dopl_fail(rt, DOPL_EARG, "dist: broadcast from rank %d in a world of %d", root,
                         world->size);
    return world->engine->broadcast(rt, world, tensor, n, root);
}

// dist.h - collectives: what the processes that train one model say to each other.
//
// A world has `size` processes, ranked from 0. Every process calls the same collectives in the same
// order with tensors of the same shapes; sums are over ranks in the engine's order. The engine
// "local" is a world of one, where every collective is the identity; "nccl" is a back end's.
#ifndef DOPL_DIST_DIST_H
#define DOPL_DIST_DIST_H

#include "../core/tensor.h"

enum { DOPL_WORLD_ID_BYTES = 128 }; // what rank 0 tells the others to find each other

typedef struct dopl_world dopl_world;

typedef struct dopl_dist_engine {
    const char *name;
    dopl_status (*make_id)(dopl_rt *rt, char id[DOPL_WORLD_ID_BYTES]); // rank 0 only
    dopl_status (*join)(dopl_rt *rt, dopl_world *world, const char id[DOPL_WORLD_ID_BYTES]);
    void (*leave)(dopl_rt *rt, dopl_world *world);
    // In place, all of the list in one message where the engine can.
    dopl_status (*sum)(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n);
    dopl_status (*broadcast)(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor, int n,
                             int root);
} dopl_dist_engine;

struct dopl_world {
    const dopl_dist_engine *engine; // NULL: closed
    int rank, size;
    void *state; // the engine's
};

// rendezvous: a file that all processes see, through which rank 0 hands out the id; NULL in a world
// of one. Fills `world`, which is closed before and after a failure.
DOPL_CHECKED dopl_status dopl_dist_open(dopl_rt *rt, dopl_world *world, const char *engine,
                                        int rank, int size, const char *rendezvous);
void dopl_dist_close(dopl_rt *rt, dopl_world *world); // idempotent
DOPL_CHECKED dopl_status dopl_dist_sum(dopl_rt *rt, dopl_world *world, dopl_tensor *const *tensor,
                                       int n);
DOPL_CHECKED dopl_status dopl_dist_broadcast(dopl_rt *rt, dopl_world *world,
                                             dopl_tensor *const *tensor, int n, int root);

#endif

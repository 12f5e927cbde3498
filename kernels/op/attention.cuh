// attention.cuh - what the kernels of packed attention share: tiles, and where gradients go.
//
// A sequence is cut into tiles of TILE rows. The blocks of a launch find their tile in a list of
// {sequence, weight}, heaviest first, so that the last blocks to run are short ones: a sequence of
// n tiles has weights 1 .. n, and a block of weight w meets w tiles of the other side. Passes over
// queries take tile w - 1 and the keys up to it, passes over keys tile n - w and the queries from
// it on.
#ifndef DOPL_KERNELS_OP_ATTENTION_CUH
#define DOPL_KERNELS_OP_ATTENTION_CUH

#include "../common.cuh"

enum { TILE = 64 };

typedef struct {
    const int32_t *offset; // [B+1]
    const int2 *tile;      // {sequence, weight}; sequence -1: nothing to do
    int64_t rows, ld;      // of qkv, and its stride
    int heads, kv_heads, group, cols;
    float scale; // of scores: 1 / sqrt(cols)
} attention_plan;

typedef struct {
    int64_t first; // row of qkv
    int len;       // rows of the sequence
    int weight;
} attention_tile;

// The tile of entry `at` of the list; false: there is none. All threads of a block get the same.
__device__ __forceinline__ bool find_tile(const attention_plan &p, unsigned at, attention_tile *t) {
    int2 entry = p.tile[at];
    if (entry.x < 0) return false;
    t->first = p.offset[entry.x];
    t->len = p.offset[entry.x + 1] - (int)t->first;
    t->weight = entry.y;
    return true;
}

// Where a gradient is written, or added to what is there.
typedef struct {
    void *x;
    bool f32; // else bf16
    bool add;
} attention_gradient;

__device__ __forceinline__ void put_gradient(const attention_gradient &d, int64_t at, float g) {
    if (d.f32) {
        float *x = static_cast<float *>(d.x) + at;
        *x = d.add ? *x + g : g;
    } else {
        bf16 *x = static_cast<bf16 *>(d.x) + at;
        *x = from_float<bf16>(d.add ? to_float(*x) + g : g);
    }
}

#endif

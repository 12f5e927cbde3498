// attention.cuh - what the kernels of packed attention share: tiles, and where gradients go.
//
// A sequence is cut into tiles of TILE rows. The blocks of a launch find theirs in a list, heaviest
// first, so that the last blocks to run are short ones: a sequence of n tiles has weights 1 .. n,
// and a block of weight w meets w tiles of the other side. Passes over queries take tile w - 1 and
// the keys up to it, passes over keys tile n - w and the queries from it on.
#ifndef DOPL_KERNELS_OP_ATTENTION_CUH
#define DOPL_KERNELS_OP_ATTENTION_CUH

#include "../common.cuh"

enum { TILE = 64 };

// An entry of the list: 16 bytes, one load.
struct __align__(16) attention_tile {
    int first;  // row of qkv where the sequence begins
    int len;    // rows of the sequence
    int weight; // 0: nothing to do
    int unused;
};

typedef struct {
    const attention_tile *tile;
    int64_t rows, ld; // of qkv, and its stride
    int heads, kv_heads, group, cols;
    float scale; // of scores: 1 / sqrt(cols)
} attention_plan;

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

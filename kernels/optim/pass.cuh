// pass.cuh - what every compiled optimizer pass begins with: how a lane reads and writes its
// elements.
//
// runtime/optim/cuda_source.c writes a pass behind this text and compiles both while the program
// runs. The build embeds the text (runtime/embed.cmake); the headers of CUDA are not there.

#define TILE 256
#define E 8 // elements of a lane
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define EACH _Pragma("unroll") for (int i = 0; i < E; i++)
#define HALF _Pragma("unroll") for (int i = 0; i < E; i += 2)
#define ROLL _Pragma("unroll 1") for (int i = 0; i < E; i++)
#define FN static __device__ __forceinline__

// Where element i lies, from the lane's first on. left: how far the tile goes on from there.
FN int place(int i) {
    return (i >> 2) * 128 + (i & 3);
}

template <bool full> FN void load(float (&x)[E], const float *p, int left) {
    if (full) {
        float4 a = *(const float4 *)p, b = *(const float4 *)(p + 128);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else
        EACH x[i] = place(i) < left ? p[place(i)] : 0.0f;
}
template <bool full> FN void store(float *p, const float (&x)[E], int left) {
    if (full) {
        *(float4 *)p = make_float4(x[0], x[1], x[2], x[3]);
        *(float4 *)(p + 128) = make_float4(x[4], x[5], x[6], x[7]);
    } else
        EACH if (place(i) < left) p[place(i)] = x[i];
}

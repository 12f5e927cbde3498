// mma.cuh - the instructions of tensor cores and of asynchronous copies, one function each.
//
// A fragment is a matrix spread over the 32 lanes of a warp as the PTX ISA says ("Matrix Fragments
// for mma.m16n8k16"). With g = lane / 4 and t = lane % 4, registers of two bf16, the lower column
// (of B: row) in the lower half:
//
//     A [16, 16]   a[0] (g, 2t)   a[1] (g + 8, 2t)   a[2] (g, 2t + 8)   a[3] (g + 8, 2t + 8)
//     B [16, 8]    b[0] (2t, g)   b[1] (2t + 8, g)
//     C [16, 8]    c[0], c[1] (g, 2t), (g, 2t + 1)   c[2], c[3] the same of row g + 8
//
// so that two C side by side, rounded to bf16, are an A. All lanes of the warp call together. On
// the emulator the lanes show each other what they hold and each computes its own elements.
#ifndef DOPL_KERNELS_MMA_CUH
#define DOPL_KERNELS_MMA_CUH

#include "common.cuh"

#ifdef DOPL_EMULATED
#include <vector>
#endif

// Two f32 as a register of two bf16.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    union U {
        __nv_bfloat162 pair;
        uint32_t bits;
        __device__ U() {}
    } u;
    u.pair = __floats2bfloat162_rn(low, high);
    return u.bits;
}

// An A fragment from two C fragments that lie side by side.
__device__ __forceinline__ void pack_fragment(uint32_t a[4], const float left[4],
                                              const float right[4]) {
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}

#ifndef DOPL_EMULATED

// 2^x to two units in the last place; what is below 2^-126 is 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// c += a b
__device__ __forceinline__ void mma_m16n8k16(float c[4], const uint32_t a[4], uint32_t b0,
                                             uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four matrices of 8 x 8 bf16 from shared memory. Lane 8 i + r gives the address of row r of matrix
// i, a multiple of 16 bytes; every lane gets, in x[i], elements (g, 2t) and (g, 2t + 1) of it.
__device__ __forceinline__ void load_matrices(uint32_t x[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, of the transposed matrices: elements (2t, g) and (2t + 1, g).
__device__ __forceinline__ void load_matrices_transposed(uint32_t x[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Starts a copy of 16 (4) bytes from global to shared memory; zeros where not `valid`. `from` must
// be an address of the array even then.
__device__ __forceinline__ void copy_async_16(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copy_async_4(void *to, const void *from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 4 : 0)
                 : "memory");
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void copy_async_close() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `open` of this thread's groups are under way. Other threads' copies are seen
// after a barrier.
template <int open> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
}

#else

static inline float exp2_fast(float x) {
    return x < -126.0f ? 0.0f : exp2f(x);
}

static inline float half_of(uint32_t pair, int high) {
    return __uint_as_float(high ? pair & 0xffff0000u : pair << 16);
}

static inline void mma_m16n8k16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    uint4 rows[WARP];
    memcpy(rows, emulator::give(0xffffffffu, make_uint4(a[0], a[1], a[2], a[3])), sizeof rows);
    const emulator::shuffled *columns = emulator::give(0xffffffffu, make_uint2(b0, b1));
    int g = emulator::lane_number() / 4, t = emulator::lane_number() % 4;
    for (int e = 0; e < 4; e++) {
        int col = 2 * t + e % 2;
        double sum = c[e];
        for (int k = 0; k < 16; k++) {
            const uint4 &row = rows[4 * g + k % 8 / 2];
            uint32_t x = k < 8 ? (e < 2 ? row.x : row.y) : (e < 2 ? row.z : row.w);
            uint2 from = emulator::take<uint2>(columns, 4 * col + k % 8 / 2);
            sum += (double)half_of(x, k % 2) * half_of(k < 8 ? from.x : from.y, k % 2);
        }
        c[e] = (float)sum;
    }
}

static inline void load_8x8(uint32_t x[4], const bf16 *row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) emulator::fault("ldmatrix: a row off 16 bytes");
    const emulator::shuffled *rows = emulator::give(0xffffffffu, row);
    int g = emulator::lane_number() / 4, t = emulator::lane_number() % 4;
    auto at = [&](int y, int x) { return emulator::take<const bf16 *>(rows, y)[x]; };
    for (int i = 0; i < 4; i++) {
        bf16 low = transposed ? at(8 * i + 2 * t, g) : at(8 * i + g, 2 * t);
        bf16 high = transposed ? at(8 * i + 2 * t + 1, g) : at(8 * i + g, 2 * t + 1);
        x[i] = low.x | (uint32_t)high.x << 16;
    }
}
static inline void load_matrices(uint32_t x[4], const bf16 *row) {
    load_8x8(x, row, false);
}
static inline void load_matrices_transposed(uint32_t x[4], const bf16 *row) {
    load_8x8(x, row, true);
}

// A copy may land at any time between its start and the wait for it: at the start the place is
// filled with NaN, at the wait with what it was to get.
struct copy_under_way {
    void *to;
    const void *from; // nullptr: zeros
    size_t bytes;
    int group;
};
struct copies_of_thread {
    std::vector<copy_under_way> open;
    int closed; // groups
};
static copies_of_thread copies_under_way[1024];

static inline void copy_async(void *to, const void *from, bool valid, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        emulator::fault("cp.async: an address off its size");
    copies_of_thread &mine = copies_under_way[threadIdx.x];
    mine.open.push_back({ to, valid ? from : nullptr, bytes, mine.closed });
    memset(to, 0xff, bytes);
}
static inline void copy_async_16(void *to, const void *from, bool valid) {
    copy_async(to, from, valid, 16);
}
static inline void copy_async_4(void *to, const void *from, bool valid) {
    copy_async(to, from, valid, 4);
}
static inline void copy_async_close() {
    copies_under_way[threadIdx.x].closed++;
}
template <int open> static inline void copy_async_wait() {
    copies_of_thread &mine = copies_under_way[threadIdx.x];
    size_t n = 0;
    for (; n < mine.open.size() && mine.open[n].group < mine.closed - open; n++) {
        const copy_under_way &c = mine.open[n];
        if (c.from)
            memcpy(c.to, c.from, c.bytes);
        else
            memset(c.to, 0, c.bytes);
    }
    mine.open.erase(mine.open.begin(), mine.open.begin() + (ptrdiff_t)n);
}

#endif

// ---- fragments of row-major tiles in shared memory, `ld` bf16 from row to row

// A = tile[row .. row + 15][col .. col + 15]
__device__ __forceinline__ void load_a(uint32_t a[4], const bf16 *tile, int ld, int row, int col) {
    int lane = threadIdx.x % WARP;
    load_matrices(a, tile + (row + lane % 16) * ld + col + lane / 16 * 8);
}

// Two B side by side, b[0..1] and b[2..3], of the transposed tile: B(k, n) = tile[row + n][col +
// k], 16 rows. For products with a transposed right side: Q K'.
__device__ __forceinline__ void load_b_transposed(uint32_t b[4], const bf16 *tile, int ld, int row,
                                                  int col) {
    int lane = threadIdx.x % WARP;
    load_matrices(b, tile + (row + lane / 16 * 8 + lane % 8) * ld + col + lane / 8 % 2 * 8);
}

// Two B side by side: B(k, n) = tile[row + k][col + n], 16 columns. For P V.
__device__ __forceinline__ void load_b(uint32_t b[4], const bf16 *tile, int ld, int row, int col) {
    int lane = threadIdx.x % WARP;
    load_matrices_transposed(b, tile + (row + lane % 16) * ld + col + lane / 16 * 8);
}

#endif

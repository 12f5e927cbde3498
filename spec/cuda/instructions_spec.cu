// instructions_spec.cu - kernels/mma.cuh against spec/golden/fragments.txt, which NVIDIA's own
// layouts wrote: on the emulator, and built by nvcc on a GPU, whose instructions decide.
//
// Matrices hold small integers, so that products are exact, and every element that an operand or a
// load hands to the wrong lane, register or half of one shows.
#include "../../kernels/mma.cuh"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

static void ok(cudaError_t error) {
    if (error != cudaSuccess) fail_msg("%s", cudaGetErrorString(error));
}

// One warp.
template <class... P, class... A>
static void run(const char *name, void (*kernel)(P...), A... arguments) {
#ifdef DOPL_EMULATED
    ok(emulator::launch(name, kernel, dim3(1), dim3(WARP), 0, nullptr, P(arguments)...));
#else
    (void)name;
    kernel<<<1, WARP>>>(arguments...);
    ok(cudaGetLastError());
#endif
}

// N elements of the device's with a copy on the host.
template <class T, int N> struct array {
    T host[N];
    T *device;
    array() : host() { ok(cudaMalloc(reinterpret_cast<void **>(&device), sizeof host)); }
    ~array() { (void)cudaFree(device); }
    T *sent() {
        ok(cudaMemcpy(device, host, sizeof host, cudaMemcpyHostToDevice));
        return device;
    }
    uint32_t *sent_as_pairs() { return reinterpret_cast<uint32_t *>(sent()); }
    void fetch() { ok(cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost)); }
};

static uint16_t bits_of(float x) { // of an x that bf16 has
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

// ---- the golden layouts

struct place {
    int row, col;
};
struct layout {
    int values;
    place at[WARP][8];
};
static layout golden_a, golden_b, golden_c, golden_load, golden_transposed;

static void read_layout(FILE *file, const char *name, layout *l) {
    char word[32];
    assert_int_equal(fscanf(file, "%31s %d", word, &l->values), 2);
    assert_string_equal(word, name);
    assert_in_range(l->values, 1, 8);
    for (int lane = 0; lane < WARP; lane++)
        for (int v = 0; v < l->values; v++)
            assert_int_equal(fscanf(file, "%d,%d", &l->at[lane][v].row, &l->at[lane][v].col), 2);
}

static int read_golden(void **) {
    FILE *file = fopen("spec/golden/fragments.txt", "r");
    assert_non_null(file);
    read_layout(file, "a", &golden_a);
    read_layout(file, "b", &golden_b);
    read_layout(file, "c", &golden_c);
    read_layout(file, "load", &golden_load);
    read_layout(file, "transposed", &golden_transposed);
    return fclose(file);
}

// ---- instructions

__global__ static void multiply(const uint32_t *a, const uint32_t *b, float *c) {
    int lane = threadIdx.x;
    mma_m16n8k16(c + 4 * lane, a + 4 * lane, b[2 * lane], b[2 * lane + 1]);
}

static void a_product(void **) {
    float a[16][16], b[16][8], c[16][8];
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) a[i][k] = (float)((i * 29 + k * 53 + i * k * 7) % 31 - 15);
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++) b[k][j] = (float)((k * 37 + j * 11 + k * j * 5) % 29 - 14);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) c[i][j] = (float)(1000 * i + j);

    array<uint16_t, WARP * 8> held_a;
    array<uint16_t, WARP * 4> held_b;
    array<float, WARP * 4> held_c;
    for (int lane = 0; lane < WARP; lane++) {
        for (int v = 0; v < 8; v++) {
            place p = golden_a.at[lane][v];
            held_a.host[8 * lane + v] = bits_of(a[p.row][p.col]);
        }
        for (int v = 0; v < 4; v++) {
            place p = golden_b.at[lane][v], q = golden_c.at[lane][v];
            held_b.host[4 * lane + v] = bits_of(b[p.row][p.col]);
            held_c.host[4 * lane + v] = c[q.row][q.col];
        }
    }
    run("multiply", multiply, held_a.sent_as_pairs(), held_b.sent_as_pairs(), held_c.sent());
    held_c.fetch();
    for (int lane = 0; lane < WARP; lane++)
        for (int v = 0; v < 4; v++) {
            place p = golden_c.at[lane][v];
            float want = c[p.row][p.col];
            for (int k = 0; k < 16; k++) want += a[p.row][k] * b[k][p.col];
            assert_float_equal(held_c.host[4 * lane + v], want, 0);
        }
}

// Row i lies where i * 13 % 32 says: lanes give addresses, no row follows from another.
__global__ static void load_rows(uint32_t *out, bool transposed) {
    __shared__ __align__(16) bf16 rows[WARP * 8];
    int lane = threadIdx.x;
    bf16 *row = rows + lane * 13 % WARP * 8;
    for (int e = 0; e < 8; e++) row[e] = from_float<bf16>((float)(8 * lane + e));
    __syncwarp();
    uint32_t x[4];
    if (transposed)
        load_matrices_transposed(x, row);
    else
        load_matrices(x, row);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = x[i];
}

static void check_load(const layout &golden, bool transposed) {
    array<uint16_t, WARP * 8> got;
    run("load_rows", load_rows, got.sent_as_pairs(), transposed);
    got.fetch();
    for (int lane = 0; lane < WARP; lane++)
        for (int v = 0; v < 8; v++) {
            place p = golden.at[lane][v]; // element `col` of the row that lane `row` gave
            assert_int_equal(got.host[8 * lane + v], bits_of((float)(8 * p.row + p.col)));
        }
}

static void loads_of_matrices(void **) {
    check_load(golden_load, false);
    check_load(golden_transposed, true);
}

enum { LD = 40, ROW = 8, COL = 16, SIDE = 16 }; // the part of a tile that is read as an operand

__device__ __host__ static int element(int row, int col) {
    return (row * SIDE + col) % 256;
}

__global__ static void load_operands(uint32_t *a, uint32_t *b_transposed, uint32_t *b,
                                     uint32_t *packed, const float *c) {
    __shared__ __align__(16) bf16 tile[(ROW + SIDE) * LD];
    int lane = threadIdx.x;
    for (int i = lane; i < (ROW + SIDE) * LD; i += WARP) {
        int row = i / LD - ROW, col = i % LD - COL;
        bool inside = row >= 0 && col >= 0 && col < SIDE;
        tile[i] = from_float<bf16>(inside ? (float)element(row, col) : -1.0f);
    }
    __syncwarp();
    uint32_t x[4];
    load_a(x, tile, LD, ROW, COL);
    for (int i = 0; i < 4; i++) a[4 * lane + i] = x[i];
    load_b_transposed(x, tile, LD, ROW, COL);
    for (int i = 0; i < 4; i++) b_transposed[4 * lane + i] = x[i];
    load_b(x, tile, LD, ROW, COL);
    for (int i = 0; i < 4; i++) b[4 * lane + i] = x[i];
    pack_fragment(x, c + 8 * lane, c + 8 * lane + 4);
    for (int i = 0; i < 4; i++) packed[4 * lane + i] = x[i];
}

static void operands_of_tiles(void **) {
    array<uint16_t, WARP * 8> a, b_transposed, b, packed;
    array<float, WARP * 8> c; // two C side by side
    for (int lane = 0; lane < WARP; lane++)
        for (int v = 0; v < 8; v++) {
            place p = golden_c.at[lane][v % 4];
            c.host[8 * lane + v] = (float)element(p.row, p.col + v / 4 * 8);
        }
    run("load_operands", load_operands, a.sent_as_pairs(), b_transposed.sent_as_pairs(),
        b.sent_as_pairs(), packed.sent_as_pairs(), c.sent());
    a.fetch();
    b_transposed.fetch();
    b.fetch();
    packed.fetch();
    for (int lane = 0; lane < WARP; lane++)
        for (int v = 0; v < 8; v++) {
            place p = golden_a.at[lane][v], q = golden_b.at[lane][v % 4];
            int i = 8 * lane + v, n = q.col + v / 4 * 8; // of two B side by side
            assert_int_equal(a.host[i], bits_of((float)element(p.row, p.col)));
            assert_int_equal(packed.host[i], a.host[i]);
            assert_int_equal(b_transposed.host[i], bits_of((float)element(n, q.row)));
            assert_int_equal(b.host[i], bits_of((float)element(q.row, n)));
        }
}

// Even lanes copy, odd lanes get zeros; two groups, of which the first is waited for first.
__global__ static void copy_parts(const uint32_t *from, uint32_t *early, uint32_t *late) {
    __shared__ __align__(16) uint32_t sixteen[WARP * 4], four[WARP];
    int lane = threadIdx.x;
    for (int i = 0; i < 4; i++) sixteen[4 * lane + i] = 0xffffffffu;
    four[lane] = 0xffffffffu;
    copy_async_16(sixteen + 4 * lane, from + 4 * lane, lane % 2 == 0);
    copy_async_close();
    copy_async_4(four + lane, from + lane, lane % 2 == 0);
    copy_async_close();
    copy_async_wait<1>();
    __syncthreads();
    store_16(early + 4 * lane, *reinterpret_cast<uint4 *>(sixteen + (WARP - 1 - lane) * 4));
    copy_async_wait<0>();
    __syncthreads();
    late[lane] = four[WARP - 1 - lane];
}

static void copies(void **) {
    array<uint32_t, WARP * 4> from, early;
    array<uint32_t, WARP> late;
    for (uint32_t i = 0; i < WARP * 4; i++) from.host[i] = i + 1;
    run("copy_parts", copy_parts, from.sent(), early.sent(), late.sent());
    early.fetch();
    late.fetch();
    for (int lane = 0; lane < WARP; lane++) {
        int other = WARP - 1 - lane;
        for (int i = 0; i < 4; i++)
            assert_int_equal(early.host[4 * lane + i], other % 2 ? 0 : from.host[4 * other + i]);
        assert_int_equal(late.host[lane], other % 2 ? 0 : from.host[other]);
    }
}

enum { STEPS = 16384 };

__global__ static void raise(float *x) {
    for (int i = threadIdx.x; i < STEPS; i += WARP) x[i] = exp2_fast(x[i]);
}

static void powers_of_two(void **) {
    static array<float, STEPS> x;
    static float from[STEPS];
    for (int i = 0; i < STEPS; i++) from[i] = -150.0f + 280.0f / STEPS * ((float)i + 0.37f);
    from[0] = -INFINITY;
    from[1] = -0.0f;
    from[2] = 1e-40f; // read as 0
    from[3] = NAN;
    memcpy(x.host, from, sizeof from);
    run("raise", raise, x.sent());
    x.fetch();
    for (int i = 0; i < STEPS; i++) {
        if (isnan(from[i])) {
            assert_true(isnan(x.host[i]));
        } else if (from[i] < -126.0f) {
            assert_float_equal(x.host[i], 0, 0);
        } else if (from[i] >= 128.0f) {
            assert_true(isinf(x.host[i]));
        } else {
            // 2 ulp from the one that is rounded correctly: what PTX promises
            double want = (float)exp2((double)from[i]), ulp = exp2(floor((double)from[i]) - 23);
            assert_true(fabs(x.host[i] - want) <= 2 * ulp);
        }
    }
}

int main(void) {
    int devices;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped (no device)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product),         cmocka_unit_test(loads_of_matrices),
        cmocka_unit_test(operands_of_tiles), cmocka_unit_test(copies),
        cmocka_unit_test(powers_of_two),
    };
    return cmocka_run_group_tests(tests, read_golden, NULL);
}

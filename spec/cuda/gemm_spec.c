// gemm_spec.c - the choice of a product's algorithm, over the emulated cuBLASLt.
//
// The emulated library has two algorithms and refuses what emulator/cublaslt.cpp says. Every
// operand is a separate block, so that accesses out of bounds are seen.
#include "product_device.h"
#include "../../runtime/core/bf16.h"

#include <cublasLt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

// ---- what gemm.c asks of the other files of the back end

static int n_blocks;          // of scratch memory, taken and not given back
static size_t refused_at = 0; // the size of allocation that fails; 0: none

dopl_status dopl_cuda_alloc(dopl_rt *rt, void **out, size_t bytes) {
    if (refused_at && bytes >= refused_at) return dopl_fail(rt, DOPL_ENOMEM, "no memory");
    assert_int_equal(cudaMalloc(out, bytes ? bytes : 1), cudaSuccess);
    n_blocks++;
    return DOPL_OK;
}

void dopl_cuda_free(dopl_rt *rt, void *data) {
    dopl_cuda_send(rt);
    n_blocks -= data != NULL;
    assert_int_equal(cudaFree(data), cudaSuccess);
}

static void close_counted(device *d) {
    close_device(d);
    assert_int_equal(n_blocks, 0);
}

// ---- matrices with room at the end of each row, and numbers that both types hold exactly

typedef struct {
    dopl_dtype type;
    int64_t rows, cols, ld;
    void *data; // on the device
    void *host; // the same
} matrix;

static float get(const matrix *m, int64_t i, int64_t j) {
    float x;
    if (m->type == DOPL_F32) return ((const float *)m->host)[i * m->ld + j];
    dopl_bf16_decode(&x, (const uint16_t *)m->host + i * m->ld + j, 1);
    return x;
}

static void put(matrix *m, int64_t i, int64_t j, float x) {
    if (m->type == DOPL_F32)
        ((float *)m->host)[i * m->ld + j] = x;
    else
        dopl_bf16_encode((uint16_t *)m->host + i * m->ld + j, &x, 1);
}

static size_t size_of(const matrix *m) {
    return (size_t)(m->rows * m->ld) * dopl_dtype_bytes(m->type);
}

static void send(matrix *m) {
    assert_int_equal(cudaMemcpy(m->data, m->host, size_of(m), cudaMemcpyHostToDevice), cudaSuccess);
}

static matrix make(dopl_dtype type, int64_t rows, int64_t cols, int64_t ld, int seed) {
    matrix m = { .type = type, .rows = rows, .cols = cols, .ld = ld };
    assert_int_equal(cudaMalloc(&m.data, size_of(&m)), cudaSuccess);
    m.host = calloc(1, size_of(&m) + 1);
    assert_non_null(m.host);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            put(&m, i, j, (float)((i * 31 + j * 17 + seed * 7) % 13 - 6) / 8.0f);
    send(&m);
    return m;
}

static void fetch(matrix *m) {
    assert_int_equal(cudaMemcpy(m->host, m->data, size_of(m), cudaMemcpyDeviceToHost), cudaSuccess);
}

static void release(matrix *m) {
    assert_int_equal(cudaFree(m->data), cudaSuccess);
    free(m->host);
}

// y = a b, none of them transposed, over k.
static dopl_cuda_product product_of(const matrix *y, const matrix *a, const matrix *b, int64_t k) {
    return (dopl_cuda_product){ .type = a->type,
                                .y_type = y->type,
                                .m = y->rows,
                                .n = y->cols,
                                .k = k,
                                .lda = a->ld,
                                .ldb = b->ld,
                                .ldy = y->ld,
                                .a = a->data,
                                .b = b->data,
                                .y = y->data,
                                .alpha = 1.0f };
}

static void *element_of(const matrix *m, int64_t i) {
    return (char *)m->data + (size_t)i * dopl_dtype_bytes(m->type);
}

// Elements between a multiple of 16 bytes and the place of a bias or of row sums.
static int64_t shift = 0;

// Whether the emulated library names an algorithm: it has none where all rows are at odd elements.
static bool is_named(const dopl_cuda_product *p) {
    return p->type != DOPL_BF16 || p->y_type != DOPL_BF16 ||
           !(p->lda % 2 && p->ldb % 2 && p->ldy % 2);
}

// One product in every detail against plain sums; what it does not write keeps its value.
static void check(device *d, dopl_dtype type, dopl_dtype y_type, int turns, int64_t m, int64_t n,
                  int64_t k, int64_t room, float beta, bool bias, bool row_sums) {
    bool at = turns & 1, bt = turns & 2;
    matrix a = make(type, at ? k : m, at ? m : k, (at ? m : k) + room, 1);
    matrix b = make(type, bt ? n : k, bt ? k : n, (bt ? k : n) + room, 2);
    matrix y = make(y_type, m, n, n + room, 3), before = make(y_type, m, n, n + room, 3);
    matrix along = make(y_type, 1, n + shift, n + shift, 4);
    matrix sums = make(y_type, 1, m + shift, m + shift, 5);
    dopl_cuda_product p = product_of(&y, &a, &b, k);
    p.a_transposed = at;
    p.b_transposed = bt;
    p.alpha = 0.5f;
    p.beta = beta;
    p.bias = bias ? element_of(&along, shift) : NULL;
    p.bias_grad = row_sums ? element_of(&sums, shift) : NULL;
    bool fits, empty = !(m && n && k);
    assert_int_equal(dopl_cuda_gemm_fits(&d->rt, &p, &fits), DOPL_OK);
    // what the library does not do as one is done all the same
    assert_int_equal(fits, !empty && is_named(&p) && !(row_sums && k % 2) && !(bias && n == 1) &&
                               !(shift && (bias || row_sums)));
    if (row_sums && empty) goto out; // which are nobody's
    if (dopl_cuda_gemm(&d->rt, &p) != DOPL_OK) fail_msg("%s", d->rt.error);
    fetch(&y), fetch(&sums);
    double tolerance = y_type == DOPL_BF16 ? 8e-3 : 1e-6;
    for (int64_t i = 0; i < m; i++) {
        double row = 0;
        for (int64_t l = 0; l < k; l++) row += get(&a, at ? l : i, at ? i : l);
        if (row_sums)
            assert_true(fabs(row - get(&sums, 0, shift + i)) <= tolerance * fmax(1, fabs(row)));
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += get(&a, at ? l : i, at ? i : l) * get(&b, bt ? j : l, bt ? l : j);
            double want = 0.5 * sum + beta * get(&before, i, j);
            if (bias) want += get(&along, 0, shift + j);
            assert_true(fabs(want - get(&y, i, j)) <= tolerance * fmax(1, fabs(want)));
        }
    }
out:
    release(&a), release(&b), release(&y), release(&before), release(&along), release(&sums);
}

static double gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_slope(double x) {
    double h = 1e-5;
    return (gelu(x + h) - gelu(x - h)) / (2 * h);
}

// y = gelu(a b + bias) with and without what GELU is taken of, and y = a b times its slope, in
// bf16, whether or not the library does it as one. pre_shift: elements before `pre`.
static void check_gelu(device *d, int64_t m, int64_t n, int64_t k, int64_t room,
                       int64_t pre_shift) {
    matrix a = make(DOPL_BF16, m, k, k, 1), b = make(DOPL_BF16, k, n, n, 2);
    matrix y = make(DOPL_BF16, m, n, n + room, 3);
    matrix along = make(DOPL_BF16, 1, n + shift, n + shift, 4);
    matrix room_for_pre = make(DOPL_BF16, m + 1, n, n + room, 5), pre = room_for_pre;
    pre.data = element_of(&room_for_pre, pre_shift);
    pre.host = (uint16_t *)room_for_pre.host + pre_shift;
    dopl_cuda_product p = product_of(&y, &a, &b, k);
    for (int way = 0; way < 3; way++) { // GELU alone, GELU keeping its input, the slope
        p.gelu = way == 2 ? DOPL_CUDA_GELU_SLOPE : DOPL_CUDA_GELU;
        p.bias = way == 2 ? NULL : element_of(&along, shift);
        p.pre = way == 0 ? NULL : pre.data;
        bool fits;
        assert_int_equal(dopl_cuda_gemm_fits(&d->rt, &p, &fits), DOPL_OK);
        assert_int_equal(fits, k % 2 == 0 && is_named(&p) && !(shift && p.bias) &&
                                   (way == 0 || (y.ld % 8 == 0 && pre_shift % 8 == 0)));
        if (dopl_cuda_gemm(&d->rt, &p) != DOPL_OK) fail_msg("%s", d->rt.error);
        fetch(&y), fetch(&room_for_pre);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double z = way == 2 ? 0 : get(&along, 0, shift + j);
                for (int64_t l = 0; l < k; l++) z += get(&a, i, l) * get(&b, l, j);
                if (way == 1) assert_true(fabs(z - get(&pre, i, j)) <= 8e-3 * fmax(1, fabs(z)));
                double want = way == 2 ? z * gelu_slope(get(&pre, i, j)) : gelu(z);
                assert_true(fabs(want - get(&y, i, j)) <= 8e-3 * fmax(1, fabs(want)));
            }
    }
    release(&a), release(&b), release(&y), release(&along), release(&room_for_pre);
}

static const int64_t shapes[][3] = { { 1, 1, 1 },    { 3, 5, 4 },    { 20, 10, 10 }, { 19, 10, 10 },
                                     { 18, 10, 9 },  { 17, 10, 10 }, { 0, 3, 4 },    { 3, 0, 4 },
                                     { 16, 24, 32 }, { 2, 130, 4 } };
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

// Types, transposes, room in the rows, sums and bias; four shapes are of one kind.
static void check_all(device *d, dopl_dtype type, dopl_dtype y_type) {
    for (int turns = 0; turns < 4; turns++)
        for (int i = 0; i < N_SHAPES; i++) {
            int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
            check(d, type, y_type, turns, m, n, k, 0, 0.0f, false, false);
            check(d, type, y_type, turns, m, n, k, 3, 1.0f, false, false);
            check(d, type, y_type, turns, m, n, k, 8, 0.0f, true, false);
            check(d, type, y_type, turns, m, n, k, 0, 1.0f, false, true);
        }
}

// timing: its algorithms are chosen by the clock.
static void open_either(device *d, bool timing) {
    if (timing) setenv("DOPL_GEMM_TIMING", "1", 1);
    open_device(d);
    unsetenv("DOPL_GEMM_TIMING");
}

static void products_are_sums(void **state) {
    (void)state;
    device d;
    open_either(&d, true);
    check_all(&d, DOPL_F32, DOPL_F32);
    check_all(&d, DOPL_BF16, DOPL_BF16);
    check_all(&d, DOPL_BF16, DOPL_F32);
    close_counted(&d);
}

static void gelu_comes_with_products(void **state) {
    (void)state;
    for (int timing = 0; timing < 2; timing++) {
        device d;
        open_either(&d, timing);
        check_gelu(&d, 5, 24, 6, 0, 0);
        check_gelu(&d, 8, 24, 7, 0, 0); // an odd sum
        check_gelu(&d, 5, 23, 6, 1, 0); // rows of 24, of which 23 are the product's
        check_gelu(&d, 5, 23, 6, 0, 0); // rows that do not begin where they should
        check_gelu(&d, 6, 24, 6, 0, 4); // nor the first of them
        check_gelu(&d, 40, 130, 12, 6, 0);
        dopl_cuda_product p = {
            .m = 8, .n = 8, .k = 8, .lda = 8, .ldb = 8, .ldy = 8, .gelu = DOPL_CUDA_GELU
        };
        bool fits;
        assert_int_equal(dopl_cuda_gemm_fits(&d.rt, &p, &fits), DOPL_OK);
        assert_false(fits); // in f32
        p.type = p.y_type = DOPL_BF16;
        d.cuda.arch = 80;
        assert_int_equal(dopl_cuda_gemm_fits(&d.rt, &p, &fits), DOPL_OK);
        assert_false(fits); // it would be slower there
        close_counted(&d);
    }
}

static void so_they_are_without_timing(void **state) {
    (void)state;
    device d;
    open_device(&d);
    check_all(&d, DOPL_BF16, DOPL_F32);
    close_counted(&d);
}

// No room to time in: the heuristic's first does.
static void and_without_memory_to_time_in(void **state) {
    (void)state;
    device d;
    open_either(&d, true);
    refused_at = 1 << 20;
    check_all(&d, DOPL_F32, DOPL_F32);
    refused_at = 0;
    check_all(&d, DOPL_F32, DOPL_F32);
    close_counted(&d);
}

static void more_kinds_than_the_table_has_places(void **state) {
    (void)state;
    device d;
    open_device(&d); // up to 16 rows, each count is a kind
    for (int64_t i = 1; i <= 1200; i++)
        check(&d, DOPL_F32, DOPL_F32, 0, i % 16 + 1, 1 + i / 16, 2, 0, 0.0f, false, false);
    close_counted(&d);
}

// Nothing to add up: what is left is the bias, or what was there.
static void an_empty_sum_leaves_the_bias(void **state) {
    (void)state;
    device d;
    open_device(&d);
    check(&d, DOPL_BF16, DOPL_BF16, 0, 3, 5, 0, 2, 0.0f, true, false);
    check(&d, DOPL_F32, DOPL_F32, 2, 3, 5, 0, 2, 0.0f, false, false);
    check(&d, DOPL_F32, DOPL_F32, 2, 3, 5, 0, 2, 1.0f, false, false);
    close_counted(&d);
}

static void what_was_found_is_told(void **state) {
    (void)state;
    device d;
    char text[256];
    open_device(&d);
    assert_false(dopl_cuda_gemm_tell(&d.rt, 0, text, sizeof text));
    check(&d, DOPL_BF16, DOPL_F32, 0, 2, 6, 4, 0, 0.0f, true, false);
    assert_true(dopl_cuda_gemm_tell(&d.rt, 0, text, sizeof text));
    assert_string_equal(text, "product [2, 4] x [4, 6] of bf16 into f32 with bias: algorithm 1, "
                              "tile 0, stages 0, split 1, workspace 4096");
    assert_false(dopl_cuda_gemm_tell(&d.rt, 1, text, sizeof text));
    check(&d, DOPL_F32, DOPL_F32, 0, 3, 5, 3, 0, 0.0f, false, true);
    int64_t i = 0;
    while (dopl_cuda_gemm_tell(&d.rt, i, text, sizeof text) && !strstr(text, "sums: none")) i++;
    assert_string_equal(text, "product [3, 3] x [3, 5] of f32 into f32 with row sums: none");
    close_counted(&d);
    open_either(&d, true);
    check(&d, DOPL_F32, DOPL_F32, 0, 34, 5, 4, 0, 0.0f, false, false);
    assert_true(dopl_cuda_gemm_tell(&d.rt, 0, text, sizeof text));
    assert_int_equal(strncmp(text, "product [36, 4] x [4, 5] of f32 into f32: algorithm ", 52), 0);
    assert_string_equal(text + strlen(text) - 3, " ms");
    close_counted(&d);
}

// What the library is asked about, not what runs: the lines that tell of it.
static int64_t kinds_told(device *d) {
    char text[256];
    int64_t n = 0;
    while (dopl_cuda_gemm_tell(&d->rt, n, text, sizeof text)) n++;
    return n;
}

static void check_token_counts(device *d) {
    for (int64_t tokens = 33; tokens <= 64; tokens++) { // to 36, 40, ... 64; and four to a sum
        check(d, DOPL_F32, DOPL_F32, 2, tokens, 6, 4, 0, 0.0f, false, false);
        check(d, DOPL_BF16, DOPL_F32, 1, 6, 4, tokens, 0, 1.0f, false, false);
    }
}

// The answer for 36 rows is no answer for 33 and 35: the odd counts have one each.
static void token_counts_share_an_answer(void **state) {
    (void)state;
    device d;
    open_device(&d);
    emulated_cublaslt_questions = 0;
    check_token_counts(&d);
    assert_int_equal(kinds_told(&d), 2 * 8 + 16);
    assert_int_equal(emulated_cublaslt_questions, 2 * 8 + 16);
    check_token_counts(&d);
    assert_int_equal(emulated_cublaslt_questions, 2 * 8 + 16);
    close_counted(&d);
}

static bool is_told(device *d, const char *wanted) {
    char text[256];
    for (int64_t i = 0; dopl_cuda_gemm_tell(&d->rt, i, text, sizeof text); i++)
        if (strstr(text, wanted)) return true;
    return false;
}

// Parts of a sum that leave out its last terms are the library's fault; they are not taken. 384
// terms are six steps of 64, two for each of three parts, in which 385 and 386 have no place.
static void a_sum_in_parts_is_whole(void **state) {
    (void)state;
    for (int timing = 0; timing < 2; timing++) {
        device d;
        open_either(&d, timing);
        for (int64_t k = 382; k <= 388; k++) {
            check(&d, DOPL_BF16, DOPL_F32, 1, 6, 4, k, 0, 1.0f, false, !timing); // over tokens
            check(&d, DOPL_BF16, DOPL_BF16, 2, 6, 4, k, 0, 0.0f, true, false);   // over features
        }
        if (!timing) assert_true(is_told(&d, "split 3"));
        close_counted(&d);
    }
}

// A sum of 385 in bf16, to which -384 is added: rounded before that, it is 384.
static void a_bias_is_added_before_rounding(void **state) {
    (void)state;
    for (int timing = 0; timing < 2; timing++) {
        device d;
        open_either(&d, timing);
        matrix a = make(DOPL_BF16, 2, 384, 384, 1), b = make(DOPL_BF16, 384, 8, 8, 2);
        matrix y = make(DOPL_BF16, 2, 8, 8, 3), along = make(DOPL_BF16, 1, 8, 8, 4);
        for (int64_t l = 0; l < 384; l++) {
            put(&a, 0, l, l ? 1.0f : 2.0f), put(&a, 1, l, l ? 1.0f : 2.0f);
            for (int64_t j = 0; j < 8; j++) put(&b, l, j, 1.0f), put(&along, 0, j, -384.0f);
        }
        send(&a), send(&b), send(&along);
        dopl_cuda_product p = product_of(&y, &a, &b, 384);
        p.bias = along.data;
        if (dopl_cuda_gemm(&d.rt, &p) != DOPL_OK) fail_msg("%s", d.rt.error);
        fetch(&y);
        assert_true(get(&y, 0, 0) == 1.0f && get(&y, 1, 7) == 1.0f);
        assert_false(is_told(&d, "split 3"));
        release(&a), release(&b), release(&y), release(&along);
        close_counted(&d);
    }
}

// Bias and row sums at addresses that a kernel of the library's would fault on.
static void a_bias_may_lie_anywhere(void **state) {
    (void)state;
    for (int timing = 0; timing < 2; timing++) {
        device d;
        open_either(&d, timing);
        for (shift = 1; shift <= 4; shift += 3) { // 2 and 8 bytes in bf16, 4 in f32
            if (shift == 1) check(&d, DOPL_F32, DOPL_F32, 2, 5, 8, 6, 0, 0.0f, true, false);
            if (shift == 1) check(&d, DOPL_F32, DOPL_F32, 1, 6, 8, 4, 0, 1.0f, false, true);
            check(&d, DOPL_BF16, DOPL_BF16, 2, 5, 8, 6, 0, 0.0f, true, false);
            check(&d, DOPL_BF16, DOPL_BF16, 2, 70, 130, 40, 4, 0.0f, true, false);
            check(&d, DOPL_BF16, DOPL_BF16, 0, 6, 8, 4, 0, 1.0f, true, false);
            check(&d, DOPL_BF16, DOPL_BF16, 1, 6, 8, 4, 0, 1.0f, false, true);
            check_gelu(&d, 5, 24, 6, 0, 0);
        }
        shift = 0;
        assert_true(is_told(&d, "with bias: none"));
        close_counted(&d);
    }
}

// A product that the heuristic named an algorithm for, which is then refused: another one is found
// once, and remembered for that product.
static void check_refused(bool timing, dopl_dtype type, dopl_dtype y_type, int64_t m, int64_t n,
                          int64_t k, bool bias, int refusals, const char *told) {
    device d;
    open_either(&d, timing);
    emulated_cublaslt_refusals = 0;
    check(&d, type, y_type, 0, m, n, k, 0, 0.0f, bias, false);
    assert_int_equal(emulated_cublaslt_refusals, refusals);
    assert_true(is_told(&d, told));
    emulated_cublaslt_questions = 0;
    check(&d, type, y_type, 0, m, n, k, 0, 0.0f, bias, false);
    assert_int_equal(emulated_cublaslt_refusals, refusals);
    assert_int_equal(emulated_cublaslt_questions, 0);
    close_counted(&d);
}

static void a_refused_algorithm_is_replaced(void **state) {
    (void)state;
    const char *plain = "refused by cuBLAS";
    for (int timing = 0; timing < 2; timing++)
        for (int bias = 0; bias < 2; bias++) {
            check_refused(timing, DOPL_F32, DOPL_F32, 6, 10, 10, bias, 1, "algorithm 0");
            check_refused(timing, DOPL_BF16, DOPL_F32, 6, 9, 10, bias, 2, plain);
            check_refused(timing, DOPL_BF16, DOPL_BF16, 5, 9, 10, bias, 1, plain); // one was named
            check_refused(timing, DOPL_BF16, DOPL_BF16, 130, 66, 35, bias, 2, plain);
        }
}

static void a_product_without_an_algorithm_is_made(void **state) {
    (void)state;
    for (int timing = 0; timing < 2; timing++)
        for (int bias = 0; bias < 2; bias++) {
            check_refused(timing, DOPL_BF16, DOPL_BF16, 6, 9, 11, bias, 0, ": none");
            check_refused(timing, DOPL_BF16, DOPL_BF16, 130, 67, 35, bias, 0, ": none");
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_sums),
        cmocka_unit_test(gelu_comes_with_products),
        cmocka_unit_test(so_they_are_without_timing),
        cmocka_unit_test(and_without_memory_to_time_in),
        cmocka_unit_test(more_kinds_than_the_table_has_places),
        cmocka_unit_test(an_empty_sum_leaves_the_bias),
        cmocka_unit_test(what_was_found_is_told),
        cmocka_unit_test(token_counts_share_an_answer),
        cmocka_unit_test(a_sum_in_parts_is_whole),
        cmocka_unit_test(a_bias_is_added_before_rounding),
        cmocka_unit_test(a_bias_may_lie_anywhere),
        cmocka_unit_test(a_refused_algorithm_is_replaced),
        cmocka_unit_test(a_product_without_an_algorithm_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

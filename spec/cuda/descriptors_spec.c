// descriptors_spec.c - what gemm.c says of a product, to the real cuBLASLt.
//
// Descriptors, preferences and algorithms are plain memory that the library fills without a device.
// What needs one - a handle, the heuristic, its check, the product - is here instead, and reads
// back with the library's own functions what it is given.
#include "product_device.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

// ---- what gemm.c asks of the other files of the back end

dopl_status dopl_cuda_alloc(dopl_rt *rt, void **out, size_t bytes) {
    return dopl_rt_alloc(rt, out, bytes);
}

void dopl_cuda_free(dopl_rt *rt, void *data) {
    dopl_rt_free(rt, data);
}

dopl_status dopl_cuda_plain_product(dopl_rt *rt, const dopl_cuda_product *p) {
    (void)rt, (void)p;
    fail_msg("the library has an algorithm for every product here");
    return DOPL_EDEVICE;
}

// ---- what takes the place of a device

static struct {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, y;
} seen;                                             // of the last product
static cublasLtMatmulPreferenceOpaque_t preference; // of the last question
static int n_questions;

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    *out = (cublasLtHandle_t)&seen;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    (void)handle;
    return CUBLAS_STATUS_SUCCESS;
}

static uint64_t workspace_allowed(void) {
    uint64_t bytes = 0;
    size_t n;
    assert_int_equal(cublasLtMatmulPreferenceGetAttribute(&preference,
                                                          CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                          &bytes, sizeof bytes, &n),
                     CUBLAS_STATUS_SUCCESS);
    return bytes;
}

static void set_config(cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                       uint32_t value) {
    assert_int_equal(cublasLtMatmulAlgoConfigSetAttribute(algo, attribute, &value, sizeof value),
                     CUBLAS_STATUS_SUCCESS);
}

// Three parts where they may have a workspace.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preferred, const int asked,
                                              cublasLtMatmulHeuristicResult_t found[], int *n) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)asked;
    preference = *preferred;
    n_questions++;
    memset(found, 0, sizeof *found);
    bool parts = workspace_allowed() > 0;
    set_config(&found->algo, CUBLASLT_ALGO_CONFIG_TILE_ID, 20);
    set_config(&found->algo, CUBLASLT_ALGO_CONFIG_STAGES_ID, 35);
    set_config(&found->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, parts ? 3 : 1);
    found->workspaceSize = parts ? 4096 : 0;
    *n = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)algo;
    result->workspaceSize = 4096;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t bytes, cudaStream_t stream) {
    (void)handle, (void)alpha, (void)a, (void)b, (void)beta, (void)c, (void)c_layout, (void)d;
    (void)algo, (void)workspace, (void)bytes, (void)stream;
    memset(&seen, 0, sizeof seen);
    seen.operation = *operation;
    seen.a = *a_layout;
    seen.b = *b_layout;
    seen.y = *d_layout;
    return CUBLAS_STATUS_SUCCESS;
}

// ---- products

static _Alignas(256) char place[256]; // an address for all that nobody reads

// y [48, 24] = op(a) op(b) over 32.
static dopl_cuda_product product(dopl_dtype type, dopl_dtype y_type, int turns) {
    return (dopl_cuda_product){ .type = type,
                                .y_type = y_type,
                                .a_transposed = turns & 1,
                                .b_transposed = turns & 2,
                                .m = 48,
                                .n = 24,
                                .k = 32,
                                .lda = turns & 1 ? 48 : 32,
                                .ldb = turns & 2 ? 32 : 24,
                                .ldy = 24,
                                .a = place,
                                .b = place,
                                .y = place,
                                .alpha = 1.0f };
}

// What was on the stack before, so that whatever is left unwritten shows.
static void __attribute__((noinline)) soil(int with) {
    volatile char stack[16384];
    for (size_t i = 0; i < sizeof stack; i++) stack[i] = (char)with;
}

static void multiply(device *d, const dopl_cuda_product *p) {
    if (dopl_cuda_gemm(&d->rt, p) != DOPL_OK) fail_msg("%s", d->rt.error);
}

static int64_t attribute_of(const cublasLtMatmulDescOpaque_t *operation,
                            cublasLtMatmulDescAttributes_t attribute, size_t bytes) {
    int64_t value = 0;
    size_t n;
    assert_int_equal(cublasLtMatmulDescGetAttribute((cublasLtMatmulDesc_t)operation, attribute,
                                                    &value, bytes, &n),
                     CUBLAS_STATUS_SUCCESS);
    return value;
}

static void check_layout(const cublasLtMatrixLayoutOpaque_t *layout, dopl_dtype type, int64_t rows,
                         int64_t cols, int64_t ld) {
    const struct {
        cublasLtMatrixLayoutAttribute_t attribute;
        size_t bytes;
        int64_t wanted;
    } attributes[] = {
        { CUBLASLT_MATRIX_LAYOUT_TYPE, 4, type == DOPL_BF16 ? CUDA_R_16BF : CUDA_R_32F },
        { CUBLASLT_MATRIX_LAYOUT_ORDER, 4, CUBLASLT_ORDER_COL },
        { CUBLASLT_MATRIX_LAYOUT_ROWS, 8, rows },
        { CUBLASLT_MATRIX_LAYOUT_COLS, 8, cols },
        { CUBLASLT_MATRIX_LAYOUT_LD, 8, ld },
        { CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 4, 1 },
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        int64_t value = 0;
        size_t n;
        assert_int_equal(cublasLtMatrixLayoutGetAttribute((cublasLtMatrixLayout_t)layout,
                                                          attributes[i].attribute, &value,
                                                          attributes[i].bytes, &n),
                         CUBLAS_STATUS_SUCCESS);
        assert_int_equal(value, attributes[i].wanted);
    }
}

// The last product, which turns the operands around: rows here are columns there.
static void check_seen(const dopl_cuda_product *p, int compute, int epilogue) {
    const cublasLtMatmulDescOpaque_t *o = &seen.operation;
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, 4), compute);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_SCALE_TYPE, 4), CUDA_R_32F);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_POINTER_MODE, 4),
                     CUBLASLT_POINTER_MODE_HOST);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_TRANSA, 4), p->b_transposed);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_TRANSB, 4), p->a_transposed);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_EPILOGUE, 4), epilogue);
    const void *beside = p->bias ? p->bias : p->bias_grad;
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8), (intptr_t)beside);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 4) & 0xffffffff,
                     0xffffffff); // y's
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, 8),
                     (intptr_t)p->pre);
    assert_int_equal(attribute_of(o, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8), p->pre ? p->ldy : 0);
    check_layout(&seen.a, p->type, p->ldb, p->b_transposed ? p->n : p->k, p->ldb);
    check_layout(&seen.b, p->type, p->lda, p->a_transposed ? p->k : p->m, p->lda);
    check_layout(&seen.y, p->y_type, p->n, p->m, p->ldy);
}

static const struct {
    dopl_dtype type, y_type;
} types[] = { { DOPL_F32, DOPL_F32 }, { DOPL_BF16, DOPL_BF16 }, { DOPL_BF16, DOPL_F32 } };

static void products_arrive_as_meant(void **state) {
    (void)state;
    for (int tf32 = 0; tf32 < 2; tf32++) {
        device d;
        setenv("DOPL_TF32", tf32 ? "1" : "0", 1);
        open_device(&d);
        for (int i = 0; i < 3 * 4; i++) {
            dopl_cuda_product p = product(types[i / 4].type, types[i / 4].y_type, i % 4);
            int compute =
                tf32 && p.type == DOPL_F32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
            multiply(&d, &p);
            check_seen(&p, compute, CUBLASLT_EPILOGUE_DEFAULT);
            p.bias = place;
            multiply(&d, &p);
            check_seen(&p, compute, CUBLASLT_EPILOGUE_BIAS);
            p.bias = NULL;
            p.bias_grad = place;
            multiply(&d, &p);
            check_seen(&p, compute, CUBLASLT_EPILOGUE_BGRADB);
        }
        close_device(&d);
    }
    unsetenv("DOPL_TF32");
}

static void so_does_gelu(void **state) {
    (void)state;
    device d;
    open_device(&d);
    dopl_cuda_product p = product(DOPL_BF16, DOPL_BF16, 2);
    const int epilogues[] = { CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS,
                              CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS };
    p.gelu = DOPL_CUDA_GELU;
    for (int i = 0; i < 4; i++) {
        p.bias = i & 1 ? place : NULL;
        p.pre = i & 2 ? place : NULL;
        multiply(&d, &p);
        check_seen(&p, CUBLAS_COMPUTE_32F, epilogues[i]);
    }
    p.gelu = DOPL_CUDA_GELU_SLOPE;
    p.bias = NULL;
    multiply(&d, &p);
    check_seen(&p, CUBLAS_COMPUTE_32F, CUBLASLT_EPILOGUE_DGELU);
    close_device(&d);
}

// Batches are told apart by their bytes (queue.c): what the library leaves unwritten must not tell
// equal ones apart.
static void equal_products_are_equal_bytes(void **state) {
    (void)state;
    device d;
    open_device(&d);
    dopl_cuda_product p = product(DOPL_BF16, DOPL_F32, 1);
    p.bias_grad = place;
    multiply(&d, &p); // the library's answer is found
    soil(0x5a);
    multiply(&d, &p);
    __typeof__(seen) first = seen;
    soil(0xa5);
    multiply(&d, &p);
    assert_memory_equal(&first, &seen, sizeof seen);
    close_device(&d);
}

static void check_preference(cublasLtMatmulPreferenceAttributes_t attribute, uint32_t wanted) {
    uint32_t value = 0;
    size_t n;
    assert_int_equal(
        cublasLtMatmulPreferenceGetAttribute(&preference, attribute, &value, sizeof value, &n),
        CUBLAS_STATUS_SUCCESS);
    assert_int_equal(value, wanted);
}

static void the_heuristic_is_asked_for_what_operands_allow(void **state) {
    (void)state;
    device d;
    open_device(&d);
    dopl_cuda_product p = product(DOPL_BF16, DOPL_F32, 0); // rows of 64, 48 and 96 bytes
    p.b = place + 8;
    multiply(&d, &p);
    check_preference(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                     CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    check_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 8);
    check_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 64);
    check_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 32);
    check_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 32);
    close_device(&d);
}

// Parts that do not reach the last terms (gemm_find.c): 386 in three.
static void what_an_algorithm_is_can_be_read(void **state) {
    (void)state;
    device d;
    char text[256];
    open_device(&d);
    dopl_cuda_product p = product(DOPL_BF16, DOPL_F32, 0);
    multiply(&d, &p);
    assert_true(dopl_cuda_gemm_tell(&d.rt, 0, text, sizeof text));
    assert_non_null(strstr(text, "tile 20, stages 35, split 3, workspace 4096"));
    p.lda = p.k = 386;
    n_questions = 0;
    multiply(&d, &p);
    assert_int_equal(n_questions, 2);
    assert_int_equal(workspace_allowed(), 0);
    p.lda = p.k = 387;
    multiply(&d, &p);
    assert_int_equal(n_questions, 3);
    assert_true(workspace_allowed() > 0);
    close_device(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_arrive_as_meant),
        cmocka_unit_test(so_does_gelu),
        cmocka_unit_test(equal_products_are_equal_bytes),
        cmocka_unit_test(the_heuristic_is_asked_for_what_operands_allow),
        cmocka_unit_test(what_an_algorithm_is_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

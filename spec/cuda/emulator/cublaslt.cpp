// cublaslt.cpp - the products behind cublasLt.h, made by oneDNN in f32.
//
// Two algorithms, so that whoever chooses has a choice: 1, the better one, takes results with an
// even number of columns and wants a workspace; 0 takes everything, and wants a workspace for row
// sums alone. Row sums beside a product and GELU on it come where the summed dimension is even. As
// the library does, GELU asks that rows of its input be a multiple of 8 elements long and start at
// a multiple of 16 bytes. No bias comes to a single column.
//
// The library's faults that others have met are here too:
// - Algorithm 1 makes a long sum in parts. As the library's own kernels for sm_90 do (12.8 and
//   13.1), it leaves the last terms out where the parts do not reach them. Of bf16 matrices, it
//   rounds the sum to bf16 before it adds a bias.
// - A bias or row sums that do not start at a multiple of 16 bytes are a misaligned address to a
//   kernel, and the device is lost. The heuristic does not know of them.
// - The heuristic names algorithms that are then refused: both for bf16 matrices of which one has
//   rows at odd elements and the other has not, and 1 for f32 rows at multiples of 8 bytes only.
// - It has no algorithm for bf16 matrices of which both, and the result, have rows at odd elements.
//
// What is described is taken as it comes, and looked at when a product is asked for; the bytes of
// a descriptor that mean nothing keep what they held. So do 12.4, 12.9 and 13.0.
#include "memory.h"
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <vector>

enum {
    WORKSPACE = 4096,
    LONG_SUM = 192, // it makes parts from here on
    PARTS = 3,
    STEP = 64, // a part is a multiple of it
};

static float element(const void *data, cudaDataType type, int64_t i) {
    return type == CUDA_R_16BF ? __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i])
                               : static_cast<const float *>(data)[i];
}

static void put(void *data, cudaDataType type, int64_t i, double x) {
    if (type == CUDA_R_16BF)
        static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16_rn((float)x);
    else
        static_cast<float *>(data)[i] = (float)x;
}

static size_t size_of(int type) {
    return type == CUDA_R_16BF ? 2 : 4;
}

static double tanh_of(double x) { // GELU's
    return tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
}

static double gelu(double x) {
    return 0.5 * x * (1 + tanh_of(x));
}

static double gelu_slope(double x) {
    double t = tanh_of(x);
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

enum { AUX = 128 }; // the bit of an epilogue that has a matrix besides

static bool is_gelu(int epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_GELU || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

static bool has_bias(int epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

// A product that has been asked for.
struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a_layout, b_layout, c_layout, d_layout;
    const void *a, *b, *c;
    void *d, *workspace;
    size_t workspace_bytes;
    float alpha, beta;
    int64_t m, n, k; // k: terms that are added up
    bool rounds_sum; // to bf16, before a bias
    bool a_turned, b_turned;
};

// Every operand is whole, and on the device.
static void check(const product &p) {
    const char *who = "a matrix product";
    const struct {
        const void *data;
        const cublasLtMatrixLayoutOpaque_t &layout;
    } matrices[] = {
        { p.a, p.a_layout },
        { p.b, p.b_layout },
        { p.beta != 0.0f ? p.c : p.d, p.c_layout },
        { p.d, p.d_layout },
    };
    for (const auto &m : matrices) {
        uint64_t n = (m.layout.cols - 1) * (uint64_t)m.layout.ld + m.layout.rows;
        emulator::must_be_device(who, m.data, n * size_of(m.layout.type));
    }
    int type = p.d_layout.type, bias_type = p.desc.bias_type < 0 ? type : p.desc.bias_type;
    if (p.desc.epilogue == CUBLASLT_EPILOGUE_BGRADB)
        emulator::must_be_device(who, p.desc.bias, (size_t)p.n * size_of(type));
    else if (has_bias(p.desc.epilogue))
        emulator::must_be_device(who, p.desc.bias, (size_t)p.m * size_of(bias_type));
    if (p.desc.epilogue & AUX)
        emulator::must_be_device(who, p.desc.aux,
                                 (size_t)((p.n - 1) * p.desc.aux_ld + p.m) * size_of(type));
    if (p.workspace) emulator::must_be_device(who, p.workspace, p.workspace_bytes);
}

// The elements of a matrix as f32; `room` is for those that are not.
static const float *widen(const void *data, const cublasLtMatrixLayoutOpaque_t &layout,
                          std::vector<float> &room) {
    if (layout.type != CUDA_R_16BF) return static_cast<const float *>(data);
    room.resize((layout.cols - 1) * (size_t)layout.ld + layout.rows);
    for (size_t i = 0; i < room.size(); i++) room[i] = element(data, CUDA_R_16BF, (int64_t)i);
    return room.data();
}

static void sum_rows_of_b(const product &p) {
    for (int64_t j = 0; j < p.n; j++) {
        double sum = 0;
        for (int64_t l = 0; l < p.k; l++)
            sum += element(p.b, p.b_layout.type,
                           p.b_turned ? l * p.b_layout.ld + j : j * p.b_layout.ld + l);
        put(const_cast<void *>(p.desc.bias), p.d_layout.type, j, sum);
    }
}

// What comes after the sum at row i and column j of the result.
static void finish(const product &p, int64_t i, int64_t j, float sum) {
    cudaDataType type = p.d_layout.type;
    double y = p.alpha * sum;
    if (p.rounds_sum && has_bias(p.desc.epilogue))
        y = __bfloat162float(__float2bfloat16_rn((float)y));
    if (p.beta != 0.0f) y += p.beta * (double)element(p.c, type, j * p.c_layout.ld + i);
    if (has_bias(p.desc.epilogue))
        y += element(p.desc.bias, p.desc.bias_type < 0 ? type : (cudaDataType)p.desc.bias_type, i);
    int64_t at = j * p.desc.aux_ld + i;
    if (is_gelu(p.desc.epilogue)) {
        if (p.desc.epilogue & AUX) put(p.desc.aux, type, at, y);
        y = gelu(y);
    } else if (p.desc.epilogue == CUBLASLT_EPILOGUE_DGELU) {
        y *= gelu_slope(element(p.desc.aux, type, at));
    }
    put(p.d, type, j * p.d_layout.ld + i, y);
}

// A vector besides the matrices: a bias, or row sums.
static bool has_vector(int epilogue) {
    return has_bias(epilogue) || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

static void multiply(const product &p) {
    check(p);
    if (has_vector(p.desc.epilogue) && reinterpret_cast<uintptr_t>(p.desc.bias) % 16)
        return emulator::lose(cudaErrorMisalignedAddress);
    if (emulator::is_idle() || emulator::is_sparse()) return;      // too large to be done
    if (p.workspace) memset(p.workspace, 0xff, p.workspace_bytes); // whoever shares it finds out
    if (p.desc.epilogue == CUBLASLT_EPILOGUE_BGRADB) sum_rows_of_b(p);
    std::vector<float> a, b, sums((size_t)(p.m * p.n));
    // A device's sums do not depend on the host's number of threads; oneDNN's do.
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    // column-major: to who thinks in rows, the product of the transposed in the other order
    dnnl_status_t status =
        dnnl_sgemm(p.b_turned ? 'T' : 'N', p.a_turned ? 'T' : 'N', p.n, p.m, p.k, 1.0f,
                   widen(p.b, p.b_layout, b), p.b_layout.ld, widen(p.a, p.a_layout, a),
                   p.a_layout.ld, 0.0f, sums.data(), p.m);
    omp_set_num_threads(threads);
    if (status != dnnl_success) abort();
#pragma omp parallel for schedule(static) if (p.m * p.n > 1 << 16)
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) finish(p, i, j, sums[(size_t)(j * p.m + i)]);
}

template <typename T> static cublasStatus_t set(T &to, const void *value, size_t bytes) {
    if (bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

// An algorithm's number, and the parts that it makes of a sum.
static cublasLtMatmulAlgo_t algorithm(uint64_t number, int64_t k) {
    return { { number, number == 1 && k >= LONG_SUM ? PARTS : 1u } };
}

static int64_t terms_added(const cublasLtMatmulAlgo_t *algo, int64_t k) {
    int64_t parts = (int64_t)algo->data[1], each = (k / parts + STEP - 1) / STEP * STEP;
    return parts > 1 && parts * each < k ? parts * each : k;
}

// Bytes, 16 at most, that all columns start at a multiple of.
static uint32_t alignment(const void *data, const cublasLtMatrixLayoutOpaque_t &layout) {
    uint64_t all = reinterpret_cast<uintptr_t>(data) | (layout.ld * size_of(layout.type)) | 16;
    return (uint32_t)(all & -all);
}

// What the heuristic cannot know better.
static bool is_refused(const cublasLtMatmulAlgo_t *algo, int type, uint32_t a, uint32_t b) {
    if (type == CUDA_R_16BF) return (a < 4) != (b < 4);
    return algo->data[0] == 1 && (a == 8 || b == 8);
}

static bool is_matrix(cublasLtMatrixLayout_t layout) {
    return layout->rows > 0 && layout->cols > 0 && layout->ld >= (int64_t)layout->rows;
}

extern "C" {

int emulated_cublaslt_questions, emulated_cublaslt_refusals;

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the function failed to launch on the GPU";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the requested functionality is not supported";
    default:
        return "an internal operation failed";
    }
}

size_t cublasLtGetVersion(void) {
    return 0;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    static char handle;
    *out = reinterpret_cast<cublasLtHandle_t>(&handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t) {
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t compute,
                                      cudaDataType_t) {
    desc->compute = compute;
    desc->a_op = desc->b_op = CUBLAS_OP_N;
    desc->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    desc->bias_type = -1;
    desc->bias = desc->aux = nullptr;
    desc->aux_ld = 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(desc->a_op, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(desc->b_op, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return set(desc->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return set(desc->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return set(desc->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType type,
                                        uint64_t rows, uint64_t cols, int64_t ld) {
    layout->type = type;
    layout->rows = rows;
    layout->cols = cols;
    layout->ld = ld;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
    *preference = { 0, { 256, 256, 256, 256 }, CUBLASLT_REDUCTION_SCHEME_MASK };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return set(preference->workspace, value, bytes);
    if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        return set(preference->reduction, value, bytes);
    int which = attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
    if (which < 0 || which > 3) return CUBLAS_STATUS_INVALID_VALUE;
    return set(preference->align[which], value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result) {
    uint64_t k = desc->a_op == CUBLAS_OP_T ? a->rows : a->cols;
    if (!is_matrix(a) || !is_matrix(b) || !is_matrix(c) || !is_matrix(d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (has_vector(desc->epilogue) && !desc->bias) return CUBLAS_STATUS_INVALID_VALUE;
    if ((desc->epilogue & AUX) && (!desc->aux || reinterpret_cast<uintptr_t>(desc->aux) % 16 ||
                                   desc->aux_ld % 8 || desc->aux_ld < (int64_t)d->rows))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT && desc->epilogue != CUBLASLT_EPILOGUE_BIAS &&
        k % 2)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (desc->epilogue == CUBLASLT_EPILOGUE_BIAS && d->rows == 1)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (algo->data[0] == 1 && d->cols % 2) return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = cublasLtMatmulHeuristicResult_t{};
    result->algo = *algo;
    result->workspaceSize =
        algo->data[0] == 1 || desc->epilogue == CUBLASLT_EPILOGUE_BGRADB ? WORKSPACE : 0;
    return CUBLAS_STATUS_SUCCESS;
}

// Its number and parts; no tiles, no stages.
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *value, size_t bytes, size_t *written) {
    uint32_t answer = attribute == CUBLASLT_ALGO_CONFIG_ID           ? (uint32_t)algo->data[0]
                      : attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? (uint32_t)algo->data[1]
                                                                     : 0;
    if (bytes != sizeof answer) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &answer, bytes);
    *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *n_results) {
    *n_results = 0;
    emulated_cublaslt_questions++;
    // what 13.3 was seen to answer then
    if (emulator::is_capturing()) return CUBLAS_STATUS_INTERNAL_ERROR;
    // parts of a sum could meet in the output's type: nobody here is to ask for that
    if (preference->reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
        return CUBLAS_STATUS_INVALID_VALUE;
    const uint32_t *align = preference->align;
    if (a->type == CUDA_R_16BF && d->type == a->type && align[0] < 4 && align[1] < 4 &&
        align[3] < 4)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    for (uint64_t i = 0; i < 2 && *n_results < asked; i++) {
        cublasLtMatmulAlgo_t algo =
            algorithm(1 - i, (int64_t)(desc->a_op == CUBLAS_OP_T ? a->rows : a->cols));
        cublasLtMatmulHeuristicResult_t *r = &results[*n_results];
        if (cublasLtMatmulAlgoCheck(handle, desc, a, b, c, d, &algo, r) == CUBLAS_STATUS_SUCCESS &&
            r->workspaceSize <= preference->workspace)
            ++*n_results;
    }
    return *n_results ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream) {
    int64_t m = (int64_t)d_layout->rows, n = (int64_t)d_layout->cols;
    bool a_turned = desc->a_op == CUBLAS_OP_T, b_turned = desc->b_op == CUBLAS_OP_T;
    int64_t k = (int64_t)(a_turned ? a_layout->rows : a_layout->cols);
    if ((int64_t)(a_turned ? a_layout->cols : a_layout->rows) != m ||
        (int64_t)(b_turned ? b_layout->cols : b_layout->rows) != k ||
        (int64_t)(b_turned ? b_layout->rows : b_layout->cols) != n ||
        a_layout->type != b_layout->type || c_layout->type != d_layout->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    cublasLtMatmulHeuristicResult_t need;
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle, desc, a_layout, b_layout, c_layout, d_layout, algo, &need);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (workspace_bytes < need.workspaceSize) return CUBLAS_STATUS_INVALID_VALUE;
    if (is_refused(algo, a_layout->type, alignment(a, *a_layout), alignment(b, *b_layout))) {
        emulated_cublaslt_refusals++;
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    cudaError_t error = emulator::submit(
        stream, [p = product{ *desc, *a_layout, *b_layout, *c_layout, *d_layout, a, b, c, d,
                              workspace, need.workspaceSize, *static_cast<const float *>(alpha),
                              *static_cast<const float *>(beta), m, n, terms_added(algo, k),
                              algo->data[1] > 1 && a_layout->type == CUDA_R_16BF, a_turned,
                              b_turned }] { multiply(p); });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // extern "C"

// cublaslt.cpp - the products behind cublasLt.h.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <new>

struct dopl_emulated_layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};
struct dopl_emulated_product {
    cublasComputeType_t compute;
    int a_op, b_op, epilogue;
    const void *bias;
    int bias_type;
};
struct dopl_emulated_preference {
    size_t workspace;
};

static float element(const void *data, cudaDataType type, int64_t i) {
    return type == CUDA_R_16BF ? __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i])
                               : static_cast<const float *>(data)[i];
}

extern "C" {

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "invalid value";
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

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t) {
    *out = new dopl_emulated_product{ compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                                      nullptr, -1 };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        memcpy(&desc->a_op, value, sizeof desc->a_op);
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        memcpy(&desc->b_op, value, sizeof desc->b_op);
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        memcpy(&desc->epilogue, value, sizeof desc->epilogue);
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        if (bytes != sizeof desc->bias) return CUBLAS_STATUS_INVALID_VALUE;
        memcpy(&desc->bias, value, sizeof desc->bias);
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        memcpy(&desc->bias_type, value, sizeof desc->bias_type);
        return CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    *out = new dopl_emulated_layout{ type, rows, cols, ld };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    *out = new dopl_emulated_preference{ 0 };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    if (attribute != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES || bytes != sizeof(size_t))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&preference->workspace, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

// Two answers, as a real library gives several.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int asked,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *n_results) {
    *n_results = asked < 2 ? asked : 2;
    for (int i = 0; i < *n_results; i++) {
        results[i] = cublasLtMatmulHeuristicResult_t{};
        results[i].algo.data[0] = (uint64_t)i;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *, void *,
                              size_t, cudaStream_t) {
    int64_t m = (int64_t)d_layout->rows, n = (int64_t)d_layout->cols;
    bool a_turned = desc->a_op == CUBLAS_OP_T, b_turned = desc->b_op == CUBLAS_OP_T;
    int64_t k = (int64_t)(a_turned ? a_layout->rows : a_layout->cols);
    if ((int64_t)(a_turned ? a_layout->cols : a_layout->rows) != m ||
        (int64_t)(b_turned ? b_layout->cols : b_layout->rows) != k ||
        (int64_t)(b_turned ? b_layout->rows : b_layout->cols) != n ||
        a_layout->type != b_layout->type || c_layout->type != d_layout->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    float al = *static_cast<const float *>(alpha), be = *static_cast<const float *>(beta);
#pragma omp parallel for schedule(static) if (m * n * k > 1 << 16)
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)element(a, a_layout->type,
                                       a_turned ? i * a_layout->ld + l : l * a_layout->ld + i) *
                       element(b, b_layout->type,
                               b_turned ? l * b_layout->ld + j : j * b_layout->ld + l);
            double y = al * sum;
            if (be != 0.0f) y += be * (double)element(c, c_layout->type, j * c_layout->ld + i);
            if (desc->epilogue == CUBLASLT_EPILOGUE_BIAS) {
                cudaDataType type =
                    desc->bias_type < 0 ? d_layout->type : (cudaDataType)desc->bias_type;
                y += element(desc->bias, type, i);
            }
            int64_t at = j * d_layout->ld + i;
            if (d_layout->type == CUDA_R_16BF)
                static_cast<__nv_bfloat16 *>(d)[at] = __float2bfloat16_rn((float)y);
            else
                static_cast<float *>(d)[at] = (float)y;
        }
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"

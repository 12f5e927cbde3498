// gemm.c - matrix products on cuBLASLt.
//
// cuBLAS counts in columns. A row-major matrix is the column-major transpose, so y = a b is asked
// for as y^T = b^T a^T: our b is its A, our a its B, and a bias along our rows is one along its
// columns, as its epilogues want it. DOPL_TF32=1 multiplies f32 operands in TF32: faster by far, 10
// bits of mantissa.
//
// Every product gets a result. Where the library has no algorithm for one with a bias, the product
// is added to the bias. Where it has none for a plain product, or refuses when it is to run what it
// had named for it, our own kernel makes it (kernels/core/product.cu).
#include "gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

dopl_status dopl_cuda_gemm_init(dopl_rt *rt) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(struct dopl_cuda_gemm)));
    struct dopl_cuda_gemm *g = memory;
    cublasStatus_t status = cublasLtCreate(&g->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        dopl_rt_free(rt, g);
        return dopl_fail(rt, DOPL_EDEVICE, "cuBLAS: %s", cublasLtGetStatusString(status));
    }
    const char *timing = getenv("DOPL_GEMM_TIMING"), *tf32 = getenv("DOPL_TF32");
    g->timing = timing && strcmp(timing, "1") == 0;
    g->tf32 = tf32 && strcmp(tf32, "1") == 0;
    dopl_cuda_of(rt)->gemm = g;
    return DOPL_OK;
}

void dopl_cuda_gemm_release(dopl_rt *rt) {
    struct dopl_cuda_gemm *g = dopl_cuda_of(rt)->gemm;
    if (!g) return;
    cublasLtDestroy(g->handle);
    dopl_rt_free(rt, g);
    dopl_cuda_of(rt)->gemm = NULL;
}

// ---- a product in cuBLAS's words

static cudaDataType_t data_type(dopl_dtype t) {
    return t == DOPL_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasStatus_t set(dopl_gemm_request *r, cublasLtMatmulDescAttributes_t attribute,
                          const void *value, size_t bytes) {
    return cublasLtMatmulDescSetAttribute(&r->operation, attribute, value, bytes);
}

static uint32_t epilogue_of(const dopl_cuda_product *p) {
    uint32_t bias = p->bias ? CUBLASLT_EPILOGUE_BIAS : 0;
    switch (p->gelu) {
    case DOPL_CUDA_GELU:
        return (p->pre ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU) | bias;
    case DOPL_CUDA_GELU_SLOPE:
        return CUBLASLT_EPILOGUE_DGELU;
    default:
        return bias ? bias : p->bias_grad ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_DEFAULT;
    }
}

static cublasStatus_t put_operation(dopl_gemm_request *r, const dopl_cuda_product *p, bool tf32) {
    bool fast = tf32 && p->type == DOPL_F32;
    cublasStatus_t s = cublasLtMatmulDescInit(
        &r->operation, fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F);
    int32_t of_a = p->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    int32_t of_b = p->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (!s) s = set(r, CUBLASLT_MATMUL_DESC_TRANSA, &of_a, sizeof of_a);
    if (!s) s = set(r, CUBLASLT_MATMUL_DESC_TRANSB, &of_b, sizeof of_b);
    uint32_t epilogue = epilogue_of(p);
    if (!s) s = set(r, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    const void *beside = p->bias ? p->bias : p->bias_grad;
    if (!s && beside) s = set(r, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &beside, sizeof beside);
    if (s || !p->pre) return s;
    s = set(r, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &p->pre, sizeof p->pre);
    if (!s) s = set(r, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &p->ldy, sizeof p->ldy);
    return s;
}

// A row-major [rows, cols] matrix.
static cublasStatus_t put_layout(cublasLtMatrixLayoutOpaque_t *layout, dopl_dtype type,
                                 bool transposed, int64_t rows, int64_t cols, int64_t ld) {
    return cublasLtMatrixLayoutInit(layout, data_type(type), (uint64_t)(transposed ? rows : cols),
                                    (uint64_t)(transposed ? cols : rows), ld);
}

static cublasStatus_t put(dopl_gemm_request *r, const dopl_cuda_product *p, bool tf32) {
    memset(r, 0, sizeof *r); // equal requests are equal bytes: queue.c
    cublasStatus_t s = put_operation(r, p, tf32);
    if (!s) s = put_layout(&r->a, p->type, p->b_transposed, p->k, p->n, p->ldb);
    if (!s) s = put_layout(&r->b, p->type, p->a_transposed, p->m, p->k, p->lda);
    if (!s) s = put_layout(&r->y, p->y_type, false, p->m, p->n, p->ldy);
    return s;
}

dopl_status dopl_gemm_request_init(dopl_rt *rt, dopl_gemm_request *r, const dopl_cuda_product *p) {
    return dopl_gemm_result(rt, put(r, p, dopl_cuda_of(rt)->gemm->tf32), p);
}

cublasStatus_t dopl_gemm_multiply(const dopl_cuda *cuda, const dopl_gemm_request *r,
                                  const dopl_cuda_product *p, void *y,
                                  const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes) {
    return cublasLtMatmul(cuda->gemm->handle, (cublasLtMatmulDesc_t)&r->operation, &p->alpha, p->b,
                          (cublasLtMatrixLayout_t)&r->a, p->a, (cublasLtMatrixLayout_t)&r->b,
                          &p->beta, p->y, (cublasLtMatrixLayout_t)&r->y, y,
                          (cublasLtMatrixLayout_t)&r->y, algo, workspace, bytes, cuda->stream);
}

dopl_status dopl_gemm_result(dopl_rt *rt, cublasStatus_t status, const dopl_cuda_product *p) {
    if (status == CUBLAS_STATUS_SUCCESS) return DOPL_OK;
    dopl_gemm_text what = dopl_gemm_describe(p);
    // a kernel's fault may show here first, and CUDA knows more of it
    DOPL_TRY(dopl_cuda_result(rt, cudaStreamSynchronize(dopl_cuda_of(rt)->stream), what.s));
    return dopl_fail(rt, DOPL_EDEVICE, "%s: %s", what.s, cublasLtGetStatusString(status));
}

// ---- the product

// Every row of y becomes the bias, or 0: of rows end to end, as many at a time as there are
// already.
static dopl_status fill_rows(dopl_rt *rt, const dopl_cuda_product *p) {
    size_t size = dopl_dtype_bytes(p->y_type), row = (size_t)p->n * size;
    bool dense = p->ldy == p->n;
    for (int64_t i = 0, n; i < p->m; i += n) {
        char *y = (char *)p->y + (size_t)(i * p->ldy) * size;
        n = !dense || i == 0 ? 1 : i < p->m - i ? i : p->m - i;
        if (p->bias)
            DOPL_TRY(dopl_cuda_move(rt, y, dense && i ? p->y : p->bias, (size_t)n * row));
        else
            DOPL_TRY(dopl_cuda_set(rt, y, 0, (size_t)n * row));
    }
    return DOPL_OK;
}

// Where cuBLAS adds no bias to a product, which it leaves open: the product is added to the bias.
static dopl_status bias_first(dopl_rt *rt, const dopl_cuda_product *p) {
    dopl_cuda_product rest = *p;
    rest.bias = NULL;
    rest.beta = 1.0f;
    DOPL_TRY(fill_rows(rt, p));
    return dopl_cuda_gemm(rt, &rest);
}

static bool is_degenerate(const dopl_cuda_product *p) {
    return p->m == 0 || p->n == 0 || p->k == 0;
}

dopl_status dopl_cuda_gemm_fits(dopl_rt *rt, const dopl_cuda_product *p, bool *fits) {
    *fits = !is_degenerate(p);
    if (!*fits) return DOPL_OK;
    dopl_gemm_request r;
    const dopl_gemm_choice *c;
    DOPL_TRY(dopl_gemm_request_init(rt, &r, p));
    DOPL_TRY(dopl_gemm_find(rt, &r, p, &c));
    *fits = !c->none;
    return DOPL_OK;
}

// A product that waits in the queue.
typedef struct {
    dopl_gemm_request request;
    cublasLtMatmulAlgo_t algo;
    dopl_cuda_product product;
    void *workspace;
    size_t bytes;
    bool plain; // by our own kernel
} queued;

// Field by field, into zeros: equal products are equal bytes, so what lies between fields stays 0.
static void copy_product(dopl_cuda_product *to, const dopl_cuda_product *from) {
    to->type = from->type;
    to->y_type = from->y_type;
    to->a_transposed = from->a_transposed;
    to->b_transposed = from->b_transposed;
    to->m = from->m;
    to->n = from->n;
    to->k = from->k;
    to->lda = from->lda;
    to->ldb = from->ldb;
    to->ldy = from->ldy;
    to->a = from->a;
    to->b = from->b;
    to->y = from->y;
    to->alpha = from->alpha;
    to->beta = from->beta;
    to->bias = from->bias;
    to->bias_grad = from->bias_grad;
    to->gelu = from->gelu;
    to->pre = from->pre;
}

// The library refuses what its heuristic had named. The first other candidate that it runs is
// taken, else our own kernel, here and for this product from now on: so a run gives the same bits
// whether or not it was resumed after the refusal. The workspace is there already, and limits the
// choice.
static dopl_status another_way(dopl_rt *rt, const queued *q, cublasStatus_t refusal) {
    const dopl_cuda *cuda = dopl_cuda_of(rt);
    dopl_gemm_text what = dopl_gemm_describe(&q->product);
    enum cudaStreamCaptureStatus capture;
    cublasLtMatmulHeuristicResult_t found[DOPL_GEMM_CANDIDATES] = { 0 };
    int n;
    DOPL_TRY(dopl_cuda_result(rt, cudaStreamIsCapturing(cuda->stream, &capture), what.s));
    if (capture != cudaStreamCaptureStatusNone) // queue.c then issues the batch without a graph
        return dopl_fail(rt, DOPL_EDEVICE, "%s: %s", what.s, cublasLtGetStatusString(refusal));
    // a kernel that faulted is no refusal
    DOPL_TRY(dopl_cuda_result(rt, cudaStreamSynchronize(cuda->stream), what.s));
    DOPL_TRY(dopl_gemm_candidates(rt, &q->request, &q->product, found, &n));
    for (int i = 0; i < n; i++) {
        if (memcmp(&found[i].algo, &q->algo, sizeof q->algo) == 0) continue;
        if (found[i].workspaceSize > q->bytes) continue;
        if (dopl_gemm_multiply(cuda, &q->request, &q->product, q->product.y, &found[i].algo,
                               q->workspace, found[i].workspaceSize))
            continue;
        dopl_gemm_was_refused(rt, &q->product, &found[i]);
        return DOPL_OK;
    }
    (void)cudaGetLastError(); // what the refusals may have left
    dopl_gemm_was_refused(rt, &q->product, NULL);
    return dopl_cuda_plain_product(rt, &q->product);
}

static dopl_status issue(dopl_rt *rt, const void *data) {
    const queued *q = data;
    const dopl_cuda_product *p = &q->product;
    if (q->plain) return dopl_cuda_plain_product(rt, p);
    dopl_cuda_piece_begins(rt, NULL);
    cublasStatus_t s = dopl_gemm_multiply(dopl_cuda_of(rt), &q->request, p, p->y, &q->algo,
                                          q->workspace, q->bytes);
    dopl_cuda_piece_ends(rt);
    return s == CUBLAS_STATUS_SUCCESS ? DOPL_OK : another_way(rt, q, s);
}

dopl_status dopl_cuda_gemm(dopl_rt *rt, const dopl_cuda_product *p) {
    if (p->m == 0 || p->n == 0) return DOPL_OK;
    if (p->k == 0) return p->beta == 0.0f ? fill_rows(rt, p) : DOPL_OK; // nothing to add up
    dopl_gemm_request r;
    const dopl_gemm_choice *found;
    DOPL_TRY(dopl_gemm_request_init(rt, &r, p));
    DOPL_TRY(dopl_gemm_find(rt, &r, p, &found));
    if (found->none && p->bias && !p->gelu && p->beta == 0.0f) return bias_first(rt, p);
    dopl_gemm_choice c = *found; // what makes room for a workspace may change the table
    bool plain = c.none || c.refused;
    void *workspace = NULL;
    if (!plain && c.workspace) DOPL_TRY(dopl_cuda_alloc(rt, &workspace, c.workspace));
    if (dopl_cuda_timed(rt)) dopl_cuda_name_next(rt, dopl_gemm_describe_kind(&c.kind).s);
    queued *q = dopl_cuda_queue_work(rt, issue, sizeof *q);
    copy_product(&q->product, p);
    q->plain = plain;
    if (!plain) {
        q->request = r;
        q->algo = c.algo;
        q->workspace = workspace;
        q->bytes = c.workspace;
    }
    dopl_cuda_free(rt, workspace);
    return dopl_cuda_launched(rt, dopl_cuda_of(rt)->sync ? dopl_gemm_describe(p).s : "product");
}

// gemm.c - matrix products on cuBLASLt, each shape's algorithm found once.
//
// cuBLAS counts in columns. A row-major matrix is the column-major transpose, so y = a b is asked
// for as y^T = b^T a^T: our b is its A, our a its B, and a bias along our rows is one along its
// columns, as its epilogues want it.
//
// The library's heuristic names the algorithms worth trying; the first, usually within a tenth of
// the best, is taken and remembered. To name one costs the host time, and token counts change from
// batch to batch: so the count is rounded up to eight steps an octave, the
// heuristic is asked for that, and the counts in between take its answer over where cuBLAS confirms
// that they can. Which count came first makes no difference: a run repeats to the bit, and so does
// one that goes on from a checkpoint. With DOPL_GEMM_TIMING=1 the first product of a kind times all
// that the heuristic names, on its own operands, and the fastest is remembered: which one wins can
// differ from run to run, and with it the last bits of a product. DOPL_TF32=1 multiplies f32
// operands in TF32: faster by far, 10 bits of mantissa.
#include "cuda.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORKSPACE = 32 << 20, // bytes an algorithm may ask for: what NVIDIA advises for sm_90
    CANDIDATES = 8,
    TABLE = 1024, // kinds remembered; a power of two
    PROBES = 8,   // places where a kind can be
};

// What decides on an algorithm. Compared as bytes.
typedef struct {
    int64_t m, n, k; // of the rounded product
    uint8_t type, y_type, a_transposed, b_transposed, bias, bias_grad;
    uint8_t gelu, pre;
    // log2 of bytes that rows start at a multiple of
    uint8_t align_a, align_b, align_y, align_bias, align_pre;
    uint8_t unused[3];
} kind;

typedef struct {
    bool used, none; // none: cuBLAS has no algorithm
    kind kind;
    int64_t shape[6]; // m, n, k, lda, ldb, ldy that the algorithm is known to take
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    float ms; // of the product that it was timed with; 0: it was not
} choice;

struct dopl_cuda_gemm {
    cublasLtHandle_t handle;
    bool timing, tf32;
    choice table[TABLE];
};

// A product as cuBLAS sees it.
typedef struct {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, y; // of p->b, p->a, p->y
} request;

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

static cublasStatus_t set(request *r, cublasLtMatmulDescAttributes_t attribute, const void *value,
                          size_t bytes) {
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

static cublasStatus_t put_operation(request *r, const dopl_cuda_product *p, bool tf32) {
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

static cublasStatus_t put(request *r, const dopl_cuda_product *p, bool tf32) {
    memset(r, 0, sizeof *r); // equal requests are equal bytes: queue.c
    cublasStatus_t s = put_operation(r, p, tf32);
    if (!s) s = put_layout(&r->a, p->type, p->b_transposed, p->k, p->n, p->ldb);
    if (!s) s = put_layout(&r->b, p->type, p->a_transposed, p->m, p->k, p->lda);
    if (!s) s = put_layout(&r->y, p->y_type, false, p->m, p->n, p->ldy);
    return s;
}

static cublasStatus_t multiply(const dopl_cuda *cuda, const request *r, const dopl_cuda_product *p,
                               void *y, const cublasLtMatmulAlgo_t *algo, void *workspace,
                               size_t bytes) {
    return cublasLtMatmul(cuda->gemm->handle, (cublasLtMatmulDesc_t)&r->operation, &p->alpha, p->b,
                          (cublasLtMatrixLayout_t)&r->a, p->a, (cublasLtMatrixLayout_t)&r->b,
                          &p->beta, p->y, (cublasLtMatrixLayout_t)&r->y, y,
                          (cublasLtMatrixLayout_t)&r->y, algo, workspace, bytes, cuda->stream);
}

// ---- kinds

// The product with as many tokens as the next of 9 to 16 times a power of two: they are a's rows,
// in a product that is added up over them b's too. The other dimensions are a model's.
static dopl_cuda_product rounded(const dopl_cuda_product *p) {
    dopl_cuda_product whole = *p;
    if (p->a_transposed && p->b_transposed) return whole;
    int64_t *tokens = p->a_transposed ? &whole.k : &whole.m, unit = 1;
    while (*tokens > 16 * unit) unit *= 2;
    *tokens = (*tokens + unit - 1) / unit * unit;
    return whole;
}

// log2 of the largest power of two, 256 at most, that divides the address and the row's bytes.
static uint8_t alignment(const void *p, int64_t row_bytes) {
    return (uint8_t)__builtin_ctzll((uintptr_t)p | (uint64_t)row_bytes | 256);
}

static kind kind_of(const dopl_cuda_product *p) {
    int64_t size = (int64_t)dopl_dtype_bytes(p->type);
    int64_t y_size = (int64_t)dopl_dtype_bytes(p->y_type);
    kind k;
    memset(&k, 0, sizeof k);
    k.m = p->m;
    k.n = p->n;
    k.k = p->k;
    k.type = (uint8_t)p->type;
    k.y_type = (uint8_t)p->y_type;
    k.a_transposed = p->a_transposed;
    k.b_transposed = p->b_transposed;
    k.bias = p->bias != NULL;
    k.bias_grad = p->bias_grad != NULL;
    k.gelu = (uint8_t)p->gelu;
    k.pre = p->pre != NULL;
    k.align_a = alignment(p->a, p->lda * size);
    k.align_b = alignment(p->b, p->ldb * size);
    k.align_y = alignment(p->y, p->ldy * y_size);
    k.align_bias = alignment(p->bias ? p->bias : p->bias_grad, 256);
    k.align_pre = alignment(p->pre, p->ldy * y_size);
    return k;
}

typedef struct {
    char s[160];
} product_text;

static product_text describe_kind(const kind *k) {
    static const char *const gelu[] = { "", " and GELU", " times the slope of GELU" };
    product_text t;
    snprintf(t.s, sizeof t.s, "product [%lld, %lld] x [%lld, %lld] of %s into %s%s%s",
             (long long)k->m, (long long)k->k, (long long)k->k, (long long)k->n,
             dopl_dtype_name(k->type), dopl_dtype_name(k->y_type),
             k->bias ? " with bias" : (k->bias_grad ? " with row sums" : ""), gelu[k->gelu]);
    return t;
}

static product_text describe(const dopl_cuda_product *p) {
    kind k = kind_of(p);
    return describe_kind(&k);
}

static dopl_status result(dopl_rt *rt, cublasStatus_t status, const dopl_cuda_product *p) {
    if (status == CUBLAS_STATUS_SUCCESS) return DOPL_OK;
    // a kernel's fault may show here first, and CUDA knows more of it
    DOPL_TRY(dopl_cuda_result(rt, cudaStreamSynchronize(dopl_cuda_of(rt)->stream), describe(p).s));
    return dopl_fail(rt, DOPL_EDEVICE, "%s: %s", describe(p).s, cublasLtGetStatusString(status));
}

// The entry of a kind, or the one it may take.
static choice *look_up(struct dopl_cuda_gemm *g, const kind *k) {
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
    for (size_t i = 0; i < sizeof *k; i++) hash = (hash ^ ((const uint8_t *)k)[i]) * 0x100000001b3u;
    hash ^= hash >> 32;
    for (uint64_t i = 0; i < PROBES; i++) {
        choice *c = &g->table[(hash + i) % TABLE];
        if (!c->used || memcmp(&c->kind, k, sizeof *k) == 0) return c;
    }
    choice *c = &g->table[hash % TABLE]; // full here: the oldest goes
    c->used = false;
    return c;
}

// ---- finding an algorithm

static uint32_t config(const cublasLtMatmulAlgo_t *algo,
                       cublasLtMatmulAlgoConfigAttributes_t attribute) {
    uint32_t value = 0;
    size_t bytes;
    cublasStatus_t s =
        cublasLtMatmulAlgoConfigGetAttribute(algo, attribute, &value, sizeof value, &bytes);
    return s ? 0 : value;
}

// Whether each of the k terms of a sum is in one of the parts that are made side by side. cuBLAS's
// own kernels for sm_90 give a part k / parts terms, rounded up to whole steps, but the quotient is
// rounded down first: where it is whole steps then, the last terms are in no part. (Others have
// measured it on an H100, with 12.8 and 13.1: 11,528 ones in 9 parts add up to 11,520.) A step is
// 64 terms in bf16 and nothing tells others': so it must be well with all that one could be.
static bool sums_all(const cublasLtMatmulAlgo_t *algo, int64_t k) {
    int64_t parts = config(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
    for (int64_t step = 32; parts > 1 && step <= 128; step *= 2)
        if ((k / parts + step - 1) / step * step * parts < k) return false;
    return true;
}

static cublasStatus_t put_preference(cublasLtMatmulPreferenceOpaque_t *preference, const kind *k,
                                     uint64_t most) {
    cublasStatus_t s = cublasLtMatmulPreferenceInit(preference);
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
    // Parts of a sum that are made side by side meet in f32: not in the output, whose type may be
    // bf16, and in a step of their own, so in one order.
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint8_t log2;
    } align[] = { { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k->align_b },
                  { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k->align_a },
                  { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k->align_y },
                  { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k->align_y } };
    for (size_t i = 0; !s && i < sizeof align / sizeof *align; i++) {
        uint32_t bytes = 1u << align[i].log2;
        s = cublasLtMatmulPreferenceSetAttribute(preference, align[i].attribute, &bytes,
                                                 sizeof bytes);
    }
    return s;
}

// GELU comes with products in bf16: cuBLAS does not tell how exact its tanh is, and f32 has to be.
// It wants rows of `pre` to be a multiple of 8 elements long, which in bf16 is 16 bytes. Before
// sm_90 it takes longer than our kernel after the product, as others have found (llm.c fuses from
// there).
static bool has_gelu(const kind *k, int arch) {
    return arch >= 90 && k->type == DOPL_BF16 && k->y_type == DOPL_BF16 &&
           (!k->pre || k->align_pre >= 4);
}

// The heuristic's candidates that may have a workspace of so many bytes, best guess first; *n is 0
// where cuBLAS has none.
static dopl_status ask(dopl_rt *rt, const request *r, const dopl_cuda_product *p, const kind *k,
                       uint64_t workspace, cublasLtMatmulHeuristicResult_t *found, int most,
                       int *n) {
    cublasLtMatmulPreferenceOpaque_t preference;
    *n = 0;
    DOPL_TRY(result(rt, put_preference(&preference, k, workspace), p));
    cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(
        dopl_cuda_of(rt)->gemm->handle, (cublasLtMatmulDesc_t)&r->operation,
        (cublasLtMatrixLayout_t)&r->a, (cublasLtMatrixLayout_t)&r->b, (cublasLtMatrixLayout_t)&r->y,
        (cublasLtMatrixLayout_t)&r->y, &preference, most, found, n);
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE) {
        *n = 0;
        return DOPL_OK;
    }
    return result(rt, s, p);
}

// The first *n that will do: each says whether it would.
static void keep_good(cublasLtMatmulHeuristicResult_t *found, int *n, int64_t k) {
    int good = 0;
    for (int i = 0; i < *n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && sums_all(&found[i].algo, k))
            found[good++] = found[i];
    *n = good;
}

static dopl_status candidates(dopl_rt *rt, const request *r, const dopl_cuda_product *p,
                              const kind *k, cublasLtMatmulHeuristicResult_t *found, int most,
                              int *n) {
    *n = 0;
    if (k->gelu && !has_gelu(k, dopl_cuda_of(rt)->arch)) return DOPL_OK;
    DOPL_TRY(ask(rt, r, p, k, WORKSPACE, found, most, n));
    bool any = *n > 0;
    keep_good(found, n, p->k);
    if (*n > 0 || !any) return DOPL_OK;
    DOPL_TRY(ask(rt, r, p, k, 0, found, most, n)); // parts would need one: sums in one piece
    keep_good(found, n, p->k);
    return DOPL_OK;
}

// What a timing works with.
typedef struct {
    cudaEvent_t start, end;
    void *workspace, *y; // y: p->y, or a place of its own where the product adds to p->y
} stopwatch;

static void stopwatch_release(dopl_rt *rt, stopwatch *w, const dopl_cuda_product *p) {
    if (w->start) cudaEventDestroy(w->start);
    if (w->end) cudaEventDestroy(w->end);
    if (w->y != p->y) dopl_cuda_free(rt, w->y);
    dopl_cuda_free(rt, w->workspace);
}

static dopl_status stopwatch_init(dopl_rt *rt, stopwatch *w, const dopl_cuda_product *p) {
    *w = (stopwatch){ .y = p->y };
    if (p->beta != 0.0f) {
        w->y = NULL;
        size_t bytes = (size_t)(p->m * p->ldy) * dopl_dtype_bytes(p->y_type);
        DOPL_TRY(dopl_cuda_alloc(rt, &w->y, bytes));
    }
    DOPL_TRY(dopl_cuda_alloc(rt, &w->workspace, WORKSPACE));
    DOPL_TRY(dopl_cuda_flush(rt)); // what makes the operands comes first
    DOPL_TRY(dopl_cuda_result(rt, cudaEventCreate(&w->start), "timing a product"));
    return dopl_cuda_result(rt, cudaEventCreate(&w->end), "timing a product");
}

// Milliseconds of one product; infinite where cuBLAS refuses after all.
static dopl_status time_one(dopl_rt *rt, const stopwatch *w, const request *r,
                            const dopl_cuda_product *p,
                            const cublasLtMatmulHeuristicResult_t *candidate, float *ms) {
    const dopl_cuda *cuda = dopl_cuda_of(rt);
    double work = 5e11 / (2.0 * (double)p->m * (double)p->n * (double)p->k);
    int repeat = work < 3 ? 3 : (work > 20 ? 20 : (int)work);
    *ms = 1e30f;
    cudaError_t e = cudaSuccess;
    for (int i = -1; !e && i < repeat; i++) { // the first, untimed, loads the kernel
        if (multiply(cuda, r, p, w->y, &candidate->algo, w->workspace, candidate->workspaceSize))
            return DOPL_OK;
        if (i < 0) e = cudaEventRecord(w->start, cuda->stream);
    }
    if (!e) e = cudaEventRecord(w->end, cuda->stream);
    if (!e) e = cudaEventSynchronize(w->end);
    if (!e) e = cudaEventElapsedTime(ms, w->start, w->end);
    return dopl_cuda_result(rt, e, "timing a product");
}

// The fastest of the candidates. The heuristic's first stays unless another is clearly faster.
static dopl_status fastest(dopl_rt *rt, const request *r, const dopl_cuda_product *p,
                           const cublasLtMatmulHeuristicResult_t *found, int n, int *best,
                           float *least) {
    stopwatch w;
    dopl_status status = stopwatch_init(rt, &w, p);
    *best = 0;
    *least = 0.0f;
    for (int i = 0; status == DOPL_OK && i < n; i++) {
        float ms;
        status = time_one(rt, &w, r, p, &found[i], &ms);
        if (i > 0 && ms >= 0.98f * *least) continue;
        *least = ms;
        *best = i;
    }
    stopwatch_release(rt, &w, p);
    return status;
}

static void remember_shape(choice *c, const dopl_cuda_product *p) {
    const int64_t shape[] = { p->m, p->n, p->k, p->lda, p->ldb, p->ldy };
    memcpy(c->shape, shape, sizeof shape);
}

// Fills `c` afresh; `timed`: by the clock, if there is memory for it.
static dopl_status choose(dopl_rt *rt, const request *r, const dopl_cuda_product *p, const kind *k,
                          bool timed, choice *c) {
    cublasLtMatmulHeuristicResult_t found[CANDIDATES] = { 0 }; // equal answers are equal bytes
    int n, best = 0;
    float ms = 0.0f;
    DOPL_TRY(candidates(rt, r, p, k, found, timed ? CANDIDATES : 1, &n));
    if (timed && n > 1) {
        dopl_status status = fastest(rt, r, p, found, n, &best, &ms);
        if (status != DOPL_OK && status != DOPL_ENOMEM) return status;
        if (status == DOPL_ENOMEM) best = 0; // for good: to ask again and again would cost more
    }
    *c = (choice){ .used = true, .none = n == 0, .kind = *k };
    remember_shape(c, p);
    if (n == 0) return DOPL_OK;
    c->algo = found[best].algo;
    c->workspace = found[best].workspaceSize;
    c->ms = ms;
    return DOPL_OK;
}

// What is done in two steps where cuBLAS has no algorithm for it as one.
static bool has_another_way(const dopl_cuda_product *p) {
    return p->gelu || p->bias_grad || (p->bias && p->beta == 0.0f);
}

// Whether what was found for another shape of the kind goes for this one; cuBLAS says what its
// algorithm needs.
static bool takes(const struct dopl_cuda_gemm *g, const request *r, const dopl_cuda_product *p,
                  choice *c) {
    const int64_t shape[] = { p->m, p->n, p->k, p->lda, p->ldb, p->ldy };
    if (memcmp(c->shape, shape, sizeof shape) == 0) return true;
    if (c->none) return has_another_way(p);
    if (!sums_all(&c->algo, p->k)) return false;
    cublasLtMatmulHeuristicResult_t need;
    cublasStatus_t s = cublasLtMatmulAlgoCheck(
        g->handle, (cublasLtMatmulDesc_t)&r->operation, (cublasLtMatrixLayout_t)&r->a,
        (cublasLtMatrixLayout_t)&r->b, (cublasLtMatrixLayout_t)&r->y, (cublasLtMatrixLayout_t)&r->y,
        &c->algo, &need);
    if (s != CUBLAS_STATUS_SUCCESS || need.workspaceSize > WORKSPACE) return false;
    c->workspace = need.workspaceSize;
    remember_shape(c, p);
    return true;
}

// The answer for the kind: for its rounded shape, or timed on the product at hand.
static dopl_status meet(dopl_rt *rt, const request *r, const dopl_cuda_product *p, const kind *k,
                        const dopl_cuda_product *whole, choice *c) {
    const struct dopl_cuda_gemm *g = dopl_cuda_of(rt)->gemm;
    request of_whole;
    if (g->timing) return choose(rt, r, p, k, true, c);
    DOPL_TRY(result(rt, put(&of_whole, whole, g->tf32), whole));
    return choose(rt, &of_whole, whole, k, false, c);
}

// *out is the table's, or `own` where the kind's algorithm does not take this shape.
static dopl_status find(dopl_rt *rt, const request *r, const dopl_cuda_product *p, choice *own,
                        choice **out) {
    struct dopl_cuda_gemm *g = dopl_cuda_of(rt)->gemm;
    dopl_cuda_product whole = rounded(p);
    kind k = kind_of(&whole);
    *out = look_up(g, &k);
    if (!(*out)->used) DOPL_TRY(meet(rt, r, p, &k, &whole, *out));
    if (takes(g, r, p, *out)) return DOPL_OK;
    *out = own;
    return choose(rt, r, p, &k, false, own);
}

// ---- telling what was found

bool dopl_cuda_gemm_tell(dopl_rt *rt, int64_t i, char *text, size_t bytes) {
    const choice *c = dopl_cuda_of(rt)->gemm->table, *end = c + TABLE;
    for (; c < end; c++)
        if (c->used && i-- == 0) break;
    if (c == end) return false;
    product_text what = describe_kind(&c->kind);
    if (c->none) {
        snprintf(text, bytes, "%s: none", what.s);
        return true;
    }
    int n = snprintf(text, bytes, "%s: algorithm %u, tile %u, stages %u, split %u, workspace %zu",
                     what.s, config(&c->algo, CUBLASLT_ALGO_CONFIG_ID),
                     config(&c->algo, CUBLASLT_ALGO_CONFIG_TILE_ID),
                     config(&c->algo, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                     config(&c->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM), c->workspace);
    if (c->ms > 0.0f && n < (int)bytes)
        snprintf(text + n, bytes - (size_t)n, ", %.3f ms", (double)c->ms);
    return true;
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
    request r;
    choice own, *c;
    DOPL_TRY(result(rt, put(&r, p, dopl_cuda_of(rt)->gemm->tf32), p));
    DOPL_TRY(find(rt, &r, p, &own, &c));
    *fits = !c->none;
    return DOPL_OK;
}

// A product that waits in the queue: no byte of it lies between fields.
typedef struct {
    request request;
    cublasLtMatmulAlgo_t algo;
    int64_t m, n, k;
    const void *a, *b;
    void *y, *workspace;
    size_t bytes;
    float alpha, beta;
} queued;

static dopl_status issue(dopl_rt *rt, const void *data) {
    const queued *q = data;
    const dopl_cuda_product p = { .m = q->m,
                                  .n = q->n,
                                  .k = q->k,
                                  .a = q->a,
                                  .b = q->b,
                                  .y = q->y,
                                  .alpha = q->alpha,
                                  .beta = q->beta };
    dopl_cuda_piece_begins(rt, NULL);
    cublasStatus_t s =
        multiply(dopl_cuda_of(rt), &q->request, &p, p.y, &q->algo, q->workspace, q->bytes);
    dopl_cuda_piece_ends(rt);
    return result(rt, s, &p);
}

dopl_status dopl_cuda_gemm(dopl_rt *rt, const dopl_cuda_product *p) {
    if (p->m == 0 || p->n == 0) return DOPL_OK;
    if (p->k == 0) return p->beta == 0.0f ? fill_rows(rt, p) : DOPL_OK; // nothing to add up
    request r;
    choice own, *c;
    DOPL_TRY(result(rt, put(&r, p, dopl_cuda_of(rt)->gemm->tf32), p));
    DOPL_TRY(find(rt, &r, p, &own, &c));
    if (c->none && p->bias && !p->gelu && p->beta == 0.0f) return bias_first(rt, p);
    if (c->none)
        return dopl_fail(rt, DOPL_EDEVICE, "%s: cuBLAS has no algorithm for it", describe(p).s);
    void *workspace = NULL;
    if (c->workspace) DOPL_TRY(dopl_cuda_alloc(rt, &workspace, c->workspace));
    if (dopl_cuda_timed(rt)) dopl_cuda_name_next(rt, describe_kind(&c->kind).s);
    queued *q = dopl_cuda_queue_work(rt, issue, sizeof *q);
    *q = (queued){ .request = r,
                   .algo = c->algo,
                   .m = p->m,
                   .n = p->n,
                   .k = p->k,
                   .a = p->a,
                   .b = p->b,
                   .y = p->y,
                   .workspace = workspace,
                   .bytes = c->workspace,
                   .alpha = p->alpha,
                   .beta = p->beta };
    dopl_cuda_free(rt, workspace);
    return dopl_cuda_launched(rt, dopl_cuda_of(rt)->sync ? describe(p).s : "product");
}

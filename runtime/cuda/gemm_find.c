// gemm_find.c - which of cuBLASLt's algorithms makes a product, found once for each shape.
//
// The library's heuristic names the algorithms worth trying; the first that will do, usually within
// a tenth of the best, is taken and remembered. To name them costs the host time, and token counts
// change from batch to batch: so the count is rounded up to eight steps an octave, the
// heuristic is asked for that, and the counts in between take its answer over where cuBLAS confirms
// that they can. Where it does not, the heuristic is asked for the very shape, whose answer is
// remembered too. Which count came first makes no difference: a run repeats to the bit, and so does
// one that goes on from a checkpoint. With DOPL_GEMM_TIMING=1 the first product of a kind times all
// that the heuristic names, on its own operands, and the fastest is remembered: which one wins can
// differ from run to run, and with it the last bits of a product.
#include "gemm.h"

#include <stdio.h>
#include <string.h>

enum { PROBES = 8 };  // places where a kind can be
#define REFUSED 1e30f // milliseconds of what does not run

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

static dopl_gemm_kind kind_of(const dopl_cuda_product *p) {
    int64_t size = (int64_t)dopl_dtype_bytes(p->type);
    int64_t y_size = (int64_t)dopl_dtype_bytes(p->y_type);
    dopl_gemm_kind k;
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

dopl_gemm_text dopl_gemm_describe_kind(const dopl_gemm_kind *k) {
    static const char *const gelu[] = { "", " and GELU", " times the slope of GELU" };
    dopl_gemm_text t;
    snprintf(t.s, sizeof t.s, "product [%lld, %lld] x [%lld, %lld] of %s into %s%s%s",
             (long long)k->m, (long long)k->k, (long long)k->k, (long long)k->n,
             dopl_dtype_name(k->type), dopl_dtype_name(k->y_type),
             k->bias ? " with bias" : (k->bias_grad ? " with row sums" : ""), gelu[k->gelu]);
    return t;
}

dopl_gemm_text dopl_gemm_describe(const dopl_cuda_product *p) {
    dopl_gemm_kind k = kind_of(p);
    return dopl_gemm_describe_kind(&k);
}

// The entry of a kind: where the table has none, one to fill, or where `peek` NULL.
static dopl_gemm_choice *look_up(struct dopl_cuda_gemm *g, const dopl_gemm_kind *k, bool peek) {
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
    for (size_t i = 0; i < sizeof *k; i++) hash = (hash ^ ((const uint8_t *)k)[i]) * 0x100000001b3u;
    hash ^= hash >> 32;
    for (uint64_t i = 0; i < PROBES; i++) {
        dopl_gemm_choice *c = &g->table[(hash + i) % DOPL_GEMM_KINDS];
        if (c->used && memcmp(&c->kind, k, sizeof *k) == 0) return c;
        if (!c->used) return peek ? NULL : c;
    }
    if (peek) return NULL;
    dopl_gemm_choice *c = &g->table[hash % DOPL_GEMM_KINDS]; // full here: the oldest goes
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

static cublasStatus_t put_preference(cublasLtMatmulPreferenceOpaque_t *preference,
                                     const dopl_gemm_kind *k, uint64_t most) {
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
static bool has_gelu(const dopl_gemm_kind *k, int arch) {
    return arch >= 90 && k->type == DOPL_BF16 && k->y_type == DOPL_BF16 &&
           (!k->pre || k->align_pre >= 4);
}

// The heuristic is told the alignment of matrices only. It knows nothing of a bias's, or of row
// sums', and may name a kernel that moves 16 bytes of them at a time. Such a kernel faults on a
// lesser alignment, and the process loses its device.
static bool bias_is_aligned(const dopl_gemm_kind *k) {
    return !(k->bias || k->bias_grad) || k->align_bias >= 4;
}

// Whether cuBLAS is to be asked at all.
static bool may_fit(const dopl_gemm_kind *k, int arch) {
    return bias_is_aligned(k) && (!k->gelu || has_gelu(k, arch));
}

// Whether an algorithm that the heuristic names will do. A bf16 product that is made in parts is
// rounded to bf16 before its bias is added, and where the two cancel that error is what remains.
static bool will_do(const cublasLtMatmulHeuristicResult_t *r, const dopl_gemm_kind *k,
                    int64_t terms) {
    bool parts = config(&r->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) > 1;
    return r->state == CUBLAS_STATUS_SUCCESS && sums_all(&r->algo, terms) &&
           !(parts && k->bias && k->type == DOPL_BF16);
}

// The candidates that will do and have a workspace of so many bytes at most, best guess first;
// *any: whether cuBLAS named one, good or not.
static dopl_status ask(dopl_rt *rt, const dopl_gemm_request *r, const dopl_cuda_product *p,
                       const dopl_gemm_kind *k, uint64_t workspace,
                       cublasLtMatmulHeuristicResult_t *found, int *n, bool *any) {
    cublasLtMatmulPreferenceOpaque_t preference;
    int named = 0;
    *n = 0;
    *any = false;
    DOPL_TRY(dopl_gemm_result(rt, put_preference(&preference, k, workspace), p));
    cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(
        dopl_cuda_of(rt)->gemm->handle, (cublasLtMatmulDesc_t)&r->operation,
        (cublasLtMatrixLayout_t)&r->a, (cublasLtMatrixLayout_t)&r->b, (cublasLtMatrixLayout_t)&r->y,
        (cublasLtMatrixLayout_t)&r->y, &preference, DOPL_GEMM_CANDIDATES, found, &named);
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE) return DOPL_OK;
    DOPL_TRY(dopl_gemm_result(rt, s, p));
    *any = named > 0;
    for (int i = 0; i < named; i++)
        if (will_do(&found[i], k, p->k)) found[(*n)++] = found[i];
    return DOPL_OK;
}

static dopl_status candidates(dopl_rt *rt, const dopl_gemm_request *r, const dopl_cuda_product *p,
                              const dopl_gemm_kind *k, cublasLtMatmulHeuristicResult_t *found,
                              int *n) {
    bool any;
    *n = 0;
    if (!may_fit(k, dopl_cuda_of(rt)->arch)) return DOPL_OK;
    DOPL_TRY(ask(rt, r, p, k, DOPL_GEMM_WORKSPACE, found, n, &any));
    if (*n > 0 || !any) return DOPL_OK;
    return ask(rt, r, p, k, 0, found, n, &any); // parts would need one: sums in one piece
}

dopl_status dopl_gemm_candidates(dopl_rt *rt, const dopl_gemm_request *r,
                                 const dopl_cuda_product *p, cublasLtMatmulHeuristicResult_t *found,
                                 int *n) {
    dopl_gemm_kind k = kind_of(p);
    return candidates(rt, r, p, &k, found, n);
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
    DOPL_TRY(dopl_cuda_alloc(rt, &w->workspace, DOPL_GEMM_WORKSPACE));
    DOPL_TRY(dopl_cuda_flush(rt)); // what makes the operands comes first
    DOPL_TRY(dopl_cuda_result(rt, cudaEventCreate(&w->start), "timing a product"));
    return dopl_cuda_result(rt, cudaEventCreate(&w->end), "timing a product");
}

// Milliseconds of one product; infinite where cuBLAS refuses after all.
static dopl_status time_one(dopl_rt *rt, const stopwatch *w, const dopl_gemm_request *r,
                            const dopl_cuda_product *p,
                            const cublasLtMatmulHeuristicResult_t *candidate, float *ms) {
    const dopl_cuda *cuda = dopl_cuda_of(rt);
    double work = 5e11 / (2.0 * (double)p->m * (double)p->n * (double)p->k);
    int repeat = work < 3 ? 3 : (work > 20 ? 20 : (int)work);
    *ms = REFUSED;
    cudaError_t e = cudaSuccess;
    for (int i = -1; !e && i < repeat; i++) { // the first, untimed, loads the kernel
        if (dopl_gemm_multiply(cuda, r, p, w->y, &candidate->algo, w->workspace,
                               candidate->workspaceSize))
            return DOPL_OK;
        if (i < 0) e = cudaEventRecord(w->start, cuda->stream);
    }
    if (!e) e = cudaEventRecord(w->end, cuda->stream);
    if (!e) e = cudaEventSynchronize(w->end);
    if (!e) e = cudaEventElapsedTime(ms, w->start, w->end);
    return dopl_cuda_result(rt, e, "timing a product");
}

// The fastest of the candidates. The heuristic's first stays unless another is clearly faster.
static dopl_status fastest(dopl_rt *rt, const dopl_gemm_request *r, const dopl_cuda_product *p,
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

static bool is_of_shape(const dopl_gemm_choice *c, const dopl_cuda_product *p) {
    const int64_t shape[] = { p->m, p->n, p->k, p->lda, p->ldb, p->ldy };
    return memcmp(c->shape, shape, sizeof shape) == 0;
}

static void remember_shape(dopl_gemm_choice *c, const dopl_cuda_product *p) {
    const int64_t shape[] = { p->m, p->n, p->k, p->lda, p->ldb, p->ldy };
    memcpy(c->shape, shape, sizeof shape);
}

// Fills `c` afresh; `timed`: by the clock, if there is memory for it.
static dopl_status choose(dopl_rt *rt, const dopl_gemm_request *r, const dopl_cuda_product *p,
                          const dopl_gemm_kind *k, bool timed, dopl_gemm_choice *c) {
    // equal answers are equal bytes
    cublasLtMatmulHeuristicResult_t found[DOPL_GEMM_CANDIDATES] = { 0 };
    int n, best = 0;
    float ms = 0.0f;
    DOPL_TRY(candidates(rt, r, p, k, found, &n));
    if (timed && n > 1) {
        dopl_status status = fastest(rt, r, p, found, n, &best, &ms);
        if (status != DOPL_OK && status != DOPL_ENOMEM) return status;
        if (status == DOPL_ENOMEM) best = 0; // for good: to ask again and again would cost more
    }
    *c = (dopl_gemm_choice){ .used = true, .none = n == 0, .refused = ms >= REFUSED, .kind = *k };
    remember_shape(c, p);
    if (n == 0) return DOPL_OK;
    c->algo = found[best].algo;
    c->workspace = found[best].workspaceSize;
    c->ms = ms < REFUSED ? ms : 0.0f;
    return DOPL_OK;
}

// What is done in two steps where cuBLAS has no algorithm for it as one.
static bool has_another_way(const dopl_cuda_product *p) {
    return p->gelu || p->bias_grad || (p->bias && p->beta == 0.0f);
}

// Whether what was found for another shape of the kind goes for this one; cuBLAS says what its
// algorithm needs.
static bool takes(const struct dopl_cuda_gemm *g, const dopl_gemm_request *r,
                  const dopl_cuda_product *p, dopl_gemm_choice *c) {
    if (is_of_shape(c, p)) return true;
    if (c->none) return has_another_way(p);
    if (c->refused || !sums_all(&c->algo, p->k)) return false;
    cublasLtMatmulHeuristicResult_t need;
    cublasStatus_t s = cublasLtMatmulAlgoCheck(
        g->handle, (cublasLtMatmulDesc_t)&r->operation, (cublasLtMatrixLayout_t)&r->a,
        (cublasLtMatrixLayout_t)&r->b, (cublasLtMatrixLayout_t)&r->y, (cublasLtMatrixLayout_t)&r->y,
        &c->algo, &need);
    if (s != CUBLAS_STATUS_SUCCESS || need.workspaceSize > DOPL_GEMM_WORKSPACE) return false;
    c->workspace = need.workspaceSize;
    remember_shape(c, p);
    return true;
}

// The answer for the kind: for its rounded shape, or timed on the product at hand.
static dopl_status meet(dopl_rt *rt, const dopl_gemm_request *r, const dopl_cuda_product *p,
                        const dopl_gemm_kind *k, const dopl_cuda_product *whole,
                        dopl_gemm_choice *c) {
    dopl_gemm_request of_whole;
    if (dopl_cuda_of(rt)->gemm->timing) return choose(rt, r, p, k, true, c);
    DOPL_TRY(dopl_gemm_request_init(rt, &of_whole, whole));
    return choose(rt, &of_whole, whole, k, false, c);
}

static dopl_gemm_kind exact_kind_of(const dopl_cuda_product *p) {
    dopl_gemm_kind k = kind_of(p);
    k.exact = 1;
    return k;
}

dopl_status dopl_gemm_find(dopl_rt *rt, const dopl_gemm_request *r, const dopl_cuda_product *p,
                           const dopl_gemm_choice **out) {
    struct dopl_cuda_gemm *g = dopl_cuda_of(rt)->gemm;
    dopl_gemm_kind exact = exact_kind_of(p);
    dopl_gemm_choice *c = g->has_exact ? look_up(g, &exact, true) : NULL;
    *out = c;
    if (c && is_of_shape(c, p)) return DOPL_OK;
    dopl_cuda_product whole = rounded(p);
    dopl_gemm_kind k = kind_of(&whole);
    *out = c = look_up(g, &k, false);
    if (!c->used) DOPL_TRY(meet(rt, r, p, &k, &whole, c));
    if (takes(g, r, p, c)) return DOPL_OK;
    *out = c = look_up(g, &exact, false);
    g->has_exact = true;
    return choose(rt, r, p, &exact, false, c);
}

void dopl_gemm_was_refused(dopl_rt *rt, const dopl_cuda_product *p,
                           const cublasLtMatmulHeuristicResult_t *instead) {
    struct dopl_cuda_gemm *g = dopl_cuda_of(rt)->gemm;
    dopl_gemm_kind exact = exact_kind_of(p);
    dopl_gemm_choice *c = look_up(g, &exact, false);
    *c = (dopl_gemm_choice){ .used = true, .refused = !instead, .kind = exact };
    remember_shape(c, p);
    g->has_exact = true;
    if (!instead) return;
    c->algo = instead->algo;
    c->workspace = instead->workspaceSize;
}

// ---- telling what was found

bool dopl_cuda_gemm_tell(dopl_rt *rt, int64_t i, char *text, size_t bytes) {
    const dopl_gemm_choice *c = dopl_cuda_of(rt)->gemm->table, *end = c + DOPL_GEMM_KINDS;
    for (; c < end; c++)
        if (c->used && i-- == 0) break;
    if (c == end) return false;
    dopl_gemm_text what = dopl_gemm_describe_kind(&c->kind);
    if (c->none || c->refused) {
        snprintf(text, bytes, "%s: %s", what.s, c->none ? "none" : "refused by cuBLAS");
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

// cuda_source.c - writes a pass as one CUDA kernel.
//
// A warp takes a tile of 256 elements: a block of the codec, so that its scale is a maximum over
// the warp. A lane has eight elements of it, four at 4 lane and four at 128 + 4 lane: two 16-byte
// accesses an f32 operand, all lanes of an access side by side. Everything an element goes through
// happens in registers: operands are read when the tile begins and written when it ends, once each.
// Loads come first, with no branch between them, so that as many bytes as possible are on their way
// at a time: the pass is bound by memory (an AdamW step moves 28 bytes an element for some 30
// operations). A tile that is short, or not aligned, differs only in how it is read and written:
// what lies between is there once, which halves the time to compile.
//
// What is not memory is to stay well below it: with 8-bit states a multiprocessor has time for some
// 110 instructions an element. So nothing branches but on what a whole tile has in common, codes
// are packed by byte permutations, and the codec's tables lie in shared memory, values 16 times.
// The arithmetic is that of codec.c, rounding.h and optim.def, so that codes and roundings are the
// CPU's. What is the same in every pass is in kernels/optim/pass*.cuh.
#include "cuda_source.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prelude[] =
#include "kernels/optim/pass.cuh.inc"
    ;

static const char codec_functions[] =
#include "kernels/optim/pass_codec.cuh.inc"
    ;

static const char half_functions[] =
#include "kernels/optim/pass_bf16.cuh.inc"
    ;

__attribute__((format(printf, 2, 3))) static void put(FILE *f, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// ---- tables and primitives, those that the program uses

static void write_words(FILE *f, const float *x, int n) {
    for (int i = 0; i < n; i++)
        put(f, "%s0x%08xu,", i % 8 ? " " : "\n    ", (unsigned)bits_of(x[i]));
}

static void write_codec(FILE *f, dopl_codec_id id) {
    const dopl_codec *q = dopl_codec_get(id);
    float slope[16];
    memcpy(slope, q->slope, sizeof slope);
    slope[15] = 0x1p20f; // whatever its shift, it reaches its last rank
    put(f, "\n__constant__ const u32 %s_words[304] = {", dopl_codec_name(id));
    write_words(f, q->value, 256);
    write_words(f, q->join, 16);
    write_words(f, slope, 16);
    write_words(f, q->last, 16);
    put(f, "\n};\n");
}

static void write_primitive(FILE *f, const dopl_prim *prim) {
    put(f, "FN float prim_%s(", prim->name);
    for (int i = 0; i < prim->n_tile; i++) put(f, "%sfloat %c", i ? ", " : "", 'a' + i);
    for (int i = 0; i < prim->n_scalar; i++) put(f, ", float k%d", i);
    put(f, ") { return %s; }\n", prim->text);
}

static bool is_arithmetic(int op) {
    return op < DOPL_PRIM_load8;
}

static bool has_kind(const dopl_program *p, dopl_operand_kind kind) {
    for (int s = 0; s < p->n_operand; s++)
        if (p->touched[s] && p->kind[s] == kind) return true;
    return false;
}

static void write_parts(FILE *f, const dopl_program *p) {
    bool used[DOPL_N_PRIM] = { false };
    for (int i = 0; i < p->n_instr; i++) used[p->instr[i].op] = true;
    bool q8 = has_kind(p, DOPL_OPERAND_Q8), u8 = has_kind(p, DOPL_OPERAND_U8);
    if (q8 || u8) {
        put(f, "#define RISE as_float(0x%08xu)\n", (unsigned)bits_of(4.0f / 9));
        put(f, "#define SIGNED_START as_float(0x%08xu)\n", (unsigned)bits_of(2.0f / 9));
        put(f, "#define UNSIGNED_START as_float(0x%08xu)\n", (unsigned)bits_of(-1.0f / 3));
        fputs(codec_functions, f);
    }
    if (q8) write_codec(f, DOPL_CODEC_Q8);
    if (u8) write_codec(f, DOPL_CODEC_U8);
    if (has_kind(p, DOPL_OPERAND_BF16)) fputs(half_functions, f);
    put(f, "\n");
    for (int op = 0; op < DOPL_N_PRIM; op++)
        if (used[op] && is_arithmetic(op)) write_primitive(f, &dopl_prim_table[op]);
}

// ---- the body of a tile

// A place's registers: r3 for a temporary, s2 for an operand.
static void write_place(FILE *f, const dopl_program *p, int place) {
    if (place < p->n_reg)
        put(f, "r%d", place);
    else
        put(f, "s%d", place - p->n_reg);
}

// Whether the tile of operand s comes from memory: something reads it before anything writes it.
static bool is_loaded(const dopl_program *p, int s) {
    for (int i = 0; i < p->n_instr; i++) {
        const dopl_instr *in = &p->instr[i];
        for (int j = 0; j < dopl_prim_table[in->op].n_tile; j++)
            if (in->in[j] == p->n_reg + s) return true;
        if (in->y == p->n_reg + s) return false;
    }
    return false;
}

static bool is_coded(const dopl_program *p, int s) {
    return p->kind[s] == DOPL_OPERAND_Q8 || p->kind[s] == DOPL_OPERAND_U8;
}

// Where operands lie, and registers for all that a tile has.
static void write_registers(FILE *f, const dopl_program *p) {
    static const char *const types[] = { "float", "u8", "u8", "u16" };
    for (int s = 0; s < p->n_operand; s++) {
        if (!p->touched[s]) continue;
        const char *type = types[p->kind[s]];
        put(f, "    %s *p%d = (%s *)job[HEAD + %d] + first;\n", type, s, type, s);
        if (!is_coded(p, s)) {
            put(f, p->kind[s] == DOPL_OPERAND_F32 ? "    float s%d[E];\n" : "    halves s%d;\n", s);
            continue;
        }
        put(f, "    float *scale%d = (float *)job[HEAD + N + %d] + tile;\n", s, s);
        if (is_loaded(p, s)) put(f, "    const float scale_of%d = *scale%d;\n", s, s);
        put(f, "    codes s%d, c%d;\n", s, s);
    }
    for (int r = 0; r < p->n_reg; r++) put(f, "%sr%d[E]", r ? ", " : "    float ", r);
    if (p->n_reg) put(f, ";\n");
}

static void write_loads(FILE *f, const dopl_program *p, const char *full) {
    static const char *const loads[] = { "load", "load_codes", "load_codes", "load_halves" };
    for (int s = 0; s < p->n_operand; s++)
        if (p->touched[s] && is_loaded(p, s))
            put(f, "        %s<%s>(s%d, p%d, left);\n", loads[p->kind[s]], full, s, s);
}

static void write_stores(FILE *f, const dopl_program *p, const char *full) {
    static const char *const stores[] = { "store", "store_codes", "store_codes", "store_halves" };
    for (int s = 0; s < p->n_operand; s++)
        if (p->written[s])
            put(f, "        %s<%s>(p%d, %c%d, left);\n", stores[p->kind[s]], full, s,
                is_coded(p, s) ? 'c' : 's', s);
}

static const char *codec_of(const dopl_program *p, int s) {
    return p->kind[s] == DOPL_OPERAND_Q8 ? "codec_q8" : "codec_u8";
}

static void write_instr(FILE *f, const dopl_program *p, const dopl_instr *in) {
    int from = in->in[0] - p->n_reg, to = in->y - p->n_reg;
    const dopl_prim *prim = &dopl_prim_table[in->op];
    put(f, "    ");
    switch (in->op) {
    case DOPL_PRIM_load8:
        put(f, "decode(");
        write_place(f, p, in->y);
        put(f, ", s%d, scale_of%d, %s, lane);\n", from, from, codec_of(p, from));
        return;
    case DOPL_PRIM_load16:
        put(f, "widen(");
        write_place(f, p, in->y);
        put(f, ", s%d);\n", from);
        return;
    case DOPL_PRIM_store8:
        put(f, "encode<%s>(c%d, scale%d, ", p->kind[to] == DOPL_OPERAND_Q8 ? "true" : "false", to,
            to);
        write_place(f, p, in->in[0]);
        put(f, ", as_float(0x%08xu), %s, lane, left, whole);\n",
            (unsigned)bits_of(dopl_codec_get((dopl_codec_id)(p->kind[to] - DOPL_OPERAND_Q8))->unit),
            codec_of(p, to));
        return;
    case DOPL_PRIM_store16:
    case DOPL_PRIM_stochastic16:
        put(f, "%s(s%d, ", in->op == DOPL_PRIM_store16 ? "round_nearest" : "round_stochastic", to);
        write_place(f, p, in->in[0]);
        if (in->op == DOPL_PRIM_stochastic16)
            put(f, ", job[HEAD + 2 * N + %d], (u32)tile, lane", to);
        put(f, ");\n");
        return;
    default:
        break;
    }
    put(f, "EACH ");
    write_place(f, p, in->y);
    put(f, "[i] = prim_%s(", prim->name);
    for (int j = 0; j < prim->n_tile; j++) {
        put(f, "%s", j ? ", " : "");
        write_place(f, p, in->in[j]);
        put(f, "[i]");
    }
    for (int j = 0; j < prim->n_scalar; j++) put(f, ", s.k[%d]", in->k[j]);
    put(f, ");\n");
}

// ---- the kernel

static void write_kernel(FILE *f, const dopl_program *p) {
    bool q8 = has_kind(p, DOPL_OPERAND_Q8), u8 = has_kind(p, DOPL_OPERAND_U8);
    put(f, "\nstruct scalars { float k[%d]; };\n", p->n_scalar ? p->n_scalar : 1);
    put(f, "enum { HEAD = %d, N = %d, WORDS = %d };\n", DOPL_CUDA_JOB_HEAD, p->n_operand,
        dopl_cuda_job_words(p));
    put(f,
        "\nFN void run_tile(const u64 *job, u64 tile, bool whole, int lane, int left, float clip, "
        "const scalars &s");
    if (q8) put(f, ", const codec &codec_q8");
    if (u8) put(f, ", const codec &codec_u8");
    put(f, ") {\n"
           "    const bool full = whole && job[2];\n"
           "    const u64 first = tile * TILE + 4 * (u32)lane; // element of this lane\n"
           "    (void)clip, (void)s;\n");
    write_registers(f, p);
    put(f, "    if (full) {\n");
    write_loads(f, p, "true");
    put(f, "    } else {\n");
    write_loads(f, p, "false");
    put(f, "    }\n");
    if (p->has_grad && is_loaded(p, 1)) put(f, "    EACH s1[i] *= clip;\n");
    for (int i = 0; i < p->n_instr; i++) write_instr(f, p, &p->instr[i]);
    put(f, "    if (full) {\n");
    write_stores(f, p, "true");
    put(f, "    } else {\n");
    write_stores(f, p, "false");
    put(f, "    }\n}\n");
    // the 1: without it ptxas keeps to fewer registers than some passes need, and spills a few
    put(f,
        "\nextern \"C\" __global__ void __launch_bounds__(%d, 1)\n"
        "dopl_pass(const u64 *jobs, int n_job, u64 n_tile, const float *clip_at, scalars s) {\n",
        DOPL_CUDA_THREADS);
    if (q8) put(f, "    __shared__ codec codec_q8;\n    fill(codec_q8, q8_words);\n");
    if (u8) put(f, "    __shared__ codec codec_u8;\n    fill(codec_u8, u8_words);\n");
    if (q8 || u8) put(f, "    __syncthreads();\n");
    put(f,
        "    float clip = clip_at ? *clip_at : 1.0f;\n"
        "    if (clip != clip) return;\n"
        "    const int lane = (int)threadIdx.x %% 32;\n"
        "    const u64 warps = (u64)gridDim.x * (blockDim.x / 32);\n"
        "    u64 t = (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;\n"
        "    const u64 *job = jobs, *last = jobs + (u64)(n_job - 1) * WORDS;\n"
        "    for (; t < n_tile; t += warps) {\n"
        "        while (job < last && job[WORDS + 1] <= t) job += WORDS;\n"
        "        u64 tile = t - job[1], rest = job[0] - tile * TILE;\n"
        "        bool whole = rest >= TILE;\n"
        "        int left = (whole ? TILE : (int)rest) - 4 * lane;\n"
        "        run_tile(job, tile, whole, lane, left, clip, s%s%s);\n"
        "    }\n"
        "}\n",
        q8 ? ", codec_q8" : "", u8 ? ", codec_u8" : "");
}

dopl_status dopl_program_cuda_source(dopl_rt *rt, char **out, const dopl_program *p) {
    *out = NULL;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n); // the program's text grows as it is written
    if (f) {
        fputs(prelude, f);
        write_parts(f, p);
        write_kernel(f, p);
    }
    if (!f || fclose(f)) {
        free(text);
        return dopl_fail(rt, DOPL_ENOMEM, "optimizer program: no memory for its CUDA source");
    }
    dopl_status status = dopl_rt_alloc(rt, (void **)out, n + 1);
    if (status == DOPL_OK) memcpy(*out, text, n + 1);
    free(text);
    return status;
}

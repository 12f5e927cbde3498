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
// The codec's tables lie in shared memory. The arithmetic is that of codec.c, narrow.h and
// optim.def, so that codes and stochastic rounding are the CPU's.
#include "cuda_source.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prologue[] =
    "// One pass of an optimizer, generated. See runtime/optim/cuda_source.h.\n"
    "#define TILE 256\n"
    "#define E 8 // elements of a lane\n"
    "typedef unsigned char u8;\n"
    "typedef unsigned short u16;\n"
    "typedef unsigned int u32;\n"
    "typedef unsigned long long u64;\n"
    "#define EACH _Pragma(\"unroll\") for (int i = 0; i < E; i++)\n"
    "#define ROLL _Pragma(\"unroll 1\") for (int i = 0; i < E; i++)\n"
    "#define FN static __device__ __forceinline__\n"
    "\n"
    "FN int place(int lane, int i) { return (i >> 2) * 128 + 4 * lane + (i & 3); }\n"
    "\n"
    "template <bool full> FN void load(float (&x)[E], const float *p, int lane, int n) {\n"
    "    if (full) {\n"
    "        float4 a = *(const float4 *)(p + 4 * lane), b = *(const float4 *)(p + 128 + 4 * "
    "lane);\n"
    "        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;\n"
    "        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;\n"
    "    } else\n"
    "        EACH x[i] = place(lane, i) < n ? p[place(lane, i)] : 0.0f;\n"
    "}\n"
    "template <bool full> FN void store(float *p, const float (&x)[E], int lane, int n) {\n"
    "    if (full) {\n"
    "        *(float4 *)(p + 4 * lane) = make_float4(x[0], x[1], x[2], x[3]);\n"
    "        *(float4 *)(p + 128 + 4 * lane) = make_float4(x[4], x[5], x[6], x[7]);\n"
    "    } else\n"
    "        EACH if (place(lane, i) < n) p[place(lane, i)] = x[i];\n"
    "}\n";

static const char codec_functions[] =
    "\n"
    "struct codec { float value[256], slope[16], shift[16], last[16], join[16]; };\n"
    "FN float as_float(u32 bits) { return __uint_as_float(bits); }\n"
    "FN u32 as_bits(float x) { return __float_as_uint(x); }\n"
    "FN void fill(codec &q, const u32 *words) {\n"
    "    float *to = (float *)&q;\n"
    "    for (int i = (int)threadIdx.x; i < 320; i += (int)blockDim.x) to[i] = "
    "as_float(words[i]);\n"
    "}\n"
    "struct codes { u32 low, high; }; // a byte an element, the first the lowest\n"
    "FN u32 code(const codes &c, int i) { return (i < 4 ? c.low : c.high) >> 8 * (i & 3) & 255; }\n"
    "FN void put_code(codes &c, int i, u32 code) { (i < 4 ? c.low : c.high) |= code << 8 * (i & "
    "3); }\n"
    "template <bool full> FN void load_codes(codes &c, const u8 *p, int lane, int n) {\n"
    "    c.low = c.high = 0;\n"
    "    if (full) {\n"
    "        c.low = *(const u32 *)(p + 4 * lane);\n"
    "        c.high = *(const u32 *)(p + 128 + 4 * lane);\n"
    "    } else\n"
    "        ROLL if (place(lane, i) < n) put_code(c, i, p[place(lane, i)]);\n"
    "}\n"
    "template <bool full> FN void store_codes(u8 *p, const codes &c, int lane, int n) {\n"
    "    if (full) {\n"
    "        *(u32 *)(p + 4 * lane) = c.low;\n"
    "        *(u32 *)(p + 128 + 4 * lane) = c.high;\n"
    "    } else\n"
    "        ROLL if (place(lane, i) < n) p[place(lane, i)] = (u8)code(c, i);\n"
    "}\n"
    "FN void decode(float (&x)[E], const codes &c, float scale, const codec &q) {\n"
    "    EACH x[i] = q.value[code(c, i)] * scale;\n"
    "}\n"
    "template <bool is_signed> FN u32 code_of(float y, const codec &q) {\n"
    "    float a = is_signed ? fabsf(y) : y;\n"
    "    a = a > as_float(LEAST) ? a : as_float(LEAST);\n"
    "    u32 group = as_bits(a) >> 24 & 15;\n"
    "    group += a > q.join[group];\n"
    "    float rank = fmaf(a, q.slope[group], q.shift[group]);\n"
    "    rank = rank < q.last[group] ? rank : q.last[group];\n"
    "    if (!is_signed) return (u8)rank;\n"
    "    int code = 127 + (int)(as_bits(y) >> 31 ? -rank : rank);\n"
    "    return (u8)(code < 0 ? 0 : code);\n"
    "}\n"
    "template <bool is_signed>\n"
    "FN void encode(codes &c, float *scale, const float (&x)[E], float unit, const codec &q, int "
    "lane,\n"
    "               int n) {\n"
    "    float most = 0.0f;\n"
    "    EACH {\n"
    "        float a = place(lane, i) < n ? fabsf(x[i]) : 0.0f;\n"
    "        most = a > most ? a : most;\n"
    "    }\n"
    "    for (int other = 16; other; other >>= 1) {\n"
    "        float a = __shfl_xor_sync(0xffffffffu, most, other);\n"
    "        most = a > most ? a : most;\n"
    "    }\n"
    "    if (lane == 0) *scale = most;\n"
    "    float lift = most < as_float(0x0d800000u) ? as_float(0x71800000u) : 1.0f; // 2^-100, "
    "2^100\n"
    "    float inverse = most > 0.0f ? unit / (most * lift) : 0.0f;\n"
    "    c.low = c.high = 0;\n"
    "    EACH put_code(c, i, code_of<is_signed>(x[i] * lift * inverse, q));\n"
    "}\n";

static const char half_functions[] =
    "\n"
    "template <bool full> FN void load_halves(u16 (&h)[E], const u16 *p, int lane, int n) {\n"
    "    if (full) {\n"
    "        ushort4 a = *(const ushort4 *)(p + 4 * lane), b = *(const ushort4 *)(p + 128 + 4 * "
    "lane);\n"
    "        h[0] = a.x, h[1] = a.y, h[2] = a.z, h[3] = a.w;\n"
    "        h[4] = b.x, h[5] = b.y, h[6] = b.z, h[7] = b.w;\n"
    "    } else\n"
    "        EACH h[i] = place(lane, i) < n ? p[place(lane, i)] : 0;\n"
    "}\n"
    "template <bool full> FN void store_halves(u16 *p, const u16 (&h)[E], int lane, int n) {\n"
    "    if (full) {\n"
    "        *(ushort4 *)(p + 4 * lane) = make_ushort4(h[0], h[1], h[2], h[3]);\n"
    "        *(ushort4 *)(p + 128 + 4 * lane) = make_ushort4(h[4], h[5], h[6], h[7]);\n"
    "    } else\n"
    "        EACH if (place(lane, i) < n) p[place(lane, i)] = h[i];\n"
    "}\n"
    "FN void widen(float (&x)[E], const u16 (&h)[E]) {\n"
    "    EACH x[i] = __uint_as_float((u32)h[i] << 16);\n"
    "}\n"
    "FN void narrow(u16 (&h)[E], const float (&x)[E]) {\n"
    "    EACH {\n"
    "        u32 bits = __float_as_uint(x[i]);\n"
    "        h[i] = (u16)(x[i] == x[i] ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : bits >> 16 | "
    "0x40u);\n"
    "    }\n"
    "}\n"
    "FN u32 dither_word(u64 key, u32 pair) {\n"
    "    u32 x = pair ^ (u32)key;\n"
    "    x = (x ^ x >> 16) * 0x7feb352du;\n"
    "    x = (x ^ x >> 15 ^ (u32)(key >> 32)) * 0x846ca68bu;\n"
    "    return x ^ x >> 16;\n"
    "}\n"
    "FN void dither(u16 (&h)[E], const float (&x)[E], u64 key, u32 tile, int lane) {\n"
    "    EACH {\n"
    "        u32 word = dither_word(key, 128 * tile + (u32)place(lane, i & 3));\n"
    "        u32 extra = i < 4 ? word & 0xffffu : word >> 16;\n"
    "        h[i] = (u16)((__float_as_uint(x[i]) + (x[i] == x[i] ? extra : 0)) >> 16);\n"
    "    }\n"
    "}\n";

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
    put(f, "\n__constant__ const u32 %s_words[320] = {", dopl_codec_name(id));
    write_words(f, q->value, 256);
    write_words(f, q->slope, 16);
    write_words(f, q->shift, 16);
    write_words(f, q->last, 16);
    write_words(f, q->join, 16);
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
        put(f, "#define LEAST 0x%08xu\n", (unsigned)bits_of(DOPL_CODEC_LEAST));
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
            put(f, "    %s s%d[E];\n", type, s);
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
            put(f, "        %s<%s>(s%d, p%d, lane, n);\n", loads[p->kind[s]], full, s, s);
}

static void write_stores(FILE *f, const dopl_program *p, const char *full) {
    static const char *const stores[] = { "store", "store_codes", "store_codes", "store_halves" };
    for (int s = 0; s < p->n_operand; s++)
        if (p->written[s])
            put(f, "        %s<%s>(p%d, %c%d, lane, n);\n", stores[p->kind[s]], full, s,
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
        put(f, ", s%d, scale_of%d, %s);\n", from, from, codec_of(p, from));
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
        put(f, ", as_float(0x%08xu), %s, lane, n);\n",
            (unsigned)bits_of(dopl_codec_get((dopl_codec_id)(p->kind[to] - DOPL_OPERAND_Q8))->unit),
            codec_of(p, to));
        return;
    case DOPL_PRIM_store16:
    case DOPL_PRIM_dither16:
        put(f, "%s(s%d, ", in->op == DOPL_PRIM_store16 ? "narrow" : "dither", to);
        write_place(f, p, in->in[0]);
        if (in->op == DOPL_PRIM_dither16) put(f, ", job[HEAD + 2 * N + %d], (u32)tile, lane", to);
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
    put(f, "\nFN void run_tile(const u64 *job, u64 tile, int n, bool full, int lane, float clip, "
           "const scalars &s");
    if (q8) put(f, ", const codec &codec_q8");
    if (u8) put(f, ", const codec &codec_u8");
    put(f, ") {\n    const u64 first = tile * TILE;\n    (void)clip, (void)s;\n");
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
        "    for (; t < n_tile; t += warps) {\n"
        "        int lo = 0, hi = n_job - 1; // the last job that begins at t or before\n"
        "        while (lo < hi) {\n"
        "            int mid = (lo + hi + 1) / 2;\n"
        "            if (jobs[(u64)mid * WORDS + 1] <= t) lo = mid; else hi = mid - 1;\n"
        "        }\n"
        "        const u64 *job = jobs + (u64)lo * WORDS;\n"
        "        u64 tile = t - job[1], left = job[0] - tile * TILE;\n"
        "        int n = left < TILE ? (int)left : TILE;\n"
        "        run_tile(job, tile, n, n == TILE && job[2], lane, clip, s%s%s);\n"
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
        fputs(prologue, f);
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

// codec.c - the tables of the dynamic 8-bit type, and its portable codec.
//
// The values fall in seven decades below 1, each cut into equal cells whose centres are the values;
// a decade has twice the cells of the one below it (Dettmers, "8-bit approximations"). Ranks count
// magnitudes from 0. Let a decade start at the power of ten `edge`, with rank F; `slope` is its
// cells per unit. Then u = slope (a - edge) counts cells from the edge, and the rank of a is
//
//     floor(F + u)     for u > 0.2
//     floor(F + 5 u)   below: a cell of the decade below is a tenth as high, times two
//
// where 0.2 is the midpoint between the last value below the edge (u = -0.1) and the first above
// (u = 0.5); between the edge and 0.2 the lower line is held down, to stay at rank F - 1. So one
// line, with its edge, serves any range of magnitudes that holds one edge at most. Ranges of factor
// four do (eight bits of the float, less the sign, name one), once quotients are multiplied by
// `unit`: it takes the midpoint between the last value and 1 to the start of the top range.
// The line's floor is taken by rounding F - 1/2 + .. to the nearest, which a sign may precede.
//
// There is no product followed by a sum here, which some compilers would fuse: with the same
// roundings everywhere, every instruction set gives the same codes.
#include "codec.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static dopl_codec tables[DOPL_N_CODEC];
static pthread_once_t tables_built = PTHREAD_ONCE_INIT;

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

enum { DECADES = 7 };

static int cells_of(const dopl_codec *q, int decade) {
    return 1 << (q->is_signed ? decade : decade + 1);
}

static void fill_values(dopl_codec *q) {
    int n = 0;
    q->value[n++] = 0;
    q->value[n++] = 1;
    for (int e = 0; e < DECADES; e++) {
        int cells = cells_of(q, e);
        for (int j = 0; j < cells; j++) {
            double lo = 0.1 + 0.9 * j / cells, hi = 0.1 + 0.9 * (j + 1) / cells;
            float v = (float)(pow(10, e - 6) * (lo + hi) / 2);
            q->value[n++] = v;
            if (q->is_signed) q->value[n++] = -v;
        }
    }
    qsort(q->value, 256, sizeof q->value[0], by_value);
}

static double midpoint(const dopl_codec *q, int rank) {
    const float *v = q->value + q->zero_code + rank;
    return ((double)v[0] + (double)v[1]) / 2;
}

static void set_line(dopl_codec *q, int group, double edge, double slope, double first) {
    q->edge[group] = (float)(edge * q->unit);
    q->slope[group] = (float)(slope / q->unit);
    q->first[group] = (float)(first - 0.5);
}

static void fill_lines(dopl_codec *q) {
    const double smallest = midpoint(q, 0);
    q->unit = (float)(0.5 / midpoint(q, 254 - q->zero_code));
    for (int group = 0; group < 15; group++) {
        double lo = ldexp(0.5, 2 * (group - 15)) / q->unit, hi = 4 * lo;
        int e = DECADES - 1; // the decade under way at the group's end
        while (e > 0 && pow(10, e - 7) >= hi) e--;
        if (lo <= smallest) // 0 below the midpoint, rank 1 above it: any line whose join is there
            set_line(q, group, 0, DOPL_CODEC_JOIN / smallest, 1);
        else
            set_line(q, group, pow(10, e - 7), cells_of(q, e) / (0.9 * pow(10, e - 6)),
                     cells_of(q, e) - (q->is_signed ? 0 : 1));
    }
    set_line(q, 15, 0, 0.5, 255 - q->zero_code); // reads as 1: a constant
}

static void build(void) {
    for (int id = 0; id < DOPL_N_CODEC; id++) {
        dopl_codec *q = &tables[id];
        q->is_signed = id == DOPL_CODEC_Q8;
        q->zero_code = q->is_signed ? 127 : 0;
        fill_values(q);
        for (int c = 0; c < 256; c++)
            for (int p = 0; p < 4; p++) q->plane[p][c] = (uint8_t)(bits_of(q->value[c]) >> (8 * p));
        fill_lines(q);
    }
}

const dopl_codec *dopl_codec_get(dopl_codec_id id) {
    pthread_once(&tables_built, build);
    return &tables[id];
}

const char *dopl_codec_name(dopl_codec_id id) {
    static const char *const names[] = { [DOPL_CODEC_Q8] = "q8", [DOPL_CODEC_U8] = "u8" };
    return names[id];
}

// ---- the portable codec

#define INLINE static inline __attribute__((always_inline))

// `y`: a quotient times unit.
INLINE int code_of(const dopl_codec *q, bool is_signed, float y) {
    const float round = 0x1.8p23f; // adding it rounds to the nearest integer, in the low bits
    float a = is_signed ? fabsf(y) : y;
    a = a > DOPL_CODEC_LEAST ? a : DOPL_CODEC_LEAST; // NaN too
    uint32_t group = bits_of(a) >> 24 & 15;
    float u = (a - q->edge[group]) * q->slope[group];
    float lower = 5 * u < -0.5f ? 5 * u : -0.5f;
    float rank = q->first[group] + (u > DOPL_CODEC_JOIN ? u : lower);
    if (is_signed) rank = float_of(bits_of(rank) ^ (bits_of(y) & 0x80000000u));
    int code = (int)(bits_of(rank + round) - bits_of(round)) + (is_signed ? 127 : 0);
    return code < 0 ? 0 : code; // -1, which is no value
}

INLINE void encode(const dopl_codec *q, bool is_signed, uint8_t *codes, float *scales,
                   const float *x, int n) {
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        int end = b + DOPL_CODEC_BLOCK < n ? b + DOPL_CODEC_BLOCK : n;
        float scale = 0;
        for (int i = b; i < end; i++) {
            float a = fabsf(x[i]);
            scale = a > scale ? a : scale;
        }
        scales[b / DOPL_CODEC_BLOCK] = scale;
        // The reciprocal of a subnormal scale overflows; a power of two brings it back, exactly.
        float lift = scale < 0x1p-100f ? 0x1p100f : 1;
        float inverse = scale > 0 ? q->unit / (scale * lift) : 0;
        for (int i = b; i < end; i++)
            codes[i] = (uint8_t)code_of(q, is_signed, x[i] * lift * inverse);
    }
}

INLINE void decode(const dopl_codec *q, float *x, const uint8_t *codes, const float *scales,
                   int n) {
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        int end = b + DOPL_CODEC_BLOCK < n ? b + DOPL_CODEC_BLOCK : n;
        float scale = scales[b / DOPL_CODEC_BLOCK];
        for (int i = b; i < end; i++) x[i] = q->value[codes[i]] * scale;
    }
}

#define BUILD(set, TARGET)                                                                         \
    TARGET void dopl_encode_##set(const dopl_codec *q, uint8_t *restrict codes,                    \
                                  float *restrict scales, const float *restrict x, int n) {        \
        if (q->is_signed)                                                                          \
            encode(q, true, codes, scales, x, n);                                                  \
        else                                                                                       \
            encode(q, false, codes, scales, x, n);                                                 \
    }                                                                                              \
    TARGET void dopl_decode_##set(const dopl_codec *q, float *restrict x,                          \
                                  const uint8_t *restrict codes, const float *restrict scales,     \
                                  int n) {                                                         \
        decode(q, x, codes, scales, n);                                                            \
    }

BUILD(portable, )
#if defined(__x86_64__)
BUILD(avx2, __attribute__((target("arch=x86-64-v3"))))
#endif

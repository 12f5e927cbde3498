// codec.c - the tables of the dynamic 8-bit type, and its portable codec.
//
// The values fall in seven decades below 1, each cut into equal cells whose centres are the values;
// a decade has twice the cells of the one below it (Dettmers, "8-bit approximations"). Ranks count
// magnitudes from 0. Inside a decade the rank of a is the integer part of a line, slope a + shift.
// A decade's line holds up to a join, the midpoint of its last value and the next decade's first:
// beyond the decade's end, so it stops rising at its last rank.
//
// Which line it is takes no search. Magnitudes fall in groups, ranges of factor four, which eight
// bits of the float name; a group holds one join at most. So join[group] says whether its own line
// holds or the next group's, with which the next group starts. Quotients are multiplied by `unit`,
// which takes the midpoint below 1 to the start of the last group.
//
// The line is evaluated with one rounding, as a fused multiply-add has it, whatever the machine: in
// double the product is exact, and so is the sum of terms this close. So every instruction set
// gives the same codes.
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

enum { BOTTOM = -1, TOP = DECADES }; // the decades around the seven: what reads as 0, and as 1

// The midpoint between the last value of a decade and the first of the next.
static double decade_end(const dopl_codec *q, int e) {
    return midpoint(q, e == BOTTOM ? 0 : 2 * cells_of(q, e) - (q->is_signed ? 1 : 2));
}

static void set_line(dopl_codec *q, int group, int e) {
    if (e == BOTTOM || e == TOP) {
        q->slope[group] = 0;
        q->last[group] = q->shift[group] = e == BOTTOM ? 0.5f : 255.5f - q->zero_code;
    } else { // at the decade's start, 10^(e - 7), the line gives its first rank
        int cells = cells_of(q, e), first = q->is_signed ? cells : cells - 1;
        q->slope[group] = (float)(cells / (0.9 * pow(10, e - 6)) / q->unit);
        q->shift[group] = (float)(first - cells / 9.0);
        q->last[group] = (float)(first + cells - 0.5);
    }
}

static void fill_lines(dopl_codec *q) {
    q->unit = (float)(0.5 / decade_end(q, TOP - 1));
    int e = BOTTOM; // the decade under way
    for (int group = 0; group < 15; group++) {
        double join = decade_end(q, e) * q->unit, end = ldexp(0.5, 2 * (group - 14));
        bool joins = e < TOP - 1 && join < end;
        set_line(q, group, e);
        q->join[group] = joins ? (float)join : INFINITY;
        e += joins;
    }
    set_line(q, 15, TOP);
    q->join[15] = INFINITY;
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

// `y`: a quotient times unit. `fused`: the machine has a fused multiply-add.
INLINE uint8_t code_of(const dopl_codec *q, bool is_signed, bool fused, float y) {
    float a = is_signed ? fabsf(y) : y;
    a = a > DOPL_CODEC_LEAST ? a : DOPL_CODEC_LEAST; // NaN too
    uint32_t group = bits_of(a) >> 24 & 15;
    group += a > q->join[group];
    float slope = q->slope[group], shift = q->shift[group];
    float rank = fused ? __builtin_fmaf(a, slope, shift) : (float)((double)a * slope + shift);
    rank = rank < q->last[group] ? rank : q->last[group];
    if (!is_signed) return (uint8_t)rank;
    int code = 127 + (int)(bits_of(y) >> 31 ? -rank : rank);
    return code < 0 ? 0 : (uint8_t)code; // there is no -1
}

INLINE int block_end(int begin, int n) {
    return n - begin < DOPL_CODEC_BLOCK ? n : begin + DOPL_CODEC_BLOCK;
}

INLINE void scale(float *scales, const float *x, int n) {
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        float largest = 0;
        for (int i = b, end = block_end(b, n); i < end; i++) {
            float a = fabsf(x[i]);
            largest = a > largest ? a : largest;
        }
        scales[b / DOPL_CODEC_BLOCK] = largest;
    }
}

INLINE void encode(const dopl_codec *q, bool is_signed, bool fused, uint8_t *restrict codes,
                   const float *restrict scales, const float *restrict x, int n) {
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        float scale = scales[b / DOPL_CODEC_BLOCK];
        // The reciprocal of a subnormal scale overflows; a power of two brings it back, exactly.
        float lift = scale < 0x1p-100f ? 0x1p100f : 1;
        float inverse = scale > 0 ? q->unit / (scale * lift) : 0;
        for (int i = b, end = block_end(b, n); i < end; i++)
            codes[i] = code_of(q, is_signed, fused, x[i] * lift * inverse);
    }
}

INLINE void decode(const dopl_codec *q, float *restrict x, const uint8_t *restrict codes,
                   const float *restrict scales, int n) {
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        float scale = scales[b / DOPL_CODEC_BLOCK];
        for (int i = b, end = block_end(b, n); i < end; i++) x[i] = q->value[codes[i]] * scale;
    }
}

#define BUILD(set, TARGET, fused)                                                                  \
    TARGET void dopl_scale_##set(float *scales, const float *x, int n) {                           \
        scale(scales, x, n);                                                                       \
    }                                                                                              \
    TARGET void dopl_encode_##set(const dopl_codec *q, uint8_t *codes, const float *scales,        \
                                  const float *x, int n) {                                         \
        if (q->is_signed)                                                                          \
            encode(q, true, fused, codes, scales, x, n);                                           \
        else                                                                                       \
            encode(q, false, fused, codes, scales, x, n);                                          \
    }                                                                                              \
    TARGET void dopl_decode_##set(const dopl_codec *q, float *x, const uint8_t *codes,             \
                                  const float *scales, int n) {                                    \
        decode(q, x, codes, scales, n);                                                            \
    }

#if defined(__FP_FAST_FMAF)
BUILD(portable, , true)
#else
BUILD(portable, , false)
#endif
#if defined(__x86_64__)
BUILD(avx2, __attribute__((target("arch=x86-64-v3"))), true)
#endif

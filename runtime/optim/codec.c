// codec.c - the tables of the dynamic 8-bit type, and its portable codec.
//
// The 256 values fall in seven decades below 1, each cut into equal cells whose centres are the
// values; a decade has twice the cells of the one below it (Dettmers, "8-bit approximations"). The
// nearest value is found without a search: a key (sign, octave, eight mantissa bits) is narrower
// than any gap between values, so start[key] is either the code or one below it, and one comparison
// with the exact midpoint decides.
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

// The largest float that is not above the midpoint of two neighbours (exact in double).
static float midpoint_below(float lo, float hi) {
    double mid = ((double)lo + (double)hi) / 2;
    float f = (float)mid;
    return (double)f > mid ? nextafterf(f, -INFINITY) : f;
}

static void fill_values(dopl_codec *q) {
    int n = 0;
    q->value[n++] = 0;
    q->value[n++] = 1;
    for (int e = 0; e < 7; e++) {
        int cells = 1 << (q->is_signed ? e : e + 1);
        for (int j = 0; j < cells; j++) {
            double lo = 0.1 + 0.9 * j / cells, hi = 0.1 + 0.9 * (j + 1) / cells;
            float v = (float)(pow(10, e - 6) * (lo + hi) / 2);
            q->value[n++] = v;
            if (q->is_signed) q->value[n++] = -v;
        }
    }
    qsort(q->value, 256, sizeof q->value[0], by_value);
}

static uint8_t nearest(const dopl_codec *q, float y) {
    int c = 0;
    while (y > q->bound[c]) c++;
    return (uint8_t)c;
}

enum { FIRST_EXPONENT = 128 - DOPL_CODEC_OCTAVES }; // biased exponent of the first octave

static void fill_start(dopl_codec *q) {
    for (int key = 0; key < DOPL_CODEC_KEYS; key++) {
        uint32_t lo =
            ((uint32_t)FIRST_EXPONENT << 23) + ((uint32_t)key << (23 - DOPL_CODEC_MANTISSA));
        uint32_t hi = lo + (1u << (23 - DOPL_CODEC_MANTISSA)) - 1;
        q->start[0][key] = nearest(q, key == 0 ? 0 : float_of(lo));
        q->start[1][key] = nearest(q, -float_of(hi));
    }
}

enum { BOTTOM = -1, TOP = 7 }; // the decades around the seven: |y| that reads as 0, and as 1

// Rank of |y| in decade e: slope * |y| + shift, whose floor is the rank.
static void decade_line(const dopl_codec *q, int e, double *slope, double *shift) {
    double cells = ldexp(1, q->is_signed ? e : e + 1), first = q->is_signed ? cells : cells - 1;
    *slope = e == BOTTOM || e == TOP ? 0 : cells / (0.9 * pow(10, e - 6));
    *shift = e == BOTTOM ? 0.5 : e == TOP ? 255.5 - q->zero_code : first - *slope * pow(10, e - 7);
}

// The midpoint between the last value of decade e and the first of the next.
static double decade_end(const dopl_codec *q, int e) {
    int last = e == BOTTOM ? 0 : (1 << (q->is_signed ? e + 1 : e + 2)) - (q->is_signed ? 1 : 2);
    return q->bound[q->zero_code + last];
}

// Over a decade the code is a line in |y|. An octave touches at most two decades. The line of the
// upper one runs up to 0.2 of a code high between the power of ten and the midpoint where it takes
// over (codec_avx512.c lowers it there); at the ends, where 0 and 1 take over, a line is constant.
static void fill_lines(dopl_codec *q) {
    for (int i = 0; i < 32; i++) {
        double lo = ldexp(1, i - 31), hi = 2 * lo; // index: low 5 bits of the exponent
        int upper = BOTTOM; // the decade that is under way at the octave's end
        for (int e = 0; e <= TOP; e++)
            if (hi > (e == 0 || e == TOP ? decade_end(q, e - 1) : pow(10, e - 7))) upper = e;
        int lower = upper > BOTTOM && decade_end(q, upper - 1) > lo ? upper - 1 : upper;
        q->join[i] = lower < upper ? (float)decade_end(q, lower) : -1;
        for (int line = 0; line < 2; line++) {
            double slope, shift;
            decade_line(q, line ? upper : lower, &slope, &shift);
            q->slope[line][i] = (float)slope;
            q->shift[line][i] = (float)(shift - 0.5);
        }
    }
}

static void build(void) {
    for (int id = 0; id < DOPL_N_CODEC; id++) {
        dopl_codec *q = &tables[id];
        q->is_signed = id == DOPL_CODEC_Q8;
        q->zero_code = q->is_signed ? 127 : 0;
        fill_values(q);
        for (int c = 0; c < 255; c++) q->bound[c] = midpoint_below(q->value[c], q->value[c + 1]);
        q->bound[255] = INFINITY;
        for (int c = 0; c < 256; c++)
            for (int p = 0; p < 4; p++) q->plane[p][c] = (uint8_t)(bits_of(q->value[c]) >> (8 * p));
        fill_start(q);
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

uint8_t dopl_encode_one(const dopl_codec *q, float y) {
    uint32_t u = bits_of(y), magnitude = u & 0x7fffffffu;
    int key =
        (int)(magnitude >> (23 - DOPL_CODEC_MANTISSA)) - (FIRST_EXPONENT << DOPL_CODEC_MANTISSA);
    key = key < 0 ? 0 : key >= DOPL_CODEC_KEYS ? DOPL_CODEC_KEYS - 1 : key; // NaN lands here too
    uint8_t code = q->start[u >> 31][key];
    return (uint8_t)(code + (y > q->bound[code]));
}

void dopl_encode_portable(const dopl_codec *q, uint8_t *codes, float *scales, const float *x,
                          int n) {
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
        float inverse = scale > 0 ? 1 / (scale * lift) : 0;
        for (int i = b; i < end; i++) codes[i] = dopl_encode_one(q, x[i] * lift * inverse);
    }
}

void dopl_decode_portable(const dopl_codec *q, float *x, const uint8_t *codes, const float *scales,
                          int n) {
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        int end = b + DOPL_CODEC_BLOCK < n ? b + DOPL_CODEC_BLOCK : n;
        float scale = scales[b / DOPL_CODEC_BLOCK];
        for (int i = b; i < end; i++) x[i] = q->value[codes[i]] * scale;
    }
}

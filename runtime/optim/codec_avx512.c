// codec_avx512.c - the 8-bit codec with AVX-512 byte permutations, 64 elements at a time.
//
// A table of 256 floats is four planes of 256 bytes; vpermi2b looks 64 codes up in 128 of them, so
// eight permutations and four blends read 64 table entries, from registers; of the signed type,
// whose halves mirror each other, four permutations do. Unpacking the planes to floats leaves them
// in the order that packing ranks to bytes produced: [0 16 32 48] by quarters of 4, so codes are
// reordered once, where they touch memory. The sixteen lines that give ranks are a register for
// each of their numbers.
#include "codec.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VBMI                                                                                       \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,prefer-vector-width="     \
                          "512")))
#define INLINE VBMI static inline __attribute__((always_inline))

typedef struct {
    __m512i plane[4][4]; // [byte][quarter of the table]
} byte_table;

INLINE byte_table load_table(const uint8_t plane[4][256]) {
    byte_table t;
    for (int p = 0; p < 4; p++)
        for (int q = 0; q < 4; q++) t.plane[p][q] = _mm512_loadu_si512(plane[p] + 64 * q);
    return t;
}

// byte[0..3] of 64 floats to floats: out[q] element 4 l + j = byte 16 l + 4 q + j (l: 128-bit
// lane).
INLINE void join_planes(const __m512i byte[4], __m512 out[4]) {
    __m512i a = _mm512_unpacklo_epi8(byte[0], byte[1]), b = _mm512_unpackhi_epi8(byte[0], byte[1]);
    __m512i c = _mm512_unpacklo_epi8(byte[2], byte[3]), d = _mm512_unpackhi_epi8(byte[2], byte[3]);
    out[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, c));
    out[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, c));
    out[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(b, d));
    out[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(b, d));
}

INLINE void look_up(const byte_table *t, __m512i codes, __m512 out[4]) {
    __m512i byte[4];
    __mmask64 high = _mm512_movepi8_mask(codes);
    for (int p = 0; p < 4; p++) {
        __m512i lo = _mm512_permutex2var_epi8(t->plane[p][0], codes, t->plane[p][1]);
        __m512i hi = _mm512_permutex2var_epi8(t->plane[p][2], codes, t->plane[p][3]);
        byte[p] = _mm512_mask_blend_epi8(high, lo, hi);
    }
    join_planes(byte, out);
}

// The same for the signed type, from the half of the table that is positive: code 126 - i, below
// zero, has the value of code 128 + i with its sign changed; code 127 is zero.
INLINE void look_up_signed(const byte_table *t, __m512i codes, __m512 out[4]) {
    __m512i byte[4];
    const __m512i zero = _mm512_set1_epi8(127), sign = _mm512_set1_epi8(INT8_MIN);
    __mmask64 some = _mm512_cmpneq_epi8_mask(codes, zero);
    __mmask64 below = _mm512_testn_epi8_mask(codes, sign);
    __m512i i = _mm512_mask_sub_epi8(codes, below, _mm512_set1_epi8(126), codes);
    for (int p = 0; p < 4; p++)
        byte[p] = _mm512_maskz_permutex2var_epi8(some, t->plane[p][2], i, t->plane[p][3]);
    byte[3] = _mm512_mask_add_epi8(byte[3], below & some, byte[3], sign);
    join_planes(byte, out);
}

// dword d of memory order (elements 4 d .. 4 d + 3) sits at 4 (d % 4) + d / 4 of packed order
INLINE __m512i transpose(__m512i codes) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, codes);
}

INLINE void decode(const dopl_codec *q, bool is_signed, float *x, const uint8_t *codes,
                   const float *scales, int n) {
    const byte_table t = load_table(q->plane);
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512 scale = _mm512_set1_ps(scales[i / DOPL_CODEC_BLOCK]), v[4];
        __m512i c = transpose(_mm512_loadu_si512(codes + i));
        if (is_signed)
            look_up_signed(&t, c, v);
        else
            look_up(&t, c, v);
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(x + i + 16 * j, _mm512_mul_ps(v[j], scale));
    }
    for (; i < n; i++) x[i] = q->value[codes[i]] * scales[i / DOPL_CODEC_BLOCK];
}

VBMI void dopl_decode_avx512(const dopl_codec *q, float *x, const uint8_t *codes,
                             const float *scales, int n) {
    if (q->is_signed)
        decode(q, true, x, codes, scales, n);
    else
        decode(q, false, x, codes, scales, n);
}

enum { LARGER_MAGNITUDE = 3, WITHOUT_SIGN = 2 << 2 }; // what vrangeps is to give

// A NaN gives way to what is held.
INLINE __m512 larger(__m512 a, __m512 held) {
    return _mm512_range_ps(a, held, LARGER_MAGNITUDE | WITHOUT_SIGN);
}

VBMI void dopl_scale_avx512(float *scales, const float *x, int n) {
    int b = 0;
    for (; b + DOPL_CODEC_BLOCK <= n; b += DOPL_CODEC_BLOCK) {
        __m512 m[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                        _mm512_setzero_ps() };
        for (int i = 0; i < DOPL_CODEC_BLOCK; i += 64)
            for (int j = 0; j < 4; j++) m[j] = larger(_mm512_loadu_ps(x + b + i + 16 * j), m[j]);
        scales[b / DOPL_CODEC_BLOCK] =
            _mm512_reduce_max_ps(larger(larger(m[0], m[1]), larger(m[2], m[3])));
    }
    if (b < n) dopl_scale_portable(scales + b / DOPL_CODEC_BLOCK, x + b, n - b);
}

typedef struct {
    __m512 slope, shift, last, join;
} lines;

#define EACH for (int j = 0; j < 4; j++)

// As code_of() in codec.c, operation by operation. Four vectors go side by side: one alone is a
// chain of operations longer than the processor looks ahead.
INLINE void encode_64(const lines *l, bool is_signed, uint8_t *codes, const float *x,
                      __m512 inverse) {
    enum { XOR_WITH_AND = 0x78 };
    const __m512 least = _mm512_set1_ps(DOPL_CODEC_LEAST);
    const __m512i one = _mm512_set1_epi32(1), sign = _mm512_set1_epi32(INT32_MIN);
    __m512 y[4], a[4], join[4], slope[4], shift[4], last[4];
    __mmask16 above[4];
    __m512i r[4];
    EACH y[j] = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), inverse);
    EACH a[j] = is_signed ? larger(y[j], least) : _mm512_max_ps(y[j], least);
    EACH r[j] = _mm512_srli_epi32(_mm512_castps_si512(a[j]), 24); // a permutation takes 4 bits
    EACH join[j] = _mm512_permutexvar_ps(r[j], l->join);
    EACH above[j] = _mm512_cmp_ps_mask(a[j], join[j], _CMP_GT_OQ);
    EACH r[j] = _mm512_mask_add_epi32(r[j], above[j], r[j], one);
    EACH slope[j] = _mm512_permutexvar_ps(r[j], l->slope);
    EACH shift[j] = _mm512_permutexvar_ps(r[j], l->shift);
    EACH last[j] = _mm512_permutexvar_ps(r[j], l->last);
    EACH a[j] = _mm512_min_ps(_mm512_fmadd_ps(a[j], slope[j], shift[j]), last[j]);
    EACH r[j] = _mm512_castps_si512(a[j]);
    if (is_signed)
        EACH r[j] = _mm512_ternarylogic_epi32(r[j], _mm512_castps_si512(y[j]), sign, XOR_WITH_AND);
    EACH r[j] = _mm512_cvttps_epi32(_mm512_castsi512_ps(r[j]));
    __m512i lo = _mm512_packs_epi32(r[0], r[1]), hi = _mm512_packs_epi32(r[2], r[3]);
    if (is_signed) {
        lo = _mm512_add_epi16(lo, _mm512_set1_epi16(127));
        hi = _mm512_add_epi16(hi, _mm512_set1_epi16(127));
    }
    _mm512_storeu_si512(codes, transpose(_mm512_packus_epi16(lo, hi)));
}

INLINE void encode(const dopl_codec *q, bool is_signed, uint8_t *codes, const float *scales,
                   const float *x, int n) {
    const lines l = { _mm512_loadu_ps(q->slope), _mm512_loadu_ps(q->shift),
                      _mm512_loadu_ps(q->last), _mm512_loadu_ps(q->join) };
    for (int b = 0; b < n; b += DOPL_CODEC_BLOCK) {
        const float *scale = scales + b / DOPL_CODEC_BLOCK;
        int size = n - b < DOPL_CODEC_BLOCK ? n - b : DOPL_CODEC_BLOCK;
        if (size < DOPL_CODEC_BLOCK || *scale < 0x1p-100f) { // zeros; a reciprocal that overflows
            dopl_encode_portable(q, codes + b, scale, x + b, size);
            continue;
        }
        __m512 inverse = _mm512_set1_ps(q->unit / *scale);
        for (int i = b; i < b + DOPL_CODEC_BLOCK; i += 64)
            encode_64(&l, is_signed, codes + i, x + i, inverse);
    }
}

VBMI void dopl_encode_avx512(const dopl_codec *q, uint8_t *codes, const float *scales,
                             const float *x, int n) {
    if (q->is_signed)
        encode(q, true, codes, scales, x, n);
    else
        encode(q, false, codes, scales, x, n);
}
#endif

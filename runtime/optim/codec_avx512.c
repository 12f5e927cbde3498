// codec_avx512.c - the 8-bit codec with AVX-512 byte permutations, 64 elements at a time.
//
// A table of 256 floats is four planes of 256 bytes; vpermi2b looks 64 codes up in 128 of them, so
// eight permutations and four blends read 64 table entries, from registers. Unpacking the planes to
// floats leaves them in the order that packing ranks to bytes produced: [0 16 32 48] by quarters of
// 4, so codes are reordered once, where they touch memory. The sixteen lines that give ranks are a
// register for each of their numbers.
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

// out[q] element 4 l + j = the entry of byte 16 l + 4 q + j of `codes` (l: 128-bit lane).
INLINE void look_up(const byte_table *t, __m512i codes, __m512 out[4]) {
    __m512i byte[4];
    __mmask64 high = _mm512_movepi8_mask(codes);
    for (int p = 0; p < 4; p++) {
        __m512i lo = _mm512_permutex2var_epi8(t->plane[p][0], codes, t->plane[p][1]);
        __m512i hi = _mm512_permutex2var_epi8(t->plane[p][2], codes, t->plane[p][3]);
        byte[p] = _mm512_mask_blend_epi8(high, lo, hi);
    }
    __m512i a = _mm512_unpacklo_epi8(byte[0], byte[1]), b = _mm512_unpackhi_epi8(byte[0], byte[1]);
    __m512i c = _mm512_unpacklo_epi8(byte[2], byte[3]), d = _mm512_unpackhi_epi8(byte[2], byte[3]);
    out[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, c));
    out[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, c));
    out[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(b, d));
    out[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(b, d));
}

// dword d of memory order (elements 4 d .. 4 d + 3) sits at 4 (d % 4) + d / 4 of packed order
INLINE __m512i transpose(__m512i codes) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, codes);
}

VBMI void dopl_decode_avx512(const dopl_codec *q, float *x, const uint8_t *codes,
                             const float *scales, int n) {
    const byte_table t = load_table(q->plane);
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512 scale = _mm512_set1_ps(scales[i / DOPL_CODEC_BLOCK]), v[4];
        look_up(&t, transpose(_mm512_loadu_si512(codes + i)), v);
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(x + i + 16 * j, _mm512_mul_ps(v[j], scale));
    }
    for (; i < n; i++) x[i] = q->value[codes[i]] * scales[i / DOPL_CODEC_BLOCK];
}

INLINE float block_scale(const float *x) {
    __m512 m[4];
    for (int j = 0; j < 4; j++) m[j] = _mm512_abs_ps(_mm512_loadu_ps(x + 16 * j));
    for (int i = 64; i < DOPL_CODEC_BLOCK; i += 64)
        for (int j = 0; j < 4; j++) // operands in this order: a NaN gives way to what is held
            m[j] = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + i + 16 * j)), m[j]);
    return _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(m[0], m[1]), _mm512_max_ps(m[2], m[3])));
}

typedef struct {
    __m512 edge, slope, first;
} lines;

// Codes of 16 elements as dwords, less zero_code. As code_of() in codec.c, operation by operation.
INLINE __m512i ranks_16(const lines *l, bool is_signed, __m512 y) {
    enum { LARGER_MAGNITUDE = 3, WITHOUT_SIGN = 2 << 2, XOR_WITH_AND = 0x78 };
    const __m512 least = _mm512_set1_ps(DOPL_CODEC_LEAST);
    __m512 a = is_signed ? _mm512_range_ps(y, least, LARGER_MAGNITUDE | WITHOUT_SIGN)
                         : _mm512_max_ps(y, least);
    __m512i group = _mm512_srli_epi32(_mm512_castps_si512(a), 24); // a permutation takes 4 bits
    __m512 edge = _mm512_permutexvar_ps(group, l->edge);
    __m512 slope = _mm512_permutexvar_ps(group, l->slope);
    __m512 first = _mm512_permutexvar_ps(group, l->first);
    __m512 u = _mm512_mul_ps(_mm512_sub_ps(a, edge), slope);
    __mmask16 below = _mm512_cmp_ps_mask(u, _mm512_set1_ps(DOPL_CODEC_JOIN), _CMP_LE_OQ);
    u = _mm512_mask_min_ps(u, below, _mm512_mul_ps(u, _mm512_set1_ps(5)), _mm512_set1_ps(-0.5f));
    __m512i rank = _mm512_castps_si512(_mm512_add_ps(first, u));
    if (is_signed)
        rank = _mm512_ternarylogic_epi32(rank, _mm512_castps_si512(y), _mm512_set1_epi32(INT32_MIN),
                                         XOR_WITH_AND);
    return _mm512_cvtps_epi32(_mm512_castsi512_ps(rank));
}

INLINE void encode_64(const lines *l, bool is_signed, uint8_t *codes, const float *x,
                      __m512 inverse) {
    __m512i r[4];
    for (int j = 0; j < 4; j++)
        r[j] = ranks_16(l, is_signed, _mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), inverse));
    __m512i lo = _mm512_packs_epi32(r[0], r[1]), hi = _mm512_packs_epi32(r[2], r[3]);
    if (is_signed) {
        lo = _mm512_add_epi16(lo, _mm512_set1_epi16(127));
        hi = _mm512_add_epi16(hi, _mm512_set1_epi16(127));
    }
    _mm512_storeu_si512(codes, transpose(_mm512_packus_epi16(lo, hi)));
}

INLINE void encode(const dopl_codec *q, bool is_signed, uint8_t *codes, float *scales,
                   const float *x, int n) {
    const lines l = { _mm512_loadu_ps(q->edge), _mm512_loadu_ps(q->slope),
                      _mm512_loadu_ps(q->first) };
    int b = 0;
    for (; b + DOPL_CODEC_BLOCK <= n; b += DOPL_CODEC_BLOCK) {
        float scale = block_scale(x + b);
        scales[b / DOPL_CODEC_BLOCK] = scale;
        if (scale < 0x1p-100f) { // zeros, or a reciprocal that overflows
            dopl_encode_portable(q, codes + b, scales + b / DOPL_CODEC_BLOCK, x + b,
                                 DOPL_CODEC_BLOCK);
            continue;
        }
        __m512 inverse = _mm512_set1_ps(q->unit / scale);
        for (int i = b; i < b + DOPL_CODEC_BLOCK; i += 64)
            encode_64(&l, is_signed, codes + i, x + i, inverse);
    }
    if (b < n) dopl_encode_portable(q, codes + b, scales + b / DOPL_CODEC_BLOCK, x + b, n - b);
}

VBMI void dopl_encode_avx512(const dopl_codec *q, uint8_t *codes, float *scales, const float *x,
                             int n) {
    if (q->is_signed)
        encode(q, true, codes, scales, x, n);
    else
        encode(q, false, codes, scales, x, n);
}
#endif

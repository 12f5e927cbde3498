// codec_avx512.c - the 8-bit codec with AVX-512 byte permutations, 64 elements at a time.
//
// A table of 256 floats is four planes of 256 bytes; vpermi2b looks 64 codes up in 128 of them, so
// eight permutations and four blends read 64 table entries, from registers. Unpacking the planes to
// floats leaves them in the order that packing the estimates to bytes produced: [0 16 32 48] by
// quarters of 4, so codes are reordered once, where they touch memory.
// To encode, a line per decade gives the code (codec.c, fill_lines). Where that lies next to a
// step, within what f32 may round, the element is encoded again by the portable function: exact,
// and rare.
#include "codec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

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

// Four vectors of dwords in 0 .. 255 to bytes, in the order look_up() reads.
INLINE __m512i pack(const __m512i x[4]) {
    return _mm512_packus_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
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
    __m512 slope[2][2], shift[2][2], join[2]; // [line][half of 32 octaves]
    __m512 centre;
} lines;

#define NEAR 1e-4f // of a step; rounding moves a rank by at most 255 * 3 * 2^-24 = 5e-5

INLINE lines load_lines(const dopl_codec *q) {
    lines l = { .centre = _mm512_set1_ps((float)q->zero_code + 0.5f + NEAR) };
    for (int h = 0; h < 2; h++) {
        for (int i = 0; i < 2; i++) {
            l.slope[i][h] = _mm512_loadu_ps(q->slope[i] + 16 * h);
            l.shift[i][h] = _mm512_loadu_ps(q->shift[i] + 16 * h);
        }
        l.join[h] = _mm512_loadu_ps(q->join + 16 * h);
    }
    return l;
}

// Codes of 16 quotients as dwords; `*doubt` marks those next to a step.
INLINE __m512i codes_16(const lines *l, __m512 y, __mmask16 *doubt) {
    const __m512 sign_bit = _mm512_set1_ps(-0.0f);
    enum { LARGER_MAGNITUDE = 3, WITHOUT_SIGN = 2 << 2 };
    __m512 a = _mm512_range_ps(y, _mm512_set1_ps(0x1p-30f), LARGER_MAGNITUDE | WITHOUT_SIGN);
    __m512i octave = _mm512_srli_epi32(_mm512_castps_si512(a), 23);
    __m512 s0 = _mm512_permutex2var_ps(l->slope[0][0], octave, l->slope[0][1]);
    __m512 c0 = _mm512_permutex2var_ps(l->shift[0][0], octave, l->shift[0][1]);
    __m512 s1 = _mm512_permutex2var_ps(l->slope[1][0], octave, l->slope[1][1]);
    __m512 c1 = _mm512_permutex2var_ps(l->shift[1][0], octave, l->shift[1][1]);
    __m512 join = _mm512_permutex2var_ps(l->join[0], octave, l->join[1]);
    __mmask16 below = _mm512_cmp_ps_mask(a, join, _CMP_LE_OQ);
    __m512 rank = _mm512_fmadd_ps(a, s1, c1);
    __m512 lowered = _mm512_sub_ps(rank, _mm512_set1_ps(0.21f)); // 0.2 high before the join
    rank = _mm512_mask_min_ps(rank, below, _mm512_fmadd_ps(a, s0, c0), lowered);
    rank = _mm512_xor_ps(rank, _mm512_and_ps(sign_bit, y));
    __m512 at = _mm512_add_ps(rank, l->centre);
    __m512 above = _mm512_reduce_ps(at, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    // at the join itself it is a tie, or next to one, which the sign decides
    *doubt = _mm512_cmp_ps_mask(above, _mm512_set1_ps(2 * NEAR), _CMP_LT_OQ) |
             _mm512_cmp_ps_mask(a, join, _CMP_EQ_OQ);
    return _mm512_cvt_roundps_epi32(at, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

INLINE void encode_64(const dopl_codec *q, const lines *l, uint8_t *codes, const float *x,
                      __m512 inverse) {
    __m512i code[4];
    __mmask16 doubt[4];
    for (int j = 0; j < 4; j++)
        code[j] = codes_16(l, _mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), inverse), &doubt[j]);
    _mm512_storeu_si512(codes, transpose(pack(code)));
    uint64_t again = _cvtmask16_u32(doubt[0]) | (uint64_t)_cvtmask16_u32(doubt[1]) << 16 |
                     (uint64_t)_cvtmask16_u32(doubt[2]) << 32 |
                     (uint64_t)_cvtmask16_u32(doubt[3]) << 48;
    for (; again; again &= again - 1) {
        int i = __builtin_ctzll(again);
        codes[i] = dopl_encode_one(q, x[i] * _mm512_cvtss_f32(inverse));
    }
}

VBMI void dopl_encode_avx512(const dopl_codec *q, uint8_t *codes, float *scales, const float *x,
                             int n) {
    const lines l = load_lines(q);
    int b = 0;
    for (; b + DOPL_CODEC_BLOCK <= n; b += DOPL_CODEC_BLOCK) {
        float scale = block_scale(x + b);
        scales[b / DOPL_CODEC_BLOCK] = scale;
        if (scale < 0x1p-100f) { // zeros, or a reciprocal that overflows
            dopl_encode_portable(q, codes + b, scales + b / DOPL_CODEC_BLOCK, x + b,
                                 DOPL_CODEC_BLOCK);
            continue;
        }
        __m512 inverse = _mm512_set1_ps(1 / scale);
        for (int i = b; i < b + DOPL_CODEC_BLOCK; i += 64)
            encode_64(q, &l, codes + i, x + i, inverse);
    }
    if (b < n) dopl_encode_portable(q, codes + b, scales + b / DOPL_CODEC_BLOCK, x + b, n - b);
}
#endif

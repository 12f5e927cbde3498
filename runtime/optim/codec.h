// codec.h - 8-bit block-wise dynamic quantization of optimizer states.
//
// A state of n elements is n codes and one f32 scale per block of 256 elements. The scale is the
// block's absolute maximum; the code of x is the entry nearest to x / scale in a sorted table of
// 256 values, the lower entry on a tie. A block of zeros has scale 0 and reads back as zeros. Every
// path (portable, AVX-512) gives the same codes for the same values.
#ifndef DOPL_OPTIM_CODEC_H
#define DOPL_OPTIM_CODEC_H

#include <stdbool.h>
#include <stdint.h>

enum { DOPL_CODEC_BLOCK = 256 };

typedef enum {
    DOPL_CODEC_Q8, // signed: -1 .. 1
    DOPL_CODEC_U8, // unsigned: 0 .. 1, twice as fine
    DOPL_N_CODEC
} dopl_codec_id;

enum {
    DOPL_CODEC_MANTISSA = 8, // bits of the mantissa that take part in a start-table key
    DOPL_CODEC_OCTAVES = 25, // 2^-24 .. 2; anything smaller shares the first octave
    DOPL_CODEC_KEYS = DOPL_CODEC_OCTAVES << DOPL_CODEC_MANTISSA,
};

typedef struct {
    float value[256];      // sorted
    float bound[256];      // code c is too low for y where y > bound[c]; infinity for the last
    uint8_t plane[4][256]; // byte p of value[c]: what a byte permutation looks values up in
    uint8_t start[2][DOPL_CODEC_KEYS]; // [sign][key]: code of the lowest y that has this key
    // Per octave (low five bits of the exponent), the rank of |y| (its code less that of zero) as a
    // line that holds up to `join` and one that holds above, in steps, less one half.
    float slope[2][32], shift[2][32], join[32];
    uint8_t zero_code;
    bool is_signed;
} dopl_codec;

const dopl_codec *dopl_codec_get(dopl_codec_id id); // built on first use; thread-safe
const char *dopl_codec_name(dopl_codec_id id);

uint8_t dopl_encode_one(const dopl_codec *codec, float y); // y = x / scale

// x, codes: n elements starting at a block boundary; scales: one per block, the last may be short.
typedef void dopl_encode_fn(const dopl_codec *codec, uint8_t *codes, float *scales, const float *x,
                            int n);
typedef void dopl_decode_fn(const dopl_codec *codec, float *x, const uint8_t *codes,
                            const float *scales, int n);

dopl_encode_fn dopl_encode_portable;
dopl_decode_fn dopl_decode_portable;
#if defined(__x86_64__)
dopl_encode_fn dopl_encode_avx512; // needs AVX-512 F, BW, DQ, VL and VBMI
dopl_decode_fn dopl_decode_avx512;
#endif

#endif

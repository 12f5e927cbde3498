// codec.h - 8-bit block-wise dynamic quantization of optimizer states.
//
// A state of n elements is n codes and one f32 scale per block of 256 elements. The scale is the
// block's absolute maximum; the code of x is the entry nearest to x / scale in a sorted table of
// 256 values. Next to a midpoint of two entries, where f32 arithmetic cannot tell (within 2^-18 of
// it), either entry may be taken; every path takes the same one. A block of zeros has scale 0 and
// reads back as zeros.
#ifndef DOPL_OPTIM_CODEC_H
#define DOPL_OPTIM_CODEC_H

#include <stdbool.h>
#include <stdint.h>

enum { DOPL_CODEC_BLOCK = 256 };

typedef enum {
    DOPL_CODEC_Q8, // signed: -1 .. 1
    DOPL_CODEC_U8, // unsigned: 0 .. 1, twice as fine; a negative number reads back as 0
    DOPL_N_CODEC
} dopl_codec_id;

typedef struct {
    float value[256];      // sorted
    uint8_t plane[4][256]; // byte p of value[c]: what a byte permutation looks values up in
    // Lines that give ranks: see codec.c. Those of a group of magnitudes and, above `join`, of the
    // next.
    float slope[16], shift[16], last[16], join[16];
    float unit; // the quotient x / scale is multiplied by this, so that the last group reads as 1
    uint8_t zero_code;
    bool is_signed;
} dopl_codec;

#define DOPL_CODEC_LEAST 0x1p-25f // smaller quotients count as this one: rank 0

const dopl_codec *dopl_codec_get(dopl_codec_id id); // built on first use; thread-safe
const char *dopl_codec_name(dopl_codec_id id);

// x, codes: n elements starting at a block boundary; scales: one per block, the last may be short.
// Scales come first, on their own: the processor works on several tensors' at once that way.
typedef void dopl_scale_fn(float *scales, const float *x, int n);
typedef void dopl_encode_fn(const dopl_codec *codec, uint8_t *codes, const float *scales,
                            const float *x, int n);
typedef void dopl_decode_fn(const dopl_codec *codec, float *x, const uint8_t *codes,
                            const float *scales, int n);

dopl_scale_fn dopl_scale_portable;
dopl_encode_fn dopl_encode_portable;
dopl_decode_fn dopl_decode_portable;
#if defined(__x86_64__)
dopl_scale_fn dopl_scale_avx2;
dopl_encode_fn dopl_encode_avx2; // the portable code, built for AVX2
dopl_decode_fn dopl_decode_avx2;
dopl_scale_fn dopl_scale_avx512;
dopl_encode_fn dopl_encode_avx512; // needs AVX-512 F, BW, DQ, VL and VBMI
dopl_decode_fn dopl_decode_avx512;
#endif

#endif

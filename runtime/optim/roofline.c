// roofline.c - reading and writing several streams at once, as fast as a plain loop goes.
//
// A step takes STEP elements of each stream, whole cache lines, so that streams advance together
// whatever the size of their elements.
#include "roofline.h"
#include "../core/simd.h"

#include <string.h>

enum { LINE = 16, STEP = 64, CHUNK = 256 * STEP }; // a cache line is 16 words

typedef uint32_t line[LINE];

#define WORDS for (int i = 0; i < LINE; i++)

DOPL_SIMD static void pass(const dopl_stream *stream, int n_stream, int64_t from, int64_t to) {
    line sum = { 0 };
    for (int64_t at = from; at + STEP <= to; at += STEP) {
        for (int s = 0; s < n_stream; s++) {
            line *x = (line *)(stream[s].data + at * stream[s].bytes);
            if (stream[s].read && stream[s].written)
                for (int l = 0; l < stream[s].bytes; l++) WORDS x[l][i] += sum[i];
            else if (stream[s].read)
                for (int l = 0; l < stream[s].bytes; l++) WORDS sum[i] ^= x[l][i];
            else if (stream[s].written)
                for (int l = 0; l < stream[s].bytes; l++) WORDS x[l][i] = sum[i];
        }
    }
    // Where nothing is written, the sum has to count for something.
    if (sum[0] == 1) __asm__ volatile("" ::"r"(&sum) : "memory");
}

void dopl_roofline_pass(const dopl_rt *rt, const dopl_stream *stream, int n_stream, int64_t n) {
#pragma omp parallel for num_threads(rt->n_threads) schedule(static)
    for (int64_t i = 0; i < n; i += CHUNK) pass(stream, n_stream, i, i + CHUNK < n ? i + CHUNK : n);
}

// transpose.c - by square tiles that fit L1, so both sides are touched a cache line at a time.
#include "transpose.h"

enum { SIDE = 32 };

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

void dopl_transpose(float *restrict y, const float *restrict x, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (rows * cols > 65536)
    for (int64_t c0 = 0; c0 < cols; c0 += SIDE)
        for (int64_t r0 = 0; r0 < rows; r0 += SIDE) {
            int64_t r1 = least(r0 + SIDE, rows), c1 = least(c0 + SIDE, cols);
            for (int64_t c = c0; c < c1; c++)
                for (int64_t r = r0; r < r1; r++) y[c * rows + r] = x[r * cols + c];
        }
}

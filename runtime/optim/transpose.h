// transpose.h - the transpose of a matrix, for the matrix steps of optimizers.
#ifndef DOPL_OPTIM_TRANSPOSE_H
#define DOPL_OPTIM_TRANSPOSE_H

#include <stdint.h>

// y [cols, rows] = x [rows, cols] transposed; the two do not overlap.
void dopl_transpose(float *restrict y, const float *restrict x, int64_t rows, int64_t cols);

#endif

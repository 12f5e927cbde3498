// row.h - reductions over one row that several operators need; vectorised for the CPU at hand.
#ifndef DOPL_OP_ROW_H
#define DOPL_OP_ROW_H

#include <stdint.h>

float op_row_dot(const float *a, const float *b, int64_t n);
float op_row_log_sum_exp(const float *x, int64_t n); // n >= 1

#endif

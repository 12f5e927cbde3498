// ceiling.h - what this machine's memory can do: the bandwidth an optimizer pass is judged by.
#ifndef DOPL_OPTIM_CEILING_H
#define DOPL_OPTIM_CEILING_H

#include "../core/rt.h"

enum { DOPL_CEILING_STREAMS = 8 };

// One pass over n_stream arrays of n floats: reads all, adds the last to each of the others and
// writes those. As many streams as a pass has, and next to no arithmetic. n_stream: 2 .. 8.
void dopl_ceiling_pass(const dopl_rt *rt, float *const *stream, int n_stream, int64_t n);

#endif

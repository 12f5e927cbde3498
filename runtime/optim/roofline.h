// roofline.h - what this machine's memory can do: the bandwidth an optimizer pass is judged by.
#ifndef DOPL_OPTIM_ROOFLINE_H
#define DOPL_OPTIM_ROOFLINE_H

#include "../core/rt.h"

enum { DOPL_ROOFLINE_STREAMS = 40 };

typedef struct {
    char *data;
    int bytes; // of an element: 1, 2 or 4
    bool read, written;
} dopl_stream;

// One pass over streams of n elements each: those that are read are summed, those that are written
// take the sum, added to what they held where they are read too. The streams of a pass, and next to
// no arithmetic. A remainder of n below 64 is left out.
void dopl_roofline_pass(const dopl_rt *rt, const dopl_stream *stream, int n_stream, int64_t n);

#endif

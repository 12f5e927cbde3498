// profile.h - where time goes, by operator.
//
// dopl_op_apply, backward and optimizer passes tell where a range begins and ends. Ranges nest, and
// time belongs to the innermost. On the CPU it is the clock's; on a device it is that of the pieces
// of work queued meanwhile (kernels, products, copies), which the back end times and reports here
// (device.h). With nobody listening a range costs one branch that is never taken; with
// a profile open it allocates nothing.
//
//     int outer = dopl_range_enter(rt, "softmax", DOPL_PART_FORWARD, DOPL_CPU);
//     ...
//     dopl_range_leave(rt, outer);
#ifndef DOPL_CORE_PROFILE_H
#define DOPL_CORE_PROFILE_H

#include "rt.h"

typedef enum {
    DOPL_PART_FORWARD,
    DOPL_PART_BACKWARD,
    DOPL_PART_PASS,   // of an optimizer, and the norm of gradients
    DOPL_PART_LAUNCH, // a kernel, product or copy on a device
    DOPL_N_PART
} dopl_part;

enum { DOPL_NO_ROW = -1, DOPL_PROFILE_ROWS = 1024, DOPL_PROFILE_SLOTS = 2048 };

typedef struct {
    char name[100];
    dopl_part part;
    dopl_device device;
    int within; // of a launch: the row of its operator, or DOPL_NO_ROW
    int64_t calls;
    double seconds; // less those of ranges inside; of a launch also part of its operator's
} dopl_profile_row;

typedef struct dopl_profile {
    double began, last; // clock: when it was opened, when time was last charged
    int current;        // row of the innermost range, or DOPL_NO_ROW
    int n_row;
    dopl_profile_row row[DOPL_PROFILE_ROWS]; // in order of appearance
    int16_t slot[DOPL_PROFILE_SLOTS];        // hash table: row + 1; 0: free
} dopl_profile;

// Opens the one profile of the runtime. A device has done by then what was asked of it before.
DOPL_CHECKED dopl_status dopl_profile_open(dopl_rt *rt, dopl_profile **out);
// Brings the rows up to now, which waits for the device. *seconds: since it was opened.
DOPL_CHECKED dopl_status dopl_profile_read(dopl_rt *rt, dopl_profile *p, double *seconds);
void dopl_profile_free(dopl_rt *rt, dopl_profile *p); // closes it; NULL-safe

// The row of that name, made where there is none. What finds no room shares the last.
int dopl_profile_row_of(dopl_profile *p, const char *name, dopl_part part, dopl_device device,
                        int within);

int dopl_range_begin(dopl_rt *rt, const char *name, dopl_part part, dopl_device device);
void dopl_range_end(dopl_rt *rt, int outer);

// enter: what leave wants back. `device`: where the range computes.
static inline int dopl_range_enter(dopl_rt *rt, const char *name, dopl_part part,
                                   dopl_device device) {
    return __builtin_expect(rt->ranges, 0) ? dopl_range_begin(rt, name, part, device) : DOPL_NO_ROW;
}
static inline void dopl_range_leave(dopl_rt *rt, int outer) {
    if (__builtin_expect(rt->ranges, 0)) dopl_range_end(rt, outer);
}

#endif

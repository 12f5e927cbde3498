// profile.c - rows by name, and the clock charged to the innermost range.
#include "profile.h"
#include "device.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ---- rows

static uint32_t hash_of(const char *name, dopl_part part, dopl_device device, int within) {
    uint32_t h = 2166136261u ^ (uint32_t)part ^ (uint32_t)device << 4 ^ (uint32_t)within << 8;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h ^ h >> 16;
}

static bool is_row(const dopl_profile_row *r, const char *name, dopl_part part, dopl_device device,
                   int within) {
    return r->part == part && r->device == device && r->within == within &&
           strncmp(r->name, name, sizeof r->name - 1) == 0;
}

int dopl_profile_row_of(dopl_profile *p, const char *name, dopl_part part, dopl_device device,
                        int within) {
    uint32_t at = hash_of(name, part, device, within) % DOPL_PROFILE_SLOTS;
    for (; p->slot[at]; at = (at + 1) % DOPL_PROFILE_SLOTS)
        if (is_row(&p->row[p->slot[at] - 1], name, part, device, within)) return p->slot[at] - 1;
    if (p->n_row == DOPL_PROFILE_ROWS) return p->n_row - 1;
    dopl_profile_row *r = &p->row[p->n_row];
    bool last = p->n_row == DOPL_PROFILE_ROWS - 1;
    *r = (dopl_profile_row){ .part = part, .device = device, .within = within };
    snprintf(r->name, sizeof r->name, "%s", last ? "others" : name);
    p->slot[at] = (int16_t)++p->n_row;
    return p->n_row - 1;
}

// ---- ranges

// A range on a device has the time of its launches, not the host's that queues them.
static void charge(dopl_profile *p) {
    double t = now();
    dopl_profile_row *r = p->current == DOPL_NO_ROW ? NULL : &p->row[p->current];
    if (r && r->device == DOPL_CPU) r->seconds += t - p->last;
    p->last = t;
}

int dopl_range_begin(dopl_rt *rt, const char *name, dopl_part part, dopl_device device) {
    if (rt->backend && rt->backend->mark) rt->backend->mark(name, part);
    dopl_profile *p = rt->profile;
    if (!p) return DOPL_NO_ROW;
    int outer = p->current;
    charge(p);
    p->current = dopl_profile_row_of(p, name, part, device, DOPL_NO_ROW);
    p->row[p->current].calls++;
    return outer;
}

void dopl_range_end(dopl_rt *rt, int outer) {
    if (rt->backend && rt->backend->mark) rt->backend->mark(NULL, DOPL_N_PART);
    dopl_profile *p = rt->profile;
    if (!p) return;
    charge(p);
    p->current = outer < p->n_row ? outer : DOPL_NO_ROW; // it may be of a profile before this one
}

// ---- the profile

dopl_status dopl_profile_open(dopl_rt *rt, dopl_profile **out) {
    if (rt->profile)
        return dopl_fail(rt, DOPL_ESTATE,
                         "profile: one is open already; close it first (--profile keeps one open "
                         "for the whole recipe)");
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(dopl_profile)));
    dopl_profile *p = memory;
    p->current = DOPL_NO_ROW;
    rt->profile = p; // the back end times for it from here on
    dopl_status status = rt->backend ? rt->backend->watch(rt) : DOPL_OK;
    if (status != DOPL_OK) {
        dopl_profile_free(rt, p);
        return status;
    }
    rt->ranges = true;
    p->began = p->last = now();
    *out = p;
    return DOPL_OK;
}

dopl_status dopl_profile_read(dopl_rt *rt, dopl_profile *p, double *seconds) {
    dopl_status status = rt->backend ? rt->backend->read_times(rt) : DOPL_OK;
    charge(p);
    *seconds = p->last - p->began;
    return status;
}

void dopl_profile_free(dopl_rt *rt, dopl_profile *p) {
    if (!p) return;
    if (rt->backend) rt->backend->unwatch(rt);
    rt->profile = NULL;
    rt->ranges = rt->backend && rt->backend->mark;
    dopl_rt_free(rt, p);
}

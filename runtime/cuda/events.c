// events.c - how long each piece of work takes on the device, for profiles (core/profile.h).
//
// Two events in the stream around each piece. They are read some thousand at a time, so that nobody
// waits for a piece; the queue launches one by one meanwhile, since a graph is one piece to the
// stream. A fault shows at the launch that comes next, not here.
#include "cuda.h"

#include <stdio.h>

enum { PIECES = 2048 };

struct dopl_cuda_events {
    int n;
    char name[96]; // of the next piece that does not say its own
    struct {
        cudaEvent_t begin, end;
        int row; // of rt->profile
    } piece[PIECES];
};

void dopl_cuda_unwatch(dopl_rt *rt) {
    struct dopl_cuda_events *e = dopl_cuda_of(rt)->events;
    if (!e) return;
    dopl_cuda_queue_one_by_one(rt, false);
    dopl_cuda_of(rt)->events = NULL;
    for (int i = 0; i < PIECES; i++) {
        if (e->piece[i].begin) (void)cudaEventDestroy(e->piece[i].begin);
        if (e->piece[i].end) (void)cudaEventDestroy(e->piece[i].end);
    }
    dopl_rt_free(rt, e);
}

static dopl_status init(dopl_rt *rt) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(struct dopl_cuda_events)));
    struct dopl_cuda_events *e = dopl_cuda_of(rt)->events = memory;
    for (int i = 0; i < PIECES; i++) {
        DOPL_TRY(dopl_cuda_result(rt, cudaEventCreate(&e->piece[i].begin), "profile: event"));
        DOPL_TRY(dopl_cuda_result(rt, cudaEventCreate(&e->piece[i].end), "profile: event"));
    }
    return DOPL_OK;
}

dopl_status dopl_cuda_watch(dopl_rt *rt) {
    DOPL_TRY(dopl_cuda_flush_to_wait(rt));
    DOPL_TRY(dopl_cuda_result(rt, cudaStreamSynchronize(dopl_cuda_stream(rt)), "profile"));
    dopl_status status = init(rt);
    if (status == DOPL_OK)
        dopl_cuda_queue_one_by_one(rt, true);
    else
        dopl_cuda_unwatch(rt);
    return status;
}

static dopl_status read_pieces(dopl_rt *rt) {
    struct dopl_cuda_events *e = dopl_cuda_of(rt)->events;
    if (!e || e->n == 0) return DOPL_OK;
    int n = e->n;
    e->n = 0;
    rt->n_waits++;
    DOPL_TRY(dopl_cuda_result(rt, cudaEventSynchronize(e->piece[n - 1].end), "profile"));
    for (int i = 0; i < n; i++) {
        float ms = 0;
        cudaError_t error = cudaEventElapsedTime(&ms, e->piece[i].begin, e->piece[i].end);
        DOPL_TRY(dopl_cuda_result(rt, error, "profile"));
        dopl_profile_row *row = &rt->profile->row[e->piece[i].row];
        dopl_profile_row *around = row->within < 0 ? NULL : &rt->profile->row[row->within];
        row->calls++;
        row->seconds += 1e-3 * (double)ms;
        // what computes on the CPU is timed by the clock, launches and all
        if (around && around->device != DOPL_CPU) around->seconds += 1e-3 * (double)ms;
    }
    return DOPL_OK;
}

dopl_status dopl_cuda_read_times(dopl_rt *rt) {
    return read_pieces(rt);
}

void dopl_cuda_name_next(dopl_rt *rt, const char *name) {
    struct dopl_cuda_events *e = dopl_cuda_of(rt)->events;
    snprintf(e->name, sizeof e->name, "%s", name);
}

void dopl_cuda_event_begin(dopl_rt *rt, const char *name) {
    struct dopl_cuda_events *e = dopl_cuda_of(rt)->events;
    dopl_profile *p = rt->profile;
    if (e->n == PIECES) (void)read_pieces(rt);
    e->piece[e->n].row =
        dopl_profile_row_of(p, name ? name : e->name, DOPL_PART_LAUNCH, DOPL_GPU, p->current);
    (void)cudaEventRecord(e->piece[e->n].begin, dopl_cuda_stream(rt));
}

void dopl_cuda_event_end(dopl_rt *rt) {
    struct dopl_cuda_events *e = dopl_cuda_of(rt)->events;
    (void)cudaEventRecord(e->piece[e->n++].end, dopl_cuda_stream(rt));
}

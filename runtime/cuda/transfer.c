// transfer.c - bytes between host memory and the device.
//
// The device reads and writes host memory at full speed, and without stopping the host, only where
// the pages are pinned. Tensors' are not, so bytes go by two pinned halves: while the device takes
// one, the host fills the other. Small copies (indices, seeds) lie end to end in a half, and a half
// is waited for only when the other one is full, so that a training step waits for none of them.
#include "cuda.h"

#include <string.h>

enum { HALF = 8 << 20, ALIGN = 64 };

struct dopl_cuda_staging {
    char *half[2];
    cudaEvent_t taken[2]; // when the device is done with a half
    int filling;          // 0 or 1
    size_t used;          // bytes of the half being filled
};

dopl_status dopl_cuda_staging_init(dopl_rt *rt) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(struct dopl_cuda_staging)));
    struct dopl_cuda_staging *s = dopl_cuda_of(rt)->staging = memory;
    for (int i = 0; i < 2; i++) {
        void *half = NULL;
        DOPL_TRY(dopl_cuda_result(rt, cudaMallocHost(&half, HALF), "pinned host memory"));
        s->half[i] = half;
        DOPL_TRY(dopl_cuda_result(
            rt, cudaEventCreateWithFlags(&s->taken[i], cudaEventDisableTiming), "event"));
    }
    return DOPL_OK;
}

void dopl_cuda_staging_release(dopl_rt *rt) {
    struct dopl_cuda_staging *s = dopl_cuda_of(rt)->staging;
    if (!s) return;
    for (int i = 0; i < 2; i++) {
        if (s->taken[i]) (void)cudaEventDestroy(s->taken[i]);
        if (s->half[i]) (void)cudaFreeHost(s->half[i]);
    }
    dopl_rt_free(rt, s);
    dopl_cuda_of(rt)->staging = NULL;
}

// Goes on with the other half, once the device is done with what that held.
static dopl_status turn(dopl_rt *rt, struct dopl_cuda_staging *s) {
    cudaStream_t stream = dopl_cuda_stream(rt);
    DOPL_TRY(dopl_cuda_result(rt, cudaEventRecord(s->taken[s->filling], stream), "event"));
    s->filling = 1 - s->filling;
    s->used = 0;
    return dopl_cuda_result(rt, cudaEventSynchronize(s->taken[s->filling]), "copy to the device");
}

dopl_status dopl_cuda_to_device(dopl_rt *rt, void *to, const void *from, size_t bytes) {
    struct dopl_cuda_staging *s = dopl_cuda_of(rt)->staging;
    if (bytes > 0) DOPL_TRY(dopl_cuda_flush(rt));
    for (size_t done = 0; done < bytes;) {
        if (s->used >= HALF) DOPL_TRY(turn(rt, s));
        size_t n = HALF - s->used < bytes - done ? HALF - s->used : bytes - done;
        char *place = s->half[s->filling] + s->used;
        memcpy(place, (const char *)from + done, n);
        s->used += (n + ALIGN - 1) / ALIGN * ALIGN;
        dopl_cuda_piece_begins(rt, "copy to the device");
        cudaError_t e = cudaMemcpyAsync((char *)to + done, place, n, cudaMemcpyHostToDevice,
                                        dopl_cuda_stream(rt));
        dopl_cuda_piece_ends(rt);
        DOPL_TRY(dopl_cuda_result(rt, e, "copy to the device"));
        done += n;
    }
    return DOPL_OK;
}

// Asks for the next bytes into a half of their own. `to` is where the host will want them.
static dopl_status fetch(dopl_rt *rt, struct dopl_cuda_staging *s, int half, const char *from,
                         size_t n) {
    cudaStream_t stream = dopl_cuda_stream(rt);
    dopl_cuda_piece_begins(rt, "copy from the device");
    cudaError_t e = cudaMemcpyAsync(s->half[half], from, n, cudaMemcpyDeviceToHost, stream);
    dopl_cuda_piece_ends(rt);
    DOPL_TRY(dopl_cuda_result(rt, e, "copy from the device"));
    return dopl_cuda_result(rt, cudaEventRecord(s->taken[half], stream), "event");
}

dopl_status dopl_cuda_to_host(dopl_rt *rt, void *to, const void *from, size_t bytes) {
    struct dopl_cuda_staging *s = dopl_cuda_of(rt)->staging;
    size_t asked = 0, done = 0;
    if (bytes > 0) DOPL_TRY(dopl_cuda_flush_to_wait(rt));
    // the stream is in order: when the first bytes are here, both halves are free of copies there
    for (int half = 0; done < bytes; half = 1 - half) {
        for (int ahead = 0; ahead < 2 && asked < bytes && asked < done + 2 * (size_t)HALF;
             ahead++) {
            size_t n = bytes - asked < HALF ? bytes - asked : HALF;
            DOPL_TRY(fetch(rt, s, (int)(asked / HALF % 2), (const char *)from + asked, n));
            asked += n;
        }
        size_t n = bytes - done < HALF ? bytes - done : HALF;
        DOPL_TRY(
            dopl_cuda_result(rt, cudaEventSynchronize(s->taken[half]), "copy from the device"));
        memcpy((char *)to + done, s->half[half], n);
        done += n;
    }
    return DOPL_OK;
}

dopl_status dopl_cuda_copy(dopl_rt *rt, void *to, const void *from, size_t bytes) {
    const char *t = to, *f = from;
    if (bytes == 0 || t == f) return DOPL_OK;
    bool overlap = t < f + bytes && f < t + bytes;
    void *aside = NULL;
    if (overlap) {
        DOPL_TRY(dopl_cuda_alloc(rt, &aside, bytes));
        dopl_status status = dopl_cuda_copy(rt, aside, from, bytes);
        if (status != DOPL_OK) {
            dopl_cuda_free(rt, aside);
            return status;
        }
        from = aside;
    }
    dopl_status status = dopl_cuda_move(rt, to, from, bytes);
    dopl_cuda_free(rt, aside);
    return status;
}

// queue.c - launches on their way to the device: some at a time, by a CUDA graph where they repeat.
//
// A launch costs the host two to three microseconds and the device a gap of about one: most of the
// time of a small model's step, and of generation. A graph launches a hundred kernels for the price
// of a few. What repeats is found, not declared: work is written down as bytes (what to call, grid,
// arguments), some of it at a time, and a batch of the very bytes that came before is
// launched by the graph made of them then. Recipes run as always, every step, so whatever they
// change - shapes, addresses, factors, another loss - makes other bytes, and those are launched one
// by one. No graph can be stale. (Bytes are told apart by 128 bits of hash.)
//
// Batches are short after the host has waited, since the device then has nothing to do, and longer
// after that. Work whose bytes never repeat (an optimizer pass with its step's rate, a copy from
// pinned memory) goes straight to the stream, after what is queued: dopl_cuda_flush.
#include "cuda.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    ROOM = 128 << 10, // bytes of work that wait at most
    FIRST = 16,       // pieces of work in the first batch after a wait; doubled from batch to batch
    MOST = 128,       // pieces in any batch
    LEAST = 8,        // fewer are launched one by one: a graph saves nothing there
    SIGHTINGS = 2,    // times that a batch has come before a graph is made of it
    SEEN = 1 << 12,   // batches remembered
    GRAPHS = 256,     // graphs held
    REFUSALS = 16,    // batches that CUDA makes no graph of, after which it is asked no more
};

// A piece of work; its data follows at once.
typedef struct {
    dopl_cuda_issue_fn *issue;
    size_t bytes; // with this head; a multiple of 16
} head;

typedef struct {
    XXH128_hash_t hash;
    cudaGraphExec_t graph;
    uint64_t last; // batch that used it
} known;

struct dopl_cuda_queue {
    bool always;  // direct, profile or not
    bool direct;  // every piece at once
    bool graphs;  // otherwise every batch piece by piece
    int n, limit; // pieces that wait; how many may
    size_t used;  // bytes of `room`
    char *room;
    uint64_t n_batch;
    struct {
        XXH128_hash_t hash;
        int times;
    } seen[SEEN];
    known known[GRAPHS];
    int n_known, n_refused;
    dopl_status status; // of a batch that nobody has been told of
    char text[sizeof(((dopl_rt *)0)->error)];
};

_Static_assert(sizeof(head) % 16 == 0, "work's data is aligned to 16 bytes");

dopl_status dopl_cuda_queue_init(dopl_rt *rt, bool direct) {
    void *memory;
    DOPL_TRY(dopl_rt_alloc_zero(rt, &memory, sizeof(struct dopl_cuda_queue)));
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue = memory;
    const char *graphs = getenv("DOPL_GRAPHS");
    q->always = q->direct = direct;
    q->graphs = !direct && !(graphs && strcmp(graphs, "0") == 0);
    q->limit = FIRST;
    DOPL_TRY(dopl_rt_alloc(rt, &memory, ROOM));
    q->room = memory;
    return DOPL_OK;
}

void dopl_cuda_forget_graphs(dopl_rt *rt) {
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue;
    for (int i = 0; i < q->n_known; i++) (void)cudaGraphExecDestroy(q->known[i].graph);
    rt->n_graphs = q->n_known = 0;
}

void dopl_cuda_queue_one_by_one(dopl_rt *rt, bool on) {
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue;
    q->direct = on || q->always;
}

void dopl_cuda_queue_release(dopl_rt *rt) {
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue;
    if (!q) return;
    dopl_cuda_forget_graphs(rt);
    dopl_rt_free(rt, q->room);
    dopl_rt_free(rt, q);
    dopl_cuda_of(rt)->queue = NULL;
}

// ---- batches that came before

static known *find(struct dopl_cuda_queue *q, XXH128_hash_t hash) {
    for (int i = 0; i < q->n_known; i++)
        if (XXH128_isEqual(q->known[i].hash, hash)) return &q->known[i];
    return NULL;
}

// Whether it has come often enough, this time not counted; then its count begins again, so that a
// graph that was not made, or had to go, costs another attempt only now and then. Others of its
// place are forgotten.
static bool is_frequent(struct dopl_cuda_queue *q, XXH128_hash_t hash) {
    int i = (int)(hash.low64 % SEEN);
    if (!XXH128_isEqual(q->seen[i].hash, hash)) {
        q->seen[i].hash = hash;
        q->seen[i].times = 0;
    }
    if (q->seen[i].times++ < SIGHTINGS) return false;
    q->seen[i].times = 0;
    return true;
}

// A place for one more, that of the one longest unused where all are taken.
static known *place_for_one(dopl_rt *rt, struct dopl_cuda_queue *q) {
    if (q->n_known < GRAPHS) return &q->known[q->n_known];
    known *oldest = q->known;
    for (int i = 1; i < GRAPHS; i++)
        if (q->known[i].last < oldest->last) oldest = &q->known[i];
    (void)cudaGraphExecDestroy(oldest->graph); // one that still runs goes when it has ended
    *oldest = q->known[--q->n_known];
    rt->n_graphs = q->n_known;
    return &q->known[q->n_known];
}

// ---- to the device

static dopl_status issue_all(dopl_rt *rt, const struct dopl_cuda_queue *q) {
    for (size_t at = 0; at < q->used;) {
        const head *h = (const head *)(q->room + at);
        DOPL_TRY(h->issue(rt, h + 1));
        at += h->bytes;
    }
    return DOPL_OK;
}

// A graph of the batch; *out is NULL where CUDA makes none of it.
static void make_graph(dopl_rt *rt, const struct dopl_cuda_queue *q, cudaGraphExec_t *out) {
    cudaStream_t stream = dopl_cuda_stream(rt);
    cudaGraph_t graph = NULL;
    *out = NULL;
    cudaError_t e = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (!e) {
        dopl_status status = issue_all(rt, q);
        e = cudaStreamEndCapture(stream, &graph); // whatever came of it: the capture must end
        if (!e && status != DOPL_OK) e = cudaErrorUnknown;
    }
    if (!e) e = cudaGraphInstantiate(out, graph, 0);
    if (graph) (void)cudaGraphDestroy(graph);
    if (!e) return;
    *out = NULL;
    (void)cudaGetLastError(); // nothing has run: the batch is launched piece by piece after all
}

static dopl_status launch_graph(dopl_rt *rt, struct dopl_cuda_queue *q, known *k) {
    k->last = q->n_batch;
    rt->n_replayed += q->n;
    return dopl_cuda_result(rt, cudaGraphLaunch(k->graph, dopl_cuda_stream(rt)), "CUDA graph");
}

static known *remember(dopl_rt *rt, struct dopl_cuda_queue *q, XXH128_hash_t hash) {
    known made = { .hash = hash };
    make_graph(rt, q, &made.graph);
    if (!made.graph) {
        q->graphs = ++q->n_refused < REFUSALS;
        return NULL;
    }
    known *k = place_for_one(rt, q);
    *k = made;
    rt->n_graphs = ++q->n_known;
    return k;
}

static dopl_status issue(dopl_rt *rt, struct dopl_cuda_queue *q) {
    q->n_batch++;
    rt->n_launched += q->n;
    if (!q->graphs || q->n < LEAST) return issue_all(rt, q);
    XXH128_hash_t hash = XXH3_128bits(q->room, q->used);
    known *k = find(q, hash);
    if (!k && is_frequent(q, hash)) k = remember(rt, q, hash);
    return k ? launch_graph(rt, q, k) : issue_all(rt, q);
}

static dopl_status flush(dopl_rt *rt, struct dopl_cuda_queue *q) {
    if (q->n == 0) return DOPL_OK;
    dopl_status status = issue(rt, q);
    q->n = 0;
    q->used = 0;
    q->limit = q->limit < MOST ? 2 * q->limit : MOST;
    return status;
}

// What happened to a batch that was sent off where no status could be returned.
static dopl_status earlier(dopl_rt *rt, struct dopl_cuda_queue *q) {
    dopl_status status = q->status;
    if (status == DOPL_OK) return DOPL_OK;
    q->status = DOPL_OK;
    return dopl_fail(rt, status, "%s", q->text);
}

dopl_status dopl_cuda_flush(dopl_rt *rt) {
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue;
    DOPL_TRY(earlier(rt, q));
    return flush(rt, q);
}

dopl_status dopl_cuda_flush_to_wait(dopl_rt *rt) {
    DOPL_TRY(dopl_cuda_flush(rt));
    dopl_cuda_of(rt)->queue->limit = FIRST;
    rt->n_waits++;
    return DOPL_OK;
}

void dopl_cuda_send(dopl_rt *rt) {
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue;
    dopl_status status = flush(rt, q);
    if (status == DOPL_OK || q->status != DOPL_OK) return;
    q->status = status;
    memcpy(q->text, rt->error, sizeof q->text);
}

void *dopl_cuda_queue_work(dopl_rt *rt, dopl_cuda_issue_fn *issue_fn, size_t bytes) {
    struct dopl_cuda_queue *q = dopl_cuda_of(rt)->queue;
    size_t whole = (sizeof(head) + bytes + 15) / 16 * 16;
    if (q->n == q->limit || q->direct || q->used + whole > ROOM) dopl_cuda_send(rt);
    head *h = (head *)(q->room + q->used);
    memset(h, 0, whole); // what lies between fields would keep equal work from being equal bytes
    h->issue = issue_fn;
    h->bytes = whole;
    q->used += whole;
    q->n++;
    return h + 1;
}

dopl_status dopl_cuda_launched(dopl_rt *rt, const char *what) {
    const dopl_cuda *cuda = dopl_cuda_of(rt);
    struct dopl_cuda_queue *q = cuda->queue;
    DOPL_TRY(earlier(rt, q));
    if (!q->direct) return DOPL_OK;
    DOPL_TRY(flush(rt, q));
    return cuda->sync ? dopl_cuda_result(rt, cudaStreamSynchronize(cuda->stream), what) : DOPL_OK;
}

// ---- work that is no kernel of ours

typedef struct {
    void *to;
    const void *from; // NULL: bytes of `value`
    size_t bytes;
    int value;
} transfer;

static dopl_status issue_transfer(dopl_rt *rt, const void *data) {
    const transfer *t = data;
    cudaStream_t stream = dopl_cuda_stream(rt);
    const char *what = t->from ? "copy" : "filling";
    dopl_cuda_piece_begins(rt, what);
    cudaError_t e =
        t->from ? cudaMemcpyAsync(t->to, t->from, t->bytes, cudaMemcpyDeviceToDevice, stream)
                : cudaMemsetAsync(t->to, t->value, t->bytes, stream);
    dopl_cuda_piece_ends(rt);
    return dopl_cuda_result(rt, e, what);
}

static dopl_status queue_transfer(dopl_rt *rt, transfer t) {
    if (t.bytes == 0) return DOPL_OK;
    transfer *place = dopl_cuda_queue_work(rt, issue_transfer, sizeof t);
    place->to = t.to;
    place->from = t.from;
    place->bytes = t.bytes;
    place->value = t.value;
    return dopl_cuda_launched(rt, t.from ? "copy" : "filling");
}

dopl_status dopl_cuda_set(dopl_rt *rt, void *to, int value, size_t bytes) {
    return queue_transfer(rt, (transfer){ .to = to, .value = value, .bytes = bytes });
}

dopl_status dopl_cuda_move(dopl_rt *rt, void *to, const void *from, size_t bytes) {
    return queue_transfer(rt, (transfer){ .to = to, .from = from, .bytes = bytes });
}

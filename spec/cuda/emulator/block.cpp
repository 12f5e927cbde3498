// block.cpp - runs the threads of a block as fibers of one CPU thread.
//
// A warp runs until all of its threads have ended or wait at a barrier of the block; then the next
// warp does. Within a warp a thread runs until a barrier or a shuffle, or its end; then the next
// one does. The order is the environment variable DOPL_EMULATOR_ORDER: 0 as numbered, 1 from the
// last, any other number seeds a shuffle of blocks, of warps and of the threads in them. A kernel
// whose result depends on it has a race. A barrier that not all threads reach, and a shuffle whose
// lanes do not all come, end the program with the kernel's name, where a GPU would hang or answer
// nonsense.
//
// Fibers change without a scheduler between them: who waits finds out who is next and goes there. A
// stack belongs to threads that wait: one that ends has the next one that has not begun run on its
// own, so that a kernel without barriers is a loop.
#include "block.h"
#include "memory.h"

#include <algorithm>
#include <sys/mman.h>
#include <vector>

namespace emulator {

// No power of 2: frames of many threads at the same depth would share a few lines of the cache.
enum { STACK_BYTES = (128 << 10) + 17 * 64 };

enum state { READY, AT_BLOCK, AT_WARP, DONE };

struct thread {
    place at;            // first: `here` points to it
    void *stack_pointer; // nullptr: it has not begun
    state where;
    unsigned mask;  // of the warp barrier it waits at
    shuffled given; // there
    int vote;       // at the block's
    int lane;
};

place *here;

static thread threads[MAX_THREADS];
static int n_threads;
static std::vector<unsigned> warps, lanes; // in the order they run in
static size_t warp, lane;                  // whose turn is next, by that order
static char *stacks;
static int n_stacks;  // in use in this block
static void *outside; // stack pointer of who runs the block
static const std::function<void()> *current_body;
static const char *current_name;
alignas(16) static unsigned char shared_memory[SHARED_LIMIT];
static shuffled exchanged[WARP_LANES];
static int votes[4]; // by kind of barrier

// Saves the registers a call preserves, changes stacks, and restores those of the other side.
extern "C" void dopl_emulator_switch(void **save, void *load);
asm(R"(
    .text
    .globl dopl_emulator_switch
    .hidden dopl_emulator_switch
    .type dopl_emulator_switch, @function
dopl_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size dopl_emulator_switch, .-dopl_emulator_switch
)");

void fault(const char *what) {
    const place &at = threads[0].at;
    fprintf(stderr, "emulator: %s: %s (block %u, %u, %u of %u, %u, %u)\n", current_name, what,
            at.block.x, at.block.y, at.block.z, at.grid_dim.x, at.grid_dim.y, at.grid_dim.z);
    abort();
}

// ---- whose turn it is

// Whether all lanes of a mask wait at it. Lanes that have ended count as absent: naming one is a
// mistake.
static bool have_come(const thread *of_warp, int n, unsigned mask) {
    for (int l = 0; l < WARP_LANES; l++) {
        if (!(mask >> l & 1)) continue;
        if (l >= n) { // the last warp of a block may be short
            if (mask != 0xffffffffu) fault("a mask names a lane that does not exist");
            continue;
        }
        const thread &t = of_warp[l];
        if (t.where == DONE) fault("a mask names a lane that has ended");
        if (t.where != AT_WARP || t.mask != mask) return false;
    }
    return true;
}

// Releases lanes that wait for lanes that have all come. What they have given is where they look
// as soon as they go on: before any lane of the warp can be released again.
static bool release_warp(int first) {
    thread *of_warp = &threads[first];
    int n = std::min<int>(n_threads - first, WARP_LANES);
    bool any = false;
    for (int l = 0; l < n; l++) {
        if (of_warp[l].where != AT_WARP) continue;
        unsigned mask = of_warp[l].mask;
        if (!have_come(of_warp, n, mask)) continue;
        for (int k = l; k < n; k++)
            if (mask >> k & 1) {
                exchanged[k] = of_warp[k].given;
                of_warp[k].where = READY;
            }
        any = true;
    }
    return any;
}

// False: all have ended.
static bool release_block() {
    int waiting = 0, done = 0, ayes = 0;
    for (int i = 0; i < n_threads; i++) {
        waiting += threads[i].where == AT_BLOCK;
        done += threads[i].where == DONE;
        ayes += threads[i].where == AT_BLOCK && threads[i].vote != 0;
    }
    if (done == n_threads) return false;
    if (waiting + done != n_threads) fault("threads wait at different barriers");
    for (int i = 0; i < n_threads; i++)
        if (threads[i].where == AT_BLOCK) threads[i].where = READY;
    votes[1] = ayes > 0;
    votes[2] = ayes == waiting;
    votes[3] = ayes;
    return true;
}

// nullptr: all have ended.
static thread *next() {
    do {
        for (; warp < warps.size(); warp++) {
            int first = (int)warps[warp] * WARP_LANES;
            do {
                while (lane < WARP_LANES) {
                    int i = first + (int)lanes[lane++];
                    if (i < n_threads && threads[i].where == READY) return &threads[i];
                }
                lane = 0;
            } while (release_warp(first));
        }
        warp = 0;
    } while (release_block());
    return nullptr;
}

// ---- fibers

static thread *self() {
    return reinterpret_cast<thread *>(here);
}

static void run_threads();

static void begin(thread *t) {
    char *top = stacks + (size_t)++n_stacks * STACK_BYTES;
    void **sp = reinterpret_cast<void **>(top) - 2; // as a call leaves it: 8 off a multiple of 16
    *sp = reinterpret_cast<void *>(run_threads);
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    t->stack_pointer = sp;
}

// nullptr: the block has ended.
static void go_to(thread *t, void **save) {
    if (t) {
        here = &t->at;
        if (!t->stack_pointer) begin(t);
    }
    dopl_emulator_switch(save, t ? t->stack_pointer : outside);
}

static void yield() {
    thread *from = self(), *to = next();
    if (to != from) go_to(to, &from->stack_pointer);
}

static void run_threads() {
    thread *to;
    do {
        (*current_body)();
        self()->where = DONE;
        to = next();
        if (to) here = &to->at;
    } while (to && !to->stack_pointer);
    static void *nowhere; // nobody comes back; AddressSanitizer would guard a local one for ever
    go_to(to, &nowhere);
    abort();
}

// ---- what kernels call

int lane_number() {
    return self()->lane;
}

const shuffled *gather(unsigned mask, shuffled given) {
    thread *t = self();
    if (!(mask >> t->lane & 1)) fault("a lane's own bit is missing in the mask");
    t->given = given;
    t->mask = mask;
    t->where = AT_WARP;
    yield();
    return exchanged;
}

int block_barrier(int vote, int kind) {
    thread *t = self();
    t->vote = vote;
    t->where = AT_BLOCK;
    yield();
    return votes[kind];
}

void *dynamic_shared() {
    return shared_memory;
}

// ---- grids

// Of memory without bounds (memory.h), the blocks at either end: 0 .. n - 1 as they come, FIRST and
// LAST of them.
static std::vector<unsigned> ends(unsigned n) {
    enum { FIRST = 4, LAST = 32 };
    std::vector<unsigned> out;
    for (unsigned i = 0; i < n; i++) {
        if (emulator::is_sparse() && i == FIRST && n > FIRST + LAST) i = n - LAST;
        out.push_back(i);
    }
    return out;
}

static unsigned order_seed() {
    const char *text = getenv("DOPL_EMULATOR_ORDER");
    return text ? (unsigned)atoi(text) : 0;
}

static void arrange(std::vector<unsigned> &order, unsigned n, unsigned seed) {
    order = ends(n);
    if (seed == 1) std::reverse(order.begin(), order.end());
    if (seed < 2) return;
    unsigned long long x = seed;
    for (size_t i = order.size(); i > 1; i--) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(x >> 33) % i]);
    }
}

static void run_block(uint3 number) {
    for (int i = 0; i < n_threads; i++) {
        threads[i].at.block = number;
        threads[i].where = READY;
        threads[i].stack_pointer = nullptr;
    }
    n_stacks = 0;
    warp = lane = 0;
    go_to(next(), &outside);
}

void run_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body) {
    if (!stacks) {
        void *got = mmap(nullptr, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED) abort();
        stacks = static_cast<char *>(got);
    }
    current_body = &body;
    current_name = name;
    n_threads = (int)(block.x * block.y * block.z);
    unsigned seed = order_seed();
    std::vector<unsigned> blocks;
    arrange(blocks, grid.x, seed);
    arrange(warps, (unsigned)(n_threads + WARP_LANES - 1) / WARP_LANES, seed);
    arrange(lanes, WARP_LANES, seed);
    for (unsigned i = 0; i < (unsigned)n_threads; i++) {
        threads[i].at = { uint3{ i % block.x, i / block.x % block.y, i / (block.x * block.y) },
                          uint3{}, block, grid };
        threads[i].lane = (int)(i % WARP_LANES);
    }
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y : ends(grid.y))
            for (unsigned x : blocks) {
                memset(shared_memory, 0xff, shared_bytes); // NaN: nobody has written it
                run_block(uint3{ x, y, z });
            }
}

} // namespace emulator

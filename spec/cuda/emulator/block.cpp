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
#include <link.h>
#include <sys/mman.h>
#include <vector>

namespace emulator {

// No power of 2: frames of many threads at the same depth would share a few lines of the cache.
enum { STACK_BYTES = (128 << 10) + 17 * 64 };

struct thread {
    place at;            // first: `here` points to it
    void *stack_pointer; // nullptr: it has not begun
    unsigned bit;        // in its warp's sets
    unsigned mask;       // of the warp barrier it waits at
};

// Threads lie in the order they run in. Of the sets of them, bit 0 is the first.
struct warp {
    thread *first;
    unsigned all, ready, waiting, ended; // waiting: at a barrier of the warp
    unsigned masks;                      // what masks of those that wait have in common
};

place *here;

static thread threads[MAX_THREADS];
static warp warps[MAX_THREADS / WARP_LANES], *now; // whose turn it is
static unsigned n_threads, n_warps;
static unsigned n_waiting, n_ended, ayes; // at the block's barrier; of all; votes there
static char *stacks;
static int n_stacks;  // in use in this block
static void *outside; // stack pointer of who runs the block
static const std::function<void()> *current_body;
static const char *current_name;
alignas(16) static unsigned char shared_memory[SHARED_LIMIT];
static shuffled values[2][WARP_LANES], *given = values[0], *taken = values[1]; // by lane
static int votes[4];                                                           // by kind of barrier

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
    const place &at = *here;
    fprintf(stderr, "emulator: %s: %s (block %u, %u, %u of %u, %u, %u)\n", current_name, what,
            at.block.x, at.block.y, at.block.z, at.grid_dim.x, at.grid_dim.y, at.grid_dim.z);
    abort();
}

// ---- whose turn it is

static unsigned first_of(unsigned set) {
    return (unsigned)__builtin_ctz(set);
}

// The threads of the warp whose lanes a mask names. To name one that has ended is a mistake.
static unsigned named_by(const warp &w, unsigned mask) {
    unsigned set = w.all; // the last warp of a block may be short
    if (mask != ALL_LANES) {
        for (unsigned left = w.all; left; left &= left - 1)
            if (!(mask >> w.first[first_of(left)].at.lane & 1)) set &= ~(left & -left);
        if (__builtin_popcount(set) != __builtin_popcount(mask))
            fault("a mask names a lane that does not exist");
    }
    if (set & w.ended) fault("a mask names a lane that has ended");
    return set;
}

// Releases threads that wait for threads that have all come. What they have given is where they
// look as soon as they go on: before any thread of the warp can be released again.
static bool release_warp(warp &w) {
    if (w.waiting == w.all && w.masks == ALL_LANES) {
        std::swap(given, taken);
        w.ready = w.all;
        w.waiting = 0;
        return true;
    }
    for (unsigned left = w.waiting; left;) {
        unsigned mask = w.first[first_of(left)].mask, set = named_by(w, mask), come = 0;
        for (unsigned of = set & w.waiting; of; of &= of - 1)
            if (w.first[first_of(of)].mask == mask) come |= of & -of;
        left &= left - 1;
        if (come != set) continue;
        for (unsigned l = 0; l < WARP_LANES; l++)
            if (mask >> l & 1) taken[l] = given[l];
        w.ready |= set;
        w.waiting &= ~set;
        left &= ~set;
    }
    if (!w.waiting) w.masks = ALL_LANES;
    return w.ready != 0;
}

// False: all have ended.
static bool release_block() {
    if (n_ended == n_threads) return false;
    if (n_waiting + n_ended != n_threads) fault("threads wait at different barriers");
    for (warp *w = warps; w < warps + n_warps; w++) w->ready = w->all & ~w->ended;
    votes[1] = ayes > 0;
    votes[2] = ayes == n_waiting;
    votes[3] = (int)ayes;
    n_waiting = ayes = 0;
    return true;
}

// To the first warp that can go on. False: all have ended.
static bool turn_on() {
    while (!now->ready && !release_warp(*now))
        if (++now == warps + n_warps) {
            now = warps;
            if (!release_block()) return false;
        }
    return true;
}

// nullptr: all have ended.
static inline thread *next() {
    if (!now->ready && !turn_on()) return nullptr;
    thread *t = now->first + first_of(now->ready);
    now->ready &= now->ready - 1;
    return t;
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
        now->ended |= self()->bit;
        n_ended++;
        to = next();
        if (to) here = &to->at;
    } while (to && !to->stack_pointer);
    static void *nowhere; // nobody comes back; AddressSanitizer would guard a local one for ever
    go_to(to, &nowhere);
    abort();
}

// ---- what kernels call

const shuffled *gather(unsigned mask, shuffled value) {
    thread *t = self();
    if (!(mask >> t->at.lane & 1)) fault("a lane's own bit is missing in the mask");
    given[t->at.lane] = value;
    t->mask = mask;
    now->waiting |= t->bit;
    now->masks &= mask;
    yield();
    return taken;
}

int block_barrier(int vote, int kind) {
    n_waiting++;
    ayes += vote != 0;
    yield();
    return votes[kind];
}

void *dynamic_shared() {
    return shared_memory;
}

// ---- shared memory

struct region {
    void *start;
    size_t bytes;
};

extern "C" void *__tls_get_addr(size_t (*module_and_offset)[2]);

// The variables in shared memory of all kernels of the library that a function is in: what that
// library has of memory by thread, which nothing else in it asks for.
static region shared_variables(const void *of) {
    struct {
        uintptr_t function;
        size_t bytes, module_and_offset[2];
    } found = { reinterpret_cast<uintptr_t>(of), 0, {} };
    auto look = [](dl_phdr_info *library, size_t, void *data) {
        auto *f = static_cast<decltype(found) *>(data);
        bool is_in = false;
        for (const ElfW(Phdr) *p = library->dlpi_phdr; p < library->dlpi_phdr + library->dlpi_phnum;
             p++) {
            is_in |=
                p->p_type == PT_LOAD && f->function - library->dlpi_addr - p->p_vaddr < p->p_memsz;
            if (p->p_type == PT_TLS) f->bytes = p->p_memsz;
        }
        f->module_and_offset[0] = library->dlpi_tls_modid;
        if (!is_in) f->bytes = 0;
        return is_in ? 1 : 0;
    };
    dl_iterate_phdr(look, &found);
    return { found.bytes ? __tls_get_addr(&found.module_and_offset) : nullptr, found.bytes };
}

// ---- grids

// 0 .. n - 1 as they come, FIRST and LAST of them.
std::vector<unsigned> ends(unsigned n) {
    enum { FIRST = 4, LAST = 32 };
    std::vector<unsigned> out;
    for (unsigned i = 0; i < n; i++) {
        if (emulator::is_sparse() && i == FIRST && n > FIRST + LAST) i = n - LAST;
        out.push_back(i);
    }
    return out;
}

unsigned order_seed() {
    const char *text = getenv("DOPL_EMULATOR_ORDER");
    return text ? (unsigned)atoi(text) : 0;
}

std::vector<unsigned> arrange(unsigned n, unsigned seed) {
    std::vector<unsigned> order = ends(n);
    if (seed == 1) std::reverse(order.begin(), order.end());
    if (seed < 2) return order;
    unsigned long long x = seed;
    for (size_t i = order.size(); i > 1; i--) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(x >> 33) % i]);
    }
    return order;
}

// Threads take their places, in an order.
static void place_threads(dim3 grid, dim3 block, unsigned seed) {
    n_threads = block.x * block.y * block.z;
    n_warps = (n_threads + WARP_LANES - 1) / WARP_LANES;
    std::vector<unsigned> order = arrange(n_warps, seed), lanes = arrange(WARP_LANES, seed);
    for (unsigned i = 0; i < n_warps; i++) {
        warp &w = warps[i];
        w.first = threads + i * WARP_LANES;
        w.all = 0;
        thread *t = w.first;
        for (unsigned lane : lanes) {
            unsigned n = order[i] * WARP_LANES + lane;
            if (n >= n_threads) continue;
            t->at = { uint3{ n % block.x, n / block.x % block.y, n / (block.x * block.y) }, uint3{},
                      block, grid, (int)lane };
            t->bit = w.all + 1;
            w.all |= t++->bit;
        }
    }
}

static void run_block(uint3 number) {
    for (warp *w = warps; w < warps + n_warps; w++) {
        w->ready = w->all;
        w->waiting = w->ended = 0;
        w->masks = ALL_LANES;
        for (thread *t = w->first; t < w->first + __builtin_popcount(w->all); t++) {
            t->at.block = number;
            t->stack_pointer = nullptr;
        }
    }
    n_stacks = 0;
    n_waiting = n_ended = ayes = 0;
    now = warps;
    go_to(next(), &outside);
}

void run_grid(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body) {
    if (!stacks) {
        void *got = mmap(nullptr, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED) abort();
        stacks = static_cast<char *>(got);
    }
    current_body = &body;
    current_name = name;
    unsigned seed = order_seed();
    place_threads(grid, block, seed);
    std::vector<unsigned> blocks = arrange(grid.x, seed);
    region variables = shared_variables(function);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y : ends(grid.y))
            for (unsigned x : blocks) {
                memset(shared_memory, 0xff, shared_bytes); // NaN: nobody has written it
                if (variables.bytes) memset(variables.start, 0xff, variables.bytes);
                run_block(uint3{ x, y, z });
            }
}

} // namespace emulator

// memory.cpp - memory of the device: out of the host's reach, except while the device works.
//
// Blocks lie in one range of addresses. The pages of it are opened for each piece of work of the
// device and closed after it: host code that follows a pointer of the device faults, as it does on
// a GPU, with a message. A kernel that is given an address of the host's ends the program too.
//
// What is in no block is filled with NaN, between blocks too. A byte of it that has changed when it
// becomes a block, or the block before it is given back, has been written by a kernel that ran past
// its block's end, or used it too long.
//
// AddressSanitizer sees more of this than pages do: built with it, blocks are malloc's, which it
// guards on all sides, and nothing is closed.
#include "memory.h"
#include <cuda_runtime.h>

#include <execinfo.h>
#include <iterator>
#include <map>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emulator {

#ifdef __SANITIZE_ADDRESS__
enum { GUARDED = false };
#else
enum { GUARDED = true };
#endif

// DOPL_EMULATOR_SPARSE=1: memory of any size, of which only what is touched exists. Blocks lie far
// apart, so that an index that is off by 2^31 or more meets no other; they are full of 0.
bool is_sparse() {
    static const char *text = getenv("DOPL_EMULATOR_SPARSE");
    return text && strcmp(text, "1") == 0;
}

static const size_t FAR = (size_t)16 << 30;
static const size_t RANGE = (size_t)(is_sparse() ? 40 << 10 : 64) << 30; // of addresses
static const size_t GRAIN = 256;    // blocks start at multiples of it
static const size_t PAGE = 2 << 20; // large ones, of which few need be opened and closed

typedef std::map<char *, size_t> areas; // bytes by address

static char *range;    // its start
static size_t n_ready; // bytes from there that were ever part of a block; whole pages
static size_t n_taken; // bytes of all blocks
static int n_reach;

static areas &blocks() {
    static areas all;
    return all;
}

static areas &gaps() { // between blocks, up to n_ready
    static areas all;
    return all;
}

__attribute__((noreturn, format(printf, 1, 2))) static void end(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emulator: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

static bool is_in_range(const void *data) {
    size_t at = (size_t)(static_cast<const char *>(data) - range);
    return range && at < RANGE;
}

// ---- faults

static struct sigaction others; // what handles faults elsewhere

static void on_fault(int signal, siginfo_t *about, void *context) {
    if (!is_in_range(about->si_addr)) {
        if (others.sa_flags & SA_SIGINFO)
            others.sa_sigaction(signal, about, context);
        else if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN)
            others.sa_handler(signal);
        else
            sigaction(SIGSEGV, &others, nullptr); // the instruction is run again, and ends us
        return;
    }
    char text[128];
    int n = snprintf(text, sizeof text, "emulator: %s %p, a fault on a GPU\n",
                     n_reach ? "a kernel reached far outside of all blocks, to"
                             : "host code reached for memory of the device at",
                     about->si_addr);
    (void)!write(STDERR_FILENO, text, (size_t)n);
    void *caller[24];
    backtrace_symbols_fd(caller, backtrace(caller, 24), STDERR_FILENO);
    struct sigaction none = {};
    none.sa_handler = SIG_DFL;
    sigaction(SIGSEGV, &none, nullptr);
}

static void reserve() {
    void *got =
        mmap(nullptr, RANGE + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) end("no %zu GiB of addresses for memory of the device", RANGE >> 30);
    range = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(got) + PAGE - 1) / PAGE * PAGE);
    if (!is_sparse())
        (void)madvise(range, RANGE, MADV_HUGEPAGE); // where the system has none: slower
    void *first;
    (void)backtrace(&first, 1); // loads what it needs, which a handler should not
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &others);
}

// ---- opening and closing

static void protect(int how) {
    if (n_ready && mprotect(range, n_ready, how)) end("mprotect failed");
}

reach::reach() {
    if (n_reach++ == 0) protect(PROT_READ | PROT_WRITE);
}

reach::~reach() {
    if (--n_reach == 0) protect(PROT_NONE);
}

// ---- blocks

static bool is_nan(const char *data, size_t bytes) {
    return bytes == 0 || (*data == -1 && memcmp(data, data + 1, bytes - 1) == 0);
}

// Adds a gap, as one with those it touches.
static void add_gap(char *data, size_t bytes) {
    auto next = gaps().lower_bound(data);
    if (next != gaps().end() && data + bytes == next->first) {
        bytes += next->second;
        next = gaps().erase(next);
    }
    if (next != gaps().begin() && std::prev(next)->first + std::prev(next)->second == data)
        std::prev(next)->second += bytes;
    else
        gaps()[data] = bytes;
}

static bool grow(size_t bytes) {
    size_t more = (bytes + PAGE - 1) / PAGE * PAGE;
    if (more > RANGE - n_ready) return false;
    char *data = range + n_ready;
    n_ready += more;
    protect(PROT_READ | PROT_WRITE);
    memset(data, 0xff, more);
    add_gap(data, more);
    return true;
}

// With what comes after a block, which is never nothing.
static size_t whole(size_t bytes) {
    return (bytes + 2 * GRAIN - 1) / GRAIN * GRAIN;
}

static void *take_far(size_t bytes) {
    static size_t at = FAR;
    size_t room = (bytes + 4095) / 4096 * 4096;
    char *block = range + at;
    if (room > RANGE - at || mprotect(block, room, PROT_READ | PROT_WRITE)) return nullptr;
    at += room + FAR;
    n_taken += blocks()[block] = bytes;
    return block;
}

// DOPL_EMULATOR_BLOCKS=1: says at the end how many blocks the driver was asked for.
static void count_block() {
    static int n;
    if (n++ == 0 && getenv("DOPL_EMULATOR_BLOCKS"))
        atexit([] { fprintf(stderr, "emulator: %d blocks\n", n); });
}

void *take(size_t bytes) {
    count_block();
    if (!GUARDED) {
        void *block;
        if (posix_memalign(&block, GRAIN, bytes)) return nullptr;
        memset(block, 0xff, bytes);
        n_taken += blocks()[static_cast<char *>(block)] = bytes;
        return block;
    }
    if (!range) reserve();
    if (is_sparse()) return take_far(bytes);
    reach open;
    size_t n = whole(bytes);
    auto gap = gaps().begin(); // the first that is large enough: what must be opened stays small
    while (gap != gaps().end() && gap->second < n) ++gap;
    if (gap == gaps().end()) {
        if (!grow(n)) return nullptr;
        gap = std::prev(gaps().end());
    }
    char *block = gap->first;
    size_t rest = gap->second - n;
    gaps().erase(gap);
    if (rest) gaps()[block + n] = rest;
    if (!is_nan(block, n))
        end("memory at %p to %p was written while it belonged to no block", (void *)block,
            (void *)(block + n));
    n_taken += blocks()[block] = bytes;
    return block;
}

bool give(void *data) {
    auto it = blocks().find(static_cast<char *>(data));
    if (it == blocks().end()) return false;
    char *block = it->first;
    size_t bytes = it->second, n = whole(bytes);
    n_taken -= bytes;
    blocks().erase(it);
    if (!GUARDED) {
        free(block);
        return true;
    }
    if (is_sparse()) {
        size_t room = (bytes + 4095) / 4096 * 4096;
        (void)madvise(block, room, MADV_DONTNEED);
        (void)mprotect(block, room, PROT_NONE);
        return true;
    }
    reach open;
    if (!is_nan(block + bytes, n - bytes))
        end("something was written past the end of a block of %zu bytes at %p", bytes, data);
    memset(block, 0xff, bytes);
    add_gap(block, n);
    return true;
}

bool is_block(const void *data) {
    return blocks().count(static_cast<char *>(const_cast<void *>(data))) > 0;
}

void *block_around(const void *data, size_t *bytes) {
    char *at = static_cast<char *>(const_cast<void *>(data));
    auto after = blocks().upper_bound(at);
    if (after == blocks().begin()) return nullptr;
    const auto &block = *std::prev(after);
    *bytes = block.second;
    return at < block.first + block.second ? block.first : nullptr;
}

size_t bytes_taken() {
    return n_taken;
}

// ---- what work is given

void must_be_device(const char *who, const void *data, size_t bytes) {
    const char *first = static_cast<const char *>(data);
    auto after = blocks().upper_bound(const_cast<char *>(first));
    if (bytes == 0) return;
    if (after != blocks().begin()) {
        const auto &block = *std::prev(after);
        if (first + bytes <= block.first + block.second) return;
        if (first < block.first + block.second)
            end("%s: %zu bytes at %p, where a block has %zu more", who, bytes, data,
                (size_t)(block.first + block.second - first));
    }
    end("%s: %s given as memory of the device: %p", who,
        is_in_range(data) ? "an address in no block" : "an address of the host's", data);
}

void must_be_host(const char *who, const void *data, size_t bytes) {
    if (bytes > 0 && is_in_range(data))
        end("%s: memory of the device given as the host's: %p", who, data);
}

// Looks at words that can be an address; a number that is one by chance is not one of a page in
// memory: the host's arena reserves many more addresses than it uses. Pairs of indices, which count
// from 0, have a half too small for one.
void must_hold_no_host_address(const char *who, const void *data, size_t bytes) {
    if (!GUARDED) return;
    for (size_t at = 0; at + sizeof(uint64_t) <= bytes; at += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, static_cast<const char *>(data) + at, sizeof word);
        if (word >> 47 || word >> 32 == 0 || (uint32_t)word < 1 << 20) continue;
        void *page = reinterpret_cast<void *>(word & ~(uint64_t)4095);
        unsigned char resident;
        if (!is_in_range(page) && mincore(page, 1, &resident) == 0 && (resident & 1))
            end("%s: an address of the host's given to the device: %p", who,
                reinterpret_cast<void *>(word));
    }
}

void check_argument(const char *kernel, const void *argument, size_t bytes, bool is_pointer) {
    const void *data = nullptr;
    if (is_pointer) memcpy(&data, argument, sizeof data);
    if (GUARDED && data && !is_in_range(data))
        end("%s: an address of the host's given to the device: %p", kernel, data);
    if (!is_pointer) must_hold_no_host_address(kernel, argument, bytes);
}

} // namespace emulator

// memory.cpp - PTX's loads and stores: each within a block of memory, and a multiple of its size.
#include "code.h"
#include "../emulator/block.h"
#include "../emulator/memory.h"

#include <algorithm>

namespace emulator {
namespace ptx {

static bool is_counted() {
    static const bool counted = getenv("DOPL_EMULATOR_COUNT") != nullptr;
    return counted;
}

// ---- races
//
// With DOPL_EMULATOR_RACES=1 every byte knows who wrote it last, who read it, and when. Of two
// accesses, one of which writes, by different threads, something must have put them in an order: a
// barrier of the block or, within a warp, of the warp. What a lane has read before a shuffle may be
// written by another after it, which may hold what the first has made of it. Nothing puts blocks of
// a grid in an order.

static bool is_watched() {
    static const char *text = getenv("DOPL_EMULATOR_RACES");
    return text && strcmp(text, "1") == 0;
}

enum : uint8_t { SEVERAL = 255 };

struct access {
    uint32_t when;
    uint8_t warp, lane; // or SEVERAL
};
struct record {
    access wrote, read;
};

static std::vector<record> of_shared;
static std::map<const char *, std::vector<record>> of_blocks; // of memory, by where they begin
static std::vector<record> *of_known;

// Whether nothing has put the access before one of a lane of this warp, whose own are in order from
// before that time.
static bool is_open(const access &a, const warp &w, unsigned lane, bool is_shared,
                    uint32_t in_order) {
    const block &b = *w.in;
    if (a.when < (is_shared ? b.begun : b.launched)) return false;
    if (a.when < b.begun) return true; // another block's
    if (a.when < b.released) return false;
    if (a.warp != w.number) return true;
    return a.lane != lane && a.when >= in_order;
}

static void add_reader(access &a, const warp &w, unsigned lane, bool is_shared) {
    access reader = { moment, (uint8_t)w.number, (uint8_t)lane };
    if (is_open(a, w, lane, is_shared, w.gathered)) {
        if (a.warp != w.number || a.when < w.in->begun) reader.warp = SEVERAL;
        reader.lane = SEVERAL;
        if (a.when < w.in->begun) reader.when = a.when; // another block's outlasts this one's
    }
    a = reader;
}

static void watch(const warp &w, const instruction &i, std::vector<record> &records, size_t at,
                  unsigned bytes, unsigned lane, bool writes, bool is_shared) {
    for (record *r = &records[at]; r < &records[at] + bytes; r++) {
        if (is_open(r->wrote, w, lane, is_shared, w.met))
            stop(w.in->code, &i, writes ? "a race: two write" : "a race: read while it is written");
        if (writes && is_open(r->read, w, lane, is_shared, w.gathered))
            stop(w.in->code, &i, "a race: written while it is read");
        if (writes)
            r->wrote = { moment, (uint8_t)w.number, (uint8_t)lane };
        else
            add_reader(r->read, w, lane, is_shared);
    }
}

// ---- addresses

// Whether so many bytes lie in n: of an address before the first, `at` is near 2^64.
static bool is_within(uint64_t at, unsigned bytes, size_t n) {
    return at < n && bytes <= n - at;
}

// The block of memory that was used last, as most others will be.
static const char *known;
static size_t known_bytes;

void forget_blocks() {
    known = nullptr;
    known_bytes = 0;
}

static void must_be_there(const warp &w, const instruction &i, const char *p, unsigned bytes) {
    auto from_known = [p] {
        return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(known);
    };
    if (is_within(from_known(), bytes, known_bytes)) return;
    size_t n = 0;
    known = static_cast<const char *>(block_around(p, &n));
    known_bytes = n;
    if (!known) stop(w.in->code, &i, "an address in no block");
    if (!is_within(from_known(), bytes, n)) stop(w.in->code, &i, "past the end of a block");
    if (!is_watched()) return;
    of_known = &of_blocks[known];
    if (of_known->size() < n) of_known->resize(n);
}

static void watch(const warp &w, const instruction &i, space where, const char *p, unsigned bytes,
                  unsigned lane, bool writes) {
    if (!is_watched() || where > SHARED) return;
    bool is_shared = where == SHARED;
    if (is_shared && of_shared.size() < w.in->shared.size()) of_shared.resize(SHARED_LIMIT);
    if (!is_shared) must_be_there(w, i, p, bytes); // makes its block the known one
    watch(w, i, is_shared ? of_shared : *of_known,
          (size_t)(p - (is_shared ? w.in->shared.data() : known)), bytes, lane, writes, is_shared);
}

static char *reach_to(const warp &w, const instruction &i, space where, unsigned lane,
                      unsigned bytes) {
    uint64_t at = value(w, i.at[4], i.is_wide[1], (int)lane) + (uint64_t)i.offset[0];
    if (at % bytes) stop(w.in->code, &i, "an address off its size");
    switch (where) {
    case SHARED:
        if (!is_within(at, bytes, w.in->shared.size()))
            stop(w.in->code, &i, "outside of shared memory");
        return &w.in->shared[at];
    case PARAM:
        if (!is_within(at, bytes, w.in->parameters.size()))
            stop(w.in->code, &i, "outside of parameters");
        return &w.in->parameters[at];
    case CONSTANT:
        if (!is_within(at, bytes, w.in->code->constants.size()))
            stop(w.in->code, &i, "outside of constants");
        return const_cast<char *>(&w.in->code->constants[at]);
    default:
        must_be_there(w, i, reinterpret_cast<char *>(at), bytes);
        return reinterpret_cast<char *>(at);
    }
}

// ---- counts

// Of a request of a warp: 32-byte sectors of global memory; of shared memory turns, in each of
// which a bank gives one word of 4 bytes, for 8 lanes that want 16 bytes, 16 that want 8.
static void count(const warp &w, const instruction &i, char *const *at, unsigned bytes) {
    std::vector<uintptr_t> wanted;
    if (i.where == GLOBAL) {
        FOR_LANES(lane, w.on) wanted.push_back(reinterpret_cast<uintptr_t>(at[lane]) / 32);
        std::sort(wanted.begin(), wanted.end());
        size_t n = (size_t)(std::unique(wanted.begin(), wanted.end()) - wanted.begin());
        i.count.units += n;
        // lanes may all want the same bytes: as many as there are
        std::vector<uintptr_t> all;
        FOR_LANES(lane, w.on) all.push_back(reinterpret_cast<uintptr_t>(at[lane]));
        std::sort(all.begin(), all.end());
        size_t different = (size_t)(std::unique(all.begin(), all.end()) - all.begin());
        i.count.least += (different * bytes + 31) / 32;
        return;
    }
    unsigned lanes = bytes > 8 ? 8 : bytes > 4 ? 16 : 32;
    for (unsigned first = 0; first < WARP_LANES; first += lanes) {
        std::vector<uintptr_t> of_bank[32];
        size_t most = 0;
        FOR_LANES(lane, w.on) {
            if (lane < first || lane >= first + lanes) continue;
            uintptr_t word = (uintptr_t)(at[lane] - w.in->shared.data()) / 4;
            for (unsigned k = 0; k < std::max(1u, bytes / 4); k++) {
                std::vector<uintptr_t> &words = of_bank[(word + k) % 32];
                if (std::find(words.begin(), words.end(), word + k) == words.end())
                    words.push_back(word + k);
                most = std::max(most, words.size());
            }
        }
        i.count.units += most;
        i.count.least += most > 0;
    }
}

// ---- loads and stores

static uint64_t read(const char *p, unsigned bytes, bool is_signed) {
    switch (bytes) {
    case 1:
        return is_signed ? (uint64_t)(int64_t)(int8_t)*p : (uint8_t)*p;
    case 2: {
        uint16_t x;
        memcpy(&x, p, 2);
        return is_signed ? (uint64_t)(int64_t)(int16_t)x : x;
    }
    case 4: {
        uint32_t x;
        memcpy(&x, p, 4);
        return is_signed ? (uint64_t)(int64_t)(int32_t)x : x;
    }
    default:
        uint64_t x;
        memcpy(&x, p, 8);
        return x;
    }
}

void load(warp &w, const instruction &i) {
    unsigned bytes = i.bytes * i.n;
    char *from[WARP_LANES];
    FOR_LANES(lane, w.on) from[lane] = reach_to(w, i, i.where, lane, bytes);
    if (is_counted() && i.where <= SHARED) count(w, i, from, bytes);
    FOR_LANES(lane, w.on) {
        watch(w, i, i.where, from[lane], bytes, lane, false);
        for (unsigned k = 0; k < i.n; k++)
            set_value(w, i.at[k], i.is_wide[0], (int)lane,
                      read(from[lane] + k * i.bytes, i.bytes, i.is_signed));
    }
}

void store(warp &w, const instruction &i) {
    unsigned bytes = i.bytes * i.n;
    char *to[WARP_LANES];
    FOR_LANES(lane, w.on) to[lane] = reach_to(w, i, i.where, lane, bytes);
    if (is_counted()) count(w, i, to, bytes);
    FOR_LANES(lane, w.on) {
        watch(w, i, i.where, to[lane], bytes, lane, true);
        for (unsigned k = 0; k < i.n; k++) {
            uint64_t x = value(w, i.at[k], i.is_wide[0], (int)lane);
            memcpy(to[lane] + k * i.bytes, &x, i.bytes);
        }
    }
}

void shared_min(warp &w, const instruction &i) {
    FOR_LANES(lane, w.on) {
        int32_t old, x = (int32_t)value(w, i.at[1], false, (int)lane);
        char *p = reach_to(w, i, i.where, lane, 4);
        memcpy(&old, p, 4);
        if (x < old) memcpy(p, &x, 4);
        set_value(w, i.at[0], false, (int)lane, (uint32_t)old);
    }
}

// ---- tensor cores

// Lane 8 i + r gives the address of row r of matrix i. A lane gets elements 2 * (lane % 4) and the
// next of row lane / 4; of .trans those of column lane / 4.
void matrices(warp &w, const instruction &i) {
    char *row[WARP_LANES];
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        row[lane] = reach_to(w, i, SHARED, lane, 16);
        watch(w, i, SHARED, row[lane], 16, lane, false);
    }
    if (is_counted()) count(w, i, row, 16);
    auto element = [&](unsigned matrix, unsigned r, unsigned c) {
        return (uint32_t)read(row[8 * matrix + r] + 2 * c, 2, false);
    };
    for (unsigned m = 0; m < i.n; m++)
        for (unsigned lane = 0; lane < WARP_LANES; lane++) {
            unsigned y = lane / 4, x = 2 * (lane % 4);
            uint32_t low = i.is_signed ? element(m, x, y) : element(m, y, x),
                     high = i.is_signed ? element(m, x + 1, y) : element(m, y, x + 1);
            set_value(w, i.at[m], false, (int)lane, high << 16 | low);
        }
}

// ---- copies that go on by themselves: done when they are waited for, and no sooner

void copy_start(warp &w, const instruction &i) {
    char *from_all[WARP_LANES];
    FOR_LANES(lane, w.on) {
        char *to = reach_to(w, i, SHARED, lane, i.bytes);
        unsigned valid = values<uint32_t>(w, i.at[6])[lane];
        if (valid > i.bytes) stop(w.in->code, &i, "cp.async: more bytes than it copies");
        uint64_t at = values<uint64_t>(w, i.at[5])[lane] + (uint64_t)i.offset[1];
        char *from = reinterpret_cast<char *>(at);
        if (at % i.bytes) stop(w.in->code, &i, "an address off its size");
        if (valid) must_be_there(w, i, from, valid);
        from_all[lane] = from;
        watch(w, i, SHARED, to, i.bytes, lane, true);
        if (valid) watch(w, i, GLOBAL, from, valid, lane, false);
        memset(to, 0xff, i.bytes);
        w.copies[lane].push_back({ to, from, i.bytes, valid, w.groups[lane] });
    }
    if (is_counted()) {
        unsigned on = w.on;
        FOR_LANES(lane, on) {
            if (!values<uint32_t>(w, i.at[6])[lane]) w.on &= ~(1u << lane);
        }
        count(w, i, from_all, i.bytes);
        w.on = on;
    }
}

void copy_close(warp &w, const instruction &) {
    FOR_LANES(lane, w.on) w.groups[lane]++;
}

void copy_wait(warp &w, const instruction &i) {
    FOR_LANES(lane, w.on) {
        std::vector<copy> &open = w.copies[lane];
        size_t n = 0;
        for (; n < open.size() && open[n].group + i.n < w.groups[lane]; n++) {
            memcpy(open[n].to, open[n].from, open[n].valid);
            memset(open[n].to + open[n].valid, 0, open[n].bytes - open[n].valid);
        }
        open.erase(open.begin(), open.begin() + (ptrdiff_t)n);
    }
}

} // namespace ptx
} // namespace emulator

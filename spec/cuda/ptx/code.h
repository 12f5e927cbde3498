// code.h - instructions as they are run, and the warp they change.
//
// A warp's registers are one array of bytes: of each register the 32 lanes' values side by side, 4
// or 8 bytes each; of a predicate a set of lanes. Constants and special registers are registers
// too.
#ifndef DOPL_EMULATOR_PTX_CODE_H
#define DOPL_EMULATOR_PTX_CODE_H

#include <map>
#include <memory> // before CUDA's __noinline__
#include <sstream>

#include "ptx.h"

namespace emulator {
namespace ptx {

enum : unsigned { NONE = ~0u };

struct warp;
struct instruction;
typedef void handler(warp &w, const instruction &i);

// What has to be known of an instruction besides what it computes.
enum kind { ORDINARY, BRANCH, RETURN, BARRIER, BY_MASK, BY_WARP };
// BY_MASK: lanes that an operand names go through it together. BY_WARP: all of them.

enum space { GLOBAL, SHARED, PARAM, CONSTANT };

struct counter {
    uint64_t times, lanes; // warps that ran it; lanes of them
    uint64_t units, least; // sectors of 32 bytes, or turns of shared memory; what it could be
};

struct instruction {
    handler *run;
    kind what;
    unsigned guard; // register, or NONE
    bool unless;
    unsigned target;   // of a branch
    unsigned at[14];   // operands, in bytes of the warp's registers
    int64_t offset[2]; // of addresses
    unsigned bytes, n; // of memory: of an element; how many. Of a barrier's vote: 1 or, 2 and
    bool is_signed, is_wide[2]; // the elements; registers of the value, of the address: 8 bytes
    space where;
    unsigned text; // its line
    mutable counter count;
};

// How an instruction's operands lie: 'p' predicate, 4 or 8 bytes; the result first.
struct form {
    handler *run;
    std::string operands;
};
const std::map<std::string, form> &arithmetic(); // ops.cpp

struct special {
    unsigned at;
    std::string name;
};

struct kernel {
    std::string name;
    std::vector<size_t> parameter_at, parameter_bytes;
    size_t parameters_bytes, static_shared;
    unsigned most_threads; // 0: any
    std::vector<instruction> code;
    std::vector<std::string> text;
    std::string constants; // the space of them
    std::string registers; // as a warp begins: garbage, and constants
    std::vector<special> specials;
};
// text: from its name on. before: what the module has declared.
std::unique_ptr<kernel> parse(const std::string &text, const std::string &before);

// Ends the program.
__attribute__((noreturn)) void stop(const kernel *k, const instruction *i, const std::string &what);

struct copy {
    char *to;
    const char *from;
    unsigned bytes, valid, group;
};

struct block {
    const kernel *code;
    std::vector<char> shared;
    std::string parameters;
    dim3 size, grid;
    uint3 number;
    uint32_t launched, begun, released; // when: the grid, this block, its threads from a barrier
};

// Lanes of a warp that are at one place.
struct path {
    unsigned pc, lanes;
    bool waits; // for others
};

// Counts whatever puts accesses in an order: launches, blocks' beginnings, barriers, those of
// warps.
extern uint32_t moment;

struct warp {
    char *registers;
    block *in;
    unsigned number, all, ended;
    path now;
    unsigned on; // lanes that the instruction is for
    path others[WARP_LANES];
    int n_others;
    bool at_barrier, aye;
    uint32_t met, gathered; // when its lanes last did: at a barrier; for anything, a shuffle too
    std::vector<copy> copies[WARP_LANES];
    unsigned groups[WARP_LANES];
};

template <class T> T *values(const warp &w, unsigned at) {
    return reinterpret_cast<T *>(w.registers + at);
}
inline unsigned &predicate(const warp &w, unsigned at) {
    return *values<unsigned>(w, at);
}
inline uint64_t value(const warp &w, unsigned at, bool is_wide, int lane) {
    return is_wide ? values<uint64_t>(w, at)[lane] : values<uint32_t>(w, at)[lane];
}
inline void set_value(const warp &w, unsigned at, bool is_wide, int lane, uint64_t x) {
    if (is_wide)
        values<uint64_t>(w, at)[lane] = x;
    else
        values<uint32_t>(w, at)[lane] = (uint32_t)x;
}

#define FOR_LANES(lane, set)                                                                       \
    for (unsigned left_ = (set), lane = 0; left_ && ((lane = (unsigned)__builtin_ctz(left_)), 1);  \
         left_ &= left_ - 1)

// memory.cpp
handler load, store, copy_start, copy_close, copy_wait, matrices, shared_min;
void forget_blocks(); // which may have been given back since
// ops.cpp
handler multiply_matrices, shuffle, greatest, meet_lanes;

} // namespace ptx
} // namespace emulator

#endif

// run.cpp - runs kernels' PTX: a warp's lanes together, one instruction at a time.
//
// DOPL_EMULATOR_PTX names the folder with the PTX of all kernels. Lanes that a branch has parted go
// on where the first of them in the text is, and are one again where they meet. Instructions that
// lanes go through together wait for all of them: for those that never come, a GPU would wait for
// ever, or answer nonsense; here the program ends, and says where.
#include "code.h"
#include "../emulator/block.h"
#include "../emulator/memory.h"

#include <algorithm>
#include <dlfcn.h>
#include <elf.h>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace emulator {
namespace ptx {

static block current;
uint32_t moment;

void stop(const kernel *k, const instruction *i, const std::string &what) {
    fprintf(stderr, "emulator: %s%s", k ? k->name.c_str() : "", k ? ": " : "");
    if (i) fprintf(stderr, "%s: ", k->text[i->text].c_str());
    fprintf(stderr, "%s", what.c_str());
    if (k)
        fprintf(stderr, " (block %u, %u, %u of %u, %u, %u)", current.number.x, current.number.y,
                current.number.z, current.grid.x, current.grid.y, current.grid.z);
    fprintf(stderr, "\n");
    abort();
}

// ---- the kernels there are

static std::string read_file(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

static const char *folder() {
    static const char *text = getenv("DOPL_EMULATOR_PTX");
    return text && *text ? text : nullptr;
}

bool is_asked_for() {
    return folder() != nullptr;
}

// A module's text; where in it each kernel's name is.
struct module {
    std::string text, declared;
    std::map<std::string, size_t> at;
    explicit module(std::string text_) : text(std::move(text_)) {
        const std::string entry = ".entry ";
        for (size_t k = text.find(entry); k != std::string::npos; k = text.find(entry, k + 1)) {
            size_t from = k + entry.size();
            at[text.substr(from, text.find('(', from) - from)] = from;
        }
        for (const char *with : { "\n.const ", "\n.shared ", "\n.extern .shared " })
            for (size_t k = text.find(with); k != std::string::npos; k = text.find(with, k + 1))
                declared += text.substr(k, text.find(';', k) + 1 - k);
    }
    std::unique_ptr<kernel> get(const std::string &name) const {
        auto found = at.find(name);
        if (found == at.end()) return nullptr;
        size_t end = text.find("\n}", found->second);
        return parse(text.substr(found->second, end + 2 - found->second), declared);
    }
};

static const std::vector<module> &modules() {
    static std::vector<module> all;
    if (all.empty())
        for (const auto &file : std::filesystem::recursive_directory_iterator(folder()))
            if (file.path().extension() == ".ptx") all.emplace_back(read_file(file.path()));
    if (all.empty()) stop(nullptr, nullptr, std::string("no PTX in ") + folder());
    return all;
}

// The names of functions of the library that this is in, which hides them from the loader.
static std::string name_of(const void *function) {
    static std::map<uintptr_t, std::string> names;
    Dl_info about;
    if (!dladdr(function, &about)) return "";
    if (names.empty()) {
        std::string file = read_file(about.dli_fname);
        const auto *head = reinterpret_cast<const Elf64_Ehdr *>(file.data());
        const auto *section = reinterpret_cast<const Elf64_Shdr *>(file.data() + head->e_shoff);
        for (const Elf64_Shdr *s = section; s < section + head->e_shnum; s++) {
            if (s->sh_type != SHT_SYMTAB) continue;
            const char *text = file.data() + section[s->sh_link].sh_offset;
            const auto *symbol = reinterpret_cast<const Elf64_Sym *>(file.data() + s->sh_offset);
            for (size_t i = 0; i < s->sh_size / sizeof *symbol; i++)
                if (ELF64_ST_TYPE(symbol[i].st_info) == STT_FUNC)
                    names[symbol[i].st_value] = text + symbol[i].st_name;
        }
    }
    std::string name =
        names[reinterpret_cast<uintptr_t>(function) - reinterpret_cast<uintptr_t>(about.dli_fbase)];
    if (name.compare(0, 3, "_ZL") == 0)
        name.erase(2, 1); // nvcc says it otherwise that it is static
    return name;
}

static std::map<const void *, std::unique_ptr<kernel>> &kernels() {
    static std::map<const void *, std::unique_ptr<kernel>> all;
    return all;
}

// DOPL_EMULATOR_COUNT=FILE: what kernels did, when they go. A line each: instructions of warps;
// lanes that took part on average; of global and of shared memory what was asked for, and what
// would have done (sectors of 32 bytes; turns of the banks). Then the instructions where that is
// not the same.
static void report(const kernel &k) {
    const char *path = getenv("DOPL_EMULATOR_COUNT");
    FILE *f = path ? fopen(path, "a") : nullptr;
    if (!f) return;
    uint64_t times = 0, lanes = 0, units[2] = {}, least[2] = {};
    for (const instruction &i : k.code) {
        times += i.count.times, lanes += i.count.lanes;
        if (i.where > SHARED) continue;
        units[i.where] += i.count.units, least[i.where] += i.count.least;
    }
    if (times)
        fprintf(f, "%s\t%lu\t%.1f\t%lu\t%lu\t%lu\t%lu\n", k.name.c_str(), times,
                (double)lanes / (double)times, units[GLOBAL], least[GLOBAL], units[SHARED],
                least[SHARED]);
    for (const instruction &i : k.code)
        if (i.count.units > i.count.least)
            fprintf(f, "\t%s\t%lu\t%lu\t%lu\n", k.text[i.text].c_str(), i.count.times,
                    i.count.units, i.count.least);
    fclose(f);
}

static struct at_the_end {
    at_the_end() { kernels(); } // which go after it
    ~at_the_end() {
        if (is_asked_for())
            for (const auto &of_function : kernels()) report(*of_function.second);
    }
} at_the_end;

// Of a function of the plug-in, or one that was added.
static const kernel *kernel_of(const void *function) {
    auto found = kernels().find(function);
    if (found != kernels().end()) return found->second.get();
    std::string name = name_of(function);
    for (const module &m : modules())
        if (auto made = m.get(name)) return (kernels()[function] = std::move(made)).get();
    stop(nullptr, nullptr, "no PTX of " + name);
}

const void *add(const std::string &text, const std::string &name) {
    std::unique_ptr<kernel> made = module(text).get(name);
    const void *function = made.get();
    if (made) kernels()[function] = std::move(made);
    return function;
}

void drop(const void *function) {
    report(*kernels()[function]);
    kernels().erase(function);
}

std::vector<size_t> parameters(const void *function) {
    return kernel_of(function)->parameter_bytes;
}

// ---- a warp

// Joins lanes that are where the current ones are, and lets the first in the text go on.
static void meet(warp &w) {
    for (int i = 0; i < w.n_others; i++)
        if (w.others[i].pc == w.now.pc) {
            w.now.lanes |= w.others[i].lanes;
            w.others[i--] = w.others[--w.n_others];
        }
    path *first = &w.now;
    for (path *p = w.others; p < w.others + w.n_others; p++)
        if (!p->waits && (first->waits || !first->lanes || p->pc < first->pc)) first = p;
    if (first == &w.now) return;
    std::swap(*first, w.now);
    if (!first->lanes) *first = w.others[--w.n_others];
    meet(w);
}

// The lanes wait for others. False: there are none that could come.
static bool wait_for_others(warp &w) {
    w.now.waits = true;
    meet(w);
    return !w.now.waits;
}

static unsigned lanes_by_mask(const warp &w, const instruction &i) {
    unsigned mask = 0;
    FOR_LANES(lane, w.on) {
        unsigned m = values<uint32_t>(w, i.at[5])[lane];
        if (mask && m != mask) stop(w.in->code, &i, "lanes with different masks");
        mask = m;
    }
    if (mask == ALL_LANES) mask = w.all; // the last warp of a block may be short
    if (mask & ~w.all) stop(w.in->code, &i, "a mask names a lane that does not exist");
    return mask;
}

static void branch(warp &w, const instruction &i) {
    unsigned stay = w.now.lanes & ~w.on;
    if (!w.on) {
        w.now.pc++;
    } else {
        if (stay) w.others[w.n_others++] = { w.now.pc + 1, stay, false };
        w.now = { i.target, w.on, false };
    }
}

// Until all lanes have ended, or wait at a barrier of the block.
static void run_warp(warp &w) {
    const instruction *code = w.in->code->code.data();
    while (w.ended != w.all) {
        if (w.n_others) meet(w);
        w.now.waits = false;
        const instruction &i = code[w.now.pc];
        w.on = w.now.lanes;
        if (i.guard != NONE) w.on &= i.unless ? ~predicate(w, i.guard) : predicate(w, i.guard);
        i.count.times++;
        i.count.lanes += (unsigned)__builtin_popcount(w.on);
        unsigned together = 0;
        switch (i.what) {
        case BRANCH:
            branch(w, i);
            continue;
        case RETURN:
            w.ended |= w.on;
            w.now.lanes &= ~w.on;
            w.now.pc++;
            if (!w.now.lanes && w.n_others) {
                w.now = w.others[--w.n_others];
                meet(w);
            }
            continue;
        case BARRIER:
            if ((w.on | w.ended) != w.all) {
                if (!wait_for_others(w))
                    stop(w.in->code, &i, "a barrier that not all lanes of a warp reach");
                continue;
            }
            w.at_barrier = true;
            w.aye = i.n && (predicate(w, i.at[1]) & w.on) != (i.n == 1 ? 0 : w.on);
            return;
        case BY_MASK:
            together = w.on ? lanes_by_mask(w, i) : 0;
            break;
        case BY_WARP:
            together = w.all;
            if (w.all != ALL_LANES) stop(w.in->code, &i, "less than a warp");
            break;
        case ORDINARY:
            break;
        }
        if (together & ~w.on) {
            if (together & w.ended) stop(w.in->code, &i, "waits for lanes that have ended");
            if (!wait_for_others(w)) stop(w.in->code, &i, "waits for lanes that do not come");
            continue;
        }
        if (together && together != w.on)
            stop(w.in->code, &i, "a lane that its mask does not name");
        if (together) w.gathered = ++moment;
        if (w.on) i.run(w, i);
        w.now.pc++;
    }
}

// ---- a block

static void set_special(warp &w, const special &s) {
    const block &b = *w.in;
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        unsigned n = w.number * WARP_LANES + lane, x;
        const uint3 thread = { n % b.size.x, n / b.size.x % b.size.y, n / (b.size.x * b.size.y) };
        auto part = [&](unsigned a, unsigned c, unsigned d) {
            return s.name.back() == 'x' ? a : s.name.back() == 'y' ? c : d;
        };
        std::string of = s.name.substr(0, s.name.find('.'));
        if (of == "%tid")
            x = part(thread.x, thread.y, thread.z);
        else if (of == "%ctaid")
            x = part(b.number.x, b.number.y, b.number.z);
        else if (of == "%ntid")
            x = part(b.size.x, b.size.y, b.size.z);
        else if (of == "%nctaid")
            x = part(b.grid.x, b.grid.y, b.grid.z);
        else if (of == "%laneid")
            x = lane;
        else
            stop(b.code, nullptr, "a register that run.cpp has not: " + s.name);
        values<uint32_t>(w, s.at)[lane] = x;
    }
}

static void begin(warp &w, unsigned threads) {
    const kernel &k = *w.in->code;
    memcpy(w.registers, k.registers.data(), k.registers.size());
    for (const special &s : k.specials) set_special(w, s);
    unsigned left = threads - w.number * WARP_LANES;
    w.all = left >= WARP_LANES ? ALL_LANES : (1u << left) - 1;
    w.now = { 0, w.all, false };
    w.n_others = 0;
    w.ended = 0;
    w.at_barrier = w.aye = false;
    w.met = w.gathered = moment;
    for (auto &open : w.copies) open.clear();
    memset(w.groups, 0, sizeof w.groups);
}

// All warps wait at a barrier, or have ended. False: all have.
static bool release(std::vector<warp *> &warps) {
    bool some = false, aye = false;
    current.released = ++moment;
    for (const warp *w : warps) some |= w->at_barrier, aye |= w->aye;
    for (warp *w : warps) {
        if (!w->at_barrier) continue;
        const instruction &i = w->in->code->code[w->now.pc++];
        if (i.n) {
            unsigned &p = predicate(*w, i.at[0]);
            p = (p & ~w->now.lanes) | (aye == (i.n == 1) ? w->now.lanes : 0);
        }
        w->at_barrier = w->aye = false;
        w->met = w->gathered = moment;
    }
    return some;
}

static void run_block(std::vector<warp *> &warps, unsigned threads) {
    current.begun = current.released = ++moment;
    for (warp *w : warps) begin(*w, threads);
    do {
        for (warp *w : warps) run_warp(*w);
    } while (release(warps));
}

static void run(const void *function, dim3 grid, dim3 size, size_t shared_bytes,
                const std::vector<std::string> &arguments) {
    const kernel &k = *kernel_of(function);
    static std::vector<warp> room(MAX_THREADS / WARP_LANES);
    static std::vector<char> registers;
    unsigned threads = size.x * size.y * size.z, n = (threads + WARP_LANES - 1) / WARP_LANES;
    current.code = &k;
    current.launched = ++moment;
    forget_blocks();
    current.size = size, current.grid = grid;
    if (k.most_threads && threads > k.most_threads) stop(&k, nullptr, "more threads than .maxntid");
    current.parameters.assign(k.parameters_bytes, (char)0xff);
    if (arguments.size() != k.parameter_at.size()) stop(&k, nullptr, "another number of arguments");
    for (size_t i = 0; i < arguments.size(); i++) {
        if (arguments[i].size() != k.parameter_bytes[i])
            stop(&k, nullptr, "an argument of another size");
        current.parameters.replace(k.parameter_at[i], arguments[i].size(), arguments[i]);
    }
    size_t bytes = (k.registers.size() + 63) / 64 * 64;
    registers.resize(n * bytes + 64);
    char *first = registers.data() + 64 - reinterpret_cast<uintptr_t>(registers.data()) % 64;
    std::vector<warp *> warps;
    for (unsigned number : arrange(n, order_seed())) {
        warp &w = room[number];
        w.registers = first + number * bytes;
        w.in = &current;
        w.number = number;
        warps.push_back(&w);
    }
    size_t shared = (k.static_shared + 15) / 16 * 16 + shared_bytes;
    if (shared > SHARED_LIMIT) stop(&k, nullptr, "more shared memory than a block can have");
    std::vector<unsigned> blocks = arrange(grid.x, order_seed());
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y : ends(grid.y))
            for (unsigned x : blocks) {
                current.number = uint3{ x, y, z };
                current.shared.assign(shared, (char)0xff); // NaN: nobody has written it
                run_block(warps, threads);
            }
}

static const bool chosen = is_asked_for() && (run_otherwise = run);

} // namespace ptx
} // namespace emulator

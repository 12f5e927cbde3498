// parse.cpp - a kernel's PTX as instructions that can be run.
#include "code.h"

#include <algorithm>
#include <cctype>
#include <functional>

namespace emulator {
namespace ptx {

namespace {

// Names, numbers, and single characters; a name may have points in it.
struct reader {
    const std::string &text;
    size_t at = 0, begun = 0; // the token's end and beginning
    std::string token;

    static bool is_of_name(char c) {
        return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
    }
    void next() {
        for (; at < text.size(); at++) {
            if (text.compare(at, 2, "//") == 0) at = text.find('\n', at);
            if (!isspace((unsigned char)text[at])) break;
        }
        begun = std::min(at, text.size());
        if (at < text.size() && text[at] == '-') at++;
        while (at < text.size() && is_of_name(text[at])) at++;
        if (at == begun) at++;
        token = text.substr(begun, at - begun);
    }
    explicit reader(const std::string &text_) : text(text_) { next(); }
    bool is(const char *what) const { return token == what; }
    std::string take() {
        std::string t = token;
        next();
        return t;
    }
    bool skip(const char *what) {
        if (!is(what)) return false;
        next();
        return true;
    }
    void want(const char *what) {
        if (!skip(what)) stop(nullptr, nullptr, "PTX: " + token + ", not " + what);
    }
};

struct argument {
    std::string name;   // register, symbol or number
    int64_t offset = 0; // added to an address
    size_t in_list = 0; // elements of its list, itself one of them; 0: in none
};

size_t bytes_of(const std::string &type) {
    if (type == "pred") return 0;
    return std::stoul(type.substr(1)) / 8;
}

std::vector<std::string> split(const std::string &name) {
    std::vector<std::string> parts(1);
    for (char c : name)
        if (c == '.')
            parts.emplace_back();
        else
            parts.back() += c;
    return parts;
}

class parser {
    struct variable {
        unsigned at;
        char letter;
    };
    reader in;
    std::unique_ptr<kernel> out{ new kernel{} };
    std::vector<std::map<std::string, variable>> scopes{ 1 };
    std::map<std::string, uint64_t> symbols;
    std::map<std::pair<std::string, size_t>, unsigned> constants;
    std::map<std::string, unsigned> labels;
    std::vector<std::pair<size_t, std::string>> jumps;
    std::string line, dynamic; // what is read; the name of the dynamic part of shared memory

    [[noreturn]] void fail(const std::string &why) {
        stop(nullptr, nullptr, "PTX of " + out->name + ": " + line + ": " + why);
    }

    unsigned room(size_t bytes, int fill = 0xff) {
        unsigned at = (unsigned)out->registers.size();
        out->registers.append(bytes, (char)fill);
        return at;
    }
    void declare(const std::string &name, const std::string &type) {
        size_t bytes = bytes_of(type);
        char letter = bytes == 0 ? 'p' : bytes == 8 ? '8' : '4';
        // a predicate's room as large as others', which keeps them aligned
        scopes.back()[name] = { room(bytes == 8 ? 8 * WARP_LANES : 4 * WARP_LANES), letter };
    }
    void declare_registers() {
        std::string type = in.take().substr(1);
        do {
            std::string name = in.take();
            if (in.skip("<")) {
                int n = std::stoi(in.take());
                in.want(">");
                for (int i = 0; i < n; i++) declare(name + std::to_string(i), type);
            } else {
                declare(name, type);
            }
        } while (in.skip(","));
        in.want(";");
    }

    // .align 4 .b8 name[1024], or .u64 name
    struct declared {
        std::string name;
        size_t bytes, align;
    };
    declared declaration() {
        declared d{ "", 0, 0 };
        if (in.skip(".align")) d.align = std::stoul(in.take());
        std::string type = in.take().substr(1);
        while (in.is(".ptr") || in.is(".global") || in.is(".align")) // what a pointer points to
            if (in.take() == ".align") in.take();
        d.bytes = bytes_of(type);
        if (!d.align) d.align = d.bytes;
        d.name = in.take();
        while (in.skip("[")) {
            if (!in.is("]")) d.bytes *= std::stoul(in.take());
            in.want("]");
        }
        return d;
    }
    static size_t place(size_t &total, const declared &d) {
        size_t at = (total + d.align - 1) / d.align * d.align;
        total = at + d.bytes;
        return at;
    }

    // = {1, 2, ...}, into the space of constants. Returns where.
    size_t bytes_after(const declared &d, std::string &space) {
        size_t total = space.size(), at = place(total, d);
        space.resize(total);
        if (in.skip("=")) {
            in.want("{");
            for (size_t k = at; !in.skip("}"); in.skip(","))
                space[k++] = (char)std::stoi(in.take());
        }
        return at;
    }

    void head() {
        out->name = in.take();
        in.want("(");
        while (!in.skip(")")) {
            in.want(".param");
            declared d = declaration();
            symbols[d.name] = place(out->parameters_bytes, d);
            out->parameter_at.push_back(symbols[d.name]);
            out->parameter_bytes.push_back(d.bytes);
            in.skip(",");
        }
        while (!in.is("{")) {
            if (in.skip(".maxntid")) {
                out->most_threads = 1;
                do { out->most_threads *= (unsigned)std::stoul(in.take()); } while (in.skip(","));
            } else {
                in.next();
            }
        }
    }

    // ---- operands

    const variable *find(const std::string &name) {
        for (size_t i = scopes.size(); i-- > 0;) {
            auto it = scopes[i].find(name);
            if (it != scopes[i].end()) return &it->second;
        }
        return nullptr;
    }

    static uint64_t number(const std::string &text) {
        bool is_float = text.compare(0, 2, "0f") == 0 || text.compare(0, 2, "0d") == 0;
        if (is_float) return std::stoull(text.substr(2), nullptr, 16); // its bits
        return text[0] == '-' ? (uint64_t)std::stoll(text, nullptr, 0)
                              : std::stoull(text, nullptr, 0);
    }

    unsigned constant(const std::string &name, size_t bytes) {
        auto found = constants.find({ name, bytes });
        if (found != constants.end()) return found->second;
        unsigned at = room(std::max(bytes, (size_t)4) * WARP_LANES);
        constants[{ name, bytes }] = at;
        if (name[0] == '%') {
            out->specials.push_back({ at, name });
            return at;
        }
        auto symbol = symbols.find(name);
        uint64_t x = 0;
        if (symbol != symbols.end())
            x = symbol->second;
        else if (name == dynamic) // after the others, all of which have been declared
            x = (out->static_shared + 15) / 16 * 16;
        else if (isdigit((unsigned char)name[0]) || name[0] == '-')
            x = number(name);
        else
            fail("unknown: " + name);
        if (bytes == 0) { // a predicate
            x = x ? ALL_LANES : 0;
            memcpy(&out->registers[at], &x, sizeof(unsigned));
        }
        for (size_t lane = 0; lane < WARP_LANES; lane++)
            memcpy(&out->registers[at + lane * bytes], &x, bytes);
        return at;
    }

    // letter: what the instruction takes there.
    unsigned operand(const argument &a, char letter) {
        if (a.name == "_") return NONE;
        const variable *v = find(a.name);
        if (!v) return constant(a.name, letter == 'p' ? 0 : letter == '8' ? 8 : 4);
        if (v->letter != letter) fail("a register of another size: " + a.name);
        return v->at;
    }
    bool is_wide(const argument &a) {
        const variable *v = find(a.name);
        return v && v->letter == '8';
    }

    std::vector<argument> arguments() {
        std::vector<argument> all;
        size_t list = 0; // where the list begins, + 1
        while (!in.skip(";")) {
            if (in.token.empty()) fail("no end");
            if (in.skip("{")) {
                list = all.size() + 1;
            } else if (in.skip("}")) {
                for (size_t i = list - 1; i < all.size(); i++)
                    all[i].in_list = all.size() + 1 - list;
                list = 0;
            } else if (!in.skip(",") && !in.skip("|") && !in.skip("[") && !in.skip("]")) {
                argument a;
                a.name = in.take();
                if (in.skip("+")) a.offset = (int64_t)number(in.take());
                all.push_back(a);
            }
        }
        return all;
    }

    // ---- instructions

    void ordinary(instruction &i, const std::vector<argument> &a, const form &f) {
        if (a.size() != f.operands.size()) fail("another number of operands");
        i.run = f.run;
        for (size_t k = 0; k < a.size(); k++) i.at[k] = operand(a[k], f.operands[k]);
    }

    // mov.b32 %r1, {%rs1, %rs2} and back. at: the whole, then its parts.
    void pack(instruction &i, const std::vector<argument> &a, const std::string &type) {
        i.is_signed = a[0].in_list != 0; // taken apart
        bool is_8 = type == "b64";
        size_t whole = i.is_signed ? a.size() - 1 : 0;
        i.n = (unsigned)a.size() - 1;
        i.bytes = (is_8 ? 8 : 4) / i.n;
        i.is_wide[0] = is_8;
        i.at[0] = operand(a[whole], is_8 ? '8' : '4');
        for (size_t k = 0; k < i.n; k++) i.at[1 + k] = operand(a[k + (i.is_signed ? 0 : 1)], '4');
        i.run = [](warp &w, const instruction &o) {
            FOR_LANES(lane, w.on) {
                uint64_t part = ((uint64_t)1 << 8 * o.bytes) - 1, x = 0;
                if (o.is_signed) x = value(w, o.at[0], o.is_wide[0], (int)lane);
                for (unsigned k = 0; k < o.n; k++) {
                    unsigned by = 8 * o.bytes * k;
                    if (o.is_signed)
                        set_value(w, o.at[1 + k], false, (int)lane, x >> by & part);
                    else
                        x |= (value(w, o.at[1 + k], false, (int)lane) & part) << by;
                }
                if (!o.is_signed) set_value(w, o.at[0], o.is_wide[0], (int)lane, x);
            }
        };
    }

    void address(instruction &i, const argument &a) {
        i.at[4] = operand(a, is_wide(a) ? '8' : '4');
        i.is_wide[1] = is_wide(a);
        i.offset[0] = a.offset;
    }

    // ld.global.nc.v4.u32 and the like. at: values 0-3, address 4.
    void memory(instruction &i, const std::vector<argument> &a,
                const std::vector<std::string> &parts, bool is_load) {
        static const char *const ignored[] = { "nc", "volatile", "relaxed", "cta", "gpu",
                                               "ca", "cg",       "cs",      "wt",  "weak" };
        i.run = is_load ? load : store;
        i.where = GLOBAL; // a generic address too
        i.n = 1;
        for (size_t k = 1; k + 1 < parts.size(); k++) {
            const std::string &p = parts[k];
            if (p == "shared")
                i.where = SHARED;
            else if (p == "param")
                i.where = PARAM;
            else if (p == "const")
                i.where = CONSTANT;
            else if (p == "v2" || p == "v4")
                i.n = (unsigned)(p[1] - '0');
            else if (p != "global" && std::count(std::begin(ignored), std::end(ignored), p) == 0)
                fail("unknown: " + p);
        }
        i.is_signed = parts.back()[0] == 's';
        i.bytes = (unsigned)bytes_of(parts.back());
        if (a.size() != i.n + 1) fail("another number of operands");
        const argument *value = &a[is_load ? 0 : 1];
        i.is_wide[0] = is_wide(value[0]) || (!find(value[0].name) && i.bytes == 8);
        for (unsigned k = 0; k < i.n; k++) i.at[k] = operand(value[k], i.is_wide[0] ? '8' : '4');
        address(i, a[is_load ? i.n : 0]);
    }

    void list(instruction &i, const std::vector<argument> &a, size_t n) {
        if (a.size() != n) fail("another number of operands");
        for (size_t k = 0; k < n; k++) i.at[k] = operand(a[k], '4');
    }

    void translate(instruction &i, const std::string &name) {
        std::vector<std::string> parts = split(name);
        std::vector<argument> a = arguments();
        auto begins = [&](const char *with) { return name.compare(0, strlen(with), with) == 0; };
        if (begins("mov.") && (a[0].in_list || a.back().in_list)) return pack(i, a, parts.back());
        auto found = arithmetic().find(name);
        if (found != arithmetic().end()) return ordinary(i, a, found->second);
        if (parts[0] == "ld") return memory(i, a, parts, true);
        if (parts[0] == "st") return memory(i, a, parts, false);
        if (begins("cvta.")) {
            // shared memory's generic addresses are not used; a global one's is itself
            if (parts[1] != "to" || parts[2] != "global") fail("unknown");
            return ordinary(i, a, arithmetic().at("mov.u64"));
        }
        if (name == "bra" || name == "bra.uni") {
            i.what = BRANCH;
            jumps.push_back({ out->code.size(), a[0].name });
        } else if (name == "ret" || name == "exit") {
            i.what = RETURN;
        } else if (name == "bar.sync" || name == "barrier.sync.aligned") {
            i.what = BARRIER;
            if (a.size() != 1 || a[0].name != "0") fail("a barrier of part of the block");
        } else if (begins("bar.red.") && parts[2] != "popc") {
            i.what = BARRIER;
            i.at[0] = operand(a[0], 'p'), i.at[1] = operand(a[2], 'p');
            i.n = parts[2] == "or" ? 1 : 2;
        } else if (name == "bar.warp.sync") {
            i.what = BY_MASK;
            i.run = meet_lanes;
            i.at[5] = operand(a[0], '4');
        } else if (name == "redux.sync.max.u32") {
            i.what = BY_MASK;
            i.run = greatest;
            i.at[0] = operand(a[0], '4'), i.at[1] = operand(a[1], '4'),
            i.at[5] = operand(a[2], '4');
        } else if (begins("shfl.sync.")) {
            i.what = BY_MASK;
            i.run = shuffle;
            i.bytes = (unsigned char)parts[2][0];
            bool votes = a.size() == 6;
            i.at[0] = operand(a[0], '4');
            i.at[1] = votes ? operand(a[1], 'p') : NONE;
            for (size_t k = 2; k < 6; k++) i.at[k] = operand(a[k - !votes], '4');
        } else if (name == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") {
            i.what = BY_WARP;
            i.run = multiply_matrices;
            list(i, a, 14);
        } else if (begins("ldmatrix.sync.aligned.m8n8.x4.")) {
            i.what = BY_WARP;
            i.run = matrices;
            i.where = SHARED;
            i.n = 4, i.bytes = 4;
            i.is_signed = parts[5] == "trans";
            for (size_t k = 0; k < 4; k++) i.at[k] = operand(a[k], '4');
            address(i, a[4]);
        } else if (begins("cp.async.ca.") || begins("cp.async.cg.")) {
            i.run = copy_start; // at: to 4, from 5, existing bytes 6
            i.at[5] = operand(a[1], '8'), i.offset[1] = a[1].offset;
            address(i, a[0]);
            i.bytes = (unsigned)number(a[2].name);
            i.at[6] = operand(a[a.size() > 3 ? 3 : 2], '4');
        } else if (name == "cp.async.commit_group") {
            i.run = copy_close;
        } else if (begins("cp.async.wait_")) {
            i.run = copy_wait;
            i.n = a.empty() ? 0 : (unsigned)number(a[0].name);
        } else if (name == "atom.shared.min.s32") {
            i.run = shared_min;
            i.where = SHARED;
            i.bytes = 4, i.n = 1;
            i.at[0] = operand(a[0], '4'), i.at[1] = operand(a[2], '4');
            address(i, a[1]);
        } else {
            fail("an instruction that ops.cpp has not");
        }
    }

    void statement() {
        if (in.skip(".reg")) return declare_registers();
        if (in.skip(".shared")) {
            declared d = declaration();
            symbols[d.name] = place(out->static_shared, d);
            return in.want(";");
        }
        if (in.skip(".pragma")) {
            while (!in.skip(";")) in.next();
            return;
        }
        size_t from = in.begun;
        instruction i = {};
        i.guard = NONE;
        line = in.text.substr(from, in.text.find(';', from) - from);
        if (in.skip("@")) {
            i.unless = in.skip("!");
            i.guard = operand({ in.take() }, 'p');
        }
        std::string name = in.take();
        if (in.skip(":")) {
            labels[name] = (unsigned)out->code.size();
            return;
        }
        translate(i, name);
        i.text = (unsigned)out->text.size();
        out->text.push_back(line);
        out->code.push_back(i);
    }

  public:
    explicit parser(const std::string &text) : in(text) {}

    // declared: variables that kernels of the module have in common.
    std::unique_ptr<kernel> parse(const std::string &declared_before) {
        head();
        parser before(declared_before);
        while (!before.in.token.empty()) {
            bool is_dynamic = before.in.skip(".extern"), is_constant = before.in.skip(".const");
            if (!is_constant) before.in.want(".shared");
            declared d = before.declaration();
            if (is_constant) symbols[d.name] = before.bytes_after(d, out->constants);
            before.in.want(";");
            if (is_constant) continue;
            if (is_dynamic)
                dynamic = d.name;
            else if (in.text.find(d.name, in.at) != std::string::npos)
                symbols[d.name] = place(out->static_shared, d);
        }
        in.want("{");
        while (scopes.size() > 0) {
            if (in.skip("{")) {
                scopes.emplace_back();
            } else if (in.is("}")) {
                scopes.pop_back();
                if (!scopes.empty()) in.next();
            } else {
                statement();
            }
        }
        for (const auto &[at, label] : jumps) {
            if (!labels.count(label)) fail("no label: " + label);
            out->code[at].target = labels[label];
        }
        return std::move(out);
    }
};

} // namespace

std::unique_ptr<kernel> parse(const std::string &text, const std::string &before) {
    return parser(text).parse(before);
}

} // namespace ptx
} // namespace emulator

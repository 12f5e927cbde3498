// ops.cpp - what PTX's instructions compute, from the PTX ISA 9.0.
//
// Approximate instructions are off by up to what the ISA allows, up or down by their argument's
// bits, so that nothing relies on more. This file is compiled with
// -ffp-contract=off: what is joined, nvcc has joined.
#include "code.h"

#include <cmath>
#include <limits>
#include <tuple>

namespace emulator {
namespace ptx {

// ---- one lane's function, for all lanes

template <class T> struct operand {
    typedef std::conditional_t<sizeof(T) < 4, uint32_t, T> lies;
    const lies *data;
    operand(const warp &w, unsigned at) : data(values<lies>(w, at)) {}
    T operator[](unsigned lane) const { return (T)data[lane]; }
    static char letter() { return sizeof(T) == 8 ? '8' : '4'; }
};
template <> struct operand<bool> {
    unsigned set;
    operand(const warp &w, unsigned at) : set(predicate(w, at)) {}
    bool operator[](unsigned lane) const { return set >> lane & 1; }
    static char letter() { return 'p'; }
};

template <class F, class R, class... A, size_t... I>
static inline void for_lanes(warp &w, const instruction &i, const F &f, R (F::*)(A...) const,
                             std::index_sequence<I...>) {
    std::tuple<operand<A>...> in{ operand<A>(w, i.at[I + 1])... };
    if constexpr (std::is_same<R, bool>::value) {
        unsigned yes = 0, &out = predicate(w, i.at[0]);
        for (unsigned lane = 0; lane < WARP_LANES; lane++)
            yes |= (unsigned)f(std::get<I>(in)[lane]...) << lane;
        out = (out & ~w.on) | (yes & w.on);
    } else {
        typedef std::conditional_t<
            (sizeof(R) < 4), std::make_unsigned_t<std::conditional_t<(sizeof(R) < 4), R, int>>,
            R>
            bits; // a narrow value's upper half is 0
        auto *out = values<typename operand<bits>::lies>(w, i.at[0]);
        if (w.on == ALL_LANES) {
#pragma GCC ivdep
            for (unsigned lane = 0; lane < WARP_LANES; lane++)
                out[lane] = (bits)f(std::get<I>(in)[lane]...);
        } else {
            for (unsigned lane = 0; lane < WARP_LANES; lane++)
                if (w.on >> lane & 1) out[lane] = (bits)f(std::get<I>(in)[lane]...);
        }
    }
}

template <class F, class R, class... A> static std::string letters(R (F::*)(A...) const) {
    return { operand<R>::letter(), operand<A>::letter()... };
}
template <class F, class R, class... A>
static constexpr std::index_sequence_for<A...> indices(R (F::*)(A...) const) {
    return {};
}

template <class F> static form each(F f) {
    static const F kept = f;
    return { [](warp &w, const instruction &i) {
                for_lanes(w, i, kept, &F::operator(), decltype(indices(&F::operator())){});
            },
             letters(&F::operator()) };
}

// ---- arithmetic

template <class To, class From> static To bits(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "bits");
    memcpy(&y, &x, sizeof y);
    return y;
}

// Off by as many units in the last place as x's bits choose, at most.
static float about(double exact, int most, float x) {
    float y = (float)exact;
    if (y == 0 || !std::isfinite(y)) return y;
    int off = (int)((bits<uint32_t>(x) * 2654435761u >> 16) % (2 * (unsigned)most + 1)) - most;
    return bits<float>(bits<uint32_t>(y) + (uint32_t)off);
}

static float flush(float x) {
    return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x;
}

static float exp2_about(float x) {
    return x == std::trunc(x) || std::isnan(x) ? exp2f(x) : about(exp2(x), 2, x);
}
static float quotient_about(float a, float b, int most) {
    bool is_power = (bits<uint32_t>(b) & 0x7fffff) == 0; // of 2: the quotient is exact
    return about((double)a / b, is_power ? 0 : most, b);
}

// The sum of a product that is exact and c, rounded down, or towards zero.
static float round_sum(double product, double c, bool down) {
    double sum = product + c, part = sum - product, rest = (product - (sum - part)) + (c - part);
    float x = (float)sum;
    if (!std::isfinite(x)) return x;
    bool is_above = x > sum || (x == sum && rest < 0), is_below = x < sum || (x == sum && rest > 0);
    if (is_above && (down || x > 0)) return nextafterf(x, -INFINITY);
    if (is_below && !down && x < 0) return nextafterf(x, INFINITY);
    return x;
}

// -0 is less than +0, and NaN is no number where the other is.
template <class T> static T least(T a, T b) {
    return a != a ? b : b != b ? a : a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T> static T most(T a, T b) {
    return a != a ? b : b != b ? a : a > b || (a == b && !std::signbit(a)) ? a : b;
}

// The nearest number of the type; of NaN 0, or the highest bit where 8 bytes take part.
template <class To, class From> static To whole(From x) {
    typedef std::numeric_limits<To> limits;
    if (x != x)
        return sizeof(To) == 8 || sizeof(From) == 8 ? (To)(1ull << (8 * sizeof(To) - 1)) : (To)0;
    double y = (double)x;
    if (y <= (double)limits::min()) return limits::min();
    if (y >= (double)limits::max()) return limits::max();
    return (To)x;
}

static uint16_t to_bf16(float x) {
    uint32_t b = bits<uint32_t>(x);
    if (x != x) return 0x7fff;
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
static float from_bf16(uint16_t x) {
    return bits<float>((uint32_t)x << 16);
}

static std::map<std::string, form> all;

static void name(const std::string &prefix, const std::string &type, form f) {
    all[prefix + type] = std::move(f);
}

template <class T> static void compare(const char *type, bool is_unsigned) {
    name("setp.eq.", type, each([](T a, T b) { return a == b; }));
    name("setp.ne.", type, each([](T a, T b) { return a < b || a > b; }));
    name(is_unsigned ? "setp.lo." : "setp.lt.", type, each([](T a, T b) { return a < b; }));
    name(is_unsigned ? "setp.ls." : "setp.le.", type, each([](T a, T b) { return a <= b; }));
    name(is_unsigned ? "setp.hi." : "setp.gt.", type, each([](T a, T b) { return a > b; }));
    name(is_unsigned ? "setp.hs." : "setp.ge.", type, each([](T a, T b) { return a >= b; }));
    if (is_unsigned) compare<T>(type, false);
}
template <class T> static void compare_floats(const char *type) {
    compare<T>(type, false);
    name("setp.neu.", type, each([](T a, T b) { return !(a == b); }));
    name("setp.equ.", type, each([](T a, T b) { return !(a < b || a > b); }));
    name("setp.ltu.", type, each([](T a, T b) { return !(a >= b); }));
    name("setp.leu.", type, each([](T a, T b) { return !(a > b); }));
    name("setp.gtu.", type, each([](T a, T b) { return !(a <= b); }));
    name("setp.geu.", type, each([](T a, T b) { return !(a < b); }));
    name("setp.num.", type, each([](T a, T b) { return a == a && b == b; }));
    name("setp.nan.", type, each([](T a, T b) { return a != a || b != b; }));
}

template <class T> static void moves(const char *type) {
    name("mov.", type, each([](T a) { return a; }));
    name("selp.", type, each([](T a, T b, bool p) { return p ? a : b; }));
}

template <class T> static void logic(const char *type) {
    moves<T>(type);
    name("and.", type, each([](T a, T b) -> T { return a & b; }));
    name("or.", type, each([](T a, T b) -> T { return a | b; }));
    name("xor.", type, each([](T a, T b) -> T { return a ^ b; }));
    name("not.", type, each([](T a) -> T { return (T)~a; }));
    name("shl.", type,
         each([](T a, uint32_t b) -> T { return b < 8 * sizeof(T) ? (T)(a << b) : 0; }));
    compare<T>(type, false);
}

// U: unsigned of as many bytes, in which sums do not overflow; nor do products, by 1u, where int is
// wider.
template <class T> static void integers(const char *type) {
    typedef std::make_unsigned_t<T> U;
    const bool is_unsigned = std::is_same<T, U>::value;
    moves<T>(type);
    compare<T>(type, is_unsigned);
    name("add.", type, each([](T a, T b) { return (T)((U)a + (U)b); }));
    name("sub.", type, each([](T a, T b) { return (T)((U)a - (U)b); }));
    name("mul.lo.", type, each([](T a, T b) { return (T)(1u * (U)a * (U)b); }));
    name("mad.lo.", type, each([](T a, T b, T c) { return (T)(1u * (U)a * (U)b + (U)c); }));
    name("neg.", type, each([](T a) { return (T)(0 - (U)a); }));
    name("abs.", type, each([](T a) { return a < 0 ? (T)(0 - (U)a) : a; }));
    name("min.", type, each([](T a, T b) { return a < b ? a : b; }));
    name("max.", type, each([](T a, T b) { return a > b ? a : b; }));
    // by 0: anything; the least by -1: itself
    name("div.", type, each([](T a, T b) {
             return b == 0                              ? (T) ~(T)0
                    : (U)b == (U) ~(U)0 && !is_unsigned ? (T)(0 - (U)a)
                                                        : (T)(a / b);
         }));
    name("rem.", type, each([](T a, T b) {
             return b == 0 || ((U)b == (U) ~(U)0 && !is_unsigned) ? (T)0 : (T)(a % b);
         }));
    name("shr.", type, each([](T a, uint32_t b) {
             return b < 8 * sizeof(T) ? (T)(a >> b) : (T)(a < 0 ? -1 : 0);
         }));
}

template <class T, class W> static void wide(const char *type) {
    name("mul.wide.", type, each([](T a, T b) { return (W)((W)a * (W)b); }));
    name("mad.wide.", type, each([](T a, T b, W c) { return (W)((W)a * (W)b + c); }));
    name("mul.hi.", type, each([](T a, T b) { return (T)((W)a * (W)b >> (8 * sizeof(T))); }));
}

template <class T> static void floats(const char *type) {
    moves<T>(type);
    compare_floats<T>(type);
    for (const char *round : { "", "rn." }) {
        name(std::string("add.") + round, type, each([](T a, T b) { return a + b; }));
        name(std::string("sub.") + round, type, each([](T a, T b) { return a - b; }));
        name(std::string("mul.") + round, type, each([](T a, T b) { return a * b; }));
    }
    name("fma.rn.", type, each([](T a, T b, T c) -> T { return std::fma(a, b, c); }));
    name("div.rn.", type, each([](T a, T b) { return a / b; }));
    name("rcp.rn.", type, each([](T a) { return (T)1 / a; }));
    name("sqrt.rn.", type, each([](T a) { return std::sqrt(a); }));
    name("neg.", type, each([](T a) { return -a; }));
    name("abs.", type, each([](T a) { return std::fabs(a); }));
    name("min.", type, each([](T a, T b) { return least(a, b); }));
    name("max.", type, each([](T a, T b) { return most(a, b); }));
    name("copysign.", type, each([](T a, T b) { return std::copysign(b, a); }));
}

template <class To, class From> static void convert(const char *to, const char *from) {
    std::string end = std::string(to) + "." + from;
    if constexpr (std::is_integral<To>::value && std::is_floating_point<From>::value) {
        name("cvt.rzi.", end, each([](From x) { return whole<To>(std::trunc(x)); }));
        name("cvt.rni.", end, each([](From x) { return whole<To>(std::nearbyint(x)); }));
        name("cvt.rmi.", end, each([](From x) { return whole<To>(std::floor(x)); }));
        name("cvt.rpi.", end, each([](From x) { return whole<To>(std::ceil(x)); }));
    } else {
        name("cvt.", end, each([](From x) { return (To)x; }));
        name("cvt.rn.", end, each([](From x) { return (To)x; }));
    }
}
template <class From> static void convert_from(const char *from) {
    convert<uint16_t, From>("u16", from), convert<int16_t, From>("s16", from);
    convert<uint32_t, From>("u32", from), convert<int32_t, From>("s32", from);
    convert<uint64_t, From>("u64", from), convert<int64_t, From>("s64", from);
    convert<float, From>("f32", from), convert<double, From>("f64", from);
}
template <class T> static void convert_whole(const char *type) {
    std::string both = std::string(type) + "." + type;
    name("cvt.rzi.", both, each([](T x) -> T { return std::trunc(x); }));
    name("cvt.rni.", both, each([](T x) -> T { return std::nearbyint(x); }));
    name("cvt.rmi.", both, each([](T x) -> T { return std::floor(x); }));
    name("cvt.rpi.", both, each([](T x) -> T { return std::ceil(x); }));
}

static void make() {
    logic<uint16_t>("b16"), logic<uint32_t>("b32"), logic<uint64_t>("b64");
    integers<uint16_t>("u16"), integers<uint32_t>("u32"), integers<uint64_t>("u64");
    integers<int16_t>("s16"), integers<int32_t>("s32"), integers<int64_t>("s64");
    wide<uint16_t, uint32_t>("u16"), wide<uint32_t, uint64_t>("u32");
    wide<int16_t, int32_t>("s16"), wide<int32_t, int64_t>("s32");
    floats<float>("f32"), floats<double>("f64");
    convert_from<uint16_t>("u16"), convert_from<int16_t>("s16");
    convert_from<uint32_t>("u32"), convert_from<int32_t>("s32");
    convert_from<uint64_t>("u64"), convert_from<int64_t>("s64");
    convert_from<float>("f32"), convert_from<double>("f64");
    convert_whole<float>("f32"), convert_whole<double>("f64");

    all["mov.pred"] = each([](bool a) -> bool { return a; });
    all["and.pred"] = each([](bool a, bool b) -> bool { return a && b; });
    all["or.pred"] = each([](bool a, bool b) -> bool { return a || b; });
    all["xor.pred"] = each([](bool a, bool b) -> bool { return a != b; });
    all["not.pred"] = each([](bool a) -> bool { return !a; });

    all["cvt.rn.bf16.f32"] = each([](float x) { return to_bf16(x); });
    all["cvt.f32.bf16"] = each([](uint16_t x) { return from_bf16(x); });
    all["cvt.rn.bf16x2.f32"] =
        each([](float high, float low) { return (uint32_t)to_bf16(high) << 16 | to_bf16(low); });
    all["cvt.sat.f32.f32"] = each([](float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; });
    all["bfi.b32"] = each([](uint32_t a, uint32_t b, uint32_t at, uint32_t n) {
        at &= 255, n &= 255;
        if (at > 31 || n == 0) return b;
        uint32_t mask = (n > 31 ? ~0u : (1u << n) - 1) << at;
        return (a << at & mask) | (b & ~mask);
    });
    all["prmt.b32"] = each([](uint32_t a, uint32_t b, uint32_t selector) {
        uint64_t from = (uint64_t)b << 32 | a;
        uint32_t out = 0;
        for (int i = 0; i < 4; i++) {
            uint32_t s = selector >> 4 * i, byte = (uint32_t)(from >> 8 * (s & 7)) & 255;
            if (s & 8) byte = byte & 128 ? 255 : 0; // its sign
            out |= byte << 8 * i;
        }
        return out;
    });

    all["add.rz.f32"] = each([](float a, float b) { return round_sum(a, b, false); });
    all["fma.rm.f32"] =
        each([](float a, float b, float c) { return round_sum((double)a * b, c, true); });
    all["ex2.approx.f32"] = each([](float x) { return exp2_about(x); });
    all["ex2.approx.ftz.f32"] = each([](float x) { return flush(exp2_about(flush(x))); });
    all["rcp.approx.f32"] = each([](float x) { return quotient_about(1, x, 1); });
    all["rcp.approx.ftz.f32"] = each([](float x) { return flush(quotient_about(1, flush(x), 1)); });
    // b beyond 2^126: the quotient is 0
    all["div.approx.f32"] = each([](float a, float b) {
        if (std::fabs(b) > 0x1p126f && std::isfinite(b))
            return std::isinf(a) ? NAN : std::copysign(0.0f, a * b);
        return quotient_about(a, b, 2);
    });
    all["div.full.f32"] = each([](float a, float b) { return quotient_about(a, b, 2); });
    all["sqrt.approx.f32"] = each([](float x) { return about(std::sqrt((double)x), 1, x); });
    all["rsqrt.approx.f32"] = each([](float x) { return about(1 / std::sqrt((double)x), 2, x); });
}

const std::map<std::string, form> &arithmetic() {
    if (all.empty()) make();
    return all;
}

// ---- between lanes

void meet_lanes(warp &w, const instruction &) {
    w.met = moment;
}

void greatest(warp &w, const instruction &i) {
    uint32_t most = 0;
    FOR_LANES(lane, w.on) most = std::max(most, values<uint32_t>(w, i.at[1])[lane]);
    FOR_LANES(lane, w.on) values<uint32_t>(w, i.at[0])[lane] = most;
}

// at: result, its predicate or NONE, value, lane, c, mask. bytes: the way, of its name.
void shuffle(warp &w, const instruction &i) {
    uint32_t *out = values<uint32_t>(w, i.at[0]), before[WARP_LANES];
    memcpy(before, values<uint32_t>(w, i.at[2]), sizeof before);
    unsigned found = 0;
    FOR_LANES(lane, w.on) {
        unsigned b = values<uint32_t>(w, i.at[3])[lane] & 31,
                 c = values<uint32_t>(w, i.at[4])[lane], clamp = c & 31, segment = c >> 8 & 31,
                 most = (lane & segment) | (clamp & ~segment), first = lane & segment;
        int from = 0;
        bool is_in = false;
        switch (i.bytes) {
        case 'u':
            from = (int)lane - (int)b, is_in = from >= (int)most;
            break;
        case 'd':
            from = (int)(lane + b), is_in = from <= (int)most;
            break;
        case 'b':
            from = (int)(lane ^ b), is_in = from <= (int)most;
            break;
        case 'i':
            from = (int)(first | (b & ~segment)), is_in = from <= (int)most;
            break;
        }
        if (!is_in) from = (int)lane;
        if (!(w.on >> from & 1)) stop(w.in->code, &i, "shfl: from a lane that gives nothing");
        out[lane] = before[from];
        found |= (unsigned)is_in << lane;
    }
    if (i.at[1] != NONE) {
        unsigned &p = predicate(w, i.at[1]);
        p = (p & ~w.on) | found;
    }
}

// "Matrix fragments for mma.m16n8k16": of A, element i of a lane lies in row group (+ 8 for i in
// 2, 3, 6, 7) and column 2 * thread + (i & 1) (+ 8 for i >= 4); of B in row 2 * thread + (i & 1)
// (+ 8 for i >= 2) and column group; of C in row group (+ 8 for i >= 2), column 2 * thread + (i &
// 1). at: d 0-3, a 4-7, b 8-9, c 10-13. The sum is cut off, not rounded, as nobody promises better.
void multiply_matrices(warp &w, const instruction &i) {
    float a[16][16], b[16][8], c[16][8];
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        unsigned group = lane >> 2, thread = lane % 4;
        for (unsigned e = 0; e < 8; e++) {
            uint32_t pair = values<uint32_t>(w, i.at[4 + e / 2])[lane];
            unsigned row = e < 2 || (e >= 4 && e < 6) ? group : group + 8;
            a[row][2 * thread + (e & 1) + (e >= 4 ? 8 : 0)] =
                from_bf16((uint16_t)(pair >> 16 * (e & 1)));
        }
        for (unsigned e = 0; e < 4; e++) {
            uint32_t pair = values<uint32_t>(w, i.at[8 + e / 2])[lane];
            b[2 * thread + (e & 1) + (e >= 2 ? 8 : 0)][group] =
                from_bf16((uint16_t)(pair >> 16 * (e & 1)));
            c[e < 2 ? group : group + 8][2 * thread + (e & 1)] =
                values<float>(w, i.at[10 + e])[lane];
        }
    }
    for (int row = 0; row < 16; row++) {
        double sums[8] = {};
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++) sums[col] += (double)a[row][k] * b[k][col];
        for (int col = 0; col < 8; col++) c[row][col] = round_sum(sums[col], c[row][col], false);
    }
    for (unsigned lane = 0; lane < WARP_LANES; lane++)
        for (unsigned e = 0; e < 4; e++)
            values<float>(w, i.at[e])[lane] =
                c[e < 2 ? lane >> 2 : (lane >> 2) + 8][2 * (lane % 4) + (e & 1)];
}

} // namespace ptx
} // namespace emulator

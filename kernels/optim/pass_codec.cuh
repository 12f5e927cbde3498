// pass_codec.cuh - the 8-bit codec (runtime/optim/codec.c) of a compiled pass, which defines RISE,
// SIGNED_START and UNSIGNED_START before.

// Lines by the upper byte of a magnitude; what is in no group reads as 0, as group 0 does.
// copy: lanes 16 apart share one, so that no more than two want the same bank.
struct __align__(8) line {
    float slope, last;
};
struct codec {
    float copy[256][16];
    line lines[257];
    float join[257];
};
FN float as_float(u32 bits) {
    return __uint_as_float(bits);
}
FN u32 as_bits(float x) {
    return __float_as_uint(x);
}
FN void fill(codec &q, const u32 *words) {
    for (int i = (int)threadIdx.x; i < 256 * 16; i += (int)blockDim.x)
        q.copy[i / 16][i % 16] = as_float(words[i / 16]);
    for (int i = (int)threadIdx.x; i < 257; i += (int)blockDim.x) {
        int group = i / 16 == 3 ? i % 16 : 0;
        q.join[i] = as_float(words[256 + group]);
        q.lines[i].slope = as_float(words[272 + group]);
        q.lines[i].last = as_float(words[288 + group]);
    }
}
struct codes {
    u32 low, high;
}; // a byte an element, the first the lowest
FN u32 code(const codes &c, int i) {
    return (i < 4 ? c.low : c.high) >> 8 * (i & 3) & 255;
}
FN u32 pack(u32 a, u32 b, u32 c, u32 d) { // the lowest byte of each
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}
template <bool full> FN void load_codes(codes &c, const u8 *p, int left) {
    c.low = c.high = 0;
    if (full) {
        c.low = *(const u32 *)p;
        c.high = *(const u32 *)(p + 128);
    } else
        ROLL if (place(i) < left) {
            (i < 4 ? c.low : c.high) |= (u32)p[place(i)] << 8 * (i & 3);
        }
}
template <bool full> FN void store_codes(u8 *p, const codes &c, int left) {
    if (full) {
        *(u32 *)p = c.low;
        *(u32 *)(p + 128) = c.high;
    } else
        ROLL if (place(i) < left) p[place(i)] = (u8)code(c, i);
}
FN u32 copies(const codes &c, int i) { // where those of element i's value begin, in bytes
    u32 word = i < 4 ? c.low : c.high;
    return (i & 3 ? word >> (8 * (i & 3) - 6) : word << 6) & 0x3fc0;
}
FN void decode(float (&x)[E], const codes &c, float scale, const codec &q, int lane) {
    const char *all = (const char *)q.copy;
    const u32 own = __byte_perm(4 * (u32)lane % 64, 0, 0x4440); // or the mask is computed again
    EACH x[i] = *(const float *)(all + (copies(c, i) | own)) * scale;
}
// In the lowest byte the code of x, or 127 - it. A line's shift follows from its last rank.
// The product is rounded before anything is done with it, as the CPU's is.
template <bool is_signed> FN u32 code_of(float x, float inverse, const codec &q) {
    float a = __fmul_rn(is_signed ? fabsf(x) : x, inverse);
    u32 at = as_bits(a) >> 24;
    at += as_bits(q.join[at] - a) >> 31; // a > join, without a branch
    line l = q.lines[at];
    float shift = fmaf(l.last, RISE, is_signed ? SIGNED_START : UNSIGNED_START);
    float rank = fminf(fmaf(a, l.slope, shift), l.last);
    if (!is_signed) return (u32)rank;
    float down = as_float(as_bits(rank) | (~as_bits(x) & 0x80000000u));
    return (u32)(int)fminf(down, 127.0f);
}
template <bool is_signed>
FN void encode(codes &c, float *scale, const float (&x)[E], float unit, const codec &q, int lane,
               int left, bool whole) {
    float y[E], most = 0.0f;
    EACH y[i] = x[i];
    if (!whole) EACH y[i] = place(i) < left ? y[i] : 0.0f;
    EACH most = fmaxf(most, fabsf(y[i]));
    most = as_float(__reduce_max_sync(0xffffffffu, as_bits(most)));
    if (lane == 0) *scale = most;
    if (most < as_float(0x0d800000u)) {     // 2^-100: its reciprocal could overflow
        EACH y[i] *= as_float(0x71800000u); // 2^100
        most *= as_float(0x71800000u);
    }
    float inverse = most > 0.0f ? __fdiv_rn(unit, most) : 0.0f;
    u32 b[E];
    EACH b[i] = code_of<is_signed>(y[i], inverse, q);
    const u32 turn = is_signed ? 0x7f7f7f7fu : 0;
    c.low = pack(b[0], b[1], b[2], b[3]) ^ turn;
    c.high = pack(b[4], b[5], b[6], b[7]) ^ turn;
}

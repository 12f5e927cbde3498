// pass_bf16.cuh - bf16 operands of a compiled pass: widening and rounding, as the CPU does.

struct halves {
    u32 pair[E / 2];
}; // the first of a pair the lower
template <bool full> FN void load_halves(halves &h, const u16 *p, int left) {
    if (full) {
        uint2 a = *(const uint2 *)p, b = *(const uint2 *)(p + 128);
        h.pair[0] = a.x, h.pair[1] = a.y, h.pair[2] = b.x, h.pair[3] = b.y;
    } else
        HALF {
            u32 low = place(i) < left ? p[place(i)] : 0;
            u32 high = place(i + 1) < left ? p[place(i + 1)] : 0;
            h.pair[i / 2] = low | high << 16;
        }
}
template <bool full> FN void store_halves(u16 *p, const halves &h, int left) {
    if (full) {
        *(uint2 *)p = make_uint2(h.pair[0], h.pair[1]);
        *(uint2 *)(p + 128) = make_uint2(h.pair[2], h.pair[3]);
    } else
        EACH if (place(i) < left) p[place(i)] = (u16)(h.pair[i / 2] >> 16 * (i & 1));
}
FN void widen(float (&x)[E], const halves &h) {
    HALF {
        x[i] = __uint_as_float(h.pair[i / 2] << 16);
        x[i + 1] = __uint_as_float(h.pair[i / 2] & 0xffff0000u);
    }
}
// The bits of x, of which the upper half stays, with something added to the lower half.
FN u32 raised(float x, u32 extra) {
    return __float_as_uint(x) + (x == x ? extra : 0);
}
FN u32 to_even(float x) {
    return raised(x, 0x7fffu + (__float_as_uint(x) >> 16 & 1));
}
FN void round_nearest(halves &h, const float (&x)[E]) {
    HALF h.pair[i / 2] = __byte_perm(to_even(x[i]), to_even(x[i + 1]), 0x7632);
}
FN u32 rounding_bits(u64 key, u32 pair) {
    u32 x = pair ^ (u32)key;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15 ^ (u32)(key >> 32)) * 0x846ca68bu;
    return x ^ x >> 16;
}
FN void round_stochastic(halves &h, const float (&x)[E], u64 key, u32 tile, int lane) {
    u32 bits[E];
    _Pragma("unroll") for (int i = 0; i < E / 2; i++) {
        u32 word = rounding_bits(key, 128 * tile + 4 * (u32)lane + (u32)i);
        bits[i] = raised(x[i], word & 0xffffu);
        bits[i + 4] = raised(x[i + 4], word >> 16);
    }
    HALF h.pair[i / 2] = __byte_perm(bits[i], bits[i + 1], 0x7632);
}

// utf8.h - UTF-8 by the table of well-formed byte sequences (Unicode 15, table 3-7).
#ifndef DOPL_TEXT_UTF8_H
#define DOPL_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// The length of the well-formed character at `s`, its code point in *code; 0 where there is none.
static inline size_t dopl_utf8_decode(const char *s, size_t n, uint32_t *code) {
    const unsigned char *u = (const unsigned char *)s;
    static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (n == 0) return 0;
    if (u[0] < 0x80) {
        *code = u[0];
        return 1;
    }
    size_t length = u[0] >= 0xf8 ? 0 : u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : u[0] >= 0xc0 ? 2 : 0;
    if (length == 0 || length > n) return 0;
    uint32_t c = u[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((u[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (u[i] & 0x3fu);
    }
    if (c < smallest[length] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *code = c;
    return length;
}

// Writes a code point below U+0800; returns its length.
static inline size_t dopl_utf8_encode(char *s, uint32_t code) {
    if (code < 0x80) {
        s[0] = (char)code;
        return 1;
    }
    s[0] = (char)(0xc0 | code >> 6);
    s[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

// How many bytes from the start are well-formed UTF-8.
static inline size_t dopl_utf8_valid(const char *s, size_t n) {
    size_t i = 0, length;
    uint32_t code;
    for (;;) {
        uint64_t eight;
        for (; i + 8 <= n; i += 8) {
            memcpy(&eight, s + i, 8);
            if (eight & 0x8080808080808080u) break;
        }
        if (!(length = dopl_utf8_decode(s + i, n - i, &code))) return i;
        i += length;
    }
}

#endif

// json.c - JSON as the project reads and writes it.
//
// jansson parses. It would follow 2048 levels, recursing at each, and so would everything that
// walks its tree after it; depth is therefore counted here before it sees the text. It would also
// refuse a whole file for one number that fits neither a 64-bit integer nor a double, such as an
// unsigned hash in a field that nobody reads; such numbers are handed to it as strings.
#include "json.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Counts brackets outside strings. Says nothing of whether the text is JSON.
static dopl_status check_depth(dopl_rt *rt, const char *text, size_t n, const char *name,
                               int line) {
    int depth = 0, column = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        column++;
        if (c == '\n') {
            line++;
            column = 0;
        } else if (in_string) {
            if (c == '\\')
                i++, column++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > DOPL_JSON_DEPTH)
                return dopl_fail(rt, DOPL_EFORMAT, "%s:%d:%d: nested more than %d deep", name, line,
                                 column, DOPL_JSON_DEPTH);
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return DOPL_OK;
}

// Bytes of the number at the start of the text, as JSON spells numbers; 0: not a number.
static size_t number_length(const char *s, size_t n, bool *real) {
    size_t i = 0, from;
    *real = false;
    if (i < n && s[i] == '-') i++;
    for (from = i; i < n && isdigit((unsigned char)s[i]); i++) continue;
    if (i == from || (s[from] == '0' && i - from > 1)) return 0;
    if (i < n && s[i] == '.') {
        for (from = ++i; i < n && isdigit((unsigned char)s[i]); i++) continue;
        if (i == from) return 0;
        *real = true;
    }
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        i++;
        if (i < n && (s[i] == '+' || s[i] == '-')) i++;
        for (from = i; i < n && isdigit((unsigned char)s[i]); i++) continue;
        if (i == from) return 0;
        *real = true;
    }
    return i;
}

static bool integer_fits(const char *s, size_t n) {
    bool negative = *s == '-';
    size_t digits = n - negative;
    return digits < 19 ||
           (digits == 19 &&
            memcmp(s + negative, negative ? "9223372036854775808" : "9223372036854775807", 19) <=
                0);
}

// By the leading digits and the power of ten of the first, since strtod wants a text that ends.
static bool real_fits(const char *s, size_t n) {
    enum { LEADING = 40, LARGEST = 308 }; // no double is 1e309
    char text[LEADING + 16];
    int n_leading = 0;
    long long power = -1, exponent = 0;
    bool fraction = false;
    size_t i = *s == '-';
    for (; i < n && s[i] != 'e' && s[i] != 'E'; i++) {
        if (s[i] == '.') {
            fraction = true;
            continue;
        }
        if (!fraction && (n_leading || s[i] != '0')) power++;
        if (fraction && !n_leading && s[i] == '0') power--;
        if ((n_leading || s[i] != '0') && n_leading < LEADING) text[n_leading++] = s[i];
    }
    if (!n_leading) return true; // zero
    bool smaller = i + 1 < n && s[i + 1] == '-';
    for (i++; i < n; i++)
        if (isdigit((unsigned char)s[i]) && exponent < LLONG_MAX / 20)
            exponent = exponent * 10 + (s[i] - '0');
    power += smaller ? -exponent : exponent;
    if (power != LARGEST) return power < LARGEST;
    snprintf(text + n_leading, sizeof text - (size_t)n_leading, "e%d", LARGEST - n_leading + 1);
    return isfinite(strtod(text, NULL));
}

// Whether a value may end before this place, and no object's key did.
static bool ends_value(const char *s, size_t n) {
    size_t blanks = 0;
    while (blanks < n && strchr(" \t\r\n", s[blanks]) && s[blanks]) blanks++;
    if (blanks == n) return true;
    return s[blanks] != ':' && (blanks > 0 || s[0] == ',' || s[0] == ']' || s[0] == '}');
}

// Appends the text to *out with quotes around the numbers that fit no type; leaves *out empty if
// all of them fit.
static dopl_status quote_numbers(dopl_rt *rt, dopl_bytes *out, const char *text, size_t n) {
    size_t done = 0;
    bool in_string = false, real;
    for (size_t i = 0; i < n;) {
        char c = text[i];
        size_t length = 1;
        if (in_string && c == '\\')
            length = 2;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '-' || isdigit((unsigned char)c))) {
            size_t number = number_length(text + i, n - i, &real);
            bool fits = !number || (real ? real_fits : integer_fits)(text + i, number);
            length = number;
            while (!number && i + length < n && strchr("+-.0123456789eE", text[i + length]) &&
                   text[i + length])
                length++; // no number: none of it is one
            if (!fits && ends_value(text + i + length, n - i - length)) {
                DOPL_TRY(dopl_bytes_put(rt, out, text + done, i - done));
                DOPL_TRY(dopl_bytes_puts(rt, out, "\""));
                DOPL_TRY(dopl_bytes_put(rt, out, text + i, length));
                DOPL_TRY(dopl_bytes_puts(rt, out, "\""));
                done = i + length;
            }
        }
        i += length;
    }
    return done ? dopl_bytes_put(rt, out, text + done, n - done) : DOPL_OK;
}

// How many of the quotes that were put in stand before a place on its line.
static int quotes_before(const char *text, size_t n, const dopl_bytes *quoted, size_t at) {
    int count = 0;
    for (size_t i = 0, j = 0; j < at && j < quoted->n; j++) {
        if (i < n && text[i] == quoted->data[j]) {
            if (text[i++] == '\n') count = 0;
        } else {
            count++;
        }
    }
    return count;
}

static dopl_status parse_failed(dopl_rt *rt, const json_error_t *e, const char *name,
                                int first_line, const char *text, size_t n,
                                const dopl_bytes *quoted) {
    if (json_error_code(e) == json_error_out_of_memory)
        return dopl_fail(rt, DOPL_ENOMEM, "%s: out of memory", name);
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        return dopl_fail(rt, DOPL_EFORMAT,
                         "%s:%d:1: a byte order mark; save the file as UTF-8 without it", name,
                         first_line);
    int line = e->line > 0 ? e->line : 1, column = e->column;
    if (quoted->n) column -= quotes_before(text, n, quoted, (size_t)e->position);
    return dopl_fail(rt, DOPL_EFORMAT, "%s:%d:%d: %s", name, first_line + line - 1,
                     column > 0 ? column : 1, e->text);
}

dopl_status dopl_json_parse(dopl_rt *rt, json_t **out, const char *text, size_t n, const char *name,
                            int first_line) {
    *out = NULL;
    DOPL_TRY(check_depth(rt, text, n, name, first_line));
    dopl_bytes quoted = { 0 };
    dopl_status s = quote_numbers(rt, &quoted, text, n);
    if (!s) {
        json_error_t e;
        *out = json_loadb(quoted.n ? quoted.data : text, quoted.n ? quoted.n : n,
                          JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        if (!*out) s = parse_failed(rt, &e, name, first_line, text, n, &quoted);
    }
    dopl_bytes_release(rt, &quoted);
    return s;
}

// Bytes of the UTF-8 sequence at `s`, 0 where there is none: overlong forms, surrogates and what
// lies past U+10FFFF are none.
static size_t utf8_length(const unsigned char *s, size_t n) {
    unsigned c = s[0], low = 0x80, high = 0xbf;
    size_t length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (length < 2) return length;
    if (length > n) return 0;
    if (c == 0xe0) low = 0xa0;
    if (c == 0xed) high = 0x9f;
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return length;
}

static dopl_status put_escape(dopl_rt *rt, dopl_bytes *out, unsigned char c) {
    static const char letter[128] = {
        ['"'] = '"',  ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f',
        ['\n'] = 'n', ['\r'] = 'r',  ['\t'] = 't',
    };
    if (letter[c]) return dopl_bytes_format(rt, out, "\\%c", letter[c]);
    return dopl_bytes_format(rt, out, "\\u%04x", c);
}

dopl_status dopl_json_put_string(dopl_rt *rt, dopl_bytes *out, const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    DOPL_TRY(dopl_bytes_reserve(rt, out, n + 2));
    DOPL_TRY(dopl_bytes_put(rt, out, "\"", 1));
    for (size_t i = 0; i < n;) {
        size_t from = i, k = 1;
        while (i < n && s[i] >= 0x20 && s[i] != '"' && s[i] != '\\' && s[i] != 0x7f &&
               (k = utf8_length(s + i, n - i)))
            i += k;
        DOPL_TRY(dopl_bytes_put(rt, out, s + from, i - from));
        if (i == n) break;
        if (s[i] < 0x80)
            DOPL_TRY(put_escape(rt, out, s[i]));
        else
            DOPL_TRY(dopl_bytes_puts(rt, out, "\xef\xbf\xbd"));
        i++;
    }
    return dopl_bytes_put(rt, out, "\"", 1);
}

dopl_status dopl_json_put_real(dopl_rt *rt, dopl_bytes *out, double value) {
    if (!isfinite(value))
        return dopl_fail(rt, DOPL_EARG, "json: %s, a finite number is needed",
                         isnan(value) ? "NaN"
                         : value > 0  ? "infinity"
                                      : "-infinity");
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    DOPL_TRY(dopl_bytes_puts(rt, out, text));
    return strpbrk(text, ".e") ? DOPL_OK : dopl_bytes_puts(rt, out, ".0");
}

dopl_status dopl_json_put_integer(dopl_rt *rt, dopl_bytes *out, int64_t value) {
    return dopl_bytes_format(rt, out, "%lld", (long long)value);
}

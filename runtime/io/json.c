// json.c - JSON as the project reads and writes it.
//
// jansson parses. It would follow 2048 levels, recursing at each, and so would everything that
// walks its tree after it; depth is therefore counted here before it sees the text.
#include "json.h"

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

dopl_status dopl_json_parse(dopl_rt *rt, json_t **out, const char *text, size_t n, const char *name,
                            int first_line) {
    *out = NULL;
    DOPL_TRY(check_depth(rt, text, n, name, first_line));
    json_error_t e;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (*out) return DOPL_OK;
    if (json_error_code(&e) == json_error_out_of_memory)
        return dopl_fail(rt, DOPL_ENOMEM, "%s: out of memory", name);
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        return dopl_fail(rt, DOPL_EFORMAT,
                         "%s:%d:1: a byte order mark; save the file as UTF-8 without it", name,
                         first_line);
    int line = e.line > 0 ? e.line : 1, column = e.column > 0 ? e.column : 1;
    return dopl_fail(rt, DOPL_EFORMAT, "%s:%d:%d: %s", name, first_line + line - 1, column, e.text);
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

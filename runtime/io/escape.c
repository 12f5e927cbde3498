// escape.c - text as it may be written to a terminal or a log.
#include "escape.h"
#include "../text/utf8.h"

#include <stdio.h>

static bool is_hidden(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || // C0, DEL, C1
           (code >= 0x202a && code <= 0x202e) ||           // direction: embeddings and overrides
           (code >= 0x2066 && code <= 0x2069);             // and isolates
}

static size_t colour_length(const char *s, size_t n) {
    size_t i = 2;
    if (n < 3 || s[0] != 27 || s[1] != '[') return 0;
    while (i < n && ((s[i] >= '0' && s[i] <= '9') || s[i] == ';')) i++;
    return i < n && s[i] == 'm' ? i + 1 : 0;
}

// Bytes at the start of the text that stand for themselves.
static size_t plain_length(const dopl_escape *v) {
    size_t i = 0, length;
    uint32_t code;
    while (i < v->n) {
        char c = v->text[i];
        if ((v->keep & DOPL_ESCAPE_KEEP_LINES) && (c == '\n' || c == '\t'))
            length = 1;
        else if ((v->keep & DOPL_ESCAPE_KEEP_COLOURS) && c == 27)
            length = colour_length(v->text + i, v->n - i);
        else if ((length = dopl_utf8_decode(v->text + i, v->n - i, &code)) && is_hidden(code))
            length = 0;
        if (!length) break;
        i += length;
    }
    return i;
}

bool dopl_escape_next(dopl_escape *v, const char **piece, size_t *n) {
    if (!v->n) return false;
    size_t taken = plain_length(v);
    *piece = v->text;
    *n = taken;
    if (!taken) {
        uint32_t code = 0;
        unsigned char c = (unsigned char)*v->text;
        taken = dopl_utf8_decode(v->text, v->n, &code);
        const char *letter = c ? strchr("\nn\tt\rr", c) : NULL;
        if (letter)
            snprintf(v->escape, sizeof v->escape, "\\%c", letter[1]);
        else if (taken > 1)
            snprintf(v->escape, sizeof v->escape, "\\u{%x}", (unsigned)code);
        else
            snprintf(v->escape, sizeof v->escape, "\\x%02x", c);
        if (!taken) taken = 1;
        *piece = v->escape;
        *n = strlen(v->escape);
    }
    v->text += taken;
    v->n -= taken;
    return true;
}

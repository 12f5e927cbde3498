// rouge.c - words, stems, and the longest common subsequence in one row of memory.
#include "rouge.h"
#include "../io/bytes.h"
#include "grow.h"
#include "table.h"
#include "porter.h"
#include "unicode.h"
#include "utf8.h"

#include <string.h>
#include <utf8proc.h>

typedef struct words {
    dopl_ids ids;     // a number for each word, equal for equal stems of both texts
    dopl_bytes chars; // the word being read; one byte to spare for the stemmer
    bool beyond;      // it has characters beyond ASCII: no word of English
} words;

// Lower case as far as it reaches a-z: ASCII, the Kelvin sign (k), and the dotted capital I (i and
// a combining dot, which ends the word). Sets *step to the bytes read; 0: not part of a word.
static char word_char(const char *s, size_t n, size_t *step) {
    char c = s[0];
    *step = 1;
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) return c;
    if (n >= 3 && memcmp(s, "\xe2\x84\xaa", 3) == 0) {
        *step = 3;
        return 'k';
    }
    return 0;
}

static dopl_status end_word(dopl_rt *rt, words *w, dopl_bytes *stems, dopl_bytes_map *number) {
    size_t n = w->chars.n;
    if (n == 0) return DOPL_OK;
    DOPL_TRY(dopl_bytes_reserve(rt, &w->chars, 1));
    w->chars.n = 0;
    if (n > 3 && !w->beyond) n = dopl_porter_stem(w->chars.data, n);
    w->beyond = false;
    int32_t id = dopl_bytes_map_get(number, stems->data, w->chars.data, n);
    if (id < 0) {
        size_t offset = stems->n;
        id = (int32_t)number->n;
        DOPL_TRY(dopl_bytes_put(rt, stems, w->chars.data, n));
        DOPL_TRY(dopl_bytes_map_add(rt, number, stems->data, offset, n, id));
    }
    return dopl_ids_append(rt, &w->ids, id);
}

static dopl_status read_ascii(dopl_rt *rt, words *w, const char *text, size_t n, dopl_bytes *stems,
                              dopl_bytes_map *number) {
    for (size_t i = 0, step; i < n; i += step) {
        char c = word_char(text + i, n - i, &step);
        bool dotted = n - i >= 2 && memcmp(text + i, "\xc4\xb0", 2) == 0;
        if (dotted) {
            c = 'i';
            step = 2;
        }
        if (c) DOPL_TRY(dopl_bytes_put(rt, &w->chars, &c, 1));
        if (!c || dotted) DOPL_TRY(end_word(rt, w, stems, number));
    }
    return end_word(rt, w, stems, number);
}

// Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
static bool is_unspaced(uint32_t code) {
    static const uint32_t ranges[][2] = {
        { 0x0e00, 0x0eff }, { 0x1000, 0x109f }, { 0x1780, 0x17ff },   { 0x3005, 0x3007 },
        { 0x3041, 0x30ff }, { 0x31f0, 0x31ff }, { 0x3400, 0x4dbf },   { 0x4e00, 0x9fff },
        { 0xf900, 0xfaff }, { 0xff66, 0xff9f }, { 0x1b000, 0x1b16f }, { 0x20000, 0x3ffff },
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (code >= ranges[i][0] && code <= ranges[i][1]) return true;
    return false;
}

enum { OTHER, LETTER, MARK };

// Letters and digits alike make words; a mark goes on with the word that it stands in.
static int kind_of(uint32_t code) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    if (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME) return MARK;
    if (code == 0x200c || code == 0x200d) return MARK; // joiners, inside words of many scripts
    bool digit = c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
    return digit || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ? LETTER : OTHER;
}

static dopl_status read_unicode(dopl_rt *rt, words *w, const char *text, size_t n,
                                dopl_bytes *stems, dopl_bytes_map *number) {
    dopl_bytes folded = { 0 };
    dopl_status status = dopl_text_fold(rt, &folded, text, n);
    bool alone = false; // the word is a character of a script without spaces
    for (size_t i = 0, step; status == DOPL_OK && i < folded.n; i += step) {
        uint32_t code = 0;
        step = dopl_utf8_decode(folded.data + i, folded.n - i, &code);
        int kind = step ? kind_of(code) : OTHER;
        bool unspaced = kind == LETTER && is_unspaced(code);
        if (!step) step = 1; // a byte that is not UTF-8
        if (kind == OTHER || unspaced || (alone && kind != MARK))
            status = end_word(rt, w, stems, number);
        if (kind == OTHER || status != DOPL_OK) continue;
        if (kind == LETTER) alone = unspaced;
        w->beyond |= code >= 0x80;
        status = dopl_bytes_put(rt, &w->chars, folded.data + i, step);
    }
    dopl_bytes_release(rt, &folded);
    return status == DOPL_OK ? end_word(rt, w, stems, number) : status;
}

// Whether more letters and digits lie beyond ASCII than letters within.
static bool is_beyond_ascii(const char *text, size_t n) {
    size_t within = 0, beyond = 0;
    for (size_t i = 0, step; i < n; i += step ? step : 1) {
        uint32_t code = 0;
        step = dopl_utf8_decode(text + i, n - i, &code);
        if (step == 1)
            within += (code | 32) >= 'a' && (code | 32) <= 'z';
        else if (step)
            beyond += kind_of(code) == LETTER;
    }
    return beyond > within;
}

static dopl_status longest_common(dopl_rt *rt, size_t *out, const dopl_ids *a, const dopl_ids *b) {
    size_t *row; // [b->n + 1]: the subsequence of a so far and b up to there
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&row, (b->n + 1) * sizeof *row));
    for (size_t i = 0; i < a->n; i++) {
        size_t diagonal = 0;
        for (size_t j = 1; j <= b->n; j++) {
            size_t above = row[j];
            if (a->data[i] == b->data[j - 1])
                row[j] = diagonal + 1;
            else if (row[j - 1] > above)
                row[j] = row[j - 1];
            diagonal = above;
        }
    }
    *out = row[b->n];
    dopl_rt_free(rt, row);
    return DOPL_OK;
}

dopl_status dopl_rouge_l(dopl_rt *rt, dopl_rouge *out, const char *reference, size_t n_reference,
                         const char *candidate, size_t n_candidate) {
    words want = { 0 }, have = { 0 };
    dopl_bytes stems = { 0 };
    dopl_bytes_map number = { 0 };
    size_t common = 0;
    *out = (dopl_rouge){ 0 };
    bool unicode = is_beyond_ascii(reference, n_reference);
    dopl_status (*read)(dopl_rt *, words *, const char *, size_t, dopl_bytes *, dopl_bytes_map *) =
        unicode ? read_unicode : read_ascii;
    dopl_status status = read(rt, &want, reference, n_reference, &stems, &number);
    if (status == DOPL_OK) status = read(rt, &have, candidate, n_candidate, &stems, &number);
    if (status == DOPL_OK) status = longest_common(rt, &common, &want.ids, &have.ids);
    if (want.ids.n > 0) out->words = unicode ? DOPL_ROUGE_UNICODE : DOPL_ROUGE_ASCII;
    if (status == DOPL_OK && common) {
        out->recall = (double)common / (double)want.ids.n;
        out->precision = (double)common / (double)have.ids.n;
        out->f = 2 * out->precision * out->recall / (out->precision + out->recall);
    }
    dopl_ids_release(rt, &want.ids);
    dopl_ids_release(rt, &have.ids);
    dopl_bytes_release(rt, &want.chars);
    dopl_bytes_release(rt, &have.chars);
    dopl_bytes_release(rt, &stems);
    dopl_bytes_map_release(rt, &number);
    return status;
}

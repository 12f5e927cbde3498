// rouge.c - words, stems, and the longest common subsequence in one row of memory.
#include "rouge.h"
#include "../io/bytes.h"
#include "grow.h"
#include "table.h"
#include "porter.h"

#include <string.h>

typedef struct words {
    dopl_ids ids;     // a number for each word, equal for equal stems of both texts
    dopl_bytes chars; // the word being read; one byte to spare for the stemmer
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
    if (n > 3) n = dopl_porter_stem(w->chars.data, n);
    int32_t id = dopl_bytes_map_get(number, stems->data, w->chars.data, n);
    if (id < 0) {
        size_t offset = stems->n;
        id = (int32_t)number->n;
        DOPL_TRY(dopl_bytes_put(rt, stems, w->chars.data, n));
        DOPL_TRY(dopl_bytes_map_add(rt, number, stems->data, offset, n, id));
    }
    return dopl_ids_append(rt, &w->ids, id);
}

static dopl_status read_words(dopl_rt *rt, words *w, const char *text, size_t n, dopl_bytes *stems,
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
    dopl_status status = read_words(rt, &want, reference, n_reference, &stems, &number);
    if (status == DOPL_OK) status = read_words(rt, &have, candidate, n_candidate, &stems, &number);
    if (status == DOPL_OK) status = longest_common(rt, &common, &want.ids, &have.ids);
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
